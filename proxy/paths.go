package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// CheckPath returns an error that says what is wrong with an element of
// Config.Paths, and what to write instead.
func CheckPath(path string) error {
	_, err := parsePath(path)
	if err != nil {
		return fmt.Errorf("%q is not a URL path: %w", path, err)
	}
	return nil
}

// A pathPattern is the segments of a path, without their percent escapes.
type pathPattern []string

// anySegment stands for exactly one segment.
const anySegment = "*"

var errPathSegment = errors.New("* stands for exactly one segment: write it between slashes, as in /*/xmpp-websocket")

func parsePath(s string) (pathPattern, error) {
	rest, ok := strings.CutPrefix(s, "/")
	if !ok || strings.ContainsAny(s, "?# ") {
		return nil, errors.New("write one such as /xmpp-websocket")
	}
	p := pathPattern(strings.Split(rest, "/"))
	for i, segment := range p {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			return nil, errors.New("write two hexadecimal digits after each %, or %25 for the character itself")
		}
		if strings.Contains(decoded, anySegment) && segment != anySegment {
			return nil, errPathSegment
		}
		if decoded == "." || decoded == ".." || decoded == "" && i < len(p)-1 {
			return nil, errors.New("no client sends this: remove empty segments, . and .. from it")
		}
		p[i] = decoded
	}
	return p, nil
}

// matches takes the path of a request as it was sent.
func (p pathPattern) matches(path []byte) bool {
	rest, ok := bytes.CutPrefix(path, []byte("/"))
	if !ok {
		return false
	}
	for i, want := range p {
		var segment []byte
		segment, rest, ok = bytes.Cut(rest, []byte("/"))
		if ok != (i < len(p)-1) || !matchesSegment(segment, want) {
			return false
		}
	}
	return true
}

// matchesSegment reports whether a segment, with escapes, is the one wanted.
// anySegment does not match a segment that a proxy may read as several.
func matchesSegment(segment []byte, want string) bool {
	if want != anySegment && bytes.IndexByte(segment, '%') < 0 {
		return string(segment) == want
	}
	decoded, err := url.PathUnescape(string(segment))
	switch {
	case err != nil:
		return false
	case want != anySegment:
		return decoded == want
	}
	return decoded != "" && decoded != "." && decoded != ".." && !strings.ContainsAny(decoded, "/\\\x00")
}
