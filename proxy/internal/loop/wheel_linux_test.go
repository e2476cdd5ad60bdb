package loop

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever is set, unset and skipped, an entry fires neither before it is due, unless it is
// due later than the wheel is long, nor more than a tick after, and nothing wakes the worker
// up but what is or was due.
func TestWheel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var w wheel
	now := time.Second
	const horizon = (wheelSize - 2) * wheelTick
	due := map[*epollConn]time.Duration{}
	conns := make([]*epollConn, 300)
	for i := range conns {
		conns[i] = &epollConn{}
	}
	var fired []*epollConn
	take := func() (more bool) {
		fired, more = w.advance(now, fired[:0], 16)
		for _, l := range fired {
			if at := due[l]; at == 0 || at > now && at-now <= wheelTick {
				t.Fatalf("at %v fires what is due at %v", now, at)
			}
			delete(due, l)
		}
		return more
	}
	for range 20000 {
		l := conns[r.IntN(len(conns))]
		switch r.IntN(10) {
		case 0:
			w.unset(l)
			delete(due, l)
		case 1: // somebody wakes up at any time
			now += time.Duration(r.Int64N(int64(2 * time.Second)))
			for take() {
			}
		case 2: // the wheel wakes the worker up
			at := w.firesAt()
			if at == never {
				if len(due) > 0 {
					t.Fatalf("%d are forgotten", len(due))
				}
				continue
			}
			now = max(now, time.Duration(at)*wheelTick)
			for take() {
			}
			if w.firesAt() != never && w.firesAt() <= tickAt(now) {
				t.Fatal("it wakes up for what has fired")
			}
		default:
			at := now + time.Duration(r.Int64N(int64(2*horizon)))
			if r.IntN(2) == 0 {
				at = now + time.Duration(r.Int64N(int64(time.Second)))
			}
			w.set(l, now, at)
			if before, ok := due[l]; !ok || at < before {
				due[l] = at
			}
			if at > now+horizon { // it may fire early
				due[l] = min(due[l], now+horizon)
			}
		}
		for l, at := range due {
			if at+wheelTick < now && l.fires <= tickAt(now) {
				t.Fatalf("at %v what was due at %v has yet to fire", now, at)
			}
		}
	}
}

// A worker sleeps until something is due: empty ticks do not wake it up.
func TestWheelSleeps(t *testing.T) {
	var w wheel
	if w.firesAt() != never {
		t.Error("an empty wheel fires")
	}
	l := &epollConn{}
	w.set(l, time.Second, 31*time.Second)
	if at := time.Duration(w.firesAt()) * wheelTick; at < 31*time.Second || at > 31*time.Second+wheelTick {
		t.Errorf("it fires at %v", at)
	}
	w.unset(l)
	if w.firesAt() != never {
		t.Error("an empty wheel fires")
	}
}

// What is due at once fires in portions, and what is set meanwhile is not part of them.
func TestWheelFiresInPortions(t *testing.T) {
	const most = 10
	var w wheel
	for range 3*most - 1 {
		w.set(&epollConn{}, time.Second, 2*time.Second)
	}
	for i, want := range []int{most, most, most - 1, 0} {
		fired, more := w.advance(3*time.Second, nil, most)
		if len(fired) != want || more != (i < 2) {
			t.Errorf("portion %d has %d, and more is %v", i+1, len(fired), more)
		}
		if i == 0 {
			w.set(fired[0], 3*time.Second, 2*time.Second) // it is still due
		}
	}
	if fired, _ := w.advance(3*time.Second+wheelTick, nil, most); len(fired) != 1 {
		t.Errorf("then %d fire, want 1", len(fired))
	}
}
