package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/limit"
)

// served lets g serve until the test ends, and returns its URL.
func served(t *testing.T, g *Gateway) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(g.Shutdown(context.Background()), <-ended); err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

// ask sends a plain request, and returns the answer as the library reads it.
func ask(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// The page is there where people look, on each loop, and nothing but its own script
// and style is allowed to run in it.
//
// Behaviour: plain-page. RFC 9110, section 9.3.1; RFC 9110, section 9.3.2
func TestPage(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		for _, c := range []struct{ paths, path, want string }{
			{"", "/", "./xmpp-websocket"},
			{"", "/ws", ""},
			{"", "/xmpp-websocket?room=x&token=y", ""},
			{"/*/chat,/ws", "/", "./test/chat"},
			{"/*/chat,/ws", "/a/chat", ""},
			{"/*", "/a", ""},
			{"/", "/", ""},
			{"/a\"b<c&d", "/", "./a\"b<c&d"},
		} {
			g := &Gateway{Config: Config{Dial: noServer, Loop: loop}}
			if c.paths != "" {
				g.Paths = strings.Split(c.paths, ",")
			}
			url := served(t, g) + c.path
			answer, body := ask(t, "GET", url)
			m := regexp.MustCompile(`data-path="([^"]*)"`).FindStringSubmatch(body)
			if answer.StatusCode != 200 || m == nil || html.UnescapeString(m[1]) != c.want {
				t.Errorf("%s: %s %v, want %s", c.path, answer.Status, m, c.want)
			}
			h := answer.Header
			if h.Get("Content-Type") != "text/html; charset=utf-8" || h.Get("Access-Control-Allow-Origin") != "*" || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("header %v", h)
			}
			policy := h.Get("Content-Security-Policy")
			for _, name := range []string{"script", "style"} {
				elements := regexp.MustCompile(`(?s)<`+name+`[^>]*>(.*?)</`+name+`>`).FindAllStringSubmatch(body, -1)
				if len(elements) != 1 {
					t.Fatalf("%d elements %s", len(elements), name)
				}
				sum := sha256.Sum256([]byte(elements[0][1]))
				if want := name + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
					t.Errorf("the policy is %s, without %s", policy, want)
				}
			}
			if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none';") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("the policy is %s", policy)
			}
			// Attributes that the policy would not allow, or that load something.
			if m := regexp.MustCompile(`(?i:\s(style|on\w+|src)=)|url\(|@import|href="[^d]`).FindString(body); m != "" {
				t.Errorf("the page has %q", m)
			}
			head, nothing := ask(t, "HEAD", url)
			if head.ContentLength != int64(len(body)) || nothing != "" {
				t.Errorf("HEAD: length %d, %q", head.ContentLength, nothing)
			}
		}
	}
}

// A load balancer learns whether sessions find a server, at any moment.
//
// Behaviour: plain-health. RFC 9110, section 15.6.4
func TestHealth(t *testing.T) {
	var up atomic.Bool
	url := served(t, &Gateway{Config: Config{Dial: noServer, Ready: up.Load}}) + "/healthz"
	for _, want := range []int{503, 200, 503} {
		for _, method := range []string{"GET", "HEAD"} {
			answer, body := ask(t, method, url)
			if answer.StatusCode != want || (method == "HEAD") != (body == "") || answer.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %s %q, want %d", method, answer.Status, body, want)
			}
		}
		up.Store(want == 503)
	}
}

// A gateway that is full says so to everybody.
func TestPlainBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{Config: Config{Dial: noServer, MaxSessions: 1, Loop: LoopGoroutine, PublicURL: "wss://gw.example/ws"}}
		first, far := net.Pipe()
		g.serveConn(far)
		for _, path := range []string{"/", "/ws", "/healthz", "/.well-known/host-meta"} {
			if got := exchange(g, [][]byte{[]byte("GET " + path + " HTTP/1.1\r\nHost: gw\r\n\r\n")}); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
				t.Errorf("%s: %q", path, got)
			}
		}
		first.Close()
	})
}

// The limits of networks hold for plain requests, behind a trusted proxy as well.
func TestPlainLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, ClientAddress: clientaddr.Policy{Unix: true}, // a pipe has no address
			NetworkLimits: NetworkLimits{Requests: limit.Rate{PerSecond: 1e-6, Burst: 2}}}}
		for i, path := range []string{"GET /", "GET /healthz", "GET /", "GET /ws", "OPTIONS /", "HEAD /healthz", "GET /.well-known/host-meta"} {
			want := "HTTP/1.1 200 "
			if i >= 2 {
				want = "HTTP/1.1 429 "
			}
			if got := exchange(g, [][]byte{[]byte(path + " HTTP/1.1\r\nHost: gw\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")}); !strings.HasPrefix(got, want) {
				t.Errorf("%d. %s: %q", i, path, got)
			}
		}
		// Another one's client, and the proxy itself, which checks our health.
		for _, header := range []string{"X-Forwarded-For: 203.0.113.8\r\n", ""} {
			if got := exchange(g, [][]byte{[]byte("GET /healthz HTTP/1.1\r\nHost: gw\r\n" + header + "\r\n")}); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Errorf("%q: %q", header, got)
			}
		}
		time.Sleep(2 * noticePeriod)
	})
}

// What is served is counted and not logged; what is missing is logged with its remedy.
func TestPlainRequestsAreCounted(t *testing.T) {
	for _, c := range []struct{ request, result, cause, remedy string }{
		{"GET / HTTP/1.1\r\nHost: gw\r\n\r\n", "page", "", ""},
		{"GET /ws HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\n\r\n", "page", "", ""},
		{"GET /ws HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", "page", "", ""},
		{"GET /healthz HTTP/1.0\r\n\r\n", "health", "", ""},
		{"OPTIONS /ws HTTP/1.1\r\nHost: gw\r\n\r\n", "options", "", ""},
		{"GET /.well-known/host-meta HTTP/1.1\r\nHost: gw\r\n\r\n", "no-host-meta", "XMPPGATE_PUBLIC_URL is not set", "set XMPPGATE_PUBLIC_URL"},
		{"GET /favicon.ico HTTP/1.1\r\nHost: gw\r\n\r\n", "not-found", "", "XMPPGATE_PATH"},
		{"DELETE / HTTP/1.1\r\nHost: gw\r\n\r\n", "bad-method", "", ""},
		{"GET /ws HTTP/1.1\r\nHost: gw\r\nSec-WebSocket-Version: 13\r\n\r\n", "upgrade-dropped", "", "proxy_set_header Upgrade"},
		{"GET /ws HTTP/1.1\r\nHost: gw\r\nSec-WebSocket-Extensions: x\r\n\r\n", "upgrade-dropped", "", "proxy_set_header Upgrade"},
		{"GET /ws HTTP/1.1\r\nHost: gw\r\nSec-Fetch-Mode: websocket\r\n\r\n", "upgrade-dropped", "", "proxy_set_header Upgrade"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			o := &results{}
			g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Observer: o, Log: slog.New(slog.NewJSONHandler(&log, nil))}}
			exchange(g, [][]byte{[]byte(c.request)})
			if fmt.Sprint(o.all) != "["+c.result+"]" {
				t.Errorf("%q: results %v, want %s", c.request, o.all, c.result)
			}
			lines := parseLog(t, log.Bytes())
			if c.remedy == "" && c.result != "bad-method" {
				if len(lines) != 0 {
					t.Errorf("%q: %s", c.request, log.Bytes())
				}
			} else if len(lines) != 1 || lines[0].Result != c.result || lines[0].Cause != c.cause || !strings.Contains(lines[0].Remedy, c.remedy) {
				t.Errorf("%q: %s", c.request, log.Bytes())
			}
			time.Sleep(2 * noticePeriod)
		})
	}
}

// results are those of the requests that were answered.
type results struct {
	nopObserver
	all []string
}

func (r *results) Upgraded(result string, _ time.Duration) { r.all = append(r.all, result) }

func TestCheckPublicURL(t *testing.T) {
	for _, c := range []struct{ url, domains, paths, want string }{
		{"", "", "", ""},
		{"wss://xmpp.example.org/xmpp-websocket", "", "", ""},
		{"ws://localhost:5290/ws", "", "", ""},
		{"WSS://XMPP.example.org:8443/ws?token=x", "", "", ""},
		{"wss://[2001:db8::1]/ws", "", "", ""},
		{"wss://192.0.2.1/ws", "", "", ""},
		{"wss://bücher.example/ws", "", "", ""},
		{"wss://chat.{domain}/ws", "example.org", "", ""},
		{"wss://chat.example.net/{domain}/ws", "example.org", "/*/ws", ""},
		{"wss://chat.example.net/{domain}/ws", "example.org,bücher.example", "/example.org/ws,/xn--bcher-kva.example/ws", ""},
		{"wss://chat.example.net/{domain}/ws", "example.org,example.net", "/example.org/ws", "no WebSocket is served at the path \"/example.net/ws\""},
		{"wss://{domain}/ws", "", "", "list yours in XMPPGATE_DOMAINS"},
		{"wss://{Domain}/ws", "example.org", "", "only {domain} can stand in braces"},
		{"https://xmpp.example.org/ws", "", "", "write wss://xmpp.example.org/ws"},
		{"http://xmpp.example.org/ws", "", "", "write ws://xmpp.example.org/ws"},
		{"xmpp.example.org/ws", "", "", "write one such as wss://xmpp.example.org/xmpp-websocket"},
		{"xmpp:example.org", "", "/chat", "write one such as wss://xmpp.example.org/chat"},
		{"wss://xmpp.example.org", "", "", "write a URL such as wss://xmpp.example.org/xmpp-websocket"},
		{"wss://xmpp.example.org/", "", "", "no WebSocket is served"},
		{"wss://xmpp.example.org/WS", "", "", "or add the path to XMPPGATE_PATH"},
		{"wss://user:secret@xmpp.example.org/ws", "", "", "remove what is in front of the @"},
		{"wss://xmpp.example.org/ws#x", "", "", "remove what begins with #"},
		{"wss://xmpp.example.org/ws#", "", "", "remove what begins with #"},
		{"wss:///ws", "", "", "is not a host"},
		{"wss://:443/ws", "", "", "is not a host"},
		{"wss://xmpp.example.org:/ws", "", "", "is not a host"},
		{"wss://xmpp.example.org:0/ws", "", "", "invalid port"},
		{"wss://xmpp.example.org:65536/ws", "", "", "invalid port"},
		{"wss://xmpp example.org/ws", "", "", "not a URL"},
		{"wss://1.2.3.400/ws", "", "", "is not a host"},
		{"wss://a..b/ws", "", "", "is not a host"},
	} {
		config := Config{PublicURL: c.url}
		if c.domains != "" {
			config.Domains = strings.Split(c.domains, ",")
		}
		if c.paths != "" {
			config.Paths = strings.Split(c.paths, ",")
		}
		err := config.CheckPublicURL()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.url, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", c.url, err)
		}
		if (config.hostMeta() != nil) != (c.url != "" && err == nil) {
			t.Errorf("%s: host-meta although %v", c.url, err)
		}
	}
}

// Both formats say the same, in any case of Host.
//
// Behaviour: plain-host-meta. XEP-0156, section 3; RFC 6415, section 3
func TestHostMeta(t *testing.T) {
	one, each := "wss://xmpp.example.com/ws?a=<1>&b='\"", "wss://chat.{domain}:8443/ws"
	list := []string{"Example.org", "bücher.example", "[2001:db8::1]"}
	for _, c := range []struct {
		url     string
		domains []string
		host    string
		want    string // empty means none
	}{
		{one, nil, "anything", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, nil, "", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, list, "example.org", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, list, "xmpp.example.com:443", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, list, "127.0.0.1:5290", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, list, "localhost", "wss://xmpp.example.com/ws?a=<1>&b='\""},
		{one, list, "example.com", ""},
		{one, list, "evil.example.org", ""},
		{each, list, "EXAMPLE.org.:80", "wss://chat.example.org:8443/ws"},
		{each, list, "xn--bcher-kva.example", "wss://chat.xn--bcher-kva.example:8443/ws"},
		{each, list, "chat.example.org", ""},
		{each, list, "127.0.0.1", ""},
		{each, list, "", ""},
		{each, list[:2], strings.Repeat("a", 30000), ""},
	} {
		if c.url == each {
			c.domains = c.domains[:2] // an address has no subdomain
		}
		config := Config{PublicURL: c.url, Domains: c.domains}
		if err := config.CheckPublicURL(); err != nil {
			t.Fatal(err)
		}
		m := config.hostMeta()([]byte(c.host))
		if m == nil {
			if c.want != "" {
				t.Errorf("%s, %s: none", c.url, c.host)
			}
			continue
		}
		var xrd struct {
			XMLName xml.Name `xml:"http://docs.oasis-open.org/ns/xri/xrd-1.0 XRD"`
			Link    []struct {
				Rel  string `xml:"rel,attr"`
				Href string `xml:"href,attr"`
			}
		}
		var jrd struct{ Links []struct{ Rel, Href string } }
		if err := xml.Unmarshal(m.XRD.Body, &xrd); err != nil || len(xrd.Link) != 1 {
			t.Fatalf("%s: %v", m.XRD.Body, err)
		}
		if err := json.Unmarshal(m.JRD.Body, &jrd); err != nil || len(jrd.Links) != 1 {
			t.Fatalf("%s: %v", m.JRD.Body, err)
		}
		if got := xrd.Link[0]; got.Href != c.want || got.Rel != relWebSocket || got.Rel != jrd.Links[0].Rel || got.Href != jrd.Links[0].Href {
			t.Errorf("%s, %s: %+v and %+v, want %s", c.url, c.host, xrd, jrd, c.want)
		}
	}
}
