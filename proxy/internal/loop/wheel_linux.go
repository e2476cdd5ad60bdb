package loop

import "time"

// A wheel is a coarse timer for many sessions. An entry costs two pointers and no system
// call; setting it is a list operation. It fires up to one tick late, which does not matter
// for timeouts of seconds.
type wheel struct {
	buckets [wheelSize]*epollConn
	entries int
	empty   int           // ticks since the last entry was removed; only meaningful without entries
	next    time.Duration // the moment of the next tick; zero when there is none
}

const (
	wheelTick = 64 * time.Millisecond
	// wheelSize times wheelTick, 65 seconds, is more than the usual timeouts. An
	// entry that is due later fires early, which sets it again.
	wheelSize = 1024
	// maxEmpty is how many ticks an empty wheel goes on. To start it again, its
	// worker has to be woken.
	maxEmpty = 16
)

// set makes l fire at due, unless it is to fire earlier. A deadline that is
// postponed costs nothing: l fires early, and is set again.
func (w *wheel) set(l *epollConn, now, due time.Duration) {
	if w.next == 0 {
		w.next = now + wheelTick
	}
	soonest := time.Duration(0)
	if w.next <= now {
		soonest = 1 // that tick fires in portions, and must come to its end
	}
	wait := min(max(soonest, (due-w.next+wheelTick-1)/wheelTick), wheelSize-1)
	tick := uint32(w.next/wheelTick + wait)
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
}

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
	if w.entries--; w.entries == 0 {
		w.empty = 0
	}
}

// advance appends to due what fires at or before now, most of them at once. What is left
// fires next time; until then it stays where it is.
func (w *wheel) advance(now time.Duration, due []*epollConn, most int) []*epollConn {
	for rounds := 0; w.next != 0 && w.next <= now; w.next += wheelTick {
		w.empty++
		if rounds++; rounds > wheelSize {
			// The clock has jumped; every bucket was visited.
			w.next = now
			continue
		}
		head := &w.buckets[int(w.next/wheelTick)%wheelSize]
		for *head != nil {
			if len(due) == most {
				return due
			}
			l := *head
			w.unset(l)
			due = append(due, l)
		}
	}
	if w.entries == 0 && w.empty > maxEmpty {
		w.next = 0
	}
	return due
}

// wait is the time until the next tick, or -1 when there is none. It is zero while advance
// has left something.
func (w *wheel) wait(now time.Duration) time.Duration {
	if w.next == 0 {
		return -1
	}
	return max(0, w.next-now)
}
