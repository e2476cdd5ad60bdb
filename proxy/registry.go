package proxy

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// A registry has the connections of a gateway and what they have relayed.
type registry struct {
	networks *limit.Table  // of the clients
	drains   chan struct{} // closed when draining becomes true

	mu                 sync.Mutex // guards all below
	maxSessions        int        // that may live at once; zero means no limit
	maxUnauthenticated int        // of these, that have yet to authenticate; zero means no limit
	listeners          map[loop.Listener]struct{}
	conns              int       // accepted and not over, upgraded or not
	refused            int       // of these, that only wait for an HTTP response
	unauthenticated    int       // of the others, that have yet to authenticate
	overload           string    // what is short; empty for nothing
	stopped            bool      // no client is accepted any more
	draining           bool      // sessions are ended, and those that begin all the same
	empty              sync.Cond // conns has become zero
	lastID             uint64
	live               []*live
	relayed            [2]Traffic // to servers and to clients, by sessions that are over
}

func (r *registry) init() {
	r.networks = limit.NewTable(limit.Policy{})
	r.listeners = make(map[loop.Listener]struct{})
	r.empty.L = &r.mu
	r.drains = make(chan struct{})
}

// Bounds of the connections that get an HTTP response although they are refused. More are
// disconnected.
const (
	maxRefused           = 256
	maxRefusedOverloaded = 16
)

// Admit implements loop.Acceptor. It is called for each accepted connection, before
// its session is allocated. It returns nil if the client is denied, or if there is no room
// even for an HTTP response.
func (g *Gateway) Admit(h loop.Handle, remote netip.AddrPort) relay.Session {
	return g.newSession(h, remote, false)
}

// A tlsAcceptor is a Gateway whose clients begin with TLS.
type tlsAcceptor struct{ *Gateway }

// Admit implements loop.Acceptor.
func (a tlsAcceptor) Admit(h loop.Handle, remote netip.AddrPort) relay.Session {
	return a.Gateway.newSession(h, remote, true)
}

func (g *Gateway) newSession(h loop.Handle, remote netip.AddrPort, speaksTLS bool) relay.Session {
	network, reason, room := g.enter(remote.Addr())
	if reason != limit.None {
		g.limited(remote.Addr(), reason)
	}
	if !room {
		g.observer.Upgraded(session.LimitResult(reason), 0)
		return nil
	}
	l := &live{handle: h}
	l.s.Init(&g.settings.Load().session, l, remote, speaksTLS, reason)
	l.s.Network = network
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

// ClientFound implements session.Host.
func (l *live) ClientFound(_ *relay.Event, client netip.Addr) (reason limit.Reason) {
	g := l.gateway()
	if l.s.Network, reason = g.networks.Enter(g.clock(), client); reason != limit.None {
		g.limited(client, reason)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.unauthenticated--
		g.refused++
	}
	return reason
}

// RefusedMayLinger implements session.Host.
func (l *live) RefusedMayLinger() bool {
	r := &l.gateway().registry
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused <= maxRefused
}

// Limited implements session.Host.
func (l *live) Limited() bool {
	return l.s.Network != 0 // for the others, a limit may come later
}

// Paused implements session.Host.
func (l *live) Paused() { l.gateway().observer.Paused() }

// HandshakeAllowed implements session.Host.
func (l *live) HandshakeAllowed(ev *relay.Event) bool {
	g := l.gateway()
	if g.networks.Handshake(ev.Now, l.s.Network) {
		return true
	}
	g.limited(l.s.Remote().Addr(), limit.HandshakeRate)
	return false
}

// LoggedIn implements session.Host.
func (l *live) LoggedIn(*relay.Event) {
	r := &l.gateway().registry
	r.networks.Authenticated(l.s.Network)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unauthenticated--
}

// LoginFailed implements session.Host.
func (l *live) LoginFailed(ev *relay.Event, condition string) (tooMany bool) {
	g := l.gateway()
	if harmlessFailures[condition] || g.networks.LoginFailed(ev.Now, l.s.Network) {
		return false
	}
	g.limited(l.s.Remote().Addr(), limit.FailedLogins)
	return true
}

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

// StallOver implements session.Host.
func (l *live) StallOver(sd relay.Side, d time.Duration) {
	l.gateway().observer.StallOver(Sides()[sd], d)
}

// FeaturesSent implements session.Host.
func (l *live) FeaturesSent(took time.Duration) { l.gateway().observer.FeaturesSent(l.s.ID(), took) }

// LoginEnded implements session.Host.
func (l *live) LoginEnded(_ *relay.Event, mechanism, result string, took time.Duration) {
	l.gateway().observer.LoginEnded(l.s.ID(), mechanism, result, took)
	l.logLogin(mechanism, result)
}

// Restarted implements session.Host.
func (l *live) Restarted() { l.gateway().observer.Restarted() }

// Resumable implements session.Host.
func (l *live) Resumable() { l.gateway().observer.Resumable() }

// ResumeEnded implements session.Host.
func (l *live) ResumeEnded(result string) { l.gateway().observer.ResumeEnded(result) }

// StreamError implements session.Host.
func (l *live) StreamError(side, condition string) { l.gateway().observer.StreamError(side, condition) }

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
	defer r.leave(l, ev.Now)

	record := l.s.Record()
	if record.Ending == nil {
		g.observer.Upgraded(record.Result, ev.Now-record.Began)
		return
	}
	ended := g.ended(&record, ev.Now)
	g.observer.Ended(ended)
	if t := l.tap(); t != nil {
		t.ended(ended)
	}
	g.logEnd(record.Ending.Level, ended)
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

// leave takes back what Gateway.enter has counted.
func (r *registry) leave(l *live, now time.Duration) {
	r.networks.Leave(now, l.s.Network, l.s.LoggedIn())
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case l.s.Refused() != limit.None:
		r.refused--
	case !l.s.LoggedIn():
		r.unauthenticated--
	}
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

// copyLive copies the set of live sessions, and what those have relayed that are over
// by then. mu is held for the copy only, and for no allocation: all loops may need it.
func (r *registry) copyLive() (all []*live, relayed [2]Traffic) {
	if used, ok := liveSets.Get().(*[]*live); ok {
		all = *used
	}
	for {
		r.mu.Lock()
		n := len(r.live)
		r.mu.Unlock()
		if n > cap(all) {
			all = make([]*live, 0, n+n/16+16) // some begin meanwhile
		}
		r.mu.Lock()
		if len(r.live) <= cap(all) {
			all, relayed = append(all, r.live...), r.relayed
			r.mu.Unlock()
			return all, relayed
		}
		r.mu.Unlock()
	}
}

// liveSets keep what copyLive has returned for the next time: who looks again and again
// should leave no garbage behind, which would double the memory of quiet sessions.
var liveSets sync.Pool // of *[]*live

// release gives a set back, which must not be used any more.
func release(all []*live) {
	clear(all)
	all = all[:0]
	liveSets.Put(&all)
}

// viewPause is after how many sessions a listing lets loops run, which would otherwise wait
// until the runtime preempts the listing, for up to 10 ms.
const viewPause = 64

// eachLive calls look for each of the sessions while no event of it runs, and then then,
// without holding it, until that returns false.
func (g *Gateway) eachLive(all []*live, look func(*live), then func(*live) bool) {
	var l *live
	held := func() { look(l) }
	for n := range all {
		l = all[n]
		l.handle.View(held)
		if !then(l) {
			return
		}
		if n%viewPause == viewPause-1 {
			g.loop.LetRun()
		}
	}
}

// anyLive is for eachLive: there is nothing to do after a look.
func anyLive(*live) bool { return true }

// sessions copies the set of live sessions.
func (g *Gateway) sessions() []*live {
	g.init()
	all, _ := g.copyLive()
	return all
}

// Sessions yields the live sessions, in any order. Each is described at the moment it
// is yielded; those that begin meanwhile may be missing. No session waits for the caller.
func (g *Gateway) Sessions() iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for _, i := range g.infos() {
			if !yield(*i) {
				return
			}
		}
	}
}

// infos yields the live sessions with their descriptions, each of which is valid until
// the next.
func (g *Gateway) infos() iter.Seq2[*live, *SessionInfo] {
	return func(yield func(*live, *SessionInfo) bool) {
		var (
			i        session.Info
			up, down Queue       // of now
			info     SessionInfo // one for all, which costs no allocation
		)
		g.init()
		all, _ := g.copyLive()
		defer release(all)
		g.eachLive(all, func(l *live) {
			i = l.s.Info()
			up.Bytes, up.Stalled = l.handle.Queue(relay.Server)
			down.Bytes, down.Stalled = l.handle.Queue(relay.Client)
		}, func(l *live) bool {
			if i.ID == 0 {
				return true // it is not upgraded
			}
			info = g.info(&i)
			info.UpQueue.add(up)
			info.DownQueue.add(down)
			return yield(l, &info)
		})
	}
}

// add adds what waits now, and a stall that is not over.
func (q *Queue) add(now Queue) {
	q.Bytes = now.Bytes
	if now.Stalled > 0 {
		q.Stalls++
		q.Stalled += now.Stalled
	}
}

func (g *Gateway) info(i *session.Info) SessionInfo {
	return SessionInfo{
		ID: i.ID, Remote: i.Remote, Domain: i.Domain, Server: i.Server, Phase: i.Phase, Resumable: i.Resumable,
		Since: g.epoch.Add(i.Began), Idle: g.clock() - i.LastIn,
		Up: i.Up, Down: i.Down, UpQueue: stalls(i.Stalls[relay.Server]), DownQueue: stalls(i.Stalls[relay.Client]),
		Ping: i.Ping, ClientTLS: i.Secure, ServerTLS: i.ServerTLS,
		ClientTLSInfo: i.ClientTLSInfo, ServerTLSInfo: i.ServerTLSInfo, Steps: i.Steps,
		Compressed: i.Compressed, UpMessages: i.UpMessages, DownMessages: i.DownMessages,
	}
}

func stalls(s session.Stalls) Queue { return Queue{Stalls: s.Number, Stalled: s.Time} }

// CompressionInfo tells how compression is used.
func (g *Gateway) CompressionInfo() CompressionInfo {
	g.init()
	return g.compression.Info()
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
	_, toServer, toClient = g.Summary()
	return toServer, toClient
}

// Summary returns the number of live sessions, and Totals. It costs little and leaves no
// garbage behind.
func (g *Gateway) Summary() (sessions int, toServer, toClient Traffic) {
	g.init()
	// A session that ends meanwhile must be counted exactly once. So the
	// total of ended sessions and the list of live ones are copied together.
	all, relayed := g.copyLive()
	defer release(all)
	toServer, toClient = relayed[0], relayed[1]
	g.eachLive(all, func(l *live) {
		if l.s.ID() != 0 {
			sessions++
		}
		up, down := l.s.Traffic()
		toServer.Add(up)
		toClient.Add(down)
	}, anyLive)
	return sessions, toServer, toClient
}
