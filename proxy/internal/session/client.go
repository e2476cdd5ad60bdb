package session

import (
	"cmp"
	"errors"
	"fmt"
	"time"
	"unique"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// receiveClient acts on the messages and control frames of a client, as long as it
// may be read.
func (s *Session) receiveClient(ev *relay.Event, b []byte) (rest []byte) {
	c := s.compression()
	var a assembler
	a.begin(b, s.unfinished, c != nil)
	var m framing.Message // one for all, because it is large
	taken, inflated := 0, 0
	for a.more() && s.ending == endNone && ev.State[client] == relay.StateOpen && !s.waitsForServer() && !c.inflatedEnough(ev) {
		op, payload, ok, err := a.next(s.limit())
		if err != nil {
			s.badFrame(ev, err)
			break
		}
		if !ok {
			break
		}
		taken++
		if op != ws.OpText {
			s.control(ev, op, payload)
			continue
		}
		if c != nil {
			wire := len(payload)
			if a.compressed {
				if payload, ok = s.inflate(ev, payload); !ok {
					break
				}
			}
			c.count(toServer, len(payload), wire)
			inflated += max(0, len(payload)-wire)
		}
		s.message(ev, payload, &m)
	}
	if s.ending != endNone || ev.State[client] != relay.StateOpen {
		s.unfinished = unfinished{}
		return s.awaitClose(ev, a.unread())
	}
	s.unfinished = a.kept()
	rest = a.rest()
	if s.paidUntil != 0 {
		s.charge(ev, taken, len(b)-len(rest)+inflated)
	}
	return rest
}

// badFrame ends a session whose client sends what cannot become a message.
func (s *Session) badFrame(ev *relay.Event, err error) {
	var size sizeError
	switch {
	case errors.As(err, &size):
		s.tooLarge(ev, int(size))
	case err == errFragments:
		s.ensureExtra().cause = err
		s.tooLarge(ev, 0)
	case err == errBinary:
		s.endWith(ev, endBinary, nil)
	default:
		s.endWith(ev, endBadFrame, err)
	}
}

// limit is the largest message that the client may send now.
func (s *Session) limit() int {
	switch {
	case s.phase[toServer] == phaseNoHeader:
		return maxHeader
	case s.phase[toClient] == phaseNoHeader, s.sasl.unauthenticated():
		return min(maxUnauthenticated, s.set.MaxStanza)
	}
	return s.set.MaxStanza
}

// tooLarge refuses a message by the way that fits the phase. Once the stream
// is open the stream ends, not just the WebSocket: a client that resumed would
// send the same message for ever.
//
// size is that of the message as it is announced; zero means that there are too
// many fragments instead.
func (s *Session) tooLarge(ev *relay.Event, size int) {
	if size > 0 {
		s.ensureExtra().limit, s.extra.size = s.limit(), size
	}
	if s.phase[toServer] == phaseNoHeader {
		s.endWith(ev, endOpenTooLarge, nil)
		return
	}
	s.endWithError(ev, endTooLarge, framing.CondPolicyViolation, "stanza too large", framing.StanzaTooBig)
}

// control answers a control frame (RFC 6455, section 5.5).
func (s *Session) control(ev *relay.Event, op ws.OpCode, p []byte) {
	switch op {
	case ws.OpPing:
		if ev.Blocked[client] {
			// The latest ping is answered when there is room
			// (section 5.5.3), so a client that does not read costs no
			// memory.
			x := s.ensureExtra()
			x.pong = append(x.pong[:0], p...)
			x.pongDue = true
			return
		}
		s.sendControl(ev, ws.OpPong, p)
	case ws.OpPong:
		s.ponged(ev, p)
	case ws.OpClose:
		s.closeFrame(ev, p)
	}
}

// closeFrame answers the client's Close frame. Without <close/> before it the
// stream stays resumable (RFC 7395, section 3.6).
func (s *Session) closeFrame(ev *relay.Event, p []byte) {
	code, err := parseClose(p)
	switch {
	case errors.Is(err, errCloseReason):
		s.endWith(ev, endNotText, err)
	case err != nil:
		s.endWith(ev, endBadFrame, err)
	default:
		s.finishClient(ev, code)
		s.endWith(ev, s.pendingOr(endClientLeft), fmt.Errorf("the client closed the WebSocket with code %d", code))
	}
}

// finishClient echoes a Close frame and lets the connection end.
func (s *Session) finishClient(ev *relay.Event, code ws.StatusCode) {
	s.sendCloseFrame(ev, code, "")
	s.setState(ev, client, relay.StateFinishing, lingerTimeout)
}

// awaitClose discards what a client sends after our Close frame, up to its
// own Close frame (RFC 6455, section 5.5.1). Where that cannot be found any more
// it is not waited for.
func (s *Session) awaitClose(ev *relay.Event, b []byte) (rest []byte) {
	for ev.State[client] == relay.StateClosing && len(b) > 0 {
		if x := s.ensureExtra(); x.skip > 0 {
			n := min(x.skip, int64(len(b)))
			x.skip -= n
			b = b[n:]
			continue
		}
		f, size, err := parseFrame(b, ws.OpCode(b[0]&0x0f) == ws.OpContinuation, s.compression() != nil)
		switch {
		case err != nil, f.length > int64(s.set.MaxStanza):
			s.setState(ev, client, relay.StateFinishing, lingerTimeout)
		case size == 0, f.op == ws.OpClose && len(b) < size+int(f.length):
			return b
		case f.op == ws.OpClose:
			s.setState(ev, client, relay.StateFinishing, lingerTimeout)
		default:
			s.extra.skip = f.length
			b = b[size:]
		}
	}
	return nil
}

// message takes one whole message of the client.
func (s *Session) message(ev *relay.Event, b []byte, m *framing.Message) {
	if s.phase[toServer] == phaseClosed {
		return
	}
	s.tell(client, b)
	if err := scratchOf(ev).parser.Parse(b, m); err != nil {
		s.badMessage(ev, b, err)
		return
	}
	switch m.Kind {
	case framing.KindHeader:
		s.clientHeader(ev, m)
	case framing.KindEnd:
		s.clientEnd(ev)
	default:
		s.clientElement(ev, m)
	}
}

// badMessage refuses what is not exactly one permitted element. None of it
// has been forwarded.
func (s *Session) badMessage(ev *relay.Event, b []byte, err error) {
	if errors.Is(err, framing.ErrNotText) {
		s.endWith(ev, endNotText, err)
		return
	}
	condition, end := framing.CondNotWellFormed, endBadXML
	var bad *framing.Error
	if errors.As(err, &bad) {
		condition = bad.Condition
	}
	if s.phase[toServer] == phaseNoHeader {
		end = endBadOpen
		if framing.IsLegacyHeader(b) {
			s.ensureExtra().cause = errLegacyHeader
			s.endWithError(ev, end, framing.CondInvalidNamespace, "use <open/> (RFC 7395)", "")
			return
		}
	}
	s.ensureExtra().cause = err
	s.endWithError(ev, end, condition, CauseText(err), "")
}

// clientHeader takes <open/>: the first one leads to the dial, one after SASL
// restarts the stream.
func (s *Session) clientHeader(ev *relay.Event, m *framing.Message) {
	domain, condition := s.set.Domain(m.Header.To)
	first := s.phase[toServer] == phaseNoHeader
	if first {
		s.domain = unique.Make(domain)
	} else if condition == "" && domain != "" && domain != s.domainName() {
		// The session belongs to the domain that it started with.
		condition = framing.CondImproperAddressing
	}
	if first && s.set.LogJIDs {
		if from, err := framing.Unquote(m.Header.From); err == nil {
			s.noteJID(from)
		}
	}
	if !s.saslStep(ev, onHeader) {
		return
	}
	if condition != "" {
		s.ensureExtra().cause = domainError(condition, first)
		s.endWithError(ev, endBadOpen, condition, "", "")
		return
	}
	s.queueHeader(m.Header)
	if first {
		s.step("connecting")
		s.dial(ev)
		return
	}
	s.waitForSASL(ev)
	s.sendHeader(ev)
}

// clientEnd takes <close/>: the server may still have something to say.
func (s *Session) clientEnd(ev *relay.Event) {
	first := s.phase[toServer] == phaseNoHeader
	if !s.streamStep(ev, toServer, streamEnd) {
		return
	}
	if first {
		s.endWith(ev, endClientClosed, nil)
		return
	}
	s.sendEndTag(ev)
	if s.pendingEnd == endNone {
		s.pendingEnd = endClientClosed
		s.wait(ev, s.pendingEnd, CloseTimeout)
	}
}

// clientElement forwards an element unchanged, unless it would change the
// transport under the gateway: a client may ask for what was never offered, so that
// cutting it from the features is not enough.
func (s *Session) clientElement(ev *relay.Event, m *framing.Message) {
	if s.phase[toServer] == phaseNoHeader && string(m.Local) == "open" {
		s.ensureExtra().cause = errOpenNamespace
		s.endWithError(ev, endBadOpen, framing.CondInvalidNamespace, "", "")
		return
	}
	if !s.streamStep(ev, toServer, streamElement) {
		return
	}
	switch m.Class {
	case framing.ClassStartTLS:
		if !s.fragmenting() {
			s.sendString(ev, framing.StartTLSFailure)
		}
		s.endWith(ev, endStartTLS, nil)
		return
	case framing.ClassCompress:
		s.reply(ev, framing.CompressFailure)
		return
	case framing.ClassSASLAuth, framing.ClassSASL2Authenticate:
		// EXTERNAL would prove to the server who the gateway is, not who
		// the client is.
		s.loginBegins(ev, m)
		if m.Mechanism == framing.MechanismExternal {
			s.reply(ev, externalFailure[m.Class])
			s.loginEnds(ev, refusalResult("invalid-mechanism"))
			return
		}
		if m.Class == framing.ClassSASLAuth {
			s.saslStep(ev, onAuth)
		} else {
			s.saslStep(ev, onAuthenticate)
		}
	case framing.ClassStreamError:
		s.host.StreamError(errorOfClient, string(cmp.Or(m.StreamErrorCondition(), framing.CondUndefined)))
	}
	s.clientSpeaks(ev, m)
	if x := s.extra; x != nil && x.header != nil {
		x.header = nil // from here on no other server can take its place
		s.dropExtra()
	}
	s.count(toServer, m.Class, len(m.Raw))
	ev.Out[server].Add(m.Raw)
}

// maxUnread bounds the answers of our own that wait for a client which does not
// read.
const maxUnread = 16

// reply answers an element in the server's stead, once the client has all of the
// message that it is getting. A client that provokes answers and does not read
// them is cut off: back-pressure does not bound their number, because no server has
// to be read for them.
func (s *Session) reply(ev *relay.Event, m string) {
	if ev.Blocked[client] || s.fragmenting() {
		x := s.ensureExtra()
		if x.unread++; x.unread > maxUnread {
			x.cause = errUnreadReplies
			s.Stalled(ev, client)
			return
		}
	}
	if s.fragmenting() {
		s.extra.replies = append(s.extra.replies, m)
		return
	}
	s.sendString(ev, m)
}

var externalFailure = map[framing.Class]string{
	framing.ClassSASLAuth:          framing.SASLExternalFailure,
	framing.ClassSASL2Authenticate: framing.SASL2ExternalFailure,
}

// Causes that the table of endings does not tell.
var (
	errLegacyHeader  = errors.New("a stream header of RFC 6120 in place of <open/>: the client is older than RFC 7395")
	errOpenNamespace = errors.New("<open/> is not in the namespace of RFC 7395")
	errUnreadReplies = fmt.Errorf("the client left %d answers unread", maxUnread)
)

// domainError says why a header may not lead to the domain that it names.
func domainError(condition framing.Condition, first bool) error {
	switch {
	case condition == framing.CondHostUnknown:
		return errors.New("the domain is not one that clients may name; XMPPGATE_DOMAINS lists them")
	case first:
		return errors.New("the header names no domain")
	}
	return errors.New("the header names another domain than the first one")
}

// pingPayload marks the pongs that answer us; unsolicited ones are usually
// empty (RFC 6455, section 5.5.3).
const pingPayload = "xmppgate"

// pingClock is a clock of microseconds in half the space of a moment. It wraps every 71
// minutes, and is never zero.
func pingClock(now time.Duration) uint32 { return max(1, uint32(now/time.Microsecond)) }

// roundTrip is that of the last ping, zero before the first.
func (s *Session) roundTrip() time.Duration { return time.Duration(s.ping) * time.Microsecond }

// ponged measures the round trip of a ping of ours.
func (s *Session) ponged(ev *relay.Event, p []byte) {
	if s.pingSent == 0 || string(p) != pingPayload {
		return
	}
	// The difference is right although the clock wraps: a session whose pong takes
	// longer than an hour is over.
	s.ping, s.pingSent = pingClock(ev.Now)-s.pingSent, 0
	s.host.Pinged(s.roundTrip())
}
