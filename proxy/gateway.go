package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Defaults of the fields of Gateway.
const (
	DefaultMaxStanza       = 256 << 10 // bytes, the default of Prosody
	DefaultMaxServerStanza = 16 << 20  // bytes
	DefaultPingInterval    = 30 * time.Second
)

// The most that the fields of Gateway may be; what is above counts as that. A
// message of a client is held as a whole, an element of a server is not.
const (
	LargestStanza       = 64 << 20    // bytes
	LargestServerStanza = 1 << 30     // bytes
	MostSessions        = 500_000_000 // for no process has more than 2^30 descriptors
	LongestPingInterval = 24 * time.Hour
)

// DefaultPaths are the usual paths of Prosody and ejabberd.
var DefaultPaths = []string{"/xmpp-websocket", "/ws"}

// state is what a gateway keeps beside its configuration.
type state struct {
	once            sync.Once
	loop            loop
	epoch           time.Time // session times count from here
	clock           func() time.Duration
	observer        Observer
	notices         notices
	paths           []pathPattern
	domains         []string // in the form of NormalDomain; nil means any
	maxStanza       int
	maxSessions     int // zero or less for no bound
	maxServerStanza int
	pingInterval    time.Duration
	streamID        func() string

	mu        sync.Mutex // guards all below
	listeners map[listener]struct{}
	conns     int // accepted and not over, upgraded or not
	draining  bool
	idle      sync.Cond // conns has become zero
	warned    bool      // see bindingOffered
	lastID    uint64
	live      []*session
	relayed   [2]Traffic // by sessions that are over
}

func (g *Gateway) init() {
	g.once.Do(func() {
		g.epoch = time.Now().Add(-1) // so that no event happens at zero, which means never
		if g.clock == nil {
			g.clock = g.sinceEpoch
		}
		g.loop = newLoop(g.Loop, g.clock)
		g.observer = g.Observer
		if g.observer == nil {
			g.observer = nobody{}
		}
		paths := g.Paths
		if paths == nil {
			paths = DefaultPaths
		}
		for _, path := range paths {
			if p, err := parsePath(path); err == nil {
				g.paths = append(g.paths, p)
			}
		}
		for _, d := range g.Domains {
			g.domains = append(g.domains, NormalDomain(d))
		}
		g.maxStanza = bounded(g.MaxStanza, DefaultMaxStanza, LargestStanza)
		g.maxServerStanza = bounded(g.MaxServerStanza, DefaultMaxServerStanza, LargestServerStanza)
		g.pingInterval = bounded(g.PingInterval, DefaultPingInterval, LongestPingInterval)
		g.maxSessions = min(g.MaxSessions, MostSessions)
		if g.streamID == nil {
			g.streamID = randomID
		}
		g.listeners = make(map[listener]struct{})
		g.idle.L = &g.mu
	})
}

// bounded is a field of Gateway as it is used: its default when it is not set.
func bounded[T int | time.Duration](v, standard, most T) T {
	if v <= 0 {
		return standard
	}
	return min(v, most)
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (g *Gateway) sinceEpoch() time.Duration { return time.Since(g.epoch) }

// Bounds of the pause after an accept that failed, for want of descriptors for
// example.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Serve accepts connections from l until Shutdown is called or l fails. It
// returns nil after Shutdown. It takes l over: only Shutdown may close it. A
// gateway may serve several listeners.
func (g *Gateway) Serve(l net.Listener) error {
	g.init()
	g.loop.launch()
	from := g.loop.listen(l, g)
	g.mu.Lock()
	if g.draining {
		g.mu.Unlock()
		from.close()
		return nil
	}
	g.listeners[from] = struct{}{}
	g.mu.Unlock()

	pause := time.Duration(0)
	for {
		err := from.accept()
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

// isTemporary reports whether a listener may accept again after err: whatever ails
// one client or the network is told by accept too, and much of it is not foreseen
// (accept(2)). Only a listener that is none does not recover.
func isTemporary(err error) bool {
	return !slices.ContainsFunc([]error{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK},
		func(e error) bool { return errors.Is(err, e) })
}

// serveConn takes one connection over. It does not block.
func (g *Gateway) serveConn(conn net.Conn) {
	s := g.admit(addrPort(conn.RemoteAddr()))
	if s == nil {
		conn.Close()
		return
	}
	g.loop.start(s, conn)
	g.started(s)
}

// admit makes a session for a client that has connected. It is nil when there
// is no room even to say so.
func (g *Gateway) admit(remote netip.AddrPort) *session {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.maxSessions > 0 && g.conns >= g.maxSessions+maxRefused {
		return nil
	}
	g.conns++
	return &session{g: g, remote: remote, busy: g.maxSessions > 0 && g.conns > g.maxSessions}
}

// maxRefused bounds the connections beyond MaxSessions that are told why they
// are refused.
const maxRefused = 256

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// log writes a record, see Gateway.Log.
func (g *Gateway) log(level slog.Level, message string, attrs []slog.Attr) {
	if g.Log != nil {
		g.Log.LogAttrs(context.Background(), level, message, attrs...)
	}
}

// bindingOffered warns, once, of a server whose offer no client can take up.
func (g *Gateway) bindingOffered() {
	g.mu.Lock()
	warned := g.warned
	g.warned = true
	g.mu.Unlock()
	if !warned {
		g.log(slog.LevelWarn, "the server offers channel binding, which cannot work through a gateway: clients that choose it cannot log in; "+
			"disable the mechanisms that end in -PLUS at the server, or strip them here", nil)
	}
}

// remoteName is empty for a client on a Unix socket, which has no address.
func remoteName(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Upgraded(string, time.Duration)     {}
func (nobody) Dialed(string, bool, time.Duration) {}
func (nobody) Answered(string, time.Duration)     {}
func (nobody) AcceptFailed()                      {}
func (nobody) Pinged(time.Duration)               {}
func (nobody) Ended(string, time.Duration)        {}
