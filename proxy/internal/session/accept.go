package session

import (
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

// receiveRequest takes what a connection begins with, up to and with the HTTP
// request. It does so in stages, in the order of the wire. A stage that lacks bytes
// is called again with more of them; one that refuses the client has ended the
// session.
//
//  1. Admission: proxy.Gateway.Admit, before a session exists. It knows the address
//     of the connection alone. If that is not a proxy's, the limits of the client's
//     network are checked here.
//  2. PROXY header: acceptProxyHeader. It may replace the address. If that is the
//     client's (Host.ClientFound), its limits are checked here.
//  3. TLS with the client, where the listener speaks it: acceptTLS, in tls.go. A PROXY
//     header is in front of it, and the rest is inside. The handshake runs on a
//     goroutine; limits on handshakes are checked before (Host.HandshakeAllowed).
//  4. Preface: acceptPreface refuses what is not HTTP/1.1 but is seen all the same.
//  5. HTTP request: acceptHandshake, in handshake.go. If a header field of an HTTP proxy
//     tells who the client is, the limits are checked here.
//
// The first frames may come with the request.
func (s *Session) receiveRequest(ev *relay.Event, b []byte) (rest []byte) {
	if s.ending != endNone {
		return nil
	}
	n, ok := s.acceptProxyHeader(ev, b)
	if b = b[n:]; !ok || !s.acceptTLS(ev, b) || !s.acceptPreface(ev, b) {
		return s.unlessOver(b)
	}
	if n, ok = s.acceptHandshake(ev, b); !ok {
		return s.unlessOver(b)
	}
	return s.receiveClient(ev, b[n:])
}

// unlessOver returns what is wanted again of a request: nothing once it is refused, or
// once TLS has taken it.
func (s *Session) unlessOver(b []byte) (rest []byte) {
	if s.ending != endNone || s.tls == tlsStarted {
		return nil
	}
	return b
}

// acceptProxyHeader takes the PROXY header, if the address is one that sends it. n is
// its length; ok is false if it is not complete or not valid.
func (s *Session) acceptProxyHeader(ev *relay.Event, b []byte) (n int, ok bool) {
	if s.proxied || !s.set.ClientAddress.SendsHeader(s.remote.Addr()) {
		return 0, true
	}
	h, n, err := clientaddr.ParseHeader(b)
	switch {
	case err != nil:
		s.reject(ev, &rejectNoPROXY, nil, err)
		return 0, false
	case n == 0:
		return 0, false
	}
	s.proxied = true
	if !h.Local {
		s.remote, s.secure, s.clientTLS = h.Source, h.Secure, TLSInfo{Version: h.TLS}
		s.ensureExtra().listener = h.Destination
		if !s.fromForwarder() && s.refused == limit.None {
			if r := s.clientFound(ev); r != nil {
				s.reject(ev, r, nil, nil)
				return 0, false
			}
		}
	}
	return n, true
}

// clientFound tells the host where the client is, and returns why it is refused, if it is.
func (s *Session) clientFound(ev *relay.Event) *rejection {
	s.refused = s.host.ClientFound(ev, s.remote.Addr())
	return limitRejections[s.refused]
}

// fromForwarder reports whether the address of the session is that of an HTTP proxy, which
// will tell who the client is.
func (s *Session) fromForwarder() bool {
	return s.set.ClientAddress.Trusts(s.remote.Addr(), !s.remote.IsValid() && !s.proxied)
}

// maxPreface is the length from which on what has come is HTTP for certain.
const maxPreface = 32

// prefaces are the first bytes of what is not HTTP/1.1 and is seen all the same.
var prefaces = []struct {
	bytes     string
	rejection *rejection
}{
	{"\x16\x03", &rejectTLS}, // a record with a ClientHello (RFC 8446, section 5.1)
	{"PRI * HTTP/2.0\r\n", &rejectHTTP2},
	{clientaddr.Signature1, &rejectPROXY},
	{clientaddr.Signature2, &rejectPROXY},
	{"<stream:stream", &rejectTCP},
	{"<?xml", &rejectTCP},
}

// acceptPreface reports whether b is a request. It reports false if b starts like one
// of prefaces, or is too short to tell.
func (s *Session) acceptPreface(ev *relay.Event, b []byte) bool {
	if s.size >= maxPreface {
		return true
	}
	r, maybe := preface(b)
	if r != nil {
		s.reject(ev, r, nil, nil)
	}
	return r == nil && !maybe
}

// preface returns what b is if it is not a request; maybe tells that it takes
// more bytes to say.
func preface(b []byte) (r *rejection, maybe bool) {
	for i := range prefaces {
		p := prefaces[i].bytes
		n := min(len(b), len(p))
		switch {
		case string(b[:n]) != p[:n]:
		case n == len(p):
			return prefaces[i].rejection, false
		default:
			maybe = true
		}
	}
	return nil, maybe
}
