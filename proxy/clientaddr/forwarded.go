package clientaddr

import (
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What of each header is looked at, from its end on: so many elements, and so
// many bytes of them.
const (
	maxElements = 64
	maxBytes    = 8 << 10
)

// Forwarded returns the address of the client that a request from peer is for,
// and whether that client spoke TLS, as far as the HTTP proxies in trusted can
// tell. The port is 0 when they do not say.
//
// Each proxy adds the address that it was connected to from, at the end of
// X-Forwarded-For or Forwarded. So the last address is what peer says. If that
// is of a trusted proxy, the one before it is what that proxy says, and so on,
// up to the first address that is not in trusted: that is the client, and what
// stands before it is the client's own invention. An element that is not an
// address, not even an empty one, ends the walk, too (RFC 7239, section 8.1).
//
// A proxy that looks after one of the two headers lets the other one through as
// the client sent it, and there is no telling which of them it is. Hence, if
// both are there, they must agree on the address; if they do not, the client
// is who the peer is.
//
// Whether the client spoke TLS is what Forwarded says together with the
// client's address, or the last word of X-Forwarded-Proto, which is peer's.
func Forwarded(peer netip.AddrPort, headers http.Header, trusted []netip.Prefix) (client netip.AddrPort, secure bool) {
	if !contains(trusted, peer.Addr()) {
		return peer, false
	}
	return fromTrusted(peer, headers, trusted)
}

// fromTrusted is [Forwarded] for a peer that is believed.
func fromTrusted(peer netip.AddrPort, headers http.Header, trusted []netip.Prefix) (client netip.AddrPort, secure bool) {
	usual, standard := headers.Values("X-Forwarded-For"), headers.Values("Forwarded")
	a := walk(peer, usual, trusted, parseUsual)
	for last := range elements(headers.Values("X-Forwarded-Proto")) {
		a.secure = encrypted(last)
		break
	}
	b := walk(peer, standard, trusted, parseStandard)
	switch {
	case len(standard) == 0:
		return a.client, a.secure
	case len(usual) == 0:
		return b.client, b.secure
	case a.client.Addr() == b.client.Addr():
		return a.client, a.secure && b.secure
	}
	return peer, false
}

// A hop is what one proxy says about who connected to it.
type hop struct {
	client netip.AddrPort
	secure bool
}

// walk returns the last hop of lines that is believed, see [Forwarded].
func walk(peer netip.AddrPort, lines []string, trusted []netip.Prefix, parse func(string) (hop, bool)) hop {
	believed := hop{client: peer}
	for element := range elements(lines) {
		h, ok := parse(element)
		if !ok {
			break
		}
		believed = h
		if !contains(trusted, h.client.Addr()) {
			break
		}
	}
	return believed
}

// elements yields the elements of a header, the last one first, without the
// white space around them. Empty ones count: for all we know a proxy added
// nothing to what the client sent.
func elements(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		count, size := 0, 0
		for _, line := range slices.Backward(lines) {
			for more := true; more; {
				var element string
				line, element, more = cutLast(line, ',')
				count++
				size += len(element)
				if count > maxElements || size > maxBytes || !yield(trim(element)) {
					return
				}
			}
		}
	}
}

// cutLast cuts s at the last separator outside quotes. It goes by the quotes
// from the end of s on: there stands what the proxy added, so no quote that the
// client left open before it can make it part of something else.
func cutLast(s string, separator byte) (before, last string, found bool) {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch {
		case s[i] == '"':
			slashes := 0
			for slashes < i && s[i-1-slashes] == '\\' {
				slashes++
			}
			if !quoted || slashes%2 == 0 {
				quoted = !quoted
			}
		case s[i] == separator && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return "", s, false
}

func trim(s string) string { return strings.Trim(s, " \t") }

// encrypted reports whether a proxy names a protocol with TLS.
func encrypted(protocol string) bool {
	return strings.EqualFold(protocol, "https") || strings.EqualFold(protocol, "wss")
}

// parseUsual parses an element of X-Forwarded-For.
func parseUsual(element string) (h hop, ok bool) {
	h.client, ok = parseNode(element)
	return h, ok
}

// parseStandard parses an element of Forwarded (RFC 7239, section 4): pairs of
// name and value, each name once.
func parseStandard(element string) (h hop, ok bool) {
	pairs := make(map[string]string)
	for more := true; more; {
		var pair string
		element, pair, more = cutLast(element, ';')
		if pair = trim(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name = strings.ToLower(name)
		if _, twice := pairs[name]; !ok || twice {
			return hop{}, false
		}
		// No value of use here has a reason to escape anything.
		if inner, ok := strings.CutPrefix(value, `"`); ok {
			if value, ok = strings.CutSuffix(inner, `"`); !ok {
				return hop{}, false
			}
		}
		pairs[name] = value
	}
	h.secure = encrypted(pairs["proto"])
	h.client, ok = parseNode(pairs["for"])
	return h, ok
}

// parseNode parses an address with or without a port, both as RFC 7239, section
// 6 has them and as they stand in X-Forwarded-For: IPv6 has brackets, and need
// not have them if there is no port. Names that hide an address, and unknown,
// are none; a name in place of the port is as good as no port. There are no
// zones, for these mean something on the machine only where they are from.
func parseNode(s string) (node netip.AddrPort, ok bool) {
	address, port := s, ""
	inner, brackets := strings.CutPrefix(s, "[")
	if brackets {
		if address, port, ok = strings.Cut(inner, "]"); !ok {
			return node, false
		}
	} else if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		address, port = s[:i], s[i:]
	}
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" || brackets && !a.Is6() {
		return node, false
	}
	number, ok := parsePort(port)
	return netip.AddrPortFrom(a.Unmap(), number), ok
}

// parsePort parses the port of a node, a colon in front, or nothing.
func parsePort(s string) (uint16, bool) {
	if s == "" {
		return 0, true
	}
	name, ok := strings.CutPrefix(s, ":")
	if strings.HasPrefix(name, "_") {
		return 0, ok
	}
	n, err := strconv.ParseUint(name, 10, 16)
	return uint16(n), ok && err == nil
}
