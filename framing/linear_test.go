package framing

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// large are elements that tempt a parser to look at bytes again and again. n
// is about their size in bytes. They go both ways.
var large = map[string]func(n int) string{
	"text":             func(n int) string { return "<a>" + strings.Repeat("text ", n/5) + "</a>" },
	"brackets":         func(n int) string { return "<a>" + strings.Repeat("]]", n/2) + "</a>" },
	"colons":           func(n int) string { return "<a>" + strings.Repeat("m:", n/2) + "</a>" },
	"value":            func(n int) string { return "<a b='" + strings.Repeat("x>", n/2) + "'/>" },
	"value in another": func(n int) string { return "<a b='" + strings.Repeat(`">`, n/2) + "'/>" },
	"white space":      func(n int) string { return "<a" + strings.Repeat(" ", n) + "b='c'/>" },
	"name":             func(n int) string { return "<a><" + strings.Repeat("n", n) + "/></a>" },
	"end tag":          func(n int) string { return "<a></a" + strings.Repeat(" ", n) + ">" },
	"section":          func(n int) string { return "<a><![CDATA[" + strings.Repeat("]>", n/2) + "]]></a>" },
	"sections":         func(n int) string { return "<a>" + strings.Repeat("<![CDATA[<]]>", n/13) + "</a>" },
	"tags":             func(n int) string { return "<a>" + strings.Repeat("<b c='d'></b>", n/13) + "</a>" },
	"references":       func(n int) string { return "<a>" + strings.Repeat("&amp;", n/5) + "</a>" },
	"controls nearby":  func(n int) string { return "<a>" + strings.Repeat("\n\t\u00fc ", n/5) + "</a>" },
	"between":          func(n int) string { return strings.Repeat(" \n", n/2) + "<a/>" },
}

// plainTags is what others are compared with: what most elements are made of.
const plainTags = "plain tags"

// each returns what f gives for 0 to n-1.
func each(n int, f func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

// letters returns names of two letters.
func letters(i int) string { return string('a'+rune(i/8)) + string('a'+rune(i%8)) }

// costly are messages of n bytes that make each byte cost as much as it can.
var costly = func() map[string]func(n int) string {
	most := DefaultMaxAttributes - 1
	many := func(format string) string {
		return each(most, func(i int) string { return strings.ReplaceAll(format, "*", letters(i)) })
	}
	prefixes := many(" xmlns:*='u'")
	long := strings.Repeat("l", 500)
	table := map[string]func(n int) string{}
	for name, c := range map[string][3]string{ // the start, what is repeated, the end
		plainTags:                     {"<iq>", "<a/>", "</iq>"},
		"plain attributes":            {"<iq>", "<a b=''/>", "</iq>"},
		"prefixed elements":           {"<iq" + prefixes + ">", "<aa:a/>", "</iq>"},
		"prefixed pairs":              {"<iq" + prefixes + ">", "<aa:a></aa:a>", "</iq>"},
		"prefix xml":                  {"<iq" + prefixes + ">", "<xml:a/>", "</iq>"},
		"one prefix":                  {"<iq" + prefixes + ">", "<a" + many(" aa:*=''") + "/>", "</iq>"},
		"all prefixes":                {"<iq" + prefixes + ">", "<a" + many(" *:*=''") + "/>", "</iq>"},
		"prefixes of one namespace":   {"<iq" + many(" xmlns:*='"+long[:50]+"'") + ">", "<a" + many(" *:*=''") + "/>", "</iq>"},
		"prefixes of many namespaces": {"<iq" + many(" xmlns:*='"+long[:50]+"*'") + ">", "<a" + many(" *:a=''") + "/>", "</iq>"},
		"prefixes declared deeper":    {"<iq>" + many("<a xmlns:*='u'>"), "<aa:a ab:b='' ac:c=''/>", many("</a>") + "</iq>"},
		"long prefixes":               {"<iq" + many(" xmlns:"+long[:40]+"*='u'") + ">", "<" + long[:40] + "aa:a/>", "</iq>"},
		"declared again":              {"<iq>", "<a xmlns:a='u'/>", "</iq>"},
		"declared and left":           {"<iq>", "<a xmlns:a='u'></a>", "</iq>"},
		"declared at one place":       {"<iq>", "<a" + prefixes + "/>", "</iq>"},
		"declared with references":    {"<iq>", "<a xmlns:a='&lt;'/>", "</iq>"},
		"default with references":     {"<iq>", "<a xmlns='&lt;'/>", "</iq>"},
		"names of one hash": {"<iq>", "<a" + each(52, func(i int) string {
			return " a" + string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[i]) + "a=''"
		}) + "/>", "</iq>"},
		"two names of one hash":    {"<iq>", "<a aaa='' aba=''/>", "</iq>"},
		"long names of one hash":   {"<iq>", "<a" + many(" "+long[:40]+"*a=''") + "/>", "</iq>"},
		"long names":               {"<iq>", "<" + long + "></" + long + ">", "</iq>"},
		"names beyond ASCII":       {"<iq>", "<\uff82 \uff82='\uff82'/>", "</iq>"},
		"tag beyond ASCII":         {"<iq>", "<\uff82/>", "</iq>"},
		"short tag beyond ASCII":   {"<iq>", "<\u00e9/>", "</iq>"},
		"short name beyond ASCII":  {"<iq>", "<a \u00e9=''/>", "</iq>"},
		"prefixed beyond ASCII":    {"<iq" + prefixes + ">", "<aa:\u00e9/>", "</iq>"},
		"line ends beyond ASCII":   {"<iq>", "<\u00e9\n\u00e9=''/>", "</iq>"},
		"space beyond ASCII":       {"<iq>", "<\u00e9 />", "</iq>"},
		"declared beyond ASCII":    {"<iq>", "<\u00e9 xmlns:\u00e9='&lt;'/>", "</iq>"},
		"default beyond ASCII":     {"<iq>", "<\u4460 xmlns='&lt;'/>", "</iq>"},
		"quotes beyond ASCII":      {"<iq>", "<\u00e9 b='\"'/>", "</iq>"},
		"references beyond ASCII":  {"<iq>", "<\u00e9 b='&lt;'/>", "</iq>"},
		"line end beyond ASCII":    {"<iq>", "<\u00e9\n/>", "</iq>"},
		"tab beyond ASCII":         {"<iq>", "<\u00e9\t\u00e9=''/>", "</iq>"},
		"brackets beyond ASCII":    {"<iq>", "<\U00010437 b=''\n/>]", "</iq>"},
		"text beyond ASCII":        {"<iq>", "\uffc2", "</iq>"},
		"references in a value":    {"<iq><a b='", "&lt;", "'/></iq>"},
		"references in values":     {"<iq>", "<a b='&lt;'/>", "</iq>"},
		"references in text":       {"<iq>", "&#9;", "</iq>"},
		"brackets between tags":    {"<iq>", "]<a/>", "</iq>"},
		"other quotes in values":   {"<iq>", "<a b='\"'/>", "</iq>"},
		"white space in tags":      {"<iq>", "<a />", "</iq>"},
		"white space around =":     {"<iq>", "<a b = ''/>", "</iq>"},
		"line ends between":        {"<iq>", "<a\nb=''\nc=''/>", "</iq>"},
		"line ends in a namespace": {"<iq><a xmlns:a='", "\n", "'/></iq>"},
		"depth":                    {"<iq>", strings.Repeat("<a>", 200) + strings.Repeat("</a>", 200), "</iq>"},
	} {
		table[name] = func(n int) string {
			return c[0] + strings.Repeat(c[1], max(n-len(c[0])-len(c[2]), 0)/len(c[1])) + c[2]
		}
	}
	return table
}()

// inspected are stream features and errors of n bytes, all of whose elements
// StreamSplitter looks at.
var inspected = func() map[string]func(n int) string {
	table := map[string]func(n int) string{}
	attributes := each(DefaultMaxAttributes-1, func(i int) string { return " " + letters(i) + "=''" })
	prefixes := each(DefaultMaxAttributes-1, func(i int) string { return " xmlns:" + letters(i) + "='u'" })
	const sasl, sasl2 = "<authentication xmlns='" + nsSASL2 + "'", "<inline><fast xmlns='" + nsFAST + "'"
	for name, c := range map[string][3]string{
		plainTags:                 {"<stream:features>", "<a/>", "</stream:features>"},
		"errors":                  {"<stream:error>", "<a/>", "</stream:error>"},
		"errors, attributes":      {"<stream:error" + attributes + ">", "<a/>", "</stream:error>"},
		"errors, prefixes":        {"<stream:error" + prefixes + ">", "<aa:a/>", "</stream:error>"},
		"errors, texts":           {"<stream:error>", "<text/>", "</stream:error>"},
		"error, text":             {"<stream:error><see-other-host xmlns='" + nsStreamErrors + "'>", "&lt;<b/><![CDATA[]]>", "</see-other-host></stream:error>"},
		"features, attributes":    {"<stream:features" + attributes + ">", "<limits/>", "</stream:features>"},
		"features, prefixes":      {"<stream:features" + prefixes + ">", "<aa:limits/>", "</stream:features>"},
		"features, long value":    {"<stream:features xmlns='" + strings.Repeat("u", 1000) + "'>", "<limits/>", "</stream:features>"},
		"features, own namespace": {"<stream:features>", "<limits xmlns='u'/>", "</stream:features>"},
		"mechanisms":              {"<stream:features><mechanisms xmlns='" + nsSASL + "'>", "<mechanism>a-PLUS</mechanism>", "</mechanisms></stream:features>"},
		"mechanisms, deep": {"<stream:features>" + sasl + prefixes + ">" + sasl2 + prefixes + ">", "<mechanism/>",
			"</fast></inline></authentication></stream:features>"},
		"limits": {"<stream:features>", "<limits xmlns='" + nsLimits + "'><max-bytes>99999</max-bytes></limits>", "</stream:features>"},
		"digits": {"<stream:features><limits xmlns='" + nsLimits + "'><max-bytes>", "9", "</max-bytes></limits></stream:features>"},
		"types":  {"<stream:features><sasl-channel-binding xmlns='" + nsBinding + "'>", "<channel-binding/>", "</sasl-channel-binding></stream:features>"},
	} {
		table[name] = func(n int) string {
			return c[0] + strings.Repeat(c[1], max(n-len(c[0])-len(c[2]), 0)/len(c[1])) + c[2]
		}
	}
	return table
}()

// ways are what is done with the inputs of a table.
var ways = map[string]struct {
	table map[string]func(n int) string
	run   func(t *testing.T, in []byte)
}{
	"large, up": {large, func(t *testing.T, in []byte) {
		if _, err := parse(new(MessageParser), bytes.TrimLeft(in, " \n")); err != nil {
			t.Fatal(err)
		}
	}},
	"large, down": {large, func(t *testing.T, in []byte) { downInReads(t, new(StreamSplitter), in) }},
	"costly": {costly, func(t *testing.T, in []byte) {
		if _, err := parse(new(MessageParser), in); err != nil {
			t.Fatal(err)
		}
	}},
	"inspected": {inspected, func(t *testing.T, in []byte) {
		filter := &FeatureFilter{MaxStanza: 5, ChannelBinding: ChannelBindingEndPoint, NoExternal: true}
		u := downInReads(t, new(StreamSplitter), in)
		u.SeeOtherHost()
		u.StreamErrorCondition()
		if u.Class == ClassFeatures {
			u.OffersSASL()
			u.OffersStartTLS()
			filter.AppendMessage(nil, &u)
		}
	}},
}

// downInReads feeds in, which is one element, to d as reads of 1 KiB bring it.
func downInReads(t *testing.T, d *StreamSplitter, in []byte) (u StreamUnit) {
	start, units := 0, 0
	for end := 0; end < len(in); {
		end = min(end+1024, len(in))
		n, err := d.Next(in[start:end], &u)
		if err != nil {
			t.Fatal(err)
		}
		start += n
		if u.Kind != KindNone {
			units++
		}
	}
	if units != 1 || start != len(in) {
		t.Fatalf("%d units, %d bytes left", units, len(in)-start)
	}
	return u
}

// The environment of TestStatements.
const (
	envWay   = "FRAMING_WAY"
	envInput = "FRAMING_INPUT"
	envSize  = "FRAMING_SIZE"
)

// TestLinear counts the statements that inputs of one kind and different sizes
// take: four times the bytes may take four times as many, and no byte may take
// many times as many as one of a plain element. Time would say the same, but
// not on a machine that others use.
//
// Statements are counted by the tools for test coverage, so each count is a
// process of its own, see TestStatements.
func TestLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles, takes seconds")
	}
	binary := filepath.Join(t.TempDir(), "framing.test")
	if out, err := exec.Command("go", "test", "-c", "-covermode", "count", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	count := func(t *testing.T, way, input string, size int) int {
		profile := filepath.Join(t.TempDir(), "profile")
		c := exec.Command(binary, "-test.run", "^TestStatements$", "-test.coverprofile", profile)
		c.Env = append(os.Environ(), envWay+"="+way, envInput+"="+input, fmt.Sprintf("%s=%d", envSize, size))
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s, %s, %d bytes: %v\n%s", way, input, size, err, out)
		}
		b, err := os.ReadFile(profile)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		sum := 0
		for _, line := range lines[1:] { // file:from,to statements executions
			var statements, executions int
			_, rest, _ := strings.Cut(line, " ")
			if _, err := fmt.Sscan(rest, &statements, &executions); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			sum += statements * executions
		}
		return sum
	}
	const small, big = 15 << 10, 60 << 10 // features have at most 64 KiB
	for way, w := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			idle := count(t, "", "", 0) // what starting takes
			usual := 0
			if _, ok := w.table[plainTags]; ok {
				usual = count(t, way, plainTags, big) - idle
			}
			for input := range w.table {
				a, b := count(t, way, input, small)-idle, count(t, way, input, big)-idle
				t.Logf("%s: %.1f statements a byte", input, float64(b)/big)
				if b > 5*a+100 {
					t.Errorf("%s: %d statements for %d bytes, %d for %d", input, a, small, b, big)
				}
				// Three times the time at most. A rare statement takes a little
				// longer than a usual one.
				if usual > 0 && 10*b > 24*usual {
					t.Errorf("%s: %d statements for %d bytes, %s take %d", input, b, big, plainTags, usual)
				}
			}
		})
	}
}

// TestStatements does what TestLinear is to count. It does nothing otherwise.
func TestStatements(t *testing.T) {
	w, ok := ways[os.Getenv(envWay)]
	if !ok {
		return
	}
	var size int
	if _, err := fmt.Sscan(os.Getenv(envSize), &size); err != nil {
		t.Fatal(err)
	}
	w.run(t, []byte(w.table[os.Getenv(envInput)](size)))
}

// TestInspectionAllocates: a server may send large features and errors as often as
// it likes, so what looking into them takes is bounded by their depth, not by the
// number of their children.
func TestInspectionAllocates(t *testing.T) {
	for input, f := range inspected {
		var u StreamUnit
		filter := &FeatureFilter{MaxStanza: 5, ChannelBinding: ChannelBindingEndPoint, NoExternal: true}
		d := new(StreamSplitter)
		b := []byte(f(60 << 10))
		if _, err := d.Next(b, &u); err != nil || u.Kind != KindElement {
			t.Fatalf("%s: %v, %v", input, u.Kind, err)
		}
		dst := make([]byte, 0, 64<<10)
		n := testing.AllocsPerRun(5, func() {
			u.SeeOtherHost()
			u.StreamErrorCondition()
			if u.Class == ClassFeatures {
				u.OffersSASL()
				u.OffersStartTLS()
				u.RequiresStartTLS()
				dst = filter.AppendMessage(dst[:0], &u)
			}
		})
		t.Logf("%s: %v allocations", input, n)
		if n > 50 {
			t.Errorf("%s: %v allocations for %d bytes", input, n, len(b))
		}
	}
}
