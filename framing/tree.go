package framing

import (
	"bytes"
	"iter"
)

// This file looks inside units: the elements in features and stream errors, their
// names, namespaces, attributes and text. Stanzas do not come here.

// maxTree is the greatest size in bytes of the messages for stream features and
// stream errors.
const maxTree = 64 << 10

// An element is an element of a complete unit, to look inside. Positions are
// indexes into raw, which holds the whole unit.
type element struct {
	raw        []byte
	start, end int
	nameEnd    int // the start tag starts at start
	content    int // and ends here
	contentEnd int // content again, if there is no end tag

	parent *element
	child  *element        // what children yields
	scope  []inheritedDecl // what the outermost element inherits

	decls []elementDecl // see nsDecls
	read  bool          // decls is known
}

// An elementDecl is a namespace declaration of an element.
type elementDecl struct {
	hash   uint64 // of the prefix
	prefix []byte // empty for the default namespace
	space  []byte
}

// tree returns the root of u.
func (u *StreamUnit) tree() *element {
	return &element{
		raw:     u.Raw,
		end:     len(u.Raw),
		nameEnd: u.nameEnd,
		content: u.rootEnd,
		// The end tag is in, but nothing follows it.
		contentEnd: len(u.Raw),
		scope:      u.scope,
	}
}

// Limits in bytes of a unit that is looked into although checkTree has not seen it. Each
// child asks what its parent declares, so that the start tag has to be small for the work to
// be linear.
const (
	maxRead    = 16 << 10
	maxReadTag = 1 << 10
)

// readable reports whether u is a whole element within these limits.
func (u *StreamUnit) readable() bool {
	return u.Kind == KindElement && len(u.Raw) <= maxRead && u.rootEnd <= maxReadTag
}

// checkTree checks that u, whose elements the gateway is to look at, is no
// larger than such a unit may be, nor any of its tags.
func (d *StreamSplitter) checkTree(u *StreamUnit) error {
	if u.Size() > maxTree {
		return d.fail(CondPolicyViolation, min(len(u.Raw), maxTree), errTreeSize)
	}
	for i := 0; ; {
		start := indexByte(u.Raw, i, '<')
		if start == len(u.Raw) {
			return nil
		}
		switch u.Raw[start+1] {
		case '!': // CDATA: Next lets nothing else pass
			j := bytes.Index(u.Raw[start:], []byte("]]>"))
			if j < 0 {
				return d.fail(CondNotWellFormed, start, errTag)
			}
			i = start + j
			continue
		case '/':
			i = start + 1
			continue
		}
		if _, i = scanName(u.Raw, start+1); i < 0 {
			return d.fail(CondNotWellFormed, start+1, errName)
		}
		a := scanAttributes(u.Raw, i)
		for n := 0; a.next(); n++ {
			if n == DefaultMaxAttributes {
				return d.fail(CondPolicyViolation, a.name, errAttributes)
			}
		}
		if i = a.pos; a.err != nil {
			return d.fail(CondNotWellFormed, i, a.err)
		}
		if u.Raw[i] == '/' && u.Raw[i+1] != '>' {
			return d.fail(CondNotWellFormed, i, errTag)
		}
	}
}

// children yields the child elements of e in order. Each is valid until the next
// one: a server may send thousands of them, as often as it likes, so they share
// one piece of memory.
func (e *element) children() iter.Seq[*element] {
	return func(yield func(*element) bool) {
		if e.child == nil {
			e.child = &element{raw: e.raw, parent: e, scope: e.scope}
		}
		child := e.child
		depth := 0
		for i := e.content; ; {
			j := bytes.IndexByte(e.raw[i:e.contentEnd], '<')
			if j < 0 || i+j+1 == len(e.raw) {
				return
			}
			start := i + j
			mark := start + 1
			switch e.raw[start+1] {
			case '!': // CDATA: Next lets nothing else pass
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
					child.decls, child.read = child.decls[:0], false
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

// find returns the first child of that name, nil if there is none.
func (e *element) find(local, space string) *element {
	for child := range e.children() {
		if child.is(local, space) {
			return child
		}
	}
	return nil
}

// name returns the prefix, which may be empty, and the local name of e.
func (e *element) name() (prefix, local []byte) {
	name := e.raw[e.start+1 : e.nameEnd]
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return nil, name
}

// is reports whether e has the local name and the namespace given.
func (e *element) is(local, space string) bool {
	prefix, name := e.name()
	return string(name) == local && e.in(prefix, space)
}

// attribute returns the value of the attribute that has the name given and no
// prefix, nil if there is none.
func (e *element) attribute(name string) []byte {
	tag := e.raw[e.start:e.content]
	for a := scanAttributes(tag, e.nameEnd-e.start); a.next(); {
		if string(tag[a.name:a.nameEnd]) == name {
			return a.text(tag)
		}
	}
	return nil
}

// nsDecls returns the namespace declarations of e. The tag is read once: each of
// the children, of which there may be thousands, asks for them.
func (e *element) nsDecls() []elementDecl {
	if e.read {
		return e.decls
	}
	e.read = true
	tag := e.raw[e.start:e.content]
	for a := scanAttributes(tag, e.nameEnd-e.start); a.next(); {
		if prefix, ok := a.declaredPrefix(tag); ok {
			hash := hashName(prefix, 0, len(prefix))
			e.decls = append(e.decls, elementDecl{hash, prefix, a.text(tag)})
		}
	}
	return e.decls
}

// in reports whether a prefix, or none, means the namespace given for e.
func (e *element) in(prefix []byte, space string) bool {
	hash := hashName(prefix, 0, len(prefix))
	for p := e; p != nil; p = p.parent {
		for _, d := range p.nsDecls() {
			if d.hash == hash && string(d.prefix) == string(prefix) {
				return string(d.space) == space
			}
		}
	}
	for i := range e.scope {
		if b := &e.scope[i]; b.prefix == string(prefix) {
			return b.space == space
		}
	}
	return space == ""
}

// appendText appends to dst the text in e and in what it contains, without the
// white space around it; references and CDATA sections are what they stand for.
func (e *element) appendText(dst []byte) []byte {
	start := len(dst)
	for b := e.raw[e.content:e.contentEnd]; ; {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			dst = appendUnescaped(dst, b)
			break
		}
		dst, b = appendUnescaped(dst, b[:i]), b[i:]
		const open, end = "<![CDATA[", "]]>"
		if section, ok := bytes.CutPrefix(b, []byte(open)); ok {
			section, b, _ = bytes.Cut(section, []byte(end))
			dst = append(dst, section...)
			continue
		}
		j, _ := tagEnd(b, 0, 0)
		if j < 0 {
			break
		}
		b = b[j+1:]
	}
	return append(dst[:start], bytes.Trim(dst[start:], " \t\r\n")...)
}
