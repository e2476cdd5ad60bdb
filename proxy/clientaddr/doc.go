// Package clientaddr finds the address of a client behind proxies: load balancers
// that send a PROXY header ahead of the connection, and HTTP proxies that add a
// header field such as X-Forwarded-For to the request. It does no I/O. No input makes
// it panic.
//
// Addresses are parsed and formatted again, never copied as text: they end up in a
// PROXY header for the server, where a line break would let the client add a line.
//
// # Specifications
//
//   - The PROXY protocol, versions 1 and 2 (haproxy, doc/proxy-protocol.txt)
//   - RFC 7239, Forwarded; X-Forwarded-For has none
package clientaddr

import (
	"net/netip"
)

// A Policy says which proxies are trusted to state the client's address. The zero
// value trusts none. It must not change while it is in use.
type Policy struct {
	// Proxies are the networks whose connections start with a PROXY header.
	// From other addresses a PROXY header is a bad request.
	Proxies []netip.Prefix

	// Forwarders are the networks of the HTTP proxies whose header field is
	// trusted.
	Forwarders []netip.Prefix

	// Unix reports whether connections over a Unix socket, which have no
	// address, count as Forwarders.
	Unix bool

	// Header is the header field of the Forwarders, one of [Headers]. Empty
	// means [DefaultHeader]. All other fields are ignored, because a proxy
	// passes fields that it does not know as the client sent them.
	Header string
}

// SendsHeader reports whether connections from peer must start with a PROXY header,
// see [ParseHeader].
func (p *Policy) SendsHeader(peer netip.Addr) bool { return contains(p.Proxies, peer) }

// Trusts reports whether peer is a trusted HTTP proxy. peer is the source in the PROXY
// header if there was one, else the address of the connection. unix reports that the
// connection itself came over a Unix socket and has no address.
func (p *Policy) Trusts(peer netip.Addr, unix bool) bool {
	return unix && p.Unix || contains(p.Forwarders, peer)
}

// contains reports whether one of the prefixes contains a. IPv4-mapped IPv6 addresses
// count as IPv4, because a socket for both families reports them like that. Zones are
// ignored, because they are names of this machine.
func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
