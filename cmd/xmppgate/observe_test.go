package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

// The router tells how it connects. What passes it by must count as well, and
// nothing twice.
func TestDirectOpensCount(t *testing.T) {
	for urls, want := range map[string]string{
		"tcp://127.0.0.1:5222": `xmppgate_upstream_opens_total{phase="tcp",result="refused",server="tcp://127.0.0.1:5222"} 1`,
		"unix:/run/c2s.sock":   `xmppgate_upstream_opens_total{phase="tcp",result="refused",server="unix:/run/c2s.sock"} 1`,
		"unix:/a,unix:/b":      "", // sessions do not connect by themselves
	} {
		c, err := loadConfig(prefixed(map[string]string{"UPSTREAM": urls}))
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		o := &observer{log: slog.New(slog.NewTextHandler(&log, nil))}
		router, err := c.newRouter(o)
		if err != nil {
			t.Fatal(err)
		}
		o.observe(newMetrics(source{&proxy.Gateway{}, router}, build{}, 0, 0, nil, nil), router)
		o.Dialed(upstream.ResultRefused, false, time.Second)
		o.Dialed(upstream.ResultRefused, true, time.Second)

		w := httptest.NewRecorder()
		o.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		text := w.Body.String()
		if !strings.Contains(text, `xmppgate_dials_total{result="refused"} 2`) {
			t.Errorf("%s: not both dials are counted", urls)
		}
		if want == "" == strings.Contains(text, "xmppgate_upstream_opens_total{") || !strings.Contains(text, want) {
			t.Errorf("%s: no %s in\n%s", urls, want, text)
		}
		if log.Len() > 0 {
			t.Errorf("%s: %s", urls, log.String())
		}
	}
}

// Every result of a dial is one of opening a stream.
func TestDialResultsAreOpenResults(t *testing.T) {
	known := map[string]bool{}
	for _, r := range upstream.Results() {
		known[r] = true
	}
	for _, r := range proxy.DialResults() {
		if !known[r] {
			t.Errorf("%q would not be counted", r)
		}
	}
}
