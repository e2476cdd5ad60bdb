package proxy

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// This file keeps clients out that have, or do, too much. What is counted of a network,
// and when it has too much, is in package limit.

// NetworkLimits are the limits of client networks, see Config.NetworkLimits.
type NetworkLimits = limit.Policy

// A Rate is that of a limit: so many a second, and so many at once.
type Rate = limit.Rate

// harmlessFailures are the conditions of logins that do not count as failed: nobody has
// tried a password. Clients try mechanisms that the server does not offer to them, and
// people change their minds; where many share an address these must not lock out the
// others. What is left is a wrong password, an account that is not there or not allowed,
// and what a server does not explain.
var harmlessFailures = map[string]bool{
	"aborted": true, "encryption-required": true, "incorrect-encoding": true, "invalid-mechanism": true,
	"malformed-request": true, "mechanism-too-weak": true, "temporary-auth-failure": true,
}

// enter counts a new connection from a. That of a proxy belongs to no network, because a is
// not the client's. If there is a reason to refuse the connection, room tells whether it is
// to get an HTTP response; without, it is not counted.
func (g *Gateway) enter(a netip.Addr) (network limit.Network, reason limit.Reason, room bool) {
	proxied := g.ofProxy(a)
	if !proxied && g.networks.Denied(a) {
		return 0, limit.Denied, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	refusable := maxRefused
	switch {
	case g.overload != "":
		reason, refusable = limit.Overloaded, maxRefusedOverloaded
	case g.maxSessions > 0 && g.conns-g.refused >= g.maxSessions:
		reason = limit.Busy
	case g.maxUnauthenticated > 0 && g.unauthenticated >= g.maxUnauthenticated:
		reason = limit.Unauthenticated
	case !proxied:
		network, reason = g.networks.Enter(g.clock(), a)
	}
	switch {
	case reason == limit.None:
		g.unauthenticated++
	case g.refused >= refusable:
		return 0, reason, false
	default:
		g.refused++
	}
	g.conns++
	return network, reason, true
}

// limited logs that a client at a is refused, or its session ended, because of its
// network: one line for each network and minute, with the number of refusals. Programs such
// as fail2ban read these lines, see deploy/fail2ban; the client comes first in them, and
// nothing that it has chosen.
func (g *Gateway) limited(a netip.Addr, reason limit.Reason) {
	if g.settings.Load().Log == nil || !ofNetwork(reason) {
		return
	}
	n := g.networks.Logs(g.clock(), a)
	if n == 0 {
		return
	}
	g.log(slog.LevelWarn, "client limited", []slog.Attr{
		slog.String("client", a.Unmap().WithZone("").String()),
		slog.String("network", g.networks.Prefix(a).String()),
		slog.String("reason", session.LimitResult(reason)),
		slog.Int("count", n),
	})
}

// ofNetwork reports whether r concerns one network. Those that are denied need no line:
// somebody has decided that already.
func ofNetwork(r limit.Reason) bool {
	switch r {
	case limit.FailedLogins, limit.NetworkSessions, limit.NetworkUnauthenticated, limit.RequestRate, limit.HandshakeRate:
		return true
	}
	return false
}

// ParseNetwork parses a network or an address, which is a network of one. IPv4-mapped ones
// become IPv4.
func ParseNetwork(s string) (netip.Prefix, error) { return limit.ParsePrefix(s) }

// A DenyList is a set of networks whose clients may not connect. Nil is the empty one.
type DenyList = limit.List

// MaxDenyListSize is how large the text of a DenyList may be, in bytes.
const MaxDenyListSize = limit.MaxListSize

// ParseDenyList parses a DenyList: a network such as 192.0.2.0/24 or an address on each
// line; # starts a comment.
func ParseDenyList(text []byte) (*DenyList, error) { return limit.ParseList(text) }

// Deny replaces the list of networks whose clients may not connect. It ends the live
// sessions of such clients as denied: not resumable, because whoever puts a network on the
// list wants to be rid of what is there, and a client that has come back from elsewhere
// can log in anew.
func (g *Gateway) Deny(list *DenyList) {
	g.init()
	g.networks.Deny(list)
	if list.Len() == 0 {
		return
	}
	denied := false
	g.eachLive(g.sessions(), func(l *live) {
		// The address of a connection that has yet to send its request may be
		// that of a proxy.
		at := l.s.Remote().Addr()
		denied = (l.s.Info().ID != 0 || !g.ofProxy(at)) && list.Contains(at)
	}, func(l *live) bool {
		if denied {
			l.endBy(l.s.Deny)
		}
		return true
	})
}

// endBy runs f, which ends the session, as an event of it. Many may be ended like that: the
// loops run in between.
func (l *live) endBy(f func(*relay.Event)) {
	l.handle.Post(f)
	l.gateway().loop.LetRun()
}

// ofProxy reports whether connections from a are those of a proxy, which will tell who the
// client is.
func (g *Gateway) ofProxy(a netip.Addr) bool {
	proxies := &g.settings.Load().ClientAddress
	return proxies.SendsHeader(a) || proxies.Trusts(a, !a.IsValid())
}

// minShed is how many sessions SetOverload ends at least.
const minShed = 16

// SetOverload tells that memory or descriptors are short, and how. While they are no client
// is accepted. Each call ends a quarter of the sessions that have yet to authenticate, as
// overload, those first that have been at it for longest. When there are none it ends a
// quarter of those for which memory is held: as client-stalled if their clients do not read,
// else as memory-short. The others go on. The empty text ends it.
func (g *Gateway) SetOverload(short string) {
	g.init()
	g.mu.Lock()
	g.overload = short
	g.mu.Unlock()
	if short == "" {
		return
	}
	type waiting struct {
		*live
		since time.Duration
	}
	var all []waiting
	g.eachLive(g.sessions(), func(l *live) {
		if l.s.AwaitsLogin() {
			all = append(all, waiting{l, l.s.Info().Began})
		}
	}, anyLive)
	slices.SortFunc(all, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	for _, l := range all[:min(len(all), max(minShed, (len(all)+3)/4))] {
		l.endBy(l.s.Shed)
	}
	if len(all) == 0 {
		g.shedHolders(true)
	}
}

// muchHeld is more than a session holds that takes and gives stanzas of the usual size, in
// bytes.
const muchHeld = 16 << 10

// LimitBuffers sets how many bytes the buffers of all sessions of the process may have
// together: what has come and is not a whole message yet, and what a side does not take.
// It is checked when a buffer is taken. A session that would exceed the limit, and has more
// than 8 KiB, ends as memory-short. Unless it is called there is no limit.
func LimitBuffers(bytes int64) { loop.LimitHeld(bytes) }

// Buffers returns how many bytes they have, and the limit, math.MaxInt64 for none.
func Buffers() (bytes, limit int64) { return loop.Held() }

// FreeBuffers ends a quarter of the sessions for which memory is held, as SetOverload does,
// before LimitBuffers concerns others that need some.
func (g *Gateway) FreeBuffers() {
	g.init()
	g.shedHolders(false)
}

// shedHolders ends some of the sessions for which memory is held, those first that hold most:
// clients that do not read, or do not send messages to their end. stalled includes those for
// which only the kernel holds memory.
func (g *Gateway) shedHolders(stalled bool) {
	type holder struct {
		*live
		held    int
		stalled bool
	}
	var all []holder
	g.eachLive(g.sessions(), func(l *live) {
		held := l.handle.Held()
		_, d := l.handle.Queue(relay.Client)
		if (held >= muchHeld || stalled && d > 0) && !l.s.Ends() {
			all = append(all, holder{l, held, d > 0})
		}
	}, anyLive)
	slices.SortFunc(all, func(a, b holder) int { return cmp.Compare(b.held, a.held) })
	for _, l := range all[:min(len(all), max(minShed, (len(all)+3)/4))] {
		if l.stalled {
			l.endBy(func(ev *relay.Event) { l.s.Stalled(ev, relay.Client) })
		} else {
			l.endBy(l.s.FreeMemory)
		}
	}
}

// A LimitStatus is a limit beside what it is compared with.
type LimitStatus struct {
	Name           string // one of LimitNames
	Limit, Current int    // a limit of zero is none
}

// Names of limits. What is compared with those of networks is that of the network which has
// most.
const (
	limitSessions               = "sessions"
	limitUnauthenticated        = "unauthenticated"
	limitNetworkSessions        = "network_sessions"
	limitNetworkUnauthenticated = "network_unauthenticated"
	limitNetworks               = "networks"
	limitHandshakes             = "handshakes" // of TLS with clients, under way
)

// LimitNames returns the names of all limits that LimitStatus may have.
func LimitNames() []string {
	return []string{limitSessions, limitUnauthenticated, limitNetworkSessions, limitNetworkUnauthenticated, limitNetworks, limitHandshakes}
}

// NetworkStats are numbers of client networks.
type NetworkStats = limit.Stats

// Networks describes the client networks. It looks at each of them.
func (g *Gateway) Networks() NetworkStats {
	g.init()
	return g.networks.Stats(g.clock())
}

// Limits returns the limits of a number of things, and how many there are.
func (g *Gateway) Limits() []LimitStatus {
	n, handshakes := g.Networks(), g.Handshakes()
	policy := &g.settings.Load().NetworkLimits
	g.mu.Lock()
	defer g.mu.Unlock()
	return []LimitStatus{
		{limitSessions, g.maxSessions, g.conns - g.refused},
		{limitUnauthenticated, g.maxUnauthenticated, g.unauthenticated},
		{limitNetworkSessions, policy.Sessions, n.Sessions},
		{limitNetworkUnauthenticated, policy.Unauthenticated, n.Unauthenticated},
		{limitNetworks, n.MaxIdle, n.Idle},
		{limitHandshakes, MaxHandshakes, handshakes},
	}
}

// Overload returns what SetOverload was told last.
func (g *Gateway) Overload() (short string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.overload
}
