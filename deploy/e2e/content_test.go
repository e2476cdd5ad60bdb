package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// sameContent fails unless two stanzas have the same children. Prosody serialises attributes in another order each time;
// that the gateway leaves every byte alone is shown by [wire].
func sameContent(t *testing.T, got, want *element) {
	t.Helper()
	if err := sameNodes(got.Children, want.Children); err != nil {
		t.Errorf("%v:\n%.1000s\nover the gateway, over TCP\n%.1000s", err, got.raw, want.raw)
	}
}

// observed is a user who is connected twice: through the gateway, and over TCP to see what the server sends there.
type observed struct{ here, tcp *user }

func (w *wire) observe(label string) observed {
	w.t.Helper()
	name := w.s.newUser(w.t, label)
	return observed{w.as(name, "gateway"), as(w.t, "tcp://"+w.s.c2s, name, "tcp")}
}

// send sends the same message to both resources and compares what arrives; it returns the one through the gateway.
func (o observed) send(t *testing.T, from *user, content string) *element {
	t.Helper()
	var got [2]*element
	for i, u := range []*user{o.here, o.tcp} {
		from.say(`<message to="` + u.jid + `" type="chat" id="same">` + content + `</message>`)
		got[i] = u.hear("a message", func(e *element) bool { return e.is("message") && e.has("body") })
	}
	sameContent(t, got[0], got[1])
	return got[0]
}

// RFC 7395, section 3.3.3; RFC 6120, section 11.6 (UTF-8).
func TestNonASCII(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		alice := w.as(s.newUser(t, "alice"), "мобильный")
		bob := w.observe("bob")
		for _, text := range []string{
			"Zoë, naïve façade — “déjà vu”",
			"Здравствуй, мир. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया. 你好，世界。こんにちは",
			"😀 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200f\u2028\ufeff\uffe6 \U0001d11e \U0010fffd",
			"\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\U00010000", // the ends of each UTF-8 length
			"tab\tnewline\nend",
		} {
			// A marker on either side keeps servers from trimming.
			got := bob.send(t, alice, "<body>|"+text+"|</body>")
			if got.body() != "|"+text+"|" {
				t.Errorf("got %q, want %q", got.body(), text)
			}
			if got.attr("from") != alice.jid {
				t.Errorf("from %q, want %q", got.attr("from"), alice.jid)
			}
		}
		got := bob.send(t, alice, `<body>&lt;/message&gt; &amp;amp; &#x1F600; <![CDATA[</body></message><stream:features>]]></body>`)
		if want := "</message> &amp; \U0001F600 </body></message><stream:features>"; got.body() != want {
			t.Errorf("got %q, want %q", got.body(), want)
		}
		w.check()
	})
}

// Behaviour: frame-length. A stanza of 200 KiB in each direction: the longest that servers take is 256 KiB.
func TestLargeStanza(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		alice := w.as(s.newUser(t, "alice"), "a")
		bob := w.observe("bob")
		text := randomText(200 << 10)
		if got := bob.send(t, alice, "<body>"+text+"</body>"); got.body() != text {
			t.Errorf("alice to bob: %d bytes arrived, not those %d", len(got.body()), len(text))
		}
		bob.here.say(`<message to="` + alice.jid + `"><body>` + text + `</body></message>`)
		alice.hearBody(text)
		w.check()
	})
}

// randomText is n bytes of text, the same in each run, with no character that XML escapes.
func randomText(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("abcdefghijklmnopqrstuvwxyz0123456789 éщ中😀")
	var b strings.Builder
	for b.Len() < n-4 {
		b.WriteRune(alphabet[rng.IntN(len(alphabet))])
	}
	for b.Len() < n {
		b.WriteByte('.')
	}
	return b.String()
}

// publish publishes an item to a PEP node that everyone may read. XEP-0060, section 7.1; XEP-0163.
func (u *user) publish(node, id, payload string) {
	u.t.Helper()
	u.ask("", "set", `<pubsub xmlns="`+nsPubsub+`"><publish node="`+node+`"><item id="`+id+`">`+payload+`</item></publish>`+
		`<publish-options><x xmlns="jabber:x:data" type="submit">`+
		`<field var="FORM_TYPE" type="hidden"><value>http://jabber.org/protocol/pubsub#publish-options</value></field>`+
		`<field var="pubsub#access_model"><value>open</value></field></x></publish-options></pubsub>`)
}

// subscribe subscribes to a PEP node of somebody else. XEP-0060, section 6.1.
func (u *user) subscribe(owner, node string) {
	u.t.Helper()
	u.ask(owner, "set", `<pubsub xmlns="`+nsPubsub+`"><subscribe node="`+node+`" jid="`+u.jid+`"/></pubsub>`)
}

// XEP-0060, sections 6.1, 6.5 and 7.1; XEP-0163.
func TestPersonalEventing(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const nodeName = "urn:example:mood"
		const payload = `<mood xmlns="urn:example:mood" level="1">heiter &amp; wolkig ⛅<x xmlns="urn:example:x" y="&lt;"/></mood>`
		w := newWire(t, s)
		alice := w.as(s.newUser(t, "alice"), "a")
		bob := w.observe("bob")
		alice.publish(nodeName, "first", payload)
		bob.here.subscribe(alice.bare(), nodeName)
		bob.tcp.subscribe(alice.bare(), nodeName)
		alice.publish(nodeName, "second", payload)
		isSecond := func(e *element) bool {
			return e.is("message") && e.child("event", "items", "item").attr("id") == "second"
		}
		here, tcp := bob.here.hear("the item", isSecond), bob.tcp.hear("the item", isSecond)
		sameContent(t, here, tcp)
		const get = `<pubsub xmlns="` + nsPubsub + `"><items node="` + nodeName + `"/></pubsub>`
		sameContent(t, bob.here.ask(alice.bare(), "get", get), bob.tcp.ask(alice.bare(), "get", get))
		w.check()
	})
}

// XEP-0313, section 4; XEP-0059, section 2.1. A page of 50 messages arrives in order between a query and its result.
func TestArchivePage(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const total, page = 60, 50
		w := newWire(t, s)
		alice := w.as(s.newUser(t, "alice"), "a")
		bob := w.observe("bob")
		bob.here.ask("", "set", `<prefs xmlns="urn:xmpp:mam:2" default="always"><always/><never/></prefs>`)
		for i := range total {
			alice.say(fmt.Sprintf(`<message to="%s" type="chat"><body>%d 📜</body></message>`, bob.here.jid, i))
		}
		for i := range total {
			bob.here.hearBody(fmt.Sprintf("%d 📜", i))
		}
		// read fetches a page and returns its messages, and the id of the last.
		read := func(u *user, after string) (results []*element, last string) {
			fin := u.ask("", "set", `<query xmlns="urn:xmpp:mam:2"><set xmlns="http://jabber.org/protocol/rsm"><max>`+
				fmt.Sprint(page)+`</max>`+after+`</set></query>`)
			for _, e := range u.backlog {
				if e.has("result") {
					results = append(results, e)
				}
			}
			u.backlog = nil
			return results, fin.child("fin", "set", "last").Text
		}
		var archive [2][]*element
		for i, u := range []*user{bob.here, bob.tcp} {
			first, last := read(u, "")
			rest, _ := read(u, "<after>"+last+"</after>")
			if len(first) != page || len(rest) != total-page {
				t.Fatalf("pages of %d and %d messages, want %d and %d", len(first), len(rest), page, total-page)
			}
			archive[i] = append(first, rest...)
		}
		for i := range total {
			sameContent(t, archive[0][i], archive[1][i])
			if got, want := archive[0][i].child("result", "forwarded", "message").body(), fmt.Sprintf("%d 📜", i); got != want {
				t.Fatalf("message %d of the archive: %q", i, got)
			}
		}
		w.check()
	})
}

// Behaviour: prefix-restored. RFC 7395, section 3.3.3. On TCP the prefix "stream" is bound by the stream header, so anybody may use
// it in a message; ejabberd passes it on as it is. The client checks that each message is a document of its own.
func TestStreamPrefixInContent(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		bob := w.user("bob")
		mallory := as(t, "tcp://"+s.c2s, s.newUser(t, "mallory"), "m")
		for _, content := range []string{
			`<stream:foo/>`,
			`<stream:foo a="1"><stream:bar/></stream:foo>`,
			`<foo xmlns="urn:example:foo" stream:a="1"/>`,
			`<foo xmlns="urn:example:foo"><bar xmlns="http://etherx.jabber.org/streams"/></foo>`,
		} {
			mallory.say(`<message to="` + bob.jid + `" type="chat">` + content + `<body>` + strings.ReplaceAll(content, "<", "&lt;") + `</body></message>`)
			bob.hearBody(content)
		}
		mallory.leave()
		w.check()
	})
}
