package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// A Gateway accepts WebSocket connections with the subprotocol xmpp (RFC 7395) and
// relays each of them to an XMPP server over a stream of its own (RFC 6120). Set
// Config, then call Serve; after that only Update changes the configuration. A Gateway
// must not be copied. Its methods may be called by several goroutines at once.
type Gateway struct {
	// Config is the configuration at the start. Update does not change it.
	Config

	once          sync.Once
	loop          loop.Loop
	epoch         time.Time // session times count from here
	clock         func() time.Duration
	streamID      func() string
	observer      Observer
	settings      atomic.Pointer[settings]       // of new sessions
	sessionLimits atomic.Pointer[session.Limits] // of all
	compression   session.Compression
	notices       notices
	endedLimit    endedLimit
	taps          taps
	warned        atomic.Bool                  // by live.ChannelBindingOffered
	static        atomic.Pointer[staticServer] // see serverOf

	tls *clientTLS

	handshakes handshakes
	registry
}

// init sets the fields that a test has not set.
func (g *Gateway) init() {
	g.once.Do(func() {
		g.epoch = time.Now().Add(-1) // so that no event happens at zero, which means never
		if g.clock == nil {
			g.clock = func() time.Duration { return time.Since(g.epoch) }
		}
		if g.streamID == nil {
			g.streamID = randomID
		}
		if g.observer = g.Observer; g.observer == nil {
			g.observer = nopObserver{}
		}
		if g.loop == nil {
			g.loop = loop.New(g.Loop, g.clock, upstream.KeepAlive.Idle)
		}
		g.registry.init()
		g.publish(&g.Config)
		g.tls = newClientTLS()
	})
}

// settings are a Config and what was made of it once. They never change: a session
// keeps those with which it has begun.
type settings struct {
	*Config
	gateway *Gateway
	session session.Settings
}

// publish makes c the configuration of new sessions.
func (g *Gateway) publish(c *Config) {
	s := &settings{Config: c, gateway: g}
	s.session = c.settings(g.streamID, s)
	g.compression.SetMemory(c.compressionMemory())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.maxSessions = max(0, min(c.MaxSessions, MostSessions))
	g.maxUnauthenticated = max(0, c.MaxUnauthenticated)
	g.networks.SetPolicy(g.clock(), c.NetworkLimits)
	g.sessionLimits.Store(c.limitsOfSessions())
	g.settings.Store(s)
}

// Update replaces the configuration while the gateway runs. Sessions that begin
// afterwards go by c; live ones keep the settings with which they have begun, such as
// the MaxStanza that their client may have been told (XEP-0478). MaxSessions,
// MaxUnauthenticated, NetworkLimits, StanzaRate, ByteRate, AuthTimeout, MaxSessionAge,
// CompressionMemory and Log apply to all at once. If more sessions live than c allows,
// none is ended, but no client is accepted until enough have left. A quiet session that
// has become too old is noticed when its client is pinged next.
//
// c.Observer is ignored: the gateway keeps the first. The error joins everything that
// is wrong with c, such as a Loop that differs from that of the start; then nothing has
// changed.
func (g *Gateway) Update(c Config) error {
	g.init()
	var errs []error
	if c.Dial == nil {
		errs = append(errs, errors.New("no Dial: nothing connects to a server"))
	}
	if now, start := cmp.Or(c.Loop, LoopAuto), cmp.Or(g.Loop, LoopAuto); now != start {
		errs = append(errs, fmt.Errorf("the loop cannot change from %s to %s while the gateway runs", start, now))
	}
	for _, path := range c.Paths {
		if err := CheckPath(path); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	g.publish(&c)
	return nil
}

// Bounds of the pause after an accept that failed, for example because no
// descriptor was left.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Serve accepts connections from l until Shutdown or StopAccepting is called or l fails.
// It returns nil after these, and otherwise the error of l. Errors that concern one
// connection, or pass, do not end it: it logs them, pauses and goes on. Serve owns l:
// only Shutdown may close it. Call Serve once for each of several listeners.
func (g *Gateway) Serve(l net.Listener) error {
	g.init()
	return g.serve(l, g)
}

// ServeTLS is Serve for clients that begin with TLS, behind a PROXY header if their
// address sends one. They get TLS 1.2 or later and a certificate of Config.Certificate.
func (g *Gateway) ServeTLS(l net.Listener) error {
	g.init()
	return g.serve(l, tlsAcceptor{g})
}

// serve serves the clients of l as sessions of a.
func (g *Gateway) serve(l net.Listener, a loop.Acceptor) error {
	from := g.loop.Listen(l, a)
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		from.Close()
		return nil
	}
	g.listeners[from] = struct{}{}
	g.mu.Unlock()

	pause := time.Duration(0)
	for {
		err := from.Accept()
		switch {
		case err == nil:
			pause = 0
		case errors.Is(err, net.ErrClosed):
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.stopped {
				return nil
			}
			return err
		case isTemporary(err):
			g.observer.AcceptFailed()
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			g.notice("accept", slog.LevelWarn, "accept", func() []slog.Attr {
				attrs := []slog.Attr{slog.String("error", err.Error()), slog.Duration("pause", pause)}
				if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
					attrs = append(attrs, slog.String("remedy", "raise the limit of open files, or lower XMPPGATE_MAX_SESSIONS"))
				}
				return attrs
			})
			time.Sleep(pause)
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// isTemporary reports whether a listener may accept again after err. accept(2) also
// returns errors of a single connection or of the network, more than can be listed.
// Only a descriptor that is not a listening socket does not recover.
func isTemporary(err error) bool {
	return !slices.ContainsFunc([]error{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK},
		func(e error) bool { return errors.Is(err, e) })
}

// Degraded implements loop.Acceptor.
func (g *Gateway) Degraded(err error) {
	g.log(slog.LevelWarn, "the epoll loop does not start: sessions get goroutines, which cost more; raise the limit of open files", []slog.Attr{slog.String("error", err.Error())})
}

// log writes a record, see Config.Log.
func (g *Gateway) log(level slog.Level, message string, attrs []slog.Attr) {
	if l := g.settings.Load().Log; l != nil {
		l.LogAttrs(context.Background(), level, message, attrs...)
	}
}

// nopObserver observes nothing.
type nopObserver struct{}

func (nopObserver) Upgraded(string, time.Duration)                   {}
func (nopObserver) Dialed(uint64, string, time.Duration)             {}
func (nopObserver) AcceptFailed()                                    {}
func (nopObserver) Pinged(time.Duration)                             {}
func (nopObserver) FeaturesSent(uint64, time.Duration)               {}
func (nopObserver) LoginEnded(uint64, string, string, time.Duration) {}
func (nopObserver) Restarted()                                       {}
func (nopObserver) Resumable()                                       {}
func (nopObserver) ResumeEnded(string)                               {}
func (nopObserver) StreamError(string, string)                       {}
func (nopObserver) StallOver(string, time.Duration)                  {}
func (nopObserver) Paused()                                          {}
func (nopObserver) Ended(*EndedSession)                              {}
func (nopObserver) Secured(Handshake)                                {}
