package deflate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// Limits of a message.
const (
	// maxFinal bounds the blocks that are marked as the last one. Senders that
	// mark any mark one (RFC 7692, section 7.2.3.4). What follows needs the
	// window once more, which is 32 KiB of work for two bytes.
	maxFinal = 64
	// minRoom is the least room to inflate into.
	minRoom = 512
	// maxPooled is the largest buffer that is kept for other messages.
	maxPooled = 64 << 10
)

// MaxSize is how many bytes a compressed message may have that stands for limit
// bytes. An encoder that does not find anything to compress adds a few bytes to each
// block.
func MaxSize(limit int) int { return limit + limit/64 + 64 }

// ErrTooLarge says that a message stands for more bytes than allowed.
var ErrTooLarge = errors.New("the message inflates to more than allowed")

var errFinal = fmt.Errorf("compressed message: more than %d final blocks", maxFinal)

// ends is put behind a message: what the sender has cut off, and a block that is
// marked as the last one, so that the end can be told from a message cut short.
const ends = tail + "\x01" + tail

// clientMemory is what lasts from message to message of a client, in bytes.
func (p Params) clientMemory() int64 {
	if p.ClientBits == 0 {
		return 0
	}
	return 1 << p.ClientBits
}

// An Inflater restores the messages of one client. The zero value is for messages that
// do not refer to earlier ones. Its memory lasts from Start or Resume to Stop.
type Inflater struct {
	size int64   // of seen
	seen history // the end of what was restored; nil before the first message
}

// Start makes f ready. It reports false if m has no room; f is as before then.
func (f *Inflater) Start(p Params, m *Memory) bool {
	if !m.take(p.clientMemory()) {
		return false
	}
	f.size = p.clientMemory()
	return true
}

// Resume makes f go on where another one has been, of which History has returned seen. It
// takes memory even if there is none, because the client goes on to refer to seen.
func (f *Inflater) Resume(p Params, m *Memory, seen []byte) {
	f.size = p.clientMemory()
	m.used.Add(f.size)
	if len(seen) > 0 {
		f.seen = newHistory(f.size)
		f.seen.add(seen)
	}
}

// History is what messages may refer to. It is valid until the next call.
func (f *Inflater) History() []byte { return f.seen }

// Stop gives the memory back.
func (f *Inflater) Stop(m *Memory) {
	m.giveBack(f.size)
	*f = Inflater{}
}

// A decoder is used for one message at a time.
type decoder struct {
	in  bytes.Reader
	buf []byte // the message and ends
	out io.ReadCloser
}

var decoders = sync.Pool{New: func() any { return &decoder{out: flate.NewReader(bytes.NewReader(nil))} }}

// Append appends to dst the text that the compressed message p stands for. It has at most
// limit bytes: Append stops there and returns ErrTooLarge. Any other error says what is
// wrong with p. After an error the result holds what came before it, and f cannot go on.
func (f *Inflater) Append(dst, p []byte, limit int) ([]byte, error) {
	d := decoders.Get().(*decoder)
	defer d.release()
	d.buf = append(append(d.buf[:0], p...), ends...)
	d.in.Reset(d.buf)

	start := len(dst)
	seen := []byte(f.seen) // what a reference may lead to
	for final := 0; ; final++ {
		if err := d.out.(flate.Resetter).Reset(&d.in, seen); err != nil {
			return dst, fmt.Errorf("compressed message: %w", err)
		}
		for err := error(nil); err != io.EOF; {
			if len(dst)-start > limit {
				return dst, ErrTooLarge
			}
			dst = grow(dst)
			var n int
			n, err = d.out.Read(dst[len(dst):min(cap(dst), start+limit+1)])
			dst = dst[:len(dst)+n]
			if err != nil && err != io.EOF {
				return dst, fmt.Errorf("compressed message: %w", err)
			}
		}
		if len(dst)-start > limit {
			return dst, ErrTooLarge
		}
		// The end was that of ends, or that of a block of the sender which is marked as
		// the last one. Others may follow that.
		if n := d.in.Len(); n == 0 || n == len(ends) {
			break
		}
		if final == maxFinal {
			return dst, errFinal
		}
		text := dst[start:]
		seen = text[max(0, len(text)-1<<mostWindowBits):]
		if len(text) < cap(f.seen) { // there is little of it
			seen = append(bytes.Clone(f.seen), text...)
		}
	}
	if f.seen == nil {
		f.seen = newHistory(f.size)
	}
	f.seen.add(dst[start:])
	return dst, nil
}

// grow returns dst with room to inflate into, at most as much as it holds already: the
// memory follows what has come, and all bytes together are moved at most twice.
func grow(dst []byte) []byte {
	if cap(dst)-len(dst) >= minRoom {
		return dst
	}
	return append(make([]byte, 0, len(dst)+max(minRoom, len(dst))), dst...)
}

func (d *decoder) release() {
	if cap(d.buf) > maxPooled {
		d.buf = nil
	}
	d.in.Reset(nil)
	decoders.Put(d)
}
