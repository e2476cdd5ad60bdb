package framing

import (
	"bytes"
	"math/bits"
)

// This file says what a unit is: identifyRoot as soon as its first tag is
// complete, the others when all of it is.

// A StreamUnit is a header, an end or an element of a stream, or a part of a large
// element: one KindElementStart, any number of KindElementPart, one
// KindElementEnd. The zero value is a KindNone. Raw and Header alias the input;
// the methods look at Raw, so they are to be called before those bytes change.
type StreamUnit struct {
	Kind   Kind
	Class  Class  // of an element, the same for all its parts
	Raw    []byte // as the server wrote it
	Header Header // of a KindHeader

	nameEnd      int             // where declarations go
	rootEnd      int             // the end of the root's start tag
	scope        []inheritedDecl // what it inherits
	missingDecls uint64          // bit i: declaration i of the scope, of at most DefaultMaxAttributes, has to be declared
	addedSize    int             // the bytes that this takes
}

// Size returns the length in bytes of the message for u, or of its part of the
// message. It is what AppendHead appends and the tail together.
func (u *StreamUnit) Size() int { return len(u.Raw) + u.addedSize }

// AppendHead appends to dst the start of the message for u, which must be an
// element or a part of one: the name of its root and the declarations that it
// inherits (RFC 7395, section 3.3.3). The message goes on with tail, which aliases
// u.Raw. So the caller can write most of an element without copying it.
func (u *StreamUnit) AppendHead(dst []byte) (head, tail []byte) {
	dst = append(dst, u.Raw[:u.nameEnd]...)
	for m := u.missingDecls; m != 0; m &= m - 1 {
		dst = append(dst, u.scope[bits.TrailingZeros64(m)].text...)
	}
	return dst, u.Raw[u.nameEnd:]
}

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

// rootName returns the prefix, which may be empty, and the local name of a root.
func (d *StreamSplitter) rootName(tag []byte) (prefix, local []byte) {
	if d.colon < 0 {
		return nil, tag[1:d.nameEnd]
	}
	return tag[1:d.colon], tag[d.colon+1 : d.nameEnd]
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

// nextColon returns the index of the first colon in b, len(b) if there is none.
// It is remembered, because all the stanzas of a read may have none.
func (d *StreamSplitter) nextColon(b []byte) int {
	if d.noColon < len(b) {
		d.noColon = indexByte(b, d.noColon, ':')
	}
	return d.noColon
}

// addDecl makes declaration i part of the message for u, unless the root says
// something else of its prefix.
func (u *StreamUnit) addDecl(i int, own uint64) {
	if own>>i&1 == 0 {
		u.missingDecls |= 1 << i
		u.addedSize += len(u.scope[i].text)
	}
}
