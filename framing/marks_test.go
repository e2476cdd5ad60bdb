package framing

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// slowMarks is what mark and markWords are to say, byte by byte.
func slowMarks(b []byte) (m marks, seen traits) {
	for i, c := range b {
		bit := uint64(1) << (i % 64)
		switch c {
		case '<', '&':
			m.text[i/64] |= bit
			m.value[i/64] |= bit
		case ']':
			m.text[i/64] |= bit
		case '"', '\'':
			m.value[i/64] |= bit
		}
		switch {
		case c < ' ':
			seen |= low
		case c > '~'+1:
			seen |= beyond
		}
	}
	return m, seen
}

// checkMarks compares what there is for marking with slowMarks. What stood in
// the marks before must not matter, and nothing behind them be written.
func checkMarks(t *testing.T, b []byte) {
	t.Helper()
	want, wantSeen := slowMarks(b)
	n := (len(b)+63)/64 + 1
	for name, f := range map[string]func(*marks, []byte) traits{"mark": mark, "markWords": markWords} {
		var got marks
		for i := range got.text {
			got.text[i], got.value[i] = ^uint64(0), ^uint64(0)
		}
		if seen := f(&got, b); seen != wantSeen {
			t.Fatalf("%s(%q): traits %b, want %b", name, b, seen, wantSeen)
		}
		for i := range got.text {
			text, value := want.text[i], want.value[i]
			if i >= n {
				text, value = ^uint64(0), ^uint64(0)
			}
			if got.text[i] != text || got.value[i] != value {
				t.Fatalf("%s(%q): block %d is %064b, %064b, want %064b, %064b", name, b, i, got.text[i], got.value[i], text, value)
			}
		}
	}
}

// checkSkip checks that what is skipped is without interest and most of what
// could be.
func checkSkip(t *testing.T, b []byte) {
	t.Helper()
	plain := bytes.IndexFunc(b, func(r rune) bool { return r < ' ' || r > '~'+1 || strings.ContainsRune("<&]", r) })
	if plain < 0 {
		plain = len(b)
	}
	for name, f := range map[string]func([]byte) int{"skip": skip, "skipWords": skipWords} {
		if n := f(b); n%64 != 0 || n < 0 || n > plain || n <= plain-1024 {
			t.Fatalf("%s(%q) = %d of %d", name, b, n, plain)
		}
	}
}

// TestMarks tries all lengths that differ in the blocks they end in, wherever
// they lie in memory, between bytes that would show.
func TestMarks(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for size := 1; size <= 200; size++ {
		for align := range 64 {
			outer := bytes.Repeat([]byte("<\xff\x00'"), 100)
			b := outer[align:][:size:size]
			for i := range b {
				b[i] = "abcdefgh <&]\"'"[r.IntN(14)]
			}
			checkMarks(t, b)
			checkSkip(t, b)
		}
	}
	for _, size := range []int{marked - 65, marked - 64, marked - 1, marked} {
		checkMarks(t, []byte(roster(150))[:size])
	}
}

// TestMarkBytes puts every byte everywhere.
func TestMarkBytes(t *testing.T) {
	sizes := []int{1, 63, 64, 100, 128, 200}
	if testing.Short() {
		sizes = sizes[4:]
	}
	for _, size := range sizes {
		b := bytes.Repeat([]byte{'m'}, size)
		for i := range b {
			for c := range 256 {
				b[i] = byte(c)
				checkMarks(t, b)
			}
			b[i] = 'm'
		}
	}
	b := bytes.Repeat([]byte{'m'}, 1100)
	for i := range b {
		for c := range 256 {
			b[i] = byte(c)
			checkSkip(t, b)
		}
		b[i] = 'm'
	}
}

// TestMarker goes over a message in leaps of all sizes and finds every mark
// that it does not leap over.
func TestMarker(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		msg := bytes.Repeat([]byte{'m'}, 1+r.IntN(5*marked))
		for range r.IntN(40) {
			msg[r.IntN(len(msg))] = "<&]\"'\n\xc3"[r.IntN(7)]
		}
		var want traits
		for part := range slices.Chunk(msg, marked) {
			_, seen := slowMarks(part)
			want |= seen
		}
		var k marker
		k.begin(msg)
		for i := 0; i < len(msg); {
			m, set := &k.text, "<&]"
			if r.IntN(2) == 0 {
				m, set = &k.value, "<&\"'"
			}
			next := bytes.IndexAny(msg[i:], set)
			if next < 0 {
				next = len(msg) - i
			}
			next += i
			if w := k.ahead(m, uint(i)); w != 0 && w&-w != 1<<(next-i) {
				t.Fatalf("%b ahead of %d, want bit %d", w, i, next-i)
			}
			if got := k.find(msg, m, i); got != next {
				t.Fatalf("%q is at %d, not %d", set, next, got)
			}
			i = next + 1 + r.IntN(1+r.IntN(1+r.IntN(2*marked)))
			if i <= len(msg) {
				k.reach(msg, i)
			}
		}
		if k.reach(msg, len(msg)); k.seen != want {
			t.Fatalf("traits %b, want %b", k.seen, want)
		}
	}
}

func FuzzMarks(f *testing.F) {
	for _, c := range corpora {
		f.Add([]byte(c.element)[:min(len(c.element), 1000)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkSkip(t, b)
		if len(b) > 0 {
			checkMarks(t, b[:min(len(b), marked)])
		}
	})
}
