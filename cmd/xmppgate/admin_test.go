package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy"
)

// A fakeGateway has the sessions and the answer that a test gives it.
type fakeGateway struct {
	sessions []proxy.SessionInfo
	ready    error
}

func (f *fakeGateway) Sessions() iter.Seq[proxy.SessionInfo] { return slices.Values(f.sessions) }
func (f *fakeGateway) Ready() error                          { return f.ready }

// newAdmin returns the endpoints of g with something to drain.
func newAdmin(g *fakeGateway) *admin {
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s) })
	}
	c := always(&config{ConnectionMetricsLimit: 3})
	return &admin{access: &access{config: c, log: slog.New(slog.DiscardHandler)}, gateway: g, servers: g, drain: newDrain(), metrics: text("totals"), connections: text("single"), config: c}
}

// always is a configuration that does not change.
func always(c *config) func() *config { return func() *config { return c } }

func request(a *admin, method, target string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, r)
	return w
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"GET", "/", 200, adminIndex},
		{"GET", "/nothing", 404, ""},
		{"GET", "/metrics", 200, "totals"},
		{"GET", "/metrics/connections", 200, "single"},
		{"GET", "/healthz", 200, "ok\n"},
		{"GET", "/readyz", 200, "ok\n"},
		{"POST", "/healthz", 405, ""},
		{"DELETE", "/drain", 405, ""},
		{"POST", "/drain", 202, `{"state":"waiting","sessions":0}` + "\n"},
		{"GET", "/drain", 405, ""},
		{"HEAD", "/drain", 405, ""},
		{"GET", "/connections", 200, "[]\n"},
		{"GET", "/connections?sort=colour", 400, "sort must be one of bytes, age, idle, messages\n"},
		{"GET", "/connections?limit=many", 400, "limit must be a number\n"},
		{"GET", "/connections?limit=-1", 400, "limit must be a number\n"},
		{"GET", "/debug/pprof/", 404, ""},
	} {
		a := newAdmin(&fakeGateway{})
		w := request(a, c.method, c.target)
		if w.Code != c.status || c.body != "" && w.Body.String() != c.body {
			t.Errorf("%s %s: %d %q", c.method, c.target, w.Code, w.Body)
		}
		if drains := c.status == 202; a.drain.begun() != drains {
			t.Errorf("%s %s: drain begun is %v", c.method, c.target, !drains)
		}
	}
}

func TestProfileHasNoCommandLine(t *testing.T) {
	a := newAdmin(&fakeGateway{})
	a.config = always(&config{Profile: true})
	for target, status := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/heap?debug=1": 200, "/debug/pprof/cmdline": 404} {
		if w := request(a, "GET", target); w.Code != status {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
}

func TestReadyz(t *testing.T) {
	for _, c := range []struct {
		err     error
		drained bool
		code    int
		body    string
	}{
		{nil, false, 200, "ok\n"},
		{nil, true, 503, "draining\n"},
		{errors.New("server a: refused"), false, 503, "no XMPP server answers: server a: refused\n"},
	} {
		a := newAdmin(&fakeGateway{ready: c.err})
		if c.drained {
			a.drain.begin()
		}
		if w := request(a, "GET", "/readyz"); w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("%+v: %d %q", c, w.Code, w.Body)
		}
	}
}

func TestConnections(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := &fakeGateway{sessions: []proxy.SessionInfo{
		{ID: 1, Remote: netip.MustParseAddrPort("192.0.2.1:1000"), Domain: "example.org", Server: "tcp://one:5222", Phase: "open", Resumable: true, Since: since, Idle: 1500 * time.Millisecond, Ping: 20 * time.Millisecond,
			Up: proxy.Traffic{Messages: 1, Presences: 2, IQs: 3, Nonzas: 4, Bytes: 10}, Down: proxy.Traffic{Messages: 5, Bytes: 20}},
		{ID: 2, Since: since.Add(-time.Hour), Up: proxy.Traffic{Bytes: 500}},
		{ID: 3, Since: since.Add(time.Hour), Idle: time.Hour, Down: proxy.Traffic{IQs: 99, Bytes: 1}},
		{ID: 4, Since: since.Add(time.Hour), Idle: time.Minute},
	}}
	a := newAdmin(g)
	for query, want := range map[string]string{
		"":                        "[2 1 3]",
		"?sort=bytes":             "[2 1 3]",
		"?sort=age":               "[2 1 3]",
		"?sort=idle":              "[3 4 1]",
		"?sort=messages":          "[3 1 2]",
		"?sort=messages&limit=1":  "[3]",
		"?limit=0":                "[]",
		"?sort=bytes&limit=99999": "[2 1 3]", // the cap of newAdmin
	} {
		w := request(a, "GET", "/connections"+query)
		var got []struct{ ID int }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		ids := []int{}
		for _, s := range got {
			ids = append(ids, s.ID)
		}
		if fmt.Sprint(ids) != want || w.Header().Get("X-Total-Count") != "4" {
			t.Errorf("%q: %v of %s, want %s", query, ids, w.Header().Get("X-Total-Count"), want)
		}
	}

	g.sessions = g.sessions[:1]
	const want = `[{"id":1,"remote":"192.0.2.1:1000","domain":"example.org","server":"tcp://one:5222","phase":"open","resumable":true,"since":"2026-01-02T03:04:05Z","idle_seconds":1.5,"ping_seconds":0.02,` +
		`"up":{"messages":1,"presences":2,"iqs":3,"nonzas":4,"bytes":10},"down":{"messages":5,"presences":0,"iqs":0,"nonzas":0,"bytes":20}}]`
	if got := strings.TrimSpace(request(a, "GET", "/connections").Body.String()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
