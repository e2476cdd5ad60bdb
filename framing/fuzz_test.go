package framing

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// wellFormed asks encoding/xml whether b is a namespace-well-formed document
// without comments, processing instructions and document type, and checks
// itself what encoding/xml does not: that tags match, attributes differ and
// prefixes are bound. bound are prefixes bound from outside. If stream is set,
// the root may lack its end and an XML declaration may stand in front.
func wellFormed(b []byte, bound map[string]string, stream bool) error {
	type open struct {
		name  xml.Name
		scope map[string]string
	}
	scope := map[string]string{"": "", "xml": nsXML}
	for k, v := range bound {
		scope[k] = v
	}
	var stack []open
	roots := 0
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		t, err := d.RawToken()
		if err == io.EOF && roots == 1 && (stream || len(stack) == 0) {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.Comment, xml.Directive:
			return errors.New("restricted XML")
		case xml.ProcInst:
			if t.Target != "xml" || !stream || roots > 0 {
				return errors.New("restricted XML")
			}
		case xml.CharData:
			if len(stack) == 0 && len(bytes.Trim(t, " \t\r\n")) > 0 {
				return errors.New("text outside the root")
			}
			if len(stack) == 0 && !stream {
				return errors.New("white space outside the root")
			}
		case xml.EndElement:
			if len(stack) == 0 || stack[len(stack)-1].name != t.Name {
				return errors.New("tags do not match")
			}
			scope = stack[len(stack)-1].scope
			stack = stack[:len(stack)-1]
		case xml.StartElement:
			if len(stack) == 0 {
				if roots++; roots > 1 {
					return errors.New("two roots")
				}
			}
			stack = append(stack, open{t.Name, scope})
			own := map[string]string{}
			for k, v := range scope {
				own[k] = v
			}
			for _, a := range t.Attr {
				switch {
				case a.Name.Space == "" && a.Name.Local == "xmlns":
					if a.Value == nsXML || a.Value == nsXMLNS {
						return errors.New("reserved namespace")
					}
					own[""] = a.Value
				case a.Name.Space == "xmlns":
					if (a.Name.Local == "xml") != (a.Value == nsXML) || a.Value == "" || a.Value == nsXMLNS || a.Name.Local == "xmlns" {
						return errors.New("reserved prefix or namespace")
					}
					own[a.Name.Local] = a.Value
				}
			}
			scope = own
			names := []xml.Name{t.Name}
			seen := map[xml.Name]bool{}
			for _, a := range t.Attr {
				n := a.Name
				if n.Space != "" && n.Space != "xmlns" {
					names = append(names, n)
					n.Space = "{" + own[n.Space] + "}"
				}
				if seen[n] {
					return errors.New("attribute twice")
				}
				seen[n] = true
			}
			for _, n := range names {
				if _, ok := own[n.Space]; !ok || strings.Contains(n.Local, ":") {
					return fmt.Errorf("prefix of %v", n)
				}
			}
		}
	}
}

// lenient lists what Parse refuses as not well-formed and encoding/xml takes,
// with the reason why that is no reason to doubt Parse.
var lenient = map[error]string{
	errTag:       "attributes without white space between",
	errName:      "names by XML 1.0, fourth edition; a colon at either end",
	errReference: "references to surrogates, read as U+FFFD",
	errXMLDecl:   "XML declarations with anything in them",
	errHeader:    "one element of TCP framing, well-formed but not allowed",
}

func FuzzUp(f *testing.F) {
	for _, v := range vectors(f, "up") {
		f.Add(v.in)
	}
	for _, v := range append(vectors(f, "down"), vectors(f, "features")...) {
		f.Add(v.in)
	}
	for _, c := range corpora {
		if len(c.element) < 1024 {
			f.Add([]byte(c.element))
		}
	}
	var used usedUp
	f.Fuzz(func(t *testing.T, msg []byte) { checkUp(t, &used, msg) })
}

// usedUp has parsed other messages before.
type usedUp struct {
	p MessageParser
	m Message
}

// checkUp checks what holds for any message.
func checkUp(t *testing.T, used *usedUp, msg []byte) {
	IsLegacyHeader(msg)
	keep := bytes.Clone(msg)
	m, err := parse(new(MessageParser), msg)
	err2 := used.p.Parse(msg, &used.m)
	m2 := used.m
	if fmt.Sprint(m, err) != fmt.Sprint(m2, err2) {
		t.Fatalf("a used parser says %v, %v instead of %v, %v", m2, err2, m, err)
	}
	if !bytes.Equal(msg, keep) {
		t.Fatal("Parse wrote to the message")
	}

	if err != nil {
		var e *Error
		if !errors.As(err, &e) || e.Condition == "" || e.Offset < 0 || e.Offset > len(msg) {
			t.Fatalf("odd error %#v", err)
		}
		if errors.Is(err, ErrNotText) {
			if len(msg) > 0 && msg[0] == '<' && utf8.Valid(msg) {
				t.Fatalf("text called no text: %v", err)
			}
			return
		}
		if _, ok := lenient[e.Err]; !ok && e.Condition == CondNotWellFormed {
			body := bytes.TrimRight(msg, " \t\r\n")
			if wellFormed(body, map[string]string{"stream": NSStreams}, false) == nil {
				t.Fatalf("%v, but encoding/xml takes it", err)
			}
		}
		return
	}

	if m.Kind == KindNone || m.Local == nil || m.Raw == nil {
		t.Fatalf("incomplete: %+v", m)
	}
	m.AsksToResume()
	m.StreamErrorCondition()
	if isEndTag(m.Raw) {
		return
	}
	if err := wellFormed(m.Raw, map[string]string{"stream": NSStreams}, false); err != nil {
		// Names follow the fifth edition here, the fourth there.
		if s := err.Error(); strings.Contains(s, "invalid XML name") || strings.Contains(s, "expected") && !isASCII(m.Raw) {
			return
		}
		t.Fatalf("accepted, but encoding/xml says %v", err)
	}
	// What Parse lets through is the same for StreamSplitter: one unit, no more.
	if m.Kind == KindElement {
		var d StreamSplitter
		var u StreamUnit
		n, err := d.Next(m.Raw, &u)
		if err != nil || n != len(m.Raw) || u.Kind != KindElement {
			t.Fatalf("Down finds kind %d, %d of %d bytes, %v", u.Kind, n, len(m.Raw), err)
		}
		if u.Class != m.Class {
			t.Fatalf("class %d up, %d down", m.Class, u.Class)
		}
	}
}

func FuzzDown(f *testing.F) {
	for _, dir := range []string{"up", "down", "features"} {
		for _, v := range vectors(f, dir) {
			for mode := range uint64(6) {
				f.Add(v.in, mode)
			}
		}
	}
	for _, c := range corpora {
		if len(c.element) < 1024 {
			f.Add([]byte(inherited(c.element)), uint64(2))
		}
	}
	f.Fuzz(checkDown)
}

// checkDown checks what holds for any stream, cut by a random generator.
func checkDown(t *testing.T, in []byte, seed uint64) {
	const header = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`
	r := rand.New(rand.NewPCG(seed, 0))
	filter := &FeatureFilter{MaxStanza: 1000, ChannelBinding: ChannelBinding(seed % 3), NoExternal: seed%2 != 0}
	whole := runDown(filter, in, func() int { return len(in) })
	parts := runDown(filter, in, func() int { return r.IntN(1 + r.IntN(40)) })
	if fmt.Sprint(whole) != fmt.Sprint(parts) {
		t.Fatalf("in pieces: %v\nat once: %v", parts, whole)
	}

	// Units partition the input. A document is what one header covers.
	document := []byte(header)
	var messages, filtered []string
	var classes []Class
	var standard []bool
	check := func() {
		if wellFormed(document, nil, true) != nil {
			return // no duty to make good of bad
		}
		for i, m := range messages {
			if err := wellFormed([]byte(m), nil, false); err != nil {
				t.Fatalf("message %q: %v", m, err)
			}
			if err := wellFormed([]byte(filtered[i]), nil, false); err != nil {
				t.Fatalf("filtered message %q: %v", filtered[i], err)
			}
			up, err := parse(new(MessageParser), []byte(m))
			var e *Error
			if errors.As(err, &e) {
				if _, ok := lenient[e.Err]; ok || e.Condition == CondPolicyViolation || e.Condition == CondBadFormat {
					continue
				}
			}
			if err != nil {
				t.Fatalf("message %q: %v", m, err)
			}
			if up.Kind == KindElement && standard[i] && up.Class != classes[i] {
				t.Fatalf("message %q: class %d down, %d up", m, classes[i], up.Class)
			}
		}
	}
	d := new(StreamSplitter)
	var u StreamUnit
	for b := in; ; {
		n, err := d.Next(b, &u)
		if err != nil || u.Kind == KindNone {
			break
		}
		space, ok := bytes.CutSuffix(b[:n], u.Raw)
		if !ok || len(u.Raw) == 0 {
			t.Fatalf("unit %q is not the end of %q", u.Raw, b[:n])
		}
		if s := bytes.TrimLeft(space, " \t\r\n"); len(s) > 0 && (u.Kind != KindHeader || !startsXMLDecl(s)) {
			t.Fatalf("%q was dropped", space)
		}
		if u.Kind == KindHeader {
			check()
			document, messages, filtered, classes, standard = nil, nil, nil, nil, nil
			space = nil
		}
		document = append(append(document, space...), u.Raw...)
		if u.Kind == KindElement {
			messages = append(messages, message(&u, nil))
			filtered = append(filtered, message(&u, filter))
			// Parse assumes that the default namespace is jabber:client.
			classes = append(classes, u.Class)
			standard = append(standard, d.scope == nil)
			u.OffersSASL()
			u.OffersStartTLS()
			u.RequiresStartTLS()
			if host := u.SeeOtherHost(); len(host) > maxHost {
				t.Fatalf("a host of %d bytes", len(host))
			}
			u.StreamErrorCondition()
			u.SASLCondition()
			for range u.SMAnswers() {
			}
			if jid := u.BoundJID(); len(jid) > maxJID {
				t.Fatalf("a JID of %d bytes", len(jid))
			}
			filter.AppendMessage(nil, &u) // whatever the class
		}
		b = b[n:]
	}
	check()
}

// soup is what random inputs are made of: mutation of bytes seldom gives tags
// that match.
var soup = strings.Split(`<a|<a|<b|<b|</a>|</a>|</b>|</b>|>|>|>|/>|/>| x='1'| y="2"| z='"'| z="'>"| x:y='/>'|'|"| |&amp;|&#65;|&x;|`+
	` xmlns='jabber:client'| xmlns=''| xmlns:x='urn:x'| xmlns:x='urn:&#120;'| xmlns:stream='urn:y'|<stream:features|</stream:features>|`+
	`<stream:stream xmlns='jabber:client' xmlns:x='urn:z' xmlns:stream='http://etherx.jabber.org/streams'>|</stream:stream>|`+
	`<x:a|</x:a>|<![CDATA[|]]>|]]|<!--|<?xml version='1.0'?>|text|é|×|stream:| xmlns:y='urn:x'| y:y='1'|<message|</message>|`+
	`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>|<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>99999</max-bytes></limits>|`+
	`<stream:error|</stream:error>|<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>|</see-other-host>|`+
	`<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>|</mechanisms>|<mechanism>EXTERNAL</mechanism>|<mechanism>|-PLUS|</mechanism>|`+
	`<authentication xmlns='urn:xmpp:sasl:2'>|</authentication>|<inline>|</inline>|<fast xmlns='urn:xmpp:fast:0'>|</fast>|`+
	`<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-server-end-point'/>|<channel-binding type='a'/>|</sasl-channel-binding>`, "|")

func TestSoup(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := 60_000
	if testing.Short() {
		n /= 20
	}
	var used usedUp
	var accepted, messages int
	for range n {
		var b []byte
		for range 1 + r.IntN(12) {
			b = append(b, soup[r.IntN(len(soup))]...)
		}
		checkUp(t, &used, b)
		checkDown(t, b, r.Uint64())
		if m, err := parse(&used.p, b); err == nil && m.Kind == KindElement {
			accepted++
		}
		messages += len(runDown(new(FeatureFilter), b, func() int { return len(b) }).outs)
		if t.Failed() {
			t.Fatalf("input %q", b)
		}
	}
	if accepted < n/1000 || messages < n/100 {
		t.Errorf("of %d inputs only %d accepted and %d units found: the soup is too thin", n, accepted, messages)
	}
}
