package deflate

import (
	"slices"
	"strconv"
	"strings"
)

// Name is the name of the extension.
const Name = "permessage-deflate"

// The parameters of an offer (RFC 7692, section 7.1).
const (
	serverNoContext  = "server_no_context_takeover"
	clientNoContext  = "client_no_context_takeover"
	serverWindowBits = "server_max_window_bits"
	clientWindowBits = "client_max_window_bits"
)

// Bounds of a window, as exponents of 2.
const (
	leastWindowBits = 8
	mostWindowBits  = 15
	// clientBits is what clients are asked for. Below leastClientBits they are asked
	// not to refer to earlier messages instead: zlib cannot compress with 8 bits.
	clientBits      = 12
	leastClientBits = 9
)

// Params are what gateway and client have agreed on. The zero value is no agreement.
type Params struct {
	// WindowBits says how far a reference in a message to the client may reach
	// back: 1<<WindowBits bytes.
	WindowBits int
	// NoContext tells that no reference may lead to an earlier message.
	NoContext bool
	// ClientBits is the same for messages from the client as WindowBits; zero means
	// that none of them refers to an earlier message.
	ClientBits int

	limitsWindow bool // the client has asked for WindowBits
}

// Valid reports whether p may be an agreement.
func (p Params) Valid() bool {
	return leastWindowBits <= p.WindowBits && p.WindowBits <= mostWindowBits &&
		(p.ClientBits == 0 || leastClientBits <= p.ClientBits && p.ClientBits <= clientBits)
}

// Negotiate returns what the first acceptable offer in the values of
// Sec-WebSocket-Extensions comes to. Offers that are invalid or hold something
// unknown are declined, and so are all where one value is malformed. ok is false if
// there is no acceptable offer.
func Negotiate(values []string) (p Params, ok bool) {
	offers, ok := parseExtensions(strings.Join(values, ","))
	if !ok {
		return Params{}, false
	}
	for _, o := range offers {
		if o.name == Name {
			if p, ok := accept(o.params); ok {
				return p, true
			}
		}
	}
	return Params{}, false
}

// accept returns what an offer comes to (RFC 7692, section 7.1).
func accept(params []param) (Params, bool) {
	p := Params{WindowBits: mostWindowBits}
	clientForgets := false
	for i, given := range params {
		if slices.ContainsFunc(params[:i], func(q param) bool { return q.name == given.name }) {
			return Params{}, false
		}
		switch given.name {
		case serverNoContext:
			p.NoContext = true
		case serverWindowBits:
			p.WindowBits, p.limitsWindow = windowBits(given.value), true
			if p.WindowBits == 0 {
				return Params{}, false
			}
			continue
		case clientWindowBits:
			p.ClientBits = clientBits
			if given.valued {
				if p.ClientBits = min(clientBits, windowBits(given.value)); p.ClientBits == 0 {
					return Params{}, false
				}
			}
			continue
		case clientNoContext:
			clientForgets = true
		default:
			return Params{}, false
		}
		if given.valued {
			return Params{}, false
		}
	}
	if clientForgets || p.ClientBits < leastClientBits {
		p.ClientBits = 0
	}
	return p, true
}

// windowBits is zero for a value that is not allowed.
func windowBits(value string) int {
	for n := leastWindowBits; n <= mostWindowBits; n++ {
		if value == strconv.Itoa(n) {
			return n
		}
	}
	return 0
}

// String is the value of Sec-WebSocket-Extensions that tells the client. A server may
// answer client_no_context_takeover to any offer, but the others only to one that
// names them (RFC 7692, section 7.1).
func (p Params) String() string {
	s := Name
	if p.ClientBits == 0 {
		s += "; " + clientNoContext
	} else {
		s += "; " + clientWindowBits + "=" + strconv.Itoa(p.ClientBits)
	}
	if p.NoContext {
		s += "; " + serverNoContext
	}
	if p.limitsWindow {
		s += "; " + serverWindowBits + "=" + strconv.Itoa(p.WindowBits)
	}
	return s
}

// An extension is an item of Sec-WebSocket-Extensions.
type extension struct {
	name   string
	params []param
}

type param struct {
	name, value string
	valued      bool // there is a value, perhaps an empty one
}

// maxExtensions bounds what is looked at: the items of a list and their parameters.
const maxExtensions = 64

// parseExtensions parses a list of extensions (RFC 6455, section 9.1). ok is false if
// it is malformed or too long.
func parseExtensions(list string) (all []extension, ok bool) {
	l := lexer{list}
	for n := 0; ; n++ {
		for l.skip(',') {
		}
		if l.rest == "" {
			return all, true
		}
		e := extension{name: l.token()}
		if e.name == "" {
			return nil, false
		}
		for l.skip(';') {
			p := param{name: l.token()}
			if p.name == "" || len(e.params) == maxExtensions {
				return nil, false
			}
			if l.skip('=') {
				p.valued = true
				if p.value, ok = l.value(); !ok {
					return nil, false
				}
			}
			e.params = append(e.params, p)
		}
		if l.rest != "" && l.rest[0] != ',' || n == maxExtensions {
			return nil, false
		}
		all = append(all, e)
	}
}

// A lexer takes words from the front of a field value. White space around them does
// not count.
type lexer struct{ rest string }

func (l *lexer) space() { l.rest = strings.TrimLeft(l.rest, " \t") }

// skip takes c, if that is next.
func (l *lexer) skip(c byte) bool {
	l.space()
	if l.rest == "" || l.rest[0] != c {
		return false
	}
	l.rest = l.rest[1:]
	l.space()
	return true
}

// token takes a token (RFC 9110, section 5.6.2); empty if there is none.
func (l *lexer) token() string {
	n := 0
	for n < len(l.rest) && isToken(l.rest[n]) {
		n++
	}
	t := l.rest[:n]
	l.rest = l.rest[n:]
	l.space()
	return t
}

func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c != 0 && strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// value takes a token or a quoted string that holds one.
func (l *lexer) value() (string, bool) {
	if !strings.HasPrefix(l.rest, `"`) {
		t := l.token()
		return t, t != ""
	}
	var text []byte
	for i := 1; i < len(l.rest); i++ {
		c := l.rest[i]
		switch {
		case c == '"':
			l.rest = l.rest[i+1:]
			l.space()
			return string(text), len(text) > 0
		case c == '\\' && i+1 < len(l.rest):
			i++
			c = l.rest[i]
		}
		if !isToken(c) {
			return "", false
		}
		text = append(text, c)
	}
	return "", false
}
