package main

import (
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/proxy"
)

// A fakeGateway has the sessions and the answer that a test gives it.
type fakeGateway struct {
	short    string // what is short
	sessions []proxy.SessionInfo
	ready    error
}

func (f *fakeGateway) Sessions() iter.Seq[proxy.SessionInfo] { return slices.Values(f.sessions) }
func (f *fakeGateway) Ready() error                          { return f.ready }

func (f *fakeGateway) Summary() (sessions int, up, down proxy.Traffic) {
	return len(f.sessions), up, down
}

func (f *fakeGateway) End(match func(*proxy.SessionInfo) bool) (ended int) {
	for i := range f.sessions {
		if match(&f.sessions[i]) {
			ended++
		}
	}
	return ended
}

// newAdmin returns the endpoints of g with something to drain.
func newAdmin(g *fakeGateway) *admin {
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s) })
	}
	c, log := always(&config{}), slog.New(slog.DiscardHandler)
	list := status.New(status.Options{
		Gateway: g, Ended: new(status.Ended), Limit: func() int { return 3 }, NetworkBits: func() (int, int) { return 32, 64 },
		Events: new(status.Events), Samples: func() []status.Sample { return nil }, Facts: func() status.Facts { return status.Facts{} }, Log: log,
	})
	return &admin{access: &access{config: c, log: log}, gateway: g, status: list, servers: g, drain: newDrain(), overload: func() string { return g.short }, metrics: text("totals"), connections: text("single"), config: c}
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
		{"GET", "/connections?limit=many", 400, "limit must be a number\n"},
		{"GET", "/connections/end", 405, ""},
		{"POST", "/connections/end", 400, ""},
		{"POST", "/connections/end?id=7", 404, `{"ended":0}` + "\n"},
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

// A browser gets pages, other programs what they always got.
func TestPageOrText(t *testing.T) {
	for _, c := range []struct {
		method, target, accept string
		status                 int
		kind, location         string
	}{
		{"GET", "/", "", 200, "text/plain; charset=utf-8", ""},
		{"GET", "/", "*/*", 200, "text/plain; charset=utf-8", ""}, // curl
		{"GET", "/", "text/plain", 200, "text/plain; charset=utf-8", ""},
		{"GET", "/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 200, "text/html; charset=utf-8", ""},
		{"GET", "/?sort=red", "text/html", 400, "text/html; charset=utf-8", ""},
		{"GET", "/connections", "text/html", 200, "application/json", ""},
		{"GET", "/status/page.css", "*/*", 200, "text/css; charset=utf-8", ""},
		{"POST", "/status/page.css", "*/*", 405, "text/plain; charset=utf-8", ""},
		{"POST", "/drain", "", 202, "application/json", ""},
		{"POST", "/drain", "text/html", 303, "", "/"},
	} {
		a := newAdmin(&fakeGateway{})
		r := httptest.NewRequest(c.method, c.target, nil)
		r.Host = "localhost"
		if c.accept != "" {
			r.Header.Set("Accept", c.accept)
		}
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Content-Type") != c.kind || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s, %q: %d %v", c.method, c.target, c.accept, w.Code, w.Header())
		}
		if c.target == "/" && c.method == "GET" && w.Header().Get("Vary") != "Accept" {
			t.Errorf("%q: a cache may mix up page and text", c.accept)
		}
		if drains := strings.HasPrefix(c.target, "/drain"); a.drain.begun() != drains {
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
