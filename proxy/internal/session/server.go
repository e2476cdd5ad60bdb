package session

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// receiveServer cuts the server's stream into elements and sends each as one
// message (RFC 7395, section 3.3.3). It stops when the client's side has enough;
// the rest is input that was not read yet.
func (s *Session) receiveServer(ev *relay.Event, b []byte) (rest []byte) {
	var u framing.StreamUnit // one for all, because it is large
	s.clientFull = false
	for s.ending == endNone && s.phase[toClient] != phaseClosed {
		if len(b) > 0 && (ev.Out[client].Size() >= maxOutput || ev.Blocked[client] || s.compression() != nil && scratchOf(ev).deflateWork >= maxDeflateWork) {
			s.clientFull = true
			return b
		}
		n, err := s.splitter.Next(b, &u)
		b = b[n:]
		if err == nil && u.Kind == framing.KindNone && s.fragmentDue(ev, len(b)) {
			n, err = s.splitter.Part(b, &u)
			b = b[n:]
		}
		if err != nil {
			s.badStream(ev, err)
			return nil
		}
		if u.Kind != framing.KindNone {
			s.tell(server, u.Raw)
		}
		switch u.Kind {
		case framing.KindNone:
			if s.ending != endNone {
				return nil
			}
			return b
		case framing.KindHeader:
			s.serverHeader(ev, u.Header)
		case framing.KindEnd:
			s.serverEnd(ev)
		default:
			s.serverElement(ev, &u)
			if ev.State[server] == relay.StateNone {
				return nil // what follows is of no interest any more
			}
		}
	}
	return nil
}

// fragmentDue reports whether n bytes of an element are passed on before the rest has
// come.
func (s *Session) fragmentDue(ev *relay.Event, n int) bool {
	switch {
	case s.fragmenting():
		return n >= minFragment
	case n > s.set.MaxServerStanza:
		s.serverTooLarge(ev)
		return false
	}
	if ev.Scarce {
		return n >= relay.MaxKeptScarce
	}
	return n >= maxFrame
}

// fragmenting reports whether the client has got a part of a message and waits for
// the rest. Only control frames may come between (RFC 6455, section 5.4).
func (s *Session) fragmenting() bool { return s.extra != nil && s.extra.fragmented > 0 }

func (s *Session) serverTooLarge(ev *relay.Event) {
	s.ensureExtra().limit = s.set.MaxServerStanza
	s.endWith(ev, endServerTooLarge, fmt.Errorf("element of more than %d bytes", s.set.MaxServerStanza))
}

// badStream ends a session whose server sends what cannot be passed on.
func (s *Session) badStream(ev *relay.Event, err error) {
	end := endServerBroken
	if tooLarge, ok := errors.AsType[*framing.LimitError](err); ok {
		end = endServerTooLarge
		s.ensureExtra().limit = cmp.Or(tooLarge.Limit, maxFrame)
	}
	s.endWith(ev, end, err)
}

func (s *Session) serverHeader(ev *relay.Event, h framing.Header) {
	s.reportAnswer(ev, endNone)
	restarted := s.phase[toClient] == phaseRestart
	if !s.streamStep(ev, toClient, streamHeader) {
		return
	}
	if s.extra != nil {
		s.extra.headerSent = 0
	}
	if s.await == endServerSilent {
		s.waitForNothing()
	}
	if s.alreadySent.header {
		s.alreadySent.header = false
		return
	}
	if restarted {
		s.step("restarted")
		s.host.Restarted()
	}
	s.alreadySent = alreadySent{} // the features of a restarted stream are others
	s.openSent = true
	s.reached(ev, stepOpen)
	s.sendMessage(ev, framing.AppendOpen(nil, h))
}

// serverEnd takes </stream:stream>. After an error the session is over;
// otherwise the client is given time to close its stream as well.
func (s *Session) serverEnd(ev *relay.Event) {
	if !s.streamStep(ev, toClient, streamEnd) {
		return
	}
	switch {
	case s.pendingEnd != endNone:
		s.endWith(ev, s.pendingEnd, nil)
	default:
		s.pendingEnd = endServerClosed
		s.wait(ev, s.pendingEnd, CloseTimeout)
		s.sendClose(ev)
	}
}

// serverElement takes an element, or a part of one. An element is judged by its
// start and takes effect at its end.
func (s *Session) serverElement(ev *relay.Event, u *framing.StreamUnit) {
	size := u.Size()
	if s.fragmenting() {
		size += s.extra.fragmented
	}
	if size > s.set.MaxServerStanza {
		s.serverTooLarge(ev)
		return
	}
	if u.Kind == framing.KindElement || u.Kind == framing.KindElementStart {
		if !s.elementStarts(ev, u) {
			return
		}
	} else {
		s.countBytes(toClient, len(u.Raw))
	}
	s.sendElement(ev, u)
	if s.fragmenting() {
		return
	}
	// Nearly all elements are stanzas to a client that waits for nothing.
	if s.extra != nil || u.Class > framing.ClassIQ {
		s.serverSpeaks(ev, u)
	}
	switch u.Class {
	case framing.ClassSASLSuccess:
		s.saslStep(ev, onSuccess)
		s.noteLogin(ev)
		s.sendHeader(ev)
	case framing.ClassSASLFailure:
		s.saslStep(ev, onFailure)
	case framing.ClassSASL2Success:
		s.saslStep(ev, onSASL2Success)
		s.noteLogin(ev)
	case framing.ClassStreamError:
		s.pendingEnd = endServerError
		s.wait(ev, s.pendingEnd, CloseTimeout)
	}
	if !s.bound && s.sasl == saslDone {
		s.awaitBound(ev, u)
	}
}

// elementStarts looks at an element before any of it is sent. It reports false if
// the client gets nothing of it, or something else.
func (s *Session) elementStarts(ev *relay.Event, u *framing.StreamUnit) bool {
	if !s.streamStep(ev, toClient, streamElement) {
		return false
	}
	if u.Class == framing.ClassStreamError {
		condition := cmp.Or(u.StreamErrorCondition(), framing.CondUndefined)
		s.ensureExtra().cause = fmt.Errorf("the server sent the stream error %s", condition)
		s.extra.condition = condition
		followed := s.redirected(ev, *u, condition)
		if followed && s.ending == endNone {
			s.ensureExtra().cause, s.extra.verdict = nil, verdict{}
			return false
		}
		s.host.StreamError(errorOfServer, string(condition))
		if followed {
			return false
		}
	}
	if u.Class == framing.ClassFeatures && (!s.featuresSent || s.alreadySent.features) && needsStartTLS(u) {
		s.tlsRequired(ev)
		return false
	}
	if s.alreadySent.features && u.Class == framing.ClassFeatures {
		s.alreadySent.features = false
		return false
	}
	s.count(toClient, u.Class, len(u.Raw))
	switch u.Class {
	case framing.ClassTLSProceed, framing.ClassCompressed:
		// What follows would not be XML; no client has asked for it.
		s.endWith(ev, endServerBroken, errUpgradedStream)
		return false
	case framing.ClassFeatures:
		if !s.featuresSent {
			s.featuresSent = true
			s.reached(ev, stepFeatures)
			s.host.FeaturesSent(ev.Now - s.began)
		}
		offered := u.OffersSASL()
		if s.host.Debug() {
			s.host.Step("features", slog.Bool("sasl", offered))
		}
		if offered {
			s.saslStep(ev, onOffer)
		} else {
			s.saslStep(ev, onNoOffer)
			s.noteLogin(ev)
		}
		if offered && s.channelBinding() == framing.ChannelBindingPass && u.OffersChannelBinding() {
			s.host.ChannelBindingOffered()
		}
		s.sendFeatures(ev, u)
		return false
	}
	return true
}

// redirected acts on a stream error that names another server, and reports whether
// the client is not to get it. The client cannot follow, because the name is that of a
// TCP endpoint (RFC 6120, section 4.9.3.19).
func (s *Session) redirected(ev *relay.Event, u framing.StreamUnit, condition framing.Condition) bool {
	switch condition {
	case framing.CondSeeOtherHost:
		if !s.hostFollowed() && s.redial(ev) {
			return true
		}
		uri, ok := s.set.SeeOther[u.SeeOtherHost()]
		if ok && !s.closeSent {
			s.closeSent = true
			s.sendMessage(ev, framing.AppendSeeOtherURI(nil, uri))
			s.endWith(ev, endServerError, nil)
		}
		return ok
	case framing.CondSystemShutdown:
		return s.serverChosen() && !s.hostFollowed() && s.redial(ev)
	}
	return false
}

// needsStartTLS reports whether the features allow nothing but <starttls/>: without
// it, a client would wait for ever.
func needsStartTLS(u *framing.StreamUnit) bool {
	return u.RequiresStartTLS() && !u.OffersSASL()
}

// tlsRequired acts on first features that demand TLS. It is too late for that in this
// stream; Host.Connect can start another one with TLS.
func (s *Session) tlsRequired(ev *relay.Event) {
	if s.server != nil && s.server.Static && s.redial(ev) {
		return
	}
	s.ConnectFailed(ev, errTLSRequired, TLSRequired)
}

var errUpgradedStream = errors.New("the server started TLS or compression unasked")
