package check

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"code.dny.dev/ssrf"

	"xmppgate/proxy/upstream"
)

// What DNS may lead to is held against a table that somebody else keeps, made from
// IANA's registries. The edges of all its networks are tried, and what lies on
// both sides of them.
func TestPublicAddress(t *testing.T) {
	guard := ssrf.New(ssrf.WithAnyPort())
	networks := append([]netip.Prefix{ssrf.IPv6GlobalUnicast, ssrf.IPv6NAT64Prefix}, ssrf.IPv4DeniedPrefixes...)
	networks = append(networks, ssrf.IPv6DeniedPrefixes...)
	for _, s := range []string{"::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"} {
		networks = append(networks, netip.MustParsePrefix(s))
	}
	var all []netip.Addr
	for _, n := range networks {
		first, last := n.Masked().Addr(), lastOf(n)
		all = append(all, first, first.Next(), first.Prev(), last, last.Prev(), last.Next())
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		var b [16]byte
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		all = append(all, netip.AddrFrom4([4]byte(b[:])), netip.AddrFrom16(b))
		b[0], b[1], b[2] = 0x20, 1, 0 // the crowded part
		all = append(all, netip.AddrFrom16(b))
	}
	sixToFour := netip.MustParsePrefix("2002::/16") // judged by the address in it, instead of not at all
	nat64 := ssrf.IPv6NAT64Prefix                   // the same
	for _, a := range all {
		if !a.IsValid() || sixToFour.Contains(a) || nat64.Contains(a) {
			continue
		}
		ours, theirs := upstream.PublicAddress(a), guard.SafeAddr(a.Unmap())
		if (ours == nil) != (theirs == nil) {
			t.Errorf("%v: %v; the module says %v", a, ours, theirs)
		}
	}
}

// lastOf returns the last address of a network.
func lastOf(n netip.Prefix) netip.Addr {
	b := n.Masked().Addr().AsSlice()
	for i := n.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
