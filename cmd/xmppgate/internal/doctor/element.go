package doctor

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"regexp"
	"strings"

	"xmppgate/framing"
)

// Namespaces that only clients have to know.
const (
	nsStreamErrors   = "urn:ietf:params:xml:ns:xmpp-streams"
	nsStanzas        = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsTLS            = "urn:ietf:params:xml:ns:xmpp-tls"
	nsSASL           = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsSASL2          = "urn:xmpp:sasl:2"
	nsChannelBinding = "urn:xmpp:sasl-cb:0"
	nsBind           = "urn:ietf:params:xml:ns:xmpp-bind"
	nsSM             = "urn:xmpp:sm:3"
	nsPing           = "urn:xmpp:ping"
	nsDiscoInfo      = "http://jabber.org/protocol/disco#info"
	nsLimits         = "urn:xmpp:stream-limits:0"
)

var tags = regexp.MustCompile(`<[^>]*>`)

// An element is the XML of a message.
type element struct {
	xml.Name
	attr     []xml.Attr
	children []*element
	text     strings.Builder // of the element itself

	unbound bool // a namespace was not declared, of this one or a child
}

// parse reads a message of the server. What is not exactly one element of restricted
// XML, of limited depth, is an error.
func parse(message []byte) (*element, error) {
	var p framing.MessageParser
	var m framing.Message
	if err := p.Parse(message, &m); err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(message))
	var path []*element
	for {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			e := &element{Name: t.Name, attr: t.Attr}
			switch t.Name.Space {
			case "stream":
				e.Space, e.unbound = framing.NSStreams, true
			case "":
				e.Space, e.unbound = framing.NSClient, len(path) == 0
			}
			if len(path) > 0 {
				parent := path[len(path)-1]
				parent.children = append(parent.children, e)
			}
			path = append(path, e)
		case xml.CharData:
			if len(path) > 0 {
				path[len(path)-1].text.Write(t)
			}
		case xml.EndElement:
			if len(path) == 1 {
				return path[0], nil
			}
			path = path[:len(path)-1]
		}
	}
}

func (e *element) is(space, local string) bool { return e.Space == space && e.Local == local }

// get returns an attribute without a namespace.
func (e *element) get(name string) string {
	for _, a := range e.attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// child returns the first child of that name, or nil.
func (e *element) child(space, local string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.is(space, local) {
			return c
		}
	}
	return nil
}

// content is the text of an element, without the white space around it.
func (e *element) content() string {
	if e == nil {
		return ""
	}
	return strings.TrimSpace(e.text.String())
}

// A condition is an error of a stream, of SASL or of a stanza: an element of the
// namespace, and maybe a text.
type condition struct{ name, text string }

func (e *element) condition(space string) (c condition) {
	for _, child := range e.children {
		switch {
		case child.Space != space && child.Local != "text":
		case child.Local == "text":
			c.text = child.content()
		case c.name == "":
			c.name = child.Local
			if c.text == "" && child.content() != "" {
				c.text = child.content() // of see-other-host
			}
		}
	}
	return c
}

func (c condition) String() string {
	if c.text == "" {
		return printable(c.name, 60)
	}
	return fmt.Sprintf("%s, %s", printable(c.name, 60), quote(c.text))
}

// escape makes text fit for an attribute or content.
func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text))
	return b.String()
}
