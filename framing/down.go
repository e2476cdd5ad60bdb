package framing

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

// A Down cuts the byte stream of a server into units and makes messages of
// them. The zero value is ready for a new connection.
//
// It never looks at a byte twice for want of more: between calls it remembers
// where it stopped, relative to the first byte not consumed. Memory is
// allocated only for headers that declare something unusual.
type Down struct {
	// MaxStanza is the size limit in bytes to announce to clients: a greater
	// max-bytes of XEP-0478 is lowered to it. Zero leaves them alone.
	MaxStanza int

	// Binding says which offers to bind SASL to TLS reach clients.
	Binding ChannelBinding

	// NoExternal removes the SASL mechanism EXTERNAL, with which the server
	// would take every client for the gateway.
	NoExternal bool

	// There is one Down for each session, so small fields stand together.
	declared bool  // an XML declaration was just consumed
	phase    phase // what pos points into
	kind     Kind  // of the unit, once known
	class    Class // of the root, see stanza
	quote    byte  // the one that encloses pos, in phase inQuotedTag

	consumed int       // bytes of the stream before the current unit
	clear    int       // bytes from there on that are known to hold no colon
	scope    []binding // what elements inherit; nil means standardScope

	// The unit being cut; positions count from its first byte.
	pos     int // the next byte to look at
	tag     int // the '<' of the current tag
	depth   int // of pos, 0 outside the root
	colon   int // the colon of the root's name, -1 if there is none
	nameEnd int // its end
	rootEnd int // the end of the root's start tag

	single, double uint32 // how many ' and " stand between the tag and pos, in phase inTag
}

// A phase says what pos points into.
type phase uint8

const (
	between     phase = iota // white space between units
	inText                   // text inside an element
	atMarkup                 // a '<'
	inTag                    // a start tag, quotes are merely counted
	inQuotedTag              // a start tag with both kinds of quotes
	inEndTag
	inCDATA
	inDeclaration
)

// A Unit is a complete first-level piece of a stream. Its slices alias the
// input. What the methods of a Down say of it holds until the next Header, for
// that declares namespaces anew.
type Unit struct {
	Kind       Kind
	Class      Class // of an Element
	Raw        []byte
	Attributes Attributes // of a Header

	nameEnd int       // where declarations go
	rootEnd int       // the end of the root's start tag
	scope   []binding // what it inherits
	missing uint64    // bit i: binding i of the scope, of at most DefaultMaxAttributes, has to be declared
	added   int       // the bytes that this takes
}

// A binding is a namespace that a header declares and elements inherit.
type binding struct {
	prefix string // empty for the default namespace
	space  string
	text   string // the declaration, with the space before it
}

// standardScope is what the headers of known servers declare.
var standardScope = []binding{
	{"", NSClient, ` xmlns="` + NSClient + `"`},
	{"stream", NSStreams, ` xmlns:stream="` + NSStreams + `"`},
}

// maxDeclaration is the greatest length of an XML declaration from a server.
const maxDeclaration = 256

// Next puts the next unit of a stream into u; what u was before is forgotten. b
// starts at the first byte not yet consumed. n bytes of it are consumed by the
// call: the unit and the white space and XML declaration before it. If the unit
// is of Kind None, nothing is complete; call again with b[n:] and more bytes
// behind it. The bytes may have moved.
//
// A header may stand wherever an element may: whether the stream may start
// again there is for the caller to decide. An XML declaration may stand before
// a header only. Comments, processing instructions, document types and text
// between elements are errors, always an [*Error]; its offset counts from the
// first byte of the connection. After an error d must not be used.
//
// Well-formedness is checked only as far as cutting needs it (the server is
// trusted to have parsed what it relays), with the exception of headers.
func (d *Down) Next(b []byte, u *Unit) (n int, err error) {
	u.Kind, u.Class, u.Raw = None, Other, nil
	for d.phase == between || d.phase == inDeclaration {
		if d.phase == between {
			if k := skipSpace(b, 0); k > 0 {
				n += k
				d.consume(k)
				b = b[k:]
			}
			if len(b) == 0 {
				return n, nil
			}
			if b[0] != '<' {
				return n, d.fail(NotWellFormed, 0, errText)
			}
			if len(b) == 1 {
				return n, nil
			}
			d.pos, d.depth, d.kind = 0, 0, Element
			d.phase = atMarkup
			if b[1] == '?' {
				d.phase, d.pos = inDeclaration, 2
			}
			continue
		}
		k, err := d.declaration(b)
		if err != nil || k == 0 {
			return n, err
		}
		n += k
		d.consume(k)
		b = b[k:]
		d.phase = between
	}
	end, err := d.end(b)
	if err != nil || end == 0 {
		return n, err
	}
	if err := d.unit(u, b, end); err != nil {
		*u = Unit{}
		return n, err
	}
	d.phase = between
	d.consume(end)
	return n + end, nil
}

// consume moves on by n bytes.
func (d *Down) consume(n int) {
	d.consumed += n
	d.clear = max(d.clear-n, 0)
}

func (d *Down) fail(c Condition, offset int, err error) error {
	return &Error{c, d.consumed + offset, err}
}

// declaration consumes the XML declaration at the start of b. It returns 0 if
// that is not complete. Declarations are short, so the bytes are looked at
// again when more arrive.
func (d *Down) declaration(b []byte) (int, error) {
	const start = "<?xml"
	k := min(len(b), len(start))
	if string(b[:k]) != start[:k] || len(b) > k && !isSpace(b[k]) {
		return 0, d.fail(RestrictedXML, 0, errMarkup)
	}
	b = b[:min(len(b), maxDeclaration)]
	if !bytes.Contains(b, []byte("?>")) {
		if len(b) == maxDeclaration {
			return 0, d.fail(NotWellFormed, 0, errDeclaration)
		}
		return 0, nil
	}
	if d.declared {
		return 0, d.fail(NotWellFormed, 0, errDeclaration)
	}
	d.declared = true
	return declaration(b, d.consumed)
}

// end looks for the end of the unit that starts at b[0] and returns its
// length, 0 if it is not complete.
//
// A '>' ends a start tag unless it stands in an attribute value. As long as a
// tag has quotes of one kind only, an even number of them before the '>' means
// that it does not; counting is much faster than following them. Quotes of
// both kinds make counting worthless: ' may stand between two ". Such tags,
// which are rare, are followed quote by quote.
func (d *Down) end(b []byte) (int, error) {
	i, phase := d.pos, d.phase
	for {
		switch phase {
		case inText:
			i, d.depth = skipContent(b, i, d.depth)
			if d.depth == 0 {
				return i, nil
			}
			if i == len(b) {
				d.pos, d.phase = i, inText
				return 0, nil
			}
			fallthrough

		case atMarkup:
			if i+1 == len(b) {
				d.pos, d.phase = i, atMarkup
				return 0, nil
			}
			d.tag = i
			switch b[i+1] {
			case '/':
				phase = inEndTag
				i += 2
				continue
			case '?':
				return 0, d.fail(RestrictedXML, i, errMarkup)
			case '!':
				const cdata = "<![CDATA["
				k := min(len(b)-i, len(cdata))
				if d.depth == 0 || string(b[i:i+k]) != cdata[:k] {
					return 0, d.fail(RestrictedXML, i, errMarkup)
				}
				if k < len(cdata) {
					d.pos, d.phase = i, atMarkup
					return 0, nil
				}
				phase = inCDATA
				i += k
				continue
			}
			i++
			phase = inTag
			d.single, d.double = 0, 0
			fallthrough

		case inTag:
			j := bytes.IndexByte(b[i:], '>')
			part := b[i:]
			if j >= 0 {
				part = part[:j]
			}
			d.single += uint32(bytes.Count(part, quoteSingle))
			d.double += uint32(bytes.Count(part, quoteDouble))
			if j < 0 {
				d.pos, d.phase = len(b), inTag
				return 0, nil
			}
			if d.single > 0 && d.double > 0 {
				phase, d.quote = inQuotedTag, 0
				i = d.tag + 1
				continue
			}
			i += j + 1
			if (d.single+d.double)&1 != 0 {
				continue
			}

		case inQuotedTag:
			j, quote := tagEnd(b, i, d.quote)
			if j < 0 {
				d.pos, d.phase, d.quote = len(b), inQuotedTag, quote
				return 0, nil
			}
			i = j + 1

		case inEndTag:
			j := bytes.IndexByte(b[i:], '>')
			if j < 0 {
				d.pos, d.phase = len(b), inEndTag
				return 0, nil
			}
			i += j + 1
			switch d.depth--; d.depth {
			case -1:
				d.kind = End
				return i, nil
			case 0:
				return i, nil
			}
			phase = inText
			continue

		case inCDATA:
			// The end may be cut in two; look from where it could start.
			from := max(i-2, d.tag+len("<![CDATA["))
			j := bytes.Index(b[from:], []byte("]]>"))
			if j < 0 {
				d.pos, d.phase = len(b), inCDATA
				return 0, nil
			}
			i = from + j + 3
			phase = inText
			continue
		}

		// b[:i] ends with a start tag.
		phase = inText
		empty := b[i-2] == '/'
		if d.depth == 0 {
			if err := d.root(b[:i], empty); err != nil || d.kind == Header {
				return i, err
			}
		}
		if !empty {
			d.depth++
		} else if d.depth == 0 {
			return i, nil
		}
	}
}

// skipContent passes over what stands between the tags of an element, as far as
// that is text and tags of a short name and nothing else, which most tags are.
// It returns the index of the '<' where that ends, or len(b), and its depth. If
// the depth is 0, the root has ended there.
//
// To look at the bytes of one word is several times as fast as the calls that
// find a '>' and count quotes.
func skipContent(b []byte, i, depth int) (int, int) {
	for {
		if i == len(b) || b[i] != '<' {
			i = indexByte(b, i, '<')
		}
		if len(b)-i < 2+8 {
			return i, depth
		}
		tag := b[i : i+2+8]
		w := binary.LittleEndian.Uint64(tag[2:])
		end := matches(w, '>')
		if end == 0 {
			return i, depth
		}
		n := 2 + bits.TrailingZeros64(end)/8 // the index of the '>'
		switch c := tag[1]; {
		case c == '/':
			i += n + 1
			if depth--; depth == 0 {
				return i, 0
			}
		case byteClass[c] == className && (matches(w, '\'')|matches(w, '"'))&(end-1) == 0:
			if i += n + 1; b[i-2] != '/' {
				depth++
			}
		default:
			return i, depth
		}
	}
}

// matches sets the high bit of the bytes of w that are c. Only the lowest bit is
// sure: the byte behind one that is c may be taken for another.
func matches(w uint64, c byte) uint64 {
	w ^= ones * uint64(c)
	return (w - ones) &^ w & highs
}

// saysXMLNS reports whether "xmlns" stands anywhere in tag. It is bytes.Contains
// for what is short and where an 'x' is rare.
func saysXMLNS(tag []byte) bool {
	const xmlns = "xmlns"
	for i := 0; ; i++ {
		j := bytes.IndexByte(tag[i:], 'x')
		if j < 0 {
			return false
		}
		i += j
		if len(tag)-i >= len(xmlns) && string(tag[i:i+len(xmlns)]) == xmlns {
			return true
		}
	}
}

var (
	quoteSingle = []byte{'\''}
	quoteDouble = []byte{'"'}
)

// root looks at the start tag of a root to see whether it is a header.
func (d *Down) root(tag []byte, empty bool) error {
	d.rootEnd = len(tag)
	if d.class, d.nameEnd = stanza(tag); d.class != Other {
		d.colon = -1
		return nil
	}
	colon, end := scanName(tag, 1)
	if end < 0 {
		return d.fail(NotWellFormed, 1, errName)
	}
	d.colon, d.nameEnd = colon, end
	if string(tag[max(colon, 0)+1:end]) != "stream" {
		return nil
	}
	// A header inherits nothing from the one before.
	prefix := tag[1:max(colon, 1)]
	space, ok := declared(tag, end, prefix)
	switch {
	case !ok && len(prefix) > 0:
		return d.fail(NotWellFormed, 1, errPrefix)
	case string(space) != NSStreams:
		return nil
	case empty:
		return d.fail(NotWellFormed, 0, errUnfinished)
	}
	d.kind = Header
	return nil
}

// stanza recognises a root whose name is that of a stanza, which nearly all are
// at the cost of two comparisons: in NSClient it is of class c.
func stanza(tag []byte) (c Class, nameEnd int) {
	switch {
	case len(tag) > 8 && string(tag[:8]) == "<message":
		c, nameEnd = MessageStanza, 8
	case len(tag) > 9 && string(tag[:9]) == "<presence":
		c, nameEnd = PresenceStanza, 9
	case len(tag) > 3 && string(tag[:3]) == "<iq":
		c, nameEnd = IQStanza, 3
	default:
		return Other, 0
	}
	if c := tag[nameEnd]; c != ' ' && c != '>' && c != '/' {
		return Other, 0
	}
	return c, nameEnd
}

// declared returns what the start tag binds the prefix to; an empty prefix
// asks for the default namespace. nameEnd is where the attributes start.
func declared(tag []byte, nameEnd int, prefix []byte) (space []byte, ok bool) {
	var a attribute
	for i := nameEnd; ; {
		next, more, err := nextAttribute(tag, i, &a)
		if err != nil || !more {
			return nil, false
		}
		if p, ok := a.declares(tag); ok && string(p) == string(prefix) {
			return unescaped(tag[a.value+1 : a.end-1]), true
		}
		i = next
	}
}

// unit describes the unit that is complete, b[:end].
func (d *Down) unit(u *Unit, b []byte, end int) error {
	u.Kind, u.Class, u.Raw = d.kind, Other, b[:end:end]
	if d.declared && d.kind != Header {
		return d.fail(NotWellFormed, 0, errDeclaration)
	}
	d.declared = false
	switch d.kind {
	case Header:
		return d.header(u)
	case End:
		return d.endTag(u.Raw)
	}
	return d.element(u, b)
}

// header collects the attributes of a header and learns what it declares.
func (d *Down) header(u *Unit) error {
	tag := u.Raw
	u.Attributes = Attributes{}
	if i := bytes.IndexByte(tag[1:], '<'); i >= 0 {
		return d.fail(NotWellFormed, i+1, errValue)
	}
	var a attribute
	standard, others := 0, 0 // declarations
	for i, n := d.nameEnd, 0; ; n++ {
		next, more, err := nextAttribute(tag, i, &a)
		if err != nil {
			return d.fail(NotWellFormed, next, err)
		}
		if more && n == DefaultMaxAttributes {
			return d.fail(PolicyViolation, a.name, errAttributes)
		}
		if !more {
			if next != len(tag)-1 {
				return d.fail(NotWellFormed, next, errTag)
			}
			break
		}
		i = next
		if err := checkReferences(tag[a.value+1:a.end-1], d.consumed+a.value+1); err != nil {
			return err
		}
		prefix, ok := a.declares(tag)
		if !ok {
			u.Attributes.set(tag[a.name:a.nameEnd], tag[a.value:a.end:a.end])
			continue
		}
		space := string(value(tag, &a)) // does not escape
		if len(prefix) == 0 && space == NSClient || string(prefix) == "stream" && space == NSStreams {
			standard++
		} else {
			others++
		}
	}
	if standard == len(standardScope) && others == 0 {
		d.scope = nil
		return nil
	}
	d.scope = learn(tag, d.nameEnd, standard+others)
	return nil
}

// learn returns the n declarations of a header in the order in which elements
// repeat them: default namespace, stream prefix, others.
func learn(tag []byte, nameEnd, n int) []binding {
	scope := make([]binding, 0, n)
	var a attribute
	for i := nameEnd; ; {
		next, more, err := nextAttribute(tag, i, &a)
		if err != nil || !more {
			break
		}
		i = next
		prefix, ok := a.declares(tag)
		if !ok || a.value+2 == a.end || string(prefix) == "xml" {
			continue // no declaration, or one that takes away, or needless
		}
		text := append([]byte{' '}, tag[a.name:a.nameEnd]...)
		text = append(text, '=')
		if raw := tag[a.value:a.end]; raw[0] == '"' || bytes.IndexByte(raw, '"') >= 0 {
			text = append(text, raw...)
		} else {
			text = append(text, '"')
			text = append(text, raw[1:len(raw)-1]...)
			text = append(text, '"')
		}
		scope = append(scope, binding{string(prefix), string(value(tag, &a)), string(text)})
	}
	rank := func(b binding) int {
		switch {
		case b.prefix == "":
			return 0
		case b.space == NSStreams:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(scope, func(a, b binding) int { return rank(a) - rank(b) })
	return scope
}

// bindings returns what elements inherit.
func (d *Down) bindings() []binding {
	if d.scope == nil {
		return standardScope
	}
	return d.scope
}

// endTag checks that raw is the end tag of a stream.
func (d *Down) endTag(raw []byte) error {
	colon, end := scanName(raw, 2)
	if end < 0 || skipSpace(raw, end) != len(raw)-1 || string(raw[max(colon, 1)+1:end]) != "stream" {
		return d.fail(NotWellFormed, 0, errMismatch)
	}
	for _, b := range d.bindings() {
		if b.space == NSStreams && b.prefix == string(raw[2:max(colon, 2)]) {
			return nil
		}
	}
	return d.fail(NotWellFormed, 0, errMismatch)
}

// element recognises the element that b starts with and finds out which
// inherited declarations its message needs.
func (d *Down) element(u *Unit, b []byte) error {
	u.nameEnd, u.rootEnd = d.nameEnd, d.rootEnd
	scope := d.bindings()
	u.scope, u.missing, u.added = scope, 0, 0

	var space []byte // as the root itself says
	var own uint64   // bit i: the root declares the prefix of binding i
	if saysXMLNS(u.Raw[:u.rootEnd]) {
		var err error
		if space, own, err = d.declarations(u); err != nil {
			return err
		}
		if space != nil {
			_, name := d.name(u)
			u.Class = classify(name, space)
		}
	}
	colon := d.nextColon(b)
	for i := range scope {
		g := &scope[i]
		if g.prefix != "" && colon >= len(u.Raw) {
			break // no prefix is used; those come last
		}
		if space == nil {
			d.inherit(u, g)
		}
		if own>>i&1 == 0 && (g.prefix == "" || uses(u.Raw, g.prefix, colon)) {
			u.missing |= 1 << i
			u.added += len(g.text)
		}
	}
	if u.Class == Features || u.Class == StreamError {
		return d.checkTree(u)
	}
	return nil
}

// inherit recognises u if its name has the prefix of g.
func (d *Down) inherit(u *Unit, g *binding) {
	if d.class != Other && g.prefix == "" && g.space == NSClient {
		u.Class = d.class
	} else if prefix, name := d.name(u); g.prefix == string(prefix) {
		u.Class = classify(name, g.space)
	}
}

// name returns the prefix, which may be empty, and the local name of u.
func (d *Down) name(u *Unit) (prefix, local []byte) {
	if d.colon < 0 {
		return nil, u.Raw[1:d.nameEnd]
	}
	return u.Raw[1:d.colon], u.Raw[d.colon+1 : d.nameEnd]
}

// declarations looks at what the root of u declares: the namespace of its own
// name, nil if it inherits that, and the bindings, as bits, whose prefix it binds
// anew.
func (d *Down) declarations(u *Unit) (space []byte, own uint64, err error) {
	prefix, _ := d.name(u)
	tag := u.Raw[:u.rootEnd]
	var a attribute
	for i := u.nameEnd; ; {
		next, more, err := nextAttribute(tag, i, &a)
		if err != nil {
			return nil, 0, d.fail(NotWellFormed, next, err)
		}
		if !more {
			return space, own, nil
		}
		i = next
		p, ok := a.declares(tag)
		if !ok {
			continue
		}
		if string(p) == string(prefix) {
			space = value(tag, &a)
		}
		for k := range u.scope {
			if u.scope[k].prefix == string(p) {
				own |= 1 << k
			}
		}
	}
}

// nextColon returns the index of the first colon in b, len(b) if there is none.
// It is remembered, for there may be none in all the stanzas of a read.
func (d *Down) nextColon(b []byte) int {
	if d.clear < len(b) {
		d.clear = indexByte(b, d.clear, ':')
	}
	return d.clear
}

// uses reports whether the bytes of prefix and a colon stand anywhere in b,
// whose first colon is b[i]. That may be text; a declaration too many does no
// harm. Colons are rare, so looking for them is faster than looking for the
// whole.
func uses(b []byte, prefix string, i int) bool {
	last := prefix[len(prefix)-1]
	for i < len(b) {
		if i > len(prefix) && b[i-1] == last && string(b[i-len(prefix):i]) == prefix {
			return true
		}
		i++
		j := bytes.IndexByte(b[i:], ':')
		if j < 0 {
			break
		}
		i += j
	}
	return false
}

// Size returns the number of bytes of the message for u.
func (u *Unit) Size() int { return len(u.Raw) + u.added }

// AppendHead appends to dst the first part of the message for u: the start of
// the element with the declarations it inherited (RFC 7395, section 3.3.3). The
// message goes on with tail, which aliases u.Raw. Appending to the name only
// spares copying the rest.
func (u *Unit) AppendHead(dst []byte) (head, tail []byte) {
	dst = append(dst, u.Raw[:u.nameEnd]...)
	for m := u.missing; m != 0; m &= m - 1 {
		dst = append(dst, u.scope[bits.TrailingZeros64(m)].text...)
	}
	return dst, u.Raw[u.nameEnd:]
}
