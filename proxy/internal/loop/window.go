package loop

import "xmppgate/proxy/internal/relay"

// A window is what was read from one side and not consumed yet. An empty window has no
// buffer between two events. Its memory follows what has arrived, never what a peer has
// announced.
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
