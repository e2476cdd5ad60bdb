package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// chat returns n stanzas as a server sends them.
func chat(n int) (all []string) {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the gateway wherefore art thou Romeo deny thy father and refuse name or if wilt not be but sworn my love tomorrow lunch maybe")
	for i := range n {
		var body []string
		for range 3 + r.IntN(20) {
			body = append(body, words[r.IntN(len(words))])
		}
		who := []string{"juliet", "romeo", "nurse"}[r.IntN(3)]
		switch i % 3 {
		case 0:
			all = append(all, fmt.Sprintf(`<message xmlns="jabber:client" to='me@example.org/phone' from='%s@example.org/balcony' type='chat' id='%016x'><body>%s</body><active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/></message>`, who, r.Uint64(), strings.Join(body, " ")))
		case 1:
			all = append(all, fmt.Sprintf(`<presence xmlns="jabber:client" to='me@example.org/phone' from='%s@example.org/%x'><show>away</show><priority>5</priority><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://example.org' ver='%x='/></presence>`, who, r.Uint32(), r.Uint64()))
		default:
			all = append(all, fmt.Sprintf(`<message xmlns="jabber:client" to='me@example.org/phone'><result xmlns='urn:xmpp:mam:2' queryid='f27' id='%d-%d-%d'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2026-07-10T23:%02d:25Z'/><message xmlns='jabber:client' to='me@example.org' from='%s@example.org/balcony' type='chat'><body>%s</body></message></forwarded></result></message>`, r.IntN(1e5), r.IntN(1e5), r.IntN(1e5), r.IntN(60), who, strings.Join(body, " ")))
		}
	}
	return all
}

func newMemory(bytes int64) *Memory {
	m := new(Memory)
	m.SetLimit(bytes)
	return m
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// A peer inflates what a compressor makes as clients do: it keeps all of the window.
type peer struct {
	window   []byte
	farthest int // reference
}

func (p *peer) inflate(t testing.TB, c Params, message []byte) []byte {
	t.Helper()
	if c.NoContext {
		p.window = nil
	}
	whole := append(bytes.Clone(message), tail...)
	u := puff{in: whole, out: bytes.Clone(p.window)}
	if err := u.run(); err != nil {
		t.Fatal(err)
	}
	text := u.out[len(p.window):]
	p.farthest = max(p.farthest, u.farthest)

	std, err := io.ReadAll(flate.NewReaderDict(io.MultiReader(bytes.NewReader(whole), strings.NewReader("\x01\x00\x00\xff\xff")), p.window))
	if err != nil || !bytes.Equal(std, text) {
		t.Fatalf("compress/flate: %v, %d bytes, want %d", err, len(std), len(text))
	}
	p.window = u.out[max(0, len(u.out)-1<<c.WindowBits):]
	return text
}

// Whatever is compressed comes out as it was, and no reference is farther than agreed.
// Messages that are not compressed come between, which do not enter the window (RFC
// 7692, section 7.2.2).
//
// Behaviour: compression. RFC 7692, section 7.2.
func TestRoundTrip(t *testing.T) {
	texts := [][]byte{nil, []byte("a"), []byte("<a/>"), bytes.Repeat([]byte("x"), 300_000), random(70_000), random(20), bytes.Repeat(random(250), 40), bytes.Repeat(random(500), 40), bytes.Repeat(random(9000), 12)}
	for _, m := range chat(200) {
		texts = append(texts, []byte(m))
	}
	for bits := leastWindowBits; bits <= mostWindowBits; bits++ {
		for _, noContext := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bits, no context %t", bits, noContext), func(t *testing.T) {
				p, m := Params{WindowBits: bits, NoContext: noContext}, newMemory(1<<20)
				var c Compressor
				if !c.Start(p, m) {
					t.Fatal("no memory")
				}
				var to peer
				r := rand.New(rand.NewPCG(3, 4))
				for range 60 {
					text := texts[r.IntN(len(texts))]
					switch {
					case len(text) > 10 && r.IntN(4) == 0: // in parts
						var out []byte
						for part := range bytes.SplitAfterSeq(text, text[:2]) {
							out = c.Append(out, part, false)
							c.Sent(part)
						}
						out = out[:len(out)-len(tail)]
						if got := to.inflate(t, p, out); !bytes.Equal(got, text) {
							t.Fatalf("in parts: %d bytes, want %d", len(got), len(text))
						}
						if noContext {
							c.Forget()
						}
					default:
						out := c.Append([]byte("before"), text, true)[len("before"):]
						if r.IntN(4) == 0 {
							break // it goes plain
						}
						c.Sent(text)
						if got := to.inflate(t, p, out); !bytes.Equal(got, text) {
							t.Fatalf("%d bytes, want %d", len(got), len(text))
						}
						if len(out) > len(text)+len(text)/8+64 {
							t.Errorf("%d bytes became %d", len(text), len(out))
						}
					}
				}
				if to.farthest > 1<<bits {
					t.Errorf("a reference leads back by %d bytes", to.farthest)
				}
				if most := p.dictionary(); !noContext && to.farthest < most/2 {
					t.Errorf("no reference leads further than %d bytes: the window is not used", to.farthest)
				}
				c.Stop(m)
				if m.Used() != 0 {
					t.Errorf("%d bytes are in use in the end", m.Used())
				}
			})
		}
	}
}

// Context is worth its memory, and it is used.
func TestRatio(t *testing.T) {
	size := func(noContext bool) (out int) {
		var c Compressor
		c.Start(Params{WindowBits: mostWindowBits, NoContext: noContext}, newMemory(maxDictionary))
		for _, m := range chat(600) {
			out += len(c.Append(nil, []byte(m), true))
			c.Sent([]byte(m))
		}
		return out
	}
	plain := 0
	for _, m := range chat(600) {
		plain += len(m)
	}
	with, without := size(false), size(true)
	t.Logf("plain %d, without context %d (%.2f), with %d (%.2f)", plain, without, float64(plain)/float64(without), with, float64(plain)/float64(with))
	if 3*with > plain {
		t.Errorf("%d bytes become %d", plain, with)
	}
}

// What has no repetition becomes smaller all the same, if it does not use all bytes.
func TestBase64(t *testing.T) {
	for bits := leastWindowBits; bits <= mostWindowBits; bits++ {
		p := Params{WindowBits: bits}
		var c Compressor
		c.Start(p, newMemory(maxDictionary))
		var to peer
		for _, n := range []int{150, 1000, 5000, 100_000} {
			text := base64.StdEncoding.AppendEncode(nil, random(2 * n)[n:])
			out := c.Append(nil, text, true)
			c.Sent(text)
			if got := to.inflate(t, p, out); !bytes.Equal(got, text) {
				t.Fatalf("%d bytes, want %d", len(got), len(text))
			}
			most := 80 // percent
			if bits < 12 {
				most = 92 // small chunks pay more for their codes
			}
			if n >= 1000 && len(out) > len(text)*most/100 {
				t.Errorf("%d bits: %d bytes of %d", bits, len(out), len(text))
			}
		}
	}
}

// Small windows take more work, and say so.
func TestWork(t *testing.T) {
	work := func(bits, n int) int {
		var c Compressor
		c.Start(Params{WindowBits: bits}, newMemory(maxDictionary))
		return c.Work(n)
	}
	if one, many := work(mostWindowBits, 300), work(mostWindowBits, 20_000); many-one != 19_700 || one < maxDictionary {
		t.Errorf("%d and %d for one call", one, many)
	}
	if small, large := work(leastWindowBits, 100_000), work(mostWindowBits, 100_000); small < 10*large {
		t.Errorf("the work is %d with a small window, and %d with a large one", small, large)
	}
}

// Messages without context stand alone.
//
// Behaviour: compression. RFC 7692, section 7.1.1.1.
func TestNoContext(t *testing.T) {
	for _, forget := range []bool{false, true} {
		var c Compressor
		c.Start(Params{WindowBits: mostWindowBits, NoContext: !forget}, newMemory(maxDictionary))
		m := []byte(chat(1)[0])
		c.Sent(m)
		if forget {
			c.Forget()
		}
		if got, err := inflate(nil, c.Append(nil, m, true), len(m)); err != nil || !bytes.Equal(got, m) {
			t.Errorf("forget %t: %v", forget, err)
		}
	}
}

// Dictionaries are counted, and there is no more of them than allowed.
//
// Behaviour: compression-memory. RFC 7692, section 5.1.
func TestMemory(t *testing.T) {
	m := newMemory(2*maxDictionary + 200)
	all := make([]Compressor, 4)
	p := Params{WindowBits: mostWindowBits}
	for i, want := range []bool{true, true, false} {
		if m.Has(p) != want || all[i].Start(p, m) != want {
			t.Errorf("compressor %d: want %t", i, want)
		}
	}
	small := Params{WindowBits: leastWindowBits}
	if !all[2].Start(small, m) || all[3].Start(small, m) {
		t.Error("a small window is not a small dictionary")
	}
	if none := (Params{WindowBits: mostWindowBits, NoContext: true}); !all[3].Start(none, m) {
		t.Error("who needs no memory gets none")
	}
	if want := int64(2*maxDictionary + 128); m.Used() != want {
		t.Errorf("%d bytes are in use, want %d", m.Used(), want)
	}
	for i := range all {
		all[i].Sent(random(20000)) // which does not make the dictionary larger
		all[i].Stop(m)
	}
	if m.Used() != 0 || m.Limit() != 2*maxDictionary+200 {
		t.Errorf("%d bytes are in use in the end", m.Used())
	}
}

func FuzzDeflate(f *testing.F) {
	for bits := range byte(8) {
		f.Add(bits, []byte(strings.Join(chat(20), "\n")))
	}
	f.Add(byte(255), []byte("\n\n<a/>\nx"))
	f.Fuzz(func(t *testing.T, how byte, text []byte) {
		p := Params{WindowBits: leastWindowBits + int(how&7), NoContext: how&8 != 0}
		var c Compressor
		c.Start(p, newMemory(1<<20))
		var to peer
		for m := range bytes.SplitSeq(text, []byte("\n")) {
			out := c.Append(nil, m, true)
			c.Sent(m)
			if got := to.inflate(t, p, out); !bytes.Equal(got, m) {
				t.Fatalf("%q became %q", m, got)
			}
			if p.NoContext {
				if got, err := inflate(nil, out, len(m)); err != nil || !bytes.Equal(got, m) {
					t.Fatalf("%q: %v", m, err)
				}
			}
		}
		if to.farthest > 1<<p.WindowBits {
			t.Errorf("a reference leads back by %d bytes", to.farthest)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, noContext := range []bool{false, true} {
		b.Run(fmt.Sprintf("context=%t", !noContext), func(b *testing.B) {
			var c Compressor
			c.Start(Params{WindowBits: mostWindowBits, NoContext: noContext}, newMemory(maxDictionary))
			all := chat(600)
			texts := make([][]byte, len(all))
			for i := range all {
				texts[i] = []byte(all[i])
			}
			var out []byte
			in, total, i := 0, 0, 0
			b.ReportAllocs()
			for b.Loop() {
				m := texts[i%len(texts)]
				i++
				out = c.Append(out[:0], m, true)
				c.Sent(m)
				in, total = in+len(m), total+len(out)
			}
			b.ReportMetric(float64(in)/float64(total), "ratio")
		})
	}
}
