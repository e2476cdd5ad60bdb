package upstream

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxPlainDomains bounds the domains that are remembered, because clients choose
// them. After plainFor one session checks a domain again.
const (
	maxPlainDomains = 1024
	plainFor        = time.Minute
)

// A Static is a server that needs nothing but a connection to a fixed address: no
// DNS, TLS or PROXY header. A caller may connect to Addr itself instead of calling
// [Router.Connect], which takes a goroutine. It must then report to the Static what
// Connect would have noticed. Its methods may be called by several goroutines at
// once.
type Static struct {
	// Addr is a *net.TCPAddr or a *net.UnixAddr.
	Addr net.Addr
	// Server is the name of the configured server, see Server.Name.
	Server string

	router *Router // nil in tests
	node   *node
}

// Opened reports the end of a phase of opening a stream: phase is PhaseTCP or
// PhaseHeader, result ResultOK or what went wrong, took the time it needed. It counts
// for the health of the server.
func (s *Static) Opened(phase, result string, took time.Duration) {
	if s.router != nil {
		s.router.observer.Opened(s.Server, phase, result, took)
		s.noteOpened(phase, result)
	}
}

// Begin counts a session at the server, until Done is called.
func (s *Static) Begin() {
	if s.router != nil {
		s.node.sessions.Add(1)
	}
}

// Done ends the count of a session that Begin started.
func (s *Static) Done() {
	if s.router != nil {
		s.node.sessions.Add(-1)
	}
}

// A staticRoute is what the Router knows of its only server, if that may be a
// Static. Whether the server requires TLS can differ from domain to domain.
type staticRoute struct {
	target *Static // nil if sessions need Connect

	mu    sync.Mutex
	plain map[string]time.Time // domains without required TLS, and until when that counts
}

// newStatic returns the staticRoute of t: that of old if the server stays.
func (t *table) newStatic(old *table) *staticRoute {
	address := t.onlyAddress()
	if address == nil {
		return &staticRoute{}
	}
	only := t.all[0].node
	if s := old.static; s != nil && s.target != nil && s.target.node == only {
		return s
	}
	return &staticRoute{target: &Static{Addr: address, Server: only.name, node: only}}
}

// onlyAddress returns the address of the only server if a plain connection to it is
// all that a stream needs, else nil.
func (t *table) onlyAddress() net.Addr {
	if len(t.all) != 1 || t.all[0].service != nil {
		return nil
	}
	s := t.all[0].server
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

// Static returns the server that a session for domain may connect to without
// Connect, or nil. It does so after a stream that Connect opened has shown that the
// server does not require TLS for the domain. Once a minute it returns nil for one
// session, so that Connect checks this again.
func (r *Router) Static(domain string) *Static {
	d := r.table().static
	if d.target == nil {
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
		return d.target
	}
	d.plain[domain] = now.Add(plainFor)
	return nil
}

// noteDomain remembers what opening a stream has shown about the server and the
// domain.
func (s *search) noteDomain(n *node, domain string, stream *Stream, failure *Error) {
	switch {
	case stream == nil && failure.Result == ResultTLSRequired:
		n.demandsTLS(domain)
		s.static.set(domain, false)
	case stream != nil && stream.features:
		n.serves(domain)
		s.static.set(domain, stream.plain)
	}
}

func (d *staticRoute) set(domain string, plain bool) {
	if d.target == nil {
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
		// Any one, because domains in use come back.
		for old := range d.plain {
			delete(d.plain, old)
			break
		}
	}
	d.plain[domain] = time.Now().Add(plainFor)
}
