package framing

import (
	"bytes"
	"iter"
	"strconv"
)

// A rule says what becomes of one child of <stream:features/>.
type rule struct {
	local, space string

	// edit appends what stands in the place of the child. Nil cuts the child.
	edit func(d *Down, dst []byte, e element) []byte
}

// rules lists the features that cannot cross the gateway as they are. To
// remove one more, add a row; to change one, write an edit function.
// Everything else is passed on byte for byte.
var rules = [...]rule{
	// TLS is the WebSocket's business (RFC 7395, section 3.9).
	{"starttls", nsTLS, nil},
	// The gateway could not read compressed streams (XEP-0138).
	{"compression", nsCompressFeature, nil},
	// The gateway's limit holds if it is the lower one (XEP-0478).
	{"limits", nsLimits, lowerMaxBytes},
}

// offers lists the features that contain SASL mechanisms.
var offers = [...]struct{ local, space string }{
	{"mechanisms", nsSASL},      // RFC 6120, section 6.4.1
	{"authentication", nsSASL2}, // XEP-0388
}

// AppendFeatures appends to dst the message for u, which must be of Class
// Features, with the features removed or changed that cannot cross the
// gateway (RFC 7395, section 3.9; XEP-0138; XEP-0478). All other bytes are as
// AppendHead gives them.
func (d *Down) AppendFeatures(dst []byte, u Unit) []byte {
	dst, _ = d.AppendHead(dst, u)
	kept := u.nameEnd
	for e := range d.tree(u).children() {
		for _, r := range rules {
			if !e.is(r.local, r.space) {
				continue
			}
			dst = append(dst, u.Raw[kept:e.start]...)
			if r.edit != nil {
				dst = r.edit(d, dst, e)
			}
			kept = e.end
			break
		}
	}
	return append(dst, u.Raw[kept:]...)
}

// OffersSASL reports whether u, which must be of Class Features, lists SASL
// mechanisms of either profile (RFC 6120, section 6.4.1; XEP-0388). A server
// does so until the client is authenticated.
func (d *Down) OffersSASL(u Unit) bool {
	for e := range d.tree(u).children() {
		for _, o := range offers {
			if e.is(o.local, o.space) {
				return true
			}
		}
	}
	return false
}

// lowerMaxBytes edits <limits/>: a max-bytes above the gateway's own limit is
// replaced by that, digit for digit.
func lowerMaxBytes(d *Down, dst []byte, e element) []byte {
	kept := e.start
	for c := range e.children() {
		if d.MaxStanza <= 0 || !c.is("max-bytes", nsLimits) {
			continue
		}
		number := bytes.Trim(c.raw[c.content:c.contentEnd], " \t\r\n")
		if !digits(number) {
			continue
		}
		// Digits fail to parse only if there are too many of them.
		if v, err := strconv.ParseInt(string(number), 10, 64); err == nil && v <= int64(d.MaxStanza) {
			continue
		}
		start := c.content + bytes.Index(c.raw[c.content:], number)
		dst = append(dst, e.raw[kept:start]...)
		dst = strconv.AppendInt(dst, int64(d.MaxStanza), 10)
		kept = start + len(number)
	}
	return append(dst, e.raw[kept:e.end]...)
}

// An element is an element of a complete unit, to look inside. Positions are
// indexes into raw, which holds the whole unit.
type element struct {
	raw        []byte
	start, end int
	nameEnd    int // the start tag starts at start
	content    int // and ends here
	contentEnd int

	parent *element
	scope  []binding // what the outermost element inherits
}

// tree returns the root of u.
func (d *Down) tree(u Unit) *element {
	return &element{
		raw:     u.Raw,
		end:     len(u.Raw),
		nameEnd: u.nameEnd,
		content: u.rootEnd,
		scope:   d.bindings(),
	}
}

// children yields the child elements of e in order.
func (e *element) children() iter.Seq[element] {
	return func(yield func(element) bool) {
		child := element{raw: e.raw, parent: e, scope: e.scope}
		depth := 0
		for i := e.content; ; {
			j := bytes.IndexByte(e.raw[i:], '<')
			if j < 0 || i+j+1 == len(e.raw) {
				return
			}
			start := i + j
			mark := start + 1
			switch e.raw[start+1] {
			case '!': // CDATA: Down lets nothing else pass
				j := bytes.Index(e.raw[start:], []byte("]]>"))
				if j < 0 {
					return
				}
				i = start + j + 3
				continue
			case '/':
				j = mark + bytes.IndexByte(e.raw[mark:], '>')
			default:
				j, _ = tagEnd(e.raw, mark, 0)
			}
			if j < mark {
				return
			}
			i = j + 1
			switch {
			case e.raw[mark] == '/':
				if depth--; depth < 0 {
					return // the end of e
				}
				child.contentEnd = start
			default:
				if depth == 0 {
					child.start, child.content, child.contentEnd = start, i, i
					_, child.nameEnd = scanName(e.raw, mark)
				}
				if e.raw[j-1] != '/' {
					depth++
				}
			}
			if depth > 0 {
				continue
			}
			child.end = i
			if child.nameEnd >= 0 && !yield(child) {
				return
			}
		}
	}
}

// is reports whether e has the local name and the namespace given.
func (e *element) is(local, space string) bool {
	name := e.raw[e.start+1 : e.nameEnd]
	var prefix []byte
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		prefix, name = name[:i], name[i+1:]
	}
	return string(name) == local && e.resolve(prefix) == space
}

// resolve returns the namespace that a prefix, or none, means for e.
func (e *element) resolve(prefix []byte) string {
	for p := e; p != nil; p = p.parent {
		if space, ok := declared(p.raw[p.start:p.content], p.nameEnd-p.start, prefix); ok {
			return string(space)
		}
	}
	for i := range e.scope {
		if b := &e.scope[i]; b.prefix == string(prefix) {
			return b.space
		}
	}
	return ""
}
