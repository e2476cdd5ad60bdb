package deflate

import (
	"sync"

	"github.com/klauspost/compress/flate"
)

// maxDictionary is the most in bytes that flate.StatelessDeflate uses of a
// dictionary.
const maxDictionary = 8 << 10

// maxInput is the most in bytes that flate.StatelessDeflate takes at once, dictionary
// included.
const maxInput = 1<<15 - 1

// tail is what each compressed message ends with and is not sent (RFC 7692, section
// 7.2.1).
const tail = "\x00\x00\xff\xff"

// dictionary is how much of the text in front of a chunk is given to the compressor
// with it, in bytes.
func (p Params) dictionary() int { return min(maxDictionary, 1<<p.WindowBits/2) }

// chunk is how much is compressed at a time, so that no reference reaches further
// back than the window: it stays inside of the chunk and its dictionary. StatelessDeflate
// takes somewhat less than 32 KiB of both.
func (p Params) chunk() int { return min(1<<p.WindowBits, maxInput) - p.dictionary() }

// memory is what lasts from message to message, in bytes.
func (p Params) memory() int64 {
	if p.NoContext {
		return 0
	}
	return int64(p.dictionary())
}

// A Compressor compresses the messages to one client. Its memory lasts from Start to
// Stop.
type Compressor struct {
	params Params
	dict   history // the end of what was compressed
}

// Start makes c ready. It reports false if m has no room; c must not be used then.
func (c *Compressor) Start(p Params, m *Memory) bool {
	if !m.take(p.memory()) {
		return false
	}
	*c = Compressor{params: p, dict: newHistory(p.memory())}
	return true
}

// Stop gives the memory back. No message can be compressed any more.
func (c *Compressor) Stop(m *Memory) {
	m.giveBack(int64(cap(c.dict)))
	*c = Compressor{}
}

// Forget makes the next message independent of all before it.
func (c *Compressor) Forget() { c.dict = c.dict[:0] }

// Append appends to dst what text becomes as a message of its own, or as a part of
// one: last tells whether the message ends with it. It may be larger than text, if that
// is short or has no repetition. Call Sent if the client gets it.
func (c *Compressor) Append(dst, text []byte, last bool) []byte {
	before, start := c.dict, len(dst)
	w := appender{dst}
	size, most := c.params.chunk(), c.params.dictionary()
	if len(text) == 0 {
		_ = flate.StatelessDeflate(&w, nil, false, nil) // an appender does not fail
	}
	var joined []byte // the dictionary and what follows it, for the first chunks
	for at := 0; at < len(text); at += size {
		end := min(at+size, len(text))
		dict := text[max(0, at-most):at]
		if need := most - len(dict); need > 0 && len(before) > 0 {
			if from := before[max(0, len(before)-need):]; len(dict) == 0 {
				dict = from
			} else {
				joined = append(append(joined[:0], from...), dict...)
				dict = joined
			}
		}
		begin := len(w.b)
		_ = flate.StatelessDeflate(&w, text[at:end], false, dict)
		if len(w.b)-begin >= end-at {
			w.b = appendCodes(w.b[:begin], text[at:end])
		}
	}
	if len(w.b)-start >= len(text) && len(text) > size {
		w.b = appendCodes(w.b[:start], text) // small chunks do not pay for their codes
	}
	if last {
		w.b = w.b[:len(w.b)-len(tail)]
	}
	return w.b
}

// coders are flate.Writers that use short codes for frequent bytes, and nothing else.
var coders = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.HuffmanOnly) // the level is valid
	return w
}}

// appendCodes is Append for text in which StatelessDeflate finds no repetition. It stores
// such text although a quarter of it can be saved if it is base64, as pictures and
// encrypted messages are.
func appendCodes(dst, text []byte) []byte {
	out := appender{dst}
	w := coders.Get().(*flate.Writer)
	w.Reset(&out)
	_, _ = w.Write(text)
	_ = w.Flush()
	w.Reset(nil)
	coders.Put(w)
	return out.b
}

// Sent tells that the client gets what Append has made of text. What follows may refer
// to it. Nothing else may be passed to Sent: the client does not keep what it gets
// uncompressed (RFC 7692, section 7.2.2).
func (c *Compressor) Sent(text []byte) { c.dict.add(text) }

// callWork is what a call of flate.StatelessDeflate costs beside what it looks at, in
// bytes of that: it clears a table.
const callWork = 4 << 10

// Work is how many bytes have to be looked at to compress n. Small windows take more
// calls for it.
func (c *Compressor) Work(n int) int {
	calls := 1 + n/c.params.chunk()
	return n + calls*(c.params.dictionary()+callWork)
}

// An appender is an io.Writer.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}
