package http1

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
)

// Limits of a head.
const (
	MaxSize  = 32 << 10 // bytes, as much as nginx passes on
	MaxLines = 100      // the request line and the empty one included
)

// ErrTooLarge says that a head is beyond one of the limits.
var ErrTooLarge = errors.New("request head too large")

// An Error says what is wrong with a head, and where.
type Error struct {
	Line   int // from 1
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Size returns the length of the head that b begins with, its empty line
// included; 0 if b does not hold all of it. seen is how many bytes of b an
// earlier call has looked at. A line that does not end in CRLF is an error
// (RFC 9112, section 2.2, allows a bare LF, which others take for a part of the
// value), and so is a first byte that no request has.
func Size(b []byte, seen int) (int, error) {
	if len(b) > 0 && !is(b[0], token) {
		return 0, &Error{1, "not an HTTP request"}
	}
	for i := seen; ; i++ {
		next := bytes.IndexByte(b[i:], '\n')
		if next < 0 {
			break
		}
		i += next
		if i == 0 || b[i-1] != '\r' {
			return 0, &Error{1 + bytes.Count(b[:i], []byte("\n")), "bare LF"}
		}
		if i >= 2 && b[i-2] == '\n' {
			if i >= MaxSize {
				return 0, ErrTooLarge
			}
			return i + 1, nil
		}
	}
	if len(b) >= MaxSize {
		return 0, ErrTooLarge
	}
	return 0, nil
}

// A Head is the head of a request. Its slices alias the bytes that were parsed.
// The zero value is empty.
type Head struct {
	Method []byte
	// Path is that of the request target as it was sent, with its percent
	// escapes. The query is dropped, unread: it may hold a token.
	Path         []byte
	Major, Minor int // version of HTTP

	b      []byte
	fields [MaxLines]field
	count  int
}

// A field is one line of the head, as positions in it.
type field struct{ name, nameEnd, value, end uint16 }

// Parse reads a head whose length is what [Size] says. After an error h holds
// what comes before it, for the log.
func (h *Head) Parse(b []byte) error {
	*h = Head{b: b}
	if len(b) > MaxSize {
		return ErrTooLarge
	}
	for line, at := 1, 0; ; line++ {
		n := bytes.IndexByte(b[at:], '\r')
		switch {
		case n < 0 || at+n+1 >= len(b):
			return &Error{line, "no CRLF at the end"}
		case b[at+n+1] != '\n':
			return &Error{line, "bare CR"}
		case n == 0 && line > 1:
			return nil
		case line == MaxLines:
			return ErrTooLarge
		}
		var reason string
		if line == 1 {
			reason = h.parseRequestLine(b[:n])
		} else {
			reason = h.parseField(at, at+n)
		}
		if reason != "" {
			return &Error{line, reason}
		}
		at += n + 2
	}
}

// parseRequestLine parses the first line (RFC 9112, section 3). Words are
// separated by exactly one space.
func (h *Head) parseRequestLine(line []byte) (reason string) {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	switch {
	case !ok || !ok2:
		return "not a request line"
	case !all(method, token):
		return "invalid method"
	case len(version) != len("HTTP/1.1") || string(version[:5]) != "HTTP/" || !isDigit(version[5]) || version[6] != '.' || !isDigit(version[7]):
		return "invalid HTTP version"
	}
	h.Method = method
	h.Major, h.Minor = int(version[5]-'0'), int(version[7]-'0')
	return h.parseTarget(target)
}

// schemes are those of a request target that has one.
var schemes = []string{"http", "https", "ws", "wss"}

// parseTarget parses a request target in origin-form or absolute-form (RFC
// 9112, section 3.2); the others belong to methods that are of no use here.
func (h *Head) parseTarget(target []byte) (reason string) {
	if !all(target, visible) || bytes.IndexByte(target, '#') >= 0 {
		return "invalid request target"
	}
	if string(target) == "*" {
		h.Path = target
		return ""
	}
	if target[0] != '/' {
		scheme, rest, ok := bytes.Cut(target, []byte("://"))
		known := false
		for _, s := range schemes {
			known = known || equalFold(scheme, s)
		}
		end := len(rest)
		if i := bytes.IndexAny(rest, "/?"); i >= 0 {
			end = i
		}
		if !ok || !known || !validHost(rest[:end]) {
			return "invalid request target"
		}
		target = rest[end:]
	}
	path, _, _ := bytes.Cut(target, []byte("?"))
	if len(path) == 0 {
		path = []byte("/")
	}
	for i := range path {
		if path[i] == '%' && (i+2 >= len(path) || !is(path[i+1], hex) || !is(path[i+2], hex)) {
			return "invalid percent escape in the path"
		}
	}
	h.Path = path
	return ""
}

// parseField parses the field line at b[at:end] (RFC 9112, section 5).
func (h *Head) parseField(at, end int) (reason string) {
	line := h.b[at:end]
	if line[0] == ' ' || line[0] == '\t' {
		return "folded line" // section 5.2
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return "no colon"
	}
	name, value := line[:colon], line[colon+1:]
	switch {
	case colon == 0:
		return "no field name"
	case is(name[colon-1], space):
		return "white space before the colon" // section 5.1
	case !all(name, token):
		return "invalid field name"
	}
	for len(value) > 0 && is(value[0], space) {
		value = value[1:]
	}
	from := end - len(value)
	for len(value) > 0 && is(value[len(value)-1], space) {
		value = value[:len(value)-1]
	}
	if !all(value, text) && len(value) > 0 {
		return "control character in a field value"
	}
	if equalFold(name, "Host") {
		switch {
		case h.Count("Host") > 0:
			return "second host"
		case len(value) > 0 && !validHost(value):
			return "invalid host"
		}
	}
	f := field{uint16(at), uint16(at + colon), uint16(from), uint16(from + len(value))}
	h.fields[h.count] = f
	h.count++
	return ""
}

// Count returns how many field lines have this name.
func (h *Head) Count(name string) (n int) {
	for i := range h.fields[:h.count] {
		if h.named(i, name) {
			n++
		}
	}
	return n
}

// Value returns the value of the only field line with this name. ok is false
// if there is none, or more than one.
func (h *Head) Value(name string) (value []byte, ok bool) {
	n := 0
	for i := range h.fields[:h.count] {
		if h.named(i, name) {
			value = h.value(i)
			n++
		}
	}
	return value, n == 1
}

// Values returns the values of all field lines with this name, in their order.
// It allocates.
func (h *Head) Values(name string) (values []string) {
	for i := range h.fields[:h.count] {
		if h.named(i, name) {
			values = append(values, string(h.value(i)))
		}
	}
	return values
}

// Token looks for word, in any case, in the comma-separated lists of all field
// lines with this name (RFC 9110, section 5.6.1) and returns it as it is spelt
// there; nil if it is not in them.
func (h *Head) Token(name, word string) []byte {
	for i := range h.fields[:h.count] {
		if !h.named(i, name) {
			continue
		}
		for rest, more := h.value(i), true; more; {
			var item []byte
			item, rest, more = bytes.Cut(rest, []byte(","))
			if item = bytes.Trim(item, " \t"); equalFold(item, word) {
				return item
			}
		}
	}
	return nil
}

// HasBody reports whether something of the request may follow the head (RFC
// 9112, section 6): any Transfer-Encoding, and any Content-Length but a single
// zero.
func (h *Head) HasBody() bool {
	length, ok := h.Value("Content-Length")
	return h.Count("Transfer-Encoding") > 0 || h.Count("Content-Length") > 0 && !(ok && string(length) == "0")
}

func (h *Head) named(i int, name string) bool {
	f := &h.fields[i]
	return int(f.nameEnd-f.name) == len(name) && equalFold(h.b[f.name:f.nameEnd], name)
}

func (h *Head) value(i int) []byte { return h.b[h.fields[i].value:h.fields[i].end] }

// validHost reports whether b is a host with or without a port, without the
// spellings of RFC 3986 that no client uses.
func validHost(b []byte) bool {
	var host, port []byte
	if b, ok := bytes.CutPrefix(b, []byte("[")); ok {
		if host, port, ok = bytes.Cut(b, []byte("]")); !ok || len(port) > 0 && port[0] != ':' {
			return false
		}
		a, err := netip.ParseAddr(string(host))
		if err != nil || !a.Is6() || a.Zone() != "" {
			return false
		}
		if len(port) > 0 {
			port = port[1:]
		}
	} else {
		host, port, _ = bytes.Cut(b, []byte(":"))
		if !all(host, name) {
			return false
		}
	}
	for _, c := range port {
		if !isDigit(c) {
			return false
		}
	}
	return true
}

// Classes of bytes.
const (
	token   = 1 << iota // RFC 9110, section 5.6.2
	visible             // what a request target is made of
	text                // a field value (RFC 9110, section 5.5)
	space               // OWS
	hex
	name // a host name
)

var classes = func() (t [256]byte) {
	for c := range t {
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= text
		}
		if c > ' ' && c < 0x7f {
			t[c] |= visible
		}
	}
	set := func(chars string, class byte) {
		for _, c := range []byte(chars) {
			t[c] |= class
		}
	}
	const digits, letters = "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	set(digits+letters+"!#$%&'*+-.^_`|~", token)
	set(digits+letters+"-._~", name)
	set(digits+"abcdefABCDEF", hex)
	set(" \t", space)
	return t
}()

func is(c byte, class byte) bool { return classes[c]&class != 0 }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// all reports whether b has at least one byte, and all are of the class.
func all(b []byte, class byte) bool {
	for _, c := range b {
		if !is(c, class) {
			return false
		}
	}
	return len(b) > 0
}

// equalFold compares ASCII letters without case. That of package bytes knows
// letters of other scripts which look alike.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
