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

// An inflater is used for one message at a time.
type inflater struct {
	in  bytes.Reader
	buf []byte // the message and ends
	out io.ReadCloser
}

var inflaters = sync.Pool{New: func() any { return &inflater{out: flate.NewReader(bytes.NewReader(nil))} }}

// AppendInflated appends to dst the text that the compressed message p stands for. The
// message must not refer to others. The text has at most limit bytes: AppendInflated
// stops there and returns ErrTooLarge. Any other error says what is wrong with p.
//
// After an error the result holds what came before it.
func AppendInflated(dst, p []byte, limit int) ([]byte, error) {
	f := inflaters.Get().(*inflater)
	defer f.release()
	f.buf = append(append(f.buf[:0], p...), ends...)
	f.in.Reset(f.buf)

	start := len(dst)
	var history []byte // what a reference may lead to
	for final := 0; ; final++ {
		if err := f.out.(flate.Resetter).Reset(&f.in, history); err != nil {
			return dst, fmt.Errorf("compressed message: %w", err)
		}
		for err := error(nil); err != io.EOF; {
			if len(dst)-start > limit {
				return dst, ErrTooLarge
			}
			dst = grow(dst)
			var n int
			n, err = f.out.Read(dst[len(dst):min(cap(dst), start+limit+1)])
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
		if n := f.in.Len(); n == 0 || n == len(ends) {
			return dst, nil
		}
		if final == maxFinal {
			return dst, errFinal
		}
		history = dst[max(start, len(dst)-1<<mostWindowBits):]
	}
}

// grow returns dst with room to inflate into, at most as much as it holds already: the
// memory follows what has come, and all bytes together are moved at most twice.
func grow(dst []byte) []byte {
	if cap(dst)-len(dst) >= minRoom {
		return dst
	}
	return append(make([]byte, 0, len(dst)+max(minRoom, len(dst))), dst...)
}

func (f *inflater) release() {
	if cap(f.buf) > maxPooled {
		f.buf = nil
	}
	f.in.Reset(nil)
	inflaters.Put(f)
}
