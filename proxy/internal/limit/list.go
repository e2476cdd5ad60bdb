package limit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// A List is a set of networks. Nil is the empty one.
type List struct {
	// Sorted by the first address. They do not overlap, so that the one that may
	// contain an address is found by a binary search.
	prefixes []netip.Prefix
	len      int
}

// MaxListSize is how large the text of a List may be, in bytes: about half a million
// networks.
const MaxListSize = 16 << 20

// ParseList parses a List: a network such as 192.0.2.0/24 or an address on each line;
// # starts a comment. The error joins one line for each of the first mistakes.
func ParseList(text []byte) (*List, error) {
	if len(text) > MaxListSize {
		return nil, fmt.Errorf("larger than %d bytes", MaxListSize)
	}
	const maxMistakes = 5
	var all []netip.Prefix
	var mistakes []error
	lines := bufio.NewScanner(bytes.NewReader(text))
	number := 0
	for ; lines.Scan() && len(mistakes) < maxMistakes; number++ {
		line, _, _ := bytes.Cut(lines.Bytes(), []byte("#"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		p, err := ParsePrefix(string(line))
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("line %d: %w", number+1, err))
			continue
		}
		all = append(all, p)
	}
	if err := lines.Err(); err != nil {
		mistakes = append(mistakes, fmt.Errorf("line %d: %w", number+1, err))
	}
	if mistakes != nil {
		return nil, errors.Join(mistakes...)
	}
	return NewList(all), nil
}

// NewList returns the List of these networks.
func NewList(all []netip.Prefix) *List {
	l := &List{len: len(all)}
	slices.SortFunc(all, netip.Prefix.Compare)
	for _, p := range all {
		// Prefixes that overlap contain one another, and the shorter one sorts first.
		if last := len(l.prefixes) - 1; last < 0 || !l.prefixes[last].Contains(p.Addr()) {
			l.prefixes = append(l.prefixes, p)
		}
	}
	return l
}

// Len returns the number of networks that l was made of.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	return l.len
}

// Contains reports whether a is in l. IPv4-mapped addresses count as IPv4, zones do not
// count.
func (l *List) Contains(a netip.Addr) bool {
	if l == nil || len(l.prefixes) == 0 {
		return false
	}
	a = a.Unmap().WithZone("")
	// The last one that does not begin behind a.
	i, found := slices.BinarySearchFunc(l.prefixes, a, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	if found {
		return true
	}
	return i > 0 && l.prefixes[i-1].Contains(a)
}

// mappedBits are those in front of an IPv4 address that is written as IPv6.
const mappedBits = 96

// ParsePrefix parses a network or an address, which is a network of one. IPv4-mapped
// ones become IPv4.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		if len(s) > 64 {
			s = s[:64]
		}
		return n, fmt.Errorf("%q is not a network: write one such as 10.0.0.0/8, or an address", s)
	}
	if a := n.Addr(); a.Is4In6() && n.Bits() >= mappedBits {
		n = netip.PrefixFrom(a.Unmap(), n.Bits()-mappedBits)
	}
	return n.Masked(), nil
}
