package status

import (
	"slices"
	"sync"

	"xmppgate/proxy"
)

// maxEnded is how many sessions that have ended are remembered.
const maxEnded = 1000

// An Ended is a ring of the sessions that ended last. The zero value is empty. Its methods
// may be called by several goroutines at once.
type Ended struct {
	mu   sync.Mutex
	ring []*proxy.EndedSession // grows up to maxEnded
	next int                   // where the next one goes when it is full
}

// Add adds a session, which must not change any more. It does not wait.
func (e *Ended) Add(s *proxy.EndedSession) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ring) < maxEnded {
		e.ring = append(e.ring, s)
		return
	}
	e.ring[e.next] = s
	e.next = (e.next + 1) % maxEnded
}

// entries returns the sessions, those that ended last first.
func (e *Ended) entries() []entry {
	all := make([]*proxy.EndedSession, 0, maxEnded) // not while Add waits
	e.mu.Lock()
	all = append(append(all, e.ring[e.next:]...), e.ring[:e.next]...)
	e.mu.Unlock()
	entries := make([]entry, 0, len(all))
	for _, s := range slices.Backward(all) {
		entries = append(entries, entry{SessionInfo: s.SessionInfo, over: s})
	}
	return entries
}
