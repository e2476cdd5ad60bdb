package framing

import (
	"fmt"
	"strings"
	"testing"
)

// unitOf returns the only unit of in, which follows a common header.
func unitOf(t *testing.T, in string) StreamUnit {
	t.Helper()
	d := new(StreamSplitter)
	var u StreamUnit
	n, err := d.Next([]byte(in), &u)
	if err != nil || n != len(in) || u.Kind != KindElement {
		t.Fatalf("%s: kind %d, %d of %d bytes, %v", in, u.Kind, n, len(in), err)
	}
	return u
}

// A server's word where to go instead is read wherever it stands and however
// it is written.
//
// Behaviour: redirect. RFC 6120, section 4.9.3.19.
func TestSeeOtherHost(t *testing.T) {
	const inside = ` xmlns='urn:ietf:params:xml:ns:xmpp-streams'`
	long := strings.Repeat("a", maxHost)
	for _, c := range []struct {
		in        string
		host      string
		condition Condition
	}{
		{`<stream:error><see-other-host` + inside + `>[::1]:9222</see-other-host></stream:error>`, "[::1]:9222", CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + ">\r\n x.example \t</see-other-host></stream:error>", "x.example", CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + `>&#x78;.<![CDATA[example]]>:1</see-other-host></stream:error>`, "x.example:1", CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + `>x.<b a='>'>ex</b>ample<b/></see-other-host></stream:error>`, "x.example", CondSeeOtherHost},
		{`<stream:error><a><see-other-host` + inside + `>a</see-other-host></a><see-other-host` + inside + `>b</see-other-host></stream:error>`, "b", CondSeeOtherHost},
		{`<stream:error xmlns:s='urn:ietf:params:xml:ns:xmpp-streams'><s:see-other-host>2001:db8::1</s:see-other-host></stream:error>`, "2001:db8::1", CondSeeOtherHost},
		{`<error xmlns='http://etherx.jabber.org/streams'><see-other-host` + inside + `>a</see-other-host></error>`, "a", CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + `>` + long + `</see-other-host></stream:error>`, long, CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + `>` + long + `a</see-other-host></stream:error>`, "", CondSeeOtherHost},
		{`<stream:error><see-other-host` + inside + `/>a</stream:error>`, "", CondSeeOtherHost},
		{`<stream:error><see-other-host>a</see-other-host></stream:error>`, "", ""},
		{`<stream:features><see-other-host` + inside + `>a</see-other-host></stream:features>`, "", ""},
		{`<message><see-other-host` + inside + `>a</see-other-host></message>`, "", ""},

		{`<stream:error><host-unknown` + inside + `/></stream:error>`, "", CondHostUnknown},
		{`<stream:error><text` + inside + `>conflict</text><x xmlns='urn:x'/><conflict` + inside + `/></stream:error>`, "", CondConflict},
		{`<stream:error><xml-not-well-formed` + inside + `/></stream:error>`, "", CondUndefined},
		{`<stream:error><conflict/></stream:error>`, "", ""},
		{`<stream:error/>`, "", ""},
		{`<stream:error></stream:error>`, "", ""},
	} {
		u := unitOf(t, c.in)
		if host, condition := u.SeeOtherHost(), u.StreamErrorCondition(); host != c.host || condition != c.condition {
			t.Errorf("%s: %q, %q", c.in, host, condition)
		}
	}
	for _, c := range conditions {
		u := unitOf(t, fmt.Sprintf("<stream:error><%s%s/></stream:error>", c, inside))
		if got := u.StreamErrorCondition(); got != c {
			t.Errorf("%q for %q", got, c)
		}
	}
}

func TestAppendSeeOtherURI(t *testing.T) {
	for uri, want := range map[string]string{
		"wss://x.example/ws":         `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" see-other-uri="wss://x.example/ws"/>`,
		"wss://[2001:db8::1]:1/?a&b": `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" see-other-uri="wss://[2001:db8::1]:1/?a&amp;b"/>`,
		"\"/><x a='":                 `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" see-other-uri="&quot;/&gt;&lt;x a=&apos;"/>`,
	} {
		got := AppendSeeOtherURI([]byte("a"), uri)
		if string(got) != "a"+want {
			t.Errorf("%s", got)
		}
		if m, err := parse(new(MessageParser), got[1:]); err != nil || m.Kind != KindEnd {
			t.Errorf("%s: kind %d, %v", got, m.Kind, err)
		}
	}
}

func TestOffersStartTLS(t *testing.T) {
	for in, want := range map[string]bool{
		`<stream:features><bind/><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>`: true,
		`<stream:features xmlns:t='urn:ietf:params:xml:ns:xmpp-tls'><t:starttls/></stream:features>`:                         true,
		`<stream:features><starttls/></stream:features>`:                                                                     false,
		`<stream:features><x><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></x></stream:features>`:                      false,
		`<stream:features/>`: false,
	} {
		if u := unitOf(t, in); u.OffersStartTLS() != want {
			t.Errorf("%s: %v", in, !want)
		}
	}
}

func TestRequiresStartTLS(t *testing.T) {
	const (
		offer = `<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
		must  = `<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'> <required/></starttls>`
		sasl  = `<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>`
	)
	for in, want := range map[string]bool{
		must:         true,
		must + sasl:  true,
		sasl + must:  true,
		offer:        false,
		offer + sasl: false,
		`<t:starttls xmlns:t='urn:ietf:params:xml:ns:xmpp-tls'><t:required></t:required></t:starttls>` + sasl: true,
		`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required xmlns='urn:other'/></starttls>` + sasl:   false,
		`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><x><required/></x></starttls>` + sasl:              false,
		`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><optional/></starttls>` + sasl:                     false,
		`<starttls xmlns='urn:other'><required/></starttls>`:                                                  false,
		`<x>` + must + `</x>`: false,
		sasl:                  false,
		"":                    false,
	} {
		if u := unitOf(t, "<stream:features>"+in+"</stream:features>"); u.RequiresStartTLS() != want {
			t.Errorf("%s: %v", in, !want)
		}
	}
}

// What stands behind an empty element is not inside it.
func TestEmptyElementHasNoChildren(t *testing.T) {
	in := `<stream:features><limits xmlns='urn:xmpp:stream-limits:0'/><max-bytes xmlns='urn:xmpp:stream-limits:0'>99</max-bytes></stream:features>`
	u := unitOf(t, in)
	want := strings.Replace(in, ">", ` xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams">`, 1)
	if got := string((&FeatureFilter{MaxStanza: 5}).AppendMessage(nil, &u)); got != want {
		t.Errorf("got %s", got)
	}
}

// Elements that the gateway looks into are of bounded size, and so are their
// tags: 64 attributes, as upwards.
func TestTreeLimits(t *testing.T) {
	attributes := func(n int) string {
		return each(n, func(i int) string { return fmt.Sprintf(" a%02d='<'", i) })
	}
	sized := func(start, end string, size int) string {
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	const header = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'`
	const inherited = ` xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"`
	for name, c := range map[string]struct{ in, err string }{
		"features, attributes":           {"<stream:features" + attributes(64) + "/>", ""},
		"features, too many":             {"<stream:features" + attributes(65) + "/>", "policy-violation 529"},
		"features, too many in a child":  {"<stream:features>\n<![CDATA[<]]><a" + attributes(65) + "/></stream:features>", "policy-violation 546"},
		"error, attributes":              {"<stream:error><a/><b" + attributes(64) + "></b></stream:error>", ""},
		"error, too many":                {"<stream:error><a" + attributes(65) + "/></stream:error>", "policy-violation 529"},
		"message, any number":            {"<message" + attributes(99) + "/>", ""},
		"header, attributes":             {header + strings.ReplaceAll(attributes(62), "<", "") + ">", ""},
		"header, too many":               {header + strings.ReplaceAll(attributes(63), "<", "") + ">", "policy-violation 519"},
		"features, size":                 {sized("<stream:features>", "</stream:features>", maxTree-len(inherited)), ""},
		"features, too large":            {sized("<stream:features>", "</stream:features>", maxTree+1), "policy-violation 65536"},
		"features that become too large": {sized("<stream:features>", "</stream:features>", maxTree), "policy-violation 65536"},
		"error, too large":               {sized("<stream:error>", "</stream:error>", maxTree+1), "policy-violation 65536"},
		"message, larger":                {sized("<message>", "</message>", maxTree+1), ""},
		"no name":                        {"<stream:features><></a></stream:features>", "not-well-formed 18"},
		"no value":                       {"<stream:features><a b/></stream:features>", "not-well-formed 21"},
		"text behind a slash":            {"<stream:features><a / b='<![CDATA['/></stream:features>", "not-well-formed 20"},
	} {
		r := runDown(new(FeatureFilter), []byte(c.in), func() int { return len(c.in) })
		if r.err != c.err || r.err == "" && len(r.outs) != 1 {
			t.Errorf("%s: %q, %d units", name, r.err, len(r.outs))
		}
	}
}
