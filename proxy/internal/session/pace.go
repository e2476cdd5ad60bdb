package session

import (
	"time"

	"xmppgate/proxy/internal/relay"
)

// This file makes a client that sends more than it may wait: it is not read for a while.
// What it has sent stays in its own machine and in the kernels between, so that nothing has to
// be kept for it here, and it loses nothing. Its end is noticed all the same, as that of
// any client that is not read.
//
// Each event costs the client the time in which it may send so much. What it has paid for
// may be paceBurst ahead of now; if it is more, the client is read again when that has
// passed. An event is charged as a whole, after it: what was read has to be kept somewhere
// anyway, and the server is the place. One read is 64 KiB at most.

// paceBurst is how much of the two rates a client may send at once: that of so much time.
const paceBurst = 10 * time.Second

// maxAhead bounds what one message may cost.
const maxAhead = time.Hour

// A paceTick is the unit in which a session remembers until when its client has paid, to
// save space: a clock that wraps after six days, in which every client is heard of.
const paceTick = 1 << 17 * time.Nanosecond

// paceClock is that clock; it is never zero.
func paceClock(now time.Duration) uint32 { return max(1, uint32(now/paceTick)) }

// limitPace makes the client pay from now on, if it is limited.
func (s *Session) limitPace(ev *relay.Event) {
	if s.host.Limited() {
		s.paidUntil = paceClock(ev.Now)
	}
}

// paid returns how far ahead of now the client has paid.
func (s *Session) paid(now time.Duration) time.Duration {
	return time.Duration(int32(s.paidUntil-paceClock(now))) * paceTick
}

// charge charges a limited client for what it has sent in one event: messages and control frames,
// and their bytes.
func (s *Session) charge(ev *relay.Event, messages, bytes int) {
	cost, l := time.Duration(0), s.set.limits()
	if l.Messages > 0 {
		cost = time.Duration(messages) * time.Second / time.Duration(l.Messages)
	}
	if l.Bytes > 0 {
		cost = max(cost, time.Duration(bytes)*time.Second/time.Duration(l.Bytes))
	}
	if l.Messages == 0 && l.Bytes == 0 {
		s.paidUntil = paceClock(ev.Now) // for limits that come later
		return
	}
	if cost == 0 || s.ending != endNone {
		return
	}
	ahead := min(max(s.paid(ev.Now), 0)+cost, maxAhead)
	s.paidUntil = max(1, paceClock(ev.Now)+uint32((ahead+paceTick-1)/paceTick))
	if ahead > paceBurst && (s.extra == nil || s.extra.stateDue[client] == 0) { // else it has hung up
		s.ensureExtra().resume = ev.Now + ahead - paceBurst
		s.host.Paused()
	}
}

// paused reports whether the client is not read because it has sent too much.
func (s *Session) paused() bool { return s.extra != nil && s.extra.resume != 0 }

// unpause reads the client again.
func (s *Session) unpause() {
	if s.paused() {
		s.extra.resume = 0
		s.dropExtra()
	}
}
