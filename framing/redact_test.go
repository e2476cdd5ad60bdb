package framing

import (
	"bytes"
	"strings"
	"testing"
)

// The structure of an element stays, its content does not.
func TestRedacted(t *testing.T) {
	for in, want := range map[string]string{
		`<iq type="set" id="a1" to='bob@example.org'><query xmlns="jabber:iq:roster"/></iq>`:           `<iq type='set' id='[2]' to='[15]'><query xmlns='jabber:iq:roster'/></iq>`,
		`<message><body>hello &amp; <b>you</b></body></message>`:                                       `<message><body>[12]<b>[3]</b></body></message>`,
		`<message><body><![CDATA[<secret>]]></body></message>`:                                         `<message><body>[8]</body></message>`,
		`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>`:             `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>[8]</auth>`,
		`<auth mechanism='X-HUNTER2'/>`:                                                                `<auth mechanism='[9]'/>`,
		"<mechanisms>\n <mechanism>SCRAM-SHA-1</mechanism><mechanism>hunter2</mechanism></mechanisms>": `<mechanisms><mechanism>SCRAM-SHA-1</mechanism><mechanism>[7]</mechanism></mechanisms>`,
		`<token xmlns='urn:xmpp:fast:0' token='abc' expiry='2030'/>`:                                   `<token xmlns='urn:xmpp:fast:0' token='[3]' expiry='[4]'/>`,
		`<resume xmlns='urn:xmpp:sm:3' h='15' previd='xyz'/>`:                                          `<resume xmlns='urn:xmpp:sm:3' h='15' previd='[3]'/>`,
		`<a h='12345678901' type='hunter2' xmlns='hunter2' xmlns:x='urn:xmpp:a b'/>`:                   `<a h='[11]' type='[7]' xmlns='[7]' xmlns:x='[12]'/>`,
		`<a b='x>y'>t</a>`:      `<a b='[3]'>[1]</a>`,
		`<é ü='1'/>`:            `<\u00e9 \u00fc='[1]'/>`,
		`hello`:                 `[5]`,
		`<a>hello`:              `<a>[5]`,
		`<a hello='x>y`:         `[13]`,
		`<!-- hello -->`:        `[14]`,
		`<a><!-- hello --></a>`: `<a>[18]`,
		`<a></a`:                `<a>[3]`,
		`<a/`:                   `[3]`,
		`<`:                     `[1]`,
		``:                      ``,
		`<a></a  >`:             `<a></a>`,
		"\x1b[31m":              `[5]`,
		"<\xff/>":               `<\xff/>`,
		`<a><![CDATA[hello`:     `<a>[5]`,
	} {
		if got := string(AppendRedacted(nil, []byte(in), 1000)); got != want {
			t.Errorf("%s:\n%s, want\n%s", in, got, want)
		}
	}
	long := "<a>" + strings.Repeat("<b c='d'/>", 1000) + "</a>"
	if got := string(AppendRedacted([]byte("x"), []byte(long), 100)); len(got) > 150 || !strings.HasPrefix(got, "x<a><b c='[1]'/>") || !strings.HasSuffix(got, "]") {
		t.Errorf("%s", got)
	}
	wide := "<a" + strings.Repeat(" b='d'", 1000) + "/>"
	if got := string(AppendRedacted(nil, []byte(wide), 100)); len(got) > 150 || !strings.HasSuffix(got, " more/>") {
		t.Errorf("%s", got)
	}
}

func FuzzRedacted(f *testing.F) {
	for _, dir := range []string{"up", "down", "features"} {
		for _, v := range vectors(f, dir) {
			f.Add(v.in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 200
		got := AppendRedacted(nil, in, limit)
		if bytes.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q is shown as %q", in, got)
		}
		if len(got) > limit+4*maxShownName*2+100 {
			t.Fatalf("%d bytes", len(got))
		}
	})
}
