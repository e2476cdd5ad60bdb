//go:build linux

package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"xmppgate/proxy/internal/relay"

	"github.com/gobwas/ws"
)

// What a client or a server gets that does not read, and a client that is not
// read, on real sockets. The epoll loop has a clock that the test moves; the
// goroutine loop waits for real.

// aged is a bench whose clock can be moved, if its loop has one.
type aged struct {
	*bench
	sockets *sockets // nil for the goroutine loop
}

func newAged(t *testing.T, loop string, options ...func(*Gateway)) *aged {
	if strings.HasPrefix(loop, LoopGoroutine) {
		return &aged{newBench(t, loop, options...), nil}
	}
	w := &sockets{}
	return &aged{newBench(t, loop, append(options, w.gateway)...), w}
}

// pass lets d go by.
func (b *aged) pass(d time.Duration) {
	if b.sockets != nil {
		b.sockets.pass(d)
	} else {
		time.Sleep(d)
	}
}

// until lets time go by until f holds, and returns how much. The test fails when
// that takes longer than limit.
func (b *aged) until(limit time.Duration, f func() bool) (took time.Duration) {
	b.t.Helper()
	const step = 100 * time.Millisecond
	for ; !f(); took += step {
		if took > limit {
			b.t.Errorf("it takes longer than %v", limit)
			break
		}
		b.pass(step)
	}
	return took
}

// the only session of the bench, or nil.
func (b *aged) session() *live {
	if all := b.g.sessions(); len(all) == 1 {
		return all[0]
	}
	return nil
}

// is reports whether f holds for the session.
func (b *aged) is(f func(*live) bool) bool {
	s := b.session()
	return s != nil && f(s)
}

// ended reports whether the session has an ending, or is over.
func (b *aged) ended(as string) bool {
	return b.session() == nil || b.is(func(s *live) bool { return s.ended(as) })
}

// stanzas writes messages of about 1 kB from one side until f holds.
func (b *aged) stanzas(from relay.Side, conn net.Conn, f func() bool) (sent string) {
	b.t.Helper()
	m := "<message><body>" + strings.Repeat("x", 1000) + "</body></message>"
	out := []byte(m)
	if from == client {
		out = maskedFrame(ws.OpText, true, out)
	}
	var all strings.Builder
	before := b.relayed(from)
	for n := 1; !f(); n++ {
		conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := conn.Write(out); err != nil {
			b.t.Fatal(err)
		}
		all.WriteString(m)
		// No faster than the gateway reads: the kernel would keep the rest, and
		// a FIN behind it.
		for n%16 == 0 && b.relayed(from)-before < uint64(n) && !b.is(func(s *live) bool { return s.probe().Blocked[from.Other()] }) {
			time.Sleep(10 * time.Microsecond)
		}
	}
	return all.String()
}

// relayed is how many elements came from a side.
func (b *aged) relayed(from relay.Side) uint64 {
	s := b.session()
	if s == nil {
		return 0
	}
	var n [2]Traffic
	s.handle.View(func() { n[client], n[server] = s.s.Traffic() })
	return n[from].Elements()
}

// block is stanzas until the other side is blocked for good.
func (b *aged) block(from relay.Side, conn net.Conn) (sent string) {
	blocked := func() bool { return b.is(func(s *live) bool { return s.probe().Blocked[from.Other()] }) }
	for !blocked() {
		sent += b.stanzas(from, conn, blocked)
		// A loop that writes in another goroutine is blocked for a moment again
		// and again.
		if time.Sleep(5 * time.Millisecond); blocked() {
			b.unsent(from.Other())
		}
	}
	return sent
}

// fill is stanzas until the other side takes no more, although the gateway still
// writes.
func (b *aged) fill(from relay.Side, conn net.Conn) {
	for b.unsent(from.Other()) == 0 {
		b.stanzas(from, conn, countdown(100))
	}
}

func serverBlocked(s *live) bool { return s.probe().Blocked[server] }

// A client hangs up while it is not read: its server must not wait for the end,
// and must be able to keep the stream for a client that resumes it.
//
// XEP-0198, section 5.
func TestHangUpWhileNotRead(t *testing.T) {
	for name, c := range map[string]struct {
		pause func(b *aged, cl *net.TCPConn) // makes the gateway stop reading the client
		hang  func(cl *net.TCPConn)
	}{
		"restart held": {func(b *aged, cl *net.TCPConn) {
			b.send(cl, `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AA==</auth>`)
			b.send(cl, testOpen)
			b.until(patience, func() bool { return b.is(func(s *live) bool { return s.state().HeaderQueued }) })
		}, func(cl *net.TCPConn) { cl.CloseWrite() }},
		"restart held, more behind": {func(b *aged, cl *net.TCPConn) {
			b.send(cl, `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AA==</auth>`)
			cl.Write(append(maskedFrame(ws.OpText, true, []byte(testOpen)), maskedFrame(ws.OpText, true, []byte("<presence/>"))...))
			b.until(patience, func() bool { return b.is(func(s *live) bool { return s.state().HeaderQueued }) })
			cl.Write(make([]byte, 10<<10))
		}, func(cl *net.TCPConn) { cl.CloseWrite() }},
		"server blocked": {func(b *aged, cl *net.TCPConn) {
			b.block(client, cl)
		}, func(cl *net.TCPConn) { cl.CloseWrite() }},
		"server blocked, reset": {func(b *aged, cl *net.TCPConn) {
			b.block(client, cl)
		}, func(cl *net.TCPConn) { cl.SetLinger(0); cl.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, func(t *testing.T, l string) {
				t.Parallel()
				b := newAged(t, l)
				cl, srv := b.connect()
				srv.SetDeadline(time.Time{})
				c.pause(b, cl)
				c.hang(cl)
				if b.sockets != nil { // whose clock may be faster than the kernel
					await(func() bool { return b.is(func(s *live) bool { return s.state().Ending != "" || s.probe().SawFIN }) })
				}
				limit := 5 * time.Second
				if b.sockets == nil {
					limit = 20 * time.Second // of the machine; without a look it would be those of a stall
				}
				took := b.until(limit, func() bool {
					return b.session() == nil || b.is(func(s *live) bool { return s.probe().State[server] != relay.StateOpen })
				})
				if !b.ended("client-lost") {
					t.Error("the ending is another")
				}
				if b.is(serverBlocked) {
					b.until(limit-took, func() bool { return b.session() == nil })
				}
				got, err := endOf(srv)
				if err != nil && !strings.HasSuffix(l, overTLS) { // which may end without its alert
					t.Error(err)
				}
				if strings.Contains(got, "</stream:stream>") {
					t.Error("the stream was ended for a client that has vanished")
				}
				cl.Close()
				srv.Close()
			})
		})
	}
}

// What a client sent before it hung up is relayed if the server takes it, however
// slowly.
func TestHangUpLosesNothing(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		t.Parallel()
		clock := newHandClock() // of the goroutine loop: the machine may stop for seconds
		b := newAged(t, l, func(g *Gateway) { g.clock = clock.now })
		cl, srv := b.connect()
		srv.SetDeadline(time.Time{})
		sent := b.block(client, cl)
		sent += b.stanzas(client, cl, countdown(50))
		cl.CloseWrite()
		b.until(patience, func() bool { return b.is(func(s *live) bool { return s.probe().SawFIN }) })
		clock.add(2 * time.Second)
		b.pass(2 * time.Second)
		got, err := endOf(srv)
		if err != nil || got != sent {
			t.Errorf("the server got %d bytes of %d, %v", len(got), len(sent), err)
		}
		srv.Close()
	})
}

// countdown is true after n calls.
func countdown(n int) func() bool { return func() bool { n--; return n < 0 } }

// A server that takes some now and then gets all that is left.
func TestHangUpAndSlowServer(t *testing.T) {
	b := newAged(t, LoopAuto)
	cl, srv := b.connect()
	srv.SetDeadline(time.Time{})
	sent := b.block(client, cl)
	sent += b.stanzas(client, cl, countdown(100))
	cl.CloseWrite()
	// It takes some every two seconds, far longer in all than a server that takes
	// nothing is given. A session looks once a second what was taken, and
	// the kernel tells its peer of room only when there is a good deal.
	got := 0
	for range 5 {
		b.pass(2 * time.Second)
		n, err := io.ReadFull(srv, make([]byte, 512<<10))
		if got += n; err != nil {
			t.Fatal(err)
		}
		b.unsent(server)
	}
	rest, err := endOf(srv)
	if got += len(rest); err != nil {
		t.Error(err)
	}
	if got != len(sent) {
		t.Errorf("cut off while the server was reading: it got %d bytes of %d", got, len(sent))
	}
	srv.Close()
}

// A peer that does not read is given up 30 s after it has taken the last byte:
// whether it leaves bytes with the gateway or with the kernel, and whatever it
// sends meanwhile.
func TestPeerThatDoesNotRead(t *testing.T) {
	const late = 4 * time.Second // what is looked at now and then is seen that much later
	for name, c := range map[string]struct {
		flood func(b *aged, cl *net.TCPConn, srv serverConn)
		end   string
	}{
		"client, blocked": {func(b *aged, cl *net.TCPConn, srv serverConn) {
			b.block(server, srv)
		}, "client-stalled"},
		"server, blocked": {func(b *aged, cl *net.TCPConn, srv serverConn) {
			b.block(client, cl)
		}, "server-stalled"},
		"client, kernel": {func(b *aged, cl *net.TCPConn, srv serverConn) {
			cl.SetReadBuffer(4 << 10)
			b.fill(server, srv)
		}, "client-stalled"},
		"server, kernel": {func(b *aged, cl *net.TCPConn, srv serverConn) {
			srv.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4 << 10)
			b.fill(client, cl)
		}, "server-stalled"},
	} {
		for _, l := range loops {
			if strings.HasPrefix(l, LoopGoroutine) {
				continue // it has no clock to move
			}
			t.Run(name+", "+l, func(t *testing.T) {
				b := newAged(t, l)
				cl, srv := b.connect()
				srv.SetDeadline(time.Time{})
				c.flood(b, cl, srv)
				took := time.Duration(0)
				for !b.ended(c.end) {
					if took += time.Second; took > relay.StallTimeout+late {
						t.Fatalf("it still has the session after %v", took)
					}
					// The other side is alive, and so is this one in its way.
					if c.end == "client-stalled" {
						cl.Write(maskedFrame(ws.OpPing, true, nil))
					} else {
						io.WriteString(srv, " ")
					}
					b.pass(time.Second)
				}
				if took < relay.StallTimeout {
					t.Errorf("given up after %v", took)
				}
				srv.Close()
				cl.Close()
				b.until(time.Minute, func() bool { return b.session() == nil })
			})
		}
	}
}

// Who takes nothing is seen while that lasts and afterwards, and nobody else is blamed.
func TestStallsAreSeen(t *testing.T) {
	for _, side := range []relay.Side{client, server} {
		for _, blocked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, blocked %v", Sides()[side], blocked), func(t *testing.T) {
				b := newAged(t, LoopAuto)
				cl, srv := b.connect()
				srv.SetDeadline(time.Time{})
				slow, fast := net.Conn(cl), net.Conn(srv)
				if side == server {
					slow, fast = srv, cl
				}
				queue := func() (of, other Queue) {
					for i := range b.g.Sessions() {
						of, other = i.DownQueue, i.UpQueue
						if side == server {
							of, other = other, of
						}
					}
					return of, other
				}
				if of, other := queue(); of != (Queue{}) || other != (Queue{}) {
					t.Errorf("at rest: %+v, %+v", of, other)
				}
				if blocked {
					b.block(side.Other(), fast)
				} else {
					slow.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4 << 10)
					b.fill(side.Other(), fast)
				}
				waits := b.unsent(side)
				for range 10 {
					b.pass(time.Second)
				}
				of, other := queue()
				if of.Bytes < waits || of.Stalls != 1 || of.Stalled < 4*time.Second || of.Stalled > 10*time.Second || other.Stalls != 0 || other.Stalled != 0 {
					t.Errorf("while it takes nothing: %+v with %d bytes unsent, the other side: %+v", of, waits, other)
				}
				drained := make(chan struct{})
				go func() { defer close(drained); io.Copy(io.Discard, slow) }()
				for b.unsent(side) > 0 {
				}
				b.until(5*time.Second, func() bool { of, _ := queue(); return of.Bytes == 0 })
				over, _ := queue()
				if over.Stalls != 1 || over.Stalled < of.Stalled || over.Stalled > of.Stalled+6*time.Second {
					t.Errorf("afterwards: %+v, before: %+v", over, of)
				}
				cl.Close()
				srv.Close()
				<-drained
			})
		}
	}
}

// unsent is what sd has yet to take of what the session has written, once the
// kernels have come to rest.
func (b *aged) unsent(sd relay.Side) int {
	look := func() (n int) {
		if s := b.session(); s != nil {
			n = s.probe().Unsent[sd]
		}
		return n
	}
	// In 5 ms: longer than an acknowledgement is delayed, and than it takes until
	// a closed window is probed, whereupon the peer's kernel makes some room.
	const rest = 80
	n := look()
	for same := 0; same < rest; same++ {
		time.Sleep(5 * time.Millisecond)
		if m := look(); m != n {
			n, same = m, 0
		}
	}
	return n
}
