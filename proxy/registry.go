package proxy

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// A registry has the connections of a gateway and what they have relayed.
type registry struct {
	mu          sync.Mutex // guards all below
	maxSessions int        // that may live at once; zero means no limit
	listeners   map[loop.Listener]struct{}
	conns       int       // accepted and not over, upgraded or not
	stopped     bool      // no client is accepted any more
	draining    bool      // sessions are ended, and those that begin all the same
	empty       sync.Cond // conns has become zero
	lastID      uint64
	live        []*live
	relayed     [2]Traffic // to servers and to clients, by sessions that are over
}

func (r *registry) init() {
	r.listeners = make(map[loop.Listener]struct{})
	r.empty.L = &r.mu
}

// maxRefused bounds the connections beyond MaxSessions that get an HTTP response.
const maxRefused = 256

// Admit implements loop.Acceptor. It is called for each accepted connection, before
// its session is allocated. It returns nil if there is no room even for an HTTP
// response.
func (g *Gateway) Admit(h loop.Handle, remote netip.AddrPort) relay.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.maxSessions > 0 && g.conns >= g.maxSessions+maxRefused {
		return nil
	}
	g.conns++
	l := &live{handle: h}
	l.s.Init(&g.settings.Load().session, l, remote, g.maxSessions > 0 && g.conns > g.maxSessions)
	return &l.s
}

// A live is a session in the registry, from its connection to its end. It is the
// session's host.
type live struct {
	s      session.Session // its Index is that in registry.live
	handle loop.Handle
}

// settings returns those with which the session has begun.
func (l *live) settings() *settings { return l.s.Settings().Owner.(*settings) }

func (l *live) gateway() *Gateway { return l.settings().gateway }

var _ session.Host = (*live)(nil)

// Started implements session.Host.
func (l *live) Started() (draining bool) {
	r := &l.gateway().registry
	r.mu.Lock()
	defer r.mu.Unlock()
	l.s.Index = uint32(len(r.live))
	r.live = append(r.live, l)
	return r.draining
}

// Upgraded implements session.Host.
func (l *live) Upgraded(_ *relay.Event, took time.Duration) (id uint64) {
	r := &l.gateway().registry
	r.mu.Lock()
	r.lastID++
	id = r.lastID
	r.mu.Unlock()
	l.gateway().observer.Upgraded(session.UpgradeOK, took)
	return id
}

// Pinged implements session.Host.
func (l *live) Pinged(roundTrip time.Duration) { l.gateway().observer.Pinged(roundTrip) }

// Notice implements session.Host.
func (l *live) Notice(cause string, level slog.Level, message string, attrs func() []slog.Attr) {
	l.gateway().notice(cause, level, message, attrs)
}

// ChannelBindingOffered implements session.Host. It warns once that clients which
// accept this offer of the server cannot log in.
func (l *live) ChannelBindingOffered() {
	if !l.gateway().warned.Swap(true) {
		l.gateway().log(slog.LevelWarn, "the server offers channel binding, which cannot work through a gateway: clients that choose it cannot log in; "+
			"disable the mechanisms that end in -PLUS at the server, or strip them here", nil)
	}
}

// Over implements session.Host.
func (l *live) Over(ev *relay.Event) {
	g := l.gateway()
	r := &g.registry
	r.remove(l)
	defer r.connOver()

	record := l.s.Record()
	age := ev.Now - record.Began
	if record.Ending == nil {
		g.observer.Upgraded(record.Result, age)
		return
	}
	g.observer.Ended(record.Ending.Name, age)
	g.logEnd(&record, age)
}

// remove takes a session out of the registry, which keeps what it has relayed.
func (r *registry) remove(l *live) {
	toServer, toClient := l.s.Traffic()
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.live) - 1
	r.live[l.s.Index] = r.live[last]
	r.live[l.s.Index].s.Index = l.s.Index
	r.live[last] = nil
	r.live = r.live[:last]
	r.relayed[0].Add(toServer)
	r.relayed[1].Add(toClient)
}

func (r *registry) isEmpty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns == 0
}

func (r *registry) connOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns--; r.conns == 0 {
		r.empty.Broadcast()
	}
}

// awaitEmpty waits until no connection is left, or ctx is done.
func (r *registry) awaitEmpty(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.empty.Broadcast()
	})
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.conns > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.empty.Wait()
	}
	return nil
}

// sessions copies the set of live sessions.
func (g *Gateway) sessions() []*live {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.live)
}

// Sessions yields the live sessions, in any order. Each is described at the moment it
// is yielded; those that begin meanwhile may be missing.
func (g *Gateway) Sessions() iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for _, l := range g.sessions() {
			var i session.Info
			l.handle.View(func() { i = l.s.Info() })
			if i.ID != 0 && !yield(g.info(&i)) { // else it is not upgraded
				return
			}
		}
	}
}

func (g *Gateway) info(i *session.Info) SessionInfo {
	return SessionInfo{
		ID: i.ID, Remote: i.Remote, Domain: i.Domain, Server: i.Server, Phase: i.Phase, Resumable: i.Resumable,
		Since: g.epoch.Add(i.Began), Idle: g.clock() - i.LastIn,
		Up: i.Up, Down: i.Down, Ping: i.Ping,
	}
}

// SessionsStarted returns the number of sessions so far, live ones included.
func (g *Gateway) SessionsStarted() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lastID
}

// Totals returns what all sessions have relayed so far, ended ones included. The
// numbers never decrease.
func (g *Gateway) Totals() (toServer, toClient Traffic) {
	g.init()
	// A session that ends meanwhile must be counted exactly once. So the
	// total of ended sessions and the list of live ones are copied together.
	g.mu.Lock()
	toServer, toClient = g.relayed[0], g.relayed[1]
	all := slices.Clone(g.live)
	g.mu.Unlock()
	for _, l := range all {
		l.handle.View(func() {
			up, down := l.s.Traffic()
			toServer.Add(up)
			toClient.Add(down)
		})
	}
	return toServer, toClient
}
