package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/upstream"
)

const (
	startTLS     = `<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
	proceed      = `<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
	onlyTLS      = `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>`
	withSASL     = `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`
	authenticate = `<authenticate xmlns="urn:xmpp:sasl:2" mechanism="PLAIN"/>`
)

// A strictServer is one on this machine that may demand TLS.
type strictServer struct {
	t       *testing.T
	demands atomic.Bool
	secured atomic.Int32 // streams that got TLS
	plain   atomic.Int32 // streams whose client went on without
}

func (s *strictServer) serve(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	header := string(framing.AppendStreamHeader(nil, framing.Header{To: []byte(`"proto.test"`), Version: []byte(`"1.0"`)}))
	read := func(n int) string {
		b := make([]byte, n)
		n, _ = io.ReadFull(conn, b)
		return string(b[:n])
	}
	read(len(header))
	io.WriteString(conn, testHeader)
	if s.demands.Load() {
		io.WriteString(conn, onlyTLS)
		switch got := read(len(startTLS)); got {
		case startTLS:
		case "":
			return // the gateway comes again by the other way
		default:
			s.plain.Add(1)
			return
		}
		io.WriteString(conn, proceed)
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{testCertificate()}})
		conn = secure
		if got := read(len(header)); got != header {
			s.t.Errorf("after TLS came %q", got)
			return
		}
		s.secured.Add(1)
		io.WriteString(conn, testHeader)
	}
	io.WriteString(conn, withSASL)
	if got := read(len(authenticate)); got == authenticate {
		io.WriteString(conn, `<success xmlns='urn:xmpp:sasl:2'/>`)
	}
	read(1)
}

// A server on this machine gets the TLS that it demands, from the first session
// on, with the router and without, also when it begins to demand it; whatever a
// client sends with <open/> (XEP-0509) waits for it. The client sees one stream.
func TestStrictServer(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		if strings.HasSuffix(l, overTLS) {
			return // the router chooses
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &strictServer{t: t}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go server.serve(conn)
			}
		}()
		s, err := upstream.ParseServer("tcp://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		router, err := upstream.NewRouter(upstream.Config{Default: []*upstream.Server{s}})
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, l, func(g *Gateway) {
			g.Dial, g.Static = router.Connect, router.Static
		})
		session := func(pipelined bool) (messages []string) {
			cl, err := net.Dial("tcp", b.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			cl.SetDeadline(time.Now().Add(patience))
			io.WriteString(cl, goodRequest+"\r\n")
			readResponse(t, cl)
			b.send(cl, testOpen)
			if pipelined {
				b.send(cl, authenticate)
			}
			messages = []string{b.message(cl), b.message(cl)}
			if !pipelined && strings.Contains(messages[1], "<mechanism>") {
				b.send(cl, authenticate)
			}
			return append(messages, b.message(cl))
		}
		logsIn := func(step string, pipelined bool, secured int32) {
			t.Helper()
			m := session(pipelined)
			if !strings.HasPrefix(m[0], "<open ") || !strings.Contains(m[1], "<mechanism>PLAIN") || !strings.HasPrefix(m[2], "<success") {
				t.Errorf("%s: %q", step, m)
			}
			if n := server.secured.Swap(0); n != secured {
				t.Errorf("%s: %d streams got TLS", step, n)
			}
			if n := server.plain.Swap(0); n != 0 {
				t.Errorf("%s: %d streams went on without the TLS that the server demands", step, n)
			}
		}
		server.demands.Store(true)
		logsIn("the first", false, 1)
		logsIn("the next", false, 1)
		logsIn("pipelined", true, 1)
		server.demands.Store(false)
		logsIn("it demands no TLS any more", false, 0)
		logsIn("known for that", false, 0)
		logsIn("pipelined, known for that", true, 0)
		server.demands.Store(true)
		logsIn("it demands TLS again", false, 1)
		logsIn("known for that", true, 1)

		if l != LoopAuto {
			return
		}
		// What cannot be taken back ends with an error.
		server.demands.Store(false)
		logsIn("it demands no TLS any more", false, 0)
		server.demands.Store(true)
		if m := session(true); router.Static("proto.test") == nil {
			return // the loop of this platform goes by the router
		} else if !strings.Contains(m[1], "remote-connection-failed") || !strings.Contains(m[1], "requires TLS") {
			t.Errorf("what was sent in plain text: %q", m)
		}
	})
}
