package framing

import (
	"bytes"
)

// This file holds what a message declares of namespaces (Namespaces in XML 1.0):
// declarePrefixes adds to the prefixes in scope, dropPrefixes takes away those of
// an element that ends, checkPrefixes and lookup ask for them.

// A prefixDecl is a namespace prefix and the element that declares it.
type prefixDecl struct {
	depth int // of that element
	hash  uint64
	name  []byte
	space namespace
	older int32 // as in latest: the one declared before it in the same bucket
}

const bucketBits = 8

// bucket returns the bucket of the prefixes with that hash.
func bucket(hash uint64) int { return int(hash * spread >> (64 - bucketBits)) }

// A namespace is the name of one. Names may be long and are asked for again and
// again, so the hash is taken once.
type namespace struct {
	uri  []byte // nil if there is none
	hash uint64
}

// newNamespace returns the namespace of that name.
func newNamespace(uri []byte) namespace { return namespace{uri, hashBytes(uri)} }

// reservedNS reports whether space is one that no declaration may name but, for
// the first, that of the prefix xml.
func reservedNS(space []byte) bool { return string(space) == nsXML || string(space) == nsXMLNS }

// bindable reports whether a declaration may bind the prefix, which is empty for
// the default namespace, to space (Namespaces in XML 1.0, section 3).
func bindable(prefix, space []byte) bool {
	if string(prefix) == "xml" {
		return string(space) == nsXML
	}
	return !reservedNS(space) && string(prefix) != "xmlns" && (len(prefix) == 0 || len(space) > 0)
}

// declarePrefixes checks the namespace declarations of the current tag and remembers
// the prefixes (Namespaces in XML 1.0, section 3).
func (p *MessageParser) declarePrefixes(tag []byte, depth, maxPrefixes int, references bool) error {
	for i := range p.attrs {
		a := &p.attrs[i]
		name, ok := a.declaredPrefix(tag)
		if !ok {
			continue
		}
		s := tag[a.value+1 : a.end-1]
		if len(name) > 0 || references {
			s = unescaped(s)
		}
		if len(name) == 0 {
			p.defaultNS = span{a.value + 1, a.end - 1}
		}
		if !bindable(name, s) {
			return &Error{CondNotWellFormed, a.name, errNamespace}
		}
		if len(name) == 0 {
			continue
		}
		if len(p.prefixes) == maxPrefixes {
			return &Error{CondPolicyViolation, a.name, errPrefixes}
		}
		hash := hashName(tag, a.colon+1, a.nameEnd)
		latest := &p.latest[bucket(hash)]
		p.prefixes = append(p.prefixes, prefixDecl{depth, hash, name, newNamespace(s), *latest})
		*latest = int32(len(p.prefixes))
	}
	return nil
}

// dropPrefixes forgets the prefixes declared at depth and deeper.
func (p *MessageParser) dropPrefixes(depth int) {
	n := len(p.prefixes)
	for n > 0 && p.prefixes[n-1].depth >= depth {
		n--
		d := &p.prefixes[n]
		p.latest[bucket(d.hash)] = d.older
		*d = prefixDecl{} // it aliases the message
	}
	p.prefixes = p.prefixes[:n]
}

// checkPrefixes checks that the prefixes used in the current tag are bound and
// that no two attributes have the same name, or get it by their prefixes.
//
// There may be 64 attributes of a few bytes each, so it compares numbers: a
// name's, mixed with that of its namespace.
func (p *MessageParser) checkPrefixes(tag []byte, name qname) error {
	if name.colon >= 0 && p.lookup(tag, name.start, name.colon).uri == nil {
		return &Error{CondNotWellFormed, name.start, errPrefix}
	}
	p.keys = p.keys[:0]
	for i := range p.attrs {
		a := &p.attrs[i]
		space := p.spaceOf(tag, a)
		if a.colon >= 0 && space.uri == nil {
			return &Error{CondNotWellFormed, a.name, errPrefix}
		}
		key := space.hash ^ hashName(tag, a.local(), a.nameEnd)
		for k, other := range p.keys {
			if other == key && p.sameName(tag, a, &p.attrs[k]) {
				return &Error{CondNotWellFormed, a.name, errDuplicate}
			}
		}
		p.keys = append(p.keys, key)
	}
	return nil
}

// spaceOf returns the namespace of an attribute of the current tag.
func (p *MessageParser) spaceOf(tag []byte, a *attribute) namespace {
	switch {
	case a.colon < 0:
		return namespace{}
	case string(tag[a.name:a.colon]) == "xmlns":
		return namespaceXMLNS
	}
	return p.lookup(tag, a.name, a.colon)
}

// sameName reports whether two attributes of the current tag have the same local
// name and namespace. It is for those that have the same key.
func (p *MessageParser) sameName(tag []byte, a, b *attribute) bool {
	return string(tag[a.local():a.nameEnd]) == string(tag[b.local():b.nameEnd]) &&
		bytes.Equal(p.spaceOf(tag, a).uri, p.spaceOf(tag, b).uri)
}

// lookup returns what the prefix tag[start:end] is bound to at the current
// place, nothing if it is not bound.
func (p *MessageParser) lookup(tag []byte, start, end int) namespace {
	hash := hashName(tag, start, end)
	for i := p.latest[bucket(hash)]; i > 0; {
		d := &p.prefixes[i-1]
		if d.hash == hash && string(d.name) == string(tag[start:end]) {
			return d.space
		}
		i = d.older
	}
	switch string(tag[start:end]) {
	case "xml":
		return namespaceXML
	case "stream": // the header binds it
		return namespaceStreams
	}
	return namespace{}
}
