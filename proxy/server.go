package proxy

import (
	"cmp"
	"errors"
	"fmt"

	"xmppgate/framing"
)

// receiveServer cuts the server's stream into elements and sends each as one
// message (RFC 7395, section 3.3.3). It stops when the client's side has enough;
// the rest is input that was not read yet.
func (s *session) receiveServer(w *workspace, b []byte) (rest []byte) {
	var u framing.StreamUnit // one for all, for it is large
	s.leftOver = false
	for s.ending == endNone && s.phase[down] != closed {
		if len(b) > 0 && (w.out[client].size >= maxOutput || s.blocked[client]) {
			s.leftOver = true
			return b
		}
		n, err := s.down.Next(b, &u)
		b = b[n:]
		if err == nil && u.Kind == framing.KindNone && s.divides(w, len(b)) {
			n, err = s.down.Part(b, &u)
			b = b[n:]
		}
		if err != nil {
			s.badStream(w, err)
			return nil
		}
		switch u.Kind {
		case framing.KindNone:
			if s.ending != endNone {
				return nil
			}
			return b
		case framing.KindHeader:
			s.serverHeader(w, u.Header)
		case framing.KindEnd:
			s.serverEnd(w)
		default:
			s.serverElement(w, &u)
			if s.leg[server] == legNone {
				return nil // what follows is of no interest any more
			}
		}
	}
	return nil
}

// divides reports whether n bytes of an element are passed on before the rest has
// come.
func (s *session) divides(w *workspace, n int) bool {
	switch {
	case s.dividing():
		return n >= minPart
	case n > s.g.maxServerStanza:
		s.serverTooLarge(w)
		return false
	}
	return n >= maxWhole
}

// dividing reports whether the client has got a part of a message and waits for
// the rest. Only control frames may come between (RFC 6455, section 5.4).
func (s *session) dividing() bool { return s.rare != nil && s.rare.divided > 0 }

func (s *session) serverTooLarge(w *workspace) {
	s.need().limit = s.g.maxServerStanza
	s.endWith(w, endServerTooLarge, fmt.Errorf("element of more than %d bytes", s.g.maxServerStanza))
}

// badStream ends a session whose server sends what cannot be passed on.
func (s *session) badStream(w *workspace, err error) {
	e := endServerBroken
	if errors.Is(err, framing.ErrTooLarge) {
		e = endServerTooLarge
	}
	s.endWith(w, e, err)
}

func (s *session) serverHeader(w *workspace, a framing.Header) {
	s.answered(w, endNone)
	if !s.step(w, down, header) {
		return
	}
	if s.rare != nil {
		s.rare.headerSent = 0
	}
	if s.await == endServerSilent {
		s.waitForNothing()
	}
	if s.known.header {
		s.known.header = false
		return
	}
	s.known = known{} // the features of a restarted stream are others
	s.openSent = true
	s.sendText(w, framing.AppendOpen(nil, a))
}

// serverEnd takes </stream:stream>. After an error the session is over;
// otherwise the client is given time to close its stream too.
func (s *session) serverEnd(w *workspace) {
	if !s.step(w, down, end) {
		return
	}
	switch {
	case s.closing != endNone:
		s.endWith(w, s.closing, nil)
	default:
		s.closing = endServerClosed
		s.wait(w, s.closing, closeTimeout)
		s.sendClose(w)
	}
}

// serverElement takes an element, or a part of one. An element is judged by its
// start and takes effect at its end.
func (s *session) serverElement(w *workspace, u *framing.StreamUnit) {
	size := u.Size()
	if s.dividing() {
		size += s.rare.divided
	}
	if size > s.g.maxServerStanza {
		s.serverTooLarge(w)
		return
	}
	if u.Kind == framing.KindElement || u.Kind == framing.KindElementStart {
		if !s.elementStarts(w, u) {
			return
		}
	} else {
		s.countBytes(down, len(u.Raw))
	}
	s.sendElement(w, u)
	if s.dividing() {
		return
	}
	switch u.Class {
	case framing.ClassSASLSuccess:
		s.authenticated, s.saslRunning = true, false
		if s.phase[up] == open {
			s.phase[up] = restart
		}
		if s.holds() && s.step(w, up, header) {
			s.release(w)
		}
	case framing.ClassSASLFailure:
		s.saslRunning = false
		if s.holds() {
			s.step(w, up, header)
		}
	case framing.ClassSASL2Success:
		s.authenticated = true
	case framing.ClassSMEnabled, framing.ClassSMResumed:
		s.resumable = true
	case framing.ClassStreamError:
		s.closing = endServerError
		s.wait(w, s.closing, closeTimeout)
	}
}

// elementStarts looks at an element before any of it is sent. It reports false if
// the client gets nothing of it, or something else.
func (s *session) elementStarts(w *workspace, u *framing.StreamUnit) bool {
	if !s.step(w, down, element) {
		return false
	}
	if u.Class == framing.ClassStreamError {
		condition := cmp.Or(u.StreamErrorCondition(), framing.CondUndefined)
		s.need().cause = fmt.Errorf("the server sent the stream error %s", condition)
		s.rare.condition = condition
		if s.elsewhere(w, *u, condition) {
			if s.ending == endNone {
				s.need().cause, s.rare.verdict = nil, verdict{}
			}
			return false
		}
	}
	if u.Class == framing.ClassFeatures && (!s.featuresSent || s.known.features) && leadsNowhere(u) {
		s.tlsRequired(w)
		return false
	}
	if s.known.features && u.Class == framing.ClassFeatures {
		s.known.features = false
		return false
	}
	s.count(down, u.Class, len(u.Raw))
	switch u.Class {
	case framing.ClassTLSProceed, framing.ClassCompressed:
		// What follows would be no XML any more; nobody asked for it.
		s.endWith(w, endServerBroken, errUpgradedStream)
		return false
	case framing.ClassFeatures:
		s.saslOffered, s.featuresSent = u.OffersSASL(), true
		if s.saslOffered && s.channelBinding() == framing.ChannelBindingPass && u.OffersChannelBinding() {
			s.g.bindingOffered()
		}
		s.sendFeatures(w, u)
		return false
	}
	return true
}

// elsewhere acts on a stream error that speaks of another server: the client
// cannot, for it names a TCP endpoint (RFC 6120, section 4.9.3.19).
func (s *session) elsewhere(w *workspace, u framing.StreamUnit, condition framing.Condition) bool {
	switch condition {
	case framing.CondSeeOtherHost:
		if !s.followed() && s.redial(w) {
			return true
		}
		uri, ok := s.g.SeeOther[u.SeeOtherHost()]
		if ok && !s.closeSent {
			s.closeSent = true
			s.sendText(w, framing.AppendSeeOtherURI(nil, uri))
			s.endWith(w, endServerError, nil)
		}
		return ok
	case framing.CondSystemShutdown:
		return s.chosen() && !s.followed() && s.redial(w)
	}
	return false
}

// leadsNowhere reports whether a client that is shown the features, without
// <starttls/>, would wait for ever.
func leadsNowhere(u *framing.StreamUnit) bool {
	return u.RequiresStartTLS() && !u.OffersSASL()
}

// tlsRequired acts on first features that demand TLS, which the stream is too far
// on for. Gateway.Dial knows how to begin with it.
func (s *session) tlsRequired(w *workspace) {
	if s.stream == nil && s.redial(w) {
		return
	}
	s.dialFailed(w, errTLSRequired)
}

var errUpgradedStream = errors.New("the server started TLS or compression unasked")
