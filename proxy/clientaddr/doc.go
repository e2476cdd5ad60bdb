// Package clientaddr finds out who a client is when others stand between: load
// balancers that send a PROXY header ahead of the connection, and HTTP proxies
// that add a header field such as X-Forwarded-For to the request. It is pure:
// bytes and header fields in, addresses out; no I/O. No input makes it panic.
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
	"net/netip"
)

// A Policy says whose word counts. The zero value believes nobody.
type Policy struct {
	// Proxies send a PROXY header ahead of each connection. For all others
	// it is the start of a bad request.
	Proxies []netip.Prefix

	// Forwarders are the HTTP proxies whose header field is believed.
	Forwarders []netip.Prefix

	// Unix tells that a client on a Unix socket, which has no address, is
	// one of the Forwarders: whoever may open the socket is trusted.
	Unix bool

	// Header is the one header field that Forwarders are believed in, one
	// of [Headers]. Empty means [DefaultHeader]. No other field counts: a
	// proxy passes those that it does not know as the client sent them.
	Header string
}

// SendsHeader reports whether connections from peer start with a PROXY header,
// to be read with [ParseHeader].
func (p *Policy) SendsHeader(peer netip.Addr) bool { return contains(p.Proxies, peer) }

// Trusts reports whether peer is one of the HTTP proxies that are believed.
// peer is the source in the PROXY header if there was one, else the address of
// the connection; unix tells that there is none because the connection itself
// came over a Unix socket.
func (p *Policy) Trusts(peer netip.Addr, unix bool) bool {
	return unix && p.Unix || contains(p.Forwarders, peer)
}

// contains reports whether one of the prefixes contains a. IPv4 addresses
// written as IPv6 are IPv4, because a socket for both reports them like that.
// Zones do not count: they are names of this machine.
func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
