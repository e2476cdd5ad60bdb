package proxy

import (
	"context"
	"fmt"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
)

// orderly is the ending under way, or e when there is none.
func (s *session) orderly(e ending) ending {
	if s.closing != endNone {
		return s.closing
	}
	return e
}

// silence says what has not come in time.
func (s *session) silence(e ending) error {
	switch {
	case e == endOpenTimeout:
		return fmt.Errorf("no <open/> within %v", openTimeout)
	case e == endServerSilent && s.holds():
		return fmt.Errorf("the server did not tell the outcome of SASL within %v", saslTimeout)
	case e == endServerSilent:
		return fmt.Errorf("no stream header from the server within %v", headerTimeout)
	}
	return nil // the table of endings tells
}

// failed ends the session at once, whatever state it is in.
func (s *session) failed(err error) {
	s.ending = endInternal
	s.need().cause = err
	s.waitForNothing()
	for sd := range s.leg {
		s.rare.legDue[sd] = 0
		if s.leg[sd] != legNone {
			s.leg[sd] = legClosed
		}
	}
}

// endWith ends the session by its table row.
func (s *session) endWith(w *workspace, e ending, cause error) {
	if s.ending != endNone {
		return
	}
	// An ending that was under way has its own cause already.
	if cause != nil && e != s.closing {
		s.need().cause = cause
	}
	s.refuse(w, e, e.info().Condition, "", "")
}

// refuse ends the session with a stream condition of its own. The order of
// what the client gets is that of RFC 7395, section 3.5: header, error, close.
func (s *session) refuse(w *workspace, e ending, condition framing.Condition, text, app string) {
	if s.ending != endNone {
		return
	}
	if !s.upgraded {
		s.reject(w, unserved(e), nil, nil)
		return
	}
	s.answered(w, e)
	s.ending = e
	s.waitForNothing()
	if r := s.rare; r != nil {
		r.header, r.held = nil, false
		if r.cancelDial != nil && e == endDialFailed {
			r.cause = errDialTimeout
			r.cancelDial(context.DeadlineExceeded)
		} else if r.cancelDial != nil {
			r.cancelDial(context.Canceled)
		}
		r.cancelDial = nil
	}
	info := e.info()

	if s.leg[client] == legOpen {
		code, reason := e.code(), e.reason(s.cause())
		switch {
		case s.dividing():
			// No other message may come before the end of this one, which
			// will not come: the client must not take it for complete.
			if code == ws.StatusNormalClosure {
				code, reason = ws.StatusInternalServerError, info.Meaning
			}
		default:
			if condition != "" {
				if !s.openSent {
					s.sendOwnOpen(w)
				}
				s.sendText(w, framing.AppendStreamError(nil, condition, text, app))
			}
			if info.Close {
				s.sendClose(w)
			}
		}
		o := &w.out[client]
		o.keep(appendClose(o.grow(), code, reason))
		if e.fails() {
			s.setLeg(w, client, legFinishing, lingerTimeout)
		} else {
			s.setLeg(w, client, legClosing, closeTimeout)
		}
	}
	if s.leg[server] == legOpen {
		if info.EndTag {
			s.sendEndTag(w)
		}
		if info.EndTag {
			s.setLeg(w, server, legFinishing, closeTimeout)
		} else {
			s.setLeg(w, server, legFinishing, hangUpTimeout)
		}
	}
}

// setLeg moves a leg on; the loop closes the connection d later at the latest.
func (s *session) setLeg(w *workspace, sd side, l leg, d time.Duration) {
	s.leg[sd] = l
	switch {
	case d != 0:
		s.need().legDue[sd] = w.now + d
	case s.rare != nil:
		s.rare.legDue[sd] = 0
	}
}

// sendOwnOpen sends a header in the server's stead, in front of an error that
// occurs before the server's header came.
func (s *session) sendOwnOpen(w *workspace) {
	s.openSent = true
	a := framing.Header{ID: framing.Quote(s.g.streamID()), Version: framing.Quote("1.0"), Lang: framing.Quote("en")}
	if d := s.domainName(); d != "" {
		a.From = framing.Quote(d)
	}
	s.sendText(w, framing.AppendOpen(nil, a))
}
