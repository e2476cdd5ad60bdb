package upstream

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"xmppgate/framing"
)

const (
	// ejectAfter is how many sessions in a row a server has to fail before
	// it counts as down. One health check suffices: it is the gateway's own.
	ejectAfter = 3
	// probeInterval is how long a server may go without an open that
	// succeeds before a health check is due, probeTimeout how long that may
	// take, and a diagnosis may follow. Together they bound for how long a
	// server counts as up that is not, or the reverse: 10 s.
	probeInterval = 5 * time.Second
	probeTimeout  = 3 * time.Second
	// A server that is down is checked after minBackoff, then after twice
	// as long each time, up to probeInterval.
	minBackoff = time.Second
	// jitter is the part by which all these times vary, so that replicas
	// of the gateway do not come in step.
	jitter = 0.2
	// maxProbes is how many health checks run at once.
	maxProbes = 16
)

// A node is the state of a server: all that changes.
type node struct {
	name     string        // Server.Name, with the domain behind it for srv:
	sessions *atomic.Int64 // those being opened included; shared with the node that had the name before
	retired  context.Context
	retire   context.CancelFunc // ends its health check, and what the observer is told

	mu          sync.Mutex
	served      string // the last domain for which the server has sent usable features
	tlsRequired string // the first domain for which it required TLS
	health
}

func newNode(name string, sessions *atomic.Int64) *node {
	n := &node{name: name, sessions: sessions}
	n.retired, n.retire = context.WithCancel(context.Background())
	return n
}

// A health is a state machine. Its event is the outcome of an attempt to open a
// stream. A server goes down after ejectAfter failures in a row or one failed health
// check, and up after one success. While it is down it gets only the sessions that
// no other server takes.
type health struct {
	down     bool
	tried    bool          // by a session or a health check
	failed   int           // sessions in a row
	backoff  time.Duration // while down
	due      time.Time     // when the next health check is
	checked  time.Time     // when the last one began
	checking bool          // it is under way
	last     *Error        // nil when the last open succeeded
}

// note takes the outcome of an open at time now, failure being nil for success.
// It tells whether the server went up or down by that.
func (h *health) note(now time.Time, failure *Error, probe bool) (changed bool) {
	was := h.down
	h.tried = true
	// What a diagnosis has found out explains the same failure again.
	if failure == nil || h.last == nil || h.last.symptom != failure.Result {
		h.last = failure
	}
	switch {
	case failure == nil:
		h.down, h.failed, h.backoff = false, 0, 0
		h.due = now.Add(jittered(probeInterval))
	case probe, failure.Result == ResultTLSRequired: // no other session will fare better
		h.down = true
	case !h.down:
		h.failed++
		h.down = h.failed >= ejectAfter
	}
	// A session that fails where others have does not prolong the back-off.
	if h.down && (probe || !was) {
		h.backoff = min(max(2*h.backoff, minBackoff), probeInterval)
		h.due = now.Add(jittered(h.backoff))
	}
	return h.down != was
}

func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

func (n *node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.down
}

func (n *node) status() ServerStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return ServerStatus{n.name, !n.down, n.tried, int(n.sessions.Load()), n.last}
}

// begin returns the time until the next health check. When that is zero the
// check counts as begun.
func (n *node) begin(now time.Time) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.checking {
		return probeInterval // its end wakes Run
	}
	if wait := n.due.Sub(now); wait > 0 {
		return wait
	}
	n.checking, n.checked = true, now
	return 0
}

// checkSoon makes a health check due, after a failure that the client may have
// caused.
func (n *node) checkSoon() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at := n.checked.Add(minBackoff); at.Before(n.due) {
		n.due = at
	}
}

// end ends a health check. It has called note unless Run was told to return.
func (n *node) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checking = false
}

// report notes the outcome of an open and tells whom it concerns.
func (s *search) report(n *node, failure *Error) {
	if failure != nil {
		kept := *failure
		kept.stream = nil // is not for keeping
		failure = &kept
	}
	n.mu.Lock()
	changed := n.note(time.Now(), failure, s.probe) && n.retired.Err() == nil
	if changed {
		// Under the lock, so that the observer sees changes in order.
		s.observer.Health(n.name, failure)
	}
	n.mu.Unlock()
	if changed {
		s.wake()
	}
}

// wake makes Run compute again when the next health check is due.
func (r *Router) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// countsAgainst reports whether a failure is the server's fault. A client must not
// be able to bring a server down: it can ask for a domain that the certificate does
// not cover, or for which the server or a proxy in front of it closes the
// connection, and its own address or header may be refused.
func (s *search) countsAgainst(c candidate, failure *Error, domain string, took time.Duration) bool {
	_, ours := s.routes[domain] // else the client came up with it
	switch result := failure.Result; {
	case result == ResultAbandoned:
		return false
	case result == ResultTLSRequired:
		// As long as another domain needs none, it is not the server that
		// is configured in the wrong way.
		return s.probe || ours || c.lastServed() == ""
	case result == ResultTimeout:
		return s.probe || took >= minAttempt // else the client had no more time
	case failure.Phase == PhaseTLS && !ours:
		// A health check without a domain cannot but be refused for that.
		unnamed := result == ResultCertName && c.server.options.name == ""
		return s.probe && !unnamed && result != ResultStreamError
	case failure.Phase == PhaseHeader && !ours, result == ResultStreamError, result == ResultCertName:
		return s.probe
	}
	return true
}

// noteOpened notes how a phase of opening a stream went, PhaseTCP or PhaseHeader, where
// sessions connect without Connect. result is ResultOK or what went wrong.
func (s *Static) noteOpened(phase, result string) {
	search := s.router.newSearch(nil)
	switch {
	case result == ResultAbandoned, result == ResultOK && phase == PhaseTCP: // the answer is yet to come
	case result == ResultOK:
		search.report(s.node, nil)
	case result == ResultTimeout, phase == PhaseTCP:
		search.report(s.node, &Error{Server: s.Server, Phase: phase, Result: result, Err: errors.New(result)})
	default:
		s.node.checkSoon()
		s.router.wake()
	}
}

// Run checks the health of all servers until ctx is done: each at once, then
// whenever nothing succeeded there for about 5 s; those that are down after 1 s, 2 s,
// 4 s, then every 5 s. It returns when the checks under way have ended. Without Run a
// server that is down gets another chance only when all are down.
func (r *Router) Run(ctx context.Context) {
	var (
		running  sync.WaitGroup
		finished = make(chan struct{}, maxProbes)
		free     = maxProbes
		next     int // index of a server, because not all may be checked at once
	)
	defer running.Wait()
	for ctx.Err() == nil {
		now, wait := time.Now(), probeInterval
		all := r.table().all
		for range all {
			if free == 0 {
				break
			}
			c := all[next%len(all)]
			next++
			if left := c.begin(now); left > 0 {
				wait = min(wait, left)
				continue
			}
			free--
			running.Go(func() {
				r.check(ctx, c)
				c.end()
				finished <- struct{}{}
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.changed:
		case <-finished:
			free++
		}
		timer.Stop()
	}
}

// check is one health check: it opens a stream as for a session. Any header counts
// as an answer.
func (r *Router) check(ctx context.Context, c candidate) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	defer context.AfterFunc(c.retired, cancel)()
	s := r.newSearch(candidate.probe)
	s.probe = true
	if stream := s.servers(ctx, []candidate{c}); stream != nil {
		stream.closeProbe()
	}
	s.failed.discard()
}

// probe returns the Request of a health check. It comes from the gateway
// itself. Servers say what they demand only to those who ask for a domain that
// they serve: one that the operator has named or that a session has found.
func (c candidate) probe() *Request {
	q := &Request{Domain: c.domain, ID: "health-check", Header: framing.Header{Version: []byte(`"1.0"`)}, probe: true}
	if q.Domain == "" {
		c.mu.Lock()
		q.Domain = cmp.Or(c.served, c.tlsRequired, c.server.likelyDomain())
		c.mu.Unlock()
	}
	if q.Domain != "" {
		q.Header.To = framing.Quote(q.Domain)
	}
	return q
}

// served notes that a stream for the domain got as far as features.
func (n *node) serves(domain string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.served = domain
}

// demandsTLS notes that the server had TLS required for the domain.
func (n *node) demandsTLS(domain string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tlsRequired = cmp.Or(n.tlsRequired, domain)
}

func (n *node) lastServed() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.served
}
