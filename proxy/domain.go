package proxy

import (
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"xmppgate/framing"
)

// domains returns a function that decodes the attribute to of a header, which is nil
// if the header has none. If the session is refused, the condition of the stream
// error is not empty.
func (c *Config) domains() func(to []byte) (domain string, condition framing.Condition) {
	var allowed []string
	for _, d := range c.Domains {
		allowed = append(allowed, NormalDomain(d))
	}
	return func(to []byte) (string, framing.Condition) {
		name := ""
		if to != nil {
			s, err := framing.Unquote(to)
			if err != nil {
				return "", framing.CondImproperAddressing
			}
			// Without a list the name is not compared, so it stays as it is.
			if name = s; allowed != nil {
				name = NormalDomain(s)
			}
		}
		switch {
		case allowed == nil:
			// Without a list the server decides.
			return name, ""
		case name == "":
			return "", framing.CondImproperAddressing
		case !slices.Contains(allowed, name):
			return name, framing.CondHostUnknown
		}
		return name, ""
	}
}

// maxDomain is the length of the longest domain in bytes (RFC 1035, section
// 2.3.4).
const maxDomain = 255

// NormalDomain returns a domain in the form in which domains are compared: A-labels
// in lower case, without a final dot. A name that is not a valid domain is only
// lowercased and loses its final dot. A name of more than 255 bytes is returned unchanged,
// because the time for its conversion grows with the square of its length.
func NormalDomain(s string) string {
	if len(s) > maxDomain {
		return s
	}
	s = strings.TrimSuffix(s, ".")
	if isNormal(s) {
		return s
	}
	if a, err := idna.Lookup.ToASCII(s); err == nil {
		return a
	}
	return strings.ToLower(s)
}

// isNormal reports whether s is of characters that NormalDomain does not change, as nearly
// every name is, and without A-labels, which may be invalid.
func isNormal(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return !strings.Contains(s, "xn--")
}
