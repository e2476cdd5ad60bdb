package upstream

import (
	"fmt"
	"net/netip"
	"slices"
)

// special are the IPv4 and IPv6 networks that are not part of the public Internet,
// from the IANA registries for special purposes (RFC 6890) and for multicast. Without
// them whoever controls a domain's DNS could reach hosts that only the gateway can.
var special = prefixes(
	"0.0.0.0/8",         // this network; 0.0.0.0 is this machine
	"10.0.0.0/8",        // private
	"100.64.0.0/10",     // carrier-grade NAT
	"127.0.0.0/8",       // loopback
	"169.254.0.0/16",    // link-local; cloud metadata
	"172.16.0.0/12",     // private
	"192.0.0.0/24",      // protocol assignments
	"192.0.2.0/24",      // documentation
	"192.31.196.0/24",   // AS112
	"192.52.193.0/24",   // AMT
	"192.88.99.0/24",    // 6to4 relays
	"192.168.0.0/16",    // private
	"192.175.48.0/24",   // AS112
	"198.18.0.0/15",     // benchmarks
	"198.51.100.0/24",   // documentation
	"203.0.113.0/24",    // documentation
	"224.0.0.0/4",       // multicast
	"240.0.0.0/4",       // reserved; broadcast
	"2001::/23",         // protocol assignments: Teredo, benchmarks, ORCHID and more
	"2001:db8::/32",     // documentation
	"2620:4f:8000::/48", // AS112
	"3fff::/20",         // documentation
)

// global is all of IPv6 that is assigned for the Internet (RFC 4291, section 2.4).
// What lies outside is for a special purpose or will be some day: loopback,
// private, link-local and site-local addresses, multicast, SRv6, IPv4-compatible
// and IPv4-translated addresses.
var global = netip.MustParsePrefix("2000::/3")

// embedding are the IPv6 prefixes with an IPv4 address behind them, to which a
// packet finally goes, and the byte where that starts. (Those of IPv4-mapped
// addresses are the same to netip.Addr.Unmap.)
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64 (RFC 6052)
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4 (RFC 3056)
}

func prefixes(all ...string) []netip.Prefix {
	p := make([]netip.Prefix, len(all))
	for i, s := range all {
		p[i] = netip.MustParsePrefix(s)
	}
	return p
}

// PublicAddress returns an error if a is not on the public Internet. IPv4 addresses
// inside of IPv6 addresses count as IPv4 (NAT64, 6to4, IPv4-mapped). Addresses from
// DNS, and redirects of servers on the Internet, have to pass it.
func PublicAddress(a netip.Addr) error {
	goal := a.WithZone("").Unmap()
	for _, e := range embedding {
		if e.prefix.Contains(goal) {
			b := goal.As16()
			goal = netip.AddrFrom4([4]byte(b[e.at:]))
		}
	}
	if !goal.IsValid() || goal.Is6() && !global.Contains(goal) ||
		slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(goal) }) {
		return fmt.Errorf("%v is not a public address; private=true would allow it", a)
	}
	return nil
}

// private returns an error for an address that is neither this machine nor in a
// private network.
func private(a netip.Addr) error {
	if a = a.Unmap(); !a.IsLoopback() && !a.IsPrivate() {
		return fmt.Errorf("%v is not a private address; a stream in plain text does not go there", a)
	}
	return nil
}

// publicOrPrivate returns an error if a server in a private network may not redirect
// to a, such as to the link-local address of a cloud's metadata.
func publicOrPrivate(a netip.Addr) error {
	if private(a) == nil {
		return nil
	}
	return PublicAddress(a)
}
