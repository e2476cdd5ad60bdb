package framing

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A mechanism counts as one of its family, however the attribute is written.
func TestMechanisms(t *testing.T) {
	for name, want := range map[string]Mechanism{
		"SCRAM-SHA-1": MechanismSCRAM, "SCRAM-SHA-256-PLUS": MechanismSCRAM, "scram-sha-512": MechanismSCRAM,
		"PLAIN": MechanismPlain, " PLAIN\n": MechanismPlain, "P&#76;AIN": MechanismPlain, "PLAINER": MechanismOther,
		"EXTERNAL": MechanismExternal, "external": MechanismExternal, "EXTERNAL-2": MechanismOther,
		"ANONYMOUS": MechanismAnonymous, "OAUTHBEARER": MechanismOAuth, "X-OAUTH2": MechanismOAuth, "OAUTH10A": MechanismOAuth,
		"HT-SHA-256-NONE": MechanismHT, "HT-SHA-256-ENDP": MechanismHT, "HT": MechanismOther,
		"DIGEST-MD5": MechanismOther, "X-TOKEN": MechanismOther, "": MechanismOther, "alice": MechanismOther,
	} {
		for _, format := range []string{
			`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="%s">AGEAYg==</auth>`,
			"<s:auth mechanism = '%s'\n xmlns:s='urn:ietf:params:xml:ns:xmpp-sasl'/>",
			"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='%s'/>",
		} {
			msg := fmt.Sprintf(format, name)
			m, err := parse(new(MessageParser), []byte(msg))
			if err != nil || m.Mechanism != want {
				t.Errorf("%s: %v, want %v; %v", msg, m.Mechanism, want, err)
			}
		}
	}
	m, err := parse(new(MessageParser), []byte("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	if err != nil || m.Mechanism != MechanismOther {
		t.Errorf("without a mechanism: %v, %v", m.Mechanism, err)
	}
	if m, _ = parse(new(MessageParser), []byte("<iq mechanism='PLAIN'/>")); m.Mechanism != MechanismNone {
		t.Errorf("a stanza: %v", m.Mechanism)
	}
	if names := Mechanisms(); len(names) != int(MechanismOther)+1 || slices.Contains(names, "") {
		t.Errorf("%q", names)
	}
}

// What a server says of a refused login becomes one of a few words.
//
// RFC 6120, section 6.5; XEP-0388.
func TestSASLCondition(t *testing.T) {
	const inside = ` xmlns='urn:ietf:params:xml:ns:xmpp-sasl'`
	const text = `<text xml:lang='en' xmlns='urn:xmpp:sasl:2'>no such user alice</text>`
	cases := map[string]string{
		`<failure` + inside + `/>`:                                                                       "",
		`<failure` + inside + `></failure>`:                                                              "",
		`<failure` + inside + `><alice/></failure>`:                                                      "",
		`<failure` + inside + `><text>x</text><not-authorized/></failure>`:                               "not-authorized",
		`<f:failure xmlns:f='urn:ietf:params:xml:ns:xmpp-sasl'><f:aborted/></f:failure>`:                 "aborted",
		`<failure` + inside + `><x xmlns='urn:x'/><not-authorized/></failure>`:                           "not-authorized",
		`<failure` + inside + `><not-authorized xmlns='urn:x'/></failure>`:                               "",
		`<failure xmlns='urn:xmpp:sasl:2'><not-authorized/></failure>`:                                   "",
		`<failure` + inside + `><a><not-authorized/></a></failure>`:                                      "",
		`<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'><not-authorized` + inside + `/></failure>`:     "",
		`<success` + inside + `><not-authorized/></success>`:                                             "",
		`<failure` + inside + `>` + strings.Repeat(" ", maxRead) + `<not-authorized/></failure>`:         "",
		`<failure` + inside + ` a='` + strings.Repeat("x", maxReadTag) + `'><not-authorized/></failure>`: "",
	}
	for _, c := range SASLConditions() {
		cases[`<failure`+inside+`><`+c+`/></failure>`] = c
		cases[`<failure xmlns='urn:xmpp:sasl:2'>`+text+`<`+c+inside+`/></failure>`] = c
	}
	for in, want := range cases {
		u := unitOf(t, in)
		if got := u.SASLCondition(); got != want {
			t.Errorf("%.200s: %q, want %q", in, got, want)
		}
	}
}

// XEP-0198, sections 3, 5 and 10.1; XEP-0386.
func TestSMAnswers(t *testing.T) {
	const stanzas = ` xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'`
	enabled, resumable, resumed := SMAnswer{Class: ClassSMEnabled}, SMAnswer{Class: ClassSMEnabled, Resumable: true}, SMAnswer{Class: ClassSMResumed}
	failed := func(condition string) SMAnswer { return SMAnswer{Class: ClassSMFailed, Condition: condition} }
	for _, c := range []struct {
		in   string
		want []SMAnswer
	}{
		{`<enabled xmlns='urn:xmpp:sm:3'/>`, []SMAnswer{enabled}},
		{`<enabled xmlns='urn:xmpp:sm:3' id='x' resume='true' max='600'/>`, []SMAnswer{resumable}},
		{`<enabled xmlns="urn:xmpp:sm:3" resume="1"/>`, []SMAnswer{resumable}},
		{`<enabled xmlns='urn:xmpp:sm:3' resume='false'/>`, []SMAnswer{enabled}},
		{`<sm:resumed xmlns:sm='urn:xmpp:sm:3' h='1' previd='x'/>`, []SMAnswer{resumed}},
		{`<failed xmlns='urn:xmpp:sm:3' h='1'><item-not-found` + stanzas + `/></failed>`, []SMAnswer{failed("item-not-found")}},
		{`<failed xmlns='urn:xmpp:sm:3'><alice` + stanzas + `/></failed>`, []SMAnswer{failed("")}},
		{`<failed xmlns='urn:xmpp:sm:3'/>`, []SMAnswer{failed("")}},
		{`<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b/c</authorization-identifier></success>`, nil},
		{`<success xmlns='urn:xmpp:sasl:2'><resumed xmlns='urn:xmpp:sm:3' h='1' previd='x'/></success>`, []SMAnswer{resumed}},
		{`<success xmlns='urn:xmpp:sasl:2'><bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' resume='true'/></bound><failed xmlns='urn:xmpp:sm:3'><item-not-found` + stanzas + `/></failed></success>`,
			[]SMAnswer{failed("item-not-found"), resumable}},
		{`<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`, nil},
		{`<message><resumed xmlns='urn:xmpp:sm:3'/></message>`, nil},
		{`<resumed xmlns='urn:xmpp:sm:3'>` + strings.Repeat(" ", maxRead) + `</resumed>`, []SMAnswer{resumed}},
	} {
		u := unitOf(t, c.in)
		if got := slices.Collect(u.SMAnswers()); !slices.Equal(got, c.want) {
			t.Errorf("%.200s: %v, want %v", c.in, got, c.want)
		}
		for range u.SMAnswers() {
			break
		}
	}
	for _, condition := range SMConditions() {
		u := unitOf(t, `<failed xmlns='urn:xmpp:sm:3'><`+condition+stanzas+`/></failed>`)
		if got := slices.Collect(u.SMAnswers()); !slices.Equal(got, []SMAnswer{failed(condition)}) {
			t.Errorf("%s: %v", condition, got)
		}
	}
}

func TestBoundJID(t *testing.T) {
	const bind = `<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>`
	long := strings.Repeat("x", maxJID)
	for in, want := range map[string]string{
		`<iq type='result' id='1'>` + bind + `<jid>a@b/c</jid></bind></iq>`:                                   "a@b/c",
		`<iq type='result'>` + bind + `<jid>a&amp;@b/<![CDATA[c]]></jid></bind></iq>`:                         "a&@b/c",
		`<iq type='set'>` + bind + `<resource>c</resource></bind></iq>`:                                       "",
		`<iq type='result'>` + bind + `</bind></iq>`:                                                          "",
		`<iq type='result'><a>` + bind + `<jid>a@b/c</jid></bind></a></iq>`:                                   "",
		`<iq type='result'>` + bind + `<jid>` + long + `</jid></bind></iq>`:                                   long,
		`<iq type='result'>` + bind + `<jid>` + long + `x</jid></bind></iq>`:                                  "",
		`<message>` + bind + `<jid>a@b/c</jid></bind></message>`:                                              "",
		`<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b</authorization-identifier></success>`: "a@b",
		`<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`:                                                 "",
	} {
		u := unitOf(t, in)
		if got := u.BoundJID(); got != want {
			t.Errorf("%.200s: %q, want %q", in, got, want)
		}
	}
}

func TestAsksToResume(t *testing.T) {
	for in, want := range map[string]bool{
		`<resume xmlns='urn:xmpp:sm:3' h='1' previd='x'/>`:                                                                        true,
		`<resume xmlns='urn:xmpp:sm:2' h='1' previd='x'/>`:                                                                        false,
		`<enable xmlns='urn:xmpp:sm:3' resume='true'/>`:                                                                           false,
		`<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><resume xmlns='urn:xmpp:sm:3' h='1' previd='x'/></authenticate>`: true,
		`<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><a><resume xmlns='urn:xmpp:sm:3'/></a></authenticate>`:           false,
		`<s:authenticate xmlns:s='urn:xmpp:sasl:2' mechanism='PLAIN'><sm:resume xmlns:sm='urn:xmpp:sm:3'/></s:authenticate>`:      true,
		`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'><resume xmlns='urn:xmpp:sm:3'/></auth>`:                 false,
	} {
		m, err := parse(new(MessageParser), []byte(in))
		if got := m.AsksToResume(); err != nil || got != want {
			t.Errorf("%s: %v, want %v; %v", in, got, want, err)
		}
	}
}

func TestStreamErrorOfClient(t *testing.T) {
	for in, want := range map[string]Condition{
		`<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`:                                   CondConflict,
		`<e:error xmlns:e='http://etherx.jabber.org/streams' xmlns:c='urn:ietf:params:xml:ns:xmpp-streams'><c:alice/></e:error>`: CondUndefined,
		`<stream:error/>`: "", `<error/>`: "", `<iq/>`: "",
	} {
		m, err := parse(new(MessageParser), []byte(in))
		if got := m.StreamErrorCondition(); err != nil || got != want {
			t.Errorf("%s: %q, want %q; %v", in, got, want, err)
		}
	}
}
