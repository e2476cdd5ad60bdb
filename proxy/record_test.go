package proxy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"xmppgate/proxy/internal/relay"

	"golang.org/x/tools/txtar"
)

// A recording is a log that may be read while it is written.
type recording struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *recording) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

// ended returns the records of sessions that are over.
func (r *recording) ended(t *testing.T) (records []map[string]any) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(r.text.Bytes()) {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] == "session ended" {
			records = append(records, record)
		}
	}
	return records
}

// panicker is an observer with a fault.
type panicker struct{ nopObserver }

func (panicker) Pinged(time.Duration) { panic("a fault") }

// Every ending has a record that says what happened, how far the session had come
// and where.
var recordCases = []struct {
	ending, transcript string
	env                string
	want               string // attributes, the last of which is the cause
}{
	{"client-closed", "session opens\nclient sends <close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>\nclient drops", "",
		"domain=proto.test server=one phase=negotiating cause=the client closed the stream with <close/>"},
	{"client-left", "session logs in\nclient sends close 1001 \"bye alice@proto.test\"", "",
		"domain=proto.test server=one phase=established cause=the client closed the WebSocket with code 1001"},
	{"client-lost", "session logs in\nclient drops", "", "phase=established cause=*connection*"},
	{"client-silent", "session logs in\n61s pass", "", "phase=established cause=nothing came from the client for 1m0s"},
	{"client-stalled", "session logs in\nclient stops reading\nserver sends <message>{x*300000}</message>\n40s pass", "", "phase=established cause=the client stopped reading"},
	{"server-closed", "session logs in\nserver sends </stream:stream>\n6s pass", "", "phase=established cause=the server closed the stream"},
	{"server-error", "session logs in\nserver sends <stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>alice is here</text></stream:error></stream:stream>", "",
		"phase=established condition=conflict cause=the server sent the stream error conflict"},
	{"server-error", "session opens\nserver sends <stream:error><alice-at-home xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>", "",
		"phase=negotiating condition=undefined-condition cause=the server sent the stream error undefined-condition"},
	{"server-error", "session opens\nserver sends <stream:error/></stream:stream>", "", "condition=undefined-condition cause=*undefined-condition"},
	{"server-error", "session logs in\nserver sends <stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>\nclient drops", "",
		"condition=reset cause=the server sent the stream error reset"},
	{"server-error", "session logs in\nserver sends <stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>\nclient sends close 1001", "",
		"condition=reset cause=the server sent the stream error reset"},
	// Logins: what has failed last, and how.
	{"client-lost", "session opens\nclient sends <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>AGEAYg==</auth>\nserver sends <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text>no alice</text></failure>\nclient drops", "",
		"domain=proto.test server=one phase=negotiating mechanism=scram login=not-authorized cause=*connection*"},
	{"client-lost", "session opens\nclient sends <authenticate xmlns='urn:xmpp:sasl:2' mechanism='alice'/>\n11s pass\nclient drops", "",
		"phase=negotiating mechanism=other login=unanswered cause=*connection*"},
	{"client-lost", "session logs in\nclient drops", "", "phase=established mechanism=plain login= jid= cause=*connection*"},
	{"client-lost", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' from='bob&#x202e;@proto.test/phone' version='1.0'/>\nserver sends <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='2'>\nclient drops", "XMPPGATE_LOG_JIDS=true\n",
		`jid=bob\u202e@proto.test cause=*connection*`},
	{"client-lost", "session logs in\nserver sends <iq type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>carol@proto.test/alice</jid></bind></iq>\nclient drops", "XMPPGATE_LOG_JIDS=true\n",
		"jid=carol@proto.test cause=*connection*"},
	{"client-lost", "session opens\nclient sends <authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>\nserver sends <success xmlns='urn:xmpp:sasl:2'><authorization-identifier>carol@proto.test/x</authorization-identifier></success>\nclient drops", "XMPPGATE_LOG_JIDS=true\n",
		"mechanism=plain jid=carol@proto.test cause=*connection*"},
	{"server-lost", "session logs in\nserver drops", "", "server=one phase=established cause=the server's connection broke or ended without </stream:stream>"},
	{"server-broken", "session logs in\nserver sends <!-- alice -->", "", "phase=established cause=*"},
	{"server-broken", "session opens\nserver sends <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='2'>", "", "phase=negotiating cause=*"},
	{"server-too-large", "session logs in\nserver sends <message>{x*20000}</message>", "XMPPGATE_MAX_STANZA_BYTES=10000\nXMPPGATE_MAX_SERVER_STANZA_BYTES=15000\n",
		"phase=established limit_bytes=15000 cause=element of more than 15000 bytes"},
	{"server-too-large", "session opens\nserver sends <stream:features>{x*70000}</stream:features>", "", "phase=negotiating limit_bytes=65536 cause=*above 65536 bytes*"},
	{"server-too-large", "session logs in\nserver sends <message a='{x*300000}'>", "", "phase=established limit_bytes=262144 cause=*start tag: too large"},
	{"server-too-large", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>\nserver sends <stream:stream a='{x*5000}'>", "",
		"phase=opening limit_bytes=4096 cause=*stream header above 4096 bytes*"},
	{"server-silent", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>\n11s pass", "",
		"domain=proto.test server=one phase=opening cause=no stream header from the server within 10s"},
	{"server-silent", sessionOpens + `
server sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client sends <auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>
client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>
31s pass`, "", "phase=negotiating cause=the server did not tell the outcome of SASL within 30s"},
	{"dial-failed", "server refuses\nclient sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>", "",
		"domain=proto.test phase=opening cause=dial server: dial: connection refused"},
	{"dial-failed", "server hangs\nclient sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>\n12s pass", "", "cause=*dial*"},
	{"open-timeout", "11s pass", "", "domain= server= phase=opening cause=no <open/> within 10s"},
	{"open-too-large", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' x='{x*5000}'/>", "",
		"limit_bytes=4096 size_bytes=5056 cause=the first message was above the header's size limit"},
	{"bad-open", "client sends <iq/>", "", "cause=an element came while the stream had not begun"},
	{"bad-open", "client sends <open to='proto.test'/>", "", "domain= cause=<open/> is not in the namespace of RFC 7395"},
	{"bad-open", "client sends <stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='proto.test'>", "", "cause=a stream header of RFC 6120 in place of <open/>: *"},
	{"bad-open", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='other.test' version='1.0'/>", "XMPPGATE_DOMAINS=proto.test\n",
		"domain=other.test cause=the domain is not one that clients may name; XMPPGATE_DOMAINS lists them"},
	{"bad-open", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='alice@proto.test' version='1.0'/>", "XMPPGATE_DOMAINS=proto.test\n",
		"domain= cause=the domain is not one that clients may name; XMPPGATE_DOMAINS lists them"},
	{"bad-open", "client sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>", "XMPPGATE_DOMAINS=proto.test\n", "domain= cause=the header names no domain"},
	{"reopened", "session opens\nclient sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>", "",
		"phase=negotiating cause=a header came while the stream was open"},
	{"bad-frame", "session opens\nclient sends frame c180", "", "cause=*"},
	{"binary-frame", "session opens\nclient sends binary abc", "", "cause=the client sent a binary message"},
	{"bad-compression", "session opens\nclient sends frame c181 00000000 06", "XMPPGATE_COMPRESSION=on\n", "phase=negotiating up_wire_bytes=81 cause=compressed message: *"},
	{"too-large", "session logs in\nclient sends compressed <iq>{x*300000}</iq>", "XMPPGATE_COMPRESSION=on\n", "phase=established limit_bytes=262144 size_bytes=262145 cause=the client sent a message above the size limit"},
	{"not-text", "session opens\nclient sends frame 8182000000003cff", "", "cause=*UTF-8*"},
	{"too-large", "session logs in\nclient sends <iq>{x*20000}</iq>", "XMPPGATE_MAX_STANZA_BYTES=10000\n", "phase=established limit_bytes=10000 size_bytes=20009 cause=the client sent a message above the size limit"},
	{"bad-xml", "session logs in\nclient sends <iq><query></iq>", "", "phase=established cause=*"},
	{"starttls", "session opens\nclient sends <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "", "cause=the client tried <starttls/> inside the WebSocket"},
	{"auth-timeout", "session opens\n61s pass", "XMPPGATE_AUTH_TIMEOUT=1m\nXMPPGATE_PING_INTERVAL=2m\n", "server=one phase=negotiating cause=the client did not authenticate within 1m0s"},
	{"failed-logins", "session opens\nserver sends " + saslFailure + saslFailure, "XMPPGATE_NETWORK_FAILED_LOGINS=0.001/s:1\nXMPPGATE_TRUSTED_PROXIES=unix\n",
		"phase=negotiating cause=too many logins from the client's network have failed"},
	{"max-age", "session logs in\n3601s pass", "XMPPGATE_MAX_SESSION_AGE=1h\nXMPPGATE_PING_INTERVAL=2h\n", "phase=established cause=the session has reached the greatest age"},
	{"denied", "session logs in\ngateway denies 0.0.0.0/0", "XMPPGATE_TRUSTED_PROXIES=unix\n", "phase=established cause=the client's network was put on the deny list"},
	{"overload", "session opens\ngateway sheds", "", "phase=negotiating cause=the gateway was short of memory or descriptors*"},
	{"memory-short", "session logs in\nclient sends frame 81ff000000000001117000000000" + hex.EncodeToString([]byte("<iq>"+strings.Repeat("x", 40000))) + "\ngateway sheds", "", "phase=established cause=the gateway was short of memory*"},
	{"shutdown", "session logs in\ngateway stops", "", "phase=established cause=the gateway is going away"},
	{"operator-ended", "session logs in\noperator ends", "", "phase=established cause=an operator ended the session"},
	{"internal", "session logs in\n31s pass\nclient sends pong xmppgate", "", "phase=established cause=*a fault*"},
}

const saslFailure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"

func TestRecords(t *testing.T) {
	attributes := map[string]bool{"ping": true, "server_stalled": true} // which the far end of a pipe does not cause
	seen := map[string]bool{"server-stalled": true}                     // see TestRecordOfStalledServer
	for _, c := range recordCases {
		seen[c.ending] = true
		t.Run(c.ending, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRecord(t, c.ending, c.transcript, c.env, c.want, attributes) })
		})
	}
	expectDocumented(t, attributes)
	for _, e := range Endings() {
		if !seen[e.Name] {
			t.Errorf("%s has no record to look at", e.Name)
		}
	}
}

// expectDocumented compares the attributes of records with those that the
// document has. Durations get their unit from the program.
func expectDocumented(t *testing.T, attributes map[string]bool) {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "`session ended`:\n")
	table, _, _ = strings.Cut(strings.TrimSpace(table), "\n\n")
	documented := map[string]bool{"time": true, "level": true, "msg": true}
	for line := range strings.Lines(table) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		for name := range strings.SplitSeq(cell, ", ") {
			if name, ok := strings.CutPrefix(name, "`"); ok {
				documented[strings.TrimSuffix(strings.TrimSuffix(name, "`"), "_seconds")] = true
			}
		}
	}
	if !maps.Equal(documented, attributes) {
		t.Errorf("docs/metrics.md has %v, records have %v", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(attributes)))
	}
}

// testRecord plays a transcript and notes the attributes of its record.
func testRecord(t *testing.T, ending, transcript, env, want string, attributes map[string]bool) {
	var log recording
	world := recordWorld{log: &log, faulty: ending == "internal"}
	headers := ""
	if strings.Contains(env, "TRUSTED_PROXIES") {
		headers = "X-Forwarded-For: 203.0.113.7\n"
	}
	ar := &txtar.Archive{Files: []txtar.File{
		{Name: "headers", Data: []byte(headers)},
		{Name: "env", Data: []byte(env + "XMPPGATE_UPSTREAM=one\n")},
		{Name: "transcript", Data: []byte(transcript + "\n")},
	}}
	// What happens on the wires is not on the page here.
	defer func(before bool) { *update = before }(*update)
	*update = true
	play(t, ar, chunkings["whole"], world)
	synctest.Wait()
	records := log.ended(t)
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	r := records[0]
	for key := range r {
		attributes[key] = true
	}
	if r["ending"] != ending {
		t.Fatalf("the ending is %v: %v", r["ending"], r)
	}
	got := func(key string) string {
		switch v := r[key].(type) {
		case nil:
			return ""
		case string:
			return v
		default:
			text, _ := json.Marshal(v)
			return string(text)
		}
	}
	before, cause, _ := strings.Cut(want, "cause=")
	for pair := range strings.FieldsSeq(before) {
		key, value, _ := strings.Cut(pair, "=")
		if got(key) != value {
			t.Errorf("%s is %q, want %q", key, got(key), value)
		}
	}
	for _, key := range []string{"limit_bytes", "size_bytes", "condition"} {
		if got(key) != "" && !strings.Contains(before, key+"=") {
			t.Errorf("%s is %s, and nothing of the kind happened", key, got(key))
		}
	}
	if text := got("cause"); text == "" || !matches(text, cause) {
		t.Errorf("the cause is %q, want %q", text, cause)
	}
	for _, secret := range []string{"alice", "AGEAYg", "xxxx"} {
		if text := log.text.String(); strings.Contains(text, secret) {
			t.Errorf("%q is in the log:\n%s", secret, text)
		}
	}
}

// matches reports whether text has the parts of pattern between its asterisks, in
// order, and nothing else where it has none.
func matches(text, pattern string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return text == pattern
	}
	for i, part := range parts {
		n := strings.Index(text, part)
		if n < 0 || i == 0 && n > 0 || i == len(parts)-1 && !strings.HasSuffix(text, part) {
			return false
		}
		text = text[n+len(part):]
	}
	return true
}

// A recordWorld is a bubble whose gateway logs.
type recordWorld struct {
	bubble
	log    *recording
	faulty bool
	level  slog.Level
}

func (w recordWorld) gateway(g *Gateway) {
	w.bubble.gateway(g)
	g.Log = slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: w.level}))
	if w.faulty {
		g.Observer = panicker{}
	}
}

// Debug level shows each step of a session, and no other level does.
func TestSteps(t *testing.T) {
	const script = `session opens
server sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client sends <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>AGEAYg==</auth>
server sends <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>
client sends <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>
server sends <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
` + sessionOpens + `
server sends <stream:features/>
client sends <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>
server sends <failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>
server sends <iq type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>alice@proto.test/phone</jid></bind></iq>
server sends <enabled xmlns='urn:xmpp:sm:3' resume='true'/>
client sends <close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>
server sends </stream:stream>
client drops
`
	const want = "opened connecting server connected features login scram login over scram not-authorized login plain login over plain success " +
		"restarted features resumption item-not-found bound resumable closing client-closed"
	for level, want := range map[slog.Level]string{slog.LevelDebug: want, slog.LevelInfo: ""} {
		synctest.Test(t, func(t *testing.T) {
			var log recording
			defer func(before bool) { *update = before }(*update)
			*update = true
			ar := &txtar.Archive{Files: []txtar.File{{Name: "env", Data: []byte("XMPPGATE_UPSTREAM=one\n")}, {Name: "transcript", Data: []byte(script)}}}
			play(t, ar, chunkings["whole"], recordWorld{log: &log, level: level})
			synctest.Wait()
			var got []string
			for line := range bytes.Lines(log.text.Bytes()) {
				var r struct{ Msg, Step, Mechanism, Result, Ending, Remote, Domain string }
				if err := json.Unmarshal(line, &r); err != nil {
					t.Fatal(err)
				}
				if r.Msg == "session step" {
					got = append(got, strings.Fields(r.Step+" "+r.Mechanism+" "+r.Result+" "+r.Ending)...)
				}
			}
			if text := strings.Join(got, " "); text != want {
				t.Errorf("%v:\n%s\nwant\n%s", level, text, want)
			}
			if text := log.text.String(); strings.Contains(text, "alice") || strings.Contains(text, "AGEAYg") {
				t.Error(text)
			}
		})
	}
}

// A session tells when it came to each step of its login: the first time, whatever its
// outcome was, and no step that it never came to.
func TestLoginSteps(t *testing.T) {
	const (
		features = "2s pass\nserver sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>\n"
		auth     = "3s pass\nclient sends <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>\n"
		success  = "4s pass\nserver sends <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>\n" + sessionOpens + "\nserver sends <stream:features/>\n"
		bound    = "5s pass\nserver sends <iq type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>alice@proto.test/phone</jid></bind></iq>\n"
		drops    = "client drops\n"
		refused  = "1s pass\nserver sends " + saslFailure + "\n"
	)
	for script, want := range map[string]string{
		drops: "",
		"server refuses\nclient sends <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='proto.test' version='1.0'/>": "stream open 100µs", // that of the gateway
		"1s pass\n" + sessionOpens + "\n" + drops:                              "server connected 1s, stream open 1s",
		"session opens\n" + features + auth + refused + drops:                  "server connected 100µs, stream open 100µs, features 2s, login 5s",
		"session opens\n" + features + auth + refused + auth + success + drops: "server connected 100µs, stream open 100µs, features 2s, login 5s, authenticated 13s",
		"session opens\n" + features + auth + success + bound + bound + drops:  "server connected 100µs, stream open 100µs, features 2s, login 5s, authenticated 9s, bound 14s",
		"session opens\n" + features + auth + success + "1s pass\nclient sends <resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>\n1s pass\nserver sends <resumed xmlns='urn:xmpp:sm:3' h='0' previd='x'/>\n" + bound + drops:                                         "server connected 100µs, stream open 100µs, features 2s, login 5s, authenticated 9s, resumed 11s",
		"session opens\n" + features + "client sends <authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>\n1s pass\nserver sends <success xmlns='urn:xmpp:sasl:2'><authorization-identifier>carol@proto.test/x</authorization-identifier></success>\n" + drops: "server connected 100µs, stream open 100µs, features 2s, login 2s, authenticated 3s, bound 3s",
	} {
		synctest.Test(t, func(t *testing.T) {
			o := new(endWitness)
			ar := &txtar.Archive{Files: []txtar.File{{Name: "env", Data: []byte("XMPPGATE_UPSTREAM=one\n")}, {Name: "transcript", Data: []byte(script)}}}
			defer func(before bool) { *update = before }(*update)
			*update = true
			play(t, ar, chunkings["whole"], endWorld{witness: o})
			synctest.Wait()
			var got []string
			for name, d := range o.ended.Steps.All() {
				got = append(got, name+" "+d.String())
			}
			if text := strings.Join(got, ", "); text != want {
				t.Errorf("%s:\n%s\nwant\n%s", script, text, want)
			}
		})
	}
}

// An endWitness keeps what it is told of the end of a session.
type endWitness struct {
	nopObserver
	ended *EndedSession
}

func (w *endWitness) Ended(s *EndedSession) { w.ended = s }

// An endWorld is a bubble whose gateway has an endWitness.
type endWorld struct {
	bubble
	witness *endWitness
}

func (w endWorld) gateway(g *Gateway) {
	w.bubble.gateway(g)
	g.Observer = w.witness
}

// The far end of a pipe always reads here, so the session is told.
func TestRecordOfStalledServer(t *testing.T) {
	var log recording
	g := &Gateway{Config: Config{Dial: neverDial, Log: slog.New(slog.NewJSONHandler(&log, nil))}}
	l, ev := g.admit(), &relay.Event{Now: 1, Conns: new(relay.Conns)}
	l.s.Start(ev)
	l.s.Receive(ev, client, []byte(goodRequest+"\r\n"))
	l.s.Stalled(ev, server)
	l.s.Over(ev)
	if r := log.ended(t); len(r) != 1 || r[0]["ending"] != "server-stalled" || r[0]["cause"] != "the server stopped reading" {
		t.Errorf("%v", r)
	}
}

// What is logged as a domain has the form of one.
func TestLoggedDomain(t *testing.T) {
	for name, want := range map[string]string{
		"example.org": "example.org", "EXAMPLE.org.": "example.org", "bücher.example": "xn--bcher-kva.example",
		"[2001:db8::1]": "[2001:db8::1]", "a_b.example": "a_b.example", "": "",
		"alice@example.org": "", "example.org/phone": "", "a b": "", "a\nb": "", "a\x00": "", "<a/>": "",
		strings.Repeat("a", 300): "",
	} {
		if got := loggedDomain(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
