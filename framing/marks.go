package framing

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// This file finds the few bytes of a message that its structure hangs on, in
// one pass before anything else looks at it. So the next of them need not be
// searched, nor does the processor have to know where one was to find the next.
//
//	mark  the pass: markAVX2 (marks_amd64.s), else markWords
//	skip  the pass over long text, several times as fast: skipAVX2, skipWords
//
// The assembly stays because it pays: without it a message of a few hundred bytes
// takes 1.6 to 2 times as long to check, one of 64 KiB six times. The build tag
// purego leaves it out.

// window is the number of bytes whose marks are known at a time. Most messages
// fit as a whole.
const window = 4096

// marks are the positions of '<', '&', ']' and both quotes in order, then twice
// the number of bytes looked at. Kernels may write a few more behind.
type marks [window + 8]uint16

// traits are what is known of bytes without a look at each.
type traits uint8

const (
	hasControl traits = 1 << iota // there are controls or white space but the space
	nonASCII                      // there are bytes beyond ASCII
)

// A marker goes over a message once. Positions are indexes into the message,
// which is the same for all calls after begin.
type marker struct {
	marks      marks
	start, end int    // of the window; marks count from its start
	next       int    // index of the first mark that has not been passed
	seen       traits // of all bytes before end
}

// begin marks the first bytes of msg.
func (k *marker) begin(msg []byte) {
	k.end, k.seen = 0, 0
	k.markWindow(msg)
}

// markWindow marks the next bytes of msg.
func (k *marker) markWindow(msg []byte) {
	b := msg[k.end:]
	b = b[:min(window, len(b))]
	k.seen |= mark(&k.marks, b)
	k.next = 0
	k.start = k.end
	k.end += len(b)
}

// markUpTo marks all bytes before position i.
func (k *marker) markUpTo(msg []byte, i int) {
	for k.end < i {
		k.markWindow(msg)
	}
}

// nextMark returns the index of the first '<', '&' or ']' at or behind i, or
// len(msg). It passes that mark and all before it.
func (k *marker) nextMark(msg []byte, i int) int {
	k.markUpTo(msg, i)
	for {
		at := k.start + int(k.marks[k.next])
		if at < k.end {
			k.next++
			if at >= i && msg[at] != '"' && msg[at] != '\'' {
				return at
			}
			continue
		}
		if at == len(msg) {
			return at
		}
		k.end += skip(msg[k.end:])
		k.markWindow(msg)
	}
}

// spaces is what a part of a block is filled up with.
const spaces = "                                                                "

// markWords marks b, at most window bytes, in m. It looks at eight bytes at a
// time. A byte without its high bit, xor one looked for, plus 0x7f has that bit
// unless the two are the same. Nothing is carried from byte to byte.
func markWords(m *marks, b []byte) (seen traits) {
	const sevens = highs - ones
	var all uint64                 // bits of all bytes
	printable := uint64(1<<64 - 1) // high bits of columns without low bytes
	n := 0
	for i := 0; i < len(b); i += 8 {
		var w uint64
		if len(b)-i >= 8 {
			w = binary.LittleEndian.Uint64(b[i:])
		} else {
			var last [8]byte
			copy(last[copy(last[:], b[i:]):], spaces)
			w = binary.LittleEndian.Uint64(last[:])
		}
		x := w & sevens
		others := (x^'<'*ones+sevens)&(x^'&'*ones+sevens)&(x^']'*ones+sevens)&
			(x^'"'*ones+sevens)&(x^'\''*ones+sevens) | w
		all |= w
		printable &= x + (0x80-' ')*ones | w
		for marked := ^others & highs; marked != 0; marked &= marked - 1 {
			m[n] = uint16(i + bits.TrailingZeros64(marked)/8)
			n++
		}
	}
	m[n], m[n+1] = uint16(len(b)), uint16(len(b))
	if printable&highs != highs {
		seen |= hasControl
	}
	if all&highs != 0 {
		seen |= nonASCII
	}
	return seen
}

// skipWords returns the length of a part of text in front that is ASCII without
// controls, white space but the space and what text stops at. It is a multiple
// of 64 and may be short of what it could be by less than a kilobyte.
func skipWords(b []byte) (n int) {
	for ; len(b)-n >= 1024; n += 1024 {
		c := b[n : n+1024]
		if printablePrefix(c) < len(c) || bytes.IndexByte(c, '<') >= 0 || bytes.IndexByte(c, '&') >= 0 || bytes.IndexByte(c, ']') >= 0 {
			break
		}
	}
	return n
}
