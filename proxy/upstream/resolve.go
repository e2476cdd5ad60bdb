package upstream

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxRecords is how many of a domain's SRV records are kept: each session orders
	// them all. An answer of DNS may have thousands.
	maxRecords = 64
	// maxTargets is how many of them one session tries.
	maxTargets = 16
	// resolveTimeout bounds one lookup of SRV records.
	resolveTimeout = 5 * time.Second
	// Answers are cached, so that thousands of clients that reconnect at once
	// cause one lookup. net.Resolver does not return the TTL.
	answerTTL  = 30 * time.Second
	failureTTL = 5 * time.Second
	// defaultPort is where a domain without SRV records is reached (RFC
	// 6120, section 3.2.2).
	defaultPort = 5222
)

// NewResolver returns the resolver that asks the DNS server at address, host:port,
// instead of the system's servers. The port may be left out and is 53 then. For the
// same address it returns the same resolver, so that Router.Update keeps the answers.
func NewResolver(address string) *net.Resolver {
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "53")
	}
	r, _ := resolvers.LoadOrStore(address, &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	})
	return r.(*net.Resolver)
}

// resolvers are those of NewResolver, by address. The operator names them.
var resolvers sync.Map

// anyDomain reports whether the session's domain is looked up in DNS.
func (s *Server) anyDomain() bool { return s.scheme.name == "srv" && s.host == "" }

// nodeFor returns the name of the server's node in the group of a domain, and
// the domain that DNS is asked about, if it is.
func (s *Server) nodeFor(domain string) (name, about string) {
	switch {
	case s.anyDomain():
		return s.Name + domain, domain
	case s.scheme.name == "srv":
		return s.Name, s.host
	}
	return s.Name, ""
}

// inDNS tells whether a domain can have SRV records: addresses have none.
func inDNS(domain string) bool {
	_, err := netip.ParseAddr(strings.Trim(domain, "[]"))
	return domain != "" && err != nil
}

// A service finds the servers of one domain (RFC 6120, section 3.2.1, and
// XEP-0368).
type service struct {
	domain   string
	resolver *net.Resolver

	mu   sync.Mutex
	last *lookup
}

// A lookup is what DNS said, or is being asked.
type lookup struct {
	done    chan struct{} // closed when the rest is known
	records []record
	err     error
	expires time.Time
}

// A record is an SRV record.
type record struct {
	net.SRV
	security security
}

// Reasons to have no endpoint.
var (
	errNoService = errors.New("DNS says that the domain offers no XMPP service (SRV target .)")
	errNoUsable  = errors.New("no usable SRV record")
)

// endpoints returns where DNS says that the domain is served, in an order of
// its own for each session (RFC 2782), or for each user.
func (s *service) endpoints(ctx context.Context, c candidate, o Observer, order func([]record)) ([]endpoint, error) {
	start := time.Now()
	records, err := s.records(ctx)
	failure := resolveError(c.name, lookupError(err, s.resolver))
	o.Opened(c.name, PhaseResolve, failure.result(), time.Since(start))
	if failure != nil {
		return nil, failure
	}
	records = slices.Clone(records)
	order(records)
	all := make([]endpoint, min(len(records), maxTargets))
	for i := range all {
		r := records[i]
		e := c.server.at("tcp", net.JoinHostPort(r.Target, strconv.Itoa(int(r.Port))), r.security, o)
		e.identity = s.domain
		if !c.server.options.private {
			e.allowed = PublicAddress
		}
		all[i] = e
	}
	return all, nil
}

// records returns the records of the domain, from the last answer while that is
// fresh. Sessions that come while DNS is being asked wait for the same answer.
func (s *service) records(ctx context.Context) ([]record, error) {
	s.mu.Lock()
	a := s.last
	if a == nil || a.stale() {
		a = &lookup{done: make(chan struct{})}
		s.last = a
		go s.ask(a) // not bound to the session that happened to come first
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.records, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *lookup) stale() bool {
	select {
	case <-a.done:
		return time.Now().After(a.expires)
	default:
		return false
	}
}

// ask looks up both services at once and merges what comes.
func (s *service) ask(a *lookup) {
	defer close(a.done)
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	var xmpps, xmpp found
	var both sync.WaitGroup
	both.Go(func() { xmpps = s.lookup(ctx, "xmpps-client", directTLS) })
	both.Go(func() { xmpp = s.lookup(ctx, "xmpp-client", startTLS) })
	both.Wait()
	a.records, a.err = s.merge(xmpps, xmpp)
	ttl := answerTTL
	if cmp.Or(a.err, xmpps.err, xmpp.err) != nil {
		ttl = failureTTL
	}
	a.expires = time.Now().Add(ttl)
}

// A found is what DNS says about one service: records, that there is none, that
// it is not offered, or nothing.
type found struct {
	records []record
	refused bool  // the target is "."
	err     error // DNS did not answer
}

// lookup asks about one service. The names are rooted: the search list of the
// system does not apply.
func (s *service) lookup(ctx context.Context, name string, sec security) (f found) {
	defer CatchPanic(&f.err)
	resolver := s.resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	_, srvs, err := resolver.LookupSRV(ctx, name, "tcp", s.domain+".")
	for _, srv := range srvs {
		if srv.Target == "." {
			f.refused = true
		} else if srv.Port != 0 {
			f.records = append(f.records, record{*srv, sec})
		}
	}
	var missing *net.DNSError
	switch {
	case errors.As(err, &missing) && missing.IsNotFound:
	case err != nil && len(f.records) == 0: // else only some names were invalid
		f.err = err
	case len(srvs) > 0 && len(f.records) == 0 && !f.refused:
		f.err = errNoUsable
	}
	return f
}

// merge decides where a domain is served:
//
//	xmpps-client  xmpp-client
//	records       anything      the records of both
//	anything      records       the same
//	no answer     no records    an error: what was not heard is not known to be absent
//	no records    no answer     the same
//	none or "."   "."           nowhere
//	none or "."   none          the domain itself, port 5222, STARTTLS
//
// The last is the fallback of xmpp-client (RFC 6120, section 3.2.2), so it is
// the "." of xmpp-client that forbids it; the "." of xmpps-client says only
// that there is no direct TLS.
func (s *service) merge(xmpps, xmpp found) ([]record, error) {
	if all := slices.Concat(xmpps.records, xmpp.records); len(all) > 0 {
		return mostPreferred(all), nil
	}
	if err := cmp.Or(xmpp.err, xmpps.err); err != nil {
		return nil, err
	}
	if xmpp.refused {
		return nil, errNoService
	}
	return []record{{net.SRV{Target: s.domain + ".", Port: defaultPort}, startTLS}}, nil
}

// mostPreferred returns at most maxRecords of all, those of the first priorities. Which
// of them depends on nothing but the records, so that all replicas take the same.
func mostPreferred(all []record) []record {
	if len(all) <= maxRecords {
		return all
	}
	slices.SortStableFunc(all, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port), cmp.Compare(a.security, b.security))
	})
	return slices.Clone(all[:maxRecords])
}

// inOrder sorts records by priority and, among those of the same priority, at
// random by weight, as RFC 2782 has it ("Usage rules" of "Weight"). intn is
// rand.IntN.
func inOrder(all []record, intn func(int) int) []record {
	for i := range all { // none of equals comes first by its place in the answer
		j := i + intn(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	// Those of weight 0 come first, that they have a very small chance.
	slices.SortStableFunc(all, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), min(int(a.Weight), 1)-min(int(b.Weight), 1))
	})
	for left := all; len(left) > 0; left = left[1:] {
		n, sum := 0, 0
		for n < len(left) && left[n].Priority == left[0].Priority {
			sum += int(left[n].Weight)
			n++
		}
		pick, passed := intn(sum+1), int(left[0].Weight)
		i := 0
		for passed < pick {
			i++
			passed += int(left[i].Weight)
		}
		chosen := left[i]
		copy(left[1:], left[:i])
		left[0] = chosen
	}
	return all
}

// lookupError returns err, and for a lookup by a resolver that is not the
// system's without the DNS server: package net names one of the system's,
// whichever was asked.
func lookupError(err error, resolver *net.Resolver) error {
	var lookup *net.DNSError
	if resolver == nil || !errors.As(err, &lookup) {
		return err
	}
	copied := *lookup // lookups that are shared have one error
	copied.Server = ""
	return &copied
}

// resolveError returns err as an *Error, or nil.
func resolveError(server string, err error) *Error {
	if err == nil {
		return nil
	}
	result := ResultError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		result = ResultAbandoned
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns) && dns.IsTimeout:
		result = ResultTimeout
	case errors.Is(err, errNoService), errors.Is(err, errNoUsable):
		result = ResultNoServer
	}
	return &Error{Server: server, Phase: PhaseResolve, Result: result, Err: err}
}

func (e *Error) result() string {
	if e == nil {
		return ResultOK
	}
	return e.Result
}
