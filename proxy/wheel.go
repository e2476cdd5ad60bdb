//go:build linux

package proxy

import "time"

// A wheel is a coarse timer for many sessions: an entry costs two pointers and
// no system call, and setting it is a list operation. It fires up to a tick
// late, which no timeout of ours minds.
type wheel struct {
	buckets [wheelSize]*slot
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
func (h *wheel) set(l *slot, now, due time.Duration) {
	if l.armed != 0 && l.armed <= due {
		return
	}
	h.unset(l)
	if h.next == 0 {
		h.next = now + wheelTick
	}
	ticks := max(0, int((due-h.next+wheelTick-1)/wheelTick))
	ticks = min(ticks, wheelSize-1)
	l.armed = due
	l.bucket = int32(int(h.next/wheelTick)+ticks) % wheelSize
	head := &h.buckets[l.bucket]
	if l.after = *head; l.after != nil {
		l.after.before = l
	}
	*head = l
	h.entries++
}

func (h *wheel) unset(l *slot) {
	if l.armed == 0 {
		return
	}
	l.armed = 0
	if l.before != nil {
		l.before.after = l.after
	} else {
		h.buckets[l.bucket] = l.after
	}
	if l.after != nil {
		l.after.before = l.before
	}
	l.before, l.after = nil, nil
	if h.entries--; h.entries == 0 {
		h.empty = 0
	}
}

// advance appends to due what fires at or before now.
func (h *wheel) advance(now time.Duration, due []*slot) []*slot {
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
