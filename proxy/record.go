package proxy

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// This file logs the end of a session: one record that says what happened, where,
// and how far the session had come. It has no content and no JID.

// maxCause bounds the text of a cause in bytes, because it may quote a server.
const maxCause = 1024

// logEnd logs the end of a session that was age old.
func (g *Gateway) logEnd(r *session.Record, age time.Duration) {
	cause := r.Ending.Meaning
	if r.Cause != nil {
		cause = session.CauseText(r.Cause)
	}
	attrs := []slog.Attr{
		slog.Uint64("session", r.ID),
		slog.String("remote", session.RemoteName(r.Remote)),
		slog.String("domain", loggedDomain(r.Domain)),
		slog.String("server", serverName(r)),
		slog.String("phase", r.Phase),
		slog.String("ending", r.Ending.Name),
		slog.String("cause", cause[:min(len(cause), maxCause)]),
		slog.Duration("age", age),
		slog.Uint64("up_elements", r.Up.Elements()),
		slog.Uint64("up_bytes", r.Up.Bytes),
		slog.Uint64("down_elements", r.Down.Elements()),
		slog.Uint64("down_bytes", r.Down.Bytes),
	}
	if r.Ping != 0 {
		attrs = append(attrs, slog.Duration("ping", r.Ping))
	}
	if r.Condition != "" {
		attrs = append(attrs, slog.String("condition", string(r.Condition)))
	}
	if r.Limit != 0 {
		attrs = append(attrs, slog.Int("limit_bytes", r.Limit))
		if r.Size != 0 {
			attrs = append(attrs, slog.Int("size_bytes", r.Size))
		}
	}
	g.log(r.Ending.Level, "session ended", attrs)
}

// serverName returns the server of the session, or the last one that it tried. It is
// empty if the session has tried none.
func serverName(r *session.Record) string {
	var failed *upstream.Error
	var static *staticError
	switch {
	case r.Server != "":
		return r.Server
	case errors.As(r.Cause, &failed):
		return failed.Server
	case errors.As(r.Cause, &static):
		return static.server
	}
	return r.Tried
}

// loggedDomain returns the domain that a client has named if it has the form of one.
// Other text, such as a JID, is not logged.
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
