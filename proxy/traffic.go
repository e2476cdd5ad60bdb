package proxy

import (
	"math"

	"xmppgate/framing"
)

// A tally is a Traffic in half the space. Its bytes are the first to find no
// room: an element has more than one.
type tally struct{ messages, presences, iqs, nonzas, bytes uint32 }

// count adds one element of n bytes, or the first n bytes of one.
func (s *session) count(d direction, c framing.Class, n int) {
	s.countBytes(d, n)
	t := &s.relayed[d]
	switch c {
	case framing.ClassMessage:
		t.messages++
	case framing.ClassPresence:
		t.presences++
	case framing.ClassIQ:
		t.iqs++
	default:
		t.nonzas++
	}
}

// countBytes adds n bytes.
func (s *session) countBytes(d direction, n int) {
	t := &s.relayed[d]
	if uint64(t.bytes)+uint64(n) > math.MaxUint32 {
		s.carry(d, n)
		return
	}
	t.bytes += uint32(n)
}

// carry empties a tally that has no room for n more bytes.
func (s *session) carry(d direction, n int) {
	r := s.need()
	if r.relayed == nil {
		r.relayed = new([2]Traffic)
	}
	r.relayed[d].add(s.relayed[d].traffic())
	r.relayed[d].Bytes += uint64(n)
	s.relayed[d] = tally{}
}

func (t *tally) add(o tally) {
	t.messages += o.messages
	t.presences += o.presences
	t.iqs += o.iqs
	t.nonzas += o.nonzas
	t.bytes += o.bytes
}

func (t *tally) sub(o tally) {
	t.messages -= o.messages
	t.presences -= o.presences
	t.iqs -= o.iqs
	t.nonzas -= o.nonzas
	t.bytes -= o.bytes
}

// countedNow is what this event has counted in direction d, and has neither been
// written nor become part of a backlog.
func (s *session) countedNow(w *workspace, d direction) (t tally) {
	if w.counted == s {
		if t = s.relayed[d]; t.messages >= w.before[d].messages && t.bytes >= w.before[d].bytes { // else it was carried
			t.sub(w.before[d])
		} else {
			t = tally{}
		}
		w.before[d] = s.relayed[d]
	}
	return t
}

// uncount takes back what was counted and not relayed after all. What was carried
// meanwhile stays.
func (s *session) uncount(d direction, lost tally) {
	if t := &s.relayed[d]; t.messages >= lost.messages && t.presences >= lost.presences && t.iqs >= lost.iqs && t.nonzas >= lost.nonzas && t.bytes >= lost.bytes {
		t.sub(lost)
	}
}

func (t tally) traffic() Traffic {
	return Traffic{uint64(t.messages), uint64(t.presences), uint64(t.iqs), uint64(t.nonzas), uint64(t.bytes)}
}

// traffic is all that was relayed.
func (s *session) traffic(d direction) Traffic {
	t := s.relayed[d].traffic()
	if s.rare != nil && s.rare.relayed != nil {
		t.add(s.rare.relayed[d])
	}
	return t
}

func (t *Traffic) add(o Traffic) {
	t.Messages += o.Messages
	t.Presences += o.Presences
	t.IQs += o.IQs
	t.Nonzas += o.Nonzas
	t.Bytes += o.Bytes
}

func (t *Traffic) elements() uint64 { return t.Messages + t.Presences + t.IQs + t.Nonzas }
