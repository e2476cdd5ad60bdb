package e2e

import (
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// Namespaces.
const (
	nsFraming = "urn:ietf:params:xml:ns:xmpp-framing"
	nsStreams = "http://etherx.jabber.org/streams"
	nsSM      = "urn:xmpp:sm:3"
	nsPubsub  = "http://jabber.org/protocol/pubsub"
	nsMUC     = "http://jabber.org/protocol/muc"
)

// element is one first-level element of a stream: its bytes and a view of its content. Headers and end tags are elements
// too: <open/>, <close/>, <stream:stream> and </stream:stream>.
type element struct {
	raw  string
	node // zero for <stream:stream> and </stream:stream>
}

type node struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []node     `xml:",any"`
	Text     string     `xml:",chardata"`
	Inner    string     `xml:",innerxml"` // the content, byte for byte
}

func parse(raw string) (*element, error) {
	e := &element{raw: raw}
	if raw == streamEnd || strings.HasPrefix(raw, "<stream:stream") {
		return e, nil
	}
	if err := xml.Unmarshal([]byte(raw), &e.node); err != nil {
		return nil, fmt.Errorf("%w in %.300q", err, raw)
	}
	return e, nil
}

func (n *node) is(local string) bool { return n.XMLName.Local == local }

func (n *node) attr(name string) string {
	for _, a := range n.Attrs {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// child returns the node at a path of local names, or an empty node.
func (n *node) child(path ...string) *node {
	for _, name := range path {
		next := &node{}
		for i := range n.Children {
			if n.Children[i].is(name) {
				next = &n.Children[i]
				break
			}
		}
		n = next
	}
	return n
}

func (n *node) has(path ...string) bool { return n.child(path...).XMLName.Local != "" }

// sameNodes reports the first difference between two lists of nodes; the order of attributes does not matter.
func sameNodes(a, b []node) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d children and %d", len(a), len(b))
	}
	for i := range a {
		if a[i].XMLName != b[i].XMLName {
			return fmt.Errorf("%v and %v", a[i].XMLName, b[i].XMLName)
		}
		if x, y := a[i].sortedAttrs(), b[i].sortedAttrs(); x != y {
			return fmt.Errorf("attributes %s and %s", x, y)
		}
		if a[i].Text != b[i].Text {
			return fmt.Errorf("text %.200q and %.200q", a[i].Text, b[i].Text)
		}
		if err := sameNodes(a[i].Children, b[i].Children); err != nil {
			return err
		}
	}
	return nil
}

// sortedAttrs is the attributes but namespace declarations, which the names of nodes account for.
func (n *node) sortedAttrs() string {
	var all []string
	for _, a := range n.Attrs {
		if a.Name.Space != "xmlns" && a.Name != (xml.Name{Local: "xmlns"}) {
			all = append(all, fmt.Sprintf("{%s}%s=%q", a.Name.Space, a.Name.Local, a.Value))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// body is the text of a message's body.
func (n *node) body() string { return n.child("body").Text }

// checkDocument reports why el could not be read by a strict, namespace-aware parser that knows nothing but el, such as a
// browser's DOMParser. RFC 7395, section 3.3.3, demands that of every message.
func checkDocument(el string) error {
	type level struct {
		name     xml.Name
		declared map[string]bool
	}
	stack := []level{{declared: map[string]bool{"xml": true, "xmlns": true}}}
	bound := func(prefix string) bool {
		for _, l := range stack {
			if l.declared[prefix] {
				return true
			}
		}
		return false
	}
	roots := 0
	d := xml.NewDecoder(strings.NewReader(el))
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.StartElement:
			declared := make(map[string]bool)
			seen := make(map[xml.Name]bool)
			for _, a := range token.Attr {
				if seen[a.Name] {
					return fmt.Errorf("attribute %v twice", a.Name)
				}
				seen[a.Name] = true
				if a.Name.Space == "xmlns" {
					declared[a.Name.Local] = true
				} else if a.Name == (xml.Name{Local: "xmlns"}) {
					declared[""] = true
				}
			}
			if len(stack) == 1 {
				if roots++; roots > 1 {
					return errors.New("more than one root element")
				}
			}
			stack = append(stack, level{token.Name, declared})
			if !bound(token.Name.Space) {
				return fmt.Errorf("unbound prefix %q of element %s", token.Name.Space, token.Name.Local)
			}
			for _, a := range token.Attr {
				if a.Name.Space != "" && !bound(a.Name.Space) {
					return fmt.Errorf("unbound prefix %q of attribute %s", a.Name.Space, a.Name.Local)
				}
			}
		case xml.EndElement:
			if top := stack[len(stack)-1]; len(stack) == 1 || top.name != token.Name {
				return fmt.Errorf("unexpected end tag %v", token.Name)
			}
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) == 1 {
				return fmt.Errorf("text %q outside of the root element", token)
			}
		default:
			return fmt.Errorf("unexpected %T", token)
		}
	}
	if roots == 0 || len(stack) > 1 {
		return errors.New("no complete element")
	}
	return nil
}

// splitter cuts an XMPP-over-TCP stream into its header, first-level elements and end tag, byte for byte.
type splitter struct {
	r     *bufio.Reader
	d     *xml.Decoder
	buf   []byte
	start int64 // offset, within d's input, of buf[0]
	depth int
}

func newSplitter(r io.Reader) *splitter {
	s := &splitter{r: bufio.NewReader(r)}
	s.restart()
	return s
}

// restart expects a new stream header.
func (s *splitter) restart() {
	s.d = xml.NewDecoder(s) // reads byte by byte through ReadByte, so nothing is lost
	s.buf, s.start, s.depth = nil, 0, 0
}

func (s *splitter) Read([]byte) (int, error) { panic("unreachable: the decoder uses ReadByte") }

func (s *splitter) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil {
		s.buf = append(s.buf, c)
	}
	return c, err
}

// next returns the next header, element or end tag, without whitespace or XML declaration around it.
func (s *splitter) next() (string, error) {
	for {
		begin := s.d.InputOffset()
		if s.depth <= 1 { // between elements
			s.buf = s.buf[begin-s.start:]
			s.start = begin
		}
		token, err := s.d.RawToken()
		if err != nil {
			return "", err
		}
		whole := func() string { return string(s.buf[:s.d.InputOffset()-s.start]) }
		switch token.(type) {
		case xml.StartElement:
			if s.depth++; s.depth == 1 {
				return whole(), nil
			}
		case xml.EndElement:
			if s.depth--; s.depth <= 1 {
				return whole(), nil
			}
		}
	}
}

func TestCheckDocument(t *testing.T) {
	for doc, good := range map[string]bool{
		`<a xmlns="u"/>`: true,
		`<s:a xmlns="u" xmlns:s="v"><s:b/></s:a>`:   true,
		`<a xmlns="u"><b xmlns:p="v" p:c="1"/></a>`: true,
		`<a xmlns="u">&lt;<![CDATA[<]]></a>`:        true,
		`<a/>`:                                      false,
		`<a xmlns="u"><s:b/></a>`:                   false,
		`<a xmlns="u"><b s:c="1"/></a>`:             false,
		`<a xmlns="u"/> `:                           false,
		`<a xmlns="u"/><b xmlns="u"/>`:              false,
		`<a xmlns="u">`:                             false,
		`<a xmlns="u"></b>`:                         false,
		`<?xml version="1.0"?><a xmlns=""/>`:        false,
		`<a xmlns="u" b="1" b="2"/>`:                false,
		``:                                          false,
	} {
		if err := checkDocument(doc); (err == nil) != good {
			t.Errorf("checkDocument(%q) = %v", doc, err)
		}
	}
}

func TestSplitter(t *testing.T) {
	want := []string{
		`<stream:stream xmlns='jabber:client' id='a>b'>`, `<stream:features/>`, `<m><n>é</n><n/></m>`, `</stream:stream>`,
	}
	s := newSplitter(strings.NewReader("<?xml version='1.0'?>" + strings.Join(want, "\n ")))
	for _, w := range want {
		if got, err := s.next(); got != w || err != nil {
			t.Errorf("next() = %q, %v; want %q", got, err, w)
		}
	}
}
