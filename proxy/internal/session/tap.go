package session

import "xmppgate/proxy/internal/relay"

// This file shows a session to an operator while it lives. A session that nobody looks at
// pays a comparison an element.

// A Tap is told what passes through a session. Its methods are called during events and do
// not wait.
type Tap interface {
	// Passed tells of an element or header that sd has sent, or of a part of one. xml is
	// valid until Passed returns.
	Passed(id uint64, sd relay.Side, xml []byte)
	// Open reports whether the tap is still wanted.
	Open() bool
}

// SetTap makes the session tell t what passes; it replaces the tap that the session has.
func (s *Session) SetTap(t Tap) { s.ensureExtra().tap = t }

// Tap returns the tap of the session, nil if there is none.
func (s *Session) Tap() Tap {
	if s.extra == nil {
		return nil
	}
	return s.extra.tap
}

// tell tells the tap, if there is one, what sd has sent. It is small enough to be inlined.
func (s *Session) tell(sd side, xml []byte) {
	if s.extra != nil && s.extra.tap != nil {
		s.tellTap(sd, xml)
	}
}

func (s *Session) tellTap(sd side, xml []byte) {
	x := s.extra
	if !x.tap.Open() {
		x.tap = nil
		s.dropExtra()
		return
	}
	x.tap.Passed(s.id, sd, xml)
}
