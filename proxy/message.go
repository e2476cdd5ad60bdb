package proxy

import (
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
)

// This file writes everything that the client gets. A message is one frame, with
// the exception of an element that is larger than maxWhole (RFC 6455, section
// 5.4): its first frame is text, all others are continuations, and the last one
// says that it is the last. Nothing but control frames may stand between them, so
// callers that have another message ask dividing first.

// sendText sends a message.
func (s *session) sendText(w *workspace, m []byte) {
	o := &w.out[client]
	o.keep(appendFrameHeader(o.grow(), ws.OpText, len(m)))
	o.add(m)
}

func (s *session) sendString(w *workspace, m string) {
	o := &w.out[client]
	o.keep(append(appendFrameHeader(o.grow(), ws.OpText, len(m)), m...))
}

// sendClose ends the stream towards the client.
func (s *session) sendClose(w *workspace) {
	if !s.closeSent {
		s.closeSent = true
		s.sendString(w, framing.CloseMessage)
	}
}

// sendControl sends a control frame.
func (s *session) sendControl(w *workspace, op ws.OpCode, p []byte) {
	o := &w.out[client]
	o.keep(append(appendFrameHeader(o.grow(), op, len(p)), p...))
}

// sendFeatures sends features without those that cannot cross the gateway. A
// server may send large ones as often as it likes, so they take no new memory.
func (s *session) sendFeatures(w *workspace, u *framing.StreamUnit) {
	f := framing.FeatureFilter{
		MaxStanza:      s.g.maxStanza,
		ChannelBinding: s.channelBinding(),
		NoExternal:     s.g.HideExternal,
	}
	w.features = f.AppendMessage(w.features[:0], u)
	o := &w.out[client]
	o.keep(append(appendFrameHeader(o.grow(), ws.OpText, len(w.features)), w.features...))
}

// channelBinding returns what the present server's offers of channel binding
// come to.
func (s *session) channelBinding() framing.ChannelBinding {
	if s.serverTLS && s.g.StripBindingOverTLS && s.g.ChannelBinding == framing.ChannelBindingPass {
		return framing.ChannelBindingStrip
	}
	return s.g.ChannelBinding
}

// sendElement restores the declarations that the element inherits from the
// stream header; its other bytes pass unchanged.
func (s *session) sendElement(w *workspace, u *framing.StreamUnit) {
	size := u.Size()
	o := &w.out[client]
	if u.Kind != framing.KindElement || size > maxWhole {
		s.sendParts(w, u, size)
		return
	}
	head, tail := u.AppendHead(appendFrameHeader(o.grow(), ws.OpText, size))
	o.keep(head)
	o.add(tail)
}

// sendParts sends a part of a large element, or all of it in two frames. Frames do
// not divide characters: that would be legal, and there are clients that check
// each frame by itself.
func (s *session) sendParts(w *workspace, u *framing.StreamUnit, size int) {
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
	o := &w.out[client]
	head, tail := u.AppendHead(appendFragmentHeader(o.grow(), first, last, n))
	o.keep(head)
	if u.Kind == framing.KindElement {
		cut := len(tail) - (size - n)
		o.add(tail[:cut])
		tail = tail[cut:]
		last = true
		o.keep(appendFragmentHeader(o.grow(), ws.OpContinuation, last, len(tail)))
	}
	o.add(tail)
	s.divided(w, size, last)
}

// divided notes that n bytes of a message were sent, and sends what has waited for
// its end.
func (s *session) divided(w *workspace, n int, last bool) {
	r := s.need()
	if r.divided += n; !last {
		return
	}
	replies := r.replies
	r.divided, r.replies = 0, nil
	for _, m := range replies {
		s.sendString(w, m)
	}
	s.spare()
}
