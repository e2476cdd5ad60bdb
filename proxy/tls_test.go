package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/session"
)

func oneCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := testCertificate()
	return &c, nil
}

// A handshakeWitness notes what is observed of TLS with clients.
type handshakeWitness struct {
	nopObserver
	mu         sync.Mutex
	handshakes []Handshake
	upgrades   []string
}

func (o *handshakeWitness) Secured(h Handshake) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handshakes = append(o.handshakes, h)
}

func (o *handshakeWitness) Upgraded(result string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.upgrades = append(o.upgrades, result)
}

// results are those of handshakes, in order.
func (o *handshakeWitness) results() (all []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, h := range o.handshakes {
		all = append(all, h.Result)
	}
	return all
}

// A tlsBench is a bench whose gateway speaks TLS with clients.
type tlsBench struct {
	*bench
	o       *handshakeWitness
	address string
}

func newTLSBench(t testing.TB, loop string, options ...func(*Gateway)) *tlsBench {
	t.Helper()
	o := &handshakeWitness{}
	b := newBench(t, loop, append([]func(*Gateway){func(g *Gateway) { g.Certificate, g.Observer = oneCertificate, o }}, options...)...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.g.ServeTLS(l) }()
	t.Cleanup(func() { l.Close() })
	return &tlsBench{b, o, l.Addr().String()}
}

func (b *tlsBench) dial() *net.TCPConn {
	b.t.Helper()
	c, err := net.Dial("tcp", b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// A recordedConn keeps what it has read.
type recordedConn struct {
	*net.TCPConn
	read []byte
}

func (c *recordedConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.read = append(c.read, b[:n]...)
	return n, err
}

// endsWell fails unless what cl gets now is close_notify and then FIN. Package crypto/tls
// returns io.EOF without close_notify, too.
func (b *tlsBench) endsWell(cl *tls.Conn) {
	b.t.Helper()
	if n, err := cl.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		b.t.Errorf("read %d, %v", n, err)
	}
	if n, err := cl.NetConn().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		b.t.Errorf("no FIN: read %d, %v", n, err)
	}
	last := 0
	for rest := cl.NetConn().(*recordedConn).read; len(rest) >= 5; {
		last = int(rest[3])<<8 | int(rest[4])
		rest = rest[5+last:]
	}
	// An alert has two bytes (RFC 8446, section 6); then come the type, in TLS 1.3, and 16
	// bytes of the AEAD, behind 8 for the nonce in TLS 1.2.
	if want := map[uint16]int{tls.VersionTLS12: 2 + 16 + 8, tls.VersionTLS13: 2 + 1 + 16}[cl.ConnectionState().Version]; last != want {
		b.t.Errorf("the last record has %d bytes, an alert would have %d", last, want)
	}
}

// open opens a session over TLS.
func (b *tlsBench) open(config *tls.Config) (cl *tls.Conn, srv serverConn) {
	b.t.Helper()
	cl = tls.Client(&recordedConn{TCPConn: b.dial()}, config)
	io.WriteString(cl, goodRequest+"\r\n")
	if head := readResponse(b.t, cl); !strings.Contains(head, "\r\nStrict-Transport-Security: max-age=31536000\r\n") {
		b.t.Errorf("the answer has no HSTS: %q", head)
	}
	return cl, b.openStream(cl, testHeader)
}

var anyServer = &tls.Config{InsecureSkipVerify: true}

// A session over TLS is like any other, in both versions and however it comes in pieces.
func TestSessionsOverTLS(t *testing.T) {
	onLoops(t, func(t *testing.T, loop string) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tls.VersionName(version), func(t *testing.T) {
				b := newTLSBench(t, loop)
				cl, srv := b.open(&tls.Config{InsecureSkipVerify: true, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}})
				if p := cl.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
					t.Errorf("the protocol is %q", p)
				}
				for _, n := range []int{1, 300, 20_000, 200_000} {
					m := "<message>" + strings.Repeat("x", n) + "</message>"
					go b.send(cl, m)
					b.expect(srv, m)
					go io.WriteString(srv, m)
					if got := b.message(cl); len(got) < n || !strings.HasPrefix(got, "<message xmlns=") {
						t.Errorf("%d: %.100q", n, got)
					}
				}
				b.send(cl, `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`)
				b.expect(srv, "</stream:stream>")
				io.WriteString(srv, "</stream:stream>")
				srv.Close()
				if got := b.message(cl); got != framing.CloseMessage {
					t.Errorf("got %q", got)
				}
				if got := b.message(cl); got != "close 1000" {
					t.Errorf("got %q", got)
				}
				cl.Write(maskedFrame(ws.OpClose, true, []byte{3, 232}))
				b.endsWell(cl)
				o := b.o.handshakes[0]
				if o.Result != "ok" || o.Version != strings.TrimPrefix(tls.VersionName(version), "TLS ") || o.Curve == otherCurve || o.Took <= 0 {
					t.Errorf("%+v", o)
				}
			})
		}
	})
}

var errBadAnswer = errors.New("")

// What cannot be served is told apart, and the gateway answers in the protocol that the
// client speaks.
func TestBrokenHandshakes(t *testing.T) {
	get := "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	refuse := errors.New("unknown authority")
	for name, test := range map[string]struct {
		client  func(c net.Conn) error
		gateway func(*Gateway)
		result  string // of the handshake
		upgrade string // of the connection
	}{
		"HTTP": {client: func(c net.Conn) error {
			io.WriteString(c, get)
			if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") || !strings.Contains(string(got), "https://") || strings.Contains(string(got), "Strict") {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		}, result: "not-tls", upgrade: "no-tls"},
		"a stream": {client: func(c net.Conn) error {
			io.WriteString(c, "<?xml version='1.0'?>")
			_, err := io.ReadAll(c)
			return err
		}, result: "not-tls", upgrade: "xmpp-stream"},
		"a PROXY header": {client: func(c net.Conn) error {
			io.WriteString(c, "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n")
			_, err := io.ReadAll(c)
			return err
		}, result: "not-tls", upgrade: "proxy-header"},
		"a record without an end": {client: func(c net.Conn) error {
			c.Write([]byte{22, 3, 1, 0xff, 0xff, 1})
			_, err := io.ReadAll(c)
			return err
		}, result: "not-tls", upgrade: "no-tls"},
		"rubbish in a record": {client: func(c net.Conn) error {
			c.Write([]byte{22, 3, 1, 0, 4, 1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9})
			got, err := io.ReadAll(c)
			if len(got) == 0 || got[0] != 21 {
				return fmt.Errorf("no alert: %q", got)
			}
			return err
		}, result: "protocol", upgrade: "tls-failed"},
		"gone": {client: func(c net.Conn) error {
			c.Write([]byte{22, 3, 1, 0, 4, 1, 0, 1, 0})
			return c.Close()
		}, result: "gone", upgrade: "tls-failed"},
		"old": {client: func(c net.Conn) error {
			if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake(); err == nil {
				return errBadAnswer
			}
			return nil
		}, result: "version", upgrade: "tls-failed"},
		"XMPP": {client: func(c net.Conn) error {
			if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"xmpp-client"}}).Handshake(); err == nil {
				return errBadAnswer
			}
			return nil
		}, result: "alpn", upgrade: "tls-failed"},
		"a challenge without ACME": {client: func(c net.Conn) error {
			if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ACMEProtocol}}).Handshake(); err == nil {
				return errBadAnswer
			}
			return nil
		}, result: "alpn", upgrade: "tls-failed"},
		"not trusted": {client: func(c net.Conn) error {
			config := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return refuse }}
			if err := tls.Client(c, config).Handshake(); !errors.Is(err, refuse) {
				return err
			}
			return nil
		}, result: "refused", upgrade: "tls-failed"},
		"no cipher": {client: func(c net.Conn) error {
			config := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}
			if err := tls.Client(c, config).Handshake(); err == nil {
				return errBadAnswer
			}
			return nil
		}, result: "cipher", upgrade: "tls-failed"},
		"no certificate": {client: func(c net.Conn) error {
			if err := tls.Client(c, anyServer).Handshake(); err == nil {
				return errBadAnswer
			}
			return nil
		}, gateway: func(g *Gateway) {
			g.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
		}, result: "no-certificate", upgrade: "tls-failed"},
		"a panic": {client: func(c net.Conn) error {
			tls.Client(c, anyServer).Handshake()
			return nil
		}, gateway: func(g *Gateway) {
			g.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { panic("a fault") }
		}, result: "protocol", upgrade: "tls-failed"},
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, func(t *testing.T, loop string) {
				if strings.HasSuffix(loop, overTLS) {
					t.Skip("there is no server")
				}
				b := newTLSBench(t, loop, func(g *Gateway) {
					if test.gateway != nil {
						test.gateway(g)
					}
				})
				c := b.dial()
				if err := test.client(c); err != nil {
					t.Error(err)
				}
				c.Close()
				await(func() bool { b.o.mu.Lock(); defer b.o.mu.Unlock(); return len(b.o.upgrades) > 0 })
				if got := b.o.results(); !slices.Equal(got, []string{test.result}) || b.o.upgrades[0] != test.upgrade {
					t.Errorf("handshakes %v, upgrades %v; want %s, %s", got, b.o.upgrades, test.result, test.upgrade)
				}
				if !slices.Contains(HandshakeResults(), test.result) || !slices.Contains(UpgradeResults(), test.upgrade) {
					t.Error("a result is not in the list")
				}
				if n := b.g.Handshakes(); n != 0 {
					t.Errorf("%d handshakes are under way", n)
				}
			})
		})
	}
}

// A PROXY header stands in front of TLS.
func TestPROXYBeforeTLS(t *testing.T) {
	onLoops(t, func(t *testing.T, loop string) {
		b := newTLSBench(t, loop, func(g *Gateway) {
			g.ClientAddress = clientaddr.Policy{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
		})
		c := b.dial()
		io.WriteString(c, "PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\n")
		cl := tls.Client(c, anyServer)
		io.WriteString(cl, goodRequest+"\r\n")
		readResponse(t, cl)
		for s := range b.g.Sessions() {
			if s.Remote.String() != "203.0.113.7:54321" {
				t.Errorf("the client is %v", s.Remote)
			}
		}
	})
}

// Everything that is answered over TLS has HSTS.
func TestStrictTransportSecurity(t *testing.T) {
	b := newTLSBench(t, LoopAuto)
	cl := tls.Client(b.dial(), anyServer)
	io.WriteString(cl, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
	got, err := io.ReadAll(cl)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 404 ") || !strings.Contains(string(got), "\r\nStrict-Transport-Security: max-age=31536000\r\n") {
		t.Errorf("%q, %v", got, err)
	}
}

// Whoever does not finish the handshake is disconnected after TLSTimeout, wherever in it;
// and it costs a goroutine only behind the ClientHello.
func TestSlowHandshakes(t *testing.T) {
	hello := recordedHello(t)
	for name, test := range map[string]struct {
		bytes []byte
		under int
	}{
		"nothing":             {nil, 0},
		"a byte":              {hello[:1], 0},
		"half of ClientHello": {hello[:len(hello)/2], 0},
		"ClientHello":         {hello, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for _, loop := range []string{LoopAuto, LoopGoroutine} {
				t.Run(loop, func(t *testing.T) {
					clock := newHandClock()
					b := newTLSBench(t, loop, func(g *Gateway) { g.clock = clock.now })
					c := b.dial()
					go io.Copy(io.Discard, bufio.NewReader(c))
					c.Write(test.bytes)
					await(func() bool { return len(b.g.sessions()) == 1 && b.g.Handshakes() == test.under })
					time.Sleep(10 * time.Millisecond)
					if n := b.g.Handshakes(); n != test.under {
						t.Errorf("%d handshakes are under way, want %d", n, test.under)
					}
					clock.add(session.TLSTimeout - time.Second)
					for _, s := range b.g.sessions() {
						s.handle.Post(s.s.Expired)
					}
					if len(b.g.sessions()) != 1 {
						t.Fatal("it is over too early")
					}
					clock.add(time.Second + time.Millisecond)
					for _, s := range b.g.sessions() {
						s.handle.Post(s.s.Expired)
					}
					c.Close()
					await(func() bool { return len(b.g.sessions()) == 0 && b.g.Handshakes() == 0 })
					if got := b.o.results(); !slices.Equal(got, []string{"timeout"}) || b.g.Handshakes() != 0 {
						t.Errorf("%v, %d are under way", got, b.g.Handshakes())
					}
				})
			}
		})
	}
}

// Behind the handshake the request has to come within HeadTimeout, as it has to without TLS.
func TestSlowRequestsInTLS(t *testing.T) {
	for _, request := range []string{"", "GET /ws HTTP/1.1\r\nHost"} {
		for _, loop := range []string{LoopAuto, LoopGoroutine} {
			t.Run(fmt.Sprintf("%s, %q", loop, request), func(t *testing.T) {
				clock := newHandClock()
				b := newTLSBench(t, loop, func(g *Gateway) { g.clock = clock.now })
				cl := tls.Client(b.dial(), anyServer)
				if err := cl.Handshake(); err != nil {
					t.Fatal(err)
				}
				await(func() bool { return slices.Equal(b.o.results(), []string{"ok"}) })
				io.WriteString(cl, request)
				for _, d := range []time.Duration{session.HeadTimeout - time.Second, time.Second + time.Millisecond} {
					if len(b.o.upgrades) > 0 {
						t.Fatal("it is over too early")
					}
					clock.add(d)
					for _, s := range b.g.sessions() {
						s.handle.Post(s.s.Expired)
					}
				}
				if got, err := io.ReadAll(cl); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 408 ") {
					t.Errorf("the client gets %q, %v", got, err)
				}
			})
		}
	}
}

// A network begins so many handshakes, and no more. What is refused has cost none.
func TestHandshakesOfANetwork(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			b := newTLSBench(t, loop, func(g *Gateway) {
				g.NetworkLimits = NetworkLimits{Handshakes: Rate{PerSecond: 0.001, Burst: 2}}
			})
			for i := range 4 {
				if err := tls.Client(b.dial(), anyServer).Handshake(); (err == nil) != (i < 2) {
					t.Errorf("handshake %d: %v", i, err)
				}
			}
			await(func() bool { return len(b.o.results()) == 4 })
			if got, want := b.o.results(), []string{"limited", "limited", "ok", "ok"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("handshakes %v", got)
			}
		})
	}
}

// A handClock moves when a test says so.
type handClock struct {
	mu sync.Mutex
	t  time.Duration
}

func newHandClock() *handClock { return &handClock{t: 1} }
func (c *handClock) now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}
func (c *handClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t += d
}

// recordedHello is a ClientHello.
func recordedHello(t *testing.T) []byte {
	near, far := net.Pipe()
	defer near.Close()
	go tls.Client(far, anyServer).Handshake()
	b := make([]byte, 1<<14)
	n, err := near.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// The mode end-point looks itself whether a login can bind to the certificate.
func TestEndPointNeedsTheSameCertificate(t *testing.T) {
	other := newTestCertificate("other.example")
	const features = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>PLAIN</mechanism></mechanisms>" +
		"<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-server-end-point'/><channel-binding type='tls-exporter'/></sasl-channel-binding></stream:features>"
	for _, loop := range []string{LoopAuto + overTLS, LoopGoroutine + overTLS} {
		for name, certificate := range map[string]tls.Certificate{"same": testCertificate(), "other": other} {
			t.Run(loop+", "+name, func(t *testing.T) {
				b := newTLSBench(t, loop, func(g *Gateway) {
					g.ChannelBinding = framing.ChannelBindingEndPoint
					g.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }
				})
				config := &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				for range 2 { // the second would resume the first
					cl, srv := b.open(config)
					io.WriteString(srv, features)
					m := b.message(cl)
					if offered := strings.Contains(m, "-PLUS") && strings.Contains(m, "tls-server-end-point"); offered != (name == "same") || strings.Contains(m, "tls-exporter") || !strings.Contains(m, "PLAIN") {
						t.Errorf("the client got %s", m)
					}
				}
			})
		}
	}
}

// Clients that do not go on with the handshake keep nobody out: beyond MaxHandshakes the
// oldest of them is disconnected.
func TestTooManyHandshakes(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			b := newTLSBench(t, loop)
			hello := recordedHello(t)
			var stalled []*net.TCPConn
			for range MaxHandshakes {
				c := b.dial()
				c.Write(hello)
				stalled = append(stalled, c)
				await(func() bool { return b.g.Handshakes() == len(stalled) })
			}
			b.open(anyServer)
			for i, c := range stalled[:2] {
				if i == 1 {
					c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				}
				_, err := io.Copy(io.Discard, c)
				if ended := err == nil; ended != (i == 0) {
					t.Errorf("%d: %v", i, err)
				}
			}
			for _, c := range stalled {
				c.SetLinger(0)
				c.Close()
			}
			await(func() bool { return b.g.Handshakes() == 0 && len(b.g.sessions()) == 1 })
			count := map[string]int{}
			for _, r := range b.o.results() {
				count[r]++
			}
			if want := map[string]int{"ok": 1, "busy": 1, "gone": MaxHandshakes - 1}; !maps.Equal(count, want) {
				t.Errorf("%v, want %v", count, want)
			}
		})
	}
}

// A client that breaks the protocol gets a Close frame, close_notify and FIN, and may go on
// sending meanwhile without a reset that would take them away.
func TestBrokenProtocolOverTLS(t *testing.T) {
	onLoops(t, func(t *testing.T, loop string) {
		b := newTLSBench(t, loop)
		cl, _ := b.open(anyServer)
		cl.Write([]byte{0x81, 0x01, 'x'}) // is not masked
		for range 20 {
			if _, err := cl.Write(make([]byte, 5000)); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.message(cl); got != "close 1002" {
			t.Errorf("got %q", got)
		}
		b.endsWell(cl)
	})
}

// A client that leaves with close_notify, or without, can resume its stream: the server gets
// FIN and no end tag.
func TestClientLeavesOverTLS(t *testing.T) {
	onLoops(t, func(t *testing.T, loop string) {
		for name, leave := range map[string]func(*tls.Conn) error{
			"close_notify": (*tls.Conn).CloseWrite,
			"FIN":          func(c *tls.Conn) error { return c.NetConn().(*recordedConn).CloseWrite() },
			"rubbish": func(c *tls.Conn) error {
				_, err := c.NetConn().Write([]byte("\x17\x03\x03\x00\x20 this is not what was encrypted ..."))
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newTLSBench(t, loop)
				cl, srv := b.open(anyServer)
				b.send(cl, "<presence/>")
				if err := leave(cl); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(srv); err != nil || string(got) != "<presence/>" {
					t.Errorf("the server got %q, %v", got, err)
				}
			})
		}
	})
}

// Tiny records are put together like tiny segments.
func TestTinyRecordsOfClients(t *testing.T) {
	onLoops(t, func(t *testing.T, loop string) {
		b := newTLSBench(t, loop)
		cl, srv := b.open(anyServer)
		m := "<message>" + strings.Repeat("x", 2000) + "</message>"
		go func() {
			for _, c := range maskedFrame(ws.OpText, true, []byte(m)) {
				cl.Write([]byte{c})
			}
		}()
		b.expect(srv, m)
		go func() {
			for i := range len(m) {
				io.WriteString(srv, m[i:i+1])
			}
		}()
		if got := b.message(cl); len(got) < len(m) {
			t.Errorf("%.100q", got)
		}
	})
}

// A drain also ends those in the handshake.
func TestShutdownDuringHandshake(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			b := newTLSBench(t, loop)
			c := b.dial()
			c.Write(recordedHello(t))
			await(func() bool { return b.g.Handshakes() == 1 })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := b.g.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			await(func() bool { return b.g.Handshakes() == 0 })
			if got := b.o.results(); !slices.Equal(got, []string{"shutdown"}) || b.g.Handshakes() != 0 {
				t.Errorf("%v, %d are under way", got, b.g.Handshakes())
			}
		})
	}
}

// Of many handshakes only a few compute at once, so that sessions do not wait behind all of
// them; and one that waits for its client keeps no other from its turn.
func TestHandshakesTakeTurns(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			var now, most atomic.Int32
			b := newTLSBench(t, loop, func(g *Gateway) {
				g.Certificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
					n := now.Add(1)
					defer now.Add(-1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					time.Sleep(10 * time.Millisecond) // as if it computed
					return oneCertificate(hello)
				}
			})
			hello := recordedHello(t)
			for range 5 { // which stop
				c := b.dial()
				c.Write(hello)
				defer c.SetLinger(0)
			}
			var all sync.WaitGroup
			for range 10 {
				c := b.dial()
				all.Go(func() {
					if err := tls.Client(c, anyServer).Handshake(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			// A client is content before the gateway is.
			await(func() bool { return len(b.o.results()) >= 10 })
			if got := b.o.results(); slices.ContainsFunc(got, func(r string) bool { return r != "ok" }) {
				t.Errorf("behind clients that stop, handshakes come to %v", got)
			}
			if turns := max(1, runtime.GOMAXPROCS(0)/2); int(most.Load()) > turns {
				t.Errorf("%d compute at once, want at most %d", most.Load(), turns)
			}
		})
	}
}

// A pieceConn writes in pieces of n bytes, and ahead with the first.
type pieceConn struct {
	net.Conn
	n     int
	ahead []byte
}

func (c *pieceConn) Write(b []byte) (int, error) {
	all := append(c.ahead, b...)
	c.ahead = nil
	for piece := range slices.Chunk(all, c.n) {
		if _, err := c.Conn.Write(piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// It does not matter in which pieces a PROXY header, TLS and the request come.
func TestHandshakesInPieces(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		for _, n := range []int{1, 7, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d", loop, n), func(t *testing.T) {
				b := newTLSBench(t, loop, func(g *Gateway) {
					g.ClientAddress = clientaddr.Policy{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
				})
				cl := tls.Client(&pieceConn{b.dial(), n, []byte("PROXY TCP4 203.0.113.7 127.0.0.1 54321 443\r\n")}, anyServer)
				io.WriteString(cl, goodRequest+"\r\n")
				readResponse(t, cl)
				if got := b.o.results(); !slices.Equal(got, []string{"ok"}) {
					t.Errorf("%v", got)
				}
			})
		}
	}
}
