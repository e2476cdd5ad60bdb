package session

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

// pendingOr is the ending under way, or e when there is none.
func (s *Session) pendingOr(end ending) ending {
	if s.pendingEnd != endNone {
		return s.pendingEnd
	}
	return end
}

// timeoutCause is what has not come in time, for the log.
func (s *Session) timeoutCause(end ending) error {
	switch {
	case end == endOpenTimeout:
		return fmt.Errorf("no <open/> within %v", openTimeout)
	case end == endAuthTimeout:
		return fmt.Errorf("the client did not authenticate within %v", s.set.limits().AuthTimeout)
	case end == endServerSilent && s.headerQueued():
		return fmt.Errorf("the server did not tell the outcome of SASL within %v", saslTimeout)
	case end == endServerSilent:
		return fmt.Errorf("no stream header from the server within %v", headerTimeout)
	}
	return nil // the table of endings says enough
}

// endsAt is when the session is too old: not authenticated for too long, or at its
// greatest age. Zero means never. Sessions that began together do not end together: what
// they have less of MaxAge, up to a fifth, is by their number.
func (s *Session) endsAt() time.Duration {
	switch l := s.set.limits(); {
	case !s.loggedIn && l.AuthTimeout > 0:
		return s.began + l.AuthTimeout
	case s.loggedIn && l.MaxAge > 0 && s.ending == endNone:
		return s.began + l.MaxAge - time.Duration(s.id%1024)*(l.MaxAge/5120)
	}
	return 0
}

// tooOld ends a session at endsAt. One whose client has closed its stream goes on
// closing.
func (s *Session) tooOld(ev *relay.Event) {
	if s.loggedIn {
		s.endWith(ev, s.pendingOr(endMaxAge), nil)
		return
	}
	s.endWith(ev, endAuthTimeout, s.timeoutCause(endAuthTimeout))
}

// Deny ends the session because its network may not connect any more.
func (s *Session) Deny(ev *relay.Event) { s.endWith(ev, endDenied, nil) }

// AwaitsLogin reports whether the session goes on and its client has yet to authenticate.
func (s *Session) AwaitsLogin() bool {
	return !s.loggedIn && s.ending == endNone && s.refused == limit.None
}

// FreeMemory ends the session because memory is short and much is held for it. It can be
// resumed. The client gets its Close frame, but no time to answer: that would be time to
// hold the memory.
func (s *Session) FreeMemory(ev *relay.Event) {
	s.endWith(ev, endMemoryShort, nil)
	s.setState(ev, client, relay.StateClosed, 0)
}

// Ends reports whether the session is ending.
func (s *Session) Ends() bool { return s.ending != endNone }

// Shed ends the session, if its client has yet to authenticate, because memory or
// descriptors are short.
func (s *Session) Shed(ev *relay.Event) {
	if s.AwaitsLogin() {
		s.endWith(ev, endOverload, nil)
	}
}

// Remote is where the client is, or a proxy that has yet to tell.
func (s *Session) Remote() netip.AddrPort { return s.remote }

// abandon gives up connecting to a server, if that is under way: the host may have
// counted it.
func (s *Session) abandon(ev *relay.Event, cause error) {
	if a := s.extra.attempt; a != nil {
		s.extra.attempt = nil
		s.extra.avoid = cmp.Or(s.host.Abandon(ev, a, cause), s.extra.avoid)
	}
}

// Failed implements relay.Session. It ends the session at once, whatever state it is
// in.
func (s *Session) Failed(ev *relay.Event, err error) {
	s.ending = endInternal
	s.ensureExtra().cause = err
	s.waitForNothing()
	s.abandon(ev, context.Canceled)
	for sd := range ev.State {
		s.extra.stateDue[sd] = 0
		if ev.State[sd] != relay.StateNone {
			ev.State[sd] = relay.StateClosed
		}
	}
}

// endWith ends the session by its table row.
func (s *Session) endWith(ev *relay.Event, end ending, cause error) {
	if s.ending != endNone {
		return
	}
	// An ending that was under way has its own cause already.
	if cause != nil && end != s.pendingEnd {
		s.ensureExtra().cause = cause
	}
	s.endWithError(ev, end, end.info().Condition, "", "")
}

// endWithError ends the session with a stream condition of its own. The order of
// what the client gets is that of RFC 7395, section 3.5: header, error, close.
func (s *Session) endWithError(ev *relay.Event, end ending, condition framing.Condition, text, app string) {
	if s.ending != endNone {
		return
	}
	if !s.upgraded() {
		s.reject(ev, rejectionFor(end), nil, nil)
		return
	}
	s.reportAnswer(ev, end)
	s.loginUnfinished(ev, end)
	if s.host.Debug() {
		s.host.Step("closing", slog.String("ending", end.info().Name))
	}
	s.ending = end
	s.waitForNothing()
	if x := s.extra; x != nil {
		x.header, x.headerQueued = nil, false
		if x.attempt != nil {
			cause := context.Canceled
			if end == endDialFailed {
				x.cause, cause = errDialTimeout, context.DeadlineExceeded
			}
			s.abandon(ev, cause)
		}
	}
	info := end.info()

	if ev.State[client] == relay.StateOpen {
		code, reason := end.code(), end.reason(s.cause())
		switch {
		case s.fragmenting():
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
				s.host.StreamError(errorOfGateway, string(condition))
			}
			if info.Close {
				s.sendClose(ev)
			}
		}
		s.sendCloseFrame(ev, code, reason)
		if end.fails() {
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
	s.reached(ev, stepOpen)
	h := framing.Header{ID: framing.Quote(s.set.StreamID()), Version: framing.Quote("1.0"), Lang: framing.Quote("en")}
	if d := s.domainName(); d != "" {
		h.From = framing.Quote(d)
	}
	s.sendMessage(ev, framing.AppendOpen(nil, h))
}
