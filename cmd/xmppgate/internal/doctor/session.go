package doctor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
)

const (
	closeMessage  = framing.CloseMessage
	closePatience = 6 * time.Second // servers and xmppgate take up to 5 s
	beforeResume  = 500 * time.Millisecond
	largePatience = 2 * time.Minute // at the 3,000 bytes a second that some allow
)

// sessions does what a client does after the features: it logs in and exchanges
// messages, breaks the connection, resumes, is silent and leaves. s becomes the session
// that lives at the end, or nil.
func (x *examination) sessions(ctx context.Context, s **session, mechanisms []string) bool {
	mechanism, err := x.choose(*s, mechanisms)
	var features *element
	if err == nil {
		features, err = x.authenticate(ctx, *s, mechanism)
	}
	if err != nil {
		x.refused(err)
		return false
	}
	x.report.ok("login", "%s as %s", mechanism, quote(x.local+"@"+x.domain))
	x.bindsToTLS(ctx, mechanisms)
	x.triesSASL2(ctx, mechanism)
	if !x.binds(ctx, *s, features) {
		x.report.skip([]string{"echo", "large", "resume", "idle"}, "no session")
		return true
	}
	x.identify(ctx, *s)
	x.enable(ctx, *s, features)
	if !x.echoes(ctx, *s) {
		x.report.skip([]string{"large", "resume", "idle"}, "messages do not come back")
		return true
	}
	x.resumes(ctx, s, mechanism)
	if *s = x.alive(ctx, *s, mechanism); *s != nil {
		x.sendsLarge(*s, features)
		*s = x.alive(ctx, *s, mechanism)
	}
	if *s == nil {
		x.report.skip([]string{"idle", "close"}, "another session cannot be opened")
		return true
	}
	x.silence(ctx, *s)
	x.closes(ctx, *s)
	return true
}

// refused reports a login that failed.
func (x *examination) refused(err error) {
	if e := (refusal{}); errors.As(err, &e) {
		x.found("login", e.id, "%s", e.text)
		return
	}
	x.found("login", "login-unanswered", "%s", describe(err))
}

// again opens another session.
func (x *examination) again(ctx context.Context, mechanism string) (*session, *element, error) {
	s, err := x.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	var features *element
	if _, err = x.openStream(ctx, s); err == nil {
		features, err = x.authenticate(ctx, s, mechanism)
	}
	if err != nil {
		s.cut()
		return nil, nil, err
	}
	return s, features, nil
}

// alive returns the session, or another one if it has ended, or nil if there is none to
// be had.
func (x *examination) alive(ctx context.Context, s *session, mechanism string) *session {
	if !s.dead {
		return s
	}
	s.cut()
	fresh, _, err := x.again(ctx, mechanism)
	if err != nil {
		return nil
	}
	if jid, err := x.bind(ctx, fresh); err == nil {
		fresh.jid = jid
		return fresh
	}
	fresh.cut()
	return nil
}

func randomName() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// A stanzaError is an answer of type error.
type stanzaError struct{ condition }

func (e stanzaError) Error() string { return "error " + e.condition.String() }

// query sends an IQ and returns its result.
func (x *examination) query(ctx context.Context, s *session, kind, to, payload string) (*element, error) {
	id := randomName()
	address := ""
	if to != "" {
		address = fmt.Sprintf(" to='%s'", escape(to))
	}
	if err := s.send(fmt.Sprintf("<iq xmlns='jabber:client' type='%s' id='%s'%s>%s</iq>", kind, id, address, payload)); err != nil {
		return nil, err
	}
	e, err := s.await(x.deadline(ctx), func(e *element) bool { return e.is(framing.NSClient, "iq") && e.get("id") == id })
	if err != nil {
		return nil, err
	}
	if e.get("type") == "error" {
		return nil, errorOf(e)
	}
	return e, nil
}

func errorOf(stanza *element) error {
	if e := stanza.child(framing.NSClient, "error"); e != nil {
		return stanzaError{e.condition(nsStanzas)}
	}
	return stanzaError{condition{name: "undefined-condition"}}
}

// binds binds a resource.
func (x *examination) binds(ctx context.Context, s *session, features *element) bool {
	if features.child(nsBind, "bind") == nil {
		x.found("bind", "bind-missing", "the features after the login have no bind")
		return false
	}
	jid, err := x.bind(ctx, s)
	if err != nil {
		x.found("bind", "bind-refused", "%s", x.why(err))
		return false
	}
	s.jid = jid
	if s.unbound {
		x.found("bind", "unbound-prefix", "stanzas do not declare jabber:client")
	}
	x.report.ok("bind", "%s", quote(jid))
	return true
}

func (x *examination) bind(ctx context.Context, s *session) (string, error) {
	e, err := x.query(ctx, s, "set", "", fmt.Sprintf("<bind xmlns='%s'><resource>doctor-%s</resource></bind>", nsBind, randomName()))
	if err != nil {
		return "", err
	}
	jid := e.child(nsBind, "bind").child(nsBind, "jid").content()
	if jid == "" {
		return "", errors.New("the result has no JID")
	}
	return jid, nil
}

// why is the end of a session, or an error of a stanza, in words.
func (x *examination) why(err error) string {
	if e := (stanzaError{}); errors.As(err, &e) {
		return e.Error()
	}
	if e := (streamError{}); errors.As(err, &e) {
		return e.Error()
	}
	if e := (streamEnd{}); errors.As(err, &e) {
		return e.Error()
	}
	if isTimeout(err) {
		return "no answer in time"
	}
	return describe(err)
}

// identify asks the server what it is, for the remedies.
func (x *examination) identify(ctx context.Context, s *session) {
	e, err := x.query(ctx, s, "get", x.domain, fmt.Sprintf("<query xmlns='%s'/>", nsDiscoInfo))
	if err != nil {
		return
	}
	info := e.child(nsDiscoInfo, "query")
	if info == nil {
		return
	}
	for _, c := range info.children {
		if name := c.get("name"); c.is(nsDiscoInfo, "identity") && c.get("category") == "server" && name != "" {
			for _, known := range []string{prosody, ejabberd} {
				if strings.Contains(strings.ToLower(name), strings.ToLower(known)) {
					x.seen.add(known)
				}
			}
			x.report.ok("server", "it calls itself %s", quote(name))
			return
		}
	}
}

// enable turns on XEP-0198 with resumption.
func (x *examination) enable(ctx context.Context, s *session, features *element) {
	if features.child(nsSM, "sm") == nil {
		x.found("resume", "resume-not-offered", "the features have no %s", nsSM)
		return
	}
	if err := s.send(fmt.Sprintf("<enable xmlns='%s' resume='true'/>", nsSM)); err != nil {
		s.dead = true
		return
	}
	e, err := s.await(x.deadline(ctx), func(e *element) bool { return e.Space == nsSM && (e.Local == "enabled" || e.Local == "failed") })
	switch {
	case err != nil:
		s.dead = true
		x.found("resume", "resume-disabled", "no answer to <enable/>: %s", x.why(err))
		return
	case e.Local == "failed":
		x.found("resume", "resume-disabled", "<enable/> fails: %v", e.condition(nsStanzas))
		return
	}
	s.managed = true
	if resume := e.get("resume"); resume != "true" && resume != "1" || e.get("id") == "" {
		x.found("resume", "resume-disabled", "<enabled/> comes without resumption")
		return
	}
	s.id = e.get("id")
}

// echo sends a message with a body of so many bytes to itself and waits for it. The
// type headline keeps it out of archives.
func (x *examination) echo(s *session, size int, deadline time.Time) (time.Duration, error) {
	id := randomName()
	body := strings.Repeat("x", size)
	start := time.Now()
	err := s.send(fmt.Sprintf("<message xmlns='jabber:client' type='headline' id='%s' to='%s'><body>%s</body><no-store xmlns='urn:xmpp:hints'/></message>", id, escape(s.jid), body))
	var e *element
	if err == nil || !isTimeout(err) { // the reason may have come before the connection broke
		var late error
		e, late = s.await(deadline, func(e *element) bool { return e.is(framing.NSClient, "message") && e.get("id") == id })
		if late != nil {
			err = late
		} else {
			err = nil
		}
	}
	switch {
	case err != nil:
		s.dead = true
		return 0, err
	case e.get("type") == "error":
		return 0, errorOf(e)
	case e.child(framing.NSClient, "body").content() != body:
		return 0, errors.New("the message comes back changed")
	}
	return time.Since(start), nil
}

func (x *examination) echoes(ctx context.Context, s *session) bool {
	took, err := x.echo(s, 20, x.deadline(ctx))
	if err != nil {
		x.found("echo", "echo-lost", "%s", x.why(err))
		return false
	}
	x.report.ok("echo", "a message to oneself came back after %v", took.Round(100*time.Microsecond))
	return true
}

// sendsLarge sends a large message to itself: both ways.
func (x *examination) sendsLarge(s *session, features *element) {
	if x.options.large == 0 {
		x.report.skip([]string{"large"}, "--large 0")
		return
	}
	if limit, err := strconv.Atoi(features.child(nsLimits, "limits").child(nsLimits, "max-bytes").content()); err == nil && limit < x.options.large {
		x.found("large", "large-refused", "the server announces a limit of %d bytes", limit)
		return
	}
	patience := max(x.timeout, largePatience)
	took, err := x.echo(s, x.options.large, time.Now().Add(patience))
	var pause time.Duration
	if err == nil {
		// A server that limits the rate takes the message at once, and nothing more
		// for a while. What is examined next must not be blamed for that.
		pause, err = x.echo(s, 20, time.Now().Add(patience))
	}
	switch e := (closeError{}); {
	case err == nil && pause > time.Second:
		x.report.ok("large", "%d bytes came back after %v; the server reads on after %v, because it limits the rate",
			x.options.large, took.Round(time.Millisecond), pause.Round(100*time.Millisecond))
	case err == nil:
		x.report.ok("large", "%d bytes came back after %v", x.options.large, took.Round(time.Millisecond))
	case errors.As(err, new(stanzaError)), errors.As(err, new(streamError)), errors.As(err, new(streamEnd)),
		errors.As(err, &e) && slices.Contains([]ws.StatusCode{ws.StatusMessageTooBig, ws.StatusPolicyViolation}, e.code):
		x.found("large", "large-refused", "%d bytes: %s", x.options.large, x.why(err))
	default:
		x.found("large", "large-lost", "%d bytes: %s", x.options.large, x.why(err))
	}
}

// resumes cuts the connection and resumes the session on another one.
func (x *examination) resumes(ctx context.Context, s **session, mechanism string) {
	old := *s
	if old.id == "" || old.dead {
		return // enable has said so
	}
	old.cut()
	select { // clients need longer; ejabberd can hang when it hears of both at once
	case <-ctx.Done():
	case <-time.After(beforeResume):
	}
	fresh, features, err := x.again(ctx, mechanism)
	if err != nil {
		old.dead = true
		x.found("resume", "resume-refused", "after a cut no stream can be opened: %s", x.why(err))
		return
	}
	start := time.Now()
	*s = fresh
	if features.child(nsSM, "sm") == nil {
		x.found("resume", "resume-refused", "the features of the second stream have no %s", nsSM)
		fresh.dead = true
		return
	}
	err = fresh.send(fmt.Sprintf("<resume xmlns='%s' previd='%s' h='%d'/>", nsSM, escape(old.id), old.handled))
	if err == nil {
		var e *element
		e, err = fresh.await(x.deadline(ctx), func(e *element) bool { return e.Space == nsSM && (e.Local == "resumed" || e.Local == "failed") })
		if err == nil && e.Local == "failed" {
			err = stanzaError{e.condition(nsStanzas)}
		}
	}
	if err != nil {
		fresh.dead = true // it is not bound
		fresh.cut()
		x.found("resume", "resume-refused", "%s", x.why(err))
		return
	}
	fresh.jid, fresh.id, fresh.managed, fresh.handled = old.jid, old.id, true, old.handled
	took := time.Since(start)
	if _, err := x.echo(fresh, 20, x.deadline(ctx)); err != nil {
		x.found("resume", "resume-refused", "the session is resumed, and then: %s", x.why(err))
		return
	}
	x.report.ok("resume", "the session went on after a cut, %v after the login", took.Round(100*time.Microsecond))
}

// closes ends the stream as clients do.
func (x *examination) closes(ctx context.Context, s *session) {
	if s.dead {
		return
	}
	if err := s.send(closeMessage); err != nil {
		return
	}
	_, err := s.await(earlier(x.deadline(ctx), time.Now().Add(closePatience)), func(*element) bool { return false })
	switch {
	case errors.As(err, new(streamEnd)):
		x.report.ok("close", "<close/> is answered")
	case isTimeout(err):
		x.found("close", "close-unanswered", "no answer to <close/> in %v", closePatience)
	default:
		x.found("close", "close-unanswered", "%s instead of <close/>", x.why(err))
	}
	s.leave()
}
