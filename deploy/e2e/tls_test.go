package e2e

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// refused reports how it differs from what a client must see when no server can be trusted or reached: nothing of a
// server, above all no mechanism to tell a password to, but remote-connection-failed and a clean end.
func refused(url, host string) error {
	c, err := dial(url)
	if err != nil {
		return err
	}
	defer c.conn().Close()
	if err := c.header(host); err != nil {
		return err
	}
	for _, want := range []string{"<open ", "<stream:error ", "<close "} {
		got, err := c.next()
		switch {
		case err != nil:
			return fmt.Errorf("want %s.../>: %w", want, err)
		case !strings.HasPrefix(got, want), want == "<stream:error " && !strings.Contains(got, "<remote-connection-failed "):
			return fmt.Errorf("want %s.../> and no condition but remote-connection-failed, got %s", want, got)
		}
	}
	if _, err := c.next(); closeCode(err) != 1000 {
		return fmt.Errorf("want close code 1000: %w", err)
	}
	return nil
}

// Every reason not to trust a server has a line in the log that says what to do, and a value of the metric.
func TestBadCertificate(t *testing.T) {
	needGateway(t)
	t.Parallel()
	trusted, unknown := newAuthority(t), newAuthority(t)
	good := trusted.issue(t, nil)
	ca := "ca=" + trusted.file
	cases := []struct {
		name           string
		change         func(*x509.Certificate)
		by             *authority
		options        string
		result, advice string // empty: the certificate is good
	}{
		{"good", nil, trusted, ca, "", ""},
		{"good name", func(c *x509.Certificate) { c.DNSNames = []string{"xmpp.example"} }, trusted, ca + "&name=xmpp.example", "", ""},
		{"good pin", nil, &authority{}, pinOf(good), "", ""}, // see below
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }, trusted, ca, "cert-expired", "renew it"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, trusted, ca, "cert-expired", "is the clock right?"},
		{"wrong name", func(c *x509.Certificate) { c.DNSNames = []string{"xmpp.example"} }, trusted, ca, "cert-name", "xmpp.example, not for localhost; set ?name="},
		{"self-signed", nil, &authority{}, ca, "cert-self-signed", "set ?pin= to its key"},
		{"unknown CA", nil, unknown, ca, "cert-unknown-ca", "the file of ?ca=; put the certificate of that authority there"},
		{"unknown to the system", nil, trusted, "", "cert-unknown-ca", "set ?ca= to its file"},
		{"pin mismatch", nil, trusted, pinOf(good), "cert-pin", "does not match any ?pin="},
	}
	for _, c := range cases {
		for _, scheme := range []string{"starttls", "tls"} {
			t.Run(c.name+"/"+scheme, func(t *testing.T) {
				t.Parallel()
				cert := good
				if c.name != "good pin" {
					cert = c.by.issue(t, c.change)
				}
				toy := &toyServer{starttls: withCertificate(cert)}
				if scheme == "tls" {
					toy = &toyServer{direct: withCertificate(cert)}
				}
				startToy(t, toy)
				server := scheme + "://" + toy.address
				// Another server makes the gateway ready.
				g := gatewayFor(t, "tcp://"+servers[0].c2s, "XMPPGATE_DOMAINS="+anonDomain+","+domain+"="+server+"?"+c.options)
				if c.result == "" {
					u, err := login(g.url(), domain, "juliet", "balcony")
					if err == nil {
						err = u.close()
					}
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				from := g.proc.log.len()
				if err := refused(g.url(), domain); err != nil {
					t.Error(err)
				}
				if n := toy.authenticated(); n != 0 {
					t.Errorf("the server received %d passwords", n)
				}
				r, err := g.awaitEnd(from)
				if err != nil {
					t.Fatal(err)
				}
				if r.Level != "WARN" || r.Ending != "dial-failed" || !strings.Contains(r.Cause, "server "+server+": tls: ") || !strings.Contains(r.Cause, c.advice) {
					t.Errorf("the log has %+v, want a warning that names the server and says %q", r, c.advice)
				}
				failed := fmt.Sprintf(`xmppgate_upstream_opens_total{phase="tls",result=%q,server=%q}`, c.result, server)
				if n, err := g.metric(failed); err != nil || n == 0 {
					t.Errorf("%s is %v, %v; want some", failed, n, err)
				}
				all, err := g.sumMatching("xmppgate_upstream_opens_total", `phase="tls"`, fmt.Sprintf("server=%q", server))
				if n, _ := g.metric(failed); err != nil || all != n {
					t.Errorf("%v of the %v results of TLS are %s", n, all, c.result)
				}
			})
		}
	}
}

// meddler is somebody between the gateway and a server: whatever the server sends goes through change. What the gateway
// sends is kept.
type meddler struct {
	address string
	up      transcript
}

func startMeddler(t *testing.T, target string, change func([]byte) []byte) *meddler {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	m := &meddler{address: ln.Addr().String()}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer s.Close()
				var both sync.WaitGroup
				both.Go(func() { io.Copy(io.MultiWriter(&m.up, s), c); s.Close() })
				both.Go(func() {
					buf := make([]byte, 64<<10)
					for {
						n, err := s.Read(buf)
						if err != nil {
							break
						}
						if _, err := c.Write(change(bytes.Clone(buf[:n]))); err != nil {
							break
						}
					}
					c.Close()
				})
				both.Wait()
			}()
		}
	}()
	return m
}

// Somebody on the way who takes STARTTLS out of the offer, or puts words behind it, gets no session and no password.
func TestMeddler(t *testing.T) {
	needGateway(t)
	t.Parallel()
	behind := func(marker, extra string) func([]byte) []byte {
		return func(b []byte) []byte {
			if i := bytes.Index(b, []byte(marker)); i >= 0 {
				end := i + bytes.IndexByte(b[i:], '>') + 1
				return append(append(b[:end:end], extra...), b[end:]...)
			}
			return b
		}
	}
	plain := "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
	cases := []struct {
		name, result string
		change       func([]byte) []byte
	}{
		{"STARTTLS cut out", "no-starttls", func(b []byte) []byte { return starttls.ReplaceAll(b, nil) }},
		{"STARTTLS refused", "no-starttls", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("<proceed"), []byte("<failure"))
		}},
		{"features behind <proceed/>", "injected", behind("<proceed", plain)},
		{"a space behind <proceed/>", "injected", behind("<proceed", " ")},
		{"success behind <proceed/>", "injected", behind("<proceed", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")},
	}
	eachServer(t, func(t *testing.T, s *server) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				m := startMeddler(t, s.c2s, c.change)
				server := "starttls://" + m.address
				g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_DOMAINS="+anonDomain+","+domain+"="+server+s.ca())
				if err := refused(g.url(), domain); err != nil {
					t.Error(err)
				}
				if strings.Contains(m.up.all(), "<auth") {
					t.Error("a password was sent in the clear")
				}
				failed := fmt.Sprintf(`xmppgate_upstream_opens_total{phase="tls",result=%q,server=%q}`, c.result, server)
				if n, err := g.metric(failed); err != nil || n == 0 {
					t.Errorf("%s is %v, %v; want some", failed, n, err)
				}
			})
		}
		t.Run("nothing changed", func(t *testing.T) {
			m := startMeddler(t, s.c2s, func(b []byte) []byte { return b })
			as(t, gatewayFor(t, "starttls://"+m.address+s.ca()).url(), s.newUser(t, "juliet"), "balcony").leave()
		})
	})
}

// What becomes of mechanisms that bind to TLS, when ejabberd offers them.
func TestChannelBinding(t *testing.T) {
	needGateway(t)
	t.Parallel()
	const types = "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-server-end-point'/><channel-binding type='tls-exporter'/></sasl-channel-binding>"
	ca := newAuthority(t)
	toy := startToy(t, &toyServer{direct: withCertificate(ca.issue(t, nil)), features: types +
		"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism><mechanism>SCRAM-SHA-1-PLUS</mechanism></mechanisms>"})
	upstreams := map[string]string{"toy": "tls://" + toy.address + "?ca=" + ca.file}
	for _, s := range servers {
		if s.name == "ejabberd" { // Prosody 0.12 has no binding over TLS 1.3
			upstreams["ejabberd, tls"] = "tls://" + s.directTLS + s.ca()
			upstreams["ejabberd, starttls"] = "starttls://" + s.c2s + s.ca()
		}
	}
	cases := []struct {
		mode  string
		plus  bool     // at the client
		types []string // at the client of the toy, which has all of them
	}{
		{"auto", false, nil},
		{"pass", true, []string{"tls-server-end-point", "tls-exporter"}},
		{"strip", false, nil},
		{"end-point", true, []string{"tls-server-end-point"}},
	}
	for name, upstream := range upstreams {
		for _, c := range cases {
			t.Run(name+"/"+c.mode, func(t *testing.T) {
				u, err := dial(gatewayFor(t, upstream, "XMPPGATE_CHANNEL_BINDING="+c.mode).url())
				if err != nil {
					t.Fatal(err)
				}
				defer u.conn().Close()
				features, err := u.open(domain)
				if err != nil {
					t.Fatal(err)
				}
				plus := strings.Contains(features.raw, "-PLUS<")
				var types []string
				for _, n := range features.child("sasl-channel-binding").Children {
					types = append(types, n.attr("type"))
				}
				wantPlus := c.plus
				if name != "toy" && c.mode == "end-point" { // version 23.01 does not list types, so this one is not known to be there
					wantPlus = false
				}
				if plus != wantPlus || name == "toy" && fmt.Sprint(types) != fmt.Sprint(c.types) || !plus && types != nil {
					t.Errorf("-PLUS: %v, types %q; want %v, %q\n%s", plus, types, wantPlus, c.types, features.raw)
				}
				if !strings.Contains(features.raw, ">SCRAM-SHA-1<") {
					t.Errorf("without a mechanism that works: %s", features.raw)
				}
			})
		}
	}
}

// Sessions in TLS are relayed, lost and resumed by both loops (XEP-0198, section 5).
func TestResumeOverTLS(t *testing.T) {
	needGateway(t)
	t.Parallel()
	eachServer(t, func(t *testing.T, s *server) {
		for _, upstream := range []string{"tls://" + s.directTLS + s.ca(), "starttls://" + s.c2s + s.ca()} {
			scheme, _, _ := strings.Cut(upstream, ":")
			for _, loop := range []string{"auto", "goroutine"} {
				t.Run(scheme+"/"+loop, func(t *testing.T) {
					resumes(t, s, gatewayFor(t, upstream, "XMPPGATE_LOOP="+loop).url())
				})
			}
		}
	})
}

// Idle sessions cost memory, and nothing that runs.
func TestIdleTLS(t *testing.T) {
	needGateway(t)
	const sessions = 1000
	s := servers[0]
	for _, upstream := range []string{"tcp://" + s.c2s, "tls://" + s.directTLS + s.ca()} {
		scheme, _, _ := strings.Cut(upstream, ":")
		t.Run(scheme, func(t *testing.T) {
			g := gatewayFor(t, upstream)
			before, err := g.footprint()
			if err != nil {
				t.Fatal(err)
			}
			clients := make([]*client, sessions)
			inParallel(t, sessions, 32, func(i int) (err error) {
				clients[i], err = login(g.url(), anonDomain, "", "")
				return err
			})
			if t.Failed() {
				return
			}
			var now footprint
			err = poll(patience, func() (err error) { // those that connected have returned
				now, err = g.footprint()
				if most := before.goroutines + 20; err == nil && now.goroutines > most && !goroutineLoop {
					err = fmt.Errorf("%v with %d idle sessions, want at most %d goroutines", now, sessions, most)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			t.Logf("before: %v\nwith %d idle sessions: %v; %.1f KiB resident each", before, sessions, now, float64(now.rss-before.rss)/sessions)
			inParallel(t, sessions, 32, func(i int) error { return clients[i].close() })
		})
	}
}
