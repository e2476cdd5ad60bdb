package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const saslFeatures = `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>` +
	`<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`

// bothFeatures require TLS and offer SASL.
const bothFeatures = `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>` +
	`<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`

// stockServer is the script of a server that demands TLS, with a certificate
// that nobody would trust.
func stockServer(t *testing.T, bytewise bool, ahead, features string) func(p *peer) {
	_, cert := chatServer(t)
	return func(p *peer) {
		p.bytewise = bytewise
		p.expect(t, ahead+chatHeader)
		p.send(reply + features)
		p.expect(t, startTLSElement)
		p.send(proceed)
		state := p.secure(serverConfig(cert)).ConnectionState()
		if state.ServerName != "chat.example" || state.NegotiatedProtocol != "" {
			t.Errorf("SNI %q, ALPN %q", state.ServerName, state.NegotiatedProtocol)
		}
		p.expect(t, chatHeader)
		p.send(reply + saslFeatures)
		p.expect(t, `<iq/>`)
		p.send(`<iq/>`)
		p.drain()
	}
}

// A server on this machine that demands TLS gets it, whatever its certificate
// is. Nothing that was said before is in the stream.
func TestTLSOnThisMachine(t *testing.T) {
	own := ownAddress(t)
	for _, test := range []struct{ network, listen, url, ahead string }{
		{"tcp", "127.0.0.1:0", "tcp://%s", ""},
		{"tcp", "[::1]:0", "tcp://%s", ""},
		{"tcp", net.JoinHostPort(own, "0"), "tcp://%s", ""},
		{"unix", "s", "unix:%s", ""},
		{"unix", "s", "unix:%s?proxy=v1", "PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n"},
	} {
		for _, features := range []string{
			tlsFeatures,
			`<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>`,
			bothFeatures,
		} {
			eachWay(t, func(t *testing.T, bytewise bool) {
				listen := test.listen
				if test.network == "unix" {
					listen = filepath.Join(t.TempDir(), listen)
				}
				address := serveOn(t, test.network, listen, stockServer(t, bytewise, test.ahead, features))
				e, seen := endpointAt(t, test.url, address)
				s, err := open(t, &e, chatRequest())
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := s.Conn.(*tls.Conn); !ok || string(s.Early) != reply+saslFeatures || s.plain || !s.features {
					t.Errorf("%T, early %q", s.Conn, s.Early)
				}
				if got := seen.String(); got != "tcp ok, header ok, tls ok, encrypted, header ok" {
					t.Errorf("observed %s", got)
				}
				if len(seen.expires) != 0 {
					t.Error("a certificate that was not verified counts as such")
				}
				p := &peer{Conn: s.Conn}
				p.send(`<iq/>`)
				p.expect(t, `<iq/>`)
			})
		}
	}
}

// ownAddress is an address of this machine that is not loopback; without one it
// is loopback.
func ownAddress(t *testing.T) string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// What a server may do instead of agreeing to TLS.
func TestTLSOnThisMachineFails(t *testing.T) {
	_, cert := chatServer(t)
	for _, test := range []struct {
		name, answer, result, advice string
	}{
		{"refused", `<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>`, "tls no-starttls", "refused STARTTLS"},
		{"more behind it", proceed + " ", "tls injected", "sent more behind"},
		{"error", `<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`, "tls stream-error", "reset before TLS"},
		{"no certificate", proceed, "tls error", "has no certificate for the domain"},
	} {
		address := serve(t, func(p *peer) {
			p.expect(t, chatHeader)
			p.send(reply + tlsFeatures)
			p.expect(t, startTLSElement)
			p.send(test.answer)
			if test.name == "no certificate" {
				c := serverConfig(cert)
				c.CipherSuites, c.MaxVersion = []uint16{tls.TLS_RSA_WITH_RC4_128_SHA}, tls.VersionTLS12
				tls.Server(p.Conn, c).Handshake()
			}
			p.drain()
		})
		e, _ := endpointAt(t, "tcp://%s", address)
		if _, err := open(t, &e, chatRequest()); resultOf(err) != test.result || !strings.Contains(err.Error(), test.advice) {
			t.Errorf("%s: %s, %v", test.name, resultOf(err), err)
		}
	}
}

// remote makes the server look like one on another machine.
type remote struct{ net.Conn }

func (remote) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5222} }
func (remote) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 40000} }

func TestSameMachine(t *testing.T) {
	if sameMachine(remote{}) {
		t.Error("another machine is not this one")
	}
}

// On another machine nothing is said of the client without the protection that
// the server asks for, and what is not protected is told.
func TestTLSRequiredElsewhere(t *testing.T) {
	for features, required := range map[string]bool{
		tlsFeatures: true,
		`<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>`: true,
		bothFeatures: false, // there is a way in, and the operator wants it
		saslFeatures: false,
		noFeatures:   false,
	} {
		address := serve(t, func(p *peer) {
			p.expect(t, chatHeader)
			p.send(reply + features)
			p.drain()
		})
		e, seen := endpointAt(t, "tcp://%s", address)
		e.dialed = func(c net.Conn) net.Conn { return remote{c} }
		s, err := open(t, &e, chatRequest())
		if !required {
			if err != nil || !s.plain {
				t.Errorf("%s: %+v, %v", features, s, err)
			}
			continue
		}
		if resultOf(err) != "header tls-required" || !strings.Contains(err.Error(), "write starttls://"+address) {
			t.Errorf("%s: got %v", features, err)
		}
		if got := seen.String(); got != "tcp ok, header tls-required" {
			t.Errorf("observed %s", got)
		}
	}
}

// Which sessions take the short way: those for a domain that is known to need no
// TLS, and one in a while goes by Connect to look again.
func TestStatic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://192.0.2.1")}, w)
		answers := func(features, plain bool) {
			w.set("192.0.2.1:5222", func(_ context.Context, e *endpoint) (*Stream, error) {
				s := w.stream(e)
				s.features, s.plain = features, plain
				return s, nil
			})
		}
		expect := func(step string, want bool) {
			t.Helper()
			if got := r.Static("a.example") != nil; got != want {
				t.Errorf("%s: %v", step, got)
			}
		}
		q := &Request{Domain: "a.example"}
		expect("unknown", false)
		answers(false, false)
		connect(r, q)
		expect("a server that has not shown its features", false)
		answers(true, false)
		connect(r, q)
		expect("a server that got TLS", false)
		answers(true, true)
		connect(r, &Request{Domain: "b.example"})
		expect("another domain", false)
		connect(r, q)
		expect("known", true)
		time.Sleep(plainFor)
		expect("time to look again", false)
		expect("one session is enough", true)
		answers(true, false)
		connect(r, q)
		expect("it has changed", false)
		answers(true, true)
		connect(r, q)
		expect("and back", true)
		w.set("192.0.2.1:5222", fails(PhaseHeader, ResultTLSRequired))
		connect(r, q)
		expect("no way without", false)
		answers(true, true)
		for i := range 2 * maxPlainDomains {
			connect(r, &Request{Domain: fmt.Sprintf("%d.example", i)})
		}
		if n := len(r.table().static.plain); n > maxPlainDomains {
			t.Errorf("%d domains are remembered", n)
		}
		routed := newTestRouter(t, Config{Default: parse(t, "tcp://a", "tcp://b")}, w)
		connect(routed, q)
		if routed.Static(q.Domain) != nil || len(routed.table().static.plain) != 0 {
			t.Error("several servers have a Static")
		}
	})
}

// A server that would let nobody in is down at once, and stays so: health checks
// ask for the domain that has shown it. But one for which another domain works
// is not to blame.
func TestTLSRequiredIsDown(t *testing.T) {
	for _, test := range []struct {
		name   string
		domain string // the operator's
		served string // that another session was for
		down   bool
	}{
		{"the operator's domain", "a.example", "", true},
		{"a domain that a session names", "", "", true},
		{"another one works", "", "b.example", false},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			c := Config{Default: parse(t, "tcp://192.0.2.1")}
			if test.domain != "" {
				c.AllowList = []string{test.domain}
			}
			r := newTestRouter(t, c, w)
			w.set("192.0.2.1:5222", func(ctx context.Context, e *endpoint) (*Stream, error) {
				switch w.request.Domain {
				case "a.example":
					return fails(PhaseHeader, ResultTLSRequired)(ctx, e)
				case "":
					return w.stream(e), nil // host-unknown
				}
				s := w.stream(e)
				s.features, s.plain = true, true
				return s, nil
			})
			if test.served != "" {
				connect(r, &Request{Domain: test.served})
			}
			if err := connect(r, &Request{Domain: "a.example"}); err == nil {
				t.Fatal("no error")
			}
			if anyUp(r) == test.down {
				t.Errorf("%s: down is %v", test.name, !test.down)
			}
			defer run(r)()
			time.Sleep(time.Minute)
			synctest.Wait()
			if anyUp(r) == test.down {
				t.Errorf("%s: down is %v after a minute", test.name, !test.down)
			}
		})
	}
}
