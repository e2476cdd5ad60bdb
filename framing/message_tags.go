package framing

import (
	"bytes"
	"unicode/utf8"
)

// This file checks start tags of messages: plainTag those that nearly all are,
// startTag all others.

// A qname is the name of an element. colon is -1 if it has no prefix.
type qname struct {
	span
	colon int
}

// quotes has the bits of the two quotes, modulo 64: each client has its own
// taste, so asking for one after the other would be guessing.
const quotes uint64 = 1<<('"'%64) | 1<<('\''%64)

// plainTag is startTag for a tag as nearly all are: one white space before each
// attribute, none around '=', at most one at the end; no quotes and no
// references in values; no prefix but xml, which is bound everywhere. It does
// not keep the attributes. If it says no, anything may be wrong with the tag, or
// nothing: it may just lie across the end of the marker's window.
func (p *MessageParser) plainTag(msg []byte, i int) (end int, ok bool) {
	start := uint(i) + 1
	j := asciiNameEnd(msg, start)
	if j < uint(len(msg)) && msg[j] >= utf8.RuneSelf {
		j = wideNameEnd(msg, start)
	}
	if j >= uint(len(msg)) || byteClass[msg[start]] != byteName {
		return 0, false
	}
	p.tagName = qname{span{int(start), int(j)}, -1}
	p.defaultNS = span{}
	next := uint(p.next)
	var seen uint64 // as in startTag
	for n := p.maxAttributes(); msg[j] != '>' && msg[j] != '/'; n-- {
		name := j + 1
		k := asciiNameEnd(msg, name)
		if k < uint(len(msg)) && msg[k] >= utf8.RuneSelf {
			k = wideNameEnd(msg, name)
		}
		if k+1 >= uint(len(msg)) || n == 0 || byteClass[msg[j]] != byteSpace || byteClass[msg[name]] != byteName {
			if byteClass[msg[j]] == byteSpace && name < uint(len(msg)) && (msg[name] == '/' || msg[name] == '>') {
				j = name
				break
			}
			return 0, false
		}
		if msg[k] == ':' && string(msg[name:k]) == "xml" && byteClass[msg[k+1]] == byteName {
			k = asciiNameEnd(msg, k+1)
		}
		value := k + 1
		if value >= uint(len(msg)) || msg[k] != '=' || quotes>>(msg[value]&63)&1 == 0 {
			return 0, false
		}
		// Two marks next to each other that are the same quote enclose a value
		// in which there is nothing to look at.
		if next+1 >= uint(len(p.marks)) || uint(p.start)+uint(p.marks[next]) != value {
			return 0, false
		}
		j = uint(p.start) + uint(p.marks[next+1])
		next += 2
		bit := nameBit(msg, name, k)
		if j+1 >= uint(len(msg)) || int(j) >= p.end || msg[j] != msg[value] || seen&bit != 0 {
			return 0, false
		}
		seen |= bit
		if msg[name] == 'x' && string(msg[name:k]) == "xmlns" {
			p.defaultNS = span{int(value) + 1, int(j)}
		}
		j++
	}
	if p.defaultNS.end > 0 && reservedNS(msg[p.defaultNS.start:p.defaultNS.end]) {
		return 0, false
	}
	p.next = int(next)
	return int(j), true
}

// startTag checks the start tag at msg[i:], all but its end, whose index it
// returns: that of '>' or '/'. it leaves what it found in p.tagName, p.attrs and
// p.defaultNS and adds the prefixes declared to p.prefixes. depth is that of the
// element.
func (p *MessageParser) startTag(msg []byte, i, depth int) (end int, err error) {
	p.defaultNS = span{}
	limit := p.maxAttributes()
	tag := msg[:indexByte(msg, i+1, '<')]
	references := false
	var name qname
	name.start = i + 1
	name.colon, name.end = scanName(tag, i+1)
	if name.end < 0 {
		return 0, &Error{CondNotWellFormed, i + 1, errName}
	}
	attrs := p.attrs[:0]
	prefixed := name.colon >= 0
	var seen uint64 // a set of attribute names, by a coarse hash
	again := false  // one of them may be there twice
	a := scanAttributes(tag, name.end)
	for a.next() {
		// Field by field, see attributeScanner.next.
		attrs = append(attrs, attribute{})
		b := &attrs[len(attrs)-1]
		b.name, b.colon, b.nameEnd, b.value, b.end = a.name, a.colon, a.nameEnd, a.value, a.end
		if len(attrs) > limit {
			return 0, &Error{CondPolicyViolation, a.name, errAttributes}
		}
		prefixed = prefixed || a.colon >= 0
		bit := nameBit(tag, uint(a.name), uint(a.nameEnd))
		again = again || seen&bit != 0
		seen |= bit
		if len(attrs) == 1 {
			references = bytes.IndexByte(tag[a.value:], '&') >= 0
		}
		if references {
			if err := checkReferences(tag[a.value+1:a.end-1], a.value+1); err != nil {
				return 0, err
			}
		}
	}
	if a.err != nil {
		return 0, &Error{CondNotWellFormed, a.pos, a.err}
	}
	p.tagName, p.attrs = name, attrs
	p.markUpTo(msg, a.pos)
	if p.seen&nonASCII != 0 {
		if err := checkNames(tag, name.span, attrs); err != nil {
			return 0, err
		}
	}
	if len(attrs) > 0 {
		if err := p.declarePrefixes(tag, depth, limit, references); err != nil {
			return 0, err
		}
	}
	if prefixed || again {
		if err := p.checkPrefixes(tag, name); err != nil {
			return 0, err
		}
	}
	return a.pos, nil
}

// nameBit returns the bit for the name b[i:end] in a set of names.
func nameBit(b []byte, i, end uint) uint64 {
	return 1 << ((end - i ^ uint(b[i])<<1 ^ uint(b[end-1])<<2) & 63)
}

// maxAttributes returns MaxAttributes or its default.
func (p *MessageParser) maxAttributes() int {
	if p.MaxAttributes <= 0 {
		return DefaultMaxAttributes
	}
	return p.MaxAttributes
}

// checkNames checks the names of a tag for characters beyond ASCII.
func checkNames(tag []byte, name span, attrs []attribute) error {
	if !checkRunes(tag[name.start:name.end]) {
		return &Error{CondNotWellFormed, name.start, errName}
	}
	for i := range attrs {
		if a := &attrs[i]; !checkRunes(tag[a.name:a.nameEnd]) {
			return &Error{CondNotWellFormed, a.name, errName}
		}
	}
	return nil
}
