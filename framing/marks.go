package framing

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// This file finds the few bytes of a message that its structure hangs on. One
// pass over the message marks them, so that the next one is a shift and a count
// of zeros away instead of a search.

// marked is the number of bytes whose marks are kept at a time: most messages
// fit as a whole.
const marked = 4096

// A bitmap has one bit for each of some bytes, the lowest of a word for the
// first. The word behind is zero.
type bitmap [marked/64 + 1]uint64

// marks are bitmaps of the same bytes.
type marks struct {
	text  bitmap // '<', '&' and ']'
	value bitmap // '<', '&', '"' and '\''
}

// traits are what is known of bytes without a look at each.
type traits uint8

const (
	low    traits = 1 << iota // there are controls or white space but the space
	beyond                    // there are bytes beyond ASCII
)

// A marker goes over a message from its start and marks it. Positions are
// indexes into the message, which is the same for all calls behind begin.
type marker struct {
	marks
	start, end int    // of the bytes that marks are about, multiples of 64
	seen       traits // of all bytes before end
}

// begin marks the first bytes of msg.
func (k *marker) begin(msg []byte) {
	k.end, k.seen = 0, 0
	k.more(msg)
}

// more marks the next bytes of msg.
func (k *marker) more(msg []byte) {
	b := msg[k.end:]
	b = b[:min(marked, len(b))]
	k.seen |= mark(&k.marks, b)
	k.start = k.end
	k.end += (len(b) + 63) &^ 63
}

// ahead returns the marks in m of the 64 bytes from i on. It is zero if there
// are none or they are not known yet; find tells.
func (k *marker) ahead(m *bitmap, i uint) uint64 {
	if i >= uint(k.end) {
		return 0
	}
	i -= uint(k.start)
	j := i / 64 % (marked / 64)
	return m[j]>>(i%64) | m[j+1]<<1<<(^i%64)
}

// find returns the index of the first mark in m at or behind i, or len(msg).
func (k *marker) find(msg []byte, m *bitmap, i int) int {
	for {
		for ; i < k.end; i = (i + 64) &^ 63 {
			if w := k.ahead(m, uint(i)); w != 0 {
				return i + bits.TrailingZeros64(w)
			}
		}
		if k.end >= len(msg) {
			return len(msg)
		}
		if m == &k.text {
			k.end += skip(msg[k.end:])
		}
		k.more(msg)
		i = max(i, k.start)
	}
}

// reach marks all up to position i.
func (k *marker) reach(msg []byte, i int) {
	for k.end < i {
		k.more(msg)
	}
}

// blank is what a part of a block is filled up with.
const blank = "                                                                "

// markWords marks b, at most marked bytes, in m. It looks at eight bytes at a
// time. A byte without its high bit, xor one looked for, plus 0x7f has that bit
// unless the two are the same. Nothing is carried from byte to byte.
func markWords(m *marks, b []byte) (seen traits) {
	const sevens = highs - ones
	var all uint64          // bits of all bytes
	printable := ^uint64(0) // high bits of columns without low bytes
	n := 0
	for ; n*64 < len(b); n++ {
		var block [64]byte
		if copy(block[:], b[n*64:]) < 64 {
			copy(block[len(b)%64:], blank)
		}
		var text, value uint64
		for k := 0; k < 64; k += 8 {
			w := binary.LittleEndian.Uint64(block[k:])
			x := w & sevens
			both := (x ^ '<'*ones + sevens) & (x ^ '&'*ones + sevens)
			t := both&(x^']'*ones+sevens) | w
			v := both&(x^'"'*ones+sevens)&(x^'\''*ones+sevens) | w
			text |= highBits(^t) << k
			value |= highBits(^v) << k
			all |= w
			printable &= x + (0x80-' ')*ones | w
		}
		m.text[n], m.value[n] = text, value
	}
	m.text[n], m.value[n] = 0, 0
	if printable&highs != highs {
		seen |= low
	}
	if all&highs != 0 {
		seen |= beyond
	}
	return seen
}

// highBits gathers the high bits of the bytes of w, the lowest from the lowest.
func highBits(w uint64) uint64 { return w & highs * 0x0002040810204081 >> 56 }

// skipWords returns the length of a part of text in front that is ASCII without
// marks, controls and white space but the space. It is a multiple of 64 and may
// be short of what it could be by less than a kilobyte.
func skipWords(b []byte) (n int) {
	for ; len(b)-n >= 1024; n += 1024 {
		c := b[n : n+1024]
		if plain(c) < len(c) || bytes.IndexByte(c, '<') >= 0 || bytes.IndexByte(c, '&') >= 0 || bytes.IndexByte(c, ']') >= 0 {
			break
		}
	}
	return n
}
