package session

import "xmppgate/proxy/internal/relay"

// A Probe is what tests see of a session. The program does not use it.
type Probe struct {
	Ending       string // its name; empty while the session lives
	HeaderQueued bool
	Unwritable   [2]bool
	Paused       bool // the client is not read because it has sent too much
	InRequest    bool // part of the HTTP request has come
}

// Probe describes the session.
func (s *Session) Probe() Probe {
	p := Probe{HeaderQueued: s.headerQueued(), Paused: s.paused(), InRequest: !s.upgraded() && s.size > 0}
	if s.ending != endRefused {
		p.Ending = s.ending.info().Name
	}
	if x := s.extra; x != nil {
		p.Unwritable = [2]bool{relay.Client: x.unwritable[client] != nil, relay.Server: x.unwritable[server] != nil}
	}
	return p
}

// ExpectPong makes the next pong an answer to a ping.
func (s *Session) ExpectPong() { s.pingSent = 1 }
