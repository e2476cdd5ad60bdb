// Package limit decides how much a client network may have at once and how often: its
// sessions, those of them that have yet to authenticate, its requests, TLS handshakes
// and failed logins. It does no I/O and reads no clock.
//
// A network is an IPv4 address or an IPv6 /64, unless configured otherwise: a client
// may choose any address of its /64. What is known of a network is kept in a [Table],
// whose size is bounded however many networks an attacker has:
//
//   - A network with live sessions is kept. There are at most as many of these as
//     connections.
//   - A network without is kept until forgetting it makes no difference, because all of
//     its buckets are full again.
//   - Beyond Policy.MaxIdle of them the oldest one goes, and one that has spent a bucket
//     only after all that have not. To make the table forget a network that is locked
//     out, an attacker needs MaxIdle others that are locked out as well. A network that
//     the table does not know is never refused for want of room.
package limit

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A Reason is why a client is refused. The zero value is [None].
type Reason uint8

// The reasons.
const (
	None Reason = iota

	// Those of the client's network.
	Denied                 // it is on the deny list
	FailedLogins           // too many logins have failed
	NetworkSessions        // it has too many sessions
	NetworkUnauthenticated // it has too many that have yet to authenticate
	RequestRate            // it sends requests too often
	HandshakeRate          // it begins TLS handshakes too often

	// Those of all clients together.
	Busy            // there are too many sessions
	Unauthenticated // there are too many that have yet to authenticate
	Overloaded      // memory or descriptors are short
)

// A Rate is that of a token bucket. The zero value means that there is no limit.
type Rate struct {
	PerSecond float64
	Burst     int // at least 1 where there is a limit
}

func (r Rate) unlimited() bool { return r.PerSecond <= 0 }

// fills is how long an empty bucket takes to be full.
func (r Rate) fills() time.Duration {
	if r.unlimited() {
		return 0
	}
	return time.Duration(float64(r.Burst) / r.PerSecond * float64(time.Second))
}

// DefaultMaxIdle is the default of Policy.MaxIdle: about 6 MiB at most.
const DefaultMaxIdle = 16384

// A Policy has the limits of networks. A limit of zero is none. It must not change while
// it is in use.
type Policy struct {
	// IPv4Bits and IPv6Bits are the lengths of the prefixes that make a network. Zero
	// means 32 and 64.
	IPv4Bits, IPv6Bits int

	// Exempt are networks without limits. Clients on a Unix socket are always exempt.
	Exempt []netip.Prefix

	Sessions        int  // at once
	Unauthenticated int  // of these, that have yet to authenticate
	Requests        Rate // HTTP requests, most of which ask for a WebSocket
	Handshakes      Rate // of TLS
	FailedLogins    Rate

	// MaxIdle is how many networks without sessions are remembered. Zero means
	// DefaultMaxIdle.
	MaxIdle int
}

// A Network is one in a Table, while it has a session. Zero is none: a network that is
// exempt, or a client whose network is not known yet.
type Network uint32

// A Table is what is known of networks. Its methods may be called by several
// goroutines at once. The moments that they get count from one epoch, and do not
// decrease.
type Table struct {
	policy atomic.Pointer[Policy]
	denied atomic.Pointer[List]

	mu       sync.Mutex // guards all below
	networks []network  // by Network; that of 0 is not used
	free     []Network
	index    map[netip.Addr]Network // by the first address
	idle     [2]list                // those without sessions: all, and those that have spent a bucket
	idleLen  int
	forget   time.Duration // how long a network without sessions is of interest
	changed  time.Duration // when the policy did
	logs     *rate.Limiter
}

// A network is what is known of one.
type network struct {
	first           netip.Addr
	sessions        int32
	unauthenticated int32
	unlogged        uint32 // refusals since the last one that was to be logged
	list            uint8  // of Table.idle, while it has no sessions
	before, after   Network
	used            time.Duration // the last moment that counts
	logged          time.Duration // when a refusal was to be logged, zero for never
	buckets         [bucketKinds]*rate.Limiter
}

// Kinds of buckets.
const (
	requests = iota
	handshakes
	failedLogins
	bucketKinds
)

// A list links networks, the oldest one first.
type list struct{ oldest, newest Network }

// NewTable returns an empty table.
func NewTable(p Policy) *Table {
	t := &Table{
		networks: make([]network, 1),
		index:    make(map[netip.Addr]Network),
		logs:     rate.NewLimiter(logsPerSecond, logBurst),
	}
	t.SetPolicy(0, p)
	return t
}

// SetPolicy replaces the policy. What is counted stays, unless the length of the prefixes
// changes.
func (t *Table) SetPolicy(now time.Duration, p Policy) {
	if p.IPv4Bits <= 0 {
		p.IPv4Bits = 32
	}
	if p.IPv6Bits <= 0 {
		p.IPv6Bits = 64
	}
	if p.MaxIdle <= 0 {
		p.MaxIdle = DefaultMaxIdle
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy.Store(&p)
	t.forget = max(p.Requests.fills(), p.Handshakes.fills(), p.FailedLogins.fills(), LogPeriod)
	t.changed = now
}

// rate is that of the buckets of a kind.
func (t *Table) rate(kind int) Rate {
	switch p := t.policy.Load(); kind {
	case requests:
		return p.Requests
	case handshakes:
		return p.Handshakes
	default:
		return p.FailedLogins
	}
}

// moment is what a bucket gets as the time.
func moment(now time.Duration) time.Time { return time.Unix(0, int64(now)) }

// bucket returns a bucket of n, nil if nothing was taken from it. One that was filled by
// an earlier policy goes by this one from its beginning on. To change all of them in
// SetPolicy would keep all sessions waiting.
func (t *Table) bucket(n *network, kind int) *rate.Limiter {
	b, r := n.buckets[kind], t.rate(kind)
	switch {
	case b == nil:
	case r.unlimited():
		n.buckets[kind] = nil
		return nil
	case b.Limit() != rate.Limit(r.PerSecond) || b.Burst() != max(1, r.Burst):
		b.SetLimitAt(moment(t.changed), rate.Limit(r.PerSecond))
		b.SetBurstAt(moment(t.changed), max(1, r.Burst))
	}
	return b
}

// take takes a token from a bucket. It reports false if there is none.
func (t *Table) take(n *network, kind int, now time.Duration) bool {
	r := t.rate(kind)
	if r.unlimited() {
		return true
	}
	b := t.bucket(n, kind)
	if b == nil {
		b = rate.NewLimiter(rate.Limit(r.PerSecond), max(1, r.Burst))
		n.buckets[kind] = b
	}
	return b.AllowN(moment(now), 1)
}

// spent reports whether a bucket of n has no token.
func (t *Table) spent(n *network, kind int, now time.Duration) bool {
	b := t.bucket(n, kind)
	return b != nil && b.TokensAt(moment(now)) < 1
}

// Prefix returns the network of a, as the policy has it. It is invalid if a is.
func (t *Table) Prefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	p := t.policy.Load()
	bits := p.IPv6Bits
	if a.Is4() {
		bits = p.IPv4Bits
	}
	n, _ := a.Prefix(bits)
	return n
}

// exempt reports whether a is not limited.
func (t *Table) exempt(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range t.policy.Load().Exempt {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Denied reports whether a is on the deny list.
func (t *Table) Denied(a netip.Addr) bool { return t.denied.Load().Contains(a) }

// Deny replaces the deny list. Nil denies nobody.
func (t *Table) Deny(l *List) { t.denied.Store(l) }

// Enter begins a session of a client at a, which is not authenticated yet. With reason
// None the session is counted, and Leave has to be called once; otherwise it is not. An
// invalid address, which a Unix socket has, is exempt.
func (t *Table) Enter(now time.Duration, a netip.Addr) (id Network, reason Reason) {
	switch {
	case t.Denied(a):
		return 0, Denied
	case !a.IsValid(), t.exempt(a):
		return 0, None
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id = t.find(now, t.Prefix(a).Addr())
	n := &t.networks[id]
	if reason = t.refusal(n, now); reason != None {
		if n.sessions == 0 {
			t.rest(id, now)
		}
		return 0, reason
	}
	n.sessions++
	n.unauthenticated++
	return id, None
}

// Adopt counts a session that has entered elsewhere, whatever the limits are. Leave has to
// be called once.
func (t *Table) Adopt(now time.Duration, a netip.Addr) (id Network) {
	if !a.IsValid() || t.exempt(a) {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id = t.find(now, t.Prefix(a).Addr())
	n := &t.networks[id]
	n.sessions++
	n.unauthenticated++
	return id
}

// refusal returns why n gets no session now. A request counts only if it is not refused
// for another reason.
func (t *Table) refusal(n *network, now time.Duration) Reason {
	p := t.policy.Load()
	switch {
	case t.spent(n, failedLogins, now):
		return FailedLogins
	case p.Sessions > 0 && int(n.sessions) >= p.Sessions:
		return NetworkSessions
	case p.Unauthenticated > 0 && int(n.unauthenticated) >= p.Unauthenticated:
		return NetworkUnauthenticated
	case !t.take(n, requests, now):
		return RequestRate
	}
	return None
}

// Authenticated tells that a session of id is authenticated.
func (t *Table) Authenticated(id Network) {
	if id == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.networks[id].unauthenticated--
}

// Leave ends a session of id; authenticated tells whether Authenticated was called.
func (t *Table) Leave(now time.Duration, id Network, authenticated bool) {
	if id == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.networks[id]
	if !authenticated {
		n.unauthenticated--
	}
	if n.sessions--; n.sessions == 0 {
		t.rest(id, now)
	}
}

// Handshake counts a TLS handshake of a session of id. It reports false if there are too
// many.
func (t *Table) Handshake(now time.Duration, id Network) bool {
	if id == 0 {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.take(&t.networks[id], handshakes, now)
}

// LoginFailed counts a failed login of a session of id. It reports false if there are
// too many; then its network gets no new session either, until the bucket has a token.
func (t *Table) LoginFailed(now time.Duration, id Network) bool {
	if id == 0 {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.take(&t.networks[id], failedLogins, now)
}

// LogPeriod is how often the refusals of one network are to be logged at most.
const LogPeriod = time.Minute

// The refusals of all networks together are to be logged at this rate at most, because an
// attacker may have many.
const (
	logsPerSecond = 10
	logBurst      = 100
)

// Logs counts a refusal of a client at a. It returns the number of refusals of its
// network since the last one that was to be logged, this one included, or zero if this
// one need not be logged.
func (t *Table) Logs(now time.Duration, a netip.Addr) (refusals int) {
	if !a.IsValid() {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.find(now, t.Prefix(a).Addr())
	n := &t.networks[id]
	n.unlogged++
	if (n.logged == 0 || now-n.logged >= LogPeriod) && t.logs.AllowN(moment(now), 1) {
		refusals = int(n.unlogged)
		n.logged, n.unlogged = now, 0
	}
	if n.sessions == 0 {
		t.rest(id, now)
	}
	return refusals
}

// dropsPerNetwork is how many networks are forgotten for one that is new, for each of two
// reasons: with one, the table would not become smaller. There may be thousands to forget,
// and all sessions would wait for that.
const dropsPerNetwork = 4

// find returns the network that begins with first. One without sessions is in no list
// until rest is called.
func (t *Table) find(now time.Duration, first netip.Addr) Network {
	if id, ok := t.index[first]; ok {
		if n := &t.networks[id]; n.sessions == 0 {
			t.unlink(id)
		}
		return id
	}
	t.expire(now, dropsPerNetwork)
	for n := 0; n < dropsPerNetwork && t.idleLen >= t.policy.Load().MaxIdle; n++ {
		l := &t.idle[0]
		if l.oldest == 0 {
			l = &t.idle[1]
		}
		t.drop(l.oldest)
	}
	var id Network
	if last := len(t.free) - 1; last >= 0 {
		id = t.free[last]
		t.free = t.free[:last]
	} else {
		id = Network(len(t.networks))
		t.networks = append(t.networks, network{})
	}
	t.networks[id] = network{first: first}
	t.index[first] = id
	return id
}

// rest puts a network without sessions into the list where it belongs.
func (t *Table) rest(id Network, now time.Duration) {
	n := &t.networks[id]
	n.used, n.list = now, 0
	for kind := range n.buckets {
		if t.spent(n, kind, now) {
			n.list = 1
		}
	}
	l := &t.idle[n.list]
	n.before, n.after = l.newest, 0
	if l.newest != 0 {
		t.networks[l.newest].after = id
	} else {
		l.oldest = id
	}
	l.newest = id
	t.idleLen++
}

func (t *Table) unlink(id Network) {
	n := &t.networks[id]
	l := &t.idle[n.list]
	if n.before != 0 {
		t.networks[n.before].after = n.after
	} else {
		l.oldest = n.after
	}
	if n.after != 0 {
		t.networks[n.after].before = n.before
	} else {
		l.newest = n.before
	}
	n.before, n.after = 0, 0
	t.idleLen--
}

// drop forgets a network without sessions.
func (t *Table) drop(id Network) {
	t.unlink(id)
	delete(t.index, t.networks[id].first)
	t.networks[id] = network{}
	t.free = append(t.free, id)
}

// expire drops networks that are of no interest any more, most of them at once, the oldest
// ones of each list. It reports whether there may be more.
func (t *Table) expire(now time.Duration, most int) (more bool) {
	for i := range t.idle {
		for id := t.idle[i].oldest; id != 0 && now-t.networks[id].used >= t.forget; id = t.idle[i].oldest {
			if most--; most < 0 {
				return true
			}
			t.drop(id)
		}
	}
	return false
}

// Stats are numbers of a Table.
type Stats struct {
	Networks        int // known ones
	Idle, MaxIdle   int // of these, without sessions, and how many may be
	Sessions        int // most of one network
	Unauthenticated int // most of one network
	LockedOut       int // networks whose logins have failed too often
	Denied          int // networks on the deny list
}

// Stats describes t. It looks at every network, and forgets those that are of no interest.
// What happens meanwhile may be missing.
func (t *Table) Stats(now time.Duration) Stats {
	s := Stats{Denied: t.denied.Load().Len()}
	for first, more := 0, true; more; first += portion {
		more = t.look(&s, now, first)
	}
	return s
}

// portion is how many networks Stats looks at, or forgets, at once: other calls wait
// meanwhile.
const portion = 256

// look adds the networks from first on to s. It reports whether there are more.
func (t *Table) look(s *Stats, now time.Duration, first int) (more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	more = t.expire(now, portion)
	s.Networks, s.Idle, s.MaxIdle = len(t.index), t.idleLen, t.policy.Load().MaxIdle
	for i := first; i < min(first+portion, len(t.networks)); i++ {
		n := &t.networks[i]
		s.Sessions = max(s.Sessions, int(n.sessions))
		s.Unauthenticated = max(s.Unauthenticated, int(n.unauthenticated))
		if t.spent(n, failedLogins, now) {
			s.LockedOut++
		}
	}
	return more || first+portion < len(t.networks)
}
