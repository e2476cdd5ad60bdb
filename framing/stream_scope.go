package framing

import (
	"bytes"
	"slices"
)

// This file holds the namespaces that a header declares: which there are, and
// which of them an element mentions.

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

// containsXMLNS reports whether "xmlns" stands anywhere in tag. Most tags declare
// nothing and need not be scanned. bytes.Contains would do the same; for what is
// short and where an 'x' is rare this costs less, a few per cent of a stanza.
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
