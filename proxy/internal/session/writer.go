package session

import (
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// This file writes every frame that a client gets; nothing else does.
//
// A message is one frame, unless it is an element larger than maxFrame (RFC 6455,
// section 5.4). The first frame of such an element is text, all others are
// continuations, and the last one has FIN. Only control frames may come between
// them: who has another message to send asks fragmenting first.
//
// Elements and features may be compressed (compression.go), what the gateway says itself
// and control frames are not.

// sendMessage sends a message; m must stay as it is until the end of the event.
func (s *Session) sendMessage(ev *relay.Event, m []byte) {
	s.sentPlain(len(m))
	o := &ev.Out[client]
	o.Keep(appendFrameHeader(o.Grow(), ws.OpText, len(m)))
	o.Add(m)
}

// sendCopy sends a frame whose payload may change afterwards.
func sendCopy[T []byte | string](ev *relay.Event, op ws.OpCode, payload T) {
	o := &ev.Out[client]
	o.Keep(append(appendFrameHeader(o.Grow(), op, len(payload)), payload...))
}

// sendString sends a message.
func (s *Session) sendString(ev *relay.Event, m string) {
	s.sentPlain(len(m))
	sendCopy(ev, ws.OpText, m)
}

// sendControl sends a control frame: a ping or a pong.
func (s *Session) sendControl(ev *relay.Event, op ws.OpCode, p []byte) { sendCopy(ev, op, p) }

// sendCloseFrame sends a Close frame; code zero sends one without payload.
func (s *Session) sendCloseFrame(ev *relay.Event, code ws.StatusCode, reason string) {
	o := &ev.Out[client]
	o.Keep(appendClose(o.Grow(), code, reason))
}

// sendClose sends <close/>, which ends the stream towards the client.
func (s *Session) sendClose(ev *relay.Event) {
	if !s.closeSent {
		s.closeSent = true
		s.sendString(ev, framing.CloseMessage)
	}
}

// sendFeatures sends features without those that cannot cross the gateway. A
// server may send large ones as often as it likes, so they take no new memory.
func (s *Session) sendFeatures(ev *relay.Event, u *framing.StreamUnit) {
	f := framing.FeatureFilter{
		MaxStanza:      s.set.MaxStanza,
		ChannelBinding: s.channelBinding(),
		NoExternal:     s.set.HideExternal,
	}
	sc := scratchOf(ev)
	sc.features = f.AppendMessage(sc.features[:0], u)
	if s.compression() != nil && s.compresses(len(sc.features), sc.features) && s.compress(ev, sc.features, true, true) {
		return
	}
	s.sentPlain(len(sc.features))
	sendCopy(ev, ws.OpText, sc.features)
}

// channelBinding returns what the present server's offers of channel binding
// come to.
func (s *Session) channelBinding() framing.ChannelBinding {
	if s.server != nil && s.server.OtherCertificate {
		return framing.ChannelBindingStrip
	}
	if s.server != nil && s.server.TLS && s.set.StripBindingOverTLS && s.set.ChannelBinding == framing.ChannelBindingPass {
		return framing.ChannelBindingStrip
	}
	return s.set.ChannelBinding
}

// sendElement restores the declarations that the element inherits from the
// stream header; its other bytes pass unchanged, or compressed.
func (s *Session) sendElement(ev *relay.Event, u *framing.StreamUnit) {
	size := u.Size()
	if s.compression() != nil && s.sendCompressed(ev, u, size) {
		return
	}
	s.sentPlain(size)
	o := &ev.Out[client]
	if u.Kind != framing.KindElement || size > maxFrame {
		s.sendFragments(ev, u, size)
		return
	}
	head, tail := u.AppendHead(appendFrameHeader(o.Grow(), ws.OpText, size))
	o.Keep(head)
	o.Add(tail)
}

// sendFragments sends a part of a large element, or all of it in two frames. Frames do
// not divide characters: that would be legal, and there are clients that check
// each frame by itself.
func (s *Session) sendFragments(ev *relay.Event, u *framing.StreamUnit, size int) {
	first, last := ws.OpContinuation, false
	switch u.Kind {
	case framing.KindElement, framing.KindElementStart:
		first = ws.OpText
	case framing.KindElementEnd:
		last = true
	}
	n := size // of the first frame
	if u.Kind == framing.KindElement {
		n /= 2
		for added := size - len(u.Raw); !utf8.RuneStart(u.Raw[n-added]); {
			n--
		}
	}
	o := &ev.Out[client]
	head, tail := u.AppendHead(appendFragmentHeader(o.Grow(), first, last, n))
	o.Keep(head)
	if u.Kind == framing.KindElement {
		cut := len(tail) - (size - n)
		o.Add(tail[:cut])
		tail = tail[cut:]
		last = true
		o.Keep(appendFragmentHeader(o.Grow(), ws.OpContinuation, last, len(tail)))
	}
	o.Add(tail)
	s.fragmentSent(ev, size, last)
}

// fragmentSent notes that n bytes of a message were sent, and sends what has waited for
// its end.
func (s *Session) fragmentSent(ev *relay.Event, n int, last bool) {
	x := s.ensureExtra()
	if x.fragmented += n; !last {
		return
	}
	replies := x.replies
	x.fragmented, x.replies = 0, nil
	for _, m := range replies {
		s.sendString(ev, m)
	}
	s.dropExtra()
}

// sendCompressed sends an element, or a part of one, unless it has to go as it is.
func (s *Session) sendCompressed(ev *relay.Event, u *framing.StreamUnit, size int) bool {
	c := s.compression()
	first := u.Kind == framing.KindElement || u.Kind == framing.KindElementStart
	last := u.Kind == framing.KindElement || u.Kind == framing.KindElementEnd
	if first {
		c.message = s.compresses(size, u.Raw)
	}
	if !c.message {
		return false
	}
	sc := scratchOf(ev)
	head, tail := u.AppendHead(sc.text[:0])
	sc.text = append(head, tail...)
	if !s.compress(ev, sc.text, first, last) {
		return false
	}
	if !first || !last {
		s.fragmentSent(ev, size, last)
	}
	return true
}

// compress sends text as a compressed message, or as a part of one. It reports false if
// a message would not become smaller.
func (s *Session) compress(ev *relay.Event, text []byte, first, last bool) bool {
	c, sc := s.compression(), scratchOf(ev)
	whole := first && last
	secret := !whole && c.mentionsSecret(text, first, last) // which was not seen in time
	if secret {
		c.out.Forget()
	}
	sc.deflateWork += c.out.Work(len(text))
	sc.deflated = c.out.Append(sc.deflated[:0], text, last)
	n := len(sc.deflated)
	smaller := n < len(text)
	if smaller || !whole {
		if !secret {
			c.out.Sent(text)
		}
		o := &ev.Out[client]
		o.Keep(append(appendCompressedHeader(o.Grow(), first, last, n), sc.deflated...))
		c.count(toClient, len(text), n)
	}
	c.judge(len(text), min(n, len(text)), last)
	if cap(sc.text) > maxScratch {
		sc.text = nil
	}
	if cap(sc.deflated) > maxScratch {
		sc.deflated = nil
	}
	return smaller || !whole
}
