package clientaddr

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultHeader is the header field that most proxies add to.
const DefaultHeader = "X-Forwarded-For"

// A format is the syntax of a header field.
type format struct {
	name  string
	list  bool // each proxy appends an element; otherwise there is exactly one address
	parse func(element string) (hop, error)
}

// formats are the header fields that can be trusted.
var formats = []format{
	{DefaultHeader, true, parseAddress},
	{"Forwarded", true, parseForwarded},
	{"X-Real-IP", false, parseAddress},        // nginx
	{"CF-Connecting-IP", false, parseAddress}, // Cloudflare
	{"True-Client-IP", false, parseAddress},   // Akamai, Cloudflare
	{"Fly-Client-IP", false, parseAddress},    // Fly.io
}

// Headers returns the values that Policy.Header may have.
func Headers() (names []string) {
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

// HeaderName returns the name of the trusted header field: Header or its default.
func (p *Policy) HeaderName() string { return p.format().name }

func (p *Policy) format() *format {
	for i := range formats {
		if formats[i].name == p.Header {
			return &formats[i]
		}
	}
	return &formats[0]
}

// Errors of Forwarded.
var (
	// ErrMissing means that the request does not have the header field.
	ErrMissing  = errors.New("missing")
	errSeveral  = errors.New("more than one address")
	errTooMany  = fmt.Errorf("more than %d trusted proxies", maxElements)
	errEmpty    = errors.New("empty element")
	errNode     = errors.New("not an IP address")
	errNoFor    = errors.New("element without for=")
	errPair     = errors.New("malformed element")
	errRepeated = errors.New("parameter listed twice")
)

// maxElements bounds the elements of a list that are parsed, counted from its end.
const maxElements = 64

// Forwarded returns the address of the client of a request that came from a trusted
// proxy (see [Policy.Trusts]), and whether that client used TLS. The port is 0 if the
// proxies do not state it.
//
// In X-Forwarded-For and Forwarded each proxy appends the address of its peer. So the
// last address was written by our peer. If it is the address of a trusted proxy, the
// address before it was written by that proxy, and so on. The last address that is
// not a trusted proxy is the client; the client may have invented everything before
// it. If all are trusted, the first one is the client.
//
// An error means that the client is not known: the field is missing ([ErrMissing]),
// or a trusted proxy has written something other than an address (RFC 7239, sections
// 6.2 and 6.3, allows "unknown" and obfuscated names). Refuse the request then: the
// address of the proxy must not stand for the client, because it often has more
// rights.
//
// The parameter proto of Forwarded, in the client's element, says whether the client
// used TLS. With every other field it is the last element of X-Forwarded-Proto.
//
// values returns the values of all field lines with a name, in their order, as
// http.Header.Values does.
func (p *Policy) Forwarded(values func(name string) []string) (client netip.AddrPort, secure bool, err error) {
	f := p.format()
	lines := values(f.name)
	if len(lines) == 0 {
		return netip.AddrPort{}, false, ErrMissing
	}
	if !f.list && (len(lines) > 1 || strings.Contains(lines[0], ",")) {
		return netip.AddrPort{}, false, errSeveral
	}
	client, secure, err = p.walk(lines, f.parse)
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	if f.name != "Forwarded" {
		for last := range elements(values("X-Forwarded-Proto")) {
			secure = encrypted(last)
			break
		}
	}
	return client, secure, nil
}

// A hop is what one proxy states about its peer.
type hop struct {
	client netip.AddrPort
	secure bool
}

// walk returns the hop that describes the client, see [Policy.Forwarded].
func (p *Policy) walk(lines []string, parse func(string) (hop, error)) (client netip.AddrPort, secure bool, err error) {
	count := 0
	var h hop
	for element := range elements(lines) {
		if count++; count > maxElements {
			return h.client, h.secure, errTooMany
		}
		if element == "" {
			return h.client, h.secure, errEmpty
		}
		if h, err = parse(element); err != nil || !contains(p.Forwarders, h.client.Addr()) {
			break
		}
	}
	return h.client, h.secure, err
}

// elements yields the elements of a header, the last one first, without the white
// space around them. It yields empty ones as well, because a trusted proxy may have
// written one.
func elements(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range slices.Backward(lines) {
			for more := true; more; {
				var element string
				line, element, more = cutLast(line, ',')
				if !yield(trim(element)) {
					return
				}
			}
		}
	}
}

// cutLast cuts s at the last separator outside quotes. It counts quotes from the end
// of s, where the proxy's element is, so that a quote which the client has left open
// cannot swallow it.
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

// encrypted reports whether a protocol uses TLS.
func encrypted(protocol string) bool {
	return strings.EqualFold(protocol, "https") || strings.EqualFold(protocol, "wss")
}

// parseAddress parses an element of X-Forwarded-For, or a single address.
func parseAddress(element string) (h hop, err error) {
	h.client, err = parseNode(element)
	return h, err
}

// parseForwarded parses an element of Forwarded (RFC 7239, section 4): pairs of
// name and value, each name once.
func parseForwarded(element string) (h hop, err error) {
	pairs := make(map[string]string)
	for more := true; more; {
		var pair string
		element, pair, more = cutLast(element, ';')
		if pair = trim(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return hop{}, errPair
		}
		name = strings.ToLower(name)
		if _, twice := pairs[name]; twice {
			return hop{}, errRepeated
		}
		// Addresses and protocols need no escapes, so none are decoded.
		if inner, ok := strings.CutPrefix(value, `"`); ok {
			if value, ok = strings.CutSuffix(inner, `"`); !ok {
				return hop{}, errPair
			}
		}
		pairs[name] = value
	}
	node, ok := pairs["for"]
	if !ok {
		return hop{}, errNoFor
	}
	h.secure = encrypted(pairs["proto"])
	h.client, err = parseNode(node)
	return h, err
}

// parseNode parses an address with or without a port, in the forms of RFC 7239,
// section 6, and of X-Forwarded-For, where IPv6 without a port needs no brackets.
// "unknown" and obfuscated names are errors. An obfuscated port counts as no port.
// Zones are errors, because they have a meaning only on their own machine.
func parseNode(s string) (netip.AddrPort, error) {
	address, port, ok := s, "", true
	inner, brackets := strings.CutPrefix(s, "[")
	if brackets {
		address, port, ok = strings.Cut(inner, "]")
	} else if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		address, port = s[:i], s[i:]
	}
	a, err := netip.ParseAddr(address)
	if !ok || err != nil || a.Zone() != "" || brackets && !a.Is6() {
		return netip.AddrPort{}, errNode
	}
	number, ok := parsePort(port)
	if !ok {
		return netip.AddrPort{}, errNode
	}
	return netip.AddrPortFrom(a.Unmap(), number), nil
}

// parsePort parses the port of a node: a colon and the number, or nothing.
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
