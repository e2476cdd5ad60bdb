package session

import (
	"bytes"
	"errors"
	"sync/atomic"

	"xmppgate/proxy/internal/deflate"
	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/relay"
)

// This file is permessage-deflate (RFC 7692) in a session: when it is agreed on, which
// messages are compressed, and how much work one event does for it.

const (
	// minCompressed is the size in bytes below which a message goes as it is: less
	// would be saved than the headers of its packet take.
	minCompressed = 100
	// maxDeflateWork is how many bytes one event looks at to compress, the
	// dictionary of each message included. It takes about 2 ms.
	maxDeflateWork = 1 << 20
	// maxInflateWork is how much one event inflates, see inflateWork. It is not
	// more than a read brings uncompressed.
	maxInflateWork = 2 * relay.ReadSize
	// maxScratch is how much of a text is kept room for from event to event.
	maxScratch = 2 * relay.MaxKept
	// judgedAt is after how many bytes compressing is judged.
	judgedAt = 64 << 10
)

// inflateWork is what inflating n bytes to size ones costs: something for the message,
// and more for n, which may hold tables that take many times as long as text.
func inflateWork(n, size int) int { return 512 + 4*n + size }

// Compression is what all sessions share that compress. The zero value has no memory
// for them. It must not be copied.
type Compression struct {
	memory   deflate.Memory
	sessions atomic.Int64
	without  atomic.Uint64
	relayed  [2]struct{ plain, wire atomic.Uint64 } // by direction
}

// SetMemory sets how many bytes sessions keep from message to message, all together.
// What is in use beyond that stays in use.
func (c *Compression) SetMemory(bytes int64) { c.memory.SetLimit(bytes) }

// A MessageSize counts the payloads of text messages in one direction.
type MessageSize struct {
	Plain uint64 // bytes of text
	Wire  uint64 // bytes that were sent for it; the same for a message that was not compressed
}

// CompressionInfo tells how compression is used.
type CompressionInfo struct {
	Sessions      int64  // live ones that have agreed on it
	WithoutMemory uint64 // sessions so far that went without, because MemoryLimit was reached
	Memory        int64  // bytes that live sessions keep
	MemoryLimit   int64
	Up, Down      MessageSize // of sessions that have agreed on it, ended ones included
}

// Info describes c as it is now.
func (c *Compression) Info() CompressionInfo {
	size := func(d direction) MessageSize {
		return MessageSize{c.relayed[d].plain.Load(), c.relayed[d].wire.Load()}
	}
	return CompressionInfo{c.sessions.Load(), c.without.Load(), c.memory.Used(), c.memory.Limit(), size(toServer), size(toClient)}
}

// A compression is what a session has that has agreed on compression.
type compression struct {
	shared     *Compression
	params     deflate.Params
	state      compressionState
	message    bool   // the message to the client that is sent in parts is compressed
	secret     bool   // it has mentioned a secret
	seam       []byte // the end of its last part
	serverFull bool   // receiveClient stopped because it has inflated enough
	in         deflate.Inflater
	out        deflate.Compressor
	plain, got int            // what was compressed since the last judgement, and what it became
	relayed    [2]MessageSize // by direction
}

// compression is nil if there is none.
func (s *Session) compression() *compression {
	if s.extra == nil {
		return nil
	}
	return s.extra.compression
}

// A compressionState tells whether messages to the client are compressed.
type compressionState uint8

const (
	compressionDue compressionState = iota // it begins with the first message after login
	compressionOn                          // there is a Compressor
	compressionOff                         // there is no memory, or it does not pay
)

// negotiateCompression accepts an offer of the client, if compression is on, and returns
// the header line that tells it.
func (s *Session) negotiateCompression(h *http1.Head) (answer string) {
	if !s.set.AcceptCompression || h.Count("Sec-WebSocket-Extensions") == 0 {
		return ""
	}
	p, ok := deflate.Negotiate(h.Values("Sec-WebSocket-Extensions"))
	if !ok {
		return ""
	}
	shared := s.set.Compression
	if !shared.memory.Has(p) {
		p.ClientBits = 0
	}
	if !shared.memory.Has(p) {
		shared.without.Add(1)
		return ""
	}
	var in deflate.Inflater
	if !in.Start(p, &shared.memory) { // another session was faster
		p.ClientBits = 0
	}
	s.beginCompression(p, in)
	return "Sec-WebSocket-Extensions: " + p.String() + "\r\n"
}

func (s *Session) beginCompression(p deflate.Params, in deflate.Inflater) {
	s.ensureExtra().compression = &compression{shared: s.set.Compression, params: p, in: in}
	s.set.Compression.sessions.Add(1)
}

// endCompression gives back what the session has of its shared memory.
func (s *Session) endCompression() {
	if c := s.compression(); c != nil {
		c.stop()
		c.in.Stop(&c.shared.memory)
		c.shared.sessions.Add(-1)
	}
}

func (c *compression) stop() {
	if c.state == compressionOn {
		c.out.Stop(&c.shared.memory)
	}
	c.state = compressionOff
}

// count adds a message or a part of one.
func (c *compression) count(d direction, plain, wire int) {
	c.relayed[d].Plain += uint64(plain)
	c.relayed[d].Wire += uint64(wire)
	c.shared.relayed[d].plain.Add(uint64(plain))
	c.shared.relayed[d].wire.Add(uint64(wire))
}

// sentPlain counts a message to the client, or a part of one, that is not compressed.
func (s *Session) sentPlain(n int) {
	if s.compression() != nil {
		s.compression().count(toClient, n, n)
	}
}

// compresses reports whether a message to the client that begins with text is to be
// compressed. Nothing is before the client has authenticated: it holds credentials and
// what proves them. The memory is taken no earlier either, so that nobody can take it
// who has no account.
func (s *Session) compresses(size int, text []byte) bool {
	c := s.compression()
	if s.sasl != saslDone || size < minCompressed || c.state == compressionOff || mentionsSecret(text) {
		return false
	}
	if c.state == compressionDue {
		if !c.out.Start(c.params, &c.shared.memory) {
			c.shared.without.Add(1)
			c.state = compressionOff
			return false
		}
		c.state = compressionOn
	}
	return true
}

// secrets are words that stand beside or in a secret, in the spellings of protocols and
// forms: the passwords of rooms and relays, the addresses of uploads and their headers,
// invitations, tokens, the names of streams that can be resumed.
var secrets = [][]byte{
	[]byte("assword"), []byte("oken"), []byte("ecret"), []byte("uthorization"), []byte("redential"), []byte("preauth"), []byte("pwd="),
	[]byte("urn:xmpp:http:upload"), []byte("urn:xmpp:extdisco"), []byte("<enabled"), []byte("previd="),
}

// mentionsSecret reports whether text may hold a secret. It must not be compressed
// together with what others write: who sees the size of the result could find it out
// by sending guesses (as in CRIME).
func mentionsSecret(text []byte) bool {
	for _, word := range secrets {
		if bytes.Contains(text, word) {
			return true
		}
	}
	return false
}

// longestSecret is the length of the longest of secrets.
var longestSecret = func() (n int) {
	for _, word := range secrets {
		n = max(n, len(word))
	}
	return n
}()

// mentionsSecret reports whether a message that is sent in parts has mentioned a secret, in
// the part text or before it. A word may be divided between two parts, and the secret
// itself may come in a later one than the word. Only the last part may be shorter than a
// word.
func (c *compression) mentionsSecret(text []byte, first, last bool) bool {
	if first {
		c.secret = false // see Session.compresses
	} else if !c.secret {
		seam := append(c.seam, text[:min(len(text), longestSecret)]...)
		c.secret = mentionsSecret(seam) || mentionsSecret(text)
	}
	if c.seam = nil; !last && !c.secret {
		c.seam = bytes.Clone(text[max(0, len(text)-longestSecret):])
	}
	return c.secret
}

// judge gives up compressing for good when it saves less than a tenth.
func (c *compression) judge(plain, got int, last bool) {
	c.plain, c.got = c.plain+plain, c.got+got
	if c.plain < judgedAt || !last {
		return
	}
	if c.got > c.plain/10*9 {
		c.stop()
	}
	c.plain, c.got = 0, 0
}

// inflate returns the text of a compressed message of the client. It ends the session if
// there is none. The text is valid until the end of the event: the outbox of the server
// may refer to it.
func (s *Session) inflate(ev *relay.Event, p []byte) (text []byte, ok bool) {
	sc := scratchOf(ev)
	start := len(sc.inflated)
	all, err := s.compression().in.Append(sc.inflated, p, s.limit())
	text = all[start:len(all):len(all)]
	sc.inflateWork += inflateWork(len(p), len(text))
	if sc.inflated = all; cap(all) > maxScratch {
		sc.inflated = nil
	}
	switch {
	case errors.Is(err, deflate.ErrTooLarge):
		s.tooLarge(ev, len(text))
	case err != nil:
		s.endWith(ev, endBadCompression, err)
	}
	return text, err == nil
}

// inflatedEnough reports whether the rest of the input waits for the next event, because
// this one has inflated so much.
func (c *compression) inflatedEnough(ev *relay.Event) bool {
	if c == nil {
		return false
	}
	c.serverFull = scratchOf(ev).inflateWork >= maxInflateWork
	return c.serverFull
}

// A CompressionState is what another process needs to know of the compression of a
// session. It does not need the end of what was compressed: the next message refers to
// nothing.
type CompressionState struct {
	WindowBits, ClientBits int // see deflate.Params
	NoContext              bool
	Seen                   []byte         // what messages of the client may refer to
	Relayed                [2]MessageSize // so far, to server and client
}

// compressionState is nil without compression.
func (s *Session) compressionState() *CompressionState {
	c := s.compression()
	if c == nil {
		return nil
	}
	return &CompressionState{c.params.WindowBits, c.params.ClientBits, c.params.NoContext, bytes.Clone(c.in.History()), c.relayed}
}

func (st *CompressionState) params() deflate.Params {
	return deflate.Params{WindowBits: st.WindowBits, NoContext: st.NoContext, ClientBits: st.ClientBits}
}

// restoreCompression is the counterpart of compressionState.
func (s *Session) restoreCompression(st *CompressionState) {
	if st != nil {
		var in deflate.Inflater
		in.Resume(st.params(), &s.set.Compression.memory, st.Seen)
		s.beginCompression(st.params(), in)
		s.compression().relayed = st.Relayed
	}
}
