package loop

import (
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
