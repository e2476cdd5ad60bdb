package session

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// request describes the session to whoever finds its server.
func (s *Session) request() Request {
	header := bytes.Clone(s.extra.header)
	var u framing.StreamUnit
	new(framing.StreamSplitter).Next(header, &u)
	r := Request{
		Domain:   s.domainName(),
		Header:   u.Header,
		Client:   s.remote,
		Listener: s.extra.listener,
		Secure:   s.secure,
		TLS:      s.clientTLS.Version,
		ID:       s.id,
		Avoid:    s.extra.avoid,
		Number:   s.extra.dials,
	}
	if from := u.Header.From; from != nil {
		if jid, err := framing.Unquote(from); err == nil {
			r.JID, _, _ = strings.Cut(jid, "/")
		}
	}
	return r
}

// dial starts to connect to a server; the outcome is an event.
func (s *Session) dial(ev *relay.Event) {
	x := s.extra
	x.dials++
	a := &Attempt{Request: s.request()}
	x.attempt = a
	if s.host.Connect(ev, a); s.extra != nil && s.extra.attempt == a {
		s.wait(ev, endDialFailed, a.Patience)
	}
}

// maxDials bounds the servers that a session goes through, those not counted
// that Host.Connect tries.
const maxDials = 3

// redial replaces a server that cannot serve. It reports false if that is not
// possible: the client has sent something to this one, or the session ends, so that
// there is no header to send. The client may have the server's header and features
// already; it does not get those of the next server.
func (s *Session) redial(ev *relay.Event) bool {
	x := s.extra
	if x == nil || x.header == nil || s.fragmenting() || s.traffic(toServer) != (Traffic{}) || x.dials >= maxDials || s.pendingEnd != endNone {
		return false
	}
	s.alreadySent = alreadySent{header: s.openSent, features: s.featuresSent}
	if s.server != nil {
		x.avoid = s.server.Name
		s.releaseServer()
	}
	s.setState(ev, server, relay.StateNone, 0)
	x.unwritable[server] = nil
	s.streamStep(ev, toClient, streamReplaced)
	s.headerSent = false
	s.splitter = framing.StreamSplitter{}
	x.headerQueued = true
	s.dial(ev)
	return true
}

// releaseServer ends the use of a server.
func (s *Session) releaseServer() {
	if s.server != nil && s.server.Done != nil {
		s.server.Done()
	}
	s.server = nil
}

// waitForSASL bounds how long a header is queued. Meanwhile the client is not read,
// so that its end is not seen either.
func (s *Session) waitForSASL(ev *relay.Event) { s.wait(ev, endServerSilent, saslTimeout) }

// queueHeader keeps a header and stops reading the client.
func (s *Session) queueHeader(h framing.Header) {
	x := s.ensureExtra()
	x.header, x.headerQueued = framing.AppendStreamHeader(nil, h), true
}

// sendHeader sends the queued header as soon as it may be sent. It is always a write
// of its own: no bytes of an earlier stream may arrive with it.
func (s *Session) sendHeader(ev *relay.Event) {
	if !s.headerQueued() || ev.State[server] != relay.StateOpen || s.sasl == saslHeaderQueued || ev.Blocked[server] || ev.Out[server].Size() != 0 {
		return
	}
	ev.Out[server].Add(s.extra.header)
	s.headerHasLeft(ev)
}

// headerHasLeft notes that the queued header was sent.
func (s *Session) headerHasLeft(ev *relay.Event) {
	if s.extra.headerQueued = false; s.traffic(toServer) != (Traffic{}) {
		s.extra.header = nil
	}
	s.headerSent, s.extra.headerSent = true, ev.Now
	s.streamStep(ev, toClient, streamRestartDue)
	s.wait(ev, endServerSilent, headerTimeout)
}

func (s *Session) sendEndTag(ev *relay.Event) {
	if s.headerSent && !s.endTagSent && ev.State[server] == relay.StateOpen {
		s.endTagSent = true
		ev.Out[server].AddString(framing.EndTag)
	}
}

// reportAnswer tells how a server has answered its first header: by one of its own, or
// by the end e of the session.
func (s *Session) reportAnswer(ev *relay.Event, end ending) {
	if s.server != nil && s.server.Answered != nil && s.unanswered() {
		s.server.Answered(answerResult(end), ev.Now-s.extra.headerSent)
	}
}

// hostFollowed reports whether Host.Connect has read the element that is being
// received. If that names another server, Host.Connect has tried it already.
func (s *Session) hostFollowed() bool {
	return s.readByHost && s.featuresSent == s.alreadySent.features
}

// serverChosen reports whether Host.Connect has chosen the server, and may choose
// another.
func (s *Session) serverChosen() bool {
	return s.server != nil && !s.server.Static && s.server.Name != ""
}

var errTLSRequired = errors.New("the server lets nobody in without TLS; write starttls:// for it")

var errDialTimeout = errors.New("dial timed out")

// Connected implements relay.Session.
func (s *Session) Connected(ev *relay.Event, err error) {
	s.host.Connected(ev, s.extra.attempt, err)
}

// Attached gives the session its connection to a server. If the header was answered
// already, what was read of the answer is received next. It reports whether the
// session wants the connection.
func (s *Session) Attached(ev *relay.Event, to *Server, answered bool) (wanted bool) {
	if s.ending != endNone {
		return false
	}
	s.ensureExtra().attempt = nil
	s.server, s.readByHost = to, answered
	s.reached(ev, stepConnected)
	if s.host.Debug() {
		s.host.Step("server connected", slog.Bool("tls", to.TLS))
	}
	ev.State[server] = relay.StateOpen
	s.lastIn[server] = ev.Now
	if answered {
		s.headerHasLeft(ev)
	} else {
		s.sendHeader(ev)
	}
	return true
}

// ConnectFailed tells the session that there is no server to be had. text is what
// the client may know of that, or empty.
func (s *Session) ConnectFailed(ev *relay.Event, err error, text string) {
	if s.ending != endNone {
		return
	}
	s.ensureExtra().attempt = nil
	s.extra.cause = err
	s.endWithError(ev, endDialFailed, endDialFailed.info().Condition, text, "")
}

// TLSRequired is what a client may know of a server that demands TLS: only the
// operator can mend that.
const TLSRequired = "the server behind the gateway requires TLS, which the gateway is not configured for"
