package framing

import (
	"bytes"
	"encoding/binary"
)

// This file holds the walk over a message: one document, one element.
//
//	Parse          the declaration in front, the characters
//	parseElement   from tag to tag
//	identifyRoot   what the root is
//
// message_tags.go checks a start tag, message_namespaces.go its prefixes.

// The limits of a [MessageParser] whose fields are zero.
const (
	DefaultMaxDepth      = 256 // elements
	DefaultMaxAttributes = 64
)

// A MessageParser checks messages from clients. The zero value is ready to use.
// It keeps scratch memory between calls and nothing else, so one parser can serve
// many sessions in turn. It must not be used by two goroutines at once.
type MessageParser struct {
	// MaxDepth is the deepest nesting of elements; the root counts as 1. Zero
	// means DefaultMaxDepth.
	MaxDepth int

	// MaxAttributes is the greatest number of attributes of one tag, and of
	// namespace prefixes declared at one place. It bounds the work per byte,
	// because the attributes of a tag are compared with each other. Zero means
	// DefaultMaxAttributes.
	MaxAttributes int

	marker
	tagName   qname        // of the current tag
	defaultNS span         // the namespace that the current tag declares as default
	attrs     []attribute  // of the current tag, if it is not a plain one
	keys      []uint64     // of the names of attrs, see checkPrefixes
	open      []span       // names of the unfinished elements
	prefixes  []prefixDecl // declared at the current place

	// latest has, for each bucket of prefixes, the one declared last: its index
	// in prefixes plus 1, or 0.
	latest [1 << bucketBits]int32
}

// A span is the part of a message from start to end.
type span struct{ start, end int }

// A Message describes a message that [MessageParser.Parse] has accepted. Its
// slices alias the message. The zero value describes none.
type Message struct {
	Kind  Kind  // KindHeader, KindEnd or KindElement; KindNone after an error
	Class Class // of a KindElement

	// Local is the local name of the root.
	Local []byte

	// Raw is what to write to the stream for a KindElement: the message without
	// XML declaration and trailing white space.
	Raw []byte

	// Header has the attributes of a KindHeader.
	Header Header

	// Mechanism is what a ClassSASLAuth or ClassSASL2Authenticate chooses, however
	// that is written.
	Mechanism Mechanism
}

// Parse checks that msg is exactly one well-formed element of restricted XML
// (RFC 6120, section 11; RFC 7395, section 3.3.3) and describes it in m. What m
// held before is forgotten; after an error m is zero.
//
// A namespace that the element uses and does not declare is one that a TCP
// stream provides: jabber:client, or NSStreams for the prefix "stream". An XML
// declaration in front and white space behind are allowed.
//
// The message </stream:stream> is a KindEnd, because some clients end their
// stream with it. A whole element {NSStreams}stream is an error;
// [IsLegacyHeader] recognises the start of one.
//
// The error is an [*Error]. It matches [ErrNotText] if msg is not text. Nothing
// of a message with an error may be forwarded.
func (p *MessageParser) Parse(msg []byte, m *Message) error {
	if m.Kind == KindHeader {
		m.Header = Header{}
	}
	m.Kind, m.Class, m.Local, m.Raw, m.Mechanism = KindNone, ClassOther, nil, nil, MechanismNone
	if len(msg) == 0 {
		return notText(0, "empty")
	}
	if msg[0] != '<' {
		return notText(0, "does not start with '<'")
	}
	p.seen = 0
	err := p.parseDocument(m, msg)
	p.dropPrefixes(0) // they alias the message
	// Report character errors before structural ones.
	if err != nil || p.seen != 0 {
		if e := checkText(msg, err != nil || p.seen&hasControl != 0); e != nil {
			err = e
		}
	}
	if err != nil {
		*m = Message{}
	}
	return err
}

// parseDocument checks msg and fills m. It leaves to its caller to check the
// characters if p.seen is not zero.
func (p *MessageParser) parseDocument(m *Message, msg []byte) error {
	start := 0
	if startsXMLDecl(msg) {
		n, err := checkXMLDecl(msg, 0)
		if err != nil {
			return err
		}
		start = skipSpace(msg, n)
	}
	end := len(msg)
	for end > start && isSpace(msg[end-1]) {
		end--
	}
	if start == end {
		return &Error{CondNotWellFormed, end, errUnfinished}
	}
	if msg[start] != '<' {
		return &Error{CondNotWellFormed, start, errText}
	}
	if isEndTag(msg[start:end]) {
		m.Raw = msg[start:end:end]
		m.Kind, m.Local = KindEnd, m.Raw[9:15:15]
		return nil
	}
	return p.parseElement(m, msg[:end:end], start)
}

// checkText checks that msg is UTF-8 and has no characters that XML forbids.
// It passes over controls if none are to be expected.
func checkText(msg []byte, controls bool) error {
	control, ascii := -1, false
	if controls {
		control, ascii = checkCharacters(msg)
	}
	if !ascii {
		if i := validUTF8(msg); i < len(msg) {
			return notText(i, "invalid UTF-8")
		}
	}
	if control >= 0 {
		return &Error{CondNotWellFormed, control, errControl}
	}
	if !ascii {
		if i := indexNonCharacter(msg); i >= 0 {
			return &Error{CondNotWellFormed, i, errNonCharacter}
		}
	}
	return nil
}

// isEndTag reports whether b is the end tag of a stream.
func isEndTag(b []byte) bool {
	const name = "</stream:stream"
	return len(b) > len(name) && string(b[:len(name)]) == name &&
		skipSpace(b, len(name)) == len(b)-1 && b[len(b)-1] == '>'
}

// IsLegacyHeader reports whether msg opens a stream as the drafts before RFC 7395
// did: an optional XML declaration, then <stream:stream. [MessageParser.Parse]
// returns an error for such a message.
func IsLegacyHeader(msg []byte) bool {
	if startsXMLDecl(msg) {
		end := bytes.Index(msg, []byte("?>"))
		if end < 0 {
			return false
		}
		msg = msg[skipSpace(msg, end+2):]
	}
	rest, ok := bytes.CutPrefix(msg, []byte("<stream:stream"))
	return ok && len(rest) > 0 && (isSpace(rest[0]) || rest[0] == '>' || rest[0] == '/')
}

// parseElement checks the one element that is msg[start:] and fills m.
//
// It goes from '<' to '<': none may stand in a value, so that a tag and the
// text behind it lie in between. The marker knows where they are.
func (p *MessageParser) parseElement(m *Message, msg []byte, start int) error {
	maxDepth := p.MaxDepth
	if maxDepth <= 0 {
		maxDepth = DefaultMaxDepth
	}
	p.begin(msg)
	p.nextMark(msg, start) // passes the first
	p.open = p.open[:0]
	content := 0 // where the content of the root starts
	last := 0    // where the last end tag starts
	odd := false // the last tag was tried as a plain one and is none

	for i := start; ; {
		if i+1 == len(msg) {
			return &Error{CondNotWellFormed, len(msg), errUnfinished}
		}
		var text int // where the text behind the tag starts
		switch msg[i+1] {
		case '/':
			if len(p.open) == 0 {
				return &Error{CondNotWellFormed, i, errMismatch}
			}
			name := p.open[len(p.open)-1]
			j := i + 2 + name.end - name.start
			if j >= len(msg) || !nameEqual(msg, i+2, name) {
				return &Error{CondNotWellFormed, i, errMismatch}
			}
			if msg[j] != '>' {
				if j = skipSpace(msg, j); j == len(msg) || msg[j] != '>' {
					return &Error{CondNotWellFormed, i, errMismatch}
				}
			}
			if len(p.prefixes) > 0 {
				p.dropPrefixes(len(p.open))
			}
			p.open = p.open[:len(p.open)-1]
			last = i
			text = j + 1

		case '!', '?':
			const cdata = "<![CDATA["
			if len(msg)-i < len(cdata) || string(msg[i:i+len(cdata)]) != cdata {
				return &Error{CondRestrictedXML, i, errMarkup}
			}
			if len(p.open) == 0 {
				return &Error{CondNotWellFormed, i, errText}
			}
			j := i + len(cdata)
			n := bytes.Index(msg[j:], []byte("]]>"))
			if n < 0 {
				return &Error{CondNotWellFormed, len(msg), errUnfinished}
			}
			text = j + n + 3

		default:
			if len(p.open) == maxDepth {
				return &Error{CondPolicyViolation, i, errDepth}
			}
			// A tag that is not plain comes seldom alone, and to try costs time.
			j, ok := 0, false
			if !odd {
				j, ok = p.plainTag(msg, i)
			}
			if odd = !odd && !ok; !ok {
				var err error
				if j, err = p.startTag(msg, i, len(p.open)+1); err != nil {
					return err
				}
			}
			if i == start {
				if err := p.identifyRoot(m, msg, ok); err != nil {
					return err
				}
			}
			if msg[j] == '/' {
				if j++; j == len(msg) || msg[j] != '>' {
					return &Error{CondNotWellFormed, j, errTag}
				}
				if len(p.prefixes) > 0 {
					p.dropPrefixes(len(p.open) + 1)
				}
				last = j + 1
			} else {
				p.open = append(p.open, p.tagName.span)
			}
			text = j + 1
			if i == start {
				content = text
			}
		}

		if len(p.open) == 0 {
			if text == len(msg) {
				break
			}
			if msg[text] == '<' {
				return &Error{CondNotWellFormed, text, errTrailing}
			}
			return &Error{CondNotWellFormed, text, errText}
		}
		// The next mark is nearly always the next tag.
		if i = p.start + int(p.marks[p.next]); i < p.end && i >= text && msg[i] == '<' {
			p.next++
			continue
		}
		i = p.nextMark(msg, text)
		for i < len(msg) && msg[i] != '<' { // '&' or ']'
			n := 1
			if msg[i] == '&' {
				var err error
				if _, n, err = reference(msg[i:]); err != nil {
					return referenceError(i, err)
				}
			} else if i+2 < len(msg) && msg[i+1] == ']' && msg[i+2] == '>' {
				return &Error{CondNotWellFormed, i, errSectionEnd}
			}
			i = p.nextMark(msg, i+n)
		}
		if i == len(msg) {
			return &Error{CondNotWellFormed, i, errUnfinished}
		}
	}
	p.markUpTo(msg, len(msg))

	if m.Kind == KindHeader && content != last {
		return &Error{CondBadFormat, content, errContent}
	}
	m.Raw = msg[start:len(msg):len(msg)]
	return nil
}

// nameEqual reports whether the name at msg[i:] is that at s. There must be as many
// bytes. Names are too short to be worth a call.
func nameEqual(msg []byte, i int, s span) bool {
	n := s.end - s.start
	if n <= 8 && i+8 <= len(msg) {
		x := binary.LittleEndian.Uint64(msg[i:]) ^ binary.LittleEndian.Uint64(msg[s.start:])
		return x<<(64-8*n) == 0
	}
	return string(msg[i:i+n]) == string(msg[s.start:s.end])
}

// identifyRoot recognises the root from the tag just scanned, by plainTag or startTag.
func (p *MessageParser) identifyRoot(m *Message, msg []byte, plain bool) error {
	name := p.tagName
	space := namespaceClient.uri
	m.Local = msg[name.start:name.end:name.end]
	if name.colon >= 0 {
		m.Local = msg[name.colon+1 : name.end : name.end]
		space = p.lookup(msg, name.start, name.colon).uri
	} else if p.defaultNS.end > 0 {
		space = msg[p.defaultNS.start:p.defaultNS.end]
		if !plain || p.seen&hasControl != 0 {
			space = unescaped(space)
		}
	}
	m.Kind = KindElement
	switch string(space) {
	case NSFraming:
		switch string(m.Local) {
		case "open":
			m.Kind = KindHeader
			for _, a := range p.rootAttributes(msg, plain) {
				m.Header.set(msg[a.name:a.nameEnd], msg[a.value:a.end:a.end])
			}
		case "close":
			m.Kind = KindEnd
		}
		return nil
	case NSStreams:
		if string(m.Local) == "stream" { // a second document inside the first
			return &Error{CondNotWellFormed, name.start - 1, errHeader}
		}
	}
	m.Class = classify(m.Local, space)
	if m.Class == ClassSASLAuth || m.Class == ClassSASL2Authenticate {
		m.Mechanism = MechanismOther
		for _, a := range p.rootAttributes(msg, plain) {
			if string(msg[a.name:a.nameEnd]) == "mechanism" {
				m.Mechanism = mechanismOf(a.text(msg))
			}
		}
	}
	return nil
}

// rootAttributes returns the attributes of the root, for which a plain tag is
// scanned again.
func (p *MessageParser) rootAttributes(msg []byte, plain bool) []attribute {
	if plain {
		p.startTag(msg, p.tagName.start-1, 1)
	}
	return p.attrs
}
