package proxy

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"xmppgate/framing"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// This file logs the end of a session: one record that says what happened, where,
// and how far the session had come; and logins that fail. It has no content, and no JID
// unless Config.LogJIDs.

// maxCause bounds the text of a cause in bytes, because it may quote a server.
const maxCause = 1024

// ended describes a session that ended at the moment now.
func (g *Gateway) ended(r *session.Record, now time.Duration) *EndedSession {
	cause := r.Ending.Meaning
	if r.Cause != nil {
		cause = session.CauseText(r.Cause)
	}
	e := &EndedSession{
		SessionInfo: g.info(&r.Info), Ended: g.epoch.Add(now),
		Ending: r.Ending.Name, Cause: strings.ToValidUTF8(cause[:min(len(cause), maxCause)], ""),
		Condition: string(r.Condition), Limit: r.Limit, Size: r.Size,
		Mechanism: r.Mechanism, Login: r.Login, JID: r.JID,
	}
	e.Domain, e.Server, e.Idle = loggedDomain(r.Domain), serverName(r), now-r.LastIn
	return e
}

// Bounds of the lines about sessions of one ending: clients can begin and end sessions as
// often as they like, and a server can end all that it has.
const (
	endedBurst = 500
	endedRate  = rate.Limit(10) // a second
)

// An endedLimit has the limiters of these lines, by ending.
type endedLimit struct {
	mu  sync.Mutex
	all map[string]*rate.Limiter
}

// allows reports whether there may be another line at the moment now.
func (l *endedLimit) allows(ending string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[string]*rate.Limiter)
	}
	limiter := l.all[ending]
	if limiter == nil {
		limiter = rate.NewLimiter(endedRate, endedBurst)
		l.all[ending] = limiter
	}
	return limiter.AllowN(now, 1)
}

// logEnd logs the end of a session, or counts it when there are too many of them.
func (g *Gateway) logEnd(level slog.Level, e *EndedSession) {
	if !g.logs(slog.LevelDebug) && !g.endedLimit.allows(e.Ending, e.Ended) {
		g.notice("ended "+e.Ending, level, "more sessions ended", func() []slog.Attr {
			return []slog.Attr{slog.String("ending", e.Ending)}
		})
		return
	}
	attrs := []slog.Attr{
		slog.Uint64("session", e.ID),
		slog.String("remote", session.RemoteName(e.Remote)),
		slog.String("domain", e.Domain),
		slog.String("server", e.Server),
		slog.String("phase", e.Phase),
		slog.String("ending", e.Ending),
		slog.String("cause", e.Cause),
		slog.Duration("age", e.Age()),
		slog.Uint64("up_elements", e.Up.Elements()),
		slog.Uint64("up_bytes", e.Up.Bytes),
		slog.Uint64("down_elements", e.Down.Elements()),
		slog.Uint64("down_bytes", e.Down.Bytes),
	}
	if e.Compressed {
		attrs = append(attrs, slog.Uint64("up_wire_bytes", e.UpMessages.Wire), slog.Uint64("down_wire_bytes", e.DownMessages.Wire))
	}
	if e.Mechanism != "" {
		attrs = append(attrs, slog.String("mechanism", e.Mechanism))
	}
	if e.Login != "" && e.Login != session.LoginSuccess && e.Mechanism != "" {
		attrs = append(attrs, slog.String("login", e.Login))
	}
	if e.JID != "" {
		attrs = append(attrs, slog.String("jid", e.JID))
	}
	if e.Ping != 0 {
		attrs = append(attrs, slog.Duration("ping", e.Ping))
	}
	if e.DownQueue.Stalled != 0 {
		attrs = append(attrs, slog.Duration("client_stalled", e.DownQueue.Stalled))
	}
	if e.UpQueue.Stalled != 0 {
		attrs = append(attrs, slog.Duration("server_stalled", e.UpQueue.Stalled))
	}
	if e.Condition != "" {
		attrs = append(attrs, slog.String("condition", e.Condition))
	}
	if e.Limit != 0 {
		attrs = append(attrs, slog.Int("limit_bytes", e.Limit))
		if e.Size != 0 {
			attrs = append(attrs, slog.Int("size_bytes", e.Size))
		}
	}
	g.log(level, "session ended", attrs)
}

// logLogin logs a login that has failed. There is one line for each outcome and minute,
// because clients can cause them as often as they like; the record of the session has the
// outcome as well.
func (l *live) logLogin(mechanism, result string) {
	failed, ok := session.FailedLogin(result)
	if !ok || mechanism == framing.MechanismNone.String() && result == session.LoginAbandoned {
		return // it has not tried
	}
	l.gateway().notice("login "+result, failed.Level, "login failed", func() []slog.Attr {
		r := l.s.Record()
		attrs := []slog.Attr{
			slog.Uint64("session", r.ID),
			slog.String("remote", session.RemoteName(r.Remote)),
			slog.String("domain", loggedDomain(r.Domain)),
			slog.String("server", serverName(&r)),
			slog.String("mechanism", mechanism),
			slog.String("result", result),
			slog.String("cause", failed.Meaning),
		}
		if r.JID != "" {
			attrs = append(attrs, slog.String("jid", r.JID))
		}
		return attrs
	})
}

// Debug implements session.Host.
func (l *live) Debug() bool {
	return l.gateway().logs(slog.LevelDebug) || l.tap() != nil
}

// Step implements session.Host. There is no limit to these lines: who asks for them wants
// all of them.
func (l *live) Step(name string, attrs ...slog.Attr) {
	if t := l.tap(); t != nil {
		t.step(l.s.ID(), name, attrs)
	}
	i := l.s.Info()
	all := []slog.Attr{slog.Uint64("session", i.ID), slog.String("step", name), slog.String("remote", session.RemoteName(i.Remote))}
	if i.Domain != "" {
		all = append(all, slog.String("domain", loggedDomain(i.Domain)))
	}
	if i.Server != "" {
		all = append(all, slog.String("server", i.Server))
	}
	l.gateway().log(slog.LevelDebug, "session step", append(all, attrs...))
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
