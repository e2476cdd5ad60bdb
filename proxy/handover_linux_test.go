package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/upstream"
)

// pair returns the ends of the connection between two processes.
func pair(t testing.TB) (old, successor *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// login authenticates a session, as far as the gateway needs it.
func (b *bench) login(cl net.Conn, srv io.ReadWriter) {
	b.t.Helper()
	b.serverSays(cl, srv, `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`)
	const auth = `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN"/>`
	b.send(cl, auth)
	b.expect(srv, auth)
	b.serverSays(cl, srv, `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`)
	b.send(cl, testOpen)
	b.expect(srv, openHeader)
	b.serverSays(cl, srv, strings.TrimPrefix(testHeader, "<?xml version='1.0'?>"))
	b.serverSays(cl, srv, `<stream:features/>`)
}

// serverSays sends an element of the server and waits until the client has it.
func (b *bench) serverSays(cl, srv io.ReadWriter, element string) {
	b.t.Helper()
	io.WriteString(srv, element)
	if m := b.message(cl); m == "" {
		b.t.Fatalf("%s: nothing", element)
	}
}

// successor returns a gateway that takes over, and the gateway's settings are those of b.
func (b *bench) successor() *Gateway {
	b.t.Helper()
	g := &Gateway{Config: b.g.Config}
	if err := g.Succeed(b.g.Succession()); err != nil {
		b.t.Fatal(err)
	}
	b.others = append(b.others, g)
	return g
}

func joinNothing(string) (done func()) { return func() {} }

// handOver moves what is at rest from one gateway to another.
func (b *bench) handOver(from, to *Gateway) (moved int) {
	b.t.Helper()
	return handOver(b.t, from, to)
}

func handOver(t testing.TB, from, to *Gateway) (moved int) {
	t.Helper()
	old, successor := pair(t)
	type result struct {
		taken int
		err   error
	}
	taken := make(chan result, 1)
	go func() {
		n, err := to.TakeOver(successor, joinNothing)
		taken <- result{n, err}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	moved, err := from.HandOver(ctx, old, cancel, func() { t.Error("it has to be killed") })
	if r := <-taken; err != nil || r.err != nil || r.taken != moved {
		t.Fatalf("moved %d, %v; taken %d, %v", moved, err, r.taken, r.err)
	}
	return moved
}

// Sessions go from gateway to gateway while both ends write. Nothing is lost, doubled
// or out of order, nobody is told anything, and the figures go with them.
func TestHandOver(t *testing.T) {
	const sessions, handovers, messages = 20, 30, 400
	b := newBench(t, LoopAuto)
	type ends struct {
		cl  *net.TCPConn
		srv serverConn
	}
	var all []ends
	for range sessions {
		cl, srv := b.connect()
		b.login(cl, srv)
		all = append(all, ends{cl, srv})
	}
	up := func(i int) string {
		return fmt.Sprintf("<message id='u%d'><body>%s</body></message>", i, strings.Repeat("x", i))
	}
	down := func(i int) string {
		return fmt.Sprintf("<message xmlns='jabber:client' id='d%d'>%s</message>", i, strings.Repeat("y", 3*i))
	}
	var running sync.WaitGroup
	progress := make(chan struct{}, 2*sessions*messages)
	for _, e := range all {
		running.Go(func() {
			for i := range messages {
				b.send(e.cl, up(i))
				time.Sleep(time.Millisecond)
			}
		})
		running.Go(func() {
			for i := range messages {
				io.WriteString(e.srv, down(i))
				time.Sleep(time.Millisecond)
			}
		})
		running.Go(func() {
			for i := range messages {
				got := make([]byte, len(up(i)))
				if _, err := io.ReadFull(e.srv, got); err != nil || string(got) != up(i) {
					t.Errorf("server: got %.60q, %v, want %.60q", got, err, up(i))
					return
				}
				progress <- struct{}{}
			}
		})
		running.Go(func() {
			for i := range messages {
				if got := b.message(e.cl); got != down(i) {
					t.Errorf("client: got %.60q, want %.60q", got, down(i))
					return
				}
				progress <- struct{}{}
			}
		})
	}
	g, moved := b.g, 0
	for range handovers {
		for range 2 * sessions * messages / handovers / 2 { // spread over the traffic
			<-progress
		}
		to := b.successor()
		moved += b.handOver(g, to)
		g = to
	}
	running.Wait()
	if moved < sessions*handovers/4 {
		t.Errorf("only %d sessions were moved in %d handovers of %d", moved, handovers, sessions)
	}
	t.Logf("%d of %d moved", moved, sessions*handovers)
	// The last gateway has nearly all of them. Their figures are of all their life.
	for i := range g.Sessions() {
		if i.Up.Messages != messages || i.Down.Messages != messages || i.Domain != "proto.test" || i.Phase != "established" {
			t.Errorf("%+v", i)
		}
	}
}

// What the processes count together is what was relayed.
func TestHandOverCounts(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	b.login(cl, srv)
	exchange := func() {
		b.send(cl, "<presence/>")
		b.expect(srv, "<presence/>")
		b.serverSays(cl, srv, "<iq xmlns='jabber:client'/>")
	}
	exchange()
	id := first(b.g).ID
	to := b.successor()
	if n := b.handOver(b.g, to); n != 1 {
		t.Fatalf("moved %d", n)
	}
	exchange()
	oldUp, oldDown := b.g.Totals()
	newUp, newDown := to.Totals()
	if oldUp.Presences != 1 || oldDown.IQs != 1 || newUp.Presences != 1 || newDown.IQs != 1 || newUp.Nonzas != 0 {
		t.Errorf("old %+v %+v, new %+v %+v", oldUp, oldDown, newUp, newDown)
	}
	if i := first(to); i.ID != id || i.Up.Presences != 2 || i.Down.IQs != 2 {
		t.Errorf("%+v, had id %d", i, id)
	}
	if n := count(b.g); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	// It ends like any other.
	cl.Close()
	if rest, err := endOf(srv); rest != "" || err != nil {
		t.Errorf("the server gets %q, %v: a client that vanished has not ended its stream", rest, err)
	}
	srv.Close()
	eventually(t, func() bool { return count(to) == 0 })
	newUp, _ = to.Totals()
	if newUp.Presences != 1 {
		t.Errorf("after the end: %+v", newUp)
	}
}

func first(g *Gateway) (info SessionInfo) {
	for i := range g.Sessions() {
		return i
	}
	return info
}

func count(g *Gateway) (n int) {
	for range g.Sessions() {
		n++
	}
	return n
}

func eventually(t testing.TB, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to be")
		}
	}
}

// What is under way stays until it is over.
func TestHandOverWaits(t *testing.T) {
	for name, begin := range map[string]func(b *bench, cl, srv net.Conn) (end func()){
		"frame in part": func(b *bench, cl, srv net.Conn) func() {
			frame := maskedFrame(ws.OpText, true, []byte("<a/>"))
			cl.Write(frame[:5])
			return func() {
				cl.Write(frame[5:])
				b.expect(srv, "<a/>")
			}
		},
		"message in part": func(b *bench, cl, srv net.Conn) func() {
			cl.Write(maskedFrame(ws.OpText, false, []byte("<a")))
			return func() {
				cl.Write(maskedFrame(ws.OpContinuation, true, []byte("/>")))
				b.expect(srv, "<a/>")
			}
		},
		"element in part": func(b *bench, cl, srv net.Conn) func() {
			io.WriteString(srv, "<message><body>x")
			return func() { b.serverSays(cl, srv, "</body></message>") }
		},
		"client that does not read": func(b *bench, cl, srv net.Conn) func() {
			const size = 200 << 10
			m := "<message xmlns='jabber:client'>" + strings.Repeat("x", size) + "</message>"
			written := make(chan struct{})
			const times = 60
			go func() {
				defer close(written)
				for range times {
					io.WriteString(srv, m)
				}
			}()
			// Until the buffers of the kernel are full the gateway is at rest in between.
			eventually(b.t, func() bool { return b.blocked(relay.Client) })
			return func() {
				for range times {
					if got := b.message(cl); got != m {
						b.t.Errorf("got %.60q, %d bytes", got, len(got))
					}
				}
				<-written
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, LoopAuto)
			cl, srv := b.connect()
			b.login(cl, srv)
			end := begin(b, cl, srv)
			eventually(t, func() bool { return !b.atRest() })
			to := b.successor()
			if n := b.handOver(b.g, to); n != 0 {
				t.Fatalf("moved %d", n)
			}
			end()
			eventually(t, b.atRest)
			if n := b.handOver(b.g, to); n != 1 {
				t.Errorf("moved %d when it was over", n)
			}
			b.send(cl, "<b/>")
			b.expect(srv, "<b/>")
		})
	}
}

// atRest reports whether the only session of b could be moved.
func (b *bench) atRest() bool {
	h := b.g.sessions()[0].handle.(loop.Movable)
	l := b.g.sessions()[0]
	_, ok := h.Suspend(func(c *relay.Conns) bool {
		_, err := l.s.State(c, b.g.clock())
		return err == nil
	})
	if ok {
		h.Resume()
	}
	return ok
}

// blocked reports whether a side of the only session of b takes nothing.
func (b *bench) blocked(sd relay.Side) (blocked bool) {
	h := b.g.sessions()[0].handle.(loop.Movable)
	_, ok := h.Suspend(func(*relay.Conns) bool { return true })
	if ok {
		h.Resume()
	}
	return !ok
}

// A session before its login, with TLS, or with goroutines stays.
func TestHandOverLeaves(t *testing.T) {
	for _, l := range loops {
		t.Run(l, func(t *testing.T) {
			b := newBench(t, l)
			cl, srv := b.connect()
			if l == LoopAuto {
				b.serverSays(cl, srv, `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></stream:features>`)
			} else {
				b.login(cl, srv)
			}
			if n := b.handOver(b.g, b.successor()); n != 0 {
				t.Errorf("moved %d", n)
			}
			b.send(cl, "<a/>")
			b.expect(srv, "<a/>")
		})
	}
}

// A session that is about to be ended is ended: it does not slip away.
func TestHandOverLeavesWhatEnds(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	b.login(cl, srv)
	l := b.g.sessions()[0]
	l.handle.View(func() { l.s.EndSoon() })
	if n := b.handOver(b.g, b.successor()); n != 0 {
		t.Errorf("moved %d", n)
	}
}

// Whatever the new process does instead of taking over, the sessions go on in the old.
func TestHandOverFails(t *testing.T) {
	for name, fail := range map[string]func(t *testing.T, conn *net.UnixConn){
		"it is not there":       func(*testing.T, *net.UnixConn) {},
		"it dies with an offer": func(t *testing.T, conn *net.UnixConn) { closeAll(receiveOffer(t, conn)) },
		"it dies before go": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			send(conn, packet{}, nil)
		},
		"it dies before driving": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			send(conn, packet{}, nil)
			if p, _, err := receive(conn, patience); err != nil || !p.Go {
				t.Errorf("%+v, %v", p, err)
			}
		},
		"it does not say that it drives": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			send(conn, packet{}, nil)
			receive(conn, patience)
			send(conn, packet{}, nil)
		},
		"it hangs": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			send(conn, packet{}, nil)
			receive(conn, patience)
			receive(conn, patience) // until it is killed
		},
		"it refuses": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			send(conn, packet{Refused: map[int]string{0: "test", 1: "test"}}, nil)
			receive(conn, patience)
			send(conn, packet{Driving: true}, nil)
		},
		"it talks nonsense": func(t *testing.T, conn *net.UnixConn) {
			defer closeAll(receiveOffer(t, conn))
			conn.Write([]byte("{"))
		},
		"it sends descriptors": func(t *testing.T, conn *net.UnixConn) {
			fds := receiveOffer(t, conn)
			defer closeAll(fds)
			send(conn, packet{Refused: map[int]string{0: "", 1: ""}}, fds)
			receive(conn, patience)
			send(conn, packet{Driving: true}, fds)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, LoopAuto)
			var clients []net.Conn
			var servers []serverConn
			for range 2 {
				cl, srv := b.connect()
				b.login(cl, srv)
				clients, servers = append(clients, cl), append(servers, srv)
			}
			before := descriptors(t)
			old, successor := pair(t)
			failed := make(chan struct{})
			go func() {
				defer close(failed)
				defer successor.Close()
				fail(t, successor)
			}()
			ctx, cancel := context.WithCancel(t.Context())
			// What comes during the offer is not lost.
			b.send(clients[0], "<a/>")
			if moved, err := b.g.HandOver(ctx, old, cancel, func() { successor.Close() }); moved != 0 || err == nil && name != "it refuses" && name != "it sends descriptors" {
				t.Errorf("moved %d, %v", moved, err)
			}
			<-failed
			b.expect(servers[0], "<a/>")
			for i := range clients {
				b.send(clients[i], "<b/>")
				b.expect(servers[i], "<b/>")
				b.serverSays(clients[i], servers[i], "<c xmlns='d'/>")
			}
			old.Close()
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors, then %d", before, after)
			}
		})
	}
}

func receiveOffer(t *testing.T, conn *net.UnixConn) (fds []int) {
	t.Helper()
	p, fds, err := receive(conn, patience)
	if err != nil || len(p.Offer) == 0 || len(fds) != 2*len(p.Offer) {
		t.Errorf("%+v, %d descriptors, %v", p, len(fds), err)
	}
	return fds
}

// A process that is offered nonsense takes nothing, and keeps no descriptor.
func TestTakeOverRefuses(t *testing.T) {
	b := newBench(t, LoopAuto)
	b.connect() // so that its workers have their descriptors
	to := b.successor()
	old, successor := pair(t)
	done := make(chan error, 1)
	go func() {
		taken, err := to.TakeOver(successor, joinNothing)
		if taken != 0 {
			t.Errorf("taken %d", taken)
		}
		done <- err
	}()
	before := 0
	one := int(os.Stdin.Fd())
	for i, state := range []string{`{}`, `{"Splitter":"AA=="}`, `[]`, `"x"`, `{"Remote":1}`} {
		if i == 1 { // everything runs
			before = descriptors(t)
		}
		if err := send(old, packet{Offer: rawStates(state)}, []int{one, one}); err != nil {
			t.Fatal(err)
		}
		p, _, err := receive(old, patience)
		if err != nil || p.Refused[0] == "" {
			t.Errorf("%s: %+v, %v", state, p, err)
		}
		send(old, packet{Go: true}, nil)
		if p, _, err := receive(old, patience); err != nil || !p.Driving {
			t.Errorf("%+v, %v", p, err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
	send(old, packet{Offer: rawStates(`{}`)}, []int{one}) // one too few
	if err := <-done; err == nil {
		t.Error("no error for a socket that is missing")
	}
}

// A process that was stopped beyond its deadline has an answer that has come meanwhile.
// Otherwise it would end the new process, which drives the sessions.
func TestReceiveLate(t *testing.T) {
	old, successor := pair(t)
	if err := send(successor, packet{Driving: true}, nil); err != nil {
		t.Fatal(err)
	}
	if p, _, err := receive(old, 1); err != nil || !p.Driving {
		t.Errorf("%+v, %v", p, err)
	}
}

// Offers begin with one session and grow, so that a program that fails with the first
// takes no more with it.
func TestOffersGrow(t *testing.T) {
	b := newBench(t, LoopAuto)
	for range 8 {
		cl, srv := b.connect()
		b.login(cl, srv)
	}
	old, successor := pair(t)
	go func() {
		defer successor.Close()
		for range 3 {
			closeAll(receiveOffer(t, successor))
			send(successor, packet{}, nil)
			receive(successor, patience)
			send(successor, packet{Driving: true}, nil)
		}
		_, fds, _ := receive(successor, patience)
		closeAll(fds)
	}()
	moved, err := b.g.HandOver(t.Context(), old, func() { t.Error("it has begun") }, func() { t.Error("it has to be killed") })
	if moved != 1+2+4 || err == nil {
		t.Errorf("moved %d, %v", moved, err)
	}
	if n := count(b.g); n != 1 {
		t.Errorf("%d sessions are left", n)
	}
}

// Without the word to go nothing is driven, because the old process goes on.
func TestTakeOverWaitsForGo(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	b.login(cl, srv)
	to := b.successor()
	old, successor := pair(t)
	done := make(chan error, 1)
	go func() {
		_, err := to.TakeOver(successor, joinNothing)
		done <- err
	}()
	var o offer
	o.add(b.g, b.g.sessions()[0])
	if len(o.sessions) != 1 {
		t.Fatal("not at rest")
	}
	b.send(cl, "<a/>")
	if err := send(old, packet{Offer: o.states}, o.fds); err != nil {
		t.Fatal(err)
	}
	if p, _, err := receive(old, patience); err != nil || len(p.Refused) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	old.Close()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	if n := count(to); n != 0 {
		t.Errorf("%d sessions", n)
	}
	o.sessions[0].handle.(loop.Movable).Resume()
	b.expect(srv, "<a/>")
}

// What happens to a session from within the process during an offer happens afterwards.
func TestHandOverPostpones(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	b.login(cl, srv)
	var o offer
	o.add(b.g, b.g.sessions()[0])
	l := o.sessions[0]
	l.handle.Post(l.s.Shutdown)
	if count(b.g) != 1 {
		t.Error("it is over already")
	}
	l.handle.(loop.Movable).Resume()
	if m := b.message(cl); m != "close 1001" {
		t.Errorf("got %q", m)
	}
}

// The limits count sessions that were moved, and go on with what was spent: an upgrade
// lets nobody in whom a limit keeps out.
func TestHandOverKeepsLimits(t *testing.T) {
	b := newBench(t, LoopAuto)
	c := b.g.Config
	c.NetworkLimits = NetworkLimits{Sessions: 3, Requests: Rate{PerSecond: 1e-6, Burst: 3}, FailedLogins: Rate{PerSecond: 1e-6, Burst: 2}}
	c.MaxSessions, c.MaxUnauthenticated = 3, 2
	if err := b.g.Update(c); err != nil {
		t.Fatal(err)
	}
	b.g.Config = c // for the successor
	for range 2 {
		cl, srv := b.connect()
		b.login(cl, srv)
	}
	guesser := netip.MustParseAddr("192.0.2.1")
	id, _ := b.g.networks.Enter(b.g.clock(), guesser)
	for range 2 {
		b.g.networks.LoginFailed(b.g.clock(), id)
	}
	to := b.successor()
	if n := b.handOver(b.g, to); n != 2 {
		t.Fatalf("moved %d", n)
	}
	limits := make(map[string]LimitStatus)
	for _, l := range to.Limits() {
		limits[l.Name] = l
	}
	for name, want := range map[string]int{limitSessions: 2, limitUnauthenticated: 0, limitNetworkSessions: 2, limitNetworkUnauthenticated: 0} {
		if l := limits[name]; l.Current != want {
			t.Errorf("%s: %d, want %d", name, l.Current, want)
		}
	}
	if n := to.Networks(); n.LockedOut != 1 {
		t.Errorf("%+v", n)
	}
	for _, want := range []limit.Reason{limit.None, limit.NetworkSessions} {
		client := first(to).Remote.Addr()
		if _, reason := to.networks.Enter(to.clock(), client); reason != want {
			t.Errorf("another client: %v, want %v", reason, want)
		}
	}
	if _, reason := to.networks.Enter(to.clock(), guesser); reason != limit.FailedLogins {
		t.Errorf("the guesser: %v", reason)
	}
}

// However many networks there are, what is told of them stays small.
func TestSuccessionIsBounded(t *testing.T) {
	g := &Gateway{Config: Config{Dial: neverDial, NetworkLimits: NetworkLimits{IPv6Bits: 128, Requests: Rate{PerSecond: 1. / 3, Burst: 100}}}}
	g.init()
	for i := range 3000 {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, byte(i >> 8), byte(i)})
		for range i%3 + 1 {
			g.networks.Enter(1, a)
		}
	}
	b, err := json.Marshal(g.Succession())
	if err != nil || len(b) > 128<<10 || len(b) < 10<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestSuccessionVersion(t *testing.T) {
	g := &Gateway{Config: Config{Dial: func(context.Context, *upstream.Request) (*upstream.Stream, error) { return nil, io.EOF }}}
	s := g.Succession()
	s.StateVersion++
	if err := g.Succeed(s); err == nil || !strings.Contains(err.Error(), ErrStateVersion.Error()) {
		t.Error(err)
	}
}

func rawStates(states ...string) (raw []json.RawMessage) {
	for _, s := range states {
		raw = append(raw, json.RawMessage(s))
	}
	return raw
}
