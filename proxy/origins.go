package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// An OriginPattern matches values of the header field Origin (RFC 6454), in any
// spelling. Make one with [ParseOriginPattern]. The zero value matches nothing.
type OriginPattern struct {
	prefix string // of the origin: all of it, or "https://" of https://*.example.org:8443
	suffix string // ".example.org:8443"; empty without a wildcard
}

// Origins that have no host. Browsers send null for pages of file: and data:
// and for sandboxed frames, and some embedded ones file://.
const (
	originNull = "null"
	originFile = "file://"
)

// defaultPorts are those that browsers leave out.
var defaultPorts = map[string]uint64{"http": 80, "https": 443}

// opaqueSchemes never appear in an origin: browsers send null, or the origin of the
// page. The values say what to write instead.
var opaqueSchemes = map[string]string{
	"ws": "http://", "wss": "https://",
	"data": originNull, "about": originNull, "javascript": originNull, "mailto": originNull, "ftp": originNull,
	"blob": "the origin of the page itself", "view-source": "the origin of the page itself",
}

// ParseOriginPattern parses an origin such as https://chat.example.org,
// app://localhost or chrome-extension://id, in any spelling; https://*.example.org
// for all subdomains of example.org, at any depth; null; or file://. It returns an
// error for a value that no browser sends; the error says what to write instead.
func ParseOriginPattern(s string) (OriginPattern, error) {
	if s == originNull || s == originFile {
		return OriginPattern{prefix: s}, nil
	}
	refuse := func(format string, args ...any) (OriginPattern, error) {
		return OriginPattern{}, fmt.Errorf("%q is not an origin: "+format, append([]any{s}, args...)...)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		switch {
		case s == "*":
			return refuse("write nothing to accept any")
		case strings.EqualFold(s, originNull):
			return refuse("write null in small letters")
		case strings.Contains(s, ":/"):
			return refuse("write scheme://host")
		}
		if scheme, _, ok := strings.Cut(s, ":"); ok && opaqueSchemes[strings.ToLower(scheme)] != "" {
			return refuse("write %s", opaqueSchemes[strings.ToLower(scheme)])
		}
		return refuse("write scheme and host, such as %s", orExample("https://"+strings.Trim(s, "/")))
	}
	scheme = strings.ToLower(scheme)
	// Those of pages that another page made, such as blob:https://host.
	if outer, _, nested := strings.Cut(scheme, ":"); nested && opaqueSchemes[outer] != "" {
		return refuse("write %s", opaqueSchemes[outer])
	}
	if instead, ok := opaqueSchemes[scheme]; ok {
		if strings.HasSuffix(instead, "://") {
			instead += rest
		}
		return refuse("no browser sends %s://: write %s", scheme, instead)
	}
	if scheme == "file" {
		return refuse("write file://, or null, whichever the client sends")
	}
	// The errors of package url would not say what to write.
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return refuse("no browser sends a path, not even a slash: write %s", orExample(scheme+"://"+rest[:i]))
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		return refuse("no browser sends a user: write %s://%s", scheme, rest[i+1:])
	}
	parent, wildcard := strings.CutPrefix(rest, "*.")
	switch {
	case strings.Contains(parent, "*"):
		return refuse("* stands for subdomains, at the start of the host: write https://*.example.org, or nothing to accept any")
	case wildcard && defaultPorts[scheme] == 0:
		return refuse("* stands for subdomains of a domain, with http:// or https://")
	}
	origin, err := normalOrigin(scheme + "://" + parent)
	if err != nil {
		return refuse("%w: write scheme and host, such as %s", err, exampleOrigin)
	}
	if !wildcard {
		return OriginPattern{prefix: origin}, nil
	}
	host := strings.TrimPrefix(origin, scheme+"://")
	if _, err := netip.ParseAddr(strings.Split(host, ":")[0]); err == nil || host[0] == '[' {
		return refuse("an address has no subdomains")
	}
	return OriginPattern{prefix: scheme + "://", suffix: "." + host}, nil
}

const exampleOrigin = "https://chat.example.org"

// orExample returns s if it is an origin, because it may be what was meant, else an
// example.
func orExample(s string) string {
	if _, err := normalOrigin(s); err != nil {
		return exampleOrigin
	}
	return s
}

// String returns the pattern in the spelling that browsers use.
func (p OriginPattern) String() string {
	if p.suffix != "" {
		return p.prefix + "*" + p.suffix
	}
	return p.prefix
}

// matches reports whether the pattern matches an origin that is spelt as browsers do.
func (p *OriginPattern) matches(origin []byte) bool {
	if p.suffix == "" {
		return p.prefix != "" && string(origin) == p.prefix
	}
	sub, ok := bytes.CutPrefix(origin, []byte(p.prefix))
	if !ok {
		return false
	}
	sub, ok = bytes.CutSuffix(sub, []byte(p.suffix))
	// The asterisk matches labels only, not a port or a part of an address.
	return ok && len(sub) > 0 && !bytes.ContainsAny(sub, ":[]/@")
}

// maxOrigin is the length in bytes up to which an origin is normalised if it is not
// spelt as browsers do: scheme, domain and port.
const maxOrigin = 64 + maxDomain + 8

// originAllowed reports whether a browser's page may connect.
func (c *Config) originAllowed(origin []byte) bool {
	match := func(o []byte) bool {
		return slices.ContainsFunc(c.AllowedOrigins, func(p OriginPattern) bool { return p.matches(o) })
	}
	// A wildcard must not match what is not an origin at all, so only the
	// exact ones go by the bytes alone.
	for i := range c.AllowedOrigins {
		if p := &c.AllowedOrigins[i]; p.suffix == "" && p.matches(origin) {
			return true
		}
	}
	if len(origin) > maxOrigin {
		return false
	}
	normal, err := normalOrigin(string(origin))
	return err == nil && match([]byte(normal))
}

// hosts are internationalised as browsers do it (UTS 46): they allow an
// underscore, and hyphens anywhere.
var hosts = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

var (
	errOriginScheme = errors.New("invalid scheme")
	errOriginHost   = errors.New("invalid host")
	errOriginPort   = errors.New("invalid port")
)

// normalOrigin returns the origin scheme://host or scheme://host:port as
// browsers spell it: in lower case, a domain in ASCII, an address in its
// shortest form, no default port.
func normalOrigin(s string) (string, error) {
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || !validScheme(scheme) {
		return "", errOriginScheme
	}
	scheme = strings.ToLower(scheme)
	port := ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", errOriginPort
		}
		if port = ":" + strconv.FormatUint(n, 10); n == defaultPorts[scheme] {
			port = ""
		}
	}
	web := defaultPorts[scheme] != 0
	switch inner, brackets := strings.CutPrefix(host, "["); {
	case brackets:
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() || a.Zone() != "" || !strings.HasSuffix(inner, "]") {
			return "", errOriginHost
		}
		host = "[" + a.String() + "]"
	case web || host != "":
		if len(host) > maxDomain || !utf8.ValidString(host) { // else idna makes U+FFFD of it
			return "", errOriginHost
		}
		ascii, err := hosts.ToASCII(host)
		if err != nil {
			return "", errOriginHost
		}
		if host = strings.ToLower(ascii); !validHostName(host) || web && looksLikeIPv4(host) {
			return "", errOriginHost
		}
	case port != "":
		return "", errOriginHost
	}
	return scheme + "://" + host + port, nil
}

// validScheme reports whether s is the scheme of a URL (RFC 3986, section 3.1).
func validScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || !('0' <= c && c <= '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return s != ""
}

// validHostName reports whether s consists of labels of letters, digits,
// hyphens and underscores; a final dot makes another name.
func validHostName(s string) bool {
	if s == "." { // app://. is what Electron applications like to use
		return true
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && !('a' <= r && r <= 'z') && !('0' <= r && r <= '9')
		}) {
			return false
		}
	}
	return true
}

// looksLikeIPv4 reports whether a browser would take s for an address, and s is
// not one in the form in which a browser writes it.
func looksLikeIPv4(s string) bool {
	s = strings.TrimSuffix(s, ".")
	last := s[strings.LastIndexByte(s, '.')+1:]
	_, err := strconv.ParseUint(last, 0, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return false
	}
	_, err = netip.ParseAddr(s)
	return err != nil
}
