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
	// cause one lookup. The times are fixed because net.Resolver does not return
	// the TTL.
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

// anyDomain reports whether the domain of the session is looked up, instead of a name
// in the URL.
func (s *Server) anyDomain() bool { return s.scheme.name == "srv" && s.host == "" }

// nodeFor returns the name of the server's node in the group of a domain. about is the
// domain to look up, empty if there is none.
func (s *Server) nodeFor(domain string) (name, about string) {
	switch {
	case s.anyDomain():
		return s.Name + domain, domain
	case s.scheme.name == "srv":
		return s.Name, s.host
	}
	return s.Name, ""
}

// inDNS reports whether a domain can have SRV records. Addresses have none.
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

// A lookup is an answer of DNS, which may be yet to come.
type lookup struct {
	done    chan struct{} // closed when the fields below are set
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

// endpoints returns the places where the domain is served according to DNS. order sorts
// them for one session.
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

// records returns the records of the domain, from the last answer if it is fresh.
// Sessions that come during a lookup wait for its answer.
func (s *service) records(ctx context.Context) ([]record, error) {
	s.mu.Lock()
	a := s.last
	if a == nil || a.stale() {
		a = &lookup{done: make(chan struct{})}
		s.last = a
		go s.ask(a) // does not end with the session that has started it
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

// ask looks up both services at once and merges their records.
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

// A found is the result of one lookup. The zero value means that the name has no
// records.
type found struct {
	records []record
	refused bool  // the target is ".": the service is not offered
	err     error // DNS did not answer
}

// lookup asks about one service. The final dot of the name keeps the resolver from
// trying the search list of the system.
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
	case err != nil && len(f.records) == 0: // with records, only some targets were invalid
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
//	no answer     no records    an error, because there may be records
//	no records    no answer     the same
//	none or "."   "."           nowhere
//	none or "."   none          the domain itself, port 5222, STARTTLS
//
// The last row is the fallback of xmpp-client (RFC 6120, section 3.2.2). So only the
// "." of xmpp-client forbids it; that of xmpps-client means that there is no direct TLS.
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
// random by weight (RFC 2782, "Usage rules" of "Weight"). intn is rand.IntN.
func inOrder(all []record, intn func(int) int) []record {
	for i := range all { // so that the place in the answer does not count
		j := i + intn(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	// Those of weight 0 come first, which gives them a very small chance below.
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

// lookupError returns err. If resolver is not the system's, it removes the name of the
// DNS server, because package net always names one of the system's.
func lookupError(err error, resolver *net.Resolver) error {
	var lookup *net.DNSError
	if resolver == nil || !errors.As(err, &lookup) {
		return err
	}
	copied := *lookup // several lookups may share err
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
