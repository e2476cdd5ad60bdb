package loop

import (
	"sync"

	"xmppgate/proxy/internal/relay"
)

// Sizes in bytes of the buffers that are read into, and that keep what a side does
// not take. A read that finds nothing kept takes relay.ReadSize: large enough that one
// read takes all that a socket has, and that a batch of stanzas leaves in one
// write. The largest class holds a message of the usual limit, or what is kept of a server, and what surrounds it.
var bufferSizes = [...]int{4 << 10, 16 << 10, relay.ReadSize, largeRead, LargeBuffer}

const (
	// LargeBuffer is the largest of them.
	LargeBuffer = 272 << 10
	// largeRead is the size of a read where elements are larger than relay.ReadSize.
	largeRead = 2 * relay.ReadSize
	// lastRead bounds the reads that complete an element of more than
	// relay.ReadSize. What comes behind the element may have to be kept beside it,
	// for a client that does not read.
	lastRead = 16<<10 - minRead
	// minRead is the least room to read into.
	minRead = 2 << 10
)

var buffers [len(bufferSizes)]sync.Pool

// A buffer is memory of which the first n bytes are in use.
type buffer struct {
	b []byte
	n int
}

// getBuffer returns a buffer of at least n bytes.
func getBuffer(n int) *buffer {
	for i, size := range bufferSizes {
		if n <= size {
			if b, ok := buffers[i].Get().(*buffer); ok {
				return b
			}
			return &buffer{b: make([]byte, size)}
		}
	}
	// Only a limit above the default leads here; doubling keeps it linear.
	return &buffer{b: make([]byte, 2*n)}
}

// getGrowing is getBuffer for what will become more. What exceeds half of relay.ReadSize
// gets all that it may need at once: many sessions that grow together would leave
// a buffer of each class behind, and memory that nothing is written to costs none.
func getGrowing(n int) *buffer {
	if n > relay.ReadSize/2 {
		n = max(n, LargeBuffer)
	}
	return getBuffer(n)
}

func putBuffer(b *buffer) {
	b.n = 0
	for i, size := range bufferSizes {
		if len(b.b) == size {
			buffers[i].Put(b)
			return
		}
	}
}

// A window is what was read from one side and not consumed yet. Between two
// reads an empty one has no buffer. Its memory follows what has arrived, never
// what a peer has announced.
type window struct{ buf *buffer }

func (w *window) empty() bool { return w.buf == nil || w.buf.n == 0 }

// space returns the room to read what sd sends into.
func (w *window) space(sd side) []byte {
	switch {
	case w.buf == nil:
		w.buf = getBuffer(relay.ReadSize)
	case len(w.buf.b)-w.buf.n < minRead:
		w.move(w.bytes(), getGrowing(w.buf.n+minRead))
	}
	space := w.buf.b[w.buf.n:]
	if sd == server {
		space = space[:min(len(space), max(relay.ReadSize-w.buf.n, lastRead))]
	}
	return space
}

// short reports whether so little is kept that it may as well be copied.
func (w *window) short() bool { return !w.empty() && len(w.buf.b) == bufferSizes[0] }

// bytes returns what is kept.
func (w *window) bytes() []byte {
	if w.buf == nil {
		return nil
	}
	return w.buf.b[:w.buf.n]
}

// filled takes n bytes that were read into space and returns all there are.
func (w *window) filled(n int) []byte {
	w.buf.n += n
	return w.bytes()
}

// add appends bytes that were read elsewhere.
func (w *window) add(b []byte) {
	if n := w.buf.n + len(b); n > len(w.buf.b) {
		w.move(w.bytes(), getGrowing(n))
	}
	w.buf.n += copy(w.buf.b[w.buf.n:], b)
}

// keep drops all but rest, which aliases the buffer.
func (w *window) keep(rest []byte) {
	switch {
	case len(rest) == 0:
		w.release()
	case len(rest) <= len(w.buf.b)/4:
		// A short rest may be kept for long.
		w.move(rest, getBuffer(len(rest)))
	default:
		if &rest[0] != &w.buf.b[0] {
			copy(w.buf.b, rest)
		}
		w.buf.n = len(rest)
	}
}

func (w *window) move(rest []byte, to *buffer) {
	to.n = copy(to.b, rest)
	putBuffer(w.buf)
	w.buf = to
}

// set keeps a copy of rest in buf, in place of nothing.
func (w *window) set(buf *buffer, rest []byte) {
	buf.n = copy(buf.b, rest)
	w.buf = buf
}

// release gives the buffer back.
func (w *window) release() {
	if w.buf != nil {
		putBuffer(w.buf)
		w.buf = nil
	}
}
