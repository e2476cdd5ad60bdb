package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// answerTLS is the script of a server that has nothing special but TLS.
func answerTLS(cfg *tls.Config) func(p *peer) {
	return func(p *peer) {
		p.secure(cfg)
		p.receive(len(chatHeader))
		p.send(reply + noFeatures)
		p.drain()
	}
}

// afterStartTLS is the same behind STARTTLS.
func afterStartTLS(cfg *tls.Config) func(p *peer) {
	return func(p *peer) {
		p.send(reply + tlsFeatures)
		p.receive(len(clearHeader + startTLSElement))
		p.send(proceed)
		answerTLS(cfg)(p)
	}
}

// A certificate is for the domain that the client asks for, not for where DNS
// leads.
//
// Behaviour: upstream-certificate. RFC 6120, section 13.7; RFC 6125; XEP-0368, section 3.
func TestCertificate(t *testing.T) {
	ca := newAuthority(t, "Test CA", nil, nil)
	middle := newAuthority(t, "Middle CA", ca, nil)
	constrained := newAuthority(t, "Constrained CA", ca, func(c *x509.Certificate) {
		c.PermittedDNSDomains = []string{"other.example"}
	})
	expired := newAuthority(t, "Expired CA", ca, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	})
	chat := ca.issue(t, dnsNames("chat.example"))
	issue := func(edit func(*x509.Certificate)) tls.Certificate { return ca.issue(t, edit) }
	edited := func(edits ...func(*x509.Certificate)) tls.Certificate {
		return issue(func(c *x509.Certificate) {
			dnsNames("chat.example")(c)
			for _, edit := range edits {
				edit(c)
			}
		})
	}
	selfSigned := func(edit func(*x509.Certificate)) tls.Certificate { return (*authority)(nil).issue(t, edit) }
	self := selfSigned(dnsNames("chat.example"))
	selfFile, _ := writePair(t, self)
	leafOnly := func(c tls.Certificate) tls.Certificate {
		c.Certificate = c.Certificate[:1]
		return c
	}
	hash := func(c tls.Certificate) []byte {
		sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
		return sum[:]
	}
	pinHex := func(c tls.Certificate) string { return "pin=sha256:" + hex.EncodeToString(hash(c)) }
	pinBase64 := func(c tls.Certificate) string {
		return "pin=sha256:" + url.QueryEscape(base64.StdEncoding.EncodeToString(hash(c)))
	}
	old := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	}
	future := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(2*time.Hour), time.Now().Add(3*time.Hour)
	}
	trusted := "ca=" + ca.file

	for _, test := range []struct {
		name   string
		cert   tls.Certificate
		query  string
		domain string // empty means chat.example, "-" none
		only   string // starttls or tls; empty means both
		want   string
		text   string // in the error
	}{
		{"good", chat, trusted, "", "", ResultOK, ""},
		{"one of many names", issue(dnsNames("a.example", "CHAT.example")), trusted, "", "", ResultOK, ""},
		{"intermediate", middle.issue(t, dnsNames("chat.example")), trusted, "", "", ResultOK, ""},
		{"intermediate missing", leafOnly(middle.issue(t, dnsNames("chat.example"))), trusted, "", "", ResultCertUnknownCA, `comes from "CN=Middle CA", which is not in `},
		{"intermediate expired", expired.issue(t, dnsNames("chat.example")), trusted, "", "", ResultCertExpired, "expired on "},
		{"expired", edited(old), trusted, "", "", ResultCertExpired, "expired on "},
		{"not yet valid", edited(future), trusted, "", "", ResultCertExpired, "is the clock right?"},
		{"unknown authority", chat, "", "", "", ResultCertUnknownCA, `comes from "CN=Test CA"`},
		{"another authority", newAuthority(t, "Other CA", nil, nil).issue(t, dnsNames("chat.example")), trusted, "", "", ResultCertUnknownCA, "which is not in " + ca.file + ", the file of ?ca=; put"},
		{"self-signed", self, trusted, "", "", ResultCertSelfSigned, "is not in " + ca.file + ", the file of ?ca=; put it there, or set ?pin="},
		{"self-signed, nothing set", self, "", "", "", ResultCertSelfSigned, "set ?pin= to its key or ?ca= to its file"},
		{"self-signed, trusted", self, "ca=" + selfFile, "", "", ResultOK, ""},
		{"for clients", edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), trusted, "", "", ResultCertInvalid, "serverAuth"},
		{"weak signature", edited(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), trusted, "", "", ResultCertInvalid, "signed with ECDSA-SHA1, which is broken"},
		{"name constraints", constrained.issue(t, dnsNames("chat.example")), trusted, "", "", ResultCertInvalid, "not valid"},
		{"not a certificate", tls.Certificate{Certificate: [][]byte{[]byte("x")}, PrivateKey: chat.PrivateKey, Leaf: chat.Leaf}, trusted, "", "", ResultCertInvalid, "malformed"},
		{"without its key", tls.Certificate{Certificate: chat.Certificate, PrivateKey: self.PrivateKey, Leaf: self.Leaf}, trusted, "", "", ResultCertInvalid, "invalid signature"},
		{"unknown critical extension", edited(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true}}
		}), trusted, "", "", ResultCertInvalid, "unhandled critical extension"},

		{"wrong name", issue(dnsNames("a.example", "b.example")), trusted, "", "", ResultCertName, "the certificate is for a.example, b.example, not for chat.example; set ?name= if that is on purpose"},
		{"the target's name", issue(dnsNames("localhost", "xmpp-1.provider.example")), trusted, "", "", ResultCertName, "not for chat.example"},
		{"parent", issue(dnsNames("example")), trusted, "", "", ResultCertName, ""},
		{"wildcard", issue(dnsNames("*.example")), trusted, "", "", ResultOK, ""},
		{"wildcard too deep", issue(dnsNames("*.example")), trusted, "a.chat.example", "", ResultCertName, ""},
		{"wildcard for itself", issue(dnsNames("*.chat.example")), trusted, "", "", ResultCertName, ""},
		{"wildcard inside", issue(dnsNames("c*t.example", "chat.*")), trusted, "", "", ResultCertName, ""},
		{"wildcard in the middle", issue(dnsNames("a.*.example")), trusted, "a.chat.example", "", ResultCertName, ""},
		{"common name", issue(func(c *x509.Certificate) { c.Subject.CommonName = "chat.example" }), trusted, "", "", ResultCertName, "the common name does not count"},
		{"many names", issue(dnsNames(slices.Repeat([]string{"a.example"}, 50)...)), trusted, "", "", ResultCertName, "a.example, a.example and 45 more, not for"},
		{"odd names", issue(dnsNames("a\nb", strings.Repeat("x", 1000))), trusted, "", "", ResultCertName, "a?b, " + strings.Repeat("x", maxText) + "..., not"},

		{"SRV-ID", issue(sanNames(false, srvName("_xmpp-client.chat.example"))), trusted, "", "", ResultOK, ""},
		{"SRV-ID, critical", issue(sanNames(true, srvName("_xmpp-client.Chat.Example"))), trusted, "", "", ResultOK, ""},
		{"SRV-ID, direct TLS", issue(sanNames(false, srvName("_xmpps-client.chat.example"))), trusted, "", "tls", ResultOK, ""},
		{"SRV-ID, direct TLS only", issue(sanNames(false, srvName("_xmpps-client.chat.example"))), trusted, "", "starttls", ResultCertName, "is for _xmpps-client.chat.example, not"},
		{"SRV-ID, servers", issue(sanNames(false, srvName("_xmpp-server.chat.example"))), trusted, "", "", ResultCertName, ""},
		{"SRV-ID, other domain", issue(sanNames(false, srvName("_xmpp-client.a.example"))), trusted, "", "", ResultCertName, ""},
		{"SRV-ID, wildcard", issue(sanNames(false, srvName("_xmpp-client.*.example"))), trusted, "", "", ResultCertName, ""},
		{"XmppAddr", issue(sanNames(true, xmppAddr("chat.example"))), trusted, "", "", ResultOK, ""},
		{"XmppAddr, U-label", issue(sanNames(false, xmppAddr("bücher.example"))), trusted, "xn--bcher-kva.example", "", ResultOK, ""},
		{"XmppAddr, other", issue(sanNames(false, dnsName("a.example"), xmppAddr("b.example"))), trusted, "", "", ResultCertName, "is for a.example, b.example, not"},
		{"XmppAddr, account", issue(sanNames(false, xmppAddr("romeo@chat.example"))), trusted, "", "", ResultCertName, ""},
		{"XmppAddr, constrained", constrained.issue(t, sanNames(false, dnsName("a.other.example"), xmppAddr("chat.example"))), trusted, "", "", ResultCertName, ""},
		{"constrained, allowed", constrained.issue(t, sanNames(false, dnsName("a.other.example"), xmppAddr("chat.example"))), trusted, "a.other.example", "", ResultOK, ""},

		{"address", issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("192.0.2.1")} }), trusted, "192.0.2.1", "", ResultOK, ""},
		{"IPv6 address", issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} }), trusted, "[2001:DB8:0::1]", "", ResultOK, ""},
		{"address as a name", issue(dnsNames("192.0.2.1")), trusted, "192.0.2.1", "", ResultCertName, ""},
		{"address as SRV-ID", issue(sanNames(false, srvName("_xmpp-client.192.0.2.1"))), trusted, "192.0.2.1", "", ResultCertName, ""},
		{"name for an address", chat, trusted, "192.0.2.1", "", ResultCertName, "is for chat.example, not for 192.0.2.1"},

		{"no domain", issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("127.0.0.1")} }), trusted, "-", "", ResultOK, ""},
		{"no domain, wrong host", chat, trusted, "-", "", ResultCertName, "not for 127.0.0.1"},
		{"name=", chat, trusted + "&name=chat.example", "a.example", "", ResultOK, ""},
		{"name= instead of the domain", chat, trusted + "&name=a.example", "", "", ResultCertName, "not for a.example"},

		{"pin", self, pinHex(self), "", "", ResultOK, ""},
		{"pin in base64", self, pinBase64(self), "", "", ResultOK, ""},
		{"pin, any name", chat, pinHex(chat), "a.example", "", ResultOK, ""},
		{"second pin", self, pinHex(chat) + "&" + pinHex(self), "", "", ResultOK, ""},
		{"wrong pin", self, pinHex(chat), "", "", ResultCertPin, "does not match any ?pin="},
		{"pin of the authority", chat, "pin=sha256:" + hex.EncodeToString(hash(tls.Certificate{Leaf: ca.cert})), "", "", ResultCertPin, ""},
	} {
		for _, way := range []struct {
			scheme string
			script func(*tls.Config) func(*peer)
		}{{"tls", answerTLS}, {"starttls", afterStartTLS}} {
			if test.only != "" && test.only != way.scheme {
				continue
			}
			t.Run(test.name+"/"+way.scheme, func(t *testing.T) {
				t.Parallel()
				e, seen := endpointAt(t, way.scheme+"://%s?"+test.query, serve(t, way.script(serverConfig(test.cert))))
				r := chatRequest()
				switch test.domain {
				case "":
				case "-":
					r.Domain = ""
				default:
					r.Domain = test.domain
				}
				_, err := open(t, &e, r)
				if test.want == ResultOK {
					if err != nil || len(seen.expires) != 1 {
						t.Errorf("%v, expires %v", err, seen.expires)
					}
					return
				}
				if got := resultOf(err); got != "tls "+test.want {
					t.Fatalf("%s, want tls %s: %v", got, test.want, err)
				}
				if !strings.Contains(err.Error(), test.text) {
					t.Errorf("error %q, want %q", err, test.text)
				}
				if len(seen.expires) != 0 {
					t.Error("an expiry was reported")
				}
			})
		}
	}
}

// A pin does not make up for an expired certificate.
func TestPinExpired(t *testing.T) {
	self := (*authority)(nil).issue(t, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	})
	o := &options{pins: []pin{sha256.Sum256(self.Leaf.RawSubjectPublicKeyInfo)}}
	err := o.verify(nil, reference{"chat.example", directTLS, 0}, []*x509.Certificate{self.Leaf})
	if err == nil || err.(*failure).result != ResultCertExpired {
		t.Error(err)
	}
}

// Without any name to check for, any certificate would do.
func TestNoReference(t *testing.T) {
	ca, cert := chatServer(t)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	err := new(options).verify(roots, reference{"", startTLS, 0}, []*x509.Certificate{cert.Leaf})
	if err == nil || err.(*failure).result != ResultCertName {
		t.Error(err)
	}
}

// Whatever a certificate holds, reading its names ends.
func FuzzOtherNames(f *testing.F) {
	for _, names := range [][]any{
		{dnsName("a.example"), srvName("_xmpp-client.a.example"), xmppAddr("a.example")},
		{},
	} {
		var c x509.Certificate
		sanNames(false, names...)(&c)
		f.Add(c.ExtraExtensions[0].Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		c := &x509.Certificate{Extensions: []pkix.Extension{{Id: oidSAN, Value: value}}}
		names := otherNames(c)
		names.prove(reference{"a.example", startTLS, 0})
		if text := listNames(c, names); len(text) > maxNames*(maxText*3+10)+100 {
			t.Errorf("%d bytes", len(text))
		}
	})
}

// Direct TLS names the protocol. A server may ignore that, but not choose another.
//
// Behaviour: upstream-alpn. XEP-0368, section 3.
func TestALPN(t *testing.T) {
	ca, cert := chatServer(t)
	for _, test := range []struct {
		name    string
		script  func(p *peer)
		want    string
		message string
	}{
		{"none", answerTLS(serverConfig(cert)), ResultOK, ""},
		{"xmpp-client", answerTLS(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1", alpn}}), ResultOK, ""},
		{"refused", answerTLS(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}), ResultBadALPN, "is it an XMPP server?"},
		{"not what was offered", func(p *peer) {
			p.receive(1)
			p.send(httpServerHello)
			p.drain()
		}, ResultBadALPN, "is it an XMPP server?"},
		{"not TLS", func(p *peer) {
			p.send("<?xml version='1.0'?><stream:stream>")
			p.drain()
		}, ResultBadStream, "write starttls:// or tcp://"},
		{"the hello", answerTLS(&tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if h.ServerName != "chat.example" || !slices.Equal(h.SupportedProtos, []string{alpn}) {
				return nil, fmt.Errorf("SNI %q, ALPN %q", h.ServerName, h.SupportedProtos)
			}
			return serverConfig(cert), nil
		}}), ResultOK, ""},
		{"alert unrecognized_name", func(p *peer) {
			p.receive(1)
			p.send("\x15\x03\x03\x00\x02\x02\x70")
			p.drain()
		}, ResultCertName, "set ?name="},
		{"alert handshake_failure", func(p *peer) {
			p.receive(1)
			p.send("\x15\x03\x03\x00\x02\x02\x28")
			p.drain()
		}, ResultError, "handshake failure"},
		{"old TLS only", answerTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), ResultError, "version"},
		{"hung up", func(p *peer) { p.receive(1); p.Close() }, ResultClosed, "closed the connection"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e, _ := endpointAt(t, "tls://%s?ca="+ca.file, serve(t, test.script))
			_, err := open(t, &e, chatRequest())
			if got := strings.TrimPrefix(resultOf(err), "tls "); got != test.want {
				t.Fatalf("%s, want %s: %v", got, test.want, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.message) {
				t.Errorf("error %q, want %q", err, test.message)
			}
		})
	}
}

// httpServerHello is a ServerHello of TLS 1.2 that chooses http/1.1: crypto/tls
// has no server that chooses what was not offered.
const httpServerHello = "\x16\x03\x03\x00\x3b" + // a handshake record
	"\x02\x00\x00\x37\x03\x03" + // ServerHello, TLS 1.2
	"0123456789abcdef0123456789abcdef" + "\x00" + // random, no session
	"\xc0\x2b\x00" + // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression
	"\x00\x0f\x00\x10\x00\x0b\x00\x09\x08http/1.1" // the extension

// A resumed session is checked like a new one, and proves only the name that it
// was started for.
func TestResumption(t *testing.T) {
	ca := newAuthority(t, "Test CA", nil, nil)
	cert := ca.issue(t, dnsNames("chat.example", "a.example"))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cfg := serverConfig(cert)
			cfg.MaxVersion = version
			address := serve(t, answerTLS(cfg))
			e, _ := endpointAt(t, "tls://%s?ca="+ca.file, address)

			var checked, resumed atomic.Int32
			watch := func(domain string) {
				cfg := e.options.files.current.Load().tls.get(e.options, e.options.files.current.Load(), reference{domain, directTLS, 0})
				verify := cfg.VerifyConnection
				cfg.VerifyConnection = func(s tls.ConnectionState) error {
					checked.Add(1)
					if s.DidResume {
						resumed.Add(1)
					}
					return verify(s)
				}
			}
			watch("chat.example")
			watch("a.example")
			steps := []struct {
				domain  string
				resumed int32
			}{{"chat.example", 0}, {"chat.example", 1}, {"a.example", 1}, {"a.example", 2}}
			for i, step := range steps {
				r := chatRequest()
				r.Domain = step.domain
				if _, err := open(t, &e, r); err != nil {
					t.Fatal(err)
				}
				if checked.Load() != int32(i+1) || resumed.Load() != step.resumed {
					t.Fatalf("step %d: %d checks, %d of resumed sessions, want %d", i, checked.Load(), resumed.Load(), step.resumed)
				}
			}
			// What was good then is not good for ever.
			e.options.files.current.Load().roots = x509.NewCertPool()
			if _, err := open(t, &e, chatRequest()); resultOf(err) != "tls "+ResultCertUnknownCA {
				t.Errorf("%s: %v", resultOf(err), err)
			}
			if resumed.Load() != 3 {
				t.Error("not resumed")
			}
		})
	}
}

// Clients cannot make the gateway remember without bound.
func TestTLSConfigsAreBounded(t *testing.T) {
	var c tlsConfigs
	o := &options{}
	for i := range maxTLSConfigs + 100 {
		c.get(o, &credentials{}, reference{fmt.Sprint(i), directTLS, 0})
	}
	if len(c.byRef) != maxTLSConfigs {
		t.Errorf("%d configurations", len(c.byRef))
	}
	last := reference{fmt.Sprint(maxTLSConfigs + 99), directTLS, 0}
	kept := c.get(o, &credentials{}, last)
	if c.get(o, &credentials{}, last) != kept {
		t.Error("a configuration is not kept")
	}
}

func TestClientCertificate(t *testing.T) {
	ca, cert := chatServer(t)
	own := ca.issue(t, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	certFile, keyFile := writePair(t, own)
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	cfg := serverConfig(cert)
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, clients
	address := serve(t, answerTLS(cfg))
	for query, presents := range map[string]bool{
		"?ca=" + ca.file: false,
		"?ca=" + ca.file + "&cert=" + certFile + "&key=" + keyFile: true,
	} {
		s, err := ParseServer("tls://" + address + query)
		if err != nil {
			t.Fatal(err)
		}
		e := s.endpoint(new(recorder))
		_, failed := open(t, &e, chatRequest())
		if s.PresentsCertificate() != presents || (failed == nil) != presents {
			t.Errorf("PresentsCertificate = %t, %v", s.PresentsCertificate(), failed)
		}
	}
}

// The context of the session also ends a handshake; see TestCancel. Here it has
// ended when the stream is open.
func TestCancelAtTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	e, _ := endpointAt(t, "tcp://%s", serve(t, func(p *peer) {
		p.receive(len(chatHeader))
		cancel()
		p.send(reply + noFeatures)
		p.drain()
	}))
	s, err := e.open(ctx, chatRequest())
	if _, failed := closeLater(t, s, err); failed != nil && failed.Result != ResultAbandoned {
		t.Error(failed)
	}
}

// TLS to the server is of no later version than TLS with the client, unless the server
// has no such version.
//
// Behaviour: upstream-tls-version. XEP-0515.
func TestSameVersion(t *testing.T) {
	ca, cert := chatServer(t)
	const v12, v13 = tls.VersionTLS12, tls.VersionTLS13
	for _, test := range []struct{ client, min, max, want uint16 }{
		{0, v12, v13, v13},
		{v13, v12, v13, v13},
		{v12, v12, v13, v12},
		{v12, v13, v13, v13},
		{v13, v12, v12, v12},
		{tls.VersionTLS10, v12, v13, v12}, // of a proxy in front
		{0x0305, v12, v13, v13},
	} {
		for scheme, script := range map[string]func(*tls.Config) func(*peer){"tls": answerTLS, "starttls": afterStartTLS} {
			t.Run(fmt.Sprintf("%s, %x at %x to %x", scheme, test.client, test.min, test.max), func(t *testing.T) {
				t.Parallel()
				cfg := serverConfig(cert)
				cfg.MinVersion, cfg.MaxVersion = test.min, test.max
				answer := script(cfg)
				e, _ := endpointAt(t, scheme+"://%s?ca="+ca.file, serve(t, answer))
				r := chatRequest()
				r.TLS = test.client
				s, err := open(t, &e, r)
				if err != nil {
					t.Fatal(err)
				}
				if got := s.Conn.(*tls.Conn).ConnectionState().Version; got != test.want {
					t.Errorf("TLS %x, want %x", got, test.want)
				}
			})
		}
	}
}
