// Package clientaddr finds out who a client is when others stand between: load
// balancers that send a PROXY header ahead of the connection, and HTTP proxies
// that add X-Forwarded-For or Forwarded to the request. It is pure: bytes and
// headers in, addresses out; no I/O. No input makes it panic.
//
// What comes from the network is parsed and printed again, never copied: the
// address ends up in a PROXY header for the server, where a line end would
// start a line of the client's own.
//
// # Specifications
//
//   - The PROXY protocol, versions 1 and 2 (haproxy, doc/proxy-protocol.txt)
//   - RFC 7239, Forwarded; X-Forwarded-For has none
package clientaddr

import (
	"net/http"
	"net/netip"
)

// A Policy says whose word counts. The zero value believes nobody.
type Policy struct {
	// Proxies send a PROXY header ahead of each connection. For all others
	// it is the start of a bad request.
	Proxies []netip.Prefix

	// Forwarders are the HTTP proxies whose X-Forwarded-For and Forwarded
	// are believed.
	Forwarders []netip.Prefix

	// Unix tells that a client on a Unix socket, which has no address, is
	// one of the Forwarders: whoever may open the socket is trusted.
	Unix bool
}

// SendsHeader reports whether connections from peer start with a PROXY header,
// to be read with [ParseHeader].
func (p *Policy) SendsHeader(peer netip.Addr) bool { return contains(p.Proxies, peer) }

// Client is [Forwarded] for the forwarders of p. peer is what the PROXY header
// says, if there is one.
func (p *Policy) Client(peer netip.AddrPort, headers http.Header) (client netip.AddrPort, secure bool) {
	if p.Unix && !peer.IsValid() {
		return fromTrusted(peer, headers, p.Forwarders)
	}
	return Forwarded(peer, headers, p.Forwarders)
}

// contains reports whether one of the prefixes contains a. IPv4 addresses
// written as IPv6 are IPv4, for that is what a socket for both gives. Zones do
// not count: they are names of this machine.
func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
