package proxy

import (
	"iter"
	"slices"
	"time"
)

func (g *Gateway) connOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns--; g.conns == 0 {
		g.idle.Broadcast()
	}
}

// connected registers s, during its first event.
func (g *Gateway) connected(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.place = uint32(len(g.live))
	g.live = append(g.live, s)
}

// upgraded gives s its number: from here on it is a session to the outside.
func (g *Gateway) upgraded(s *session, now time.Duration) {
	g.mu.Lock()
	g.lastID++
	s.id = g.lastID
	g.mu.Unlock()
	g.observer.Upgraded(upgradeOK, now-s.began)
}

// sessionOver forgets s. The loop calls it once, during the last event of s.
func (g *Gateway) sessionOver(s *session, now time.Duration) {
	g.mu.Lock()
	last := len(g.live) - 1
	g.live[s.place] = g.live[last]
	g.live[s.place].place = s.place
	g.live[last] = nil
	g.live = g.live[:last]
	for d := range g.relayed {
		g.relayed[d].add(s.traffic(direction(d)))
	}
	g.mu.Unlock()

	defer g.connOver()
	defer s.leave()

	age := now - s.began
	if !s.upgraded && s.ending != endInternal {
		g.observer.Upgraded(s.rare.result, age)
		return
	}
	g.observer.Ended(s.ending.info().Name, age)
	g.recordEnd(s, age)
}

// sessions copies the set of live sessions.
func (g *Gateway) sessions() []*session {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.live)
}

// Sessions yields the live sessions, in no order.
func (g *Gateway) Sessions() iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for _, s := range g.sessions() {
			var info SessionInfo
			s.link.view(func(s *session) { info = s.info() })
			if info.ID != 0 && !yield(info) { // else it is not upgraded
				return
			}
		}
	}
}

// Begun returns how many sessions there have been so far.
func (g *Gateway) Begun() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lastID
}

// Phases of SessionInfo, in the order in which sessions pass through them.
const (
	phaseOpening     = "opening"     // between the upgrade and the server's header
	phaseNegotiating = "negotiating" // not authenticated
	phaseEstablished = "established"
	phaseClosing     = "closing"
)

// Phases lists the values of SessionInfo.Phase.
func Phases() []string {
	return []string{phaseOpening, phaseNegotiating, phaseEstablished, phaseClosing}
}

func (s *session) info() SessionInfo {
	info := SessionInfo{
		ID: s.id, Remote: s.remote, Domain: s.domainName(), Resumable: s.resumable,
		Since: s.g.epoch.Add(s.began),
		Idle:  s.g.clock() - max(s.lastIn[client], s.lastIn[server]),
		Up:    s.traffic(up), Down: s.traffic(down), Ping: s.ping,
	}
	if s.stream != nil {
		info.Server = s.stream.Server
	}
	switch {
	case s.ending != endNone, s.closing != endNone:
		info.Phase = phaseClosing
	case s.authenticated:
		info.Phase = phaseEstablished
	case s.openSent:
		info.Phase = phaseNegotiating
	default:
		info.Phase = phaseOpening
	}
	return info
}

// Totals returns what all sessions have relayed so far, those that are over
// included. It never decreases.
func (g *Gateway) Totals() (toServer, toClient Traffic) {
	g.init()
	// A session that ends while we count must not be counted twice, nor
	// never: hold what says which sessions are live.
	g.mu.Lock()
	total := g.relayed
	all := slices.Clone(g.live)
	g.mu.Unlock()
	for _, s := range all {
		s.link.view(func(s *session) {
			for d := range total {
				total[d].add(s.traffic(direction(d)))
			}
		})
	}
	return total[up], total[down]
}
