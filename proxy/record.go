package proxy

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/upstream"
)

// This file says what the log learns about a session that is over: one record
// that tells the operator what happened, where and how far the session had come.
// It has nothing of what the client and the server said to each other, and no JID.

// A verdict is what a record has beside the cause. Zero values are left out.
type verdict struct {
	condition framing.Condition // of the server's stream error
	limit     int               // that was exceeded, in bytes
	size      int               // that exceeded it, as far as it is known
}

// maxCause bounds the text of a cause, in which a server may have a say.
const maxCause = 1024

// recordEnd logs the end of s.
func (g *Gateway) recordEnd(s *session, age time.Duration) {
	info := s.ending.info()
	toServer, toClient := s.traffic(up), s.traffic(down)
	cause := info.Meaning
	if err := s.cause(); err != nil {
		cause = causeText(err)
	}
	attrs := []slog.Attr{
		slog.Uint64("session", s.id),
		slog.String("remote", remoteName(s.remote)),
		slog.String("domain", loggedDomain(s.domainName())),
		slog.String("server", s.serverName()),
		slog.String("phase", s.reached()),
		slog.String("ending", info.Name),
		slog.String("cause", cause[:min(len(cause), maxCause)]),
		slog.Duration("age", age),
		slog.Uint64("up_elements", toServer.elements()),
		slog.Uint64("up_bytes", toServer.Bytes),
		slog.Uint64("down_elements", toClient.elements()),
		slog.Uint64("down_bytes", toClient.Bytes),
	}
	if s.ping != 0 {
		attrs = append(attrs, slog.Duration("ping", s.ping))
	}
	if r := s.rare; r != nil && r.condition != "" {
		attrs = append(attrs, slog.String("condition", string(r.condition)))
	}
	if r := s.rare; r != nil && r.limit != 0 {
		attrs = append(attrs, slog.Int("limit_bytes", r.limit))
		if r.size != 0 {
			attrs = append(attrs, slog.Int("size_bytes", r.size))
		}
	}
	g.log(info.Level, "session ended", attrs)
}

// reached is the last phase that the session was in before it ended, see Phases.
func (s *session) reached() string {
	switch {
	case s.authenticated:
		return phaseEstablished
	case s.phase[down] != idle:
		return phaseNegotiating
	}
	return phaseOpening
}

// serverName is where the session was, or the last server that it tried. It is
// empty when it had not come so far.
func (s *session) serverName() string {
	var failed *upstream.Error
	switch {
	case s.stream != nil:
		return s.stream.Server
	case errors.As(s.cause(), &failed):
		return failed.Server
	case s.rare != nil && s.rare.avoid != "":
		return s.rare.avoid
	case s.leg[server] != legNone || s.rare != nil && s.rare.dials > 0:
		return addrName(s.g.Direct)
	}
	return ""
}

// addrName names a server that is reached without Gateway.Dial as its URL does.
func addrName(a net.Addr) string {
	switch {
	case a == nil:
		return ""
	case a.Network() == "unix":
		return "unix:" + a.String()
	}
	return a.Network() + "://" + a.String()
}

// loggedDomain is the domain that a client has named, if it has the form of one.
// Anything else is the client's own text, a JID for example, and does not get
// into the log.
func loggedDomain(name string) string {
	name = NormalDomain(name)
	other := func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_:[]", r))
	}
	if len(name) > maxDomain || strings.ContainsFunc(name, other) {
		return ""
	}
	return name
}
