package proxy

import (
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
// Config, then call Serve; Config must not change after that. A Gateway must not be
// copied. Its methods may be called by several goroutines at once.
type Gateway struct {
	Config

	once     sync.Once
	loop     loop.Loop
	epoch    time.Time // session times count from here
	clock    func() time.Duration
	streamID func() string
	observer Observer
	settings atomic.Pointer[session.Settings] // of new sessions
	notices  notices
	warned   atomic.Bool                  // by live.ChannelBindingOffered
	static   atomic.Pointer[staticServer] // see serverOf

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
		g.settings.Store(g.Config.settings(g.streamID, g))
		g.registry.init(g.MaxSessions)
	})
}

// Bounds of the pause after an accept that failed, for example because no
// descriptor was left.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Serve accepts connections from l until Shutdown is called or l fails. It returns
// nil after Shutdown, and otherwise the error of l. Errors that concern one
// connection, or pass, do not end it: it logs them, pauses and goes on. Serve owns l:
// only Shutdown may close it. Call Serve once for each of several listeners.
func (g *Gateway) Serve(l net.Listener) error {
	g.init()
	from := g.loop.Listen(l, g)
	g.mu.Lock()
	if g.draining {
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
			if g.draining {
				return nil
			}
			return err
		case isTemporary(err):
			g.observer.AcceptFailed()
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			g.log(slog.LevelWarn, "accept", []slog.Attr{slog.String("error", err.Error()), slog.Duration("pause", pause)})
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
	if g.Log != nil {
		g.Log.LogAttrs(context.Background(), level, message, attrs...)
	}
}

// nopObserver observes nothing.
type nopObserver struct{}

func (nopObserver) Upgraded(string, time.Duration) {}
func (nopObserver) Dialed(string, time.Duration)   {}
func (nopObserver) AcceptFailed()                  {}
func (nopObserver) Pinged(time.Duration)           {}
func (nopObserver) Ended(string, time.Duration)    {}
