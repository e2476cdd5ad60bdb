package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
)

// maxRedirects is how many a session follows.
const maxRedirects = 3

// follow opens a stream at an endpoint and goes where the server sends it (RFC
// 6120, section 4.9.3.19): the place is a TCP endpoint, of no use to a client
// that speaks WebSocket. seen are the addresses that led there.
//
// Security, options and the identity that the certificate must prove are the
// same at the other place. Where that may be, see endpoint.leadsTo. What is not
// followed is a failure of the server, and holds its stream error.
func (s *search) follow(ctx context.Context, q *Request, e endpoint, seen []string) (*Stream, *Error) {
	stream, err := s.attempt(ctx, &e, q)
	if err == nil {
		return stream, nil
	}
	failure := asError(e.server, PhaseTCP, err)
	seen = append(seen, e.address)
	var to *redirect
	if !errors.As(err, &to) || e.network != "tcp" || s.redirects == maxRedirects || slices.Contains(seen, to.to) {
		return nil, failure
	}
	s.redirects++
	s.observer.Redirected(e.server)
	next := e
	next.address = to.to
	if host(next.address) != host(seen[0]) {
		next.allowed = e.leadsTo(failure.stream)
	} else if e.security == plain {
		next.allowed = nil
	}
	stream, further := s.follow(ctx, q, next, seen)
	if further != nil && further.Result == ResultForbidden && further.stream == nil {
		further.stream = failure.stream // the client may read it
	} else {
		failures{failure}.discard()
	}
	return stream, further
}

// leadsTo returns the check for the addresses that a server may send a session
// to, when that is another host than the configured one. A stream in plain text is
// followed into private networks only. With TLS the rule is that of srv:, so that
// a server on the Internet leads nobody into the gateway's own network: a server
// there, as a node of a cluster is, leads to others there.
func (e *endpoint) leadsTo(from *Stream) func(netip.Addr) error {
	switch {
	case e.security == plain:
		return private
	case e.allowed != nil:
		return e.allowed // of srv:, or of a redirect before
	case e.options.private:
		return nil
	case from != nil && PublicAddress(addrPort(from.Conn.RemoteAddr()).Addr()) != nil:
		return publicOrPrivate
	}
	return PublicAddress
}

// attempt is open, whose panic fails the attempt.
func (s *search) attempt(ctx context.Context, e *endpoint, q *Request) (stream *Stream, err error) {
	defer CatchPanic(&err)
	return s.open(ctx, e, q)
}

func host(address string) string {
	h, _, _ := net.SplitHostPort(address)
	return h
}
