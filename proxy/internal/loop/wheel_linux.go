package loop

import "time"

// A wheel is a coarse timer for many sessions: an entry costs two pointers and
// no system call, and setting it is a list operation. It fires up to a tick
// late, which no timeout of ours minds.
type wheel struct {
	buckets [wheelSize]*epollConn
	entries int
	empty   int           // ticks since entries became zero; more when it is not
	next    time.Duration // the moment of the next tick; zero when there is none
}

const (
	wheelTick = 64 * time.Millisecond
	// wheelSize times wheelTick is more than the usual timeouts; a later one
	// goes around once more.
	wheelSize = 1024
	// maxEmpty is how many ticks an empty wheel goes on: a first entry would
	// have to wake its worker.
	maxEmpty = 16
)

// set makes l fire at due, unless it fires earlier already. A deadline that
// moves away costs nothing: the early tick finds it and sets the next.
func (h *wheel) set(l *epollConn, now, due time.Duration) {
	if h.next == 0 {
		h.next = now + wheelTick
	}
	wait := min(max(0, (due-h.next+wheelTick-1)/wheelTick), wheelSize-1)
	tick := uint32(h.next/wheelTick + wait)
	if l.fires != 0 && l.fires <= tick {
		return
	}
	h.unset(l)
	l.fires = tick
	head := &h.buckets[tick%wheelSize]
	if l.after = *head; l.after != nil {
		l.after.before = l
	}
	*head = l
	h.entries++
}

func (h *wheel) unset(l *epollConn) {
	if l.fires == 0 {
		return
	}
	if l.before != nil {
		l.before.after = l.after
	} else {
		h.buckets[l.fires%wheelSize] = l.after
	}
	if l.after != nil {
		l.after.before = l.before
	}
	l.before, l.after, l.fires = nil, nil, 0
	if h.entries--; h.entries == 0 {
		h.empty = 0
	}
}

// advance appends to due what fires at or before now.
func (h *wheel) advance(now time.Duration, due []*epollConn) []*epollConn {
	for rounds := 0; h.next != 0 && h.next <= now; h.next += wheelTick {
		h.empty++
		if rounds++; rounds > wheelSize {
			// The clock has leapt; every bucket was looked at.
			h.next = now
			continue
		}
		head := &h.buckets[int(h.next/wheelTick)%wheelSize]
		for *head != nil {
			l := *head
			h.unset(l)
			due = append(due, l)
		}
	}
	if h.entries == 0 && h.empty > maxEmpty {
		h.next = 0
	}
	return due
}

// wait is the time until the next tick, or -1 when there is none.
func (h *wheel) wait(now time.Duration) time.Duration {
	if h.next == 0 {
		return -1
	}
	return max(0, h.next-now)
}
