package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the gateway is for, a scenario each. Those that run on a [wire] compare every byte of every session with what the
// server sent and got.

// arrives sends a stanza and returns it as the other side gets it, with unchanged content.
func arrives(t *testing.T, from, to *user, name, attrs, content string) *element {
	t.Helper()
	id := "a" + strconv.FormatInt(idCount.Add(1), 10)
	stanza := `<` + name + ` id="` + id + `" to="` + to.jid + `"` + attrs + `>` + content + `</` + name + `>`
	from.say(stanza)
	got := to.hear(name, func(e *element) bool { return e.is(name) && e.attr("id") == id })
	if got.attr("from") != from.jid || got.attr("to") != to.jid {
		t.Errorf("from %q to %q, want from %q to %q", got.attr("from"), got.attr("to"), from.jid, to.jid)
	}
	rootName, rest, _ := cutName(stanza)
	want, err := parse(declare(rootName, rest))
	if err != nil {
		t.Fatal(err)
	}
	if err := sameNodes(byName(got.Children), byName(want.Children)); err != nil {
		t.Errorf("%v:\nsent %.1000s\n got %.1000s", err, stanza, got.raw)
	}
	return got
}

// byName sorts the children of a stanza: ejabberd moves those that it knows to the front.
func byName(children []node) []node {
	return slices.SortedStableFunc(slices.Values(children), func(a, b node) int {
		return strings.Compare(a.XMLName.Space+a.XMLName.Local, b.XMLName.Space+b.XMLName.Local)
	})
}

// performs sends an iq-set that the other side answers with a result.
func performs(t *testing.T, from, to *user, content string) *element {
	t.Helper()
	got := arrives(t, from, to, "iq", ` type="set"`, content)
	to.say(`<iq type="result" id="` + got.attr("id") + `" to="` + from.jid + `"/>`)
	from.hear("the result", func(e *element) bool { return e.attr("type") == "result" && e.attr("id") == got.attr("id") })
	return got
}

// Behaviour: open, restart, close-by-client, namespace-restored, features-starttls. RFC 6121; XEP-0085, XEP-0184, XEP-0280. Instant messaging: subscription, presence, states, receipts, carbons, a roster.
func TestInstantMessaging(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		alice, bob := w.user("alice"), w.user("bob")
		tablet := w.as(strings.TrimSuffix(bob.bare(), "@"+domain), "tablet")
		tablet.ask("", "set", `<enable xmlns="urn:xmpp:carbons:2"/>`)

		for _, u := range w.clients { // without a roster, no notices of subscription
			u.ask("", "get", `<query xmlns="jabber:iq:roster"/>`)
		}
		alice.ask("", "set", `<query xmlns="jabber:iq:roster"><item jid="`+bob.bare()+`" name="Bób &amp; Co"><group>Ami·e·s</group></item></query>`)
		for _, pair := range [][2]*user{{alice, bob}, {bob, alice}} {
			from, to := pair[0], pair[1]
			typed := func(kind string) func(*element) bool {
				return func(e *element) bool {
					return e.is("presence") && e.attr("type") == kind && strings.HasPrefix(e.attr("from"), from.bare())
				}
			}
			from.say(`<presence type="subscribe" to="` + to.bare() + `"/>`)
			to.hear("a subscription request", typed("subscribe"))
			to.say(`<presence type="subscribed" to="` + from.bare() + `"/>`)
			from.hear("the subscription", func(e *element) bool { return e.is("presence") && e.attr("type") == "subscribed" })
		}
		alice.say(`<presence><show>away</show><status>à table 🍝</status></presence>`)
		bob.hear("alice's status", func(e *element) bool { return e.is("presence") && e.child("status").Text == "à table 🍝" })

		arrives(t, alice, bob, "message", ` type="chat"`, `<composing xmlns="http://jabber.org/protocol/chatstates"/>`)
		got := arrives(t, alice, bob, "message", ` type="chat"`,
			`<body>Salut &lt;Bób&gt; 👋</body><request xmlns="urn:xmpp:receipts"/><active xmlns="http://jabber.org/protocol/chatstates"/>`)
		carbon := tablet.hear("a carbon", func(e *element) bool { return e.child("received", "forwarded", "message").attr("id") == got.attr("id") })
		if body := carbon.child("received", "forwarded", "message").body(); body != got.body() {
			t.Errorf("carbon of %q: %q", got.body(), body)
		}
		arrives(t, bob, alice, "message", ` type="chat"`, `<received xmlns="urn:xmpp:receipts" id="`+got.attr("id")+`"/>`)

		roster := alice.ask("", "get", `<query xmlns="jabber:iq:roster"/>`).child("query", "item")
		if roster.attr("name") != "Bób & Co" || roster.child("group").Text != "Ami·e·s" || roster.attr("subscription") != "both" {
			t.Errorf("roster: %+v", roster)
		}
		w.check()
	})
}

// XEP-0045. Group chat: ten occupants, all of whom hear all messages in the same order.
func TestGroupChat(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const occupants, each = 10, 5
		w := newWire(t, s)
		room := fmt.Sprintf("room%d@%s", idCount.Add(1), mucDomain)
		users := make([]*user, occupants)
		for i := range users {
			users[i] = w.user("occupant")
			nick := fmt.Sprintf("%s/ник %d", room, i)
			users[i].say(`<presence to="` + nick + `"><x xmlns="` + nsMUC + `"><history maxstanzas="0"/></x></presence>`)
			users[i].hear("own presence in the room", func(e *element) bool { return e.is("presence") && e.attr("from") == nick })
			if i == 0 {
				users[i].ask(room, "set", `<query xmlns="http://jabber.org/protocol/muc#owner"><x xmlns="jabber:x:data" type="submit"/></query>`)
			}
		}
		var wg sync.WaitGroup
		heard := make([][]string, occupants)
		for i, u := range users {
			wg.Go(func() {
				for n := range each {
					if err := u.send(fmt.Sprintf(`<message to="%s" type="groupchat"><body>%d.%d 🎉</body></message>`, room, i, n)); err != nil {
						t.Error(err)
					}
				}
				for range occupants * each {
					e, err := u.await(func(e *element) bool { return e.attr("type") == "groupchat" && e.has("body") })
					if err != nil {
						t.Errorf("%s: %v", u.jid, err)
						return
					}
					heard[i] = append(heard[i], e.body())
				}
			})
		}
		wg.Wait()
		for i := range heard {
			if !slices.Equal(heard[i], heard[0]) {
				t.Errorf("occupant %d heard %q, occupant 0 %q", i, heard[i], heard[0])
			}
			for sender := range occupants {
				next := 0
				for _, body := range heard[i] {
					if strings.HasPrefix(body, fmt.Sprintf("%d.", sender)) {
						if want := fmt.Sprintf("%d.%d 🎉", sender, next); body != want {
							t.Errorf("occupant %d heard %q, want %q", i, body, want)
						}
						next++
					}
				}
			}
		}
		w.check()
	})
}

// Gaming: 50 small messages a second in each direction for ten seconds, in order. The same game is played over TCP at the
// same time; the difference in latency is what two passages through the gateway cost.
func TestGaming(t *testing.T) {
	// Both servers at once: this test does not use its time for much.
	t.Run("servers", func(t *testing.T) {
		eachServer(t, func(t *testing.T, s *server) {
			t.Parallel()
			vias := []struct{ name, url string }{{"gateway", s.websocket()}, {"TCP", "tcp://" + s.c2s}}
			var p50, p99 [2]time.Duration
			var wg sync.WaitGroup
			for i, via := range vias {
				a, b := as(t, via.url, s.newUser(t, "player"), "p"), as(t, via.url, s.newUser(t, "player"), "p")
				wg.Go(func() {
					latencies := play(t, a, b)
					slices.Sort(latencies)
					if n := len(latencies); n > 0 {
						p50[i], p99[i] = latencies[n/2], latencies[n*99/100]
						t.Logf("over %-7s %d messages, latency p50 %v, p99 %v", via.name, n, p50[i], p99[i])
					}
				})
			}
			wg.Wait()
			t.Logf("difference: p50 %v, p99 %v", p50[0]-p50[1], p99[0]-p99[1])
		})
	})
}

func play(t *testing.T, a, b *user) (latencies []time.Duration) {
	const rate, seconds = 50, 10
	const moves = rate * seconds
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, pair := range [][2]*user{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		var sent [moves]time.Time
		wg.Go(func() {
			tick := time.NewTicker(time.Second / rate)
			defer tick.Stop()
			for i := range moves {
				<-tick.C
				mu.Lock()
				sent[i] = time.Now()
				mu.Unlock()
				if err := from.send(fmt.Sprintf(`<message to="%s"><move xmlns="urn:example:game" n="%d" x="%d" y="-3"/></message>`, to.jid, i, i*7%100)); err != nil {
					t.Errorf("%s: %v", from.jid, err)
					return
				}
			}
		})
		wg.Go(func() {
			for i := range moves {
				e, err := to.await(func(e *element) bool { return e.has("move") })
				now := time.Now()
				if err != nil {
					t.Errorf("%s: %v", to.jid, err)
					return
				}
				if got := e.child("move"); got.attr("n") != strconv.Itoa(i) || got.attr("x") != strconv.Itoa(i*7%100) {
					t.Errorf("%s: want move %d, got %s", to.jid, i, e.raw)
					return
				}
				mu.Lock()
				latencies = append(latencies, now.Sub(sent[i]))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return latencies
}

// XEP-0166, XEP-0167, XEP-0176. Streaming media: a call is set up, gets candidates as they are found, and ends.
func TestJingle(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		alice, bob := w.user("alice"), w.user("bob")
		call(t, alice, bob, func(action, inner string) string {
			return fmt.Sprintf(`<jingle xmlns="urn:xmpp:jingle:1" action="%s" initiator="%s" sid="a73sjjvkla37jfea">%s</jingle>`, action, alice.jid, inner)
		})
		w.check()
	})
}

// call goes through a session from initiation to termination; jingle wraps content for an action.
func call(t *testing.T, caller, callee *user, jingle func(action, inner string) string) {
	t.Helper()
	content := func(creator, ufrag string, fingerprint byte) string {
		return `<content creator="` + creator + `" name="voice"><description xmlns="urn:xmpp:jingle:apps:rtp:1" media="audio">` +
			`<payload-type id="111" name="opus" clockrate="48000" channels="2"><parameter name="minptime" value="10"/>` +
			`<parameter name="useinbandfec" value="1"/></payload-type><payload-type id="0" name="PCMU" clockrate="8000"/>` +
			`<rtcp-mux/></description><transport xmlns="urn:xmpp:jingle:transports:ice-udp:1" pwd="asd88fgpdd777uzjYhagZg" ufrag="` + ufrag + `">` +
			`<fingerprint xmlns="urn:xmpp:jingle:apps:dtls:0" hash="sha-256" setup="actpass">` +
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%02X:", fingerprint), 32), ":") + `</fingerprint></transport></content>`
	}
	candidate := func(creator string, n int) string {
		return fmt.Sprintf(`<content creator="%s" name="voice"><transport xmlns="urn:xmpp:jingle:transports:ice-udp:1" pwd="p" ufrag="u">`+
			`<candidate component="1" foundation="%d" generation="0" id="el%d" ip="2001:db8::%d" network="1" port="8998" priority="2130706431" protocol="udp" type="host"/>`+
			`</transport></content>`, creator, n, n, n)
	}
	performs(t, caller, callee, jingle("session-initiate", content("initiator", "8hhy", 0x0a)))
	for n := range 3 {
		performs(t, caller, callee, jingle("transport-info", candidate("initiator", n)))
		performs(t, callee, caller, jingle("transport-info", candidate("responder", n)))
	}
	performs(t, callee, caller, jingle("session-info", `<ringing xmlns="urn:xmpp:jingle:apps:rtp:info:1"/>`))
	performs(t, callee, caller, jingle("session-accept", content("responder", "9uB6", 0xf5)))
	performs(t, caller, callee, jingle("session-terminate", `<reason><success/><text>Au revoir 👋</text></reason>`))
}

// XEP-0047. Streaming media: an in-band bytestream of 1 MiB.
func TestInBandBytestream(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const block = 8192
		w := newWire(t, s)
		alice, bob := w.user("alice"), w.user("bob")
		file := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{1}).Read(file)
		performs(t, alice, bob, fmt.Sprintf(`<open xmlns="http://jabber.org/protocol/ibb" block-size="%d" sid="i781hf64" stanza="iq"/>`, block))
		var got []byte
		for seq := 0; seq*block < len(file); seq++ {
			e := performs(t, alice, bob, fmt.Sprintf(`<data xmlns="http://jabber.org/protocol/ibb" seq="%d" sid="i781hf64">%s</data>`,
				seq, base64.StdEncoding.EncodeToString(file[seq*block:(seq+1)*block])))
			b, err := base64.StdEncoding.DecodeString(e.child("data").Text)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b...)
		}
		performs(t, alice, bob, `<close xmlns="http://jabber.org/protocol/ibb" sid="i781hf64"/>`)
		if !bytes.Equal(got, file) {
			t.Errorf("%d bytes arrived, not those %d", len(got), len(file))
		}
		w.check()
	})
}

// XEP-0060, XEP-0163, XEP-0323. Internet of Things: twenty sensors publish, one subscriber gets all readings.
func TestSensors(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const sensors, readings = 20, 10
		const topic = "urn:example:temperature"
		reading := func(sensor, n int) string {
			return fmt.Sprintf(`<data xmlns="urn:example:sensor" sensor="%d" n="%d"><value unit="°C">%d.%d</value></data>`, sensor, n, 20+n, sensor)
		}
		w := newWire(t, s)
		hub := w.user("hub")
		all := make([]*user, sensors)
		for i := range all {
			all[i] = w.user("sensor")
			all[i].publish(topic, "first", reading(i, 0))
			hub.subscribe(all[i].bare(), topic)
		}
		hub.backlog = nil // a server may send the last item on subscription
		var wg sync.WaitGroup
		for i, u := range all {
			wg.Go(func() {
				for n := range readings {
					if _, err := u.request("", "set", fmt.Sprintf(`<pubsub xmlns="%s"><publish node="%s"><item id="r%d">%s</item></publish></pubsub>`,
						nsPubsub, topic, n, reading(i, n))); err != nil {
						t.Errorf("%s: %v", u.jid, err)
						return
					}
				}
			})
		}
		next := make(map[string]int)
		for range sensors * readings {
			e := hub.hear("a reading", func(e *element) bool {
				return strings.HasPrefix(e.child("event", "items", "item").attr("id"), "r")
			})
			i := slices.IndexFunc(all, func(u *user) bool { return u.bare() == e.attr("from") })
			if i < 0 {
				t.Fatalf("a reading of %s", e.attr("from"))
			}
			n := next[e.attr("from")]
			next[e.attr("from")]++
			item := e.child("event", "items", "item")
			want, err := parse(reading(i, n))
			if err != nil {
				t.Fatal(err)
			}
			if err := sameNodes(item.Children, []node{want.node}); err != nil {
				t.Errorf("reading %d of sensor %d: %v: %s", n, i, err, e.raw)
			}
		}
		wg.Wait()
		w.check()
	})
}

// XEP-0106, XEP-0166, RFC 7247 and draft-ietf-stox-media. SIP interworking: a gateway to SIP acts for sip:alice@example.com under
// an escaped JID, and maps its SDP to Jingle.
func TestSIP(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		w := newWire(t, s)
		escaped := fmt.Sprintf(`sip\3aalice\40example.com\2f%d`, userCount.Add(1))
		if err := s.register(escaped); err != nil {
			t.Fatal(err)
		}
		sip, bob := w.as(escaped, `gw;transport=ws`), w.user("bob")
		if want := escaped + "@" + domain + "/gw;transport=ws"; sip.jid != want {
			t.Fatalf("bound %q, want %q", sip.jid, want)
		}
		sdp := `<sdp xmlns="urn:example:sdp"><![CDATA[v=0` + "\n" + `o=alice 2890844526 2890844526 IN IP6 2001:db8::1` + "\n" +
			`s=<&>` + "\n" + `m=audio 49172 RTP/AVP 0 111` + "\n" + `a=rtpmap:111 opus/48000/2]]></sdp>`
		for _, pair := range [][2]*user{{sip, bob}, {bob, sip}} {
			caller, callee := pair[0], pair[1]
			call(t, caller, callee, func(action, inner string) string {
				return fmt.Sprintf(`<jingle xmlns="urn:xmpp:jingle:1" action="%s" initiator="%s" sid="%s">%s%s</jingle>`,
					action, caller.jid, "3c26f6a1-"+caller.jid[:3], inner, sdp)
			})
			arrives(t, caller, callee, "message", "", `<body>MESSAGE sip:bob@example.com SIP/2.0&#xA;Content-Length: 4 🕾</body>`)
		}
		w.check()
	})
}
