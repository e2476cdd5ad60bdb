package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/idna"

	"xmppgate/framing"
	"xmppgate/proxy/upstream"
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
	s := &session{g: g, remote: remote, busy: g.maxSessions > 0 && g.conns > g.maxSessions}
	s.down = g.newDown()
	return s
}

func (g *Gateway) newDown() framing.StreamSplitter {
	return framing.StreamSplitter{MaxStanza: g.maxStanza, Binding: g.ChannelBinding, NoExternal: g.HideExternal}
}

// started looks whether a Shutdown has missed s: it may have listed the
// sessions before this one was there.
func (g *Gateway) started(s *session) {
	g.mu.Lock()
	draining := g.draining
	g.mu.Unlock()
	if draining {
		s.link.post(func(s *session, w *workspace) { s.shutdown(w) })
	}
}

// maxRefused bounds the connections beyond MaxSessions that are told why they
// are refused.
const maxRefused = 256

func (g *Gateway) connOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns--; g.conns == 0 {
		g.idle.Broadcast()
	}
}

// connected registers s, during its first event.
func (g *Gateway) connected(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.place = uint32(len(g.live))
	g.live = append(g.live, s)
}

// upgraded gives s its number: from here on it is a session to the outside.
func (g *Gateway) upgraded(s *session, now time.Duration) {
	g.mu.Lock()
	g.lastID++
	s.id = g.lastID
	g.mu.Unlock()
	g.observer.Upgraded(upgradeOK, now-s.began)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// sessionOver forgets s. The loop calls it once, during the last event of s.
func (g *Gateway) sessionOver(s *session, now time.Duration) {
	g.mu.Lock()
	last := len(g.live) - 1
	g.live[s.place] = g.live[last]
	g.live[s.place].place = s.place
	g.live[last] = nil
	g.live = g.live[:last]
	for d := range g.relayed {
		g.relayed[d].add(s.traffic(direction(d)))
	}
	g.mu.Unlock()

	defer g.connOver()
	defer s.leave()

	age := now - s.began
	if !s.upgraded && s.ending != endInternal {
		g.observer.Upgraded(s.rare.result, age)
		return
	}
	g.observer.Ended(s.ending.info().Name, age)
	g.recordEnd(s, age)
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

func (t *Traffic) add(o Traffic) {
	t.Messages += o.Messages
	t.Presences += o.Presences
	t.IQs += o.IQs
	t.Nonzas += o.Nonzas
	t.Bytes += o.Bytes
}

func (t *Traffic) elements() uint64 { return t.Messages + t.Presences + t.IQs + t.Nonzas }

// sessions copies the set of live sessions.
func (g *Gateway) sessions() []*session {
	g.init()
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.live)
}

// Sessions yields the live sessions, in no order.
func (g *Gateway) Sessions() iter.Seq[SessionInfo] {
	return func(yield func(SessionInfo) bool) {
		for _, s := range g.sessions() {
			var info SessionInfo
			s.link.view(func(s *session) { info = s.info() })
			if info.ID != 0 && !yield(info) { // else it is not upgraded
				return
			}
		}
	}
}

// Begun returns how many sessions there have been so far.
func (g *Gateway) Begun() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lastID
}

// Phases of SessionInfo, in the order in which sessions pass through them.
const (
	phaseOpening     = "opening"     // between the upgrade and the server's header
	phaseNegotiating = "negotiating" // not authenticated
	phaseEstablished = "established"
	phaseClosing     = "closing"
)

// Phases lists the values of SessionInfo.Phase.
func Phases() []string {
	return []string{phaseOpening, phaseNegotiating, phaseEstablished, phaseClosing}
}

func (s *session) info() SessionInfo {
	info := SessionInfo{
		ID: s.id, Remote: s.remote, Domain: s.domainName(), Resumable: s.resumable,
		Since: s.g.epoch.Add(s.began),
		Idle:  s.g.clock() - max(s.lastIn[client], s.lastIn[server]),
		Up:    s.traffic(up), Down: s.traffic(down), Ping: s.ping,
	}
	if s.stream != nil {
		info.Server = s.stream.Server
	}
	switch {
	case s.ending != endNone, s.closing != endNone:
		info.Phase = phaseClosing
	case s.authenticated:
		info.Phase = phaseEstablished
	case s.openSent:
		info.Phase = phaseNegotiating
	default:
		info.Phase = phaseOpening
	}
	return info
}

// Totals returns what all sessions have relayed so far, those that are over
// included. It never decreases.
func (g *Gateway) Totals() (toServer, toClient Traffic) {
	g.init()
	// A session that ends while we count must not be counted twice, nor
	// never: hold what says which sessions are live.
	g.mu.Lock()
	total := g.relayed
	all := slices.Clone(g.live)
	g.mu.Unlock()
	for _, s := range all {
		s.link.view(func(s *session) {
			for d := range total {
				total[d].add(s.traffic(direction(d)))
			}
		})
	}
	return total[up], total[down]
}

// Shutdown stops accepting and ends every session with the WebSocket close
// code 1001 and without an end tag, so that clients resume their streams
// elsewhere (XEP-0198). The sessions are spread over part of the time that ctx
// leaves, so that their clients do not all come back in one moment. It returns
// when all sessions are over, or ctx's error when ctx was done before.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.init()
	g.mu.Lock()
	g.draining = true
	listeners := g.listeners
	g.listeners = nil
	g.mu.Unlock()
	// It waits for an accept that is under way, which needs mu.
	for l := range listeners {
		l.close()
	}

	all := g.sessions()
	pause := drainPause(ctx, len(all))
	for _, s := range all {
		s.link.post(func(s *session, w *workspace) { s.shutdown(w) })
		if pause > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
	}
	if err := g.awaitIdle(ctx); err != nil {
		return err
	}
	g.loop.stop()
	return nil
}

// maxDrainPause keeps the drain of a few sessions short.
const maxDrainPause = 10 * time.Millisecond

// drainPause is the time between two sessions of a drain: half of what ctx
// leaves is for telling, the rest for the answers.
func drainPause(ctx context.Context, sessions int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok || sessions < 2 {
		return 0
	}
	return min(time.Until(deadline)/2/time.Duration(sessions), maxDrainPause)
}

// awaitIdle waits until no connection is left.
func (g *Gateway) awaitIdle(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.idle.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.conns > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.idle.Wait()
	}
	return nil
}

// domain decodes the to attribute of a header. The condition is not empty
// when the session may not go there.
func (g *Gateway) domain(to []byte) (string, framing.Condition) {
	name := ""
	if to != nil {
		s, err := framing.Unquote(to)
		if err != nil {
			return "", framing.CondImproperAddressing
		}
		// Without a list there is nothing to compare with but itself.
		if name = s; g.domains != nil {
			name = NormalDomain(s)
		}
	}
	switch {
	case g.domains == nil:
		// One server for all: let it answer.
		return name, ""
	case name == "":
		return "", framing.CondImproperAddressing
	case !slices.Contains(g.domains, name):
		return name, framing.CondHostUnknown
	}
	return name, ""
}

// maxDomain is the length of the longest domain in bytes (RFC 1035, section
// 2.3.4).
const maxDomain = 255

// NormalDomain is the form in which domains are compared: ASCII, lower case,
// no final dot. A name that is no domain keeps its spelling; one that is too
// long is not even looked at, for the time that takes grows with the square.
func NormalDomain(s string) string {
	if len(s) > maxDomain {
		return s
	}
	s = strings.TrimSuffix(s, ".")
	if a, err := idna.Lookup.ToASCII(s); err == nil {
		return a
	}
	return strings.ToLower(s)
}

// connect asks Dial for a stream and tells the session.
func (g *Gateway) connect(ctx context.Context, cancel context.CancelCauseFunc, l link, q *upstream.Request) {
	defer cancel(nil)
	begun := time.Now()
	stream, err := g.callDial(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	g.dialed(err, false, time.Since(begun))
	if err != nil {
		l.post(func(s *session, w *workspace) { s.dialFailed(w, fmt.Errorf("dial server: %w", err)) })
		return
	}
	l.attach(stream)
}

// callDial is Dial, whose panic ends the attempt.
func (g *Gateway) callDial(ctx context.Context, q *upstream.Request) (stream *upstream.Stream, err error) {
	defer upstream.CatchPanic(&err)
	return g.Dial(ctx, q)
}

// dialError is what package net makes of err.
func dialError(to net.Addr, err error) error {
	return fmt.Errorf("dial server: %w", &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: os.NewSyscallError("connect", err)})
}

func (g *Gateway) dialed(err error, direct bool, took time.Duration) {
	g.observer.Dialed(dialResult(err), direct, took)
}

// Results of a dial, see Observer.
const (
	dialOK        = "ok"
	dialRefused   = "refused"
	dialTimedOut  = "timeout"
	dialAbandoned = "abandoned" // the client went away first
	dialOther     = "error"
)

// DialResults lists the results that Observer.Dialed is told.
func DialResults() []string {
	return []string{dialOK, dialRefused, dialTimedOut, dialAbandoned, dialOther}
}

func dialResult(err error) string {
	switch {
	case err == nil:
		return dialOK
	case errors.Is(err, context.Canceled):
		return dialAbandoned
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return dialRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return dialTimedOut
	}
	return dialOther
}

// answerResult is what e says of a server that was to answer a header; the
// names are those of a dial where they mean the same.
func answerResult(e ending) string {
	switch e {
	case endNone:
		return dialOK
	case endServerSilent:
		return dialTimedOut
	case endServerLost:
		return "closed"
	case endServerBroken, endServerTooLarge:
		return "bad-stream"
	}
	return dialAbandoned
}

// AnswerResults lists the results that Observer.Answered is told.
func AnswerResults() []string {
	return []string{dialOK, dialTimedOut, "closed", "bad-stream", dialAbandoned}
}

// nobody observes nothing.
type nobody struct{}

func (nobody) Upgraded(string, time.Duration)     {}
func (nobody) Dialed(string, bool, time.Duration) {}
func (nobody) Answered(string, time.Duration)     {}
func (nobody) AcceptFailed()                      {}
func (nobody) Pinged(time.Duration)               {}
func (nobody) Ended(string, time.Duration)        {}
