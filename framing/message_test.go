package framing

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestPlainTag checks that plainTag says nothing that startTag would not say.
func TestPlainTag(t *testing.T) {
	parts := strings.Split(`a|b|xml|xml:lang|xmlns|xmlns:x|x:y|é|-|1| | |  |=|=|="|="|"|"|='|='|'|'|=''|=""| a=''| b="c"| xmlns='d'| xml:lang='de'|`+
		nsXML+`|`+nsXMLNS+`|&|&lt;|]|>|>|/|/>|<|:`+"|\t|\n", "|")
	r := rand.New(rand.NewPCG(11, 12))
	plain := 0
	for range 300_000 {
		b := []byte("<a")
		for range r.IntN(9) {
			b = append(b, parts[r.IntN(len(parts))]...)
		}
		p := MessageParser{MaxAttributes: 1 + r.IntN(4)}
		p.begin(b)
		p.nextMark(b, 0)
		end, ok := p.plainTag(b, 0)
		if !ok {
			continue
		}
		plain++
		name, space := p.tagName, p.defaultNS
		if end2, err := p.startTag(b, 0, 1); end2 != end || err != nil {
			t.Fatalf("%q: plainTag ends at %d, startTag at %d, %v", b, end, end2, err)
		}
		if p.tagName != name || p.defaultNS != space {
			t.Fatalf("%q: name and namespace at %v, %v; startTag says %v, %v", b, name, space, p.tagName, p.defaultNS)
		}
	}
	if plain < 10_000 {
		t.Errorf("only %d plain tags", plain)
	}
}

// TestWindows shifts an element over the end of the marker's window. The
// element breaks off there, in one case, and goes on with the same byte.
func TestWindows(t *testing.T) {
	var p MessageParser
	for _, c := range corpora {
		if len(c.element) > 1000 {
			continue
		}
		for n := window - len(c.element) - 5; n < window; n++ {
			b := []byte("<a>" + strings.Repeat("b", n) + c.element + "</a>")
			if m, err := parse(&p, b); err != nil || len(m.Raw) != len(b) {
				t.Fatalf("%s behind %d: %v", c.name, n, err)
			}
			b = append(b[:window:window], b[window-1:]...)
			_, err := parse(&p, b)
			want := wellFormed(b, map[string]string{"stream": NSStreams}, false)
			if (err == nil) != (want == nil) && !errors.Is(err, errTag) {
				t.Fatalf("%s: %v, but encoding/xml says %v", b[window-100:], err, want)
			}
			for _, bad := range []string{"\x00", "\xff", "&", "<", "\ufffe"} {
				i := bytes.Index(b, []byte("</")) // the first text behind n
				bad := string(b[:i]) + bad + string(b[i:])
				if _, err := parse(&p, []byte(bad)); err == nil {
					t.Fatalf("accepted %q", bad[window-100:])
				}
			}
		}
	}
}
