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

// follow opens a stream at an endpoint and follows redirects of the server (RFC 6120,
// section 4.9.3.19). They name a TCP address, which a client that speaks WebSocket
// cannot use. seen are the addresses so far.
//
// The new address has the same security and options, and its certificate must prove the
// same identity. endpoint.leadsTo says which addresses are allowed. A redirect that is
// not followed is a failure of the server, with its stream error.
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
		further.stream = failure.stream // for the client to read
	} else {
		failures{failure}.discard()
	}
	return stream, further
}

// leadsTo returns the check for the addresses to which a server may send a session, if
// the host is not the configured one. A stream in plain text is followed into private
// networks only. With TLS the rule of srv: applies, so that a server on the Internet
// cannot lead sessions into the gateway's own network; a server in a private network,
// such as a node of a cluster, may name others there.
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

// attempt calls open. A panic becomes the error.
func (s *search) attempt(ctx context.Context, e *endpoint, q *Request) (stream *Stream, err error) {
	defer CatchPanic(&err)
	return s.open(ctx, e, q)
}

func host(address string) string {
	h, _, _ := net.SplitHostPort(address)
	return h
}
