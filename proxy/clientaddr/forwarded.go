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

// A format is how a header field says who the client is.
type format struct {
	name  string
	list  bool // each proxy adds an element; else there is exactly one address
	parse func(element string) (hop, error)
}

// formats are the header fields that a proxy can be believed in.
var formats = []format{
	{DefaultHeader, true, parseUsual},
	{"Forwarded", true, parseStandard},
	{"X-Real-IP", false, parseUsual},        // nginx
	{"CF-Connecting-IP", false, parseUsual}, // Cloudflare
	{"True-Client-IP", false, parseUsual},   // Akamai, Cloudflare
	{"Fly-Client-IP", false, parseUsual},    // Fly.io
}

// Headers lists the values of Policy.Header.
func Headers() (names []string) {
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}

// HeaderName is the name of the header field that is believed.
func (p *Policy) HeaderName() string { return p.format().name }

func (p *Policy) format() *format {
	for i := range formats {
		if formats[i].name == p.Header {
			return &formats[i]
		}
	}
	return &formats[0]
}

// Why a header field does not say who the client is.
var (
	ErrMissing  = errors.New("missing")
	errSeveral  = errors.New("more than one address")
	errTooMany  = fmt.Errorf("more than %d trusted proxies", maxElements)
	errEmpty    = errors.New("empty element")
	errNode     = errors.New("not an IP address")
	errNoFor    = errors.New("element without for=")
	errPair     = errors.New("malformed element")
	errRepeated = errors.New("parameter listed twice")
)

// maxElements bounds the elements of a list that are looked at, from its end
// on.
const maxElements = 64

// Forwarded returns the address of the client that a request of a trusted proxy
// is for (see [Policy.Trusts]), and whether that client spoke TLS, as far as
// the proxies say. The port is 0 when they do not say.
//
// Each proxy adds the address that it was connected to from, at the end of
// X-Forwarded-For or Forwarded. So the last address is the word of the peer. If
// that is the address of a trusted proxy, the one before it is the word of that
// proxy, and so on, up to the first address that is not trusted: that is the
// client, and what stands before it is the client's own invention. Where all
// are trusted, the first one is the client.
//
// An error means that nobody knows who the client is: the field is missing, or
// what a trusted proxy has added to it is not an address (RFC 7239, section
// 6.2 and 6.3, allows "unknown" and names that hide one). The request must be
// refused then, for the address of the proxy itself is often one that may do
// more than others.
//
// Whether the client spoke TLS is what Forwarded says together with the
// client's address; with every other field it is the last word of
// X-Forwarded-Proto.
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

// A hop is what one proxy says about who connected to it.
type hop struct {
	client netip.AddrPort
	secure bool
}

// walk returns the last hop of lines that is believed, see [Policy.Forwarded].
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

// elements yields the elements of a header, the last one first, without the
// white space around them. Empty ones count: for all we know a proxy added
// nothing to what the client sent.
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

// parseUsual parses an element of X-Forwarded-For, or a single address.
func parseUsual(element string) (h hop, err error) {
	h.client, err = parseNode(element)
	return h, err
}

// parseStandard parses an element of Forwarded (RFC 7239, section 4): pairs of
// name and value, each name once.
func parseStandard(element string) (h hop, err error) {
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
		// No value of use here has a reason to escape anything.
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

// parseNode parses an address with or without a port, both as RFC 7239, section
// 6 has them and as they stand in X-Forwarded-For: IPv6 has brackets, and need
// not have them if there is no port. Names that hide an address, and unknown,
// are none; a name in place of the port is as good as no port. There are no
// zones, for these mean something on the machine only where they are from.
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
