package framing

import (
	"bytes"
	"unicode/utf8"
)

// This file holds the way of bytes through a StreamSplitter: Next and Part, and
// what is refused before a unit is complete. stream_end.go finds the end of a
// unit, stream_unit.go says what it is, stream_scope.go what it inherits.

// A StreamSplitter cuts the byte stream of a server into units. The zero value is
// ready for a new connection; use another one for the next. It must not be used
// by two goroutines at once.
//
// An element is one unit, unless the caller does not want to buffer all of it:
// see [StreamSplitter.Part].
//
// No byte is scanned twice when more bytes arrive: between calls a splitter
// remembers where it stopped, relative to the first byte not consumed. It
// allocates only for headers that declare other namespaces than usual.
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

// Limits in bytes of what is looked into as a whole, beside maxTree. An element of
// another class has none here.
const (
	maxXMLDecl = 256     // of an XML declaration from a server
	maxHeader  = 4 << 10 // of its header, the XML declaration included
)

// Next describes the next unit of the stream in u; what u held before is
// forgotten. b starts at the first byte not yet consumed. Next consumes n bytes of
// it: the unit, and the white space and XML declaration before it. If u is a
// KindNone, no unit is complete: call Next again with b[n:] and more bytes behind
// it. The bytes may have moved meanwhile.
//
// A header is accepted wherever an element is; whether the stream may start again
// there is for the caller to decide. An XML declaration is accepted before a
// header only. Comments, processing instructions, document types, text between
// elements and bytes that are not UTF-8 are errors (RFC 6120, sections 11.1 and
// 11.6). So are a header above 4 KiB and features or a stream error above 64 KiB;
// these match [ErrTooLarge].
//
// The error is an [*Error] whose offset counts from the first byte of the
// connection. After an error the splitter must not be used.
//
// Headers and the tags of features and stream errors are checked for
// well-formedness. In other elements only what cutting needs is checked: the
// server is trusted to have parsed what it relays.
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

// Part describes in u what there is of an element whose end has not come, for a
// caller that does not want to buffer more. u is a KindElementStart, or a
// KindElementPart if there were parts before. b is what Next has left when it
// found nothing complete. Part consumes n bytes of it: all but a few at the end,
// because no character is divided. If there is nothing to consume, u is a
// KindNone. After a part, Next goes on and ends the element with a
// KindElementEnd.
//
// The messages for all parts together are the message for the element. Because its
// rest may use any prefix, the first part declares everything that it inherits.
//
// Features, stream errors and the start tag of an element have no parts. Asking
// for one is an error that matches [ErrTooLarge].
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
