package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xmppgate/framing"
)

// minAttempt is the least time that one server gets to answer. A session that
// has less left does not start another attempt.
const minAttempt = time.Second

// noServer is Error.Server if no server was tried.
const noServer = "none"

// A Config has the servers of a Router and how it chooses among them. Default or
// Routes must have a server; every other field has a useful zero value.
type Config struct {
	// Default are the servers of the domains without a route.
	Default []*Server
	// Routes are the servers of single domains. Keys are A-labels in lower
	// case, without a final dot.
	Routes map[string][]*Server
	// Policy is one of Policies. Empty means PolicyHash.
	Policy string
	// Resolver looks up names and SRV records. Nil means the system's.
	Resolver *net.Resolver
	// AllowList are the domains, spelt as in Routes, that srv: may look up
	// besides those with a route. Clients cannot cause lookups of other
	// domains. Required if Default has srv: without a name.
	AllowList []string
	// Observer gets the events. Nil means none.
	Observer Observer
}

// A Router opens the stream of each session at one of its servers. Make one with
// [NewRouter]. Its methods may be called by several goroutines at once.
type Router struct {
	observer Observer
	sequence atomic.Uint32 // sessions so far
	changed  chan struct{} // wakes Run
	current  atomic.Pointer[table]
	updates  sync.Mutex // held by Update

	open func(context.Context, *endpoint, *Request) (*Stream, error) // (*endpoint).open but in tests
}

// NewRouter returns a Router. All servers count as up until Run or a session finds
// otherwise. It starts nothing: call Run for health checks. The error joins
// everything that is wrong with c.
func NewRouter(c Config) (*Router, error) {
	t, err := newTable(c, &table{})
	if err != nil {
		return nil, err
	}
	r := &Router{
		observer: c.Observer,
		changed:  make(chan struct{}, 1),
		open: func(ctx context.Context, e *endpoint, q *Request) (*Stream, error) {
			return e.open(ctx, q)
		},
	}
	if r.observer == nil {
		r.observer = nopObserver{}
	}
	r.publish(t)
	return r, nil
}

// Update replaces the configuration; c.Observer is ignored. The error joins everything
// that is wrong with c, and then nothing has changed.
//
// Connect, Static and health checks go by c as soon as Update returns; attempts under
// way go on at the servers they have found. A server that stays, with the same URL and
// options, keeps all that is known of it: its health and when it is checked next, its
// sessions, what DNS said, TLS sessions, and for which domains it needs no TLS. New
// servers count as up and are checked at once. A check of a server that is gone is
// cancelled; sessions at it live on.
func (r *Router) Update(c Config) error {
	r.updates.Lock()
	defer r.updates.Unlock()
	old := r.table()
	t, err := newTable(c, old)
	if err != nil {
		return err
	}
	r.observer.Updated(t.names())
	r.publish(t)
	for _, c := range old.all {
		if !t.has(c.node) {
			c.retire()
		}
	}
	for _, s := range t.servers {
		s.options.files.checkSoon()
	}
	r.wake()
	return nil
}

// table returns the current configuration. What needs a consistent one calls it once.
func (r *Router) table() *table { return r.current.Load() }

// publish makes t the current configuration.
func (r *Router) publish(t *table) {
	if s := t.static.target; s != nil && s.router == nil {
		s.router = r
	}
	r.current.Store(t)
}

// Connect opens a stream for one session at the first server that answers, in the
// order of the policy, within TotalTimeout. The caller owns the Stream and calls
// its Done when the session is over.
//
// Each of k servers that are left gets the k-th part of the remaining time, but at
// least a second, so that a server that does not answer leaves time for the others.
//
// If no server answers, the error says what happened at each, and errors.As finds
// the *[Error] of the first. If a server has answered with a stream error that says
// that it cannot serve now, Connect returns the Stream with that error instead, so
// that the client can read it. If ctx is cancelled, the error is one *Error with
// ResultAbandoned.
func (r *Router) Connect(ctx context.Context, q *Request) (*Stream, error) {
	s := r.newSearch(func(candidate) *Request { return q })
	group := s.group(q.Domain)
	if len(group) == 0 {
		return nil, &Error{Server: noServer, Phase: PhaseResolve, Result: ResultNoServer, Err: errors.New("no server for this domain")}
	}
	stream := s.servers(ctx, s.order(group, q))
	switch {
	case stream != nil:
		s.failed.discard()
		return stream, nil
	case errors.Is(ctx.Err(), context.Canceled):
		s.failed.discard()
		return nil, s.failed.abandoned(ctx)
	}
	if stream = s.failed.firstStreamError(); stream != nil {
		return stream, nil
	}
	return nil, s.failed.asError()
}

// Join counts a session that came to the server with this name without Connect, until
// done is called. It does nothing if there is no such server.
func (r *Router) Join(server string) (done func()) {
	c, ok := r.table().byName[server]
	if !ok {
		return func() {}
	}
	c.sessions.Add(1)
	return func() { c.sessions.Add(-1) }
}

// A ServerStatus is the state of one server.
type ServerStatus struct {
	// Name is Server.Name; for srv: with the domain behind it.
	Name string
	// Up reports whether sessions are sent there. One that is down gets
	// sessions only if all are.
	Up bool
	// Checked reports whether a session or a health check has tried the
	// server. Otherwise Up is an assumption.
	Checked bool
	// Sessions is the number of sessions at the server, including those that
	// connect.
	Sessions int
	// Err is the error of the last attempt; nil if it succeeded.
	Err *Error
}

// Status returns the state of each server, in the same order until Update is called.
func (r *Router) Status() []ServerStatus {
	var all []ServerStatus
	for _, c := range r.table().all {
		all = append(all, c.status())
	}
	return all
}

// Ready returns nil if a server is up and was checked, otherwise an error that says
// what is wrong with each. A server that is down does not make the gateway unready,
// nor does a whole route, because that would stop the sessions of all other domains.
func (r *Router) Ready() error {
	var reasons []string
	for _, s := range r.Status() {
		switch {
		case s.Up && s.Checked:
			return nil
		case s.Err != nil:
			reasons = append(reasons, s.Err.Error())
		default:
			reasons = append(reasons, fmt.Sprintf("server %s: not checked yet", s.Name))
		}
	}
	return errors.New(strings.Join(reasons, "; "))
}

// Check checks the health of all servers once, and returns the result of Ready.
func (r *Router) Check(ctx context.Context) error {
	var all sync.WaitGroup
	for _, c := range r.table().all {
		all.Go(func() { r.check(ctx, c) })
	}
	all.Wait()
	return r.Ready()
}

// A search is the attempt to open one stream. It goes by one table from its beginning
// to its end.
type search struct {
	*Router
	*table
	request   func(candidate) *Request
	probe     bool // a health check, not a session
	redirects int  // how many were followed
	failed    failures
}

func (r *Router) newSearch(request func(candidate) *Request) *search {
	return &search{Router: r, table: r.table(), request: request}
}

// servers tries servers until one answers.
func (s *search) servers(ctx context.Context, all []candidate) *Stream {
	ctx, cancel := context.WithTimeout(ctx, TotalTimeout)
	defer cancel()
	var last *node
	return tryEach(ctx, all, func(ctx context.Context, c candidate) *Stream {
		if last != nil && !s.probe {
			s.observer.FailedOver(last.name)
		}
		last = c.node
		return s.server(ctx, c)
	})
}

// server tries one server and updates its health.
func (s *search) server(ctx context.Context, c candidate) *Stream {
	if !s.probe {
		c.sessions.Add(1)
	}
	q, start := s.request(c), time.Now()
	stream := s.endpoints(ctx, c, q)
	var failure *Error
	if stream == nil {
		failure = s.failed[len(s.failed)-1]
	}
	switch {
	case stream == nil && errors.Is(ctx.Err(), context.Canceled): // says nothing
	case stream == nil && s.countsAgainst(c, failure, q.Domain, time.Since(start)):
		s.report(c.node, failure)
	case stream != nil || s.probe: // any answer passes a health check
		s.report(c.node, nil)
	default:
		c.checkSoon()
		s.wake()
	}
	s.noteDomain(c.node, q.Domain, stream, failure)
	switch {
	case s.probe:
	case stream == nil:
		c.sessions.Add(-1)
	default:
		stream.done = func() { c.sessions.Add(-1) }
	}
	return stream
}

// endpoints tries the endpoints of one server until one answers. It returns
// either a Stream or has added to s.failed.
func (s *search) endpoints(ctx context.Context, c candidate, q *Request) *Stream {
	endpoints, err := c.endpoints(ctx, s.observer, func(all []record) {
		if s.hashes {
			byUser(all, q)
		} else {
			inOrder(all, rand.IntN)
		}
	})
	if err != nil {
		s.failed = append(s.failed, asError(c.name, PhaseResolve, err))
		return nil
	}
	return tryEach(ctx, endpoints, func(ctx context.Context, e endpoint) *Stream {
		e.server, e.resolver = c.name, s.resolver
		stream, failure := s.follow(ctx, q, e, nil)
		if failure != nil {
			if s.probe && c.up() {
				failure = e.diagnose(ctx, q, failure)
			}
			s.failed = append(s.failed, failure)
		}
		return stream
	})
}

// tryEach calls try with one candidate after another until one has a Stream.
// Each gets its share of the time until ctx ends.
func tryEach[T any](ctx context.Context, candidates []T, try func(context.Context, T) *Stream) *Stream {
	end, _ := ctx.Deadline()
	for i, c := range candidates {
		left := time.Until(end)
		if i > 0 && (ctx.Err() != nil || left < minAttempt) {
			break
		}
		share, cancel := context.WithTimeout(ctx, max(left/time.Duration(len(candidates)-i), minAttempt))
		stream := try(share, c)
		cancel()
		if stream != nil {
			return stream
		}
	}
	return nil
}

// failures are what happened at the endpoints that were tried, in order.
type failures []*Error

func (f failures) Error() string {
	all := make([]string, len(f))
	for i, err := range f {
		all[i] = err.Error()
	}
	return strings.Join(all, "; ")
}

func (f failures) Unwrap() []error {
	all := make([]error, len(f))
	for i, err := range f {
		all[i] = err
	}
	return all
}

// asError returns f as one error.
func (f failures) asError() error {
	if len(f) == 1 {
		return f[0]
	}
	return f
}

// abandoned returns the error of a session whose client went away. The phase is
// the one it was in.
func (f failures) abandoned(ctx context.Context) *Error {
	last := f[len(f)-1]
	return &Error{Server: last.Server, Phase: last.Phase, Result: ResultAbandoned, Err: context.Cause(ctx)}
}

// firstStreamError returns the first Stream in which a server says that it cannot
// serve, or nil. The others end.
func (f failures) firstStreamError() *Stream {
	for i, err := range f {
		if stream := err.stream; stream != nil {
			f[i+1:].discard()
			return stream
		}
	}
	return nil
}

// discard ends the streams that came with the failures.
func (f failures) discard() {
	for _, err := range f {
		if err.stream != nil {
			err.stream.Conn.Close()
		}
	}
}

// asError returns err as an *Error about the server.
func asError(server, phase string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Server: server, Phase: phase, Result: ResultError, Err: err}
}

// closeProbe ends the stream of a health check.
func (s *Stream) closeProbe() {
	s.Conn.SetDeadline(time.Now().Add(minAttempt))
	io.WriteString(s.Conn, framing.EndTag)
	s.Conn.Close()
}

// nopObserver is the Observer if Config has none.
type nopObserver struct{}

func (nopObserver) Opened(server, phase, result string, took time.Duration) {}
func (nopObserver) FailedOver(from string)                                  {}
func (nopObserver) Redirected(server string)                                {}
func (nopObserver) Health(server string, down *Error)                       {}
func (nopObserver) Encrypted(server string)                                 {}
func (nopObserver) FilesRead(server string, err error)                      {}
func (nopObserver) CertificateExpires(server string, at time.Time)          {}
func (nopObserver) Updated(servers []string)                                {}
