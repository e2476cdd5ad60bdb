package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// compressed returns a message as clients send them, and as RFC 7692, section 7.2.1,
// has it.
func compressed(t testing.TB, text string, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, text)
	w.Flush()
	return b.Bytes()[:b.Len()-len(tail)]
}

// inflate restores a message that stands alone.
func inflate(dst, message []byte, limit int) ([]byte, error) {
	return new(Inflater).Append(dst, message, limit)
}

// stored is a block without compression.
func stored(text string, final byte) string {
	n := len(text)
	return string([]byte{final, byte(n), byte(n >> 8), ^byte(n), ^byte(n >> 8)}) + text
}

const (
	emptyStored = "\x00\x00\x00\xff\xff"
	emptyFinal  = "\x03\x00" // with the fixed code, padded
)

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// What messages stand for. The first ones are the examples of RFC 7692, section 7.2.3.
//
// Behaviour: compression, compression-invalid. RFC 7692, sections 7.2.2 and 7.2.3.
func TestInflate(t *testing.T) {
	long := strings.Repeat("wherefore art thou? ", 3000)
	final := func(text string) string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 6)
		io.WriteString(w, text)
		w.Close()
		return b.String()
	}
	for _, c := range []struct {
		name, in, want string
		ok             bool
	}{
		{"fixed code", unhex("f2 48 cd c9 c9 07 00"), "Hello", true},
		{"no compression", unhex("00 05 00 fa ff 48 65 6c 6c 6f 00"), "Hello", true},
		{"final block", unhex("f3 48 cd c9 c9 07 00 00"), "Hello", true},
		{"two blocks", unhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00"), "Hello", true},
		{"empty", "\x00", "", true},
		{"long", string(compressed(t, long, 6)), long, true},
		{"long, best", string(compressed(t, long, 9)), long, true},
		{"long, codes only", string(compressed(t, long, flate.HuffmanOnly)), long, true},
		{"empty blocks in front", strings.Repeat(emptyStored, 5000) + unhex("f2 48 cd c9 c9 07 00"), "Hello", true},
		{"empty blocks behind", unhex("f2 48 cd c9 c9 07 00 00 00 ff ff") + strings.Repeat(emptyStored, 5000) + "\x00", "Hello", true},
		{"final block without the one that has to follow", unhex("f3 48 cd c9 c9 07 00"), "Hello", true},
		{"final block refers to nothing", final(long) + "\x00", long, true},
		{"two final blocks", final("Hello, ") + final("world") + "\x00", "Hello, world", true},

		{"nothing", "", "", false},
		{"cut short", unhex("f2 48 cd c9"), "", false},
		{"cut short in a stored block", "\x00\x09\x00\xf6\xffabc", "", false},
		{"the end was not cut off", unhex("f2 48 cd c9 c9 07 00 00 00 ff ff"), "Hello", false},
		{"reserved block", "\x06", "", false},
		{"stored length", unhex("00 05 00 fa fe 48 65 6c 6c 6f 00"), "", false},
		{"reference to nothing", unhex("02 13 00 00"), "", false},
		{"garbage", string(random(200)), "", false},
		{"garbage behind the end", unhex("f2 48 cd c9 c9 07 00 00 00 ff ff") + "\xff\xff\xff", "Hello", false},
		{"garbage behind a final block", unhex("f3 48 cd c9 c9 07 00") + "garbage", "Hello", false},
		{"too many codes", unhex("ed fd ff ff ff ff ff ff 00"), "", false},
		{"many final blocks", strings.Repeat(emptyFinal, maxFinal) + "\x00", "", true},
		{"one more", strings.Repeat(emptyFinal, maxFinal+1) + "\x00", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := inflate([]byte("before "), []byte(c.in), 1<<20)
			if (err == nil) != c.ok {
				t.Fatalf("got %.100q, %v", got, err)
			}
			if c.ok && string(got) != "before "+c.want {
				t.Errorf("got %d bytes, %.100q", len(got), got)
			}
			if !c.ok && (errors.Is(err, ErrTooLarge) || !strings.HasPrefix(err.Error(), "compressed message: ")) {
				t.Error(err)
			}
		})
	}
}

// What follows a final block may refer to what is in front of it: the window goes on.
func TestInflateAcrossFinalBlocks(t *testing.T) {
	text := strings.Repeat(chat(1)[0], 2)
	var c Compressor
	c.Start(Params{WindowBits: mostWindowBits}, newMemory(maxDictionary))
	first := []byte(stored(text, 1))
	c.Sent([]byte(text))
	message := append(first, c.Append(nil, []byte(text), true)...)
	if len(message) > len(text)+100 {
		t.Fatalf("%d bytes do not refer to the first block", len(message))
	}
	got, err := inflate(nil, message, 1<<20)
	if err != nil || string(got) != text+text {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// What was large once is not kept for all that come.
func TestLargeBuffersAreNotKept(t *testing.T) {
	for _, size := range []int{maxPooled, maxPooled + 1} {
		d := &decoder{buf: make([]byte, 0, size), out: flate.NewReader(bytes.NewReader(nil))}
		d.release()
		if kept := d.buf != nil; kept != (size <= maxPooled) {
			t.Errorf("a buffer of %d bytes is kept: %v", size, kept)
		}
	}
}

// A message stops at the limit, whatever it would have become, and takes no more memory
// than that.
//
// Behaviour: compression-bomb. RFC 7692, section 8.
func TestBombs(t *testing.T) {
	const limit = 256 << 10
	bomb := compressed(t, strings.Repeat("x", 50<<20), 9)
	if len(bomb)*1000 > 52<<20 {
		t.Fatalf("%d bytes are no bomb", len(bomb))
	}
	got, err := inflate(nil, bomb, limit)
	if !errors.Is(err, ErrTooLarge) || len(got) != limit+1 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if cap(got) > 2*limit+minRoom {
		t.Errorf("the result has room for %d bytes", cap(got))
	}
	for n := range 4 {
		text := strings.Repeat("x", limit+n-2)
		got, err := inflate(nil, compressed(t, text, 9), limit)
		if fits := len(text) <= limit; fits != (err == nil) || fits && string(got) != text {
			t.Errorf("%d bytes: %v", len(text), err)
		}
	}
	// What is stored is not larger than allowed as a message.
	for level := range 10 {
		if m := compressed(t, string(random(limit)), level); len(m) > MaxSize(limit) {
			t.Errorf("level %d: %d random bytes have %d as a message, which is above %d", level, limit, len(m), MaxSize(limit))
		}
	}
}

// Messages of a client refer to earlier ones, as far back as was agreed on: those that
// came compressed. The client is a Compressor with that window.
//
// Behaviour: compression. RFC 7692, section 7.1.2.2.
func TestInflateWithContext(t *testing.T) {
	for bits := leastClientBits; bits <= clientBits; bits++ {
		m := newMemory(1 << 20)
		p := Params{WindowBits: mostWindowBits, ClientBits: bits}
		var from Compressor
		from.Start(Params{WindowBits: bits}, m)
		before := m.Used()
		var f Inflater
		if !f.Start(p, m) || m.Used()-before != 1<<bits {
			t.Fatalf("%d bytes are in use", m.Used()-before)
		}
		size, alone := 0, 0
		r := rand.New(rand.NewPCG(1, uint64(bits)))
		for i, text := range chat(300) {
			switch r.IntN(10) {
			case 0:
				continue // it came plain
			case 1:
				text = strings.Repeat(text, 1+r.IntN(100))
			case 2: // another process goes on
				seen := bytes.Clone(f.History())
				f.Stop(m)
				f.Resume(p, m, seen)
			}
			out := from.Append(nil, []byte(text), true)
			if r.IntN(5) == 0 { // behind a block that is marked as the last one
				out = slices.Concat([]byte(emptyFinal), out)
			}
			from.Sent([]byte(text))
			got, err := f.Append([]byte("x"), out, 1<<20)
			if err != nil || string(got) != "x"+text {
				t.Fatalf("%d bits, message %d: %v, got %.100q", bits, i, err, got)
			}
			size, alone = size+len(out), alone+len(compressed(t, text, 6))
			if cap(f.seen) > 1<<bits {
				t.Fatalf("%d bytes are kept", cap(f.seen))
			}
		}
		if bits == clientBits && size >= alone {
			t.Errorf("%d bits: %d bytes, and %d without context", bits, size, alone)
		}
		// What is further back than agreed is not there.
		text := []byte(strings.Repeat("wherefore ", 30))
		if _, err := f.Append(nil, from.Append(nil, text, true), 1<<20); err != nil {
			t.Fatal(err)
		}
		from.Sent(text)
		if _, err := f.Append(nil, compressed(t, string(random(2<<bits)), 0), 1<<20); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Append(nil, from.Append(nil, text, true), 1<<20); err == nil && bytes.Equal(got, text) {
			t.Errorf("%d bits: a reference leads back beyond the window", bits)
		}
		f.Stop(m)
		from.Stop(m)
		if m.Used() != 0 {
			t.Errorf("%d bytes are in use in the end", m.Used())
		}
	}
	var f Inflater
	if f.Start(Params{ClientBits: clientBits}, newMemory(1<<clientBits-1)) {
		t.Error("it has memory that is not there")
	}
}

// Bytes that are read from one inflater to the next do not mix, and the result of one
// does not change with the next.
func TestInflateReuse(t *testing.T) {
	a, b := strings.Repeat("a", 1000), strings.Repeat("b", 1000)
	got, err := inflate(nil, compressed(t, a, 6), 1000)
	for range 10 {
		if _, err := inflate(nil, compressed(t, b, 6), 1000); err != nil {
			t.Fatal(err)
		}
		// What ended in an error leaves nothing behind either.
		if _, err := inflate(nil, []byte("\x06"), 1000); err == nil {
			t.Fatal("no error")
		}
	}
	if err != nil || string(got) != a {
		t.Errorf("got %.100q, %v", got, err)
	}
}

// The text of many messages is appended in linear time: each byte is moved a few times.
func TestGrow(t *testing.T) {
	one := compressed(t, strings.Repeat("x", 100), 6)
	var got []byte
	moved, last := 0, 0
	for range 5000 {
		var err error
		if got, err = inflate(got, one, 1000); err != nil {
			t.Fatal(err)
		}
		if cap(got) != last {
			moved, last = moved+len(got), cap(got)
		}
	}
	if moved > 4*len(got) {
		t.Errorf("%d bytes were moved for %d", moved, len(got))
	}
}

func FuzzInflate(f *testing.F) {
	f.Add([]byte(unhex("f2 48 cd c9 c9 07 00")))
	f.Add([]byte(unhex("f3 48 cd c9 c9 07 00 00")))
	f.Add([]byte(strings.Repeat(emptyStored, 10) + "\x00"))
	f.Add([]byte(strings.Repeat(emptyFinal, 10) + "\x00"))
	f.Add(compressed(f, strings.Join(chat(10), ""), 6))
	f.Add(compressed(f, strings.Repeat("x", 10000), 9))
	f.Fuzz(func(t *testing.T, m []byte) {
		const limit = 100_000
		got, err := inflate(nil, m, limit)
		if len(got) > limit+1 {
			t.Fatalf("%d bytes", len(got))
		}
		// compress/flate knows neither ends nor blocks behind the last one.
		want, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(append(bytes.Clone(m), ends...))), limit+1))
		if !bytes.HasPrefix(got, want) && !bytes.HasPrefix(want, got) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if err == nil && stdErr != nil {
			t.Fatalf("compress/flate finds: %v", stdErr)
		}
		if errors.Is(err, ErrTooLarge) && len(got) != limit+1 {
			t.Fatalf("too large with %d bytes", len(got))
		}
	})
}

// A bitWriter writes numbers with their lowest bit first.
type bitWriter struct {
	b []byte
	n int
}

func (w *bitWriter) put(v, bits int) {
	for i := range bits {
		if w.n&7 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n>>3] |= byte(v>>i&1) << (w.n & 7)
		w.n++
	}
}

// costlyBlock is a short block with large tables and a byte of text, and an empty one
// behind it, so that it ends with a byte.
func costlyBlock() []byte {
	// Most symbols have 10 bits, which is one too many for a single table, and a few
	// take the rest of the codes.
	lengths := make([]int, 286)
	for i := range lengths {
		lengths[i] = 10
	}
	space := 1<<15 - 286<<5
	for i := 256; i < 286 && space > 0; i++ {
		for n := 1; n < 10; n++ {
			if add := 1<<(15-n) - 1<<5; add <= space {
				lengths[i], space = n, space-add
				break
			}
		}
	}
	var w bitWriter
	w.put(0, 1)
	w.put(2, 2)
	w.put(286-257, 5)
	w.put(0, 5)
	w.put(15, 4)
	// Lengths 1 to 10 and 16 have codes of 4 bits.
	used := []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	code, next := map[int]int{}, 0
	for s := range 19 {
		if s >= 1 && s <= 15 || s == 16 {
			code[s], next = next, next+1
		}
	}
	for _, s := range used {
		if _, ok := code[s]; ok {
			w.put(4, 3)
		} else {
			w.put(0, 3)
		}
	}
	symbol := func(s int) {
		for i := 3; i >= 0; i-- {
			w.put(code[s]>>i&1, 1)
		}
	}
	all := append(lengths, 1)
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n] == all[i] {
			n++
		}
		symbol(all[i])
		i, n = i+1, n-1
		for n >= 3 {
			repeat := min(n, 6)
			symbol(16)
			w.put(repeat-3, 2)
			i, n = i+repeat, n-repeat
		}
	}
	c := newPuffCode(lengths)
	for key, s := range c {
		if s == 256 {
			for i := key[0] - 1; i >= 0; i-- {
				w.put(key[1]>>i&1, 1)
			}
		}
	}
	w.put(0, 3)
	for w.n&7 != 0 {
		w.put(0, 1)
	}
	return append(w.b, tail...)
}

// The worst that a message can ask for, for each byte of it.
func BenchmarkInflate(b *testing.B) {
	tables := costlyBlock()
	for name, m := range map[string][]byte{
		"stanza":       compressed(b, chat(1)[0], 6),
		"text":         compressed(b, strings.Join(chat(400), ""), 6),
		"bomb":         compressed(b, strings.Repeat("x", 256<<10), 9),
		"empty blocks": []byte(strings.Repeat(emptyStored, 50_000) + "\x00"),
		"final blocks": []byte(string(compressed(b, strings.Repeat("x", 32<<10), 9)) + tail + strings.Repeat(emptyFinal, maxFinal) + "\x00"),
		"tables":       append(bytes.Repeat(tables, 256<<10/len(tables)), 0),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(m)))
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				var err error
				if out, err = inflate(out[:0], m, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(out))/float64(len(m)), "ratio")
		})
	}
}
