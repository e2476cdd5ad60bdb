package model

import "strings"

// A kind is what a message, or a piece of the server's stream, means.
type kind int

const (
	element   kind = iota // goes to the other end
	header                // <open/>, <stream:stream>
	end                   // <close/>, </stream:stream>
	malformed             // not exactly one permitted element, or no stream

	// Of clients.
	wrongOpen    // <open/> in another namespace
	startTLS     // is refused, and ends the session
	answered     // in the server's stead
	auth         // begins a login, after which the stream restarts
	authenticate // begins one that needs no restart

	// Of servers.
	offer    // features with SASL
	noOffer  // features without
	needsTLS // features with nothing but <starttls/>
	success
	failure
	success2 // of XEP-0388
	fatal    // a stream error
	upgrades // <proceed/>, <compressed/>
	tooLarge
)

// An entry is one thing that an end may say. #### in it stands for four digits.
type entry struct {
	kind      kind
	text      string
	out       string // what becomes of it; of stanzas empty means the same
	condition string // of the stream error
	domain    string // that a header names
	// whole is how many bytes may come before the rest, which comes at once: what is
	// wrong may be found before the end.
	whole int
}

const (
	// CloseMessage is what ends a stream for a client, in the spelling that strophe
	// compares with.
	CloseMessage = `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />`

	declaration = `<?xml version='1.0'?>`
	toServer    = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'`
	saslNS      = `'urn:ietf:params:xml:ns:xmpp-sasl'`
	streamsNS   = `xmlns='urn:ietf:params:xml:ns:xmpp-streams'`
	both        = ` xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"`
)

func streamError(condition string) string {
	return `<stream:error` + both + `><` + condition + ` xmlns="urn:ietf:params:xml:ns:xmpp-streams"/>`
}

func nested(n int) string { return strings.Repeat("<a>", n) + strings.Repeat("</a>", n) }

// client is what clients may say.
var client = []entry{
	// RFC 7395, section 3.4: the spellings of clients.
	{kind: header, domain: Domain, text: `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="proto.test" version="1.0"/>`, out: toServer + ` to="proto.test" version="1.0">`},
	{kind: header, domain: Domain, text: `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" version='1.0' to='proto.test' from='alice@proto.test/mel'/>`, out: toServer + ` to='proto.test' from='alice@proto.test/mel' version='1.0'>`},
	{kind: header, domain: Domain, text: "<open\nxmlns='urn:ietf:params:xml:ns:xmpp-framing'\nto='proto.test' version='1.0' ></open>", out: toServer + ` to='proto.test' version='1.0'>`},
	{kind: header, domain: Domain, text: `<f:open xmlns:f="urn:ietf:params:xml:ns:xmpp-framing" xmlns:x="urn:x" x:y="1" id="z" foo="a>b" to='proto&#46;test' version="1.0" xml:lang="de"/>`, out: toServer + ` to='proto&#46;test' version="1.0" xml:lang="de">`},
	{kind: header, domain: Domain, text: declaration + `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="proto.test"/>`, out: toServer + ` to="proto.test">`},
	{kind: header, domain: "other.test", text: `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="other.test" version="1.0"/>`},
	{kind: header, domain: "", text: `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" version="1.0"/>`},
	{kind: wrongOpen, text: `<open xmlns="urn:wrong" to="proto.test" version="1.0"/>`},
	{kind: wrongOpen, text: `<open to="proto.test" version="1.0"/>`},

	// Section 3.6, and what older clients send.
	{kind: end, text: `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`},
	{kind: end, text: CloseMessage},
	{kind: end, text: `<f:close xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'></f:close>`},
	{kind: end, text: `</stream:stream>`},

	{text: `<message to='a@b' id='u####'><body>é € 😀</body></message>`},
	{text: `<message to="a@b" id='u####' xmlns='jabber:client'><body><![CDATA[</body></message><close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>]]></body></message>`},
	{text: `<iq id='/>####' type="get"><ping xmlns='urn:xmpp:ping'/></iq>`},
	{text: `<jc:presence xmlns:jc='jabber:client' id="u####>'"/>`},
	{text: `<presence id='u####'/>` + " \r\n\t"},
	{text: declaration + `<presence id='u####'/>`},
	{text: `<r xmlns='urn:xmpp:sm:3'/>`},
	{text: `<close xmlns='urn:other' id='u####'/>`},
	{text: `<enable xmlns='urn:xmpp:sm:3' resume='1'/>`},
	{text: `<resume xmlns='urn:xmpp:sm:3' h='1' previd='x'/>`},
	{text: `<message id='u####'><body>` + strings.Repeat("x", 3000) + `</body></message>`},
	{text: `<message id='u####'><body>` + strings.Repeat("x", 9_900) + `</body></message>`},
	{text: `<message id='u####'><body>` + strings.Repeat("x", 11_900) + `</body></message>`},
	{text: `<stream:error xmlns="jabber:client"><undefined-condition xmlns="urn:ietf:params:xml:ns:xmpp-streams"/></stream:error>`},
	{text: `<response xmlns=` + saslNS + `>AA==</response>`},
	{text: `<abort xmlns=` + saslNS + `/>`},

	{kind: auth, text: `<auth xmlns=` + saslNS + ` mechanism="PLAIN">AGEAYg==</auth>`},
	{kind: authenticate, text: `<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AGEAYg==</initial-response></authenticate>`},

	// What would change the transport, or who is logged in.
	{kind: startTLS, text: `<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`, out: `<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`},
	{kind: answered, text: `<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>`, out: `<failure xmlns='http://jabber.org/protocol/compress'><unsupported-method/></failure>`},
	{kind: answered, text: `<auth xmlns=` + saslNS + ` mechanism='&#69;XTERNAL'>=</auth>`, out: `<failure xmlns=` + saslNS + `><invalid-mechanism/></failure>`},
	{kind: answered, text: `<authenticate xmlns='urn:xmpp:sasl:2' mechanism = "EXTERNAL"/>`, out: `<failure xmlns='urn:xmpp:sasl:2'><invalid-mechanism xmlns=` + saslNS + `/></failure>`},

	// RFC 6120, section 11, and what hides a second element behind a first one.
	{kind: malformed, condition: "not-well-formed", text: `<presence/><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`},
	{kind: malformed, condition: "not-well-formed", text: `<iq type='get' id='a'><ping xmlns='urn:xmpp:ping'/></iq></stream:stream>`},
	{kind: malformed, condition: "not-well-formed", text: `<message><body>x</body>`},
	{kind: malformed, condition: "not-well-formed", text: `<a></a/><b>`},
	{kind: malformed, condition: "not-well-formed", text: `<a b=c/><d/>`},
	{kind: malformed, condition: "not-well-formed", text: `<a b='1'/ ><d/>`},
	{kind: malformed, condition: "not-well-formed", text: `</iq>`},
	{kind: malformed, condition: "not-well-formed", text: `<a><b></a></b>`},
	{kind: malformed, condition: "not-well-formed", text: `<a b='1' b='2'/>`},
	{kind: malformed, condition: "not-well-formed", text: `<x:a/>`},
	{kind: malformed, condition: "not-well-formed", text: "<a>\x00</a>"},
	{kind: malformed, condition: "not-well-formed", text: "<a>\ufffe</a>"},
	{kind: malformed, condition: "not-well-formed", text: "<a>]]></a>"},
	{kind: malformed, condition: "restricted-xml", text: `<!--<x>--><iq/>`},
	{kind: malformed, condition: "restricted-xml", text: `<iq><!-- </iq> --></iq>`},
	{kind: malformed, condition: "restricted-xml", text: `<?x <a> ?><iq/>`},
	{kind: malformed, condition: "restricted-xml", text: `<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>`},
	{kind: malformed, condition: "restricted-xml", text: `<iq>&foo;</iq>`},
	{kind: malformed, condition: "unsupported-encoding", text: `<?xml version='1.0' encoding='UTF-16'?><presence/>`},
	{kind: malformed, condition: "policy-violation", text: nested(257)},
}

const (
	shdr = `<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='i####' version='1.0' xml:lang='en' xmlns='jabber:client' from='proto.test'>`
	ihdr = `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from='proto.test' id='i####' version='1.0' xml:lang='en'/>`
)

// server is what servers may say. No entry begins with another one.
var server = []entry{
	{kind: header, text: shdr, out: ihdr},
	{kind: end, text: `</stream:stream>`},

	{text: `<message id='d####'><body>&lt;/message&gt; é 😀</body></message>`, out: `<message xmlns="jabber:client" id='d####'><body>&lt;/message&gt; é 😀</body></message>`},
	{text: `<message id="a xmlns='b' d####"/>`, out: `<message xmlns="jabber:client" id="a xmlns='b' d####"/>`},
	{text: `<message from='a>b' id='d####'><stream:foo a='1'/></message>`, out: `<message` + both + ` from='a>b' id='d####'><stream:foo a='1'/></message>`},
	{text: `<message id='d####'><body><![CDATA[</message><stream:features>]]></body></message>`, out: `<message` + both + ` id='d####'><body><![CDATA[</message><stream:features>]]></body></message>`},
	{text: "<iq\n id='d####' type='result'/>", out: "<iq xmlns=\"jabber:client\"\n id='d####' type='result'/>"},
	{text: `<iq xmlns='' id='d####' type='error'/>`},
	{text: `<presence xmlns = "jabber:client" id='d####'></presence>`},
	{text: `<presence/>`, out: `<presence xmlns="jabber:client"/>`},
	{text: `<a xmlns='urn:xmpp:sm:3' h='3'/>`},
	{text: `<enabled xmlns='urn:xmpp:sm:3' resume='1' id='x'/>`},
	{text: `<resumed xmlns='urn:xmpp:sm:3' h='1' previd='x'/>`},
	{text: `<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>`},
	{text: `<challenge xmlns=` + saslNS + `>AA==</challenge>`},
	{text: `<message><features xmlns='http://etherx.jabber.org/streams'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></features></message>`, out: `<message xmlns="jabber:client"><features xmlns='http://etherx.jabber.org/streams'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></features></message>`},
	{text: `<message to='c' id='d####'><body>` + strings.Repeat("text ", 600) + `</body></message>`, out: `<message xmlns="jabber:client" to='c' id='d####'><body>` + strings.Repeat("text ", 600) + `</body></message>`},

	{kind: offer, text: `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms xmlns=` + saslNS + `><mechanism>PLAIN</mechanism></mechanisms></stream:features>`,
		out: `<stream:features` + both + `><mechanisms xmlns=` + saslNS + `><mechanism>PLAIN</mechanism></mechanisms></stream:features>`},
	{kind: offer, text: `<stream:features><authentication xmlns='urn:xmpp:sasl:2'><mechanism>PLAIN</mechanism></authentication></stream:features>`,
		out: `<stream:features` + both + `><authentication xmlns='urn:xmpp:sasl:2'><mechanism>PLAIN</mechanism></authentication></stream:features>`},
	{kind: noOffer, text: `<stream:features><compression xmlns='http://jabber.org/features/compress'><method>zlib</method></compression><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>`,
		out: `<stream:features` + both + `><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>`},
	{kind: noOffer, text: `<stream:features/>`, out: `<stream:features` + both + `/>`},
	{kind: needsTLS, text: `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>`,
		out: `<stream:features` + both + `></stream:features>`},
	{kind: success, text: `<success xmlns=` + saslNS + `/>`},
	{kind: failure, text: `<failure xmlns=` + saslNS + `><not-authorized/></failure>`},
	{kind: success2, text: `<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@proto.test</authorization-identifier></success>`},
	{text: `<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns=` + saslNS + `/></failure>`},

	{kind: fatal, text: `<stream:error><conflict ` + streamsNS + `/><text ` + streamsNS + `>Überlastet</text></stream:error>`,
		out: `<stream:error` + both + `><conflict ` + streamsNS + `/><text ` + streamsNS + `>Überlastet</text></stream:error>`},
	{kind: fatal, text: `<stream:error><host-gone ` + streamsNS + `/></stream:error>`, out: `<stream:error` + both + `><host-gone ` + streamsNS + `/></stream:error>`},
	{kind: upgrades, whole: 20, text: `<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`},
	{kind: upgrades, whole: 20, text: `<compressed xmlns='http://jabber.org/protocol/compress'/>`},

	{kind: malformed, whole: 1, text: `<!-- x -->`},
	{kind: malformed, whole: 1, text: `<?x y?>`},
	{kind: malformed, whole: 0, text: `220 mail.example.org ESMTP`},
	{kind: malformed, whole: 9, text: "<message>\xff</message>"},
	{kind: malformed, whole: 12, text: "<iq><a b='1'\xc0\xaf/></iq>"},
	{kind: malformed, whole: 3, text: `<iq><!-- inside --></iq>`},
}

// big and bigger need other limits than the rest, see Config.
var (
	big = entry{text: `<iq id='d####'><big a='stream:'>` + strings.Repeat("a", 300_000) + `</big></iq>`,
		out: `<iq` + both + ` id='d####'><big a='stream:'>` + strings.Repeat("a", 300_000) + `</big></iq>`}
	bigger = entry{kind: tooLarge, whole: 9000, text: `<iq><bigger>` + strings.Repeat("a", 12_000) + `</bigger></iq>`}
)

// digits reports whether s is text with four digits for each ####; n is how much of text
// s is, if it is the beginning of that.
func like(text, s string) bool {
	if len(text) != len(s) {
		return false
	}
	for i := range len(s) {
		if text[i] != s[i] && (text[i] != '#' || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}

// clientMessage finds what a client has said.
func clientMessage(s string) *entry {
	for i := range client {
		if like(client[i].text, s) {
			return &client[i]
		}
	}
	return nil
}

type pieceState int

const (
	unknownPiece pieceState = iota
	partOfPiece
	wholePiece
)

// serverPiece finds what a stream begins with; n is its length.
func serverPiece(b []byte) (e *entry, n int, state pieceState) {
	try := func(c *entry) bool {
		most := min(len(c.text), len(b))
		if !like(c.text[:most], string(b[:most])) {
			return false
		}
		switch {
		case most == len(c.text):
			e, n, state = c, most, wholePiece
			return true
		case c.kind == tooLarge && most > 10_000:
			e, n, state = c, most, wholePiece
			return true
		case state == unknownPiece:
			e, state = c, partOfPiece
		}
		return false
	}
	for i := range server {
		if try(&server[i]) {
			return e, n, state
		}
	}
	_ = try(&big) || try(&bigger)
	return e, n, state
}

// outOf is what becomes of text, which is e with its digits.
func (e *entry) outOf(text string) string {
	if e.out == "" {
		return text
	}
	at := strings.Index(e.text, "####")
	if at < 0 {
		return e.out
	}
	return strings.Replace(e.out, "####", text[at:at+4], 1)
}
