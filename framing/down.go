package framing

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf8"
)

// A StreamSplitter cuts the byte stream of a server into units and makes messages of
// them. The zero value is ready for a new connection.
//
// An element is one unit, unless the caller does not want to keep all of it
// until its end has come: see [StreamSplitter.Part].
//
// It never looks at a byte twice for want of more: between calls it remembers
// where it stopped, relative to the first byte not consumed. Memory is
// allocated only for headers that declare something unusual.
type StreamSplitter struct {
	// There is one StreamSplitter for each session, so small fields stand together.
	phase       splitPhase // what pos points into
	kind        Kind       // of the unit, once known; KindElementPart when parts of it were consumed
	class       Class      // of the root, once its start tag is complete
	quote       byte       // the one that encloses pos, in phase inQuotedTag
	xmlDeclSize uint16     // the length of the XML declaration that was just consumed

	consumed    int    // bytes of the stream before the current unit
	noColon     int    // bytes from there on that are known to hold no colon
	checkedUTF8 int    // bytes from there on that are known to be UTF-8
	scope       *scope // what elements inherit; nil means standardScope
	rootDecls   uint64 // bit i: the root itself declares the prefix of declaration i

	// The unit being cut; positions count from its first byte.
	pos     int   // the next byte to look at
	tag     int   // the '<' of the current tag
	depth   int   // of pos, 0 outside the root
	nameEnd int   // the end of the root's name
	colon   int32 // that name's colon, -1 if there is none
	rootEnd int32 // the end of the root's start tag

	singleQuotes, doubleQuotes uint32 // how many ' and " stand between the tag and pos, in phase inTag
}

// A splitPhase says what pos points into.
type splitPhase uint8

const (
	betweenUnits splitPhase = iota // white space between units
	inText                         // text inside an element
	atMarkup                       // a '<'
	inTag                          // a start tag, quotes are merely counted
	inQuotedTag                    // a start tag with both kinds of quotes
	inEndTag
	inCDATA
	inXMLDecl
)

// A StreamUnit is a complete first-level piece of a stream, or a part of one that is
// large: a KindElementStart, any number of KindElementPart and a KindElementEnd. Its
// slices alias the input. Its methods
// hold beyond a later header.
type StreamUnit struct {
	Kind   Kind
	Class  Class // of a KindElement, the same for all its parts
	Raw    []byte
	Header Header // of a KindHeader

	nameEnd      int             // where declarations go
	rootEnd      int             // the end of the root's start tag
	scope        []inheritedDecl // what it inherits
	missingDecls uint64          // bit i: declaration i of the scope, of at most DefaultMaxAttributes, has to be declared
	addedSize    int             // the bytes that this takes
}

// A scope is what an unusual header declares.
type scope struct {
	decls   []inheritedDecl
	index   map[string]int // into decls, by prefix; the default namespace is not in it
	longest int            // the length of the longest prefix
}

// An inheritedDecl is a namespace that a header declares and elements inherit.
type inheritedDecl struct {
	prefix string // empty for the default namespace
	space  string
	text   string // the declaration, with the space before it
}

// standardScope is what the headers of known servers declare.
var standardScope = []inheritedDecl{
	{"", NSClient, ` xmlns="` + NSClient + `"`},
	{"stream", NSStreams, ` xmlns:stream="` + NSStreams + `"`},
}

// Limits in bytes of what is looked into as a whole, beside maxTree. An element of
// another class has none here.
const (
	maxXMLDecl = 256     // of an XML declaration from a server
	maxHeader  = 4 << 10 // of its header, the XML declaration included
)

// Next puts the next unit of a stream into u; what u was before is forgotten. b
// starts at the first byte not yet consumed. n bytes of it are consumed by the
// call: the unit and the white space and XML declaration before it. If the unit
// is of KindNone, nothing is complete; call again with b[n:] and more bytes
// behind it. The bytes may have moved.
//
// A header may stand wherever an element may: whether the stream may start
// again there is for the caller to decide. An XML declaration may stand before
// a header only. Comments, processing instructions, document types and text
// between elements are errors, always an [*Error]; its offset counts from the
// first byte of the connection. So are bytes that are not UTF-8 (RFC 6455,
// section 5.6), and, wrapping [ErrTooLarge], a header above 4 KiB and features or
// a stream error above 64 KiB. After an error d must not be used.
//
// Other well-formedness is checked only as far as cutting needs it (the server is
// trusted to have parsed what it relays), with the exception of headers.
func (d *StreamSplitter) Next(b []byte, u *StreamUnit) (n int, err error) {
	u.Kind, u.Class, u.Raw = KindNone, ClassOther, nil
	for d.phase == betweenUnits || d.phase == inXMLDecl {
		if d.phase == betweenUnits {
			if k := skipSpace(b, 0); k > 0 {
				n += k
				d.consume(k)
				b = b[k:]
			}
			if len(b) == 0 {
				return n, nil
			}
			if b[0] != '<' {
				return n, d.fail(CondNotWellFormed, 0, errText)
			}
			if len(b) == 1 {
				return n, nil
			}
			d.pos, d.depth, d.kind = 0, 0, KindElement
			d.phase = atMarkup
			if b[1] == '?' {
				d.phase, d.pos = inXMLDecl, 2
			}
			continue
		}
		k, err := d.xmlDecl(b)
		if err != nil || k == 0 {
			return n, err
		}
		n += k
		d.consume(k)
		b = b[k:]
		d.phase = betweenUnits
	}
	seen := d.pos
	end, err := d.findEnd(b)
	if err == nil && end == 0 {
		err = d.incomplete(b, seen)
	}
	if err != nil || end == 0 {
		return n, err
	}
	if err := d.unit(u, b, end); err != nil {
		*u = StreamUnit{}
		return n, err
	}
	d.phase = betweenUnits
	d.consume(end)
	return n + end, nil
}

// Part is for a caller that does not want to wait for the end of an element: it
// puts into u what there is of the element, which is of KindElementStart, or
// KindElementPart if there were parts before. b is what Next has left after it has
// found nothing complete; n bytes of it are consumed, which are all but a few: a
// character is not divided. Without any, u is of KindNone. Next goes on behind
// them, and ends the element with a unit of KindElementEnd.
//
// The messages of all parts together are the message for the element. As its rest
// may use any prefix, it declares all that it inherits.
//
// Features and stream errors have no parts, nor has a start tag of a root. Asking
// for one is an error that wraps [ErrTooLarge].
func (d *StreamSplitter) Part(b []byte, u *StreamUnit) (n int, err error) {
	u.Kind, u.Class, u.Raw = KindNone, ClassOther, nil
	if len(b) == 0 || d.phase == betweenUnits || d.phase == inXMLDecl {
		return 0, nil
	}
	start := d.kind != KindElementPart
	if start {
		switch {
		case d.depth == 0:
			return 0, d.fail(CondPolicyViolation, 0, errTagSize)
		case d.class == ClassFeatures || d.class == ClassStreamError:
			return 0, d.fail(CondPolicyViolation, 0, errTreeSize)
		case d.xmlDeclSize > 0:
			return 0, d.fail(CondNotWellFormed, 0, errXMLDecl)
		}
	}
	end := d.pos
	switch d.phase {
	case inTag:
		// Quotes that are gone cannot be followed later.
		_, d.quote = tagEnd(b, d.tag+1, 0)
		d.phase = inQuotedTag
		end--
	case inQuotedTag:
		end-- // a '/' before the '>'
	case inCDATA:
		end -= 2 // "]]" before the '>'
	}
	if end, err = d.checkUTF8(b, end); err != nil {
		return 0, err
	}
	for end > 0 && end < len(b) && !utf8.RuneStart(b[end]) {
		end--
	}
	if end <= 0 {
		return 0, nil
	}
	u.Kind, u.Class, u.Raw = KindElementPart, d.class, b[:end:end]
	u.nameEnd, u.rootEnd, u.missingDecls, u.addedSize = 0, 0, 0, 0
	if start {
		d.kind, u.Kind = KindElementPart, KindElementStart
		u.nameEnd, u.rootEnd, u.scope = d.nameEnd, int(d.rootEnd), d.inheritedDecls()
		for i := range u.scope {
			u.addDecl(i, d.rootDecls)
		}
	}
	d.pos -= end
	d.tag -= end
	d.consume(end)
	return end, nil
}

// consume moves on by n bytes.
func (d *StreamSplitter) consume(n int) {
	d.consumed += n
	d.noColon = max(d.noColon-n, 0)
	d.checkedUTF8 = max(d.checkedUTF8-n, 0)
}

// incomplete refuses what is too large already. b is what there is of the unit;
// its first bytes, seen many, had been looked at before.
func (d *StreamSplitter) incomplete(b []byte, seen int) error {
	switch {
	case d.kind == KindElementPart:
	case d.depth > 0:
		if len(b) > maxTree && (d.class == ClassFeatures || d.class == ClassStreamError) {
			return d.fail(CondPolicyViolation, maxTree, errTreeSize)
		}
	case d.phase == inTag || d.phase == inQuotedTag:
		// Only the read that exceeds the limit has to look at the name.
		if limit := maxHeader - int(d.xmlDeclSize); seen <= limit && len(b) > limit {
			if colon, end := scanName(b[:limit], 1); end >= 0 && string(b[max(colon, 0)+1:end]) == "stream" {
				return d.fail(CondPolicyViolation, 0, errHeaderSize)
			}
		}
	}
	// What is not UTF-8 is an error of the whole unit, as it is in one read.
	d.checkedUTF8 += validUTF8(b[d.checkedUTF8:])
	return nil
}

// checkUTF8 checks that b[:end] is UTF-8. It returns end, or a little less when b ends
// within a character there.
func (d *StreamSplitter) checkUTF8(b []byte, end int) (int, error) {
	if d.checkedUTF8 >= end {
		return end, nil
	}
	// All of b is looked at: there may be more units in it, and to start a
	// pass costs more than a stanza.
	d.checkedUTF8 += validUTF8(b[d.checkedUTF8:])
	switch {
	case d.checkedUTF8 >= end:
		return end, nil
	case utf8.FullRune(b[d.checkedUTF8:]):
		return 0, d.fail(CondNotWellFormed, d.checkedUTF8, errUTF8)
	}
	return d.checkedUTF8, nil
}

func (d *StreamSplitter) fail(c Condition, offset int, err error) error {
	return &Error{c, d.consumed + offset, err}
}

// xmlDecl consumes the XML declaration at the start of b. It returns 0 if
// that is not complete. Declarations are short, so the bytes are looked at
// again when more arrive.
func (d *StreamSplitter) xmlDecl(b []byte) (int, error) {
	const start = "<?xml"
	k := min(len(b), len(start))
	if string(b[:k]) != start[:k] || len(b) > k && !isSpace(b[k]) {
		return 0, d.fail(CondRestrictedXML, 0, errMarkup)
	}
	b = b[:min(len(b), maxXMLDecl)]
	if !bytes.Contains(b, []byte("?>")) {
		if len(b) == maxXMLDecl {
			return 0, d.fail(CondNotWellFormed, 0, errXMLDecl)
		}
		return 0, nil
	}
	if d.xmlDeclSize > 0 {
		return 0, d.fail(CondNotWellFormed, 0, errXMLDecl)
	}
	n, err := checkXMLDecl(b, d.consumed)
	d.xmlDeclSize = uint16(n)
	return n, err
}

// findEnd looks for the end of the unit that starts at b[0] and returns its
// length, 0 if it is not complete.
//
// A '>' ends a start tag unless it stands in an attribute value. As long as a
// tag has quotes of one kind only, an even number of them before the '>' means
// that it does not; counting is much faster than following them. Quotes of
// both kinds make counting worthless: ' may stand between two ". Such tags,
// which are rare, are followed quote by quote.
func (d *StreamSplitter) findEnd(b []byte) (int, error) {
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
				return 0, d.fail(CondRestrictedXML, i, errMarkup)
			case '!':
				const cdata = "<![CDATA["
				k := min(len(b)-i, len(cdata))
				if d.depth == 0 || string(b[i:i+k]) != cdata[:k] {
					return 0, d.fail(CondRestrictedXML, i, errMarkup)
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
			d.singleQuotes, d.doubleQuotes = 0, 0
			fallthrough

		case inTag:
			j := bytes.IndexByte(b[i:], '>')
			part := b[i:]
			if j >= 0 {
				part = part[:j]
			}
			d.singleQuotes += uint32(bytes.Count(part, quoteSingle))
			d.doubleQuotes += uint32(bytes.Count(part, quoteDouble))
			if j < 0 {
				d.pos, d.phase = len(b), inTag
				return 0, nil
			}
			if d.singleQuotes > 0 && d.doubleQuotes > 0 {
				phase, d.quote = inQuotedTag, 0
				i = d.tag + 1
				continue
			}
			i += j + 1
			if (d.singleQuotes+d.doubleQuotes)&1 != 0 {
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
				d.kind = KindEnd
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
			if err := d.identifyRoot(b[:i], empty); err != nil || d.kind == KindHeader {
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
		end := matchBytes(w, '>')
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
		case byteClass[c] == byteName && (matchBytes(w, '\'')|matchBytes(w, '"'))&(end-1) == 0:
			if i += n + 1; b[i-2] != '/' {
				depth++
			}
		default:
			return i, depth
		}
	}
}

// matchBytes sets the high bit of the bytes of w that are c. Only the lowest bit is
// sure: the byte behind one that is c may be taken for another.
func matchBytes(w uint64, c byte) uint64 {
	w ^= ones * uint64(c)
	return (w - ones) &^ w & highs
}

// containsXMLNS reports whether "xmlns" stands anywhere in tag. It is bytes.Contains
// for what is short and where an 'x' is rare.
func containsXMLNS(tag []byte) bool {
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

// identifyRoot looks at the start tag of a root: whether it is a header, what class its
// element is of, and which prefixes it declares itself.
func (d *StreamSplitter) identifyRoot(tag []byte, empty bool) error {
	d.rootEnd, d.rootDecls = int32(len(tag)), 0
	if d.class, d.nameEnd = stanzaName(tag); d.class != ClassOther {
		d.colon = -1
		if d.scope == nil && !containsXMLNS(tag) {
			return nil
		}
		return d.identify(tag)
	}
	colon, end := scanName(tag, 1)
	if end < 0 {
		return d.fail(CondNotWellFormed, 1, errName)
	}
	d.colon, d.nameEnd = int32(colon), end
	if string(tag[max(colon, 0)+1:end]) != "stream" {
		return d.identify(tag)
	}
	if len(tag)+int(d.xmlDeclSize) > maxHeader {
		return d.fail(CondPolicyViolation, 0, errHeaderSize)
	}
	// A header inherits nothing from the one before.
	prefix := tag[1:max(colon, 1)]
	space, ok := lookupNS(tag, end, prefix)
	switch {
	case !ok && len(prefix) > 0:
		return d.fail(CondNotWellFormed, 1, errPrefix)
	case string(space) != NSStreams:
		return d.identify(tag)
	case empty:
		return d.fail(CondNotWellFormed, 0, errUnfinished)
	}
	d.kind = KindHeader
	return nil
}

// identify finds the class of an element and which prefixes its root declares.
func (d *StreamSplitter) identify(tag []byte) error {
	prefix, local := d.rootName(tag)
	var space []byte // of the name, as the root itself says
	if containsXMLNS(tag) {
		a := scanAttributes(tag, d.nameEnd)
		for a.next() {
			p, ok := a.declaredPrefix(tag)
			if !ok {
				continue
			}
			if string(p) == string(prefix) {
				space = a.text(tag)
			}
			d.rootDecls |= d.declBit(p)
		}
		if a.err != nil {
			return d.fail(CondNotWellFormed, a.pos, a.err)
		}
	}
	if space != nil {
		d.class = classify(local, space)
	} else {
		d.class = classify(local, d.inheritedNS(prefix))
	}
	return nil
}

// inheritedNS returns the namespace that the header has bound to a prefix.
func (d *StreamSplitter) inheritedNS(prefix []byte) string {
	scope := d.inheritedDecls()
	for i := range scope {
		if scope[i].prefix == string(prefix) {
			return scope[i].space
		}
	}
	return ""
}

// stanzaName recognises a root whose name is that of a stanza, which nearly all are
// at the cost of two comparisons: in NSClient it is of class c.
func stanzaName(tag []byte) (c Class, nameEnd int) {
	switch {
	case len(tag) > 8 && string(tag[:8]) == "<message":
		c, nameEnd = ClassMessage, 8
	case len(tag) > 9 && string(tag[:9]) == "<presence":
		c, nameEnd = ClassPresence, 9
	case len(tag) > 3 && string(tag[:3]) == "<iq":
		c, nameEnd = ClassIQ, 3
	default:
		return ClassOther, 0
	}
	if c := tag[nameEnd]; c != ' ' && c != '>' && c != '/' {
		return ClassOther, 0
	}
	return c, nameEnd
}

// lookupNS returns what the start tag binds the prefix to; an empty prefix
// asks for the default namespace. nameEnd is where the attributes start.
func lookupNS(tag []byte, nameEnd int, prefix []byte) (space []byte, ok bool) {
	for a := scanAttributes(tag, nameEnd); a.next(); {
		if p, ok := a.declaredPrefix(tag); ok && string(p) == string(prefix) {
			return a.text(tag), true
		}
	}
	return nil, false
}

// unit describes the unit that is complete, b[:end].
func (d *StreamSplitter) unit(u *StreamUnit, b []byte, end int) error {
	u.Kind, u.Class, u.Raw = d.kind, ClassOther, b[:end:end]
	if d.xmlDeclSize > 0 && d.kind != KindHeader {
		return d.fail(CondNotWellFormed, 0, errXMLDecl)
	}
	d.xmlDeclSize = 0
	if _, err := d.checkUTF8(b, end); err != nil {
		return err
	}
	switch d.kind {
	case KindHeader:
		return d.header(u)
	case KindEnd:
		return d.endTag(u.Raw)
	}
	return d.element(u, b)
}

// header collects the attributes of a header and learns what it declares.
func (d *StreamSplitter) header(u *StreamUnit) error {
	tag := u.Raw
	u.Header = Header{}
	if i := bytes.IndexByte(tag[1:], '<'); i >= 0 {
		return d.fail(CondNotWellFormed, i+1, errValue)
	}
	// What is wrong with a header would be wrong with <open/>, or with each
	// element that repeats its declarations.
	if i, _ := checkCharacters(tag); i >= 0 {
		return d.fail(CondNotWellFormed, i, errControl)
	}
	if i := indexNonCharacter(tag); i >= 0 {
		return d.fail(CondNotWellFormed, i, errNonCharacter)
	}
	var names [DefaultMaxAttributes][]byte
	standard, others := 0, 0 // declarations
	a := scanAttributes(tag, d.nameEnd)
	for n := 0; a.next(); n++ {
		if n == DefaultMaxAttributes {
			return d.fail(CondPolicyViolation, a.name, errAttributes)
		}
		names[n] = tag[a.name:a.nameEnd]
		for _, name := range names[:n] {
			if bytes.Equal(name, names[n]) {
				return d.fail(CondNotWellFormed, a.name, errDuplicate)
			}
		}
		if err := checkReferences(tag[a.value+1:a.end-1], d.consumed+a.value+1); err != nil {
			return err
		}
		prefix, ok := a.declaredPrefix(tag)
		if !ok {
			u.Header.set(tag[a.name:a.nameEnd], tag[a.value:a.end:a.end])
			continue
		}
		space := a.text(tag)
		if !bindable(prefix, space) {
			return d.fail(CondNotWellFormed, a.name, errNamespace)
		}
		if len(prefix) == 0 && string(space) == NSClient || string(prefix) == "stream" && string(space) == NSStreams {
			standard++
		} else {
			others++
		}
	}
	switch {
	case a.err != nil:
		return d.fail(CondNotWellFormed, a.pos, a.err)
	case a.pos != len(tag)-1:
		return d.fail(CondNotWellFormed, a.pos, errTag)
	}
	if standard == len(standardScope) && others == 0 {
		d.scope = nil
		return nil
	}
	d.scope = newScope(parseScope(tag, d.nameEnd, standard+others))
	return nil
}

func newScope(bindings []inheritedDecl) *scope {
	s := &scope{decls: bindings, index: make(map[string]int, len(bindings))}
	for i := range bindings {
		if prefix := bindings[i].prefix; prefix != "" {
			s.index[prefix] = i
			s.longest = max(s.longest, len(prefix))
		}
	}
	return s
}

// mentionedDecls returns the declarations, as bits, whose prefix stands before a colon in
// b. It looks at each byte twice at most, however many there are of either.
func (s *scope) mentionedDecls(b []byte) (m uint64) {
	for i := 0; ; i++ {
		j := bytes.IndexByte(b[i:], ':')
		if j < 0 {
			return m
		}
		i += j
		start := i
		for start > 0 && i-start <= s.longest && byteClass[b[start-1]]&byteName != 0 {
			start--
		}
		if k, ok := s.index[string(b[start:i])]; ok {
			m |= 1 << k
		}
	}
}

// parseScope returns the n declarations of a header in the order in which elements
// repeat them: default namespace, stream prefix, others.
func parseScope(tag []byte, nameEnd, n int) []inheritedDecl {
	scope := make([]inheritedDecl, 0, n)
	for a := scanAttributes(tag, nameEnd); a.next(); {
		prefix, ok := a.declaredPrefix(tag)
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
		scope = append(scope, inheritedDecl{string(prefix), string(a.text(tag)), string(text)})
	}
	rank := func(b inheritedDecl) int {
		switch {
		case b.prefix == "":
			return 0
		case b.space == NSStreams:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(scope, func(a, b inheritedDecl) int { return rank(a) - rank(b) })
	return scope
}

// inheritedDecls returns what elements inherit.
func (d *StreamSplitter) inheritedDecls() []inheritedDecl {
	if d.scope == nil {
		return standardScope
	}
	return d.scope.decls
}

// declBit returns the bit of the declaration of a prefix, zero if there is none.
func (d *StreamSplitter) declBit(prefix []byte) uint64 {
	if d.scope != nil && len(prefix) > 0 {
		if i, ok := d.scope.index[string(prefix)]; ok {
			return 1 << i
		}
		return 0
	}
	// The default namespace and the prefix stream are among the first.
	scope := d.inheritedDecls()
	for i := range min(len(scope), len(standardScope)) {
		if scope[i].prefix == string(prefix) {
			return 1 << i
		}
	}
	return 0
}

// endTag checks that raw is the end tag of a stream.
func (d *StreamSplitter) endTag(raw []byte) error {
	colon, end := scanName(raw, 2)
	if end < 0 || skipSpace(raw, end) != len(raw)-1 || string(raw[max(colon, 1)+1:end]) != "stream" {
		return d.fail(CondNotWellFormed, 0, errMismatch)
	}
	for _, b := range d.inheritedDecls() {
		if b.space == NSStreams && b.prefix == string(raw[2:max(colon, 2)]) {
			return nil
		}
	}
	return d.fail(CondNotWellFormed, 0, errMismatch)
}

// element finds out which inherited declarations the message for the element
// needs that b starts with.
func (d *StreamSplitter) element(u *StreamUnit, b []byte) error {
	u.Class, u.nameEnd, u.rootEnd = d.class, d.nameEnd, int(d.rootEnd)
	u.scope, u.missingDecls, u.addedSize = d.inheritedDecls(), 0, 0
	if d.kind == KindElementPart {
		u.Kind, u.nameEnd, u.rootEnd = KindElementEnd, 0, 0
		return nil
	}
	used := uint64(0) // bit i: the prefix of declaration i
	if colon := d.nextColon(b); colon >= len(u.Raw) {
		// No prefix is used.
	} else if d.scope != nil {
		used = d.scope.mentionedDecls(u.Raw)
	} else if mentionsPrefix(u.Raw, standardScope[1].prefix, colon) {
		used = 1 << 1
	}
	for i := range u.scope {
		if used>>i&1 != 0 || u.scope[i].prefix == "" {
			u.addDecl(i, d.rootDecls)
		}
	}
	if u.Class == ClassFeatures || u.Class == ClassStreamError {
		return d.checkTree(u)
	}
	return nil
}

// addDecl makes declaration i part of the message for u, unless the root says
// something else of its prefix.
func (u *StreamUnit) addDecl(i int, own uint64) {
	if own>>i&1 == 0 {
		u.missingDecls |= 1 << i
		u.addedSize += len(u.scope[i].text)
	}
}

// rootName returns the prefix, which may be empty, and the local name of a root.
func (d *StreamSplitter) rootName(tag []byte) (prefix, local []byte) {
	if d.colon < 0 {
		return nil, tag[1:d.nameEnd]
	}
	return tag[1:d.colon], tag[d.colon+1 : d.nameEnd]
}

// nextColon returns the index of the first colon in b, len(b) if there is none.
// It is remembered, for there may be none in all the stanzas of a read.
func (d *StreamSplitter) nextColon(b []byte) int {
	if d.noColon < len(b) {
		d.noColon = indexByte(b, d.noColon, ':')
	}
	return d.noColon
}

// mentionsPrefix reports whether the bytes of prefix and a colon stand anywhere in b,
// whose first colon is b[i]. That may be text; a declaration too many does no
// harm. Colons are rare, so looking for them is faster than looking for the
// whole.
func mentionsPrefix(b []byte, prefix string, i int) bool {
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

// Size returns the number of bytes of the message for u, or of its part.
func (u *StreamUnit) Size() int { return len(u.Raw) + u.addedSize }

// AppendHead appends to dst the first part of the message for u: the start of
// the element with the declarations it inherited (RFC 7395, section 3.3.3). The
// message goes on with tail, which aliases u.Raw. Appending to the name only
// spares copying the rest.
func (u *StreamUnit) AppendHead(dst []byte) (head, tail []byte) {
	dst = append(dst, u.Raw[:u.nameEnd]...)
	for m := u.missingDecls; m != 0; m &= m - 1 {
		dst = append(dst, u.scope[bits.TrailingZeros64(m)].text...)
	}
	return dst, u.Raw[u.nameEnd:]
}
