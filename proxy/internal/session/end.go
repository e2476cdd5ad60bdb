package session

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// orderly is the ending under way, or e when there is none.
func (s *Session) orderly(e ending) ending {
	if s.closing != endNone {
		return s.closing
	}
	return e
}

// silence says what has not come in time.
func (s *Session) silence(e ending) error {
	switch {
	case e == endOpenTimeout:
		return fmt.Errorf("no <open/> within %v", openTimeout)
	case e == endServerSilent && s.headerQueued():
		return fmt.Errorf("the server did not tell the outcome of SASL within %v", saslTimeout)
	case e == endServerSilent:
		return fmt.Errorf("no stream header from the server within %v", headerTimeout)
	}
	return nil // the table of endings tells
}

// Failed implements relay.Session. It ends the session at once, whatever state it is
// in.
func (s *Session) Failed(ev *relay.Event, err error) {
	s.ending = endInternal
	s.ensureExtra().cause = err
	s.waitForNothing()
	for sd := range ev.State {
		s.extra.stateDue[sd] = 0
		if ev.State[sd] != relay.StateNone {
			ev.State[sd] = relay.StateClosed
		}
	}
}

// endWith ends the session by its table row.
func (s *Session) endWith(ev *relay.Event, e ending, cause error) {
	if s.ending != endNone {
		return
	}
	// An ending that was under way has its own cause already.
	if cause != nil && e != s.closing {
		s.ensureExtra().cause = cause
	}
	s.endWithError(ev, e, e.info().Condition, "", "")
}

// endWithError ends the session with a stream condition of its own. The order of
// what the client gets is that of RFC 7395, section 3.5: header, error, close.
func (s *Session) endWithError(ev *relay.Event, e ending, condition framing.Condition, text, app string) {
	if s.ending != endNone {
		return
	}
	if !s.upgraded {
		s.reject(ev, unserved(e), nil, nil)
		return
	}
	s.answered(ev, e)
	s.ending = e
	s.waitForNothing()
	if r := s.extra; r != nil {
		r.header, r.queued = nil, false
		if a := r.attempt; a != nil {
			cause := context.Canceled
			if e == endDialFailed {
				r.cause, cause = errDialTimeout, context.DeadlineExceeded
			}
			r.attempt = nil
			r.avoid = cmp.Or(s.host.Abandon(ev, a, cause), r.avoid)
		}
	}
	info := e.info()

	if ev.State[client] == relay.StateOpen {
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
					s.sendOwnOpen(ev)
				}
				s.sendMessage(ev, framing.AppendStreamError(nil, condition, text, app))
			}
			if info.Close {
				s.sendClose(ev)
			}
		}
		s.sendCloseFrame(ev, code, reason)
		if e.fails() {
			s.setState(ev, client, relay.StateFinishing, lingerTimeout)
		} else {
			s.setState(ev, client, relay.StateClosing, CloseTimeout)
		}
	}
	if ev.State[server] == relay.StateOpen {
		if info.EndTag {
			s.sendEndTag(ev)
			s.setState(ev, server, relay.StateFinishing, CloseTimeout)
		} else {
			s.setState(ev, server, relay.StateFinishing, hangUpTimeout)
		}
	}
}

// setState moves a connection on; it is closed d later at the latest.
func (s *Session) setState(ev *relay.Event, sd side, state relay.State, d time.Duration) {
	ev.State[sd] = state
	switch {
	case d != 0:
		s.ensureExtra().stateDue[sd] = ev.Now + d
	case s.extra != nil:
		s.extra.stateDue[sd] = 0
	}
}

// sendOwnOpen sends a header in the server's stead, in front of an error that
// occurs before the server's header came.
func (s *Session) sendOwnOpen(ev *relay.Event) {
	s.openSent = true
	a := framing.Header{ID: framing.Quote(s.set.StreamID()), Version: framing.Quote("1.0"), Lang: framing.Quote("en")}
	if d := s.domainName(); d != "" {
		a.From = framing.Quote(d)
	}
	s.sendMessage(ev, framing.AppendOpen(nil, a))
}
