package loop

import (
	"math"
	"time"
)

// A wheel is a coarse timer for many sessions. An entry costs two pointers and no system
// call; setting it is a list operation. It fires up to one tick late, which does not matter
// for timeouts of seconds. Ticks at which nothing fires wake nobody up.
type wheel struct {
	buckets [wheelSize]*epollConn
	entries int
	next    uint32 // the next tick to come; zero before the first
	soonest uint32 // no entry fires before this tick; never without entries
}

const (
	wheelTick = 64 * time.Millisecond
	// wheelSize times wheelTick, 65 seconds, is more than the usual timeouts. An
	// entry that is due later fires early, which sets it again.
	wheelSize = 1024
	// never is a tick that does not come.
	never = math.MaxUint32
)

// set makes l fire at due, unless it is to fire earlier. A deadline that is
// postponed costs nothing: l fires early, and is set again.
func (w *wheel) set(l *epollConn, now, due time.Duration) {
	if w.entries == 0 {
		w.soonest = never
	}
	// A tick that fires in portions must come to its end, so that nothing is added to it.
	after := tickAt(now) + 1
	w.next = max(w.next, min(after, w.soonest))
	tick := min(max(tickAt(due+wheelTick-1), after), w.next+wheelSize-1)
	if l.fires != 0 && l.fires <= tick {
		return
	}
	w.unset(l)
	l.fires = tick
	head := &w.buckets[tick%wheelSize]
	if l.after = *head; l.after != nil {
		l.after.before = l
	}
	*head = l
	w.entries++
	w.soonest = min(w.soonest, tick)
}

// tickAt is the last tick at or before a moment.
func tickAt(t time.Duration) uint32 { return uint32(t / wheelTick) }

func (w *wheel) unset(l *epollConn) {
	if l.fires == 0 {
		return
	}
	if l.before != nil {
		l.before.after = l.after
	} else {
		w.buckets[l.fires%wheelSize] = l.after
	}
	if l.after != nil {
		l.after.before = l.before
	}
	l.before, l.after, l.fires = nil, nil, 0
	w.entries--
}

// advance appends to due what fires at or before now, most of them at once. It reports
// whether something is left, which fires next time; until then it stays where it is.
func (w *wheel) advance(now time.Duration, due []*epollConn, most int) (_ []*epollConn, more bool) {
	current := tickAt(now)
	if w.entries == 0 || w.soonest > current {
		return due, false
	}
	for tick := w.soonest; w.entries > 0 && tick-w.soonest < wheelSize; tick++ {
		head := &w.buckets[tick%wheelSize]
		if *head != nil && tick > current {
			w.soonest, w.next = tick, current+1
			return due, false
		}
		for *head != nil {
			if len(due) == most {
				w.soonest, w.next = tick, tick
				return due, true
			}
			l := *head
			w.unset(l)
			due = append(due, l)
		}
	}
	w.next = current + 1
	return due, false
}

// firesAt is the next tick at which something may fire, or never.
func (w *wheel) firesAt() uint32 {
	if w.entries == 0 {
		return never
	}
	return w.soonest
}
