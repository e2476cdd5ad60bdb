//go:build !purego

package framing

// avx2 says whether processor and system have AVX2.
var avx2 = supported()

func supported() bool

// markAVX2 is markWords for n bytes. There must be 64 at b even if n is less;
// those behind are spaces then. The results are not zero if there are such
// bytes.
//
//go:noescape
func markAVX2(m *marks, b *byte, n int) (control, high uint32)

// skipAVX2 is skipWords for n bytes.
//
//go:noescape
func skipAVX2(b *byte, n int) int

func mark(m *marks, b []byte) (seen traits) {
	if !avx2 {
		return markWords(m, b)
	}
	n := len(b)
	if n < 64 {
		var block [64]byte
		copy(block[copy(block[:], b):], spaces)
		b = block[:]
	}
	l, h := markAVX2(m, &b[0], n)
	if l != 0 {
		seen |= hasControl
	}
	if h != 0 {
		seen |= nonASCII
	}
	return seen
}

func skip(b []byte) int {
	if !avx2 {
		return skipWords(b)
	}
	if len(b) < 128 {
		return 0
	}
	return skipAVX2(&b[0], len(b))
}
