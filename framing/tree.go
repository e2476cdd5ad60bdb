package framing

import (
	"bytes"
	"iter"
)

// An element is an element of a complete unit, to look inside. Positions are
// indexes into raw, which holds the whole unit.
type element struct {
	raw        []byte
	start, end int
	nameEnd    int // the start tag starts at start
	content    int // and ends here
	contentEnd int // content again, if there is no end tag

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
		// The end tag is in, but nothing follows it.
		contentEnd: len(u.Raw),
		scope:      d.bindings(),
	}
}

// children yields the child elements of e in order.
func (e *element) children() iter.Seq[element] {
	return func(yield func(element) bool) {
		child := element{raw: e.raw, parent: e, scope: e.scope}
		depth := 0
		for i := e.content; ; {
			j := bytes.IndexByte(e.raw[i:e.contentEnd], '<')
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
	return string(name) == local && e.resolve(prefix) == space
}

// attribute returns the value of the attribute that has the name given and no
// prefix, nil if there is none.
func (e *element) attribute(name string) []byte {
	tag := e.raw[e.start:e.content]
	var a attribute
	for i := e.nameEnd - e.start; ; {
		next, more, err := nextAttribute(tag, i, &a)
		if err != nil || !more {
			return nil
		}
		if string(tag[a.name:a.nameEnd]) == name {
			return value(tag, &a)
		}
		i = next
	}
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

// text returns the text in e and in what it contains, without the white space
// around it; references and CDATA sections are what they stand for.
func (e *element) text() []byte {
	var text []byte
	for b := e.raw[e.content:e.contentEnd]; ; {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			text = appendUnescaped(text, b)
			break
		}
		text, b = appendUnescaped(text, b[:i]), b[i:]
		const start, end = "<![CDATA[", "]]>"
		if section, ok := bytes.CutPrefix(b, []byte(start)); ok {
			section, b, _ = bytes.Cut(section, []byte(end))
			text = append(text, section...)
			continue
		}
		j, _ := tagEnd(b, 0, 0)
		if j < 0 {
			break
		}
		b = b[j+1:]
	}
	return bytes.Trim(text, " \t\r\n")
}
