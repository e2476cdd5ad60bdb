package framing_test

import (
	"errors"
	"fmt"

	"xmppgate/framing"
)

func ExampleMessageParser_Parse() {
	var p framing.MessageParser
	var m framing.Message
	for _, msg := range []string{
		`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="example.org" version='1.0'/>`,
		`<message to='bob@example.org'><body>Hi!</body></message>`,
		`<presence/></stream:stream>`,
	} {
		err := p.Parse([]byte(msg), &m)
		var e *framing.Error
		switch {
		case errors.Is(err, framing.ErrNotText):
			fmt.Println("close the WebSocket with 1007")
		case errors.As(err, &e):
			fmt.Printf("%s\n", framing.AppendStreamError(nil, e.Condition, "", ""))
		case m.Kind == framing.KindHeader:
			fmt.Printf("%s\n", framing.AppendStreamHeader(nil, m.Header))
		case m.Kind == framing.KindEnd:
			fmt.Println(framing.EndTag)
		default:
			fmt.Printf("%s\n", m.Raw)
		}
	}
	// Output:
	// <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to="example.org" version='1.0'>
	// <message to='bob@example.org'><body>Hi!</body></message>
	// <stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><not-well-formed xmlns="urn:ietf:params:xml:ns:xmpp-streams"/></stream:error>
}

func ExampleStreamSplitter_Next() {
	var d framing.StreamSplitter
	var u framing.StreamUnit
	filter := framing.FeatureFilter{MaxStanza: 65536}
	var b []byte // received and not yet consumed
	for _, read := range []string{
		`<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://ether`,
		`x.jabber.org/streams' id='c2s' version='1.0'><stream:features><starttls xmlns='urn:ie`,
		`tf:params:xml:ns:xmpp-tls'/></stream:features> <message><body>Hi`,
		`!</body></message></stream:stream>`,
	} {
		b = append(b, read...)
		for {
			n, err := d.Next(b, &u)
			if err != nil {
				fmt.Println(err)
				return
			}
			switch {
			case u.Kind == framing.KindHeader:
				fmt.Printf("%s\n", framing.AppendOpen(nil, u.Header))
			case u.Kind == framing.KindEnd:
				fmt.Println(framing.CloseMessage)
			case u.Class == framing.ClassFeatures:
				fmt.Printf("%s\n", filter.AppendMessage(nil, &u))
			case u.Kind == framing.KindElement:
				head, tail := u.AppendHead(nil)
				fmt.Printf("%s%s\n", head, tail)
			}
			b = b[n:]
			if u.Kind == framing.KindNone {
				break
			}
		}
	}
	// Output:
	// <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" id='c2s' version='1.0'/>
	// <stream:features xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"></stream:features>
	// <message xmlns="jabber:client"><body>Hi!</body></message>
	// <close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />
}

func ExampleUnquote() {
	to, err := framing.Unquote([]byte(`'example&#46;org'`))
	fmt.Println(to, err)
	// Output: example.org <nil>
}
