package session

import (
	"errors"
	"fmt"
	"math"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/deflate"
)

// maxFragments bounds the frames of one message: without it empty continuation
// frames would keep a message open for ever at no cost to the sender.
const maxFragments = 1024

// maxMessage bounds a message in bytes whatever is configured, so that an unfinished
// one is told by a small number.
const maxMessage = math.MaxInt32

var (
	errBinary    = errors.New("binary message")
	errFragments = fmt.Errorf("a message of more than %d fragments", maxFragments)
)

// A sizeError is the announced size in bytes of a message that is too large.
type sizeError int

func (e sizeError) Error() string { return fmt.Sprintf("message of %d bytes", int(e)) }

// An unfinished tells of the message whose end has yet to come. The zero value means
// that there is none. Before the upgrade size is how much of the HTTP request has come.
type unfinished struct {
	size       int32  // its bytes so far
	frames     uint16 // its frames so far
	compressed bool   // its first frame says so
}

// An assembler puts the frames of a client together into messages (RFC 6455, section
// 5.4). It works in the buffer that was read into: the payload of a message that is
// one frame is used where it lies, fragments are moved together, so that
// b[start:start+size] is the unfinished message, and frames go on at b[pos].
//
// What has to survive until the next read is the unfinished alone, with the bytes
// that rest returns.
type assembler struct {
	unfinished
	b           []byte
	start, pos  int
	compression bool // it was agreed on
}

// begin lets a go on with b, which starts with what rest has returned last, when the
// unfinished message was u. It sets fields one by one because a is new: to copy a
// whole assembler is measurably slower.
func (a *assembler) begin(b []byte, u unfinished, compression bool) {
	a.size, a.frames, a.compressed = u.size, u.frames, u.compressed
	a.b, a.pos, a.compression = b, int(u.size), compression
}

// next returns the next message, as ws.OpText, or the next control frame, which may
// come between the fragments of a message. It reports false if there is none yet.
// The payload is unmasked, aliases b, and is valid until the next call.
//
// After a message, and until the next call, compressed tells whether it has to be
// inflated.
//
// A message must not have more than limit bytes, a compressed one no more than such a
// message can have. The announced length alone decides:
// no byte of a message that is too large is waited for. The error is a sizeError
// then, errBinary, errFragments, or what is wrong with the header of a frame.
func (a *assembler) next(limit int) (op ws.OpCode, payload []byte, ok bool, err error) {
	for {
		b := a.b[a.pos:]
		f, size, err := parseFrame(b, a.frames > 0, a.compression)
		if a.frames == 0 {
			a.compressed = f.compressed
		}
		most := limit
		if a.compressed {
			most = deflate.MaxSize(limit)
		}
		switch {
		case err != nil:
			return 0, nil, false, err
		case size == 0:
			return 0, nil, false, nil
		case f.op == ws.OpBinary:
			return 0, nil, false, errBinary
		case !f.op.IsControl() && f.length > int64(min(most, maxMessage)-int(a.size)):
			return 0, nil, false, sizeError(min(f.length, math.MaxInt-int64(a.size)) + int64(a.size))
		}
		n := size + int(f.length)
		if len(b) < n {
			return 0, nil, false, nil
		}
		payload := b[size:n]
		unmask(payload, [4]byte(b[size-4:]))
		a.pos += n

		switch {
		case f.op.IsControl():
			return f.op, payload, true, nil
		case f.fin && a.frames == 0:
			a.start = a.pos
			return ws.OpText, payload, true, nil
		case a.frames == maxFragments:
			return 0, nil, false, errFragments
		}
		a.frames++
		a.size += int32(copy(a.b[a.start+int(a.size):], payload))
		if f.fin {
			payload = a.b[a.start : a.start+int(a.size)]
			a.start, a.size, a.frames = a.pos, 0, 0
			return ws.OpText, payload, true, nil
		}
	}
}

// kept returns what has to survive until the next read.
func (a *assembler) kept() unfinished {
	if a.frames == 0 {
		return unfinished{}
	}
	return a.unfinished
}

// more reports whether next has not come to the end of b.
func (a *assembler) more() bool { return a.pos < len(a.b) }

// unread returns what comes behind the last frame that next has taken.
func (a *assembler) unread() []byte { return a.b[a.pos:] }

// rest returns what is wanted again: the unfinished message and what is unread
// behind it. The gap between them, which frame headers and control frames have left,
// is closed.
func (a *assembler) rest() []byte {
	if a.size == 0 {
		return a.unread()
	}
	end := a.start + int(a.size)
	return a.b[a.start : end+copy(a.b[end:], a.unread())]
}
