package doctor

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/xdg-go/scram"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// examine runs the doctor and returns its report. Steps take a second at most.
func examine(t *testing.T, args ...string) *report {
	t.Helper()
	r, _ := examineIn(t, t.Context(), args...)
	return r
}

func examineIn(t *testing.T, ctx context.Context, args ...string) (*report, string) {
	t.Helper()
	var out, notes bytes.Buffer
	args = append([]string{"--json", "--timeout", "1s"}, args...)
	status := Run(ctx, args, strings.NewReader(testPassword+"\n"), &out, &notes)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("status %d, %v\n%s%s", status, err, &out, &notes)
	}
	if r.Exit != status {
		t.Errorf("status %d, the report says %d", status, r.Exit)
	}
	return &r, out.String()
}

// UnmarshalText is the inverse of MarshalText.
func (l *level) UnmarshalText(text []byte) error {
	*l = level(slices.Index([]string{"ok", "warn", "fail"}, string(text)))
	return nil
}

// findingsOf lists what is not ok, each finding once.
func (r *report) findingsOf() (ids []string) {
	for _, l := range r.Lines {
		if l.Level != ok && !slices.Contains(ids, l.Finding) {
			ids = append(ids, l.Finding)
		}
	}
	return ids
}

func (r *report) text() string {
	var b strings.Builder
	for _, l := range r.Lines {
		fmt.Fprintf(&b, "%v %s %s: %s\n", l.Level, l.Check, l.Finding, l.Text)
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "skipped %v: %s\n", s.Checks, s.Why)
	}
	return b.String()
}

var withAccount = []string{"--jid", "alice@localhost", "--password-file", "-"}

// A broken set-up, and what the doctor must say of it: all of it, and nothing else.
var broken = []struct {
	name  string
	fake  fake
	args  []string // besides those of an account
	anon  bool     // no account
	want  string   // findings, comma separated
	whom  string   // a product that must be told what to change
	where string   // "wss" or "" for ws
}{
	{name: "nothing wrong"},
	{name: "nothing wrong, no account", anon: true},
	{name: "nothing wrong, pings", fake: fake{pingEvery: 20 * time.Millisecond}, args: []string{"--idle", "200ms"}},
	{name: "nothing wrong, compression", fake: fake{extensions: "permessage-deflate; server_no_context_takeover; client_no_context_takeover"}},
	{name: "nothing wrong, origin listed", args: []string{"--origin", "https://chat.example.org"}, fake: fake{foreign: page(403, "", "This origin may not connect.")}},
	{name: "nothing wrong, SHA-512", fake: fake{features: mechanisms("SCRAM-SHA-512", "PLAIN")}},
	{name: "nothing wrong, SASL2 only", fake: fake{features: sasl2()}},
	{name: "nothing wrong, SASL2 beside SASL", fake: fake{features: sasl2("SCRAM-SHA-256")}},
	{name: "SASL2 only, wrong password", fake: fake{features: sasl2(), failure2: "not-authorized"}, want: "not-authorized", whom: account},
	{name: "SASL2 only, an impostor", fake: fake{features: sasl2(), badProof: true}, want: "server-signature"},
	{name: "SASL2 only, no features behind", fake: fake{features: sasl2(), noFeatures: true}, args: []string{"--timeout", "500ms"}, want: "features-missing"},
	{name: "SASL2 beside SASL, refused", fake: fake{features: sasl2("SCRAM-SHA-256"), failure2: "temporary-auth-failure"}, want: "login-refused"},
	{name: "nothing wrong, SHA-1", fake: fake{features: mechanisms("SCRAM-SHA-1")}},

	{name: "no HTTP", fake: fake{raw: "close"}, want: "no-answer", whom: haproxy},
	{name: "silence", fake: fake{raw: "-"}, want: "no-answer"},
	{name: "another protocol", fake: fake{raw: "220 mail.example.org ESMTP\r\n"}, want: "not-http"},
	{name: "XMPP over TCP", fake: fake{raw: "<?xml version='1.0'?><stream:stream>"}, want: "xmpp-port", whom: nginx},
	{name: "TLS behind ws", fake: fake{raw: "\x15\x03\x01\x00\x02\x02\x0a"}, want: "plain-to-tls"},
	{name: "plain request to the port of HTTPS", fake: fake{raw: page(400, "Server: nginx\r\n", "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title>")}, want: "plain-to-tls", whom: client},
	{name: "redirect to https", fake: fake{raw: page(301, "Server: nginx\r\nLocation: https://localhost/xmpp-websocket\r\n", "")}, want: "redirect", whom: nginx},
	{name: "redirect to a slash", fake: fake{raw: page(308, "Location: /xmpp-websocket/\r\n", "")}, want: "redirect", whom: caddy},
	{name: "nginx without Upgrade", fake: fake{raw: page(400, "Server: nginx\r\n", "Use HTTP/1.1.\n")}, want: "old-http", whom: nginx},
	{name: "nginx in front of Prosody without Upgrade", fake: fake{raw: page(200, "Server: nginx\r\n", "<h1>It works!</h1> Now point your WebSocket client to this URL to connect to Prosody.")}, want: "upgrade-dropped", whom: nginx},
	{name: "Upgrade lost", fake: fake{raw: page(426, "Upgrade: websocket\r\n", "A proxy has removed Upgrade.\n")}, want: "upgrade-dropped", whom: traefik},
	{name: "HTTP/1.0", fake: fake{raw: "HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6\r\n\r\nindex"}, want: "old-http-answer,web-page"},
	{name: "web page", fake: fake{raw: page(200, "Server: Caddy\r\nContent-Type: text/html\r\n", "<title>Chat</title>")}, want: "web-page", whom: caddy},
	{name: "empty page of Caddy", fake: fake{raw: page(200, "Server: Caddy\r\n", "")}, want: "web-page", whom: caddy},
	{name: "404 of nginx", fake: fake{raw: page(404, "Server: nginx\r\n", "<center><h1>404 Not Found</h1></center>")}, want: "path-unknown", whom: nginx},
	{name: "404 of Traefik", fake: fake{raw: page(404, "", "404 page not found\n")}, want: "path-unknown", whom: traefik},
	{name: "no subprotocol at the gateway", fake: fake{raw: page(400, "", "Offer the WebSocket subprotocol xmpp (Sec-WebSocket-Protocol: xmpp).\n")}, want: "subprotocol-dropped"},
	{name: "no subprotocol at Prosody", fake: fake{raw: page(501, "", "")}, want: "subprotocol-dropped"},
	{name: "HTTP/2 behind", fake: fake{raw: page(505, "", "Use HTTP/1.1.\n")}, want: "http2-behind"},
	{name: "PROXY header missing", fake: fake{raw: page(400, "", "A PROXY header is expected from this address.\n")}, want: "proxy-header-missing", whom: haproxy},
	{name: "PROXY header not expected", fake: fake{raw: page(400, "", "No PROXY header is expected from this address.\n")}, want: "proxy-header-unexpected"},
	{name: "address missing", fake: fake{raw: page(400, "Server: nginx\r\n", "The proxy does not say who the client is.\n")}, want: "client-address-missing", whom: nginx},
	{name: "401", fake: fake{raw: page(401, "WWW-Authenticate: Basic\r\n", "")}, want: "authentication-required"},
	{name: "403", fake: fake{raw: page(403, "Server: Apache\r\n", "")}, want: "forbidden", whom: apache},
	{name: "405", fake: fake{raw: page(405, "", "")}, want: "method-refused"},
	{name: "429", fake: fake{raw: page(429, "", "")}, want: "rate-limited"},
	{name: "429 of the gateway", fake: fake{raw: page(429, "Retry-After: 5\r\n", "Your network sends too many requests.\n")}, want: "rate-limited", whom: xmppgate},
	{name: "403 of the gateway", fake: fake{raw: page(403, "", "This network may not connect.\n")}, want: "forbidden", whom: xmppgate},
	{name: "503 for want of memory", fake: fake{raw: page(503, "", "The gateway is short of memory or descriptors.\n")}, want: "busy", whom: xmppgate},
	{name: "TLS at the gateway", fake: fake{raw: page(400, "", "This port speaks TLS: use https:// or wss://.\n")}, want: "plain-to-tls", whom: xmppgate},
	{name: "431", fake: fake{raw: page(431, "", "")}, want: "head-too-large"},
	{name: "cookies too large", fake: fake{raw: page(400, "Server: nginx\r\n", "400 Request Header Or Cookie Too Large")}, want: "head-too-large", whom: nginx},
	{name: "500", fake: fake{raw: page(500, "", "")}, want: "server-error"},
	{name: "502", fake: fake{raw: page(502, "Server: nginx\r\n", "<title>502 Bad Gateway</title>")}, want: "proxy-no-server", whom: nginx},
	{name: "503 of HAProxy", fake: fake{raw: page(503, "", "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>")}, want: "proxy-no-server", whom: haproxy},
	{name: "503 of the gateway", fake: fake{raw: page(503, "Retry-After: 5\r\n", "The gateway takes no more sessions now.\n")}, want: "busy", whom: xmppgate},
	{name: "504", fake: fake{raw: page(504, "", "")}, want: "proxy-timeout"},
	{name: "another 400", fake: fake{raw: page(400, "", "")}, want: "request-refused"},

	{name: "101 without Upgrade", fake: fake{raw: "HTTP/1.1 101 Switching Protocols\r\n\r\n"}, want: "handshake-wrong"},
	{name: "101 of a cache", fake: fake{badAccept: true}, want: "handshake-wrong"},
	{name: "subprotocol missing", fake: fake{subprotocol: "-"}, want: "subprotocol-missing", whom: nginx},
	{name: "another subprotocol", fake: fake{subprotocol: "xmpp, foo"}, want: "subprotocol-wrong"},
	{name: "origin refused", fake: fake{answer: func(q *http.Request) string {
		if q.Header.Get("Origin") != "" {
			return page(403, "", "This origin may not connect.")
		}
		return ""
	}}, args: []string{"--origin", "https://chat.example.org"}, want: "origin-refused", whom: xmppgate},
	{name: "origin required", fake: fake{answer: func(q *http.Request) string {
		if q.Header.Get("Origin") == "" {
			return page(403, "", "")
		}
		return ""
	}}, want: "origin-required", whom: haproxy},
	{name: "compression broken", fake: fake{extensions: "permessage-deflate", badDeflate: true}, want: "compression-broken"},
	{name: "another extension", fake: fake{extensions: "x-webkit-deflate-frame"}, want: "compression-broken"},
	{name: "an extension in any case", fake: fake{answer: func(q *http.Request) string {
		return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Protocol: xmpp\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Accept: " + accept(q.Header.Get("Sec-WebSocket-Key")) + "\r\n\r\n"
	}}, want: "handshake-wrong"},

	{name: "cut before <open/>", fake: fake{beforeOpen: "cut"}, want: "closed-early"},
	{name: "cut before <open/>, nginx and Prosody", fake: fake{beforeOpen: "cut", answer: func(q *http.Request) string {
		if q.Header.Get("Upgrade") == "" {
			return page(200, "Server: nginx\r\n", "Now point your WebSocket client to this URL to connect to Prosody.")
		}
		return ""
	}}, want: "upgrade-dropped", whom: nginx},
	{name: "closed before <open/>", fake: fake{beforeOpen: "1008"}, want: "closed-early"},
	{name: "no <open/>", fake: fake{beforeOpen: "-"}, want: "open-unanswered", whom: xmppgate},
	{name: "binary", fake: fake{beforeOpen: "binary"}, want: "not-xmpp"},
	{name: "not XML", fake: fake{beforeOpen: `{"type":"hello"}`}, want: "not-xmpp"},
	{name: "two elements", fake: fake{beforeOpen: goodOpen + "<a/>"}, want: "not-xmpp"},
	{name: "the drafts", fake: fake{beforeOpen: "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:client' version='1.0'>"}, want: "legacy-framing"},
	{name: "sent elsewhere", fake: fake{beforeOpen: "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='wss://two.example.org/ws'/>"}, want: "see-other-uri"},
	{name: "error before <open/>", fake: fake{beforeOpen: streamErrorOf("host-unknown", "")}, want: "error-before-open,host-unknown"},
	{name: "no version", fake: fake{open: "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='localhost' id='1'/>"}, want: "open-incomplete"},
	{name: "host unknown", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("host-unknown", "This server does not serve example.org")}, want: "host-unknown", whom: xmppgate},
	{name: "server gone", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("remote-connection-failed", "connection refused")}, want: "remote-connection-failed", whom: xmppgate},
	{name: "policy", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("policy-violation", "")}, want: "policy-violation"},
	{name: "policy of TLS", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("policy-violation", "Use of STARTTLS required")}, want: "tls-required"},
	{name: "busy for the third one", fake: fake{answer: func() func(*http.Request) string {
		n := 0
		return func(q *http.Request) string {
			if n++; n > 4 { // the handshake, a plain request, a foreign origin, compression
				return page(429, "", "")
			}
			return ""
		}
	}()}, want: "rate-limited"},
	{name: "Prosody without anything but STARTTLS", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("undefined-condition", "No stream features to proceed with")}, want: "tls-required", whom: prosody},
	{name: "busy for the second one", fake: fake{answer: func(q *http.Request) string {
		if q.Header.Get("Sec-WebSocket-Extensions") != "" {
			return page(503, "", "The gateway takes no more sessions now.")
		}
		return ""
	}}, want: "busy"},
	{name: "stopping", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("system-shutdown", "")}, want: "system-shutdown"},
	{name: "full", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("resource-constraint", "")}, want: "resource-constraint"},
	{name: "another error", fake: fake{beforeOpen: goodOpen + "\n" + streamErrorOf("undefined-condition", "")}, want: "stream-error"},
	{name: "no features", fake: fake{features: "-"}, want: "features-missing"},
	{name: "empty features", fake: fake{features: featuresWith("")}, want: "tls-required", whom: xmppgate},
	{name: "STARTTLS only", fake: fake{features: featuresWith("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>")}, want: "tls-required", whom: prosody},
	{name: "STARTTLS beside", fake: fake{features: strings.Replace(goodFeatures, "<mechanisms", "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms", 1)}, want: "starttls-offered"},
	{name: "no mechanisms", fake: fake{features: mechanisms()}, want: "no-mechanisms"},
	{name: "EXTERNAL only", fake: fake{features: mechanisms("EXTERNAL")}, want: "only-external", whom: xmppgate},
	{name: "PLUS only", fake: fake{features: mechanisms("SCRAM-SHA-1-PLUS", "EXTERNAL")}, want: "only-plus"},
	{name: "PLUS without TLS", fake: fake{features: mechanisms("SCRAM-SHA-1-PLUS", "SCRAM-SHA-1")}, want: "plus-through-gateway", whom: xmppgate},
	{name: "PLUS that fails", fake: fake{features: mechanisms("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")}, where: "wss", want: "plus-through-gateway", whom: ejabberd},
	{name: "PLAIN only, without TLS", fake: fake{features: mechanisms("PLAIN")}, want: "plain-without-tls,no-usable-mechanism"},
	{name: "PLAIN only, without TLS, allowed", fake: fake{features: mechanisms("PLAIN")}, args: []string{"--allow-plain"}, want: "plain-without-tls"},
	{name: "nothing wrong, PLAIN only", fake: fake{features: mechanisms("PLAIN")}, where: "wss"},
	{name: "unknown mechanisms", fake: fake{features: mechanisms("OAUTHBEARER", "EXTERNAL")}, want: "no-usable-mechanism"},
	{name: "prefix not declared", fake: fake{features: strings.Replace(goodFeatures, " xmlns:stream='http://etherx.jabber.org/streams'", "", 1)}, want: "unbound-prefix"},

	{name: "wrong password", fake: fake{failure: "not-authorized"}, want: "not-authorized", whom: account},
	{name: "disabled", fake: fake{failure: "account-disabled"}, want: "account-disabled"},
	{name: "encryption required", fake: fake{failure: "encryption-required"}, want: "tls-required"},
	{name: "temporary", fake: fake{failure: "temporary-auth-failure"}, want: "login-refused"},
	{name: "an impostor", fake: fake{badProof: true}, want: "server-signature"},
	{name: "an impostor without a signature", fake: fake{success: "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"}, want: "server-signature"},
	{name: "iterations without end", fake: fake{iterations: 2_000_000_000}, want: "login-refused"},
	{name: "no bind", fake: fake{noBind: true}, want: "bind-missing"},
	{name: "bind refused", fake: fake{bindError: "resource-constraint"}, want: "bind-refused", whom: ejabberd},
	{name: "no resumption", fake: fake{noSM: true}, want: "resume-not-offered", whom: prosody},
	{name: "enable fails", fake: fake{enabled: "<failed xmlns='urn:xmpp:sm:3'/>"}, want: "resume-disabled"},
	{name: "enabled without resumption", fake: fake{enabled: "<enabled xmlns='urn:xmpp:sm:3'/>"}, want: "resume-disabled"},
	{name: "resume refused", fake: fake{resumed: "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"}, want: "resume-refused", whom: prosody},
	{name: "no echo", fake: fake{stanza: func(_ *fakeStream, m string) bool { return strings.HasPrefix(m, "<message") }}, want: "echo-lost"},
	{name: "large refused", fake: fake{maxStanza: 10000}, want: "large-refused", whom: xmppgate},
	{name: "large lost", fake: fake{stanza: func(s *fakeStream, m string) bool {
		if len(m) > 10000 {
			s.c.Close()
			return true
		}
		return false
	}}, want: "large-lost", whom: network},
	{name: "large closed", fake: fake{stanza: func(s *fakeStream, m string) bool {
		if len(m) > 10000 {
			s.closeCode(ws.StatusMessageTooBig)
			return true
		}
		return false
	}}, want: "large-refused"},
	{name: "cut in silence", fake: fake{cutAfter: 100 * time.Millisecond}, args: []string{"--idle", "500ms"}, want: "idle-cut", whom: nginx},
	{name: "closed in silence", fake: fake{closeAfter: 100 * time.Millisecond}, args: []string{"--idle", "500ms"}, want: "idle-closed", whom: xmppgate},
	{name: "dead in silence", fake: fake{stanza: func() func(*fakeStream, string) bool {
		n := 0
		return func(_ *fakeStream, m string) bool {
			if strings.HasPrefix(m, "<message") {
				n++
			}
			return n > 4 // echo, echo after the resumption, large, echo
		}
	}()}, args: []string{"--idle", "50ms"}, want: "idle-cut"},
	{name: "no answer to <close/>", fake: fake{noClose: true}, want: "close-unanswered"},
}

func TestBroken(t *testing.T) {
	ca := newAuthority(t, "Test CA", nil)
	config := ca.leaf(t, nil)
	trusted := ca.file(t)
	for i := range broken {
		test := &broken[i]
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			scheme := or(test.where, "ws")
			if scheme == "wss" {
				test.fake.tls = config
			}
			address := serve(t, "127.0.0.1", test.fake.handle)
			_, port, _ := net.SplitHostPort(address)
			args := []string{"--idle", "0", "--ca", trusted}
			if !test.anon {
				args = append(args, withAccount...)
			}
			args = append(args, test.args...)
			r := examine(t, append(args, scheme+"://localhost:"+port+"/xmpp-websocket")...)
			if got := strings.Join(r.findingsOf(), ","); got != test.want {
				t.Errorf("found %q, want %q\n%s", got, test.want, r.text())
			}
			if r.Exit == ExitOK != (test.want == "") {
				t.Errorf("exit status %d", r.Exit)
			}
			for _, l := range r.Lines {
				if l.Level != ok && len(l.Remedies) == 0 {
					t.Errorf("no remedy for %s", l.Finding)
				}
				if slices.ContainsFunc(l.Remedies, func(m remedy) bool { return m.Product == test.whom }) {
					return
				}
			}
			if test.whom != "" {
				t.Errorf("no remedy for %s\n%s", test.whom, r.text())
			}
		})
	}
}

// Certificates and TLS.
func TestTLS(t *testing.T) {
	root := newAuthority(t, "Test CA", nil)
	between := newAuthority(t, "Test CA 2", root)
	trusted := root.file(t)
	life := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	const day = 24 * time.Hour
	versions := func(c *tls.Config, lowest, highest uint16) *tls.Config {
		c.MinVersion, c.MaxVersion = lowest, highest
		return c
	}
	protocols := func(c *tls.Config, names ...string) *tls.Config {
		c.NextProtos = names
		return c
	}
	verify := func(c *tls.Config) *tls.Config {
		c.ClientAuth = tls.RequireAnyClientCert
		return c
	}
	for _, test := range []struct {
		name   string
		config *tls.Config
		want   string
	}{
		{"good", root.leaf(t, nil), ""},
		{"good, chain", between.leaf(t, nil, between), ""},
		{"good, TLS 1.2", versions(root.leaf(t, nil), tls.VersionTLS12, tls.VersionTLS12), ""},
		{"good, short life", root.leaf(t, life(-time.Hour, 24*time.Hour)), ""},
		{"expired", root.leaf(t, life(-90*day, -day)), "cert-expired"},
		{"from the future", root.leaf(t, life(day, 90*day)), "cert-not-yet"},
		{"expires soon", root.leaf(t, life(-80*day, 10*day)), "cert-expires-soon"},
		{"another name", root.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{"example.org"} }), "cert-name"},
		{"expired and another name", root.leaf(t, func(c *x509.Certificate) {
			life(-90*day, -day)(c)
			c.DNSNames = []string{"example.org"}
		}), "cert-expired,cert-name"},
		{"self-signed", (*authority)(nil).leaf(t, nil), "cert-self-signed"},
		{"incomplete", between.leaf(t, nil), "cert-incomplete"},
		{"unknown authority", newAuthority(t, "Other", nil).leaf(t, nil, newAuthority(t, "Other", nil)), "cert-unknown-ca"},
		{"for clients", root.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "cert-invalid"},
		{"TLS 1.1", versions(root.leaf(t, nil), tls.VersionTLS10, tls.VersionTLS11), "tls-version"},
		{"for XMPP over TCP", protocols(root.leaf(t, nil), "xmpp-client"), "tls-alpn"},
		{"certificate of the client, TLS 1.3", verify(root.leaf(t, nil)), "client-certificate"},
		{"certificate of the client, TLS 1.2", versions(verify(root.leaf(t, nil)), tls.VersionTLS12, tls.VersionTLS12), "client-certificate"},
		{"no certificate", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, io.EOF }}, "tls-failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{tls: test.config}
			_, port, _ := net.SplitHostPort(serve(t, "127.0.0.1", f.handle))
			r := examine(t, "--ca", trusted, "--idle", "0", "wss://localhost:"+port+"/ws")
			if got := strings.Join(r.findingsOf(), ","); got != test.want {
				t.Errorf("found %q, want %q\n%s", got, test.want, r.text())
			}
		})
	}
	for name, handle := range map[string]func(net.Conn){
		"HTTP": func(c net.Conn) { // as a server does that waits for a line
			io.ReadFull(c, make([]byte, 5))
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		},
		"HTTP, silent at first": (&fake{raw: page(400, "", "")}).handle,
	} {
		t.Run(name, func(t *testing.T) {
			_, port, _ := net.SplitHostPort(serve(t, "127.0.0.1", handle))
			r := examine(t, "--idle", "0", "wss://localhost:"+port+"/ws")
			if got := strings.Join(r.findingsOf(), ","); got != "tls-not-spoken" {
				t.Errorf("found %q\n%s", got, r.text())
			}
		})
	}
}

// DNS and TCP, with a resolver that says what the test wants.
func TestReach(t *testing.T) {
	f := &fake{}
	_, port, _ := net.SplitHostPort(serve(t, "127.0.0.1", f.handle))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, deadPort, _ := net.SplitHostPort(closed.Addr().String())
	closed.Close()
	addresses := func(texts ...string) func(context.Context, string, string) ([]netip.Addr, error) {
		return func(_ context.Context, network, host string) (found []netip.Addr, err error) {
			for _, text := range texts {
				if a := netip.MustParseAddr(text); a.Is4() == (network == "ip4") {
					found = append(found, a)
				}
			}
			if len(found) == 0 {
				err = &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
			}
			return found, err
		}
	}
	dead := func(err error) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	}
	refused, lost, noRoute := dead(os.NewSyscallError("connect", syscall.ECONNREFUSED)), dead(os.ErrDeadlineExceeded), dead(os.NewSyscallError("connect", syscall.ENETUNREACH))
	for _, test := range []struct {
		name, port string
		lookup     func(context.Context, string, string) ([]netip.Addr, error)
		far        map[string]func(context.Context) (net.Conn, error) // what becomes of connections to there
		want       string
	}{
		{"one address", port, addresses("127.0.0.1"), nil, ""},
		{"a second one that refuses, on this machine", port, addresses("127.0.0.1", "127.0.0.2"), nil, ""},
		{"a second one that refuses", port, addresses("127.0.0.1", "2001:db8::1"), map[string]func(context.Context) (net.Conn, error){"2001:db8::1": refused}, "address-dead"},
		{"a second one that is lost", port, addresses("127.0.0.1", "192.0.2.1"), map[string]func(context.Context) (net.Conn, error){"192.0.2.1": lost}, "address-dead"},
		{"no IPv6 here", port, addresses("127.0.0.1", "2001:db8::1"), map[string]func(context.Context) (net.Conn, error){"2001:db8::1": noRoute}, ""},
		{"no route at all", port, addresses("2001:db8::1"), map[string]func(context.Context) (net.Conn, error){"2001:db8::1": noRoute}, "unreachable"},
		{"a firewall", port, addresses("192.0.2.1"), map[string]func(context.Context) (net.Conn, error){"192.0.2.1": lost}, "unreachable"},
		{"far away, without TLS", port, addresses("192.0.2.1"), map[string]func(context.Context) (net.Conn, error){"192.0.2.1": func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		}}, "plain-websocket"},
		{"no address", port, addresses(), nil, "dns-no-address"},
		{"DNS is broken", port, func(context.Context, string, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "server misbehaving", IsTemporary: true}
		}, nil, "dns-failed"},
		{"nobody listens", deadPort, addresses("127.0.0.1"), nil, "refused"},
		{"a port that is none", "99999", addresses("127.0.0.1"), nil, "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			x, err := newExamination(options{target: "ws://bücher.example.org:" + test.port + "/ws", timeout: time.Second, domain: "localhost"}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			x.report, x.notes = newReport(&out, false), io.Discard
			x.lookup = func(ctx context.Context, network, host string) ([]netip.Addr, error) {
				if host != "xn--bcher-kva.example.org" {
					t.Errorf("asks DNS for %s", host)
				}
				return test.lookup(ctx, network, host)
			}
			dial := x.dialTCP
			x.dialTCP = func(ctx context.Context, address string) (net.Conn, error) {
				if host, _, _ := net.SplitHostPort(address); test.far[host] != nil {
					return test.far[host](ctx)
				}
				return dial(ctx, address)
			}
			x.interrupted = func() bool { return false }
			x.reach(t.Context())
			if got := strings.Join(x.report.findingsOf(), ","); got != test.want {
				t.Errorf("found %q, want %q\n%s", got, test.want, &out)
			}
		})
	}
}

// Hosts that are this machine.
func TestIsLocal(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "a.localhost": true, "127.0.0.1": true, "::1": true, "LOCALHOST.": true, "192.0.2.1": false, "example.org": false, "localhost.example.org": false} {
		if got := isLocal(host); got != want {
			t.Errorf("isLocal(%q) is %v", host, got)
		}
	}
}

// host-meta, over http because the test has no authority that Go trusts for names.
func TestHostMeta(t *testing.T) {
	f := &fake{}
	address := serve(t, "127.0.0.1", f.handle)
	good := "ws://" + address + "/ws"
	xrd := func(href string) string {
		return `<?xml version='1.0'?><XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'><Link rel='urn:xmpp:alt-connections:xbosh' href='https://x'/><Link rel='urn:xmpp:alt-connections:websocket' href='` + href + `'/></XRD>`
	}
	jrd := func(href string) string {
		return `{"links":[{"rel":"urn:xmpp:alt-connections:websocket","href":"` + href + `"}]}`
	}
	for _, test := range []struct {
		name, xrd, jrd string // "-" is 404
		noCORS         bool
		want           string
	}{
		{name: "both", xrd: xrd(good), jrd: jrd(good)},
		{name: "XRD only", xrd: xrd(good), jrd: "-"},
		{name: "JRD only", xrd: "-", jrd: jrd(good), want: "host-meta-xrd-missing"},
		{name: "none", xrd: "-", jrd: "-", want: "host-meta-missing"},
		{name: "no CORS", xrd: xrd(good), jrd: jrd(good), noCORS: true, want: "host-meta-cors"},
		{name: "no link", xrd: "<XRD/>", jrd: "{}", want: "host-meta-no-websocket"},
		{name: "a page", xrd: "<!doctype html><html><body>", jrd: "<html>", want: "host-meta-malformed"},
		{name: "two minds", xrd: xrd(good), jrd: jrd("wss://two.example.org/ws"), want: "host-meta-differ,dns-no-address"},
		{name: "insecure", xrd: xrd("ws://192.0.2.1/ws"), jrd: "-", want: "host-meta-insecure"},
		{name: "not a URL", xrd: xrd("chat.example.org"), jrd: "-", want: "host-meta-no-websocket"},
		{name: "too large", xrd: xrd(strings.Repeat("a", maxHostMeta)), jrd: "-", want: "host-meta-malformed"},
		{name: "5xx", xrd: "500", jrd: "500", want: "host-meta-unreachable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				text := map[string]string{"/.well-known/host-meta": test.xrd, "/.well-known/host-meta.json": test.jrd}[q.URL.Path]
				if !test.noCORS {
					w.Header().Set("Access-Control-Allow-Origin", "*")
				}
				switch text {
				case "-", "":
					http.NotFound(w, q)
				case "500":
					w.WriteHeader(500)
				default:
					io.WriteString(w, text)
				}
			}))
			defer web.Close()
			x, err := newExamination(options{target: web.URL, timeout: time.Second, domain: "localhost"}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			x.report, x.notes = newReport(&out, false), io.Discard
			x.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
				return nil, &net.DNSError{IsNotFound: true}
			}
			if test.name == "insecure" {
				x.interrupted = func() bool { return false }
				x.discover(t.Context())
			} else {
				x.run(t.Context())
			}
			if got := strings.Join(x.report.findingsOf(), ","); got != test.want {
				t.Errorf("found %q, want %q\n%s", got, test.want, &out)
			}
		})
	}
}

// The command line.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name string
		args []string
		says string
	}{
		{"nothing", nil, "the URL of the WebSocket"},
		{"a path", []string{"example.org/ws"}, "the URL of the WebSocket"},
		{"another scheme", []string{"ftp://example.org"}, "the URL of the WebSocket"},
		{"a user in the URL", []string{"wss://alice:hunter22@example.org/ws"}, "leave them out"},
		{"line feed", []string{"wss://example.org/\r\nX: y"}, "the URL of the WebSocket"},
		{"too many", []string{"wss://example.org/ws", "hunter22"}, "one argument"},
		{"no password", []string{"--jid", "a@b", "wss://example.org/ws"}, "--password-file"},
		{"no JID", []string{"--password-file", "-", "wss://example.org/ws"}, "--jid"},
		{"bad JID", []string{"--jid", "example.org", "--password-file", "-", "wss://example.org/ws"}, "user@example.org"},
		{"no such file", []string{"--jid", "a@b", "--password-file", filepath.Join(dir, "none"), "wss://example.org/ws"}, "no such file"},
		{"empty file", []string{"--jid", "a@b", "--password-file", file("empty", "\n"), "wss://example.org/ws"}, "empty"},
		{"two lines", []string{"--jid", "a@b", "--password-file", file("two", "hunter22\nhunter23\n"), "wss://example.org/ws"}, "more than one line"},
		{"long", []string{"--jid", "a@b", "--password-file", file("long", strings.Repeat("x", maxPassword+1)), "wss://example.org/ws"}, "larger"},
		{"bad origin", []string{"--origin", "chat.example.org", "wss://example.org/ws"}, "--origin"},
		{"bad CA", []string{"--ca", file("ca", "x"), "wss://example.org/ws"}, "PEM"},
		{"bad idle", []string{"--idle", "-1s", "wss://example.org/ws"}, "--idle"},
		{"bad timeout", []string{"--timeout", "0", "wss://example.org/ws"}, "--timeout"},
		{"bad large", []string{"--large", "-1", "wss://example.org/ws"}, "--large"},
		{"unknown flag", []string{"--password=hunter22", "wss://example.org/ws"}, "password"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if status := Run(t.Context(), test.args, strings.NewReader(""), &out, &errs); status != ExitUsage {
				t.Errorf("status %d", status)
			}
			if !strings.Contains(errs.String(), test.says) || strings.Contains(errs.String(), "hunter") || out.Len() > 0 {
				t.Errorf("it says %s%s", &out, &errs)
			}
		})
	}
}

// Nobody else learns the password, a token or the cookie of a URL, and no peer can
// write to the terminal what it likes.
func TestOutput(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[31m\u202e\u0085"
	for name, f := range map[string]*fake{
		"error": {beforeOpen: goodOpen + "\n" + streamErrorOf("undefined-condition", "\u202e\u0085 you said "+testPassword)},
		"page":  {raw: page(404, "Server: "+evil+"\r\n", "<title>"+evil+" "+testPassword+"</title>")},
		"close": {beforeOpen: "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='wss://x/" + testPassword + "?token=abcdef'/>"},
		"to":    {raw: page(302, "Location: https://x/?token=abcdef\r\n", "")},
	} {
		for _, form := range []string{"--json=true", "--json=false"} {
			address := serve(t, "127.0.0.1", f.handle)
			var out, errs bytes.Buffer
			Run(t.Context(), append([]string{form, "--timeout", "1s", "ws://" + address + "/ws?token=abcdef"}, withAccount...), strings.NewReader(testPassword), &out, &errs)
			all := out.String() + errs.String()
			if len(all) < 100 {
				t.Errorf("%s: there is only %q", name, all)
			}
			for _, bad := range []string{testPassword, "abcdef", "\x1b", "\x07", "\u202e", "\u0085"} {
				if strings.Contains(all, bad) {
					t.Errorf("%s %s: the output has %q:\n%q", name, form, bad, all)
				}
			}
		}
	}
}

// Hostile endpoints end in time, and with little memory.
func TestHostile(t *testing.T) {
	drip := func(c net.Conn, text string) {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	flood := func(c net.Conn, b []byte) {
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	afterOpen := func(then func(c net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			f := &fake{}
			f.stanza = func(s *fakeStream, _ string) bool { then(s.c); return true }
			f.handle(c)
		}
	}
	frame := func(h ws.Header, payload string) []byte {
		var b bytes.Buffer
		ws.WriteHeader(&b, h)
		return append(b.Bytes(), payload...)
	}
	text := func(s string) []byte { return frame(ws.Header{Fin: true, OpCode: ws.OpText, Length: int64(len(s))}, s) }
	for name, handle := range map[string]func(net.Conn){
		"a head without end":    func(c net.Conn) { flood(c, []byte("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1000))) },
		"a head, byte by byte":  func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"); drip(c, "x") },
		"many fields":           func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"); flood(c, []byte("A: b\r\n")) },
		"answers 1xx":           func(c net.Conn) { flood(c, []byte("HTTP/1.1 103 Early Hints\r\n\r\n")) },
		"a page without end":    func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); flood(c, []byte("<x>")) },
		"a page, byte by byte":  func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); drip(c, "x") },
		"a frame of 2^62":       afterOpen(func(c net.Conn) { flood(c, frame(ws.Header{Fin: true, OpCode: ws.OpText, Length: 1 << 62}, "<a>")) }),
		"a message without end": afterOpen(func(c net.Conn) { flood(c, frame(ws.Header{OpCode: ws.OpText, Length: 100}, strings.Repeat("x", 100))) }),
		"a message, byte by byte": afterOpen(func(c net.Conn) {
			c.Write(frame(ws.Header{Fin: true, OpCode: ws.OpText, Length: 1 << 19}, ""))
			drip(c, "x")
		}),
		"empty fragments": afterOpen(func(c net.Conn) {
			c.Write(frame(ws.Header{OpCode: ws.OpText}, ""))
			flood(c, frame(ws.Header{OpCode: ws.OpContinuation}, ""))
		}),
		"pings":       afterOpen(func(c net.Conn) { flood(c, frame(ws.Header{Fin: true, OpCode: ws.OpPing}, "")) }),
		"stanzas":     afterOpen(func(c net.Conn) { c.Write(text(goodOpen)); flood(c, text("<presence xmlns='jabber:client'/>")) }),
		"queries":     afterOpen(func(c net.Conn) { flood(c, text("<iq xmlns='jabber:client' type='get' id='1'/>")) }),
		"acknowledge": afterOpen(func(c net.Conn) { flood(c, text("<r xmlns='urn:xmpp:sm:3'/>")) }),
		"deep":        afterOpen(func(c net.Conn) { flood(c, text(strings.Repeat("<a>", 100000))) }),
		"entities":    afterOpen(func(c net.Conn) { flood(c, text(`<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>`)) }),
		"attributes":  afterOpen(func(c net.Conn) { flood(c, text("<a"+strings.Repeat(" b='c'", 10000)+"/>")) }),
		"many features": afterOpen(func(c net.Conn) {
			c.Write(text(goodOpen))
			c.Write(text(mechanisms(slices.Repeat([]string{"X"}, 50000)...)))
		}),
		"masked":   afterOpen(func(c net.Conn) { ws.WriteFrame(c, ws.MaskFrame(ws.NewTextFrame([]byte(goodOpen)))) }),
		"reserved": afterOpen(func(c net.Conn) { c.Write(frame(ws.Header{Fin: true, OpCode: 5}, "")) }),
		"long control": afterOpen(func(c net.Conn) {
			c.Write(frame(ws.Header{Fin: true, OpCode: ws.OpPing, Length: 126}, strings.Repeat("x", 126)))
		}),
		"compressed": afterOpen(func(c net.Conn) {
			c.Write(frame(ws.Header{Fin: true, Rsv: ws.Rsv(true, false, false), OpCode: ws.OpText}, ""))
		}),
		"not UTF-8":      afterOpen(func(c net.Conn) { c.Write(text("<a>\xff</a>")) }),
		"does not read":  func(c net.Conn) { time.Sleep(3 * time.Second) },
		"TLS to nowhere": func(c net.Conn) { drip(c, "\x16\x03\x01") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := serve(t, "127.0.0.1", handle)
			start := time.Now()
			r := examine(t, append([]string{"--idle", "100ms", "--timeout", "300ms", "ws://" + address + "/ws"}, withAccount...)...)
			if r.Exit != ExitFailed {
				t.Errorf("exit status %d\n%s", r.Exit, r.text())
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, l := range r.Lines {
				if len([]rune(l.Text)) > maxText+1 {
					t.Errorf("a line has %d bytes", len(l.Text))
				}
			}
		})
	}
}

// Ctrl-C ends an examination at once, and no failure is made up.
func TestInterrupted(t *testing.T) {
	f := &fake{}
	address := serve(t, "127.0.0.1", f.handle)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	start := time.Now()
	r, _ := examineIn(t, ctx, append([]string{"--idle", "1h", "ws://" + address + "/ws"}, withAccount...)...)
	if r.Exit != ExitFailed || len(r.findingsOf()) > 0 || time.Since(start) > 30*time.Second {
		t.Errorf("after %v:\n%s", time.Since(start), r.text())
	}
}

// A fault that text shows is the same in JSON, and the lines are what the manual says.
func TestText(t *testing.T) {
	f := &fake{noSM: true}
	address := serve(t, "127.0.0.1", f.handle)
	var out, errs bytes.Buffer
	status := Run(t.Context(), append([]string{"ws://" + address + "/ws", "--idle", "0"}, withAccount...), strings.NewReader(testPassword), &out, &errs)
	if status != ExitWarnings {
		t.Errorf("status %d", status)
	}
	for _, want := range []string{
		`(?m)^ws://127\.0\.0\.1:\d+/ws, domain localhost$`, `(?m)^ok    upgrade      101`,
		`(?m)^warn  resume       .*\[resume-not-offered\]$`, `(?m)^ +Prosody: modules_enabled = \{ "smacks" \}$`,
		`(?m)^Not examined: idle \(--idle 0\)\.$`, `(?m)^\d+ ok, 1 warnings, 0 failures\.\n\z`,
	} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("no %s in\n%s%s", want, &out, &errs)
		}
	}
}

// The table is complete: every finding that is reported has a row, every row is
// reported somewhere and has a remedy.
func TestFindings(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "findings.go" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for id, f := range findings {
		if !strings.Contains(source.String(), `"`+id+`"`) {
			t.Errorf("nothing reports %s", id)
		}
		if len(f.remedies) == 0 || f.meaning == "" || f.level == ok {
			t.Errorf("the row of %s is not complete", id)
		}
	}
	for _, sign := range signs {
		if _, known := findings[sign.id]; !known {
			t.Errorf("no row for %s", sign.id)
		}
	}
	for _, ids := range []map[string]string{byCondition} {
		for _, id := range ids {
			if _, known := findings[id]; !known {
				t.Errorf("no row for %s", id)
			}
		}
	}
	for _, id := range byStatus {
		if _, known := findings[id]; !known {
			t.Errorf("no row for %s", id)
		}
	}
}

// bytesConn is a connection on which so many bytes come and then its end.
type bytesConn struct {
	net.Conn
	r *bytes.Reader
}

func (c bytesConn) Read(b []byte) (int, error)       { return c.r.Read(b) }
func (c bytesConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c bytesConn) Close() error                     { return nil }
func (c bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c bytesConn) SetWriteDeadline(time.Time) error { return nil }

// Whatever comes, the session ends when it ends, and what it gives is an element.
func FuzzSession(f *testing.F) {
	frame := func(h ws.Header, text string) []byte {
		var b bytes.Buffer
		h.Length = int64(len(text))
		ws.WriteHeader(&b, h)
		return append(b.Bytes(), text...)
	}
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpText}, goodOpen), false)
	f.Add(slices.Concat(frame(ws.Header{OpCode: ws.OpText}, goodOpen[:10]), frame(ws.Header{Fin: true, OpCode: ws.OpPing}, "a"), frame(ws.Header{Fin: true, OpCode: ws.OpContinuation}, goodOpen[10:])), false)
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpClose}, "\x03\xe8bye"), false)
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpText, Rsv: ws.Rsv(true, false, false)}, "\x02\x00"), true)
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpText}, "<iq xmlns='jabber:client' type='get' id='1' from='a'><ping xmlns='urn:xmpp:ping'/></iq>"), false)
	f.Add(frame(ws.Header{Fin: true, OpCode: ws.OpText}, streamErrorOf("conflict", "x")), false)
	f.Fuzz(func(t *testing.T, data []byte, deflate bool) {
		c := bytesConn{r: bytes.NewReader(data)}
		s := &session{socket: &socket{conn: c, tcp: c, r: bufio.NewReader(c), deflate: deflate, timeout: time.Second}}
		for n := 0; ; n++ {
			e, err := s.next(time.Now().Add(time.Hour))
			if err != nil {
				describe(err)
				return
			}
			if e == nil || e.Local == "" || n > len(data) {
				t.Fatalf("element %d of %d bytes: %v", n, len(data), e)
			}
		}
	})
}

// The best type of channel binding that both know.
func TestChannelBinding(t *testing.T) {
	exporter, unique, endPoint := scram.ChannelBindingTLSExporter, scram.ChannelBindingTLSUnique, scram.ChannelBindingTLSServerEndpoint
	ca := newAuthority(t, "Test CA", nil)
	for _, test := range []struct {
		version uint16
		offered []string
		want    scram.ChannelBindingType
	}{
		{tls.VersionTLS13, nil, exporter},
		{tls.VersionTLS13, []string{string(exporter), string(endPoint)}, exporter},
		{tls.VersionTLS13, []string{string(endPoint)}, endPoint},
		{tls.VersionTLS13, []string{string(unique)}, ""},
		{tls.VersionTLS12, nil, unique},
		{tls.VersionTLS12, []string{string(exporter)}, exporter},
		{tls.VersionTLS12, []string{string(unique), string(endPoint)}, endPoint},
		{tls.VersionTLS12, []string{string(unique)}, unique},
	} {
		config := ca.leaf(t, nil)
		config.MaxVersion = test.version
		f := &fake{tls: config}
		_, port, _ := net.SplitHostPort(serve(t, "127.0.0.1", f.handle))
		x, err := newExamination(options{target: "wss://localhost:" + port + "/ws", timeout: time.Second}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		x.address = netip.MustParseAddrPort("127.0.0.1:" + port)
		s, err := x.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		x.bindings = test.offered
		got, err := x.channelBinding(s.tls)
		if got.Type != test.want || (err == nil) != (test.want != "") || len(got.Data) == 0 != (test.want == "") {
			t.Errorf("%s, %q: %q, %v", tls.VersionName(test.version), test.offered, got.Type, err)
		}
		s.cut()
	}
}

// A hostile web server of the domain costs a step's time and little memory.
func TestHostileHostMeta(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.Copy(z, io.LimitReader(zeros{}, 100<<20))
	z.Close()
	for name, handle := range map[string]http.HandlerFunc{
		"redirects without end": func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, q.URL.Path+"?again", http.StatusFound)
		},
		"redirect to another world": func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "file:///etc/passwd", http.StatusFound)
		},
		"silence": func(w http.ResponseWriter, q *http.Request) { <-q.Context().Done() },
		"a page, byte by byte": func(w http.ResponseWriter, q *http.Request) {
			for q.Context().Err() == nil {
				io.WriteString(w, "<")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		},
		"bomb": func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
		},
		"deep": func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, strings.Repeat("<a>", 20000)) },
		"links": func(w http.ResponseWriter, q *http.Request) {
			io.WriteString(w, "<XRD>"+strings.Repeat("<Link rel='"+relWebSocket+"' href='x:y'/>", 500)+"</XRD>")
		},
	} {
		t.Run(name, func(t *testing.T) {
			web := httptest.NewServer(handle)
			defer web.Close()
			start := time.Now()
			r := examine(t, "--domain", "localhost", "--timeout", "300ms", web.URL)
			if r.Exit != ExitFailed || time.Since(start) > 10*time.Second || len(r.Lines) > 20 {
				t.Errorf("exit status %d after %v\n%s", r.Exit, time.Since(start), r.text())
			}
		})
	}
}

// zeros are bytes without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
