package framing

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// parse is p.Parse into a Message of its own.
func parse(p *MessageParser, msg []byte) (m Message, err error) {
	err = p.Parse(msg, &m)
	return m, err
}

func TestLimits(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("<a>", n) + strings.Repeat("</a>", n) }
	attributes := func(n int, name string) string {
		var b strings.Builder
		b.WriteString("<a")
		for i := range n {
			fmt.Fprintf(&b, " %s%d='urn:%d'", name, i, i)
		}
		return b.String() + "/>"
	}
	for _, test := range []struct {
		name   string
		p      MessageParser
		in     string
		offset int // of the policy-violation, -1 if none
	}{
		{"depth 256", MessageParser{}, nested(256), -1},
		{"depth 257", MessageParser{}, nested(257), 3 * 256},
		{"an empty element counts", MessageParser{}, strings.Repeat("<a>", 256) + "<b/>" + strings.Repeat("</a>", 256), 3 * 256},
		{"siblings do not", MessageParser{MaxDepth: 2}, "<a>" + strings.Repeat("<b></b><c/>", 500) + "</a>", -1},
		{"MaxDepth", MessageParser{MaxDepth: 1}, "<a><b/></a>", 3},
		{"64 attributes", MessageParser{}, attributes(64, "a"), -1},
		{"65 attributes", MessageParser{}, attributes(65, "a"), 2 + 10*11 + 54*13 + 1},
		{"MaxAttributes", MessageParser{MaxAttributes: 1}, "<a b='' c=''/>", 8},
		{"64 prefixes", MessageParser{}, attributes(64, "xmlns:a"), -1},
		{"prefixes add up", MessageParser{}, strings.TrimSuffix(attributes(64, "xmlns:a"), "/>") + "><b xmlns:c='d'/></a>", 2 + 10*17 + 54*19 + 4},
		{"and go", MessageParser{MaxAttributes: 1}, "<a>" + strings.Repeat("<b xmlns:c='d'/>", 5) + "</a>", -1},
	} {
		_, err := parse(&test.p, []byte(test.in))
		var e *Error
		switch {
		case err == nil:
			if test.offset >= 0 {
				t.Errorf("%s: accepted", test.name)
			}
		case !errors.As(err, &e) || e.Condition != CondPolicyViolation || e.Offset != test.offset:
			t.Errorf("%s: got %v, want offset %d", test.name, err, test.offset)
		}
	}
}

func TestAttributeNames(t *testing.T) {
	// Every pair of equal names is found, whatever the hash makes of them.
	var names []string
	for c := 'a'; c < 'x'; c++ {
		names = append(names, string(c), string(c)+"x", "x"+string(c), "y:"+string(c))
	}
	r := rand.New(rand.NewPCG(3, 4))
	var p MessageParser
	for range 2000 {
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		var b strings.Builder
		b.WriteString("<a xmlns:y='urn:y'")
		for _, n := range names[:40] {
			b.WriteString(" " + n + "=''")
		}
		if _, err := parse(&p, []byte(b.String()+"/>")); err != nil {
			t.Fatalf("%v in %s/>", err, b.String())
		}
		again := b.String() + " " + names[r.IntN(40)] + "=''/>"
		if _, err := parse(&p, []byte(again)); !errors.Is(err, errDuplicate) {
			t.Fatalf("got %v in %s", err, again)
		}
	}
}

func TestCharacters(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	alphabet := []byte("azAZ09 \t\n\r~\x7f <>'\x1f\x00\x80\xff\x20\x21")
	for range 100_000 {
		b := bytes.Repeat([]byte{'m'}, r.IntN(200))
		for range r.IntN(4) {
			if len(b) > 0 {
				b[r.IntN(len(b))] = alphabet[r.IntN(len(alphabet))]
			}
		}
		wantControl, wantASCII := -1, true
		for i, c := range b {
			if c < ' ' && !isSpace(c) && wantControl < 0 {
				wantControl = i
			}
			wantASCII = wantASCII && c < utf8.RuneSelf
		}
		control, ascii := checkCharacters(b)
		if control != wantControl || ascii != wantASCII {
			t.Fatalf("checkCharacters(%q) = %d, %t", b, control, ascii)
		}
	}
}

func TestIsLegacyHeader(t *testing.T) {
	for in, want := range map[string]bool{
		"<stream:stream to='x'>":                               true,
		"<stream:stream>":                                      true,
		"<stream:stream\nto='x'>":                              true,
		"<stream:stream/>":                                     true,
		"<?xml version='1.0'?><stream:stream to='x'>":          true,
		"<?xml version='1.0' encoding='x'?>\n<stream:stream >": true,
		"<stream:stream":                                       false,
		"<stream:streams>":                                     false,
		"<stream:features/>":                                   false,
		"</stream:stream>":                                     false,
		" <stream:stream>":                                     false,
		"<?xml version='1.0'?>":                                false,
		"<?xml version='1.0'":                                  false,
		"<?xml?><stream:stream>":                               false,
		"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>":  false,
		"": false,
	} {
		if got := IsLegacyHeader([]byte(in)); got != want {
			t.Errorf("IsLegacyHeader(%q) = %t", in, got)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "proto.test", `a"b'c<d>&e`, "tab\tlf\ncr\r.", "é€😀", "&amp;", "]]>"} {
		raw := Quote(s)
		got, err := Unquote(raw)
		if err != nil || got != s {
			t.Errorf("Unquote(%s) = %q, %v; want %q", raw, got, err, s)
		}
		if _, err := parse(new(MessageParser), []byte("<a b="+string(raw)+"/>")); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if got := string(Quote("a\x00\xff\ufffeb")); got != "'a\ufffd\ufffd\ufffdb'" {
		t.Errorf("got %q", got)
	}
	for raw, want := range map[string]string{
		`'proto&#46;test'`:   "proto.test",
		`"proto&#x2E;test"`:  "proto.test",
		"'a\r\nb\tc\rd'":     "a b c d",
		`'&#10;&#13;&#x9;'`:  "\n\r\t",
		`'&lt;&gt;&quot;"'`:  `<>""`,
		`'&#x1F600;&apos;'`:  "😀'",
		`"it's"`:             "it's",
		`'&amp;lt;&#38;lt;'`: "&lt;&lt;",
	} {
		if got, err := Unquote([]byte(raw)); err != nil || got != want {
			t.Errorf("Unquote(%s) = %q, %v", raw, got, err)
		}
	}
	for raw, want := range map[string]string{
		"":             "not-well-formed at byte 0: bad attribute value",
		`'`:            "not-well-formed at byte 0: bad attribute value",
		`a`:            "not-well-formed at byte 0: bad attribute value",
		`'a"`:          "not-well-formed at byte 0: bad attribute value",
		`'a'b'`:        "not-well-formed at byte 2: bad attribute value",
		`'<'`:          "not-well-formed at byte 1: bad attribute value",
		`'a&b;'`:       "restricted-xml at byte 2: undefined entity",
		`'&#0;'`:       "not-well-formed at byte 1: bad reference",
		`'&'`:          "not-well-formed at byte 1: bad reference",
		`'a&#x;'`:      "not-well-formed at byte 2: bad reference",
		`'&#1114112;`:  "not-well-formed at byte 0: bad attribute value",
		`'&#1114112;'`: "not-well-formed at byte 1: bad reference",
	} {
		if _, err := Unquote([]byte(raw)); err == nil || err.Error() != "framing: "+want {
			t.Errorf("Unquote(%s): %v", raw, err)
		}
	}
}

func TestAppendStreamError(t *testing.T) {
	for _, test := range []struct {
		c         Condition
		text, app string
		want      string
	}{
		{CondNotWellFormed, "", "", `<stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><not-well-formed xmlns="urn:ietf:params:xml:ns:xmpp-streams"/></stream:error>`},
		{CondPolicyViolation, "stanza < 1 & too\x00 large", StanzaTooBig, `<stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><policy-violation xmlns="urn:ietf:params:xml:ns:xmpp-streams"/>` +
			`<text xmlns="urn:ietf:params:xml:ns:xmpp-streams" xml:lang="en">stanza &lt; 1 &amp; too` + "\ufffd" + ` large</text><stanza-too-big xmlns="urn:xmpp:errors"/></stream:error>`},
	} {
		got := AppendStreamError([]byte("x"), test.c, test.text, test.app)
		if string(got) != "x"+test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
		if err := wellFormed(got[1:], nil, false); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
}

func TestFixedMessages(t *testing.T) {
	if len(CloseMessage) != 53 || len(EndTag) != 16 {
		t.Error("there are clients and servers that compare these bytes")
	}
	for _, s := range []string{CloseMessage, StartTLSFailure, CompressFailure, SASLExternalFailure, SASL2ExternalFailure, StanzaTooBig} {
		if err := wellFormed([]byte(s), nil, false); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestOffersSASL(t *testing.T) {
	for in, want := range map[string]bool{
		`<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></stream:features>`:                    true,
		`<stream:features><a/><authentication xmlns='urn:xmpp:sasl:2'><mechanism/></authentication></stream:features>`: true,
		`<stream:features xmlns:s='urn:ietf:params:xml:ns:xmpp-sasl'><s:mechanisms></s:mechanisms></stream:features>`:  true,
		`<stream:features><mechanisms xmlns='urn:x'/><x><mechanisms xmlns='urn:xmpp:sasl:2'/></x></stream:features>`:   false,
		`<stream:features><![CDATA[<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>]]></stream:features>`:        false,
		`<stream:features/>`: false,
	} {
		var d StreamSplitter
		var u StreamUnit
		_, err := d.Next([]byte(in), &u)
		if err != nil || u.Class != ClassFeatures {
			t.Fatal(in, err)
		}
		if got := u.OffersSASL(); got != want {
			t.Errorf("%s: %t", in, got)
		}
	}
	var u StreamUnit
	if u.OffersSASL() || len(new(FeatureFilter).AppendMessage(nil, &u)) != 0 || u.Size() != 0 {
		t.Error("an empty unit holds something")
	}
}

func TestErrors(t *testing.T) {
	// Text is sent to clients as it is.
	if e := (&Error{CondBadFormat, 7, errContent}); e.Error() != "framing: "+e.Text() || !strings.HasPrefix(e.Text(), "bad-format at byte 7: ") {
		t.Error(e)
	}
	_, err := parse(new(MessageParser), []byte("<a>\x00"))
	if got := err.Error(); got != "framing: not-well-formed at byte 3: control character" {
		t.Error(got)
	}
	_, err = parse(new(MessageParser), []byte("hello"))
	if !errors.Is(err, ErrNotText) || err.Error() != "framing: not-well-formed at byte 0: message is not XML text: does not start with '<'" {
		t.Error(err)
	}
	// Offsets of a StreamSplitter count from the start of the stream.
	var d StreamSplitter
	var u StreamUnit
	if n, err := d.Next([]byte("  <a/> "), &u); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	_, err = d.Next([]byte(" \n<a><?x?></a>"), &u)
	var e *Error
	if !errors.As(err, &e) || e.Offset != 6+2+3 || e.Condition != CondRestrictedXML {
		t.Error(err)
	}
}

// What stanza knows is what the table of classes says, and whole names only.
func TestStanza(t *testing.T) {
	for _, name := range []string{"message", "presence", "iq"} {
		for _, rest := range []string{">", "/>", " a='b'>", " />"} {
			tag := []byte("<" + name + rest)
			if c, end := stanzaName(tag); c != classify([]byte(name), NSClient) || string(tag[1:end]) != name {
				t.Errorf("%s: class %d, name up to %d", tag, c, end)
			}
		}
		for _, rest := range []string{"", "s>", ":a>", "-a>", "\n>", "é>", "\x00>"} {
			if c, _ := stanzaName([]byte("<" + name + rest)); c != ClassOther {
				t.Errorf("<%s%s: class %d", name, rest, c)
			}
		}
	}
	for _, c := range classes {
		if got, _ := stanzaName([]byte("<" + c.local + ">")); got != ClassOther && got != c.class {
			t.Errorf("%s: class %d", c.local, got)
		}
	}
}

// An XML declaration is short, so its bytes are looked at again when more of them
// arrive. That must not go on for long, nor be waited for.
func TestDeclarationSize(t *testing.T) {
	const start, end = "<?xml version='1.0'", "?>"
	sized := func(n int) string { return start + strings.Repeat(" ", n-len(start)-len(end)) + end }
	const header = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
	for name, c := range map[string]struct{ in, err string }{
		"the largest":           {sized(maxXMLDecl) + header, ""},
		"one more":              {sized(maxXMLDecl+1) + header, "not-well-formed 0"},
		"without an end":        {start + strings.Repeat(" ", maxXMLDecl-len(start)), "not-well-formed 0"},
		"without an end so far": {start + strings.Repeat(" ", maxXMLDecl-len(start)-1), ""},
		"in a later stream":     {header + "<a/>" + sized(maxXMLDecl+1) + header, fmt.Sprintf("not-well-formed %d", len(header)+4)},
	} {
		for _, size := range []int{len(c.in), 1, 100} {
			if r := runDown(new(FeatureFilter), []byte(c.in), func() int { return size }); r.err != c.err {
				t.Errorf("%s, in reads of %d bytes: %q", name, size, r.err)
			}
		}
	}
}

// TestHeaderDefects: what is wrong with a header would be wrong with <open/> or with
// each element that inherits from it, and clients refuse such messages.
func TestHeaderDefects(t *testing.T) {
	const start = "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
	for _, c := range []struct{ more, err string }{
		{" id='a\tb\u00fc\ufffd'", ""},
		{" xmlns:xml='" + nsXML + "'", ""},
		{" id='\x00'", "not-well-formed 89"},
		{" id='\x1b'", "not-well-formed 89"},
		{" id='\ufffe'", "not-well-formed 89"},
		{" id='1' id='2'", "not-well-formed 92"},
		{" x:id='1' x:id='1'", "not-well-formed 94"},
		{" xmlns='jabber:client'", "not-well-formed 85"},
		{" xmlns:stream='" + NSStreams + "'", "not-well-formed 85"},
		{" xmlns:a='u' xmlns:a='v'", "not-well-formed 97"},
		{" xmlns:xml='u'", "not-well-formed 85"},
		{" xmlns:a='" + nsXML + "'", "not-well-formed 85"},
		{" xmlns:xmlns='u'", "not-well-formed 85"},
		{" xmlns:a='http://www.w3.org/2000/xmlns/'", "not-well-formed 85"},
		{" xmlns:a=''", "not-well-formed 85"},
	} {
		for _, size := range []int{1 << 10, 1} {
			if r := runDown(new(FeatureFilter), []byte(start+c.more+">"), func() int { return size }); r.err != c.err {
				t.Errorf("%q, in reads of %d bytes: %q, not %q", c.more, size, r.err, c.err)
			}
		}
	}
}

func TestManyBindings(t *testing.T) {
	var b strings.Builder
	for i := range DefaultMaxAttributes - 1 {
		fmt.Fprintf(&b, " xmlns:p%d='urn:%d'", i, i)
	}
	header := "<stream:stream xmlns:stream='http://etherx.jabber.org/streams'" + b.String() + ">"
	r := runDown(new(FeatureFilter), []byte(header+"<p62:a/>"), func() int { return 1 << 20 })
	if len(r.outs) != 2 || r.outs[1] != `<p62:a xmlns:p62="urn:62"/>` {
		t.Error(r)
	}
	header = strings.Replace(header, ">", " xmlns='jabber:client'>", 1)
	if r = runDown(new(FeatureFilter), []byte(header), func() int { return 1 << 20 }); r.err != fmt.Sprintf("policy-violation %d", strings.Index(header, "xmlns='jabber:client'")) {
		t.Error(r)
	}
}

func TestAliasing(t *testing.T) {
	msg := []byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a' xml:lang='de'/>  ")
	m, err := parse(new(MessageParser), msg)
	if err != nil {
		t.Fatal(err)
	}
	msg[bytes.Index(msg, []byte("'a'"))+1]++
	if string(m.Header.To) != "'b'" {
		t.Errorf("to is %s", m.Header.To)
	}
	for _, s := range [][]byte{m.Raw, m.Local, m.Header.To, m.Header.Lang} {
		if len(s) != cap(s) {
			t.Errorf("%s has spare capacity", s)
		}
	}
	b := []byte("<message a='b'/><presence/>")
	var d StreamSplitter
	var u StreamUnit
	_, err = d.Next(b, &u)
	if err != nil || len(u.Raw) != cap(u.Raw) {
		t.Fatal(u, err)
	}
	if _, tail := u.AppendHead(nil); &tail[0] != &b[len("<message")] {
		t.Error("tail is a copy")
	}
}

// TestForgets checks that no parser keeps a message alive.
func TestForgets(t *testing.T) {
	var p MessageParser
	for _, msg := range []string{
		"<a xmlns:x='urn:x' x:b='1' xml:lang='c'><x:d xmlns:y='urn:y'/></a>",
		"<a xmlns:x='urn:x' x:b='1'><x:d xmlns:y='urn:y'>",
		"<a xmlns:x='urn:x' x:b='1' y:c='2'/>",
	} {
		parse(&p, []byte(msg))
		for _, x := range p.prefixes[:cap(p.prefixes)] {
			if x.name != nil || x.space.uri != nil {
				t.Errorf("%s: still holds %s", msg, x.name)
			}
		}
	}
}

func TestAllocs(t *testing.T) {
	var p MessageParser
	up := []string{
		`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="p" version="1.0"/>`,
		`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AA==</auth>`,
		`<jc:iq xmlns:jc='jabber:client' xml:lang='de'><stream:x>&lt;ü</stream:x></jc:iq>`,
		EndTag, CloseMessage,
	}
	down := []string{
		`<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='i1' version='1.0' xml:lang='en' xmlns='jabber:client' from='proto.test'>`,
		`<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>`,
		`<message xmlns:stream='urn:x' id="'>"><stream:a/></message>`,
		EndTag,
	}
	for _, c := range corpora {
		up = append(up, c.element)
		down = append(down, inherited(c.element))
	}
	for _, s := range up {
		msg := []byte(s)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := parse(&p, msg); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("Parse(%.60q): %v allocations", s, n)
		}
	}
	dst := make([]byte, 0, 1024)
	for _, s := range down {
		b := []byte(s)
		if n := testing.AllocsPerRun(100, func() {
			var d StreamSplitter
			var u StreamUnit
			n, err := d.Next(b, &u)
			if err != nil || n != len(b) {
				t.Fatal(n, err)
			}
			u.Size()
			u.AppendHead(dst)
		}); n != 0 {
			t.Errorf("Next(%.60q): %v allocations", s, n)
		}
	}
}

// TestLooksOnce overwrites the bytes that Next has seen with quotes, so that
// looking at them again to find the end would lead astray. The name of the root
// and a few last bytes (a section may start or end there) are left alone.
func TestLooksOnce(t *testing.T) {
	for name, element := range large {
		if name == "value in another" {
			continue // the quotes of such a tag are counted first and followed then
		}
		in := []byte(element(20_000))
		var d StreamSplitter
		var u StreamUnit
		b := bytes.Clone(in)
		start, seen := 0, 0
		for end := 1; ; end = min(end+97, len(in)) {
			n, err := d.Next(b[start:end], &u)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			start += n
			if u.Kind == KindElement {
				break
			}
			if end == len(in) {
				t.Fatalf("%s: no unit", name)
			}
			for ; seen < end-12; seen++ {
				if seen > 10 {
					b[seen] = '"'
				}
			}
		}
	}
}

func TestMessageIsUTF8(t *testing.T) {
	for _, v := range vectors(t, "down") {
		for _, out := range runDown(new(FeatureFilter), v.in, func() int { return len(v.in) }).outs {
			if !utf8.ValidString(out) {
				t.Errorf("%s: %q", v.path, out)
			}
		}
	}
}

// TestNameRunes compares what may stand in a name with the productions NameStartChar
// and NameChar (XML 1.0, section 2.3), for all characters.
func TestNameRunes(t *testing.T) {
	start := [][2]rune{
		{':', ':'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'},
		{0xc0, 0xd6}, {0xd8, 0xf6}, {0xf8, 0x2ff}, {0x370, 0x37d}, {0x37f, 0x1fff},
		{0x200c, 0x200d}, {0x2070, 0x218f}, {0x2c00, 0x2fef}, {0x3001, 0xd7ff},
		{0xf900, 0xfdcf}, {0xfdf0, 0xfffd}, {0x10000, 0xeffff},
	}
	rest := [][2]rune{{'-', '-'}, {'.', '.'}, {'0', '9'}, {0xb7, 0xb7}, {0x300, 0x36f}, {0x203f, 0x2040}}
	in := func(r rune, ranges [][2]rune) bool {
		return slices.ContainsFunc(ranges, func(x [2]rune) bool { return x[0] <= r && r <= x[1] })
	}
	var p MessageParser
	var m Message
	accepts := func(s string) bool { return p.Parse([]byte(s), &m) == nil }
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) || isSpace(byte(r)) && r < utf8.RuneSelf || strings.ContainsRune(":/>", r) {
			continue
		}
		first, other := in(r, start), in(r, start) || in(r, rest)
		c := string(r)
		if r >= utf8.RuneSelf && (checkRunes([]byte(c)) != first || checkRunes([]byte("a"+c)) != other) {
			t.Fatalf("%U: not what XML says", r)
		}
		if r >= 0x11000 && (r+1)&0xfff > 1 {
			continue // all alike
		}
		for _, x := range []struct {
			in   string
			want bool
		}{
			{"<" + c + "/>", first}, {"<a" + c + "/>", other}, {"<a " + c + "=''/>", first}, {"<a a" + c + "=''/>", other},
			{"<stream:" + c + "\n/>", first}, {"<a" + c + "\n/>", other},
		} {
			if got := accepts(x.in); got != x.want {
				t.Fatalf("%U: %q accepted: %t", r, x.in, got)
			}
		}
	}
}
