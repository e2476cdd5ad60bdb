package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"strconv"
	"strings"

	"xmppgate/framing"
	"xmppgate/proxy/upstream"
)

// request describes the session to whoever finds its server.
func (s *session) request() *upstream.Request {
	header := bytes.Clone(s.rare.header)
	var u framing.StreamUnit
	new(framing.StreamSplitter).Next(header, &u)
	q := &upstream.Request{
		Domain:   NormalDomain(s.domainName()),
		Header:   u.Header,
		Client:   s.remote,
		Listener: s.rare.listener,
		Secure:   s.secure,
		ID:       strconv.FormatUint(s.id, 10),
		Avoid:    s.rare.avoid,
	}
	if !q.Listener.IsValid() {
		q.Listener = s.link.local()
	}
	if from := u.Header.From; from != nil {
		if jid, err := framing.Unquote(from); err == nil {
			q.JID, _, _ = strings.Cut(jid, "/")
		}
	}
	return q
}

// dial starts to connect to a server; the outcome is an event.
func (s *session) dial(w *workspace) {
	r := s.rare
	r.dialed = w.now
	r.dials++
	if s.g.Direct != nil && r.dials == 1 && (s.g.DirectFor == nil || s.g.DirectFor(s.domainName())) {
		s.wait(w, endDialFailed, dialTimeout)
		if s.link.connect(w, s.g.Direct) {
			return
		}
	}
	s.wait(w, endDialFailed, upstream.TotalTimeout+dialGrace)
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancelDial = cancel
	go s.g.connect(ctx, cancel, s.link, s.request())
}

// maxDials bounds the servers that a session goes through, those not counted
// which Gateway.Dial tries.
const maxDials = 3

// redial replaces a server that cannot serve, unless the client has begun to
// authenticate there, or the session ends: refuse has dropped the header then. It may know of the server's header and its features; those
// of the next server are not shown to it.
func (s *session) redial(w *workspace) bool {
	r := s.rare
	if r == nil || r.header == nil || s.dividing() || s.traffic(up) != (Traffic{}) || r.dials >= maxDials || s.closing != endNone {
		return false
	}
	s.known = known{header: s.openSent, features: s.featuresSent}
	if s.stream != nil {
		r.avoid = s.stream.Server
		s.leave()
	}
	s.setLeg(w, server, legNone, 0)
	r.unwritable[server] = nil
	s.phase[down], s.headerSent = idle, false
	s.down = framing.StreamSplitter{}
	r.held = true
	s.dial(w)
	return true
}

// leave ends the use of a server.
func (s *session) leave() {
	if s.stream != nil {
		s.stream.Done()
		s.stream = nil
	}
}

// waitForSASL bounds how long a header is held: meanwhile nobody listens to
// the client, not even whether it is still there.
func (s *session) waitForSASL(w *workspace) { s.wait(w, endServerSilent, saslTimeout) }

// hold keeps a header and stops reading the client.
func (s *session) hold(a framing.Header) {
	r := s.need()
	r.header, r.held = framing.AppendStreamHeader(nil, a), true
}

// release writes the held header unless something still holds it. It is always
// a write of its own: no bytes of an earlier stream may arrive with it.
func (s *session) release(w *workspace) {
	if !s.holds() || s.leg[server] != legOpen || s.saslRunning || s.blocked[server] || w.out[server].size != 0 {
		return
	}
	w.out[server].add(s.rare.header)
	s.released(w)
}

// released notes that the held header was sent.
func (s *session) released(w *workspace) {
	if s.rare.held = false; s.traffic(up) != (Traffic{}) {
		s.rare.header = nil
	}
	s.headerSent, s.rare.headerSent = true, w.now
	if s.phase[down] == open {
		s.phase[down] = restart
	}
	s.wait(w, endServerSilent, headerTimeout)
}

func (s *session) sendEndTag(w *workspace) {
	if s.headerSent && !s.endTagSent && s.leg[server] == legOpen {
		s.endTagSent = true
		w.out[server].addString(framing.EndTag)
	}
}

// answered reports how a server reached directly has answered its first header:
// by one of its own, or by the end e of the session.
func (s *session) answered(w *workspace, e ending) {
	if s.stream == nil && s.headerSent && s.phase[down] == idle {
		s.g.observer.Answered(answerResult(e), w.now-s.rare.headerSent)
	}
}

// followed reports whether Gateway.Dial has looked at what is being received: the
// first element behind the header, if it came early. Where that leads elsewhere,
// Gateway.Dial has been, or has found no other server.
func (s *session) followed() bool {
	return s.stream != nil && s.stream.Early != nil && s.featuresSent == s.known.features
}

// chosen reports whether Gateway.Dial has chosen the server, and may choose
// another.
func (s *session) chosen() bool { return s.stream != nil && s.stream.Server != "" }

var errTLSRequired = errors.New("the server lets nobody in without TLS; write starttls:// for it")

var errDialTimeout = errors.New("no connection in time")

// connected tells how it went to connect to Gateway.Direct.
func (s *session) connected(w *workspace, err error) {
	s.g.dialed(err, true, w.now-s.rare.dialed)
	if err != nil {
		s.dialFailed(w, dialError(s.g.Direct, err))
		return
	}
	s.attached(w, nil)
}

// attached gives the session its connection to the server: stream, if it was
// Gateway.Dial that made it. What came Early is yet to be received.
func (s *session) attached(w *workspace, stream *upstream.Stream) {
	s.need().cancelDial = nil
	s.stream = stream
	s.leg[server] = legOpen
	s.lastIn[server] = w.now
	s.serverTLS = false
	if stream != nil {
		_, s.serverTLS = stream.Conn.(*tls.Conn)
	}
	if stream != nil && stream.Early != nil {
		s.released(w)
		return
	}
	s.release(w)
}

// dialFailed tells the session that there is no server to be had.
func (s *session) dialFailed(w *workspace, err error) {
	s.need().cancelDial = nil
	s.need().cause = err
	s.refuse(w, endDialFailed, endDialFailed.info().Condition, dialFailure(err), "")
}

// dialFailure is what the client may know of a dial that failed: what only the
// operator can mend, without a word about where the server is.
func dialFailure(err error) string {
	var failed *upstream.Error
	if errors.Is(err, errTLSRequired) || errors.As(err, &failed) && failed.Result == upstream.ResultTLSRequired {
		return "the server behind the gateway requires TLS, which the gateway is not configured for"
	}
	return ""
}
