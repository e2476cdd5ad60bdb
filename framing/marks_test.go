package framing

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// slowMarks is what mark and markWords are to say, byte by byte.
func slowMarks(b []byte) (m []uint16, seen traits) {
	for i, c := range b {
		switch {
		case strings.IndexByte("<&]\"'", c) >= 0:
			m = append(m, uint16(i))
		case c < ' ':
			seen |= hasControl
		case c > '~'+1:
			seen |= nonASCII
		}
	}
	return append(m, uint16(len(b)), uint16(len(b))), seen
}

// checkMarks compares what there is for marking with slowMarks.
func checkMarks(t *testing.T, b []byte) {
	t.Helper()
	want, wantSeen := slowMarks(b)
	for name, f := range map[string]func(*marks, []byte) traits{"mark": mark, "markWords": markWords} {
		var got marks
		if seen := f(&got, b); seen != wantSeen || !slices.Equal(got[:len(want)], want) {
			t.Fatalf("%s(%q) = %d, traits %b, want %d, %b", name, b, got[:len(want)], seen, want, wantSeen)
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
	for _, size := range []int{window - 65, window - 64, window - 63, window - 1, window} {
		checkMarks(t, []byte(roster(150))[:size])
		checkMarks(t, bytes.Repeat([]byte{'<'}, size))
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
		msg := bytes.Repeat([]byte{'m'}, 1+r.IntN(5*window))
		for range r.IntN(40) {
			msg[r.IntN(len(msg))] = "<&]\"'\n\xc3"[r.IntN(7)]
		}
		var want traits
		for part := range slices.Chunk(msg, window) {
			_, seen := slowMarks(part)
			want |= seen
		}
		var k marker
		k.begin(msg)
		for i := 0; i < len(msg); {
			next := bytes.IndexAny(msg[i:], "<&]")
			if next < 0 {
				next = len(msg) - i
			}
			next += i
			if got := k.nextMark(msg, i); got != next {
				t.Fatalf("the next after %d is at %d, not %d", i, got, next)
			}
			i = next + 1 + r.IntN(1+r.IntN(1+r.IntN(2*window)))
		}
		if k.markUpTo(msg, len(msg)); k.seen != want {
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
			checkMarks(t, b[:min(len(b), window)])
		}
	})
}
