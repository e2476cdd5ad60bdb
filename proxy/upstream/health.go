package upstream

import (
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
	// succeeds before a health check is due.
	probeInterval = 10 * time.Second
	// A server that is down is checked after minBackoff, then after twice
	// as long each time, up to maxBackoff.
	minBackoff = time.Second
	maxBackoff = 60 * time.Second
	// jitter is the part by which all these times vary, so that replicas
	// of the gateway do not come in step.
	jitter = 0.2
	// maxProbes is how many health checks run at once.
	maxProbes = 16
)

// A node is what is known of a server. Everything else about the server never
// changes, this does.
type node struct {
	name     string       // Server.Name, with the domain behind it for srv:
	service  *service     // finds the endpoints of srv:; else nil
	domain   string       // what health checks name in to; empty when the operator named none
	sessions atomic.Int64 // those being opened included

	mu sync.Mutex
	health
}

// A health is a state machine which is told of every open that says something
// about the server. A server goes down by ejectAfter failures in a row or one
// failed health check, and up by any open that succeeds. When it is down it
// gets the sessions that no other server takes.
type health struct {
	down     bool
	failed   int           // sessions in a row
	backoff  time.Duration // while down
	due      time.Time     // when the next health check is
	checking bool          // it is under way
	last     *Error        // nil when the last open succeeded
}

// note takes the outcome of an open at time now, failure being nil for success.
// It tells whether the server went up or down by that.
func (h *health) note(now time.Time, failure *Error, probe bool) (changed bool) {
	was := h.down
	h.last = failure
	switch {
	case failure == nil:
		h.down, h.failed, h.backoff = false, 0, 0
		h.due = now.Add(jittered(probeInterval))
	case probe:
		h.down = true
	case !h.down:
		h.failed++
		h.down = h.failed >= ejectAfter
	}
	// A session that fails where others have does not prolong the back-off.
	if h.down && (probe || !was) {
		h.backoff = min(max(2*h.backoff, minBackoff), maxBackoff)
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

func (n *node) status() (up bool, last *Error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.down, n.last
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
	n.checking = true
	return 0
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
	changed := n.note(time.Now(), failure, s.probe)
	if changed {
		// Under the lock, so that the observer sees changes in order.
		s.observer.Health(n.name, failure)
	}
	n.mu.Unlock()
	if changed {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
}

// blamed tells whether a failure is the server's. A client must not be able to
// bring a server down: it can ask for a domain that the certificate was never
// meant for or that has the server, or what stands before it and looks at the
// SNI, hang up, and have its own address or header refused.
func (s *search) blamed(c candidate, failure *Error, domain string, took time.Duration) bool {
	_, ours := s.routes[domain] // else the client came up with it
	switch result := failure.Result; {
	case result == ResultAbandoned:
		return false
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

// Monitored tells whether Run checks servers, which it does if there are
// several of them. One server gets all sessions whether it is up or down, and
// is spared connections that nobody asked for.
func (r *Router) Monitored() bool { return len(r.all) > 1 }

// Dialed notes how it went to connect to the server at the address of Direct,
// which sessions do without the Router. result is ResultOK or what went wrong.
func (r *Router) Dialed(result string) {
	var failure *Error
	switch result {
	case ResultAbandoned:
		return
	case ResultOK:
	default:
		failure = &Error{Server: r.all[0].name, Phase: PhaseTCP, Result: result, Err: errors.New(result)}
	}
	(&search{Router: r}).report(r.all[0].node, failure)
}

// Run checks the health of all servers until ctx is done, if there are several:
// those without a recent success after probeInterval, those which are down after
// their back-off. Without it a server that is down comes up again only when no
// other is left.
func (r *Router) Run(ctx context.Context) {
	if !r.Monitored() {
		<-ctx.Done()
		return
	}
	var (
		running  sync.WaitGroup
		finished = make(chan struct{}, maxProbes)
		free     = maxProbes
		turn     int // whose it is when there are more servers than may be checked at once
	)
	defer running.Wait()
	for ctx.Err() == nil {
		now, wait := time.Now(), probeInterval
		for range r.all {
			if free == 0 {
				break
			}
			c := r.all[turn]
			turn = (turn + 1) % len(r.all)
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

// check is one health check: a stream that is opened as for a session. Any
// header will do for an answer.
func (r *Router) check(ctx context.Context, c candidate) {
	s := &search{Router: r, request: candidate.probe, probe: true}
	if stream := s.servers(ctx, []candidate{c}); stream != nil {
		stream.hangUp()
	}
	s.failed.discard()
}

// probe returns the Request of a health check. It comes from the gateway
// itself.
func (c candidate) probe() *Request {
	q := &Request{Domain: c.domain, ID: "health-check", Header: framing.Attributes{Version: []byte(`"1.0"`)}}
	if q.Domain != "" {
		q.Header.To = []byte(`"` + q.Domain + `"`)
	}
	return q
}
