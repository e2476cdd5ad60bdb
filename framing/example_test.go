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

// A large element reaches the client while the server still sends it.
func ExampleStreamSplitter_Part() {
	var d framing.StreamSplitter
	var u framing.StreamUnit
	var b []byte // received and not yet consumed
	for _, read := range []string{
		`<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`,
		`<message><body>a long`,
		` story</body>`,
		`</message>`,
	} {
		b = append(b, read...)
		n, err := d.Next(b, &u)
		if b = b[n:]; err == nil && u.Kind == framing.KindNone {
			n, err = d.Part(b, &u)
			b = b[n:]
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		if u.Kind != framing.KindHeader {
			head, tail := u.AppendHead(nil)
			fmt.Printf("%v: %s%s\n", u.Kind, head, tail)
		}
	}
	// Output:
	// ElementStart: <message xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><body>a long
	// ElementPart:  story</body>
	// ElementEnd: </message>
}

// next returns the first element of a stream.
func next(element string) *framing.StreamUnit {
	const header = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`
	b := []byte(header + element)
	var d framing.StreamSplitter
	u := new(framing.StreamUnit)
	n, _ := d.Next(b, u) // the header
	if _, err := d.Next(b[n:], u); err != nil {
		panic(err)
	}
	return u
}

func ExampleStreamUnit_AppendHead() {
	u := next(`<iq type='result' id='1'/>`)
	head, tail := u.AppendHead(nil)
	fmt.Printf("%v: %s + %s\n", u.Class, head, tail)
	fmt.Println(len(head)+len(tail) == u.Size())
	// Output:
	// IQ: <iq xmlns="jabber:client" +  type='result' id='1'/>
	// true
}

func ExampleFeatureFilter_AppendMessage() {
	u := next(`<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>` +
		`<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism>` +
		`<mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>`)
	fmt.Println(u.OffersStartTLS(), u.RequiresStartTLS(), u.OffersSASL(), u.OffersChannelBinding())
	f := framing.FeatureFilter{ChannelBinding: framing.ChannelBindingStrip}
	fmt.Printf("%s\n", f.AppendMessage(nil, u))
	// Output:
	// true false true true
	// <stream:features xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>
}

func ExampleStreamUnit_SeeOtherHost() {
	u := next(`<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>` +
		`b.example.org:5222</see-other-host></stream:error>`)
	if u.StreamErrorCondition() == framing.CondSeeOtherHost {
		fmt.Println(u.SeeOtherHost())
	}
	// Output: b.example.org:5222
}

func ExampleAppendStreamError() {
	fmt.Printf("%s\n", framing.AppendStreamError(nil, framing.CondPolicyViolation, "65537 bytes", framing.StanzaTooBig))
	// Output: <stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><policy-violation xmlns="urn:ietf:params:xml:ns:xmpp-streams"/><text xmlns="urn:ietf:params:xml:ns:xmpp-streams" xml:lang="en">65537 bytes</text><stanza-too-big xmlns="urn:xmpp:errors"/></stream:error>
}

func ExampleAppendStreamHeader() {
	h := framing.Header{To: framing.Quote("example.org"), Version: framing.Quote("1.0")}
	fmt.Printf("%s\n", framing.AppendStreamHeader(nil, h))
	// Output: <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>
}

func ExampleAppendOpen() {
	h := framing.Header{From: framing.Quote("example.org"), ID: framing.Quote("c2s"), Version: framing.Quote("1.0")}
	fmt.Printf("%s\n", framing.AppendOpen(nil, h))
	// Output: <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from='example.org' id='c2s' version='1.0'/>
}

func ExampleAppendSeeOtherURI() {
	fmt.Printf("%s\n", framing.AppendSeeOtherURI(nil, "wss://b.example.org/ws?a=1&b=2"))
	// Output: <close xmlns="urn:ietf:params:xml:ns:xmpp-framing" see-other-uri="wss://b.example.org/ws?a=1&amp;b=2"/>
}

func ExampleIsLegacyHeader() {
	fmt.Println(framing.IsLegacyHeader([]byte(`<?xml version='1.0'?><stream:stream to='example.org'>`)))
	// Output: true
}

func ExampleQuote() {
	fmt.Printf("%s\n", framing.Quote("Jack & Jill's"))
	// Output: 'Jack &amp; Jill&apos;s'
}

func ExampleUnquote() {
	to, err := framing.Unquote([]byte(`'example&#46;org'`))
	fmt.Println(to, err)
	// Output: example.org <nil>
}
