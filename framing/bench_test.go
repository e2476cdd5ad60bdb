package framing

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
)

// corpora are elements of the sizes that matter: what chats are made of, and
// the two that are large. Each is what goes up; inherited is what comes down.
var corpora = []struct{ name, element string }{
	{"relay", `<message xmlns='jabber:client' to='juliet@example.org/balcony' id='00000000' type='chat'>` +
		`<body>` + strings.Repeat("wherefore art thou? ", 6)[:110] + `</body></message>`},
	{"chat", `<message xmlns='jabber:client' from='alice@example.org/phone.4Fa1' to='bob@example.net' type='chat' id='6f2c9b1e-70d4-4b8c'>` +
		`<body>Shall we say half past seven, in front of the old library?</body>` +
		`<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/></message>`},
	{"cyrillic", `<message xmlns='jabber:client' from='alice@example.org/phone.4Fa1' to='bob@example.net' type='chat' id='6f2c9b1e-70d4-4b8c'>` +
		`<body>Давай в половине восьмого у входа в старую библиотеку?</body>` +
		`<active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/></message>`},
	{"presence", `<presence xmlns='jabber:client' from='alice@example.org/phone.4Fa1' to='bob@example.net' id='p-19'>` +
		`<show>away</show><status>On the train</status><priority>5</priority>` +
		`<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://client.example/caps' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/>` +
		`<x xmlns='vcard-temp:x:update'><photo>01b87fcd030b72895ff8e88db57ec525450f000d</photo></x></presence>`},
	{"roster21k", roster(150)},
	{"mam", `<message xmlns='jabber:client' to='alice@example.org/phone.4Fa1' from='alice@example.org'>` +
		`<result xmlns='urn:xmpp:mam:2' id='28482-98726-73623' queryid='f27'><forwarded xmlns='urn:xmpp:forward:0'>` +
		`<delay xmlns='urn:xmpp:delay' stamp='2026-07-10T23:08:25Z'/>` +
		`<message xmlns='jabber:client' to='bob@example.net' from='alice@example.org/desk' type='chat' id='0c5e7a42'>` +
		`<body>Have you seen the minutes? Page &lt;4&gt; has the figures you were looking for.</body>` +
		`<origin-id xmlns='urn:xmpp:sid:0' id='0c5e7a42'/><request xmlns='urn:xmpp:receipts'/></message></forwarded></result></message>`},
	{"avatar64k", `<iq xmlns='jabber:client' type='set' id='a1'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:xmpp:avatar:data'>` +
		`<item id='111f4b3c50d7b0df729d299bc6f8e9ef9066971f'><data xmlns='urn:xmpp:avatar:data'>` +
		strings.Repeat("qANQR1DBwU4DX7jmYZnncmUQB/9KuKBddzQH", 64<<10/36) + `</data></item></publish></pubsub></iq>`},
}

func roster(n int) string {
	var b strings.Builder
	b.WriteString(`<iq xmlns='jabber:client' id='r1' type='result' to='alice@example.org/phone.4Fa1'><query xmlns='jabber:iq:roster' ver='ver11'>`)
	for i := range n {
		fmt.Fprintf(&b, `<item jid='contact%03d@example.net' name='Contact Number %d' subscription='both'><group>Friends of the house</group></item>`, i, i)
	}
	b.WriteString(`</query></iq>`)
	return b.String()
}

// inherited is an element as it stands in a stream.
func inherited(s string) string { return strings.Replace(s, ` xmlns='jabber:client'`, "", 1) }

func BenchmarkUp(b *testing.B) {
	for _, c := range corpora {
		msg := []byte(c.element)
		b.Run(c.name, func(b *testing.B) {
			var p MessageParser
			var m Message
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Parse(msg, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDown is what a stanza costs when a read brings many of them.
func BenchmarkDown(b *testing.B) {
	const batch = 16
	for _, c := range corpora {
		in := bytes.Repeat([]byte(inherited(c.element)), batch)
		dst := make([]byte, 0, 1024)
		b.Run(c.name, func(b *testing.B) {
			var d StreamSplitter
			var u StreamUnit
			b.SetBytes(int64(len(in) / batch))
			b.ReportAllocs()
			rest := in
			for b.Loop() {
				n, err := d.Next(rest, &u)
				if err != nil || n != len(in)/batch {
					b.Fatal(n, err)
				}
				if _, tail := u.AppendHead(dst); len(tail) == 0 || u.Size() == 0 {
					b.Fatal("no tail")
				}
				if rest = rest[n:]; len(rest) == 0 {
					rest = in
				}
			}
		})
	}
}

// BenchmarkEncodingXML is what the standard library needs for the same.
func BenchmarkEncodingXML(b *testing.B) {
	for _, c := range corpora {
		b.Run(c.name, func(b *testing.B) {
			r := strings.NewReader("")
			b.SetBytes(int64(len(c.element)))
			for b.Loop() {
				r.Reset(c.element)
				d := xml.NewDecoder(r)
				for {
					if _, err := d.RawToken(); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkStructure finds the end of the element and nothing else: the least
// that Parse could do.
func BenchmarkStructure(b *testing.B) {
	for _, c := range corpora {
		msg := []byte(c.element)
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if structure(msg) != len(msg) {
					b.Fatal("no end")
				}
			}
		})
	}
}

// structure follows tags and quotes only. There is no CDATA in the corpora.
func structure(b []byte) int {
	depth := 0
	for i := 0; ; {
		j := bytes.IndexByte(b[i:], '<')
		if j < 0 {
			return -1
		}
		i += j + 1
		end := b[i] == '/'
		j, _ = tagEnd(b, i, 0)
		switch {
		case end:
			depth--
		case b[j-1] != '/':
			depth++
		}
		if i = j + 1; depth == 0 {
			return i
		}
	}
}
