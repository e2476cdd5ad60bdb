package proxy

import (
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"xmppgate/framing"
)

// domains returns what decodes the to attribute of a header, nil if there is none.
// The condition is not empty when the session may not go there.
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
			// Without a list there is nothing to compare with but itself.
			if name = s; allowed != nil {
				name = NormalDomain(s)
			}
		}
		switch {
		case allowed == nil:
			// One server for all: let it answer.
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

// NormalDomain is the form in which domains are compared: ASCII, lower case,
// no final dot. A name that is no domain keeps its spelling; one that is too
// long is not even looked at, for the time that takes grows with the square.
func NormalDomain(s string) string {
	if len(s) > maxDomain {
		return s
	}
	s = strings.TrimSuffix(s, ".")
	if a, err := idna.Lookup.ToASCII(s); err == nil {
		return a
	}
	return strings.ToLower(s)
}
