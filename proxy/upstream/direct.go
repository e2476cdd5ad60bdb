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

// A direct is what sessions need to connect without a Router: the address, and
// the knowledge that the server demands no TLS there. Which it demands can
// differ from domain to domain.
type direct struct {
	address net.Addr // nil if sessions need the Router

	mu    sync.Mutex
	plain map[string]time.Time // by domain, until when that is taken for known
}

// Direct returns the address of the server if there is one only, at a fixed
// address and in plain text: then there is nothing to Connect but to connect, as
// far as DirectFor allows. It is nil otherwise.
func (r *Router) Direct() net.Addr { return r.direct.address }

// onlyAddress finds the address of Direct.
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

// DirectFor tells whether a session for a domain may go to the address of
// Direct: a stream that Connect opened has shown that the server demands no TLS
// there. From time to time one session is told to go by Connect and look again.
func (r *Router) DirectFor(domain string) bool {
	d := &r.direct
	d.mu.Lock()
	defer d.mu.Unlock()
	until, known := d.plain[domain]
	if !known {
		return false
	}
	now := time.Now()
	if now.Before(until) {
		return true
	}
	d.plain[domain] = now.Add(plainFor)
	return false
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
	if d.address == nil {
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
