package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// serveAdmin serves the endpoints of a at l until the test is over.
func serveAdmin(t *testing.T, a *admin, l net.Listener) {
	t.Helper()
	s := newAdminServer(a, slog.New(slog.DiscardHandler))
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-ended })
}

// ask sends a request as it stands and returns the status.
func ask(t *testing.T, a net.Addr, request string) int {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	return r.StatusCode
}

// What a page in the operator's browser can send, and what it cannot.
var accessCases = []struct {
	name, target, headers string
	tcp, unix             bool // lets in
}{
	{"IPv4", "", "Host: 127.0.0.1", true, true},
	{"pod", "", "Host: 10.2.3.4:9280", true, true},
	{"IPv6", "", "Host: [::1]:9280", true, true},
	{"IPv6 without port", "", "Host: [2001:db8::1]", true, true},
	{"IPv6 with zone", "", "Host: [fe80::1%25eth0]:9280", true, true},
	{"localhost", "", "Host: localhost:9280", true, true},
	{"upper case", "", "Host: LOCALHOST:9280", true, true},
	{"final dot", "", "Host: localhost.:9280", true, true},
	{"configured", "", "Host: xmppgate:9280", true, true},
	{"configured, upper case and final dot", "", "Host: Xmpp_Gate.:9280", true, true},
	{"where it listens", "", "Host: admin.example:9280", true, true},

	{"foreign", "", "Host: evil.example", false, true},
	{"foreign with our port", "", "Host: evil.example:9280", false, true},
	{"below a foreign name", "", "Host: localhost.evil.example:9280", false, true},
	{"address in a foreign name", "", "Host: 127.0.0.1.evil.example", false, true},
	{"foreign name below ours", "", "Host: evil.xmppgate", false, true},
	{"two dots", "", "Host: localhost..", false, true},
	{"port of letters", "", "Host: localhost:evil.example", false, true},
	{"IPv6 without brackets", "", "Host: ::1", false, true},
	{"name in brackets", "", "Host: [localhost]", false, true},
	{"no end of the bracket", "", "Host: [::1", false, true},
	{"user", "", "Host: localhost@evil.example", false, false},
	{"number", "", "Host: 2130706433", false, true},
	{"empty", "", "Host: ", false, true},
	{"unixes", "", "Host: unix", false, true},
	{"absolute form of another", "http://evil.example", "Host: localhost", false, true},
	{"absolute form beside another", "http://localhost", "Host: evil.example", false, true},

	{"own origin", "", "Host: localhost:9280\r\nOrigin: http://localhost:9280", true, true},
	{"own origin in other case", "", "Host: LOCALhost:9280\r\nOrigin: http://localHOST:9280", true, true},
	{"foreign origin", "", "Host: localhost:9280\r\nOrigin: https://evil.example", false, false},
	{"origin on another port", "", "Host: localhost:9280\r\nOrigin: http://localhost:8080", false, false},
	{"origin null", "", "Host: localhost:9280\r\nOrigin: null", false, false},
	{"origin null of a host null", "", "Host: null\r\nOrigin: null", false, false},
	{"origin empty", "", "Host: localhost\r\nOrigin: ", false, false},
	{"two origins", "", "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: https://evil.example", false, false},
	{"user in the own origin", "", "Host: localhost\r\nOrigin: http://evil@localhost", false, false},
	{"origin without scheme", "", "Host: localhost\r\nOrigin: //localhost", false, false},
	{"origin of another scheme", "", "Host: localhost\r\nOrigin: chrome-extension://localhost", false, false},
	{"user in the origin", "", "Host: localhost\r\nOrigin: http://localhost@evil.example", false, false},

	{"typed by hand", "", "Host: localhost\r\nSec-Fetch-Site: none", true, true},
	{"own page", "", "Host: localhost\r\nSec-Fetch-Site: same-origin", true, true},
	{"same site", "", "Host: localhost\r\nSec-Fetch-Site: same-site", false, false},
	{"cross site", "", "Host: localhost\r\nSec-Fetch-Site: cross-site", false, false},
	{"unknown site", "", "Host: localhost\r\nSec-Fetch-Site: Cross-Site", false, false},
}

func TestAccess(t *testing.T) {
	listeners := map[string]net.Listener{}
	var err error
	if listeners["tcp"], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if listeners["unix"], err = net.Listen("unix", filepath.Join(t.TempDir(), "s")); err != nil {
		t.Fatal(err)
	}
	a := newAdmin(&fakeGateway{})
	a.config = always(&config{Profile: true, AdminHosts: list{"xmppgate", "xmpp_gate"}, parsed: parsed{adminListeners: parseAll(t, "admin.example:9280", ":9280", "unix:/s")}})
	a.access.config = a.config
	a.reload = func() ([]string, error) { return nil, nil }
	for _, l := range listeners {
		serveAdmin(t, a, l)
	}
	for _, c := range accessCases {
		for network, allowed := range map[string]bool{"tcp": c.tcp, "unix": c.unix} {
			// Every handler: nobody forgets one that comes later, for all
			// are behind the same guard.
			for _, r := range []struct {
				method, path string
				status       int
			}{
				{"GET", "/", 200}, {"GET", "/metrics", 200}, {"GET", "/metrics/connections", 200}, {"GET", "/connections", 200},
				{"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"GET", "/debug/pprof/", 200}, {"GET", "/debug/pprof/heap", 200},
				{"HEAD", "/metrics", 200}, {"GET", "/drain", 405}, {"HEAD", "/drain", 405}, {"PUT", "/drain", 405}, {"GET", "/nothing", 404},
				{"GET", "/reload", 405}, {"POST", "/reload", 200},
			} {
				want := http.StatusForbidden
				if allowed {
					want = r.status
				}
				request := fmt.Sprintf("%s %s%s HTTP/1.1\r\n%s\r\nConnection: close\r\n\r\n", r.method, c.target, r.path, c.headers)
				if got := ask(t, listeners[network].Addr(), request); got != want && got != http.StatusBadRequest || allowed && got != want {
					t.Errorf("%s, %s: %s %s: %d, want %d", network, c.name, r.method, r.path, got, want)
				}
			}
		}
	}
	if a.drain.begun() {
		t.Error("a drain has begun")
	}
}

func TestOnlyPostDrains(t *testing.T) {
	for request, status := range map[string]int{
		"GET /drain HTTP/1.1\r\nHost: localhost\r\n":                                       405,
		"GET /drain HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method-Override: POST\r\n":       405,
		"GET /drain?_method=POST HTTP/1.1\r\nHost: localhost\r\n":                          405,
		"HEAD /drain HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method: POST\r\n":               405,
		"OPTIONS /drain HTTP/1.1\r\nHost: localhost\r\n":                                   405,
		"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n":                                     403,
		"POST /drain HTTP/1.0\r\n":                                                         403, // names nobody
		"POST /drain HTTP/1.1\r\nHost: evil.example\r\n":                                   403,
		"POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n":      403,
		"POST /drain HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n":        403,
		"POST /drain HTTP/1.0\r\nHost: 127.0.0.1\r\n":                                      202,
		"POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n":          202,
		"POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\na=b" + "\r\n": 202,
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		a := newAdmin(&fakeGateway{})
		serveAdmin(t, a, l)
		if got := ask(t, l.Addr(), request+"\r\n"); got != status {
			t.Errorf("%q: %d, want %d", request, got, status)
		}
		if a.drain.begun() != (status == 202) {
			t.Errorf("%q: drain begun is %v", request, a.drain.begun())
		}
	}
}

// A refusal is a log line with its cause, however many there are. No cause hides
// another one.
func TestRefusalsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := &access{config: always(new(config)), log: slog.New(slog.NewTextHandler(&log, nil))}
		refuse := func(host string) {
			r, _ := http.NewRequest("GET", "/", nil)
			r.Host = host
			r.Header.Set("Origin", "https://evil.example")
			if problem := a.problem(r); problem != "" {
				a.logRefusal(r, problem)
			}
		}
		evil := "evil.example" + strings.Repeat("e", 1000)
		for range 100 {
			refuse(evil)
		}
		refuse("localhost")
		time.Sleep(refusalsEvery)
		refuse(evil)
		refuse(evil)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "requests=1 ") || !strings.Contains(lines[2], "requests=100 ") {
			t.Errorf("%d lines\n%s", len(lines), log.String())
		}
		if !strings.Contains(lines[0], "XMPPGATE_ADMIN_HOSTS") || !strings.Contains(lines[0], "evil.example") || len(lines[0]) > 400 {
			t.Error(lines[0])
		}
		if !strings.Contains(lines[1], "pages of another origin") || !strings.Contains(lines[1], "requests=1 ") {
			t.Error(lines[1])
		}
	})
}

func TestAdminHosts(t *testing.T) {
	for value, ok := range map[string]bool{
		"xmppgate": true, "xmpp_gate,gate.example.org.": true, "bücher.example": true, "10.0.0.1": true,
		"http://gate": false, "gate:9280": false, "*.example.org": false, "gate/metrics": false, "*": false, "a@b": false,
	} {
		if _, err := loadConfig(prefixed(map[string]string{"ADMIN_HOSTS": value})); (err == nil) != ok {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// A pipeListener accepts the ends of pipes, whose deadlines follow a fake clock.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// Nobody holds a connection to the admin endpoints for long.
func TestAdminTimeouts(t *testing.T) {
	get := "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for _, c := range []struct {
		name, sends string
		answers     int  // that are read
		stuck       bool // the next answer is not read
		within      time.Duration
	}{
		{"nothing", "", 0, false, 5 * time.Second},
		{"half a header", "GET / HTTP/1.1\r\nHost: loc", 0, false, 5 * time.Second},
		{"half a body", "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf", 0, false, 10 * time.Second},
		{"idle", get, 1, false, 2 * time.Minute},
		{"answer not read", get, 0, true, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := make(pipeListener)
			near, far := net.Pipe()
			ended := make(chan struct{})
			a := newAdmin(&fakeGateway{})
			s := newAdminServer(a, slog.New(slog.DiscardHandler))
			guarded := s.Handler
			var over atomic.Int64 // the fake clock gives no happens-before
			start := time.Now()
			s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/body" {
					_, _ = io.Copy(io.Discard, r.Body)
					over.Store(int64(time.Since(start)))
					return
				}
				guarded.ServeHTTP(w, r)
			})
			s.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					over.Store(int64(time.Since(start)))
				}
			}
			go func() { defer close(ended); _ = s.Serve(l) }()
			l <- far
			_, _ = io.WriteString(near, c.sends)
			if !c.stuck {
				go func() { _, _ = io.Copy(io.Discard, near) }()
			}
			time.Sleep(10 * time.Minute)
			if took := time.Duration(over.Load()); took != c.within {
				t.Errorf("%s: over after %v, want %v", c.name, took, c.within)
			}
			near.Close()
			s.Close()
			<-ended
		})
	}
}

func TestAdminHeaderBytes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAdmin(t, newAdmin(&fakeGateway{}), l)
	request := "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 24<<10) + "\r\n\r\n"
	if got := ask(t, l.Addr(), request); got != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d", got)
	}
}
