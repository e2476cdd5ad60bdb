package proxy

import (
	"errors"
	"fmt"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/session"
)

// This file and handover_linux.go move live sessions from one process to another, which
// takes the place of the first: a new version of the program, for example. The clients
// and the servers keep their connections and do not notice.
//
// A session moves when it is at rest: its client is authenticated, and no byte of it is
// in this process. All others stay until they come to rest or end. The bytes that come
// meanwhile wait in the sockets, which both processes hold during the move:
//
//	old                              new
//	stops driving some sessions
//	offer: states and sockets   -->
//	                            <--  answer: which it refuses
//	go                          -->
//	                            <--  driving
//	closes its sockets               drives the sessions
//
// Until it hears that the new process is driving, the old one can take everything back:
// if the new one fails, or does not answer, the sessions go on where they were. The new
// process does nothing to a session before it has said so, and does not say so without
// go. So no byte is read or written twice, whoever ends at whatever moment; a process
// that ends takes those sessions with it that it drives.

// A Succession is what a process that takes over sessions has to know before it starts
// any of its own.
type Succession struct {
	StateVersion int    // of the states of sessions
	LastID       uint64 // of the sessions so far
	// Spent is what client networks have taken from the buckets of their limits, of the
	// maxSpent that have taken most. A program of another time may not have it.
	Spent []limit.Spent `json:",omitempty"`
}

// maxSpent bounds Succession.Spent, and with it what one process tells the other at once:
// some 100 bytes each.
const maxSpent = 1000

// ErrStateVersion says that the other process describes sessions in another way. They
// stay where they are.
var ErrStateVersion = errors.New("the state of sessions has another version")

// spareIDs are left to sessions that the old process starts while the new one does, too.
const spareIDs = 1 << 20

// Succession describes g to a process that takes over its sessions.
func (g *Gateway) Succession() Succession {
	g.init()
	spent := g.networks.Spent(g.clock(), maxSpent)
	g.mu.Lock()
	defer g.mu.Unlock()
	return Succession{session.StateVersion, g.lastID, spent}
}

// Succeed makes g ready to take over the sessions of the process that s describes. It
// is called before Serve. Its error matches ErrStateVersion if that cannot be.
func (g *Gateway) Succeed(s Succession) error {
	g.init()
	g.networks.Spend(g.clock(), s.Spent)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastID = max(g.lastID, s.LastID+spareIDs)
	if s.StateVersion != session.StateVersion {
		return fmt.Errorf("%w: %d there, %d here", ErrStateVersion, s.StateVersion, session.StateVersion)
	}
	return nil
}

// StopAccepting closes the listeners, after which Serve returns nil. The sessions go on.
func (g *Gateway) StopAccepting() {
	g.init()
	g.mu.Lock()
	g.stopped = true
	listeners := g.listeners
	g.listeners = nil
	g.mu.Unlock()
	// Without mu, because Close waits for an accept under way, which needs it.
	for l := range listeners {
		l.Close()
	}
}
