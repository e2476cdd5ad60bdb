//go:build linux

package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

func heldBySlot(l link) (n int) {
	s := l.(*slot)
	s.view(func(*session) { n = len(s.sides[client].pending()) + len(s.win[server].bytes()) })
	return n
}

func keptBySlot(l link) ([2]output, window) {
	s := l.(*slot)
	return s.sides, s.win[server]
}

// sockets is the world of the epoll loop: real sockets, and a clock that moves
// only when the script says so.
type sockets struct {
	g   *Gateway
	now atomic.Int64
}

func (w *sockets) gateway(g *Gateway) {
	w.now.Store(1)
	w.g = g
	g.Loop = LoopAuto
	g.clock = func() time.Duration { return time.Duration(w.now.Load()) }
}

func (w *sockets) pipe(t *testing.T) (near, far net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// pass moves the clock in steps: one timeout may set the next.
func (w *sockets) pass(d time.Duration) {
	const stride = 500 * time.Millisecond
	for end := w.now.Load() + int64(d); w.now.Load() < end; {
		w.now.Add(int64(min(stride, time.Duration(end-w.now.Load()))))
		w.settle(func() bool { return true })
	}
}

// settle waits for what is expected, and then until the workers have nothing to
// do. What comes too late to be seen here is found by the next step.
func (w *sockets) settle(arrived func() bool) {
	await(arrived)
	for _, k := range w.g.loop.(*epoll).workers {
		before := k.rests.Load()
		k.wakeUp()
		await(func() bool { return k.rests.Load() > before || k.stopping.Load() })
	}
	await(arrived)
}

func await(f func() bool) {
	for begun := time.Now(); !f() && time.Since(begun) < patience; {
		time.Sleep(50 * time.Microsecond)
	}
}

// The transcripts hold on real sockets too, with the epoll loop.
func TestTranscriptsOnSockets(t *testing.T) {
	eachTranscript(t, func(t *testing.T, file string, ar *txtar.Archive, c chunking, _ bool) {
		if section(ar, "pipes") != nil {
			return // what is played needs a connection without buffers
		}
		t.Parallel()
		w := &sockets{}
		if happened, ok := play(t, ar, c, w); !ok {
			t.Errorf("%s, as it happened:\n%s", file, happened)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- w.g.Shutdown(ctx) }()
		for {
			select {
			case err := <-stopped:
				if err != nil {
					t.Errorf("shutdown: %v", err)
				}
				return
			case <-time.After(time.Millisecond):
				w.pass(stallTimeout)
			}
		}
	})
}

// A client that resets its connection is noticed although nobody reads it,
// because the server does not.
func TestResetWhileServerIsBlocked(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	s := b.g.sessions()[0]
	written := make(chan struct{})
	go func() {
		defer close(written)
		frame := maskedFrame(0x1, true, []byte("<message><body>x</body></message>"))
		for {
			if _, err := cl.Write(frame); err != nil {
				return
			}
		}
	}()
	if await(func() bool { return s.waitsFor(server) }); !s.waitsFor(server) {
		t.Fatal("the server takes everything")
	}
	cl.SetLinger(0)
	cl.Close()
	<-written
	if await(s.ended); !s.ended() {
		t.Error("the session has not ended")
	}
	srv.Close()
}

// waitsFor reports whether a side does not take what the session has for it.
func (s *session) waitsFor(side side) (does bool) {
	s.link.view(func(s *session) { does = s.blocked[side] })
	return does
}

func (s *session) ended() (is bool) {
	s.link.view(func(s *session) { is = s.ending == endClientLost })
	return is
}

// A client that reads slowly is not one that does not read, although its socket
// has room for more only now and then.
func TestSlowButSteadyReader(t *testing.T) {
	w := &sockets{}
	b := newBench(t, LoopAuto, w.gateway)
	cl, srv := b.connect()
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		stanza := []byte("<message><body>" + string(bytesOf('x', 1000)) + "</body></message>")
		for {
			if _, err := srv.Write(stanza); err != nil {
				return
			}
		}
	}()
	s := b.g.sessions()[0]
	blocked := func() bool { return s.waitsFor(client) }
	await(blocked)
	if !blocked() {
		t.Fatal("the client takes everything")
	}
	buf := make([]byte, 20<<10)
	for range 12 {
		if _, err := io.ReadFull(cl, buf); err != nil {
			t.Fatalf("cut off while reading: %v", err)
		}
		w.pass(10 * time.Second)
	}
	// The buffers of the kernel may still take some.
	gaveUp := func() bool { return len(b.g.sessions()) == 0 || b.g.sessions()[0].gaveUp() }
	for range 5 {
		if w.pass(stallTimeout + 2*wheelTick); gaveUp() {
			break
		}
	}
	await(gaveUp)
	if !gaveUp() {
		t.Error("a client that has stopped reading is not given up")
	}
	srv.Close()
	<-flooded
	cl.Close()
	w.pass(closeTimeout)
}

func (s *session) gaveUp() (is bool) {
	s.link.view(func(s *session) { is = s.ending == endClientStalled })
	return is
}

func bytesOf(c byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c
	}
	return b
}

// An event that was for a session which is over does not reach the next one in its
// place.
func TestStaleEvents(t *testing.T) {
	k, err := newWorker(func() time.Duration { return time.Second })
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	g := &Gateway{Dial: neverDial}
	g.init()
	sit := func() *slot {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[1]) })
		s := g.admit(netip.AddrPort{})
		l := &slot{k: k, fd: [2]int32{int32(fds[0]), -1}}
		l.s, l.t, s.link = s, l, l
		k.adopt(l)
		l.event(func(s *session, w *workspace) {
			l.sides[client].attached = true
			s.begin(w)
		})
		return l
	}
	end := func(l *slot) {
		l.event(func(s *session, w *workspace) { s.failed(io.ErrUnexpectedEOF) })
	}
	first := sit()
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(first.index << 1), Pad: first.generation}
	end(first)
	second := sit()
	if second.index != first.index {
		t.Fatal("it has another place")
	}
	second.event(func(s *session, w *workspace) { s.blocked[server] = true }) // so that a hang-up is noted
	for _, c := range []struct {
		generation int32
		want       bool
	}{{event.Pad, false}, {second.generation, true}} {
		k.events[0], k.events[0].Pad = event, c.generation
		k.turn(1)
		if second.left != c.want {
			t.Errorf("generation %d of %d: noted is %v", c.generation, second.generation, second.left)
		}
	}
	end(second)
}

// A worker that is busy wakes one that sleeps beside what it should do, whether
// or not the runtime's poller looks.
func TestNudge(t *testing.T) {
	clock := func() time.Duration { return time.Second }
	e := &epoll{clock: clock}
	for range 2 {
		k, err := newWorker(clock)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.close)
		e.workers = append(e.workers, k)
	}
	e.acquaint()
	busy, other := e.workers[0], e.workers[1]
	for _, c := range []struct {
		name         string
		sleeps, some bool
		since        time.Duration
		want         bool
	}{
		{"it is awake", false, true, nudgeAfter, false},
		{"nothing to do", true, false, nudgeAfter, false},
		{"too soon", true, true, nudgeAfter - 1, false},
		{"first turn", true, true, 0, false},
		{"asleep", true, true, nudgeAfter, true},
	} {
		if c.some {
			other.wakeUp()
		}
		other.sleeps.Store(c.sleeps)
		busy.ws.now, busy.nudged = time.Second, time.Second-c.since
		if c.since == 0 {
			busy.nudged = 0
		}
		busy.nudge()
		asked := false
		// A nudge ends the wait before it asks.
		other.sleeper.wait(func(uintptr) bool {
			asked = true
			var b [8]byte
			unix.Read(other.poke, b[:])
			return true
		})
		if asked == c.want {
			t.Errorf("%s: nudged is %v", c.name, !asked)
		}
	}
}

// What a quiet session costs is these two, and the next size of the allocator
// would be a tenth more: about 340 bytes with its share of a span become 373, 167
// become 182. A field that most sessions do not use most of the time belongs into rare.
func TestSessionsAreSmall(t *testing.T) {
	if n := unsafe.Sizeof(session{}); n > 320 {
		t.Errorf("a session has %d bytes", n)
	}
	if n := unsafe.Sizeof(slot{}); n > 160 {
		t.Errorf("a slot has %d bytes", n)
	}
}
