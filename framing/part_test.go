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

const testHeader = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`

// parted feeds in to d in pieces and takes a part whenever nothing is complete
// and ask says so. It returns the messages; those of one element are one, with a
// bar between the parts.
func parted(d *StreamSplitter, in []byte, size func() int, ask func() bool) (out []string, err error) {
	var b []byte
	var u StreamUnit
	open := false
	for fed := 0; ; {
		n, err := d.Next(b, &u)
		if err == nil && u.Kind == KindNone && ask() {
			b = b[n:]
			n, err = d.Part(b, &u)
		}
		if err != nil {
			return out, err
		}
		switch u.Kind {
		case KindNone:
			if fed == len(in) {
				return out, nil
			}
			k := min(max(size(), 1), len(in)-fed)
			b = append(append([]byte(nil), b[n:]...), in[fed:fed+k]...)
			fed += k
			continue
		case KindElementPart, KindElementEnd:
			if !open {
				return out, fmt.Errorf("kind %d without a start", u.Kind)
			}
			head, tail := u.AppendHead(nil)
			out[len(out)-1] += "|" + string(head) + string(tail)
		default:
			if open {
				return out, fmt.Errorf("kind %d inside an element", u.Kind)
			}
			out = append(out, message(&u, nil))
		}
		if !utf8.Valid(u.Raw) {
			return out, fmt.Errorf("part %q divides a character", u.Raw)
		}
		open = u.Kind == KindElementStart || u.Kind == KindElementPart
		b = b[n:]
	}
}

// Wherever an element is divided, its parts make up the element, with all that it
// may inherit declared.
func TestParts(t *testing.T) {
	const all = ` xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"`
	for _, test := range []struct{ in, want string }{
		{`<message><body>Grüße, 😀 €</body></message>`, `<message` + all + `><body>Grüße, 😀 €</body></message>`},
		{`<iq xmlns='jabber:client'><stream:x/></iq>`, `<iq xmlns:stream="http://etherx.jabber.org/streams" xmlns='jabber:client'><stream:x/></iq>`},
		{`<a xmlns:stream='urn:x'><b/></a>`, `<a xmlns="jabber:client" xmlns:stream='urn:x'><b/></a>`},
		{`<a><b c="'>" d='">'/><e f='/>'/>ü</a>`, `<a` + all + `><b c="'>" d='">'/><e f='/>'/>ü</a>`},
		{`<a><b c='/' /><d/ ></d></a>`, `<a` + all + `><b c='/' /><d/ ></d></a>`},
		{`<a><![CDATA[]] ]></a>]]]]></a>`, `<a` + all + `><![CDATA[]] ]></a>]]]]></a>`},
		{`<a><![CDATA[é]]></a >`, `<a` + all + `><![CDATA[é]]></a >`},
	} {
		in := []byte(testHeader + test.in + "<r/>")
		check := func(name string, size func() int, ask func() bool) {
			t.Helper()
			d := new(StreamSplitter)
			got, err := parted(d, in, size, func() bool { return (d.depth > 0) && ask() })
			if err != nil || len(got) != 3 {
				t.Fatalf("%s, %s: %q, %v", test.in, name, got, err)
			}
			joined := strings.ReplaceAll(got[1], "|", "")
			if strings.Contains(got[1], "|") && joined != test.want {
				t.Errorf("%s, %s: got %s", test.in, name, got[1])
			}
			if err := wellFormed([]byte(joined), nil, false); err != nil && !strings.Contains(test.in, "/ >") {
				t.Errorf("%s, %s: %s: %v", test.in, name, joined, err)
			}
			if got[2] != `<r xmlns="jabber:client"/>` {
				t.Errorf("%s, %s: followed by %s", test.in, name, got[2])
			}
		}
		always := func() bool { return true }
		for cut := 1; cut < len(in); cut++ {
			next := cut
			check(fmt.Sprint("cut at ", cut-len(testHeader)), func() int {
				defer func() { next = len(in) }()
				return next
			}, always)
		}
		check("byte by byte", func() int { return 1 }, always)
		r := rand.New(rand.NewPCG(7, uint64(len(in))))
		for range 200 {
			check("in pieces", func() int { return 1 + r.IntN(6) }, func() bool { return r.IntN(2) == 0 })
		}
	}
}

// What the parts of an element leave behind does not grow, whatever it consists
// of, so that an element without an end costs no memory.
func TestPartsLeaveLittle(t *testing.T) {
	for name, test := range map[string]struct{ start, more string }{
		"text":      {"<a>", "aé€😀"},
		"value":     {"<a><b c='", "x"},
		"value '>'": {"<a><b c='", ">"},
		"quotes":    {"<a><b c='\"' d=\"", ">'"},
		"tag":       {"<a><b", " "},
		"name":      {"<a><", "b"},
		"end tag":   {"<a></", "a"},
		"section":   {"<a><![CDATA[", "]"},
		"sections":  {"<a>", "<![CDATA[]]>"},
		"depth":     {"", "<a>"},
		"tags":      {"<a>", "<b c=''/>"},
	} {
		var d StreamSplitter
		var u StreamUnit
		in := []byte(test.start + strings.Repeat(test.more, 100_000/len(test.more)))
		left, total := []byte(nil), 0
		for piece := range slices.Chunk(in, 997) {
			left = append(left, piece...)
			n, err := d.Next(left, &u)
			if err != nil || u.Kind != KindNone {
				t.Fatalf("%s: kind %d, %v", name, u.Kind, err)
			}
			left = left[n:]
			if n, err = d.Part(left, &u); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			total += n
			if left = left[n:]; len(left) > len("<![CDATA") {
				t.Fatalf("%s: %d bytes are left", name, len(left))
			}
		}
		if total < 90_000 {
			t.Errorf("%s: %d bytes consumed", name, total)
		}
	}
}

// There is no part of what is needed as a whole.
func TestNoPart(t *testing.T) {
	for in, want := range map[string]error{
		`<a b='`:                         ErrTooLarge,
		`<a`:                             ErrTooLarge,
		`</stream:stream`:                ErrTooLarge,
		`<stream:features><a>`:           ErrTooLarge,
		`<stream:error><a>`:              ErrTooLarge,
		`<?xml version='1.0'?><a><b>`:    errXMLDecl,
		"<a>\xff<b>":                     errUTF8,
		"<a>\xc3\xa9\xc3<b>":             errUTF8,
		`<?xml version='1.0'`:            nil,
		`<`:                              nil,
		``:                               nil,
		` `:                              nil,
		testHeader + `<features><a></b>`: nil,
	} {
		var d StreamSplitter
		_, err := parted(&d, []byte(in), func() int { return len(in) }, func() bool { return true })
		var e *Error
		if !errors.Is(err, want) || want != nil && !errors.As(err, &e) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
	var d StreamSplitter
	var u StreamUnit
	if n, err := d.Part([]byte("<a>"), &u); n != 0 || err != nil {
		t.Errorf("before Next: %d, %v", n, err)
	}
}

// What has to be looked into as a whole has limits, which do not depend on how it
// comes.
func TestSizes(t *testing.T) {
	header := func(rest string) string { return testHeader[:len(testHeader)-1] + rest + ">" }
	fill := func(before, after string, n int) string {
		return before + strings.Repeat("x", n-len(before)-len(after)) + after
	}
	const declaration = "<?xml version='1.0'?>"
	features := `<stream:features xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><a>`
	attributes := func(n int) (s string) {
		for i := range n {
			s += fmt.Sprintf(" a%d=''", i)
		}
		return s
	}
	for _, test := range []struct {
		name, in string
		err      error
	}{
		{"header", header(fill(" id='", "'", maxHeader-len(testHeader))), nil},
		{"header", header(fill(" id='", "'", maxHeader-len(testHeader)+1)), ErrTooLarge},
		{"declarations", header(fill(" xmlns:a='", "'", maxHeader-len(testHeader)+1)), ErrTooLarge},
		{"space", header(strings.Repeat(" ", maxHeader)), ErrTooLarge},
		{"quotes", header(fill(` from='"' id="`, `"`, maxHeader)), ErrTooLarge},
		{"XML declaration", declaration + header(fill(" id='", "'", maxHeader-len(testHeader)-len(declaration))), nil},
		{"XML declaration", declaration + header(fill(" id='", "'", maxHeader-len(testHeader)-len(declaration)+1)), ErrTooLarge},
		{"restart", testHeader + "<a/>" + declaration + header(fill(" id='", "'", maxHeader)), ErrTooLarge},
		{"endless header", "<stream:stream id='" + strings.Repeat("x", maxHeader), ErrTooLarge},
		{"endless element", "<stream:streams id='" + strings.Repeat("x", 2*maxHeader), nil},
		{"features", fill(features, "</a></stream:features>", maxTree), nil},
		{"features", fill(features, "</a></stream:features>", maxTree+1), ErrTooLarge},
		{"inherited declarations count", fill("<stream:features><a>", "</a></stream:features>", maxTree), ErrTooLarge},
		{"endless features", "<stream:features><a>" + strings.Repeat("x", maxTree), ErrTooLarge},
		{"endless error", "<stream:error><a>" + strings.Repeat("x", maxTree), ErrTooLarge},
		{"other features", "<features><a>" + strings.Repeat("x", maxTree), nil},
		{"64 attributes", "<stream:features" + attributes(64) + "/>", nil},
		{"65 attributes", "<stream:features" + attributes(65) + "/>", errAttributes},
		{"65 attributes of an error", "<stream:error" + attributes(65) + "/>", errAttributes},
		{"65 attributes of another", "<stream:other" + attributes(65) + "/>", nil},
	} {
		in := []byte(test.in)
		for _, size := range []int{len(in), len(in)/2 + 1, 1000, 1 + len(in)/5000} {
			var d StreamSplitter
			_, err := parted(&d, in, func() int { return size }, func() bool { return false })
			if !errors.Is(err, test.err) {
				t.Errorf("%s, %d bytes in pieces of %d: %v, want %v", test.name, len(in), size, err, test.err)
			}
		}
	}
}

// A stream that is not UTF-8 is refused at the first byte that is not, wherever
// it stands and however it comes.
func TestDownUTF8(t *testing.T) {
	for _, bad := range []string{
		"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc3", "\xc3\xbc\xc3", "\xe2\x82", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf",
		"\xf0\x9f\x98", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff",
	} {
		for _, form := range []string{
			"<message><body>%s</body></message>",
			"<message><body>" + strings.Repeat("a", 100) + "ü%s</body></message>",
			"<message><body>" + strings.Repeat("é€😀", 30) + "%s</body></message>",
			"<a b='%s'/>", "<a %s=''/>", "<a%s/>", "<a><![CDATA[%s]]></a>", "<a><b c='%s'/></a>", "<a></a%s>",
			"<stream:features><a>%s</a></stream:features>", "<stream:error>%s</stream:error>",
			"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='%s'>",
			"<iq/><iq/><iq>%s</iq><iq/>",
		} {
			in := []byte(fmt.Sprintf(form, bad))
			want := validUTF8(in)
			for _, size := range []int{len(in), 7, 1} {
				for _, part := range []bool{false, true} {
					if part && !strings.HasPrefix(form, "<message") {
						continue
					}
					fed := 0
					var d StreamSplitter
					out, err := parted(&d, in, func() int { fed += size; return size }, func() bool { return part && fed > len("<message>") })
					var e *Error
					if !errors.As(err, &e) || e.Err != errUTF8 || e.Offset != want {
						t.Errorf("%q in pieces of %d: %v, want offset %d", in, size, err, want)
					}
					for _, m := range out {
						if !utf8.ValidString(m) || part && len(m) > want+200 {
							t.Errorf("%q in pieces of %d: %q", in, size, out)
						}
					}
				}
			}
		}
	}
}

func TestValidUTF8(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	pieces := []string{"a", strings.Repeat("b", 40), "é", "дождь", "\u0080", "\u07ff", "\xc1\xbf", "é€", "€", "😀", "\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90", "\xe2\x82", "\x00"}
	for range 50_000 {
		var b []byte
		for range r.IntN(12) {
			b = append(b, pieces[r.IntN(len(pieces)-r.IntN(10))]...)
		}
		want := 0
		for want < len(b) {
			c, n := utf8.DecodeRune(b[want:])
			if c == utf8.RuneError && n == 1 {
				break
			}
			want += n
		}
		if got := validUTF8(b); got != want {
			t.Fatalf("%q: %d, want %d", b, got, want)
		}
	}
}

// Declarations are looked for once, not once for each prefix that the header
// declares.
func TestManyPrefixes(t *testing.T) {
	var header, element, want bytes.Buffer
	header.WriteString(testHeader[:len(testHeader)-1])
	element.WriteString("<a")
	for i := range DefaultMaxAttributes - 2 {
		fmt.Fprintf(&header, " xmlns:p%d='u'", i)
		if i%3 == 0 {
			fmt.Fprintf(&element, " p%d:b=''", i)
			fmt.Fprintf(&want, ` xmlns:p%d="u"`, i)
		}
	}
	element.WriteString(" q:p1=':p2:' xp4:x=''/>")
	var d StreamSplitter
	var u StreamUnit
	in := append(append(header.Bytes(), '>'), element.Bytes()...)
	n, err := d.Next(in, &u)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Next(in[n:], &u); err != nil {
		t.Fatal(err)
	}
	head, _ := u.AppendHead(nil)
	// p2 stands before a colon of a value, which does no harm.
	if got := string(head); got != `<a xmlns="jabber:client"`+strings.Replace(want.String(), ` xmlns:p3=`, ` xmlns:p2="u" xmlns:p3=`, 1) {
		t.Errorf("got %s", got)
	}
}
