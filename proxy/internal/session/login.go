package session

import (
	"log/slog"
	"slices"
	"strings"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// This file follows logins (RFC 6120, section 6; XEP-0388) and the resumption of streams
// (XEP-0198), and tells the host what became of them. It decides nothing about the
// session: sasl.go does.

// A loginResult is the outcome of the last login of a session; zero means that there was
// none. It is an index of loginResults.
type loginResult uint8

const (
	loginNone loginResult = iota
	loginSuccess
	loginAbandoned
	loginUnanswered
	loginOther
	loginRefused // and above: the conditions of RFC 6120, section 6.5
)

// Names of outcomes that the host knows.
const (
	LoginSuccess   = "success"
	LoginAbandoned = "abandoned"
)

// loginResults are the names of outcomes.
var loginResults = append([]string{
	loginSuccess: LoginSuccess, loginAbandoned: LoginAbandoned, loginUnanswered: "unanswered", loginOther: "other",
}, framing.SASLConditions()...)

func (r loginResult) String() string { return loginResults[r] }

// LoginResults lists the outcomes that Host.LoginEnded is told.
func LoginResults() []string { return slices.Clone(loginResults[loginSuccess:]) }

// refusalResult returns the outcome for a condition of SASL, which may be empty.
func refusalResult(condition string) loginResult {
	if i := slices.Index(loginResults[loginRefused:], condition); i >= 0 {
		return loginRefused + loginResult(i)
	}
	return loginOther
}

// A LoginFailure is what people may want to know of an outcome.
type LoginFailure struct {
	// Level is the level of the log line: what the server or the gateway is to blame
	// for is a warning.
	Level slog.Level
	// Meaning says what happened, for people.
	Meaning string
}

// FailedLogin describes one of LoginResults; ok is false for success.
func FailedLogin(result string) (f LoginFailure, ok bool) {
	f, ok = failedLogins[result]
	return f, ok
}

var failedLogins = map[string]LoginFailure{
	LoginAbandoned:           {slog.LevelInfo, "the client gave up before the server had told the outcome, or did not accept what the server has answered"},
	"unanswered":             {slog.LevelWarn, "the server did not tell the outcome; its log may say why"},
	"other":                  {slog.LevelWarn, "the server refused without a reason that RFC 6120 knows; its log may say why"},
	"aborted":                {slog.LevelInfo, "the client called the login off"},
	"account-disabled":       {slog.LevelInfo, "the account is disabled at the server"},
	"credentials-expired":    {slog.LevelInfo, "the password or token is expired"},
	"encryption-required":    {slog.LevelWarn, "the server wants TLS from the gateway; write starttls:// or tls:// in XMPPGATE_UPSTREAM"},
	"incorrect-encoding":     {slog.LevelInfo, "the client sent what is not base64"},
	"invalid-authzid":        {slog.LevelInfo, "the client asked to act for an account that it may not act for"},
	"invalid-mechanism":      {slog.LevelInfo, "the client chose a mechanism that is not offered"},
	"malformed-request":      {slog.LevelInfo, "the client sent what the mechanism does not allow"},
	"mechanism-too-weak":     {slog.LevelInfo, "the server wants a stronger mechanism for this account"},
	"not-authorized":         {slog.LevelInfo, "the name or the password is wrong, or the token is not known"},
	"temporary-auth-failure": {slog.LevelWarn, "the server cannot check credentials at present; its log says why"},
}

// Outcomes of resumption beside framing.SMConditions.
const (
	resumeResumed    = "resumed"
	resumeAbandoned  = "abandoned"
	resumeUnanswered = "unanswered"
	resumeOther      = "other"
)

// ResumeResults lists the outcomes that Host.ResumeEnded is told.
func ResumeResults() []string {
	return append([]string{resumeResumed, resumeAbandoned, resumeUnanswered, resumeOther}, framing.SMConditions()...)
}

// Sides of a stream error: who has sent it.
const (
	errorOfClient  = "client"
	errorOfServer  = "server"
	errorOfGateway = "gateway"
)

// ErrorSides lists the sides that Host.StreamError is told.
func ErrorSides() []string { return []string{errorOfClient, errorOfServer, errorOfGateway} }

// A negotiation is what a client waits for while it logs in. The zero value is nothing.
type negotiation struct {
	since    time.Duration // when the client has said something last
	login    bool          // <auth/> or <authenticate/> has no outcome yet
	resume   bool          // neither has <resume/>
	byServer bool          // it is the server who has to answer
}

// answerPatience is how long a server may take to answer before it is to blame for a
// client that gives up.
const answerPatience = 10 * time.Second

// loginBegins notes that the client has chosen a mechanism.
func (s *Session) loginBegins(ev *relay.Event, m *framing.Message) {
	if s.sasl == saslDone {
		return
	}
	if s.extra != nil && s.extra.negotiation.login {
		s.loginEnds(ev, loginAbandoned) // the client does not wait for it
	}
	s.mechanism = m.Mechanism
	s.reached(ev, stepLogin)
	if s.host.Debug() {
		s.host.Step("login", slog.String("mechanism", s.mechanism.String()))
	}
	s.ensureExtra().negotiation = negotiation{since: ev.Now, login: true, resume: m.AsksToResume(), byServer: true}
}

// loginEnds tells the outcome of the login that is under way, if there is one.
func (s *Session) loginEnds(ev *relay.Event, result loginResult) {
	x := s.extra
	if x == nil || !x.negotiation.login {
		return
	}
	x.negotiation.login = false
	if result != loginSuccess {
		x.negotiation.resume = false // that was asked for inside
	}
	s.loginIs(ev, result)
	s.forgetNegotiation()
}

// forgetNegotiation forgets what is known of it when nothing is under way any more.
func (s *Session) forgetNegotiation() {
	if x := s.extra; x != nil && !x.negotiation.login && !x.negotiation.resume {
		x.negotiation = negotiation{}
		s.dropExtra()
	}
}

// loginIs tells the outcome of a login.
func (s *Session) loginIs(ev *relay.Event, result loginResult) {
	if s.login = result; result == loginSuccess {
		s.reached(ev, stepAuthenticated)
	}
	if s.host.Debug() {
		s.host.Step("login over", slog.String("mechanism", s.mechanism.String()), slog.String("result", result.String()))
	}
	s.host.LoginEnded(ev, s.mechanism.String(), result.String(), ev.Now-s.began)
}

// clientSpeaks notes that the client has sent an element to the server.
func (s *Session) clientSpeaks(ev *relay.Event, m *framing.Message) {
	if m.Class == framing.ClassSMResume {
		s.ensureExtra().negotiation.resume = true
	}
	if x := s.extra; x != nil && x.negotiation != (negotiation{}) {
		x.negotiation.since, x.negotiation.byServer = ev.Now, true
	}
}

// serverSpeaks notes an element that the client has got, before it takes effect: what it
// ends has its outcome already.
func (s *Session) serverSpeaks(ev *relay.Event, u *framing.StreamUnit) {
	switch u.Class {
	case framing.ClassSASLSuccess, framing.ClassSASL2Success:
		s.loginEnds(ev, loginSuccess)
	case framing.ClassSASLFailure, framing.ClassSASL2Failure:
		condition := u.SASLCondition()
		s.loginEnds(ev, refusalResult(condition))
		s.loginFailed(ev, condition)
	}
	switch u.Class {
	case framing.ClassSASL2Success, framing.ClassSMEnabled, framing.ClassSMResumed, framing.ClassSMFailed:
		for a := range u.SMAnswers() {
			s.smAnswered(ev, a)
		}
		if u.Class == framing.ClassSASL2Success {
			s.resumeEnds(resumeOther) // nothing more will be said of it
		}
	}
	if x := s.extra; x != nil && x.negotiation != (negotiation{}) && u.Class != framing.ClassStreamError {
		x.negotiation.byServer = false // such as a challenge
	}
}

// awaitBound looks for the JID that the server gives to the client.
func (s *Session) awaitBound(ev *relay.Event, u *framing.StreamUnit) {
	if u.Class != framing.ClassIQ && u.Class != framing.ClassSASL2Success {
		return // the others cannot have it
	}
	jid := u.BoundJID()
	if jid == "" {
		return
	}
	s.noteJID(jid)
	if _, _, full := strings.Cut(jid, "/"); full {
		s.bound = true
		s.reached(ev, stepBound)
		s.step("bound")
	}
}

// noteJID keeps the bare form of a JID for the log.
func (s *Session) noteJID(jid string) {
	if bare, _, _ := strings.Cut(jid, "/"); s.set.LogJIDs && bare != "" {
		s.ensureExtra().jid = quoted([]byte(bare))
	}
}

// smAnswered acts on what the server says of stream management.
func (s *Session) smAnswered(ev *relay.Event, a framing.SMAnswer) {
	switch {
	case a.Class == framing.ClassSMEnabled && a.Resumable:
		s.resumable = true
		s.step("resumable")
		s.host.Resumable()
	case a.Class == framing.ClassSMResumed:
		s.resumable, s.bound = true, true
		s.reached(ev, stepResumed)
		s.resumeEnds(resumeResumed)
	case a.Class == framing.ClassSMFailed && a.Condition != "":
		s.resumeEnds(a.Condition)
	case a.Class == framing.ClassSMFailed:
		s.resumeEnds(resumeOther)
	}
}

// resumeEnds tells the outcome of <resume/>, if the client waits for that: <failed/> may
// answer <enable/> as well.
func (s *Session) resumeEnds(result string) {
	if x := s.extra; x != nil && x.negotiation.resume {
		x.negotiation.resume = false
		if s.host.Debug() {
			s.host.Step("resumption", slog.String("result", result))
		}
		s.host.ResumeEnded(result)
		s.forgetNegotiation()
	}
}

// loginUnfinished tells the outcome of what is under way when the session ends as e.
func (s *Session) loginUnfinished(ev *relay.Event, e ending) {
	if s.extra == nil || s.extra.negotiation == (negotiation{}) {
		s.loginNotTried(ev, e)
		return
	}
	n := &s.extra.negotiation
	result, resume := loginAbandoned, resumeAbandoned
	if n.byServer && (e.byServer() || ev.Now-n.since >= answerPatience) {
		result, resume = loginUnanswered, resumeUnanswered
	}
	if n.login {
		s.loginEnds(ev, result) // and with it what was asked inside
	} else {
		s.resumeEnds(resume)
	}
}

// loginNotTried tells the outcome when the client has chosen no mechanism: it has found
// none that it can use, or the server has sent no features.
func (s *Session) loginNotTried(ev *relay.Event, e ending) {
	switch {
	case s.login != loginNone || !s.openSent || s.sasl == saslDone || s.traffic(toServer) != (Traffic{}):
	case s.featuresSent:
		s.loginIs(ev, loginAbandoned)
	case s.phase[toClient] == phaseNoHeader || e == endServerError: // that says enough
	case e.byServer(), ev.Now-s.began >= answerPatience:
		s.loginIs(ev, loginUnanswered)
	default:
		s.loginIs(ev, loginAbandoned)
	}
}
