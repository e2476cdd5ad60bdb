package session

import (
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// This file writes everything that the client gets. A message is one frame, with
// the exception of an element that is larger than maxWhole (RFC 6455, section
// 5.4): its first frame is text, all others are continuations, and the last one
// says that it is the last. Nothing but control frames may stand between them, so
// callers that have another message ask dividing first.

// sendText sends a message.
func (s *Session) sendText(ev *relay.Event, m []byte) {
	o := &ev.Out[client]
	o.Keep(appendFrameHeader(o.Grow(), ws.OpText, len(m)))
	o.Add(m)
}

func (s *Session) sendString(ev *relay.Event, m string) {
	o := &ev.Out[client]
	o.Keep(append(appendFrameHeader(o.Grow(), ws.OpText, len(m)), m...))
}

// sendClose ends the stream towards the client.
func (s *Session) sendClose(ev *relay.Event) {
	if !s.closeSent {
		s.closeSent = true
		s.sendString(ev, framing.CloseMessage)
	}
}

// sendControl sends a control frame.
func (s *Session) sendControl(ev *relay.Event, op ws.OpCode, p []byte) {
	o := &ev.Out[client]
	o.Keep(append(appendFrameHeader(o.Grow(), op, len(p)), p...))
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
	o := &ev.Out[client]
	o.Keep(append(appendFrameHeader(o.Grow(), ws.OpText, len(sc.features)), sc.features...))
}

// channelBinding returns what the present server's offers of channel binding
// come to.
func (s *Session) channelBinding() framing.ChannelBinding {
	if s.server != nil && s.server.TLS && s.set.StripBindingOverTLS && s.set.ChannelBinding == framing.ChannelBindingPass {
		return framing.ChannelBindingStrip
	}
	return s.set.ChannelBinding
}

// sendElement restores the declarations that the element inherits from the
// stream header; its other bytes pass unchanged.
func (s *Session) sendElement(ev *relay.Event, u *framing.StreamUnit) {
	size := u.Size()
	o := &ev.Out[client]
	if u.Kind != framing.KindElement || size > maxWhole {
		s.sendParts(ev, u, size)
		return
	}
	head, tail := u.AppendHead(appendFrameHeader(o.Grow(), ws.OpText, size))
	o.Keep(head)
	o.Add(tail)
}

// sendParts sends a part of a large element, or all of it in two frames. Frames do
// not divide characters: that would be legal, and there are clients that check
// each frame by itself.
func (s *Session) sendParts(ev *relay.Event, u *framing.StreamUnit, size int) {
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
	s.divided(ev, size, last)
}

// divided notes that n bytes of a message were sent, and sends what has waited for
// its end.
func (s *Session) divided(ev *relay.Event, n int, last bool) {
	r := s.ensureExtra()
	if r.divided += n; !last {
		return
	}
	replies := r.replies
	r.divided, r.replies = 0, nil
	for _, m := range replies {
		s.sendString(ev, m)
	}
	s.dropExtra()
}
