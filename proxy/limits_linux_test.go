package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/internal/wstest"
	"xmppgate/proxy/upstream"
)

// behindProxy makes the clients of a bench those of an HTTP proxy.
func behindProxy(g *Gateway) {
	g.ClientAddress.Forwarders = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// from asks for a WebSocket as a client at an address, and returns the status.
func (b *bench) from(address string) (c net.Conn, status int, header string) {
	b.t.Helper()
	c, err := net.Dial("tcp", b.gate.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "%sX-Forwarded-For: %s\r\n\r\n", goodRequest, address)
	var head strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); head.Write(one) {
		if _, err := io.ReadFull(c, one); err != nil {
			b.t.Fatalf("%q: %v", head.String(), err)
		}
	}
	fmt.Sscanf(head.String(), "HTTP/1.1 %d", &status)
	return c, status, head.String()
}

// logsIn lets a client log in, and returns its server.
func (b *bench) logsIn(c net.Conn) (srv net.Conn) {
	b.t.Helper()
	b.send(c, testOpen)
	srv, err := b.upstream.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { srv.Close() })
	srv.SetDeadline(time.Now().Add(patience))
	for one, got := make([]byte, 1), ""; !strings.HasSuffix(got, `version="1.0">`); got += string(one) {
		if _, err := io.ReadFull(srv, one); err != nil {
			b.t.Fatalf("%q: %v", got, err)
		}
	}
	io.WriteString(srv, testHeader+"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></stream:features>")
	b.message(c)
	b.message(c)
	io.WriteString(srv, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
	b.message(c)
	return srv
}

// A flood from one IPv6 /64, each time from another address, fills what one network may have
// and no more: clients of other networks get in and log in, and those of the /64 are told
// when to come back. What it had is free again when it has gone.
func TestFloodFromOneNetwork(t *testing.T) {
	for name, c := range map[string]struct {
		limits NetworkLimits
		result string
	}{
		"sessions":        {NetworkLimits{Sessions: 10}, "network-sessions"},
		"unauthenticated": {NetworkLimits{Unauthenticated: 10}, "network-unauthenticated"},
		"requests":        {NetworkLimits{Requests: Rate{PerSecond: 0.001, Burst: 10}}, "request-rate"},
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, func(t *testing.T, l string) {
				var log recording
				b := newBench(t, l, behindProxy, func(g *Gateway) {
					g.MaxSessions, g.NetworkLimits = 30, c.limits
					g.Log = slog.New(slog.NewJSONHandler(&log, nil))
				})
				var flood []net.Conn
				for i := range 60 { // with no limit, one more than there is room for
					conn, status, header := b.from(fmt.Sprintf("2001:db8::%x:%x", i, i+1))
					switch {
					case i < 10 && status != 101, i >= 10 && (status != 429 || !strings.Contains(header, "\r\nRetry-After: ")):
						t.Fatalf("client %d: %s", i, header)
					}
					flood = append(flood, conn)
				}
				good, status, header := b.from("2001:db8:0:1::1")
				if status != 101 {
					t.Fatal(header)
				}
				srv := b.logsIn(good)
				b.send(good, "<presence/>")
				b.expect(srv, "<presence/>")

				log.mu.Lock()
				text := log.text.String()
				log.mu.Unlock()
				if n := strings.Count(text, `"msg":"client limited"`); n != 1 || !strings.Contains(text, `"network":"2001:db8::/64","reason":"`+c.result+`"`) {
					t.Errorf("%d lines for one burst:\n%s", n, text)
				}
				for _, conn := range flood {
					conn.Close()
				}
				if name == "requests" {
					return // comes back with the time
				}
				for begun := time.Now(); ; {
					conn, status, _ := b.from("2001:db8::1")
					conn.Close()
					if status == 101 {
						break
					}
					if time.Since(begun) > patience {
						t.Fatal("the network stays locked out")
					}
				}
			})
		})
	}
}

// What is counted of connections is nothing when they are over, however they have ended.
func TestCountsReturnToZero(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l, behindProxy, func(g *Gateway) {
			g.MaxSessions, g.MaxUnauthenticated, g.NetworkLimits = 4, 3, NetworkLimits{Sessions: 3, Unauthenticated: 2}
		})
		var conns []net.Conn
		for i := range 12 {
			c, _, _ := b.from(fmt.Sprintf("203.0.113.%d", i%3))
			conns = append(conns, c)
		}
		conns[0].Close()
		srv := b.logsIn(conns[1])
		raw, err := net.Dial("tcp", b.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(raw, "nonsense\r\n\r\n")
		conns = append(conns, raw)
		srv.Close()
		for _, c := range conns {
			c.Close()
		}
		b.g.eventuallyHas(t, 0)
		b.g.mu.Lock()
		unauthenticated, refused := b.g.unauthenticated, b.g.refused
		b.g.mu.Unlock()
		if n := b.g.Networks(); unauthenticated != 0 || refused != 0 || n.Sessions != 0 || n.Unauthenticated != 0 {
			t.Errorf("%d unauthenticated, %d refused, %+v", unauthenticated, refused, n)
		}
	})
}

// The clients of the address of a connection are limited before a session is allocated, and
// the denied get nothing at all.
func TestAdmit(t *testing.T) {
	at := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 1) }
	g := &Gateway{Config: Config{Dial: neverDial, Loop: LoopGoroutine, NetworkLimits: NetworkLimits{
		Sessions: 1, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}}}
	g.ClientAddress.Proxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	g.ClientAddress.Forwarders = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	g.init()
	list, err := ParseDenyList([]byte("203.0.113.128/25\n192.0.2.0/24\n198.51.100.0/24\n"))
	if err != nil {
		t.Fatal(err)
	}
	g.Deny(list)
	for range 20 { // exempt, and proxies, denied or not
		for _, a := range []string{"10.1.2.3", "192.0.2.1", "198.51.100.1", "::ffff:10.1.2.3"} {
			if g.Admit(nil, at(a)) == nil {
				t.Fatalf("%s is not admitted", a)
			}
		}
		if g.Admit(nil, netip.AddrPort{}) == nil {
			t.Fatal("a client on a Unix socket is not admitted")
		}
	}
	if g.Admit(nil, at("203.0.113.200")) != nil || g.Admit(nil, at("::ffff:203.0.113.200")) != nil {
		t.Error("a denied client gets a session")
	}
	g.Admit(nil, at("203.0.113.1"))
	if n := testing.AllocsPerRun(100, func() {
		if g.Admit(nil, at("203.0.113.200")) != nil {
			t.Error("a denied client gets a session")
		}
	}); n > 0 {
		t.Errorf("a denied client costs %v allocations", n)
	}
	told := 0
	for range 2 * maxRefused {
		if g.Admit(nil, at("203.0.113.1")) != nil {
			told++
		}
	}
	if told != maxRefused {
		t.Errorf("%d refused clients are told", told)
	}
	if n := testing.AllocsPerRun(100, func() { g.Admit(nil, at("203.0.113.1")) }); n > 0 {
		t.Errorf("a client for which there is no room costs %v allocations", n)
	}
}

// Who has yet to authenticate takes part of the room of all, and while memory is short fewer
// clients are told that there is none.
func TestAdmitUnauthenticated(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.1:1")
	reasons := func(g *Gateway, n int) (all []limit.Reason) {
		for range n {
			s, _ := g.Admit(nil, at).(*session.Session)
			if s == nil {
				return all
			}
			all = append(all, s.Refused())
		}
		return all
	}
	g := &Gateway{Config: Config{Dial: neverDial, Loop: LoopGoroutine, MaxSessions: 10, MaxUnauthenticated: 3}}
	g.init()
	none := limit.None
	if got, want := reasons(g, 5), []limit.Reason{none, none, none, limit.Unauthenticated, limit.Unauthenticated}; !slices.Equal(got, want) {
		t.Errorf("reasons %v, want %v", got, want)
	}
	g = &Gateway{Config: Config{Dial: neverDial, Loop: LoopGoroutine}}
	g.SetOverload("memory")
	if got := reasons(g, 2*maxRefused); len(got) != maxRefusedOverloaded || slices.Contains(got, none) {
		t.Errorf("%d clients are told that memory is short: %v", len(got), got)
	}
}

// While memory or descriptors are short, connections that have yet to log in end, the oldest
// first, also those that have not sent a request; those that are logged in go on, and
// newcomers get status 503 until it is over.
func TestOverload(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		good, srv := b.connect()
		io.WriteString(srv, "<stream:features/>") // asks nobody to log in
		b.message(good)
		var waiting []net.Conn
		for range 2 * minShed {
			c, err := net.Dial("tcp", b.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			waiting = append(waiting, c)
		}
		b.g.eventuallyHas(t, 2*minShed+1)
		b.g.SetOverload("memory")
		gone := func(c net.Conn) bool { // without waiting
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			n, err := c.Read(make([]byte, 12))
			return n > 0 || errors.Is(err, io.EOF)
		}
		for _, c := range waiting[:minShed] {
			if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 503 ") {
				t.Errorf("an old connection gets %q, %v", got, err)
			}
		}
		if status := b.status("/ws"); status != 503 {
			t.Errorf("a newcomer gets %d", status)
		}
		for _, c := range waiting[minShed:] {
			if gone(c) {
				t.Error("a younger connection ended as well")
			}
		}
		b.g.SetOverload("memory")
		for _, c := range waiting[minShed:] {
			c.SetDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 503 ") {
				t.Errorf("a younger connection gets %q, %v", got, err)
			}
		}
		b.g.SetOverload("")
		if status := b.status("/ws"); status != 101 {
			t.Errorf("afterwards a newcomer gets %d", status)
		}
		b.relays(good, srv)
	})
}

// slowWorld is where TestSlowloris is played: with the goroutine loop in virtual time, and
// with the epoll loop on real sockets.
func slowWorlds(t *testing.T, f func(t *testing.T, w world)) {
	t.Run(LoopGoroutine, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, bubble{}) }) })
	t.Run(LoopAuto, func(t *testing.T) { f(t, &sockets{}) })
}

// A thousand clients send a byte a second each: in the HTTP request, in the first frame, and
// inside an element before they log in. Each costs a small buffer at most, is gone at the
// deadline of its phase, and a good client is served all the while.
//
// Behaviour: slow-clients. RFC 6120, section 13.12; RFC 6455, section 10.4.
func TestSlowloris(t *testing.T) {
	slowWorlds(t, func(t *testing.T, w world) {
		const each = 334
		servers := make(chan net.Conn, 3*each)
		g := &Gateway{Config: Config{AuthTimeout: 20 * time.Second, PingInterval: time.Hour, Dial: func(context.Context, *upstream.Request) (*upstream.Stream, error) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			servers <- far
			return &upstream.Stream{Conn: near, Server: "s", Early: []byte(testHeader)}, nil
		}}}
		w.gateway(g)
		open := func(first string) net.Conn {
			near, far := w.pipe(t)
			g.serveConn(far)
			go io.Copy(io.Discard, near)
			io.WriteString(near, first)
			return near
		}
		settle := func() { w.settle(func() bool { return true }) }
		upgrade := goodRequest + "\r\n"
		opened := upgrade + string(wstest.Frame(ws.OpText, true, []byte(testOpen)))
		frame := func(n int) []byte { return wstest.Frame(ws.OpText, true, bytes.Repeat([]byte("x"), n)) } // not larger than allowed
		var slow []net.Conn
		var rest [][]byte // what each has yet to send
		for range each {
			slow = append(slow, open("GET "), open(upgrade), open(opened))
			rest = append(rest, []byte(goodRequest[4:]+strings.Repeat("X: y\r\n", 50)), frame(4000), frame(9000))
		}
		// One of them in three has a server, and so does the good client.
		good := open(opened)
		for range each + 1 {
			<-servers
		}
		settle()
		alive := func() int { return len(g.sessions()) }
		if n := alive(); n != 3*each+1 {
			t.Fatalf("%d sessions begin", n)
		}
		for second := range 31 {
			for i, c := range slow {
				if len(rest[i]) > 0 {
					c.SetWriteDeadline(time.Now().Add(time.Second))
					c.Write(rest[i][:1]) // fails when it is over
					rest[i] = rest[i][1:]
				}
			}
			if second < 8 { // it has not logged in, either
				good.Write(wstest.Frame(ws.OpText, true, []byte("<iq/>")))
			}
			settle()
			held, kept := 0, 0
			for _, l := range g.sessions() {
				p := l.probe()
				held += p.Memory[0] + p.Memory[1]
				kept += p.Kept[0] + p.Kept[1]
			}
			if most := alive() * (4 << 10); held > most {
				t.Fatalf("second %d: %d bytes for %d sessions that have sent %d", second, held, alive(), kept)
			}
			w.pass(time.Second)
			settle()
			for after, left := range map[int]int{17: each + 1, 30: 0} { // 10 s or 20, and what is left to say goodbye
				if second == after && alive() > left {
					t.Errorf("after %d seconds %d are left, want %d", second+1, alive(), left)
				}
			}
		}
		for _, c := range append(slow, good) {
			c.Close()
		}
		g.Shutdown(t.Context())
		settle()
	})
}

// When nobody is left who has yet to log in, clients that do not read go, resumable; those
// that read stay.
func TestOverloadEndsStalledClients(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		t.Parallel()
		b := newAged(t, l)
		cl, srv := b.connect()
		io.WriteString(srv, "<stream:features/>")
		b.message(cl)
		b.block(server, srv)
		slow := b.session()
		good, goodServer := b.connect()
		io.WriteString(goodServer, "<stream:features/>")
		b.message(good)
		b.until(patience, func() (stalled bool) {
			slow.handle.View(func() {
				_, d := slow.handle.Queue(relay.Client)
				stalled = d > 0
			})
			return stalled
		})
		b.g.SetOverload("memory")
		defer b.g.SetOverload("")
		// Without overload it would end after StallTimeout.
		b.until(relay.StallTimeout/2, func() bool { return len(b.g.sessions()) == 1 || slow.ended("client-stalled") })
		b.send(good, "<iq/>")
		b.expect(goodServer, "<iq/>")
		cl.Close()
		srv.Close()
		good.Close()
		goodServer.Close()
	})
}

// Of the sessions for which much is held those go first that hold most.
func TestOverloadEndsThoseThatHoldMost(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		const large, small, some = 150_000, 30_000, 4 // buffers of two sizes
		message := maskedFrame(ws.OpText, true, []byte("<iq>"+strings.Repeat("x", 200_000)+"</iq>"))
		for i := range minShed + some {
			cl, srv := b.connect()
			io.WriteString(srv, "<stream:features/>") // asks nobody to log in
			b.message(cl)
			go io.Copy(io.Discard, cl)
			if i < some {
				cl.Write(message[:small])
			} else {
				cl.Write(message[:large])
			}
		}
		holding := func(n int) (sessions int) {
			for _, s := range b.g.sessions() {
				s.handle.View(func() {
					if s.handle.Held() >= n && !s.s.Ends() {
						sessions++
					}
				})
			}
			return sessions
		}
		await(func() bool { return holding(large) == minShed && holding(small) == minShed+some })
		b.g.SetOverload("memory")
		defer b.g.SetOverload("")
		if n := holding(large); n > 0 || holding(small) != some {
			t.Errorf("%d of %d sessions that hold much go on, and %d of %d that hold less", n, minShed, holding(small)-n, some)
		}
	})
}
