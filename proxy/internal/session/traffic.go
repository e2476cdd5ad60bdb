package session

import (
	"math"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// Traffic counts what was relayed in one direction.
type Traffic struct {
	Messages, Presences, IQs, Nonzas uint64 // first-level elements by kind
	Bytes                            uint64 // of their XML, without WebSocket framing
}

// Add adds o to t.
func (t *Traffic) Add(o Traffic) {
	t.Messages += o.Messages
	t.Presences += o.Presences
	t.IQs += o.IQs
	t.Nonzas += o.Nonzas
	t.Bytes += o.Bytes
}

// Subtract takes o from t. What is below zero for a while comes right when as much is
// added: the numbers wrap around.
func (t *Traffic) Subtract(o Traffic) {
	t.Messages -= o.Messages
	t.Presences -= o.Presences
	t.IQs -= o.IQs
	t.Nonzas -= o.Nonzas
	t.Bytes -= o.Bytes
}

// Elements is the number of first-level elements.
func (t *Traffic) Elements() uint64 { return t.Messages + t.Presences + t.IQs + t.Nonzas }

// What the numbers of a relay.Count stand for: a Traffic in half the space. The
// bytes are the first to find no room, because an element has more than one.
const (
	countMessages = iota
	countPresences
	countIQs
	countNonzas
	countBytes
)

// count adds one element of n bytes, or the first n bytes of one.
func (s *Session) count(d direction, c framing.Class, n int) {
	s.countBytes(d, n)
	kind := countNonzas
	switch c {
	case framing.ClassMessage:
		kind = countMessages
	case framing.ClassPresence:
		kind = countPresences
	case framing.ClassIQ:
		kind = countIQs
	}
	s.relayed[d][kind]++
}

// countBytes adds n bytes.
func (s *Session) countBytes(d direction, n int) {
	t := &s.relayed[d]
	if uint64(t[countBytes])+uint64(n) > math.MaxUint32 {
		s.carry(d, n)
		return
	}
	t[countBytes] += uint32(n)
}

// carry empties a count that has no room for n more bytes.
func (s *Session) carry(d direction, n int) {
	x := s.ensureExtra()
	if x.relayed == nil {
		x.relayed = new([2]Traffic)
	}
	x.relayed[d].Add(asTraffic(s.relayed[d]))
	x.relayed[d].Bytes += uint64(n)
	s.relayed[d] = relay.Count{}
}

// Counted implements relay.Session.
func (s *Session) Counted(ev *relay.Event, sd side) (c relay.Count) {
	d, sc := feeds(sd), scratchOf(ev)
	if sc.counted != s {
		return c
	}
	now, before := s.relayed[d], &sc.before[d]
	if within(*before, now) { // else it was carried
		c = minus(now, *before)
	}
	*before = now
	return c
}

// Uncount implements relay.Session. What was carried meanwhile stays.
func (s *Session) Uncount(sd side, lost relay.Count) {
	if t := &s.relayed[feeds(sd)]; within(lost, *t) {
		*t = minus(*t, lost)
	}
}

// within reports whether no number of a is greater than that of b.
func within(a, b relay.Count) bool {
	for i := range a {
		if a[i] > b[i] {
			return false
		}
	}
	return true
}

func minus(a, b relay.Count) relay.Count {
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

func asTraffic(c relay.Count) Traffic {
	return Traffic{uint64(c[countMessages]), uint64(c[countPresences]), uint64(c[countIQs]), uint64(c[countNonzas]), uint64(c[countBytes])}
}

// asCount returns t in half the space; numbers that find no room there are wrong.
func asCount(t Traffic) (c relay.Count) {
	c[countMessages], c[countPresences], c[countIQs] = uint32(t.Messages), uint32(t.Presences), uint32(t.IQs)
	c[countNonzas], c[countBytes] = uint32(t.Nonzas), uint32(t.Bytes)
	return c
}

// traffic is all that was relayed.
func (s *Session) traffic(d direction) Traffic {
	t := asTraffic(s.relayed[d])
	if s.extra != nil && s.extra.relayed != nil {
		t.Add(s.extra.relayed[d])
	}
	return t
}
