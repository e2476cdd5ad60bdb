package proxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/loop/polltls"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/wstest"
	"xmppgate/proxy/upstream"
)

// What net.Pipe cannot show: half-close, resets, buffers of the kernel. Each
// test runs on every loop, with TLS to the server and without.
var loops = []string{LoopAuto, LoopGoroutine, LoopAuto + overTLS, LoopGoroutine + overTLS}

const overTLS = ", TLS"

func onLoops(t *testing.T, f func(t *testing.T, loop string)) {
	for _, name := range loops {
		t.Run(name, func(t *testing.T) { f(t, name) })
	}
}

const (
	testOpen   = wstest.Open
	testHeader = wstest.Header
	// patience bounds what a test waits for; nothing takes this long.
	patience = time.Minute
)

// A bench is a gateway between a client and a server on loopback.
type bench struct {
	t        testing.TB
	g        *Gateway
	gate     net.Listener
	upstream net.Listener
	others   []*Gateway // to be shut down, too
}

// dialTo is the option to use another server than the bench's own.
func dialTo(network, address string) func(*Gateway) {
	return func(g *Gateway) {
		g.Dial = func(ctx context.Context, _ *upstream.Request) (*upstream.Stream, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &upstream.Stream{Conn: conn}, err
		}
		if network == "unix" {
			g.Static = always(&net.UnixAddr{Net: network, Name: address})
		} else {
			g.Static = always(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		}
	}
}

// A serverConn is the server's end of a session.
type serverConn interface {
	net.Conn
	SetLinger(int) error
}

// A secureListener is a server that speaks TLS.
type secureListener struct{ net.Listener }

type secureConn struct {
	*tls.Conn
	*net.TCPConn
}

func (c secureConn) Read(b []byte) (int, error)         { return c.Conn.Read(b) }
func (c secureConn) Write(b []byte) (int, error)        { return c.Conn.Write(b) }
func (c secureConn) Close() error                       { return c.Conn.Close() }
func (c secureConn) LocalAddr() net.Addr                { return c.TCPConn.LocalAddr() }
func (c secureConn) RemoteAddr() net.Addr               { return c.TCPConn.RemoteAddr() }
func (c secureConn) SetDeadline(t time.Time) error      { return c.TCPConn.SetDeadline(t) }
func (c secureConn) SetReadDeadline(t time.Time) error  { return c.TCPConn.SetReadDeadline(t) }
func (c secureConn) SetWriteDeadline(t time.Time) error { return c.TCPConn.SetWriteDeadline(t) }
func (c secureConn) CloseWrite() error                  { return c.Conn.CloseWrite() }
func (c secureConn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}
func (c secureConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c.Conn})
}

func (l *secureListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return secureConn{tls.Server(c, &tls.Config{Certificates: []tls.Certificate{testCertificate()}}), c.(*net.TCPConn)}, nil
}

// testCertificate is good for a client that does not look.
var testCertificate = sync.OnceValue(func() tls.Certificate { return newTestCertificate() })

// newTestCertificate returns a new certificate, signed by itself.
func newTestCertificate(names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// dialSecurely adds TLS to what dial returns.
func dialSecurely(dial func(context.Context, *upstream.Request) (*upstream.Stream, error)) func(context.Context, *upstream.Request) (*upstream.Stream, error) {
	config := polltls.Config(&tls.Config{InsecureSkipVerify: true})
	return func(ctx context.Context, q *upstream.Request) (*upstream.Stream, error) {
		stream, err := dial(ctx, q)
		if err != nil {
			return nil, err
		}
		conn := polltls.Client(stream.Conn, config)
		if err := conn.HandshakeContext(ctx); err != nil {
			stream.Conn.Close()
			return nil, err
		}
		stream.Conn = conn
		return stream, nil
	}
}

func newBench(t testing.TB, loop string, options ...func(*Gateway)) *bench {
	t.Helper()
	name, secure := strings.CutSuffix(loop, overTLS)
	b := &bench{t: t, g: &Gateway{Config: Config{Loop: name}}}
	var err error
	if b.upstream, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	dialTo("tcp", b.upstream.Addr().String())(b.g)
	if secure {
		b.upstream = &secureListener{b.upstream}
		b.g.Static, b.g.Dial = nil, dialSecurely(b.g.Dial)
	}
	for _, o := range options {
		o(b.g)
	}
	b.g.init()
	if b.gate, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.g.Serve(b.gate) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, g := range append(b.others, b.g) {
			if err := g.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		b.upstream.Close()
	})
	return b
}

// connect opens a session; both ends are closed when the test ends.
func (b *bench) connect() (cl *net.TCPConn, srv serverConn) {
	b.t.Helper()
	return b.connectWith(testHeader)
}

// connectWith is connect with another header of the server.
func (b *bench) connectWith(header string) (cl *net.TCPConn, srv serverConn) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.gate.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	cl = conn.(*net.TCPConn)
	cl.SetDeadline(time.Now().Add(patience))
	b.t.Cleanup(func() { cl.Close() })
	io.WriteString(cl, goodRequest+"\r\n")
	readResponse(b.t, cl)
	return cl, b.openStream(cl, header)
}

// openStream opens the stream of a client whose WebSocket is open. The server answers with
// header.
func (b *bench) openStream(cl net.Conn, header string) (srv serverConn) {
	b.t.Helper()
	b.send(cl, testOpen)
	up, err := b.upstream.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	srv = up.(serverConn)
	srv.SetDeadline(time.Now().Add(patience))
	b.t.Cleanup(func() { srv.Close() })
	b.expect(srv, openHeader)
	io.WriteString(srv, header)
	if m := b.message(cl); !strings.HasPrefix(m, "<open ") {
		b.t.Fatalf("got %q instead of <open/>", m)
	}
	return srv
}

// openHeader is what a server gets for testOpen.
var openHeader = string(framing.AppendStreamHeader(nil, framing.Header{To: []byte(`"proto.test"`), Version: []byte(`"1.0"`)}))

// relays tells whether a session works, and ends it.
func (b *bench) relays(cl *net.TCPConn, srv serverConn) {
	b.send(cl, "<presence/>")
	b.expect(srv, "<presence/>")
	cl.Close()
	srv.Close()
}

func (b *bench) send(cl net.Conn, m string) {
	if _, err := cl.Write(maskedFrame(ws.OpText, true, []byte(m))); err != nil {
		b.t.Errorf("send: %v", err)
	}
}

// expect reads exactly want.
func (b *bench) expect(r io.Reader, want string) {
	b.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		b.t.Fatalf("got %.200q, %v, want %.200q", got, err, want)
	}
}

// message reads one message of the client, or one control frame: the text, or
// "close CODE".
func (b *bench) message(r io.Reader) string {
	b.t.Helper()
	var text []byte
	for want := ws.OpText; ; want = ws.OpContinuation {
		h, err := ws.ReadHeader(r)
		if err != nil {
			b.t.Fatalf("read message: %v", err)
		}
		p := make([]byte, h.Length)
		if _, err := io.ReadFull(r, p); err != nil {
			b.t.Fatalf("read message: %v", err)
		}
		if h.OpCode == ws.OpClose {
			return fmt.Sprintf("close %d", binary.BigEndian.Uint16(p))
		}
		if h.OpCode.IsControl() {
			return string(p)
		}
		if h.OpCode != want || !utf8.Valid(p) {
			b.t.Fatalf("bad frame %+v", h)
		}
		if text = append(text, p...); h.Fin {
			return string(text)
		}
	}
}

// endOf reads to the end and returns what came before it.
func endOf(conn net.Conn) (string, error) {
	b, err := io.ReadAll(conn)
	return string(b), err
}

// The two directions do not wait for each other: while a client reads nothing
// it can still send, pings included.
//
// Behaviour: back-pressure. RFC 6120, section 4.9.3.16.
func TestDirectionsAreIndependent(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		cl, srv := b.connect()

		// The server writes until nobody takes any more.
		flood := "<message><body>" + strings.Repeat("x", 1000) + "</body></message>"
		flooded := make(chan int)
		go func() {
			n := 0
			for {
				srv.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				k, err := io.WriteString(srv, flood)
				n += k
				if err != nil {
					flooded <- n
					return
				}
			}
		}()
		sent := <-flooded

		// 8 MiB go up all the same.
		const messages = 8192
		up := "<message><body>" + strings.Repeat("y", 1000) + "</body></message>"
		go func() {
			for i := range messages {
				if i%100 == 0 {
					cl.Write(maskedFrame(ws.OpPing, true, []byte("ping")))
				}
				b.send(cl, up)
			}
		}()
		got := make([]byte, len(up))
		for i := range messages {
			if _, err := io.ReadFull(srv, got); err != nil || string(got) != up {
				t.Fatalf("message %d: %v", i, err)
			}
		}

		// And all that the server wrote comes down when the client reads.
		want := sent / len(flood)
		for texts := 0; texts < want; {
			m := b.message(cl)
			if m == "ping" {
				continue // a pong
			}
			if m != strings.Replace(flood, "<message", `<message xmlns="jabber:client"`, 1) {
				t.Fatalf("element %d: %.80q", texts, m)
			}
			texts++
		}
	})
}

// A client that does not read holds what one read and one stanza take, no more.
//
// Behaviour: back-pressure. RFC 6120, section 4.9.3.16.
func TestSlowReadersAreBounded(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		clients := 20
		if strings.HasSuffix(l, overTLS) {
			clients = 2 // filling them takes long
		}
		var servers []serverConn
		for range clients {
			_, srv := b.connect()
			servers = append(servers, srv)
		}
		flood := []byte(strings.Repeat("<message><body>"+strings.Repeat("x", 1000)+"</body></message>", 64))
		for _, srv := range servers {
			for {
				srv.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				if _, err := srv.Write(flood); err != nil {
					break
				}
			}
		}
		for _, s := range b.g.sessions() {
			n := held(s)
			if limit := relay.ReadSize + DefaultMaxStanza; n > limit {
				t.Errorf("a session holds %d bytes, want at most %d", n, limit)
			}
		}
	})
}

// held is how many bytes the loop keeps of what the server has sent.
func held(l *live) int {
	p := l.probe()
	return p.Pending[client] + p.Kept[server]
}

// A client that resets its connection takes the server's down at once, without
// an end tag.
//
// Behaviour: client-lost. XEP-0198, section 5.
func TestClientReset(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		cl, srv := b.connect()
		b.send(cl, "<presence/>")
		b.expect(srv, "<presence/>")
		cl.SetLinger(0)
		cl.Close()
		if got, err := endOf(srv); got != "" || err != nil {
			t.Errorf("got %q, %v, want a bare FIN", got, err)
		}
	})
}

// What a server wrote before it reset the connection is delivered.
//
// Behaviour: server-lost. XEP-0198, section 5.
func TestServerReset(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		cl, srv := b.connect()
		io.WriteString(srv, "<presence/>")
		if m := b.message(cl); m != `<presence xmlns="jabber:client"/>` {
			t.Errorf("got %q", m)
		}
		srv.SetLinger(0)
		srv.Close()
		if m := b.message(cl); m != "close 1011" {
			t.Errorf("got %q", m)
		}
	})
}

// Data and FIN that come together are both noticed.
//
// Behaviour: server-header-error. RFC 7395, section 3.5.
func TestServerWritesAndCloses(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		for range 50 {
			cl, srv := b.connect()
			io.WriteString(srv, "<iq/><stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
			srv.Close()
			for _, want := range []string{
				`<iq xmlns="jabber:client"/>`,
				`<stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`,
				framing.CloseMessage, "close 1000",
			} {
				if m := b.message(cl); m != want {
					t.Fatalf("got %q, want %q", m, want)
				}
			}
		}
	})
}

// All that a client sent before it left reaches the server ahead of the FIN.
//
// Behaviour: close-by-client, client-lost. XEP-0198, section 5.
func TestClientWritesAndCloses(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		for _, c := range []struct{ name, last string }{
			{"close", "</stream:stream>"},
			{"leave", ""},
		} {
			cl, srv := b.connect()
			var out []byte
			var want strings.Builder
			for i := range 2000 {
				m := fmt.Sprintf("<message id='%d'><body>%s</body></message>", i, strings.Repeat("z", 500))
				want.WriteString(m)
				out = append(out, maskedFrame(ws.OpText, true, []byte(m))...)
			}
			if c.last != "" {
				out = append(out, maskedFrame(ws.OpText, true, []byte(framing.CloseMessage))...)
			}
			out = append(out, maskedFrame(ws.OpClose, true, nil)...)
			go cl.Write(out)
			got, err := endOf(srv)
			if err != nil || got != want.String()+c.last {
				t.Errorf("%s: got %d bytes, %v, want %d", c.name, len(got), err, want.Len()+len(c.last))
			}
			srv.Close()
			if h, err := ws.ReadHeader(cl); err != nil || h.OpCode != ws.OpClose {
				t.Errorf("%s: client got %+v, %v", c.name, h, err)
			}
			if _, err := endOf(cl); err != nil {
				t.Errorf("%s: client's end: %v", c.name, err)
			}
		}
	})
}

// A server that takes nothing makes the client wait; nothing is lost.
//
// Behaviour: back-pressure. RFC 6120, section 4.9.3.16.
func TestSlowServer(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		cl, srv := b.connect()
		want := new(bytes.Buffer)
		var out []byte
		for i := range 5000 {
			m := fmt.Sprintf("<message id='%d'><body>%s</body></message>", i, strings.Repeat("w", 2000))
			want.WriteString(m)
			out = append(out, maskedFrame(ws.OpText, true, []byte(m))...)
		}
		out = append(out, maskedFrame(ws.OpClose, true, nil)...)
		go cl.Write(out)
		time.Sleep(100 * time.Millisecond) // let the buffers fill
		got, err := endOf(srv)
		if err != nil || got != want.String() {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, want.Len())
		}
	})
}

// A stream over a Unix socket works like one over TCP.
func TestUnixSocket(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		path := t.TempDir() + "/xmpp.sock"
		upstream, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer upstream.Close()
		b := newBench(t, l, dialTo("unix", path))
		go func() {
			conn, err := upstream.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, testHeader)
			io.Copy(io.Discard, conn)
		}()
		conn, err := net.Dial("tcp", b.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, goodRequest+"\r\n")
		readResponse(t, conn)
		b.send(conn, testOpen)
		if m := b.message(conn); !strings.HasPrefix(m, "<open ") {
			t.Errorf("got %q", m)
		}
	})
}

// Sessions that end in whatever way leave no descriptor and no goroutine.
func TestNothingIsLeft(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		b.leave(b.connect()) // what a loop has of its own is there now
		before, goroutines := descriptors(t), runtime.NumGoroutine()
		for i := range 100 {
			conn, err := net.Dial("tcp", b.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			switch i % 5 {
			case 0: // before the request
			case 1:
				io.WriteString(conn, goodRequest)
			case 2:
				io.WriteString(conn, goodRequest+"\r\n")
				readResponse(t, conn)
			case 3:
				io.WriteString(conn, goodRequest+"\r\n")
				conn.Write(maskedFrame(ws.OpText, true, []byte(testOpen))[:20])
			case 4:
				conn.Close()
				cl, srv := b.connect()
				b.send(cl, "<message><body>half")
				srv.Close()
				conn = cl
			}
			conn.(*net.TCPConn).SetLinger(i % 2)
			conn.Close()
		}
		deadline := time.Now().Add(patience)
		// The counts before may have some of the first session, so that they say nothing
		// about the last ones.
		for descriptors(t) > before || runtime.NumGoroutine() > goroutines || len(b.g.sessions()) > 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%d descriptors, %d goroutines and %d sessions, %d, %d and none before", descriptors(t), runtime.NumGoroutine(), len(b.g.sessions()), before, goroutines)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// leave ends a session and waits until the gateway has forgotten it.
// When all servers shut down Gateway.Dial has asked each of them: what the one
// says that the session gets is for the client, and nobody is asked once more.
//
// Behaviour: server-lost. RFC 6120, section 4.9.3.20
func TestAllServersShutDown(t *testing.T) {
	const farewell = "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
	onLoops(t, func(t *testing.T, l string) {
		var dials atomic.Int32
		b := newBench(t, l, func(g *Gateway) {
			dial := g.Dial
			g.Static = nil
			g.Dial = func(ctx context.Context, q *upstream.Request) (*upstream.Stream, error) {
				dials.Add(1)
				stream, err := dial(ctx, q)
				if err == nil {
					stream.Server, stream.Early = "tcp://a", []byte(testHeader+farewell)
				}
				return stream, err
			}
		})
		go func() {
			for {
				conn, err := b.upstream.Accept()
				if err != nil {
					return
				}
				go func() {
					endOf(conn)
					conn.Close()
				}()
			}
		}()
		cl, err := net.Dial("tcp", b.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		cl.SetDeadline(time.Now().Add(patience))
		io.WriteString(cl, goodRequest+"\r\n")
		readResponse(t, cl)
		b.send(cl, testOpen)
		b.message(cl)
		if m := b.message(cl); !strings.Contains(m, "<system-shutdown") || dials.Load() != 1 {
			t.Errorf("got %s after %d dials", m, dials.Load())
		}
	})
}

func (b *bench) leave(cl *net.TCPConn, srv serverConn) {
	cl.Close()
	srv.Close()
	for begun := time.Now(); len(b.g.sessions()) > 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			b.t.Fatal("the session does not end")
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// A drain does not wait for clients that have yet to ask for anything.
func TestShutdownDuringRequests(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		b.leave(b.connect())
		conn, err := net.Dial("tcp", b.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /xmpp-websocket HTTP/1.1\r\n")
		for b.g.readingNow() == 0 {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), headTimeout/2)
		defer cancel()
		if err := b.g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 503 ") {
			t.Errorf("got %q", got)
		}
	})
}

// A busyListener is in the middle of an accept when it is closed.
type busyListener struct{ g *Gateway }

func (l busyListener) Accept() error { return net.ErrClosed }

func (l busyListener) Close() {
	if s := l.g.admit(); s != nil {
		l.g.leave(s, l.g.clock())
	}
}

// To close a listener waits for an accept that is under way, which must not wait
// for Shutdown in turn.
func TestShutdownDuringAccept(t *testing.T) {
	g := &Gateway{Config: Config{Dial: neverDial}}
	g.init()
	g.listeners[busyListener{g}] = struct{}{}
	down := make(chan error)
	go func() { down <- g.Shutdown(t.Context()) }()
	select {
	case err := <-down:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("Shutdown hangs")
	}
}

// A client that breaks the protocol gets our Close frame and FIN at once,
// whatever it answers or goes on to send, and no reset that would take the Close
// frame with it.
//
// RFC 6455, section 7.1.7.
func TestFailedConnectionEndsAtOnce(t *testing.T) {
	endless := []byte{0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		out  []byte
		want string
	}{
		"unmasked":        {[]byte{0x81, 0x01, 'x'}, "close 1002"},
		"binary":          {maskedFrame(ws.OpBinary, true, []byte("x")), "close 1003"},
		"no text":         {maskedFrame(ws.OpText, true, []byte("<a>\xff</a>")), "close 1007"},
		"oversized":       {endless, "close 1000"},
		"bad close":       {maskedFrame(ws.OpClose, true, []byte{3}), "close 1002"},
		"oversized later": {append(maskedFrame(ws.OpText, true, []byte("<a></b>")), endless...), "close 1000"},
	} {
		onLoops(t, func(t *testing.T, l string) {
			b := newBench(t, l)
			cl, srv := b.connect()
			go func() {
				cl.Write(c.out)
				for junk := make([]byte, 64<<10); ; {
					if _, err := cl.Write(junk); err != nil {
						return
					}
				}
			}()
			got := ""
			for !strings.HasPrefix(got, "close") {
				got = b.message(cl)
			}
			if got != c.want {
				t.Errorf("%s: got %s, want %s", name, got, c.want)
			}
			if rest, err := endOf(cl); rest != "" || err != nil {
				t.Errorf("%s: %q follows the Close frame, %v", name, rest, err)
			}
			srv.Close()
		})
	}
}

// A client that is accepted just before a drain, and has its session just after the
// sessions were listed, is told like the others.
func TestDrainMissesNobody(t *testing.T) {
	for _, name := range []string{LoopAuto, LoopGoroutine} {
		for _, way := range []string{"listener", "connection"} {
			t.Run(name+", "+way, func(t *testing.T) {
				b := newBench(t, name)
				b.leave(b.connect()) // so that Serve has begun
				b.g.mu.Lock()
				b.g.draining = true // and Shutdown has listed the sessions
				b.g.mu.Unlock()
				var conn net.Conn
				var err error
				if way == "listener" {
					conn, err = net.Dial("tcp", b.gate.Addr().String())
				} else {
					var l net.Listener
					if l, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
						conn, err = net.Dial("tcp", l.Addr().String())
						far, e := l.Accept()
						if l.Close(); e == nil {
							b.g.serveConn(far)
						}
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(headTimeout / 2)) // then it would be told for another reason
				if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 503 ") {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
	}
}

// So many clients beyond MaxSessions are told why they are refused, and no more:
// who says it to all has no bound.
func TestRefusedClientsAreBounded(t *testing.T) {
	for _, most := range []int{1, 3} {
		g := &Gateway{Config: Config{Dial: neverDial, MaxSessions: most, Loop: LoopGoroutine}}
		told := 0
		for ; told < 10*maxRefused && g.admit() != nil; told++ {
		}
		if told != most+maxRefused {
			t.Errorf("%d clients are told", told)
		}
		near, far := net.Pipe()
		g.serveConn(near)
		if n, err := far.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("one more reads %d bytes, %v", n, err)
		}
		g.refused--
		g.conns--
		if g.admit() == nil {
			t.Error("there is room, and no client is admitted")
		}
	}
}

// Clients that connect while the gateway stops are turned away or never seen.
func TestConnectDuringShutdown(t *testing.T) {
	for _, name := range []string{LoopAuto, LoopGoroutine} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				g := &Gateway{Config: Config{Loop: name, Dial: neverDial}}
				gate, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan error, 1)
				go func() { served <- g.Serve(gate) }()
				var clients sync.WaitGroup
				for range 4 {
					clients.Go(func() {
						for {
							conn, err := net.Dial("tcp", gate.Addr().String())
							if err != nil {
								return
							}
							conn.Close()
						}
					})
				}
				time.Sleep(time.Millisecond)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				if err := g.Shutdown(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
				if err := <-served; err != nil {
					t.Fatal(err)
				}
				clients.Wait()
			}
		})
	}
}

func (g *Gateway) readingNow() int {
	n := 0
	for _, s := range g.sessions() {
		if s.state().InRequest {
			n++
		}
	}
	return n
}

// A server may put every byte into a record of its own: what one read of the
// socket brings is then little of what there is.
func TestTinyRecords(t *testing.T) {
	for _, l := range loops {
		if !strings.HasSuffix(l, overTLS) {
			continue
		}
		t.Run(l, func(t *testing.T) {
			b := newBench(t, l)
			cl, srv := b.connect()
			stanza := "<message><body>" + strings.Repeat("x", 20000) + "</body></message>"
			go func() {
				for i := range len(stanza) {
					io.WriteString(srv, stanza[i:i+1])
				}
			}()
			if m := b.message(cl); m != strings.Replace(stanza, "<message", `<message xmlns="jabber:client"`, 1) {
				t.Errorf("got %.100q", m)
			}
		})
	}
}
