package upstream

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxPlainDomains bounds what is remembered of domains, which clients choose,
// plainFor the time after which it is looked at again.
const (
	maxPlainDomains = 1024
	plainFor        = time.Minute
)

// A Static is a server that is reached by nothing but a connection to a fixed
// address. A caller that can connect for less than Connect does may do so, and
// tells the Static what Connect would have found out.
type Static struct {
	// Addr is a *net.TCPAddr or a *net.UnixAddr.
	Addr net.Addr
	// Server is the name of the configured server, see Server.Name.
	Server string

	router *Router // nil in tests
}

// Opened tells what came of a phase of opening a stream, PhaseTCP or PhaseHeader.
func (s *Static) Opened(phase, result string, took time.Duration) {
	if s.router != nil {
		s.router.observer.Opened(s.Server, phase, result, took)
		s.router.opened(phase, result)
	}
}

// Begin counts a session at the server, until Done.
func (s *Static) Begin() {
	if s.router != nil {
		s.router.all[0].sessions.Add(1)
	}
}

// Done tells that a session is over that Begin has counted.
func (s *Static) Done() {
	if s.router != nil {
		s.router.all[0].sessions.Add(-1)
	}
}

// A direct is what the Router knows of its one server if that is a Static: it must
// not demand TLS, and which it demands can differ from domain to domain.
type direct struct {
	static *Static // nil if sessions need Connect

	mu    sync.Mutex
	plain map[string]time.Time // by domain, until when that is taken for known
}

// onlyAddress is the address of the one server, if there is nothing to Connect but
// to connect.
func (r *Router) onlyAddress() net.Addr {
	if len(r.all) != 1 || r.all[0].service != nil {
		return nil
	}
	s := r.all[0].server
	if s.scheme.security != plain || s.options.proxy != 0 {
		return nil
	}
	network, address := s.address()
	if network == "unix" {
		return &net.UnixAddr{Net: network, Name: address}
	}
	if a, err := netip.ParseAddrPort(address); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return nil
}

// Static returns the server that a session for a domain may connect to without
// Connect, nil if there is none. A stream that Connect opened has shown that the
// server demands no TLS there. From time to time one session is told to go by
// Connect and look again.
func (r *Router) Static(domain string) *Static {
	d := &r.direct
	if d.static == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	until, known := d.plain[domain]
	if !known {
		return nil
	}
	now := time.Now()
	if now.Before(until) {
		return d.static
	}
	d.plain[domain] = now.Add(plainFor)
	return nil
}

// learn notes what an open says of the server and the domain.
func (s *search) learn(n *node, domain string, stream *Stream, failure *Error) {
	switch {
	case stream == nil && failure.Result == ResultTLSRequired:
		n.demandsTLS(domain)
		s.direct.set(domain, false)
	case stream != nil && stream.features:
		n.serves(domain)
		s.direct.set(domain, stream.plain)
	}
}

func (d *direct) set(domain string, plain bool) {
	if d.static == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !plain {
		delete(d.plain, domain)
		return
	}
	if d.plain == nil {
		d.plain = map[string]time.Time{}
	}
	if _, known := d.plain[domain]; !known && len(d.plain) >= maxPlainDomains {
		// Any will do: what is used comes back.
		for old := range d.plain {
			delete(d.plain, old)
			break
		}
	}
	d.plain[domain] = time.Now().Add(plainFor)
}
