package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A visit is what a browser saw of the gateway's page.
type visit struct {
	URL          string
	Status       int
	Steps, Texts map[string]string // by step
	State        string            // of the verdict: ok, bad or empty
	Verdict      string
	TooWide      bool // for a phone
	Cookies      string
	Problems     []string
	Contrast     [2][2]int // light and dark: brightness of the background, and of what differs most
}

// visitPages opens pages in Chromium; args are those of clients/page.mjs.
func visitPages(t *testing.T, args ...string) (visits []visit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, nodeJS(), append([]string{"page.mjs"}, args...)...)
	cmd.Dir = "clients"
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs.Bytes())
	}
	for d := json.NewDecoder(&out); d.More(); {
		var v visit
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		visits = append(visits, v)
	}
	return visits
}

// check compares a visit with the step that fails, if one does, and what the verdict says.
func (v *visit) check(t *testing.T, state, failing, verdict string) {
	t.Helper()
	want := "ok"
	for _, step := range []string{"websocket", "subprotocol", "open", "features", "close"} {
		switch {
		case step == failing:
			want = "bad"
		case want == "bad":
			want = "none"
		}
		if v.Steps[step] != want {
			t.Errorf("%s: step %s is %q, want %q: %s", v.URL, step, v.Steps[step], want, v.Texts[step])
		}
	}
	if v.State != state || !strings.Contains(v.Verdict, verdict) {
		t.Errorf("%s: %q (%s), want %q (%s)", v.URL, v.Verdict, v.State, verdict, state)
	}
	if v.Status != http.StatusOK || v.TooWide || v.Cookies != "" {
		t.Errorf("%s: status %d, too wide %v, cookies %q", v.URL, v.Status, v.TooWide, v.Cookies)
	}
	light, dark := v.Contrast[0], v.Contrast[1]
	if light[0] < 200 || light[1] > 60 || dark[0] > 60 || dark[1] < 200 {
		t.Errorf("%s: brightness %v, want dark on light and light on dark", v.URL, v.Contrast)
	}
	// What fails is an error of the browser's own making.
	for _, p := range v.Problems {
		if failing == "" || !strings.Contains(p, "WebSocket connection to") && !strings.Contains(p, "Failed to load resource") {
			t.Errorf("%s: %s", v.URL, p)
		}
	}
}

// A person who opens the gateway's URL in a browser is told that it works.
//
// Behaviour: plain-page. RFC 9110, section 9.3.1
func TestPageOfWorkingServer(t *testing.T) {
	needGateway(t)
	eachServer(t, func(t *testing.T, s *server) {
		base := "http://" + s.gw.listen
		// Without a name it is that of the host, which the server does not serve.
		for i, v := range visitPages(t, base+"/?domain="+domain, base+"/xmpp-websocket?room=x&domain="+domain, base+"/ws", base+"/", "domain="+domain) {
			if i == 2 {
				v.check(t, "", "features", "Enter the domain of your account.")
				continue
			}
			v.check(t, "ok", "", "It works: clients of "+domain)
			if !strings.Contains(v.Texts["features"], "SCRAM-SHA-1") {
				t.Errorf("%s: %q", v.URL, v.Texts["features"])
			}
		}
	})
}

// The page names what fails: a server that is down, a proxy that drops what a WebSocket needs, an origin that is not allowed.
//
// Behaviour: plain-page. RFC 9110, section 9.3.1
func TestPageOfBrokenServer(t *testing.T) {
	needGateway(t)
	s := servers[0]

	way := startBreakable(t, s.c2s)
	down := gatewayFor(t, "tcp://"+way.addr)
	way.close()

	// Proxies in front of a gateway that works. It is of this test alone: what it refuses
	// is logged once a minute.
	works := gatewayFor(t, "tcp://"+s.c2s)
	front := func(change func(*http.Request), answer func(*http.Response) error) string {
		target := &url.URL{Scheme: "http", Host: works.listen}
		p := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if change != nil {
				change(r.Out)
			}
		}, ModifyResponse: answer})
		t.Cleanup(p.Close)
		return p.URL
	}
	without := func(names ...string) func(*http.Request) {
		return func(r *http.Request) {
			for _, name := range names {
				r.Header.Del(name)
			}
		}
	}
	noSubprotocol := front(without("Sec-WebSocket-Protocol"), nil)
	noUpgrade := front(without("Upgrade", "Connection"), nil)
	noAnswer := front(nil, func(r *http.Response) error { r.Header.Del("Sec-WebSocket-Protocol"); return nil })
	closed := gatewayFor(t, "tcp://"+s.c2s)

	noOrigin := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_ORIGINS=https://chat.example.org")

	// A gateway whose limit is reached when the page has been loaded.
	loaded := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: works.listen})
	limited := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" || r.Method == http.MethodHead {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		loaded.ServeHTTP(w, r)
	}))
	t.Cleanup(limited.Close)

	q := "/?domain=" + domain
	visits := visitPages(t, "http://"+down.listen+q, noSubprotocol+q, noUpgrade+q, noAnswer+q, "http://"+noOrigin.listen+q, limited.URL+q, "http://"+closed.listen+q, "offline")
	visits[0].check(t, "bad", "features", "cannot reach its XMPP server")
	if strings.Contains(visits[0].Verdict, way.addr) {
		t.Errorf("the page names the server: %s", visits[0].Verdict)
	}
	for i, want := range []string{"Sec-WebSocket-Protocol", "drop Upgrade", "Sec-WebSocket-Protocol", "the origin http://" + noOrigin.listen, "too many connections", "Nothing answers here any more"} {
		visits[i+1].check(t, "bad", "websocket", want)
	}
	for _, result := range []string{"no-subprotocol", "upgrade-dropped"} {
		if log := works.proc.log.tail(0); !strings.Contains(log, `"result":"`+result+`"`) {
			t.Errorf("the log does not name %s:\n%s", result, log)
		}
	}
	if log := noOrigin.proc.log.tail(0); !strings.Contains(log, `"result":"bad-origin"`) {
		t.Errorf("the log does not name the origin:\n%s", log)
	}
}

// Clients that know nothing but a JID find the gateway by host-meta: behind nginx as the manual has it, and with TLS of its own.
//
// Behaviour: plain-host-meta, real-clients. XEP-0156, section 3
func TestDiscovery(t *testing.T) {
	needGateway(t)
	found := []string{"XMPPGATE_DOMAINS=" + domain, "XMPPGATE_PUBLIC_URL=wss://{domain}/xmpp-websocket"}
	eachServer(t, func(t *testing.T, s *server) {
		discover := func(t *testing.T, web string) {
			runScriptAt(t, "https://"+web, "discover.mjs", "", s.newUser(t, "alice"), s.newUser(t, "bob"), "strophe", "converse")
			visits := visitPages(t, "https://"+web+"/xmpp-websocket?domain="+domain)
			visits[0].check(t, "ok", "", "It works")
		}
		t.Run("nginx", func(t *testing.T) {
			ports, err := freePorts(1)
			if err != nil {
				t.Fatal(err)
			}
			listen := fmt.Sprintf("127.0.0.1:%d", ports[0])
			g := gatewayFor(t, "tcp://"+s.c2s, append(found, "XMPPGATE_TRUSTED_PROXIES=127.0.0.1")...)
			startFront(t, "nginx", `
daemon off;
worker_processes 1;
pid nginx.pid;
events { }
http {
	access_log off;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	server {
		listen `+listen+` ssl;
		ssl_certificate `+s.dir+`/localhost.crt;
		ssl_certificate_key `+s.dir+`/localhost.key;
		`+snippet(t, "client-address.md", "# nginx.conf", "127.0.0.1:5290", g.listen)+`
		`+snippet(t, "discovery.md", "# nginx.conf", "127.0.0.1:5290", g.listen)+`
	}
}
`, listen)
			discover(t, listen)
		})
		t.Run("TLS", func(t *testing.T) {
			g := gatewayFor(t, "tcp://"+s.c2s, append(found, "XMPPGATE_TLS_CERT="+s.dir+"/localhost.crt", "XMPPGATE_TLS_KEY="+s.dir+"/localhost.key")...)
			discover(t, g.listen)
		})
	})
}

// A breakable is a way to a server that can be closed.
type breakable struct {
	addr  string
	close func()
}

func startBreakable(t *testing.T, to string) *breakable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			go func() { _, _ = io.Copy(far, near); far.Close() }()
			go func() { _, _ = io.Copy(near, far); near.Close() }()
		}
	}()
	return &breakable{l.Addr().String(), func() { l.Close() }}
}
