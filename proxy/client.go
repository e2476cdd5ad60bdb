package proxy

import (
	"errors"
	"fmt"
	"math"
	"unique"

	"github.com/gobwas/ws"

	"xmppgate/framing"
)

// receiveClient takes frames apart, puts messages together and hands them on.
//
// The payload of an unfragmented message is used where it lies. Fragments are
// moved together: b[start:start+partial] is the unfinished message, frames go
// on at b[pos].
func (s *session) receiveClient(w *workspace, b []byte) (rest []byte) {
	start, pos := 0, s.partial
	var m framing.Message // one for all, for it is large
	for s.ending == endNone && s.leg[client] == legOpen && !s.holds() && !s.unanswered() {
		f, size, err := parseFrame(b[pos:], s.fragments > 0)
		if err != nil {
			s.endWith(w, endBadFrame, err)
			break
		}
		if size == 0 {
			break
		}
		if f.op == ws.OpBinary {
			s.endWith(w, endBinary, nil)
			break
		}
		if !f.op.IsControl() {
			// The announced length alone decides: not a byte of a message
			// that is too large is waited for.
			if f.length > int64(s.limit()-s.partial) {
				s.tooLarge(w, saturated(f.length+int64(s.partial)))
				break
			}
		}
		n := size + int(f.length)
		if len(b)-pos < n {
			break
		}
		payload := b[pos+size : pos+n]
		unmask(payload, [4]byte(b[pos+size-4:]))
		pos += n

		switch {
		case f.op.IsControl():
			s.control(w, f.op, payload)
		case f.fin && s.fragments == 0:
			start = pos
			s.message(w, payload, &m)
		default:
			if s.fragments++; s.fragments > maxFragments {
				s.need().cause = errFragments
				s.tooLarge(w, 0)
				break
			}
			s.partial += copy(b[start+s.partial:], payload)
			if f.fin {
				whole := b[start : start+s.partial]
				start = pos
				s.partial, s.fragments = 0, 0
				s.message(w, whole, &m)
			}
		}
	}
	if s.ending != endNone || s.leg[client] != legOpen {
		s.partial, s.fragments = 0, 0
		return s.awaitClose(w, b[pos:])
	}
	if s.partial == 0 {
		return b[pos:]
	}
	// Close the gap that frame headers and control frames have left.
	kept := start + s.partial
	return b[start : kept+copy(b[kept:], b[pos:])]
}

// limit is the largest message that the client may send now. A server that
// offers no SASL has nobody authenticate.
func (s *session) limit() int {
	switch {
	case s.phase[up] == idle:
		return maxHeader
	case s.phase[down] == idle, s.saslOffered && !s.authenticated:
		return min(maxUnauthenticated, s.g.maxStanza)
	}
	return s.g.maxStanza
}

// tooLarge refuses a message by the way that fits the phase. Once the stream
// is open the stream ends, not just the WebSocket: a client that resumed would
// send the same message for ever.
//
// size is that of the message as it is announced; zero means that there are too
// many fragments instead.
func (s *session) tooLarge(w *workspace, size int) {
	if size > 0 {
		s.need().limit, s.rare.size = s.limit(), size
	}
	if s.phase[up] == idle {
		s.endWith(w, endOpenTooLarge, nil)
		return
	}
	s.refuse(w, endTooLarge, framing.CondPolicyViolation, "stanza too large", framing.StanzaTooBig)
}

// control answers a control frame (RFC 6455, section 5.5).
func (s *session) control(w *workspace, op ws.OpCode, p []byte) {
	switch op {
	case ws.OpPing:
		if s.blocked[client] {
			// The latest ping is answered when there is room
			// (section 5.5.3), so a client that does not read costs no
			// memory.
			r := s.need()
			r.pong = append(r.pong[:0], p...)
			r.pinged = true
			return
		}
		s.sendControl(w, ws.OpPong, p)
	case ws.OpPong:
		s.ponged(w, p)
	case ws.OpClose:
		s.closeFrame(w, p)
	}
}

// closeFrame answers the client's Close frame. Without <close/> before it the
// stream stays resumable (RFC 7395, section 3.6).
func (s *session) closeFrame(w *workspace, p []byte) {
	code, err := parseClose(p)
	switch {
	case errors.Is(err, errCloseReason):
		s.endWith(w, endNotText, err)
	case err != nil:
		s.endWith(w, endBadFrame, err)
	default:
		s.finishClient(w, code)
		s.endWith(w, s.orderly(endClientLeft), fmt.Errorf("the client closed the WebSocket with code %d", code))
	}
}

// finishClient echoes a Close frame and lets the connection end.
func (s *session) finishClient(w *workspace, code ws.StatusCode) {
	o := &w.out[client]
	o.keep(appendClose(o.grow(), code, ""))
	s.setLeg(w, client, legFinishing, lingerTimeout)
}

// awaitClose discards what a client sends after our Close frame, up to its
// own Close frame (RFC 6455, section 5.5.1). Where that cannot be found any more
// it is not waited for.
func (s *session) awaitClose(w *workspace, b []byte) (rest []byte) {
	for s.leg[client] == legClosing && len(b) > 0 {
		if r := s.need(); r.skip > 0 {
			n := min(r.skip, int64(len(b)))
			r.skip -= n
			b = b[n:]
			continue
		}
		f, size, err := parseFrame(b, ws.OpCode(b[0]&0x0f) == ws.OpContinuation)
		switch {
		case err != nil, f.length > int64(s.g.maxStanza):
			s.setLeg(w, client, legFinishing, lingerTimeout)
		case size == 0, f.op == ws.OpClose && len(b) < size+int(f.length):
			return b
		case f.op == ws.OpClose:
			s.setLeg(w, client, legFinishing, lingerTimeout)
		default:
			s.rare.skip = f.length
			b = b[size:]
		}
	}
	return nil
}

// message takes one whole message of the client.
func (s *session) message(w *workspace, b []byte, m *framing.Message) {
	if s.phase[up] == closed {
		return
	}
	if err := w.parser.Parse(b, m); err != nil {
		s.badMessage(w, b, err)
		return
	}
	switch m.Kind {
	case framing.KindHeader:
		s.clientHeader(w, m)
	case framing.KindEnd:
		s.clientEnd(w)
	default:
		s.clientElement(w, m)
	}
}

// badMessage refuses what is not exactly one permitted element. None of it
// has been forwarded.
func (s *session) badMessage(w *workspace, b []byte, err error) {
	if errors.Is(err, framing.ErrNotText) {
		s.endWith(w, endNotText, err)
		return
	}
	condition, e := framing.CondNotWellFormed, endBadXML
	var bad *framing.Error
	if errors.As(err, &bad) {
		condition = bad.Condition
	}
	if s.phase[up] == idle {
		e = endBadOpen
		if framing.IsLegacyHeader(b) {
			s.need().cause = errLegacyHeader
			s.refuse(w, e, framing.CondInvalidNamespace, "use <open/> (RFC 7395)", "")
			return
		}
	}
	s.need().cause = err
	s.refuse(w, e, condition, causeText(err), "")
}

// clientHeader takes <open/>: the first one leads to the dial, one after SASL
// restarts the stream.
func (s *session) clientHeader(w *workspace, m *framing.Message) {
	domain, condition := s.g.domain(m.Header.To)
	first := s.phase[up] == idle
	if first {
		s.domain = unique.Make(domain)
	} else if condition == "" && domain != "" && domain != s.domainName() {
		// The session belongs to the domain that it started with.
		condition = framing.CondImproperAddressing
	}
	// A header that reaches a server together with the end of SASL is not
	// well-formed for it: one that comes early is held until <success/> was
	// relayed, and is due only then.
	early := s.phase[up] == open && s.saslRunning
	if !early && !s.step(w, up, header) {
		return
	}
	if condition != "" {
		s.need().cause = domainError(condition, first)
		s.refuse(w, endBadOpen, condition, "", "")
		return
	}
	s.hold(m.Header)
	if first {
		s.dial(w)
		return
	}
	s.waitForSASL(w)
	s.release(w)
}

// clientEnd takes <close/>: the server may still have something to say.
func (s *session) clientEnd(w *workspace) {
	first := s.phase[up] == idle
	if !s.step(w, up, end) {
		return
	}
	if first {
		s.endWith(w, endClientClosed, nil)
		return
	}
	s.sendEndTag(w)
	if s.closing == endNone {
		s.closing = endClientClosed
		s.wait(w, s.closing, closeTimeout)
	}
}

// clientElement forwards an element unchanged, unless it would change the
// transport under the gateway: what was cut from the features is refused too,
// because a client may send what was never offered.
func (s *session) clientElement(w *workspace, m *framing.Message) {
	if s.phase[up] == idle && string(m.Local) == "open" {
		s.need().cause = errOpenNamespace
		s.refuse(w, endBadOpen, framing.CondInvalidNamespace, "", "")
		return
	}
	if !s.step(w, up, element) {
		return
	}
	switch m.Class {
	case framing.ClassStartTLS:
		if !s.dividing() {
			s.sendString(w, framing.StartTLSFailure)
		}
		s.endWith(w, endStartTLS, nil)
		return
	case framing.ClassCompress:
		s.reply(w, framing.CompressFailure)
		return
	case framing.ClassSASLAuth, framing.ClassSASL2Authenticate:
		// The gateway vouches for nobody: what EXTERNAL would prove to the
		// server is who the gateway is.
		if m.External {
			s.reply(w, externalFailure[m.Class])
			return
		}
		s.saslRunning = m.Class == framing.ClassSASLAuth
	}
	if r := s.rare; r != nil && r.header != nil {
		r.header = nil // no other server knows what this one is told
		s.spare()
	}
	s.count(up, m.Class, len(m.Raw))
	w.out[server].add(m.Raw)
}

// maxUnread bounds the answers of our own that wait for a client which does not
// read.
const maxUnread = 16

// reply answers an element in the server's stead, once the client has all of the
// message that it is getting. A client that provokes answers and does not read
// them is cut off: unlike the server's elements they stop nobody, so they would
// pile up.
func (s *session) reply(w *workspace, m string) {
	if s.blocked[client] || s.dividing() {
		r := s.need()
		if r.unread++; r.unread > maxUnread {
			r.cause = errUnreadReplies
			s.stalled(w, client)
			return
		}
	}
	if s.dividing() {
		s.rare.replies = append(s.rare.replies, m)
		return
	}
	s.sendString(w, m)
}

var externalFailure = map[framing.Class]string{
	framing.ClassSASLAuth:          framing.SASLExternalFailure,
	framing.ClassSASL2Authenticate: framing.SASL2ExternalFailure,
}

// Causes that the table of endings does not tell.
var (
	errFragments     = fmt.Errorf("a message of more than %d fragments", maxFragments)
	errLegacyHeader  = errors.New("a stream header of RFC 6120 in place of <open/>: the client is older than RFC 7395")
	errOpenNamespace = errors.New("<open/> is not in the namespace of RFC 7395")
	errUnreadReplies = fmt.Errorf("the client left %d answers unread", maxUnread)
)

// domainError says why a header may not lead to the domain that it names.
func domainError(condition framing.Condition, first bool) error {
	switch {
	case condition == framing.CondHostUnknown:
		return errors.New("the domain is not one that clients may name")
	case first:
		return errors.New("the header names no domain")
	}
	return errors.New("the header names another domain than the first one")
}

// saturated is n as an int.
func saturated(n int64) int { return int(min(n, math.MaxInt)) }

// pingPayload marks the pongs that answer us; unsolicited ones are usually
// empty (RFC 6455, section 5.5.3).
const pingPayload = "xmppgate"

// ponged measures the round trip of a ping of ours.
func (s *session) ponged(w *workspace, p []byte) {
	if s.pingSent == 0 || string(p) != pingPayload {
		return
	}
	s.ping = w.now - s.pingSent
	s.pingSent = 0
	s.g.observer.Pinged(s.ping)
}
