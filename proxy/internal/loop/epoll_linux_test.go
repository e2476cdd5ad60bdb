package loop

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/relay"
)

// A quietSession wants nothing but to be read.
type quietSession struct{ relay.Session }

func (quietSession) Start(ev *relay.Event)                      { ev.State[client] = relay.StateOpen }
func (quietSession) Reads(*relay.Conns, side) bool              { return true }
func (quietSession) Deadline(*relay.Conns) time.Duration        { return 0 }
func (quietSession) HungUp(*relay.Event)                        {}
func (quietSession) Flushed(*relay.Event, side)                 {}
func (quietSession) Over(*relay.Event)                          {}
func (quietSession) Counted(*relay.Event, side) (c relay.Count) { return c }

// An event that was for a session which is over does not reach the next one in its
// place.
func TestStaleEvents(t *testing.T) {
	w, err := newWorker(func() time.Duration { return time.Second }, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	newConn := func() *epollConn {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[1]) })
		l := &epollConn{w: w, fd: [2]int32{int32(fds[0]), -1}}
		l.s, l.conn = quietSession{}, l
		w.adopt(l)
		l.Post(func(ev *relay.Event) {
			l.sides[client].attached = true
			l.s.Start(ev)
		})
		return l
	}
	end := func(l *epollConn) { l.Post(func(ev *relay.Event) { ev.State[client] = relay.StateClosed }) }
	first := newConn()
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(first.index << 1), Pad: first.generation}
	end(first)
	second := newConn()
	if second.index != first.index {
		t.Fatal("it has another place")
	}
	second.Post(func(ev *relay.Event) { ev.Blocked[server] = true }) // so that a hang-up is noted
	for _, c := range []struct {
		generation int32
		want       bool
	}{{event.Pad, false}, {second.generation, true}} {
		w.events[0], w.events[0].Pad = event, c.generation
		w.handle(1)
		if second.sawFIN != c.want {
			t.Errorf("generation %d of %d: noted is %v", c.generation, second.generation, second.sawFIN)
		}
	}
	end(second)
}

// What a session sends and awaits an answer to costs no check whether the client takes it.
func TestAwaitedAnswer(t *testing.T) {
	w, err := newWorker(func() time.Duration { return time.Second }, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	l := &epollConn{w: w, fd: [2]int32{int32(fds[0]), -1}}
	l.s, l.conn = quietSession{}, l
	w.adopt(l)
	for _, awaits := range []bool{true, false} {
		l.Post(func(ev *relay.Event) {
			l.sides[client].attached = true
			l.s.Start(ev)
			ev.AwaitsAnswer = awaits
			ev.Out[client].AddString("ping")
		})
		if checked := l.sides[client].checkAt != 0; checked == awaits {
			t.Errorf("an answer is awaited: %v; it is checked: %v", awaits, checked)
		}
	}
	l.Post(func(ev *relay.Event) { ev.State[client] = relay.StateClosed })
}

// A worker that is busy wakes one that sleeps beside what it should do, whether
// or not the runtime's poller looks.
func TestWakeStalled(t *testing.T) {
	clock := func() time.Duration { return time.Second }
	e := &epoll{clock: clock}
	for range 2 {
		w, err := newWorker(clock, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.close)
		e.workers = append(e.workers, w)
	}
	e.linkPeers()
	busy, other := e.workers[0], e.workers[1]
	for _, c := range []struct {
		name         string
		sleeps, some bool
		since        time.Duration
		want         bool
	}{
		{"it is awake", false, true, wakeStalledAfter, false},
		{"nothing to do", true, false, wakeStalledAfter, false},
		{"too soon", true, true, wakeStalledAfter - 1, false},
		{"first turn", true, true, 0, false},
		{"asleep", true, true, wakeStalledAfter, true},
	} {
		if c.some {
			other.wakeUp()
		}
		other.sleeps.Store(c.sleeps)
		busy.ev.Now, busy.checkedOthers = time.Second, time.Second-c.since
		if c.since == 0 {
			busy.checkedOthers = 0
		}
		busy.wakeStalled()
		asked := false
		// To be woken ends the wait before it asks.
		other.sleeper.wait(func(uintptr) bool {
			asked = true
			var b [8]byte
			unix.Read(other.wakeFD, b[:])
			return true
		})
		if asked == c.want {
			t.Errorf("%s: woken is %v", c.name, !asked)
		}
	}
}

// What a quiet session costs the loop: the next size of the allocator would be more.
func TestConnIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(epollConn{}); n > 176 {
		t.Errorf("it has %d bytes", n)
	}
}

// A timedSession has one deadline.
type timedSession struct {
	quietSession
	due     time.Duration
	late    bool   // it does nothing about that
	run     func() // what it does in each event; nil for nothing
	events  int
	expired int
	got     []byte
}

func (s *timedSession) Waits(*relay.Conns, side) bool { return false }

func (s *timedSession) Receive(_ *relay.Event, _ side, b []byte) []byte {
	s.got = append(s.got, b...)
	return nil
}

func (s *timedSession) Deadline(*relay.Conns) time.Duration {
	if s.events++; s.run != nil {
		s.run()
	}
	return s.due
}

func (s *timedSession) Expired(ev *relay.Event) {
	if s.due != 0 && s.due <= ev.Now {
		s.expired++
		if !s.late {
			s.due = 0
		}
	}
}

// Sessions that are due together, or that are to run once more, do not keep one waiting for
// which something has come: a few of them have their turn, and then events are looked for.
func TestSessionsDueTogetherTakeTurns(t *testing.T) {
	const (
		many = 1000
		due  = 10 * time.Second
	)
	for _, c := range []struct {
		timers bool
		cost   time.Duration // of a turn
		few    int
	}{
		{true, 0, 16},
		{true, 60 * time.Microsecond, 2},
		{false, 0, 16},
		{false, 60 * time.Microsecond, 2},
	} {
		t.Run(fmt.Sprintf("timers %v, %v", c.timers, c.cost), func(t *testing.T) {
			now := time.Second
			w, err := newWorker(func() time.Duration { return now }, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			open := func(due time.Duration) (*epollConn, *timedSession, int) {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Close(fds[1]) })
				s := &timedSession{due: due}
				l := &epollConn{w: w, fd: [2]int32{int32(fds[0]), -1}}
				l.s, l.conn = s, l
				w.adopt(l)
				l.Post(func(ev *relay.Event) {
					l.sides[client].attached = true
					s.Start(ev)
				})
				t.Cleanup(func() { l.Post(func(ev *relay.Event) { ev.State[client] = relay.StateClosed }) })
				return l, s, fds[1]
			}
			var conns []*epollConn
			var sessions []*timedSession
			for range many {
				l, s, _ := open(due)
				s.run = func() { now += c.cost }
				conns, sessions = append(conns, l), append(sessions, s)
			}
			_, good, peer := open(0)
			w.handle(w.epollWait()) // what the sockets say at first
			if c.timers {
				now = due + wheelTick
			} else {
				for _, l := range conns {
					w.runLater(l)
				}
			}
			events := func() (n int) {
				for _, s := range sessions {
					n += s.events
				}
				return n
			}
			begun := events()
			for pass, more := 0, true; more; pass++ {
				before := events()
				unix.Write(peer, []byte("x"))
				more = w.handle(w.epollWait())
				if pass == 0 && !c.timers {
					w.runLater(conns[0]) // which is forgotten neither
				}
				if n := events() - before; n > c.few {
					t.Fatalf("%d sessions have their turn before one for which something has come", n)
				}
				if len(good.got) != pass+1 {
					t.Fatalf("in pass %d it has got %d bytes", pass+1, len(good.got))
				}
			}
			want := many
			if !c.timers {
				want++
			}
			if n := events() - begun; n != want {
				t.Errorf("%d have had their turn, want %d", n, want)
			}
		})
	}
}

// What happens to a session between the moment that it is due and its turn counts.
func TestSessionsChangeBeforeTheirTurn(t *testing.T) {
	const many, due = 100, 10 * time.Second
	now := time.Second
	w, err := newWorker(func() time.Duration { return now }, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	w.ctl = func(int, int, int, unix.EpollEvent) error { return nil } // there are no sockets
	open := func() (*epollConn, *timedSession) {
		s := &timedSession{due: due}
		l := &epollConn{w: w, fd: [2]int32{-1, -1}}
		l.s, l.conn = s, l
		w.adopt(l)
		l.Post(func(ev *relay.Event) {
			l.sides[client].attached, l.sides[server].attached = true, true
			ev.State[client], ev.State[server] = relay.StateOpen, relay.StateOpen
		})
		return l, s
	}
	end := func(l *epollConn) {
		l.Post(func(ev *relay.Event) { ev.State[client], ev.State[server] = relay.StateClosed, relay.StateClosed })
	}
	suspend := func(l *epollConn) {
		if _, ok := l.Suspend(func(*relay.Conns) bool { return true }); !ok {
			t.Error("it cannot be suspended")
		}
	}
	to := func(d time.Duration) func(*epollConn) {
		return func(l *epollConn) { l.Post(func(*relay.Event) { l.s.(*timedSession).due = d }) }
	}
	kinds := []struct {
		name        string
		change      func(*epollConn)
		soon, later int // how often it has expired in the end, and after another while
	}{
		{"nothing happens", func(*epollConn) {}, 1, 1},
		{"it ends", end, 0, 0},
		{"another takes its place", func(l *epollConn) { end(l); open() }, 0, 0},
		{"it has no deadline any more", to(0), 0, 0},
		{"a later one", to(2 * due), 0, 1},
		{"an earlier one", to(due / 2), 1, 1},
		{"another process takes it", func(l *epollConn) { suspend(l); l.Release() }, 0, 0},
		{"another process refuses it", func(l *epollConn) { suspend(l); l.Resume() }, 1, 1},
		{"another process hesitates", suspend, 0, 0},
		{"it stays due for a while", func(l *epollConn) { l.s.(*timedSession).late = true }, 3, 4}, // a turn for each tick
	}
	var conns []*epollConn
	var sessions []*timedSession
	for range many {
		l, s := open()
		conns, sessions = append(conns, l), append(sessions, s)
	}
	now = due + wheelTick
	if !w.handle(0) {
		t.Fatal("all of them have had their turn")
	}
	var want [many]int // an index of kinds and one; zero for those that have had it
	for i, s := range sessions {
		if s.expired == 0 {
			want[i] = 1 + i%len(kinds)
			kinds[i%len(kinds)].change(conns[i])
		}
	}
	check := func(later bool) {
		t.Helper()
		for i, s := range sessions {
			if want[i] == 0 {
				continue
			}
			k := kinds[want[i]-1]
			n := k.soon
			if later {
				n = k.later
			}
			if s.expired != n {
				t.Errorf("%s, later %v: it expires %d times, want %d", k.name, later, s.expired, n)
			}
		}
	}
	run := func() {
		t.Helper()
		for passes := 0; w.handle(0); passes++ {
			if passes > 2*many {
				t.Fatal("there is no end of it")
			}
		}
	}
	for range 3 { // what is overdue has its turn a tick later
		run()
		now += wheelTick
	}
	check(false)
	for _, s := range sessions {
		s.late = false
	}
	now += due
	run()
	check(true)
	if w.wheel.entries > 0 {
		t.Errorf("%d are left in the wheel", w.wheel.entries)
	}
}

// Stop waits until the descriptors of the workers are closed, but not for longer than it
// is told to.
func TestStopWaits(t *testing.T) {
	e := &epoll{clock: func() time.Duration { return time.Second }}
	e.launch()
	if e.err != nil {
		t.Fatal(e.err)
	}
	busy := make(chan struct{})
	e.running.Go(func() { <-busy })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Stop(ctx)
	close(busy)
	e.Stop(t.Context())
	for _, w := range e.workers {
		w.mu.Lock()
		if !w.stopped {
			t.Error("a worker has not ended")
		}
		w.mu.Unlock()
	}
}

// A crowd admits nobody, and counts.
type crowd struct {
	came int32
	look func(came int32)
}

func (c *crowd) Admit(Handle, netip.AddrPort) relay.Session {
	c.came++
	c.look(c.came)
	return nil
}

func (c *crowd) Degraded(error) {}

// A heardSession notes that something has come.
type heardSession struct {
	quietSession
	heard atomic.Bool
}

func (s *heardSession) Waits(*relay.Conns, side) bool { return false }

func (s *heardSession) Receive(*relay.Event, side, []byte) []byte {
	s.heard.Store(true)
	return nil
}

// However many clients come, sessions have their turn after a few of them, also where there
// is one processor.
func TestClientsThatComeTogetherTakeTurns(t *testing.T) {
	const many, few = 300, 32
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	e := &epoll{clock: func() time.Duration { return time.Second }}
	e.launch()
	if e.err != nil {
		t.Fatal(e.err)
	}
	defer e.Stop(t.Context())

	w := e.workers[0]
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	good := &heardSession{}
	l := &epollConn{w: w, fd: [2]int32{int32(fds[0]), -1}}
	l.s, l.conn = good, l
	w.adopt(l)
	l.Post(func(ev *relay.Event) {
		l.sides[client].attached = true
		good.Start(ev)
	})
	defer l.Post(func(ev *relay.Event) { ev.State[client] = relay.StateClosed })

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range many {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	heardAfter, all := int32(0), make(chan struct{})
	c := &crowd{look: func(came int32) {
		if heardAfter == 0 && good.heard.Load() {
			heardAfter = came
		}
		if came == many {
			close(all)
		}
	}}
	from := e.Listen(ln, c)
	defer from.Close()
	for !w.sleeps.Load() {
		time.Sleep(time.Millisecond)
	}
	unix.Write(fds[1], []byte("x"))
	go func() {
		for from.Accept() == nil {
		}
	}()
	<-all
	if heardAfter == 0 || heardAfter > few {
		t.Errorf("a session has its turn after %d clients (0: after all of them), want %d", heardAfter, few)
	}
}
