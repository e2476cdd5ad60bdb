package session

import (
	"xmppgate/proxy/internal/relay"
)

// A saslState is where a session is on its way to being authenticated. It decides
// how large messages of the client may be (Session.limit), and when a header that
// restarts the stream may go to the server.
type saslState uint8

const (
	saslNone         saslState = iota // the server does not ask for SASL
	saslOffered                       // the client has yet to authenticate
	saslRunning                       // <auth/> was sent, the outcome is not known
	saslHeaderQueued                  // so is the header that is due after success
	saslDone                          // the client is authenticated
)

// A saslEvent is what moves a session from one saslState to another.
type saslEvent uint8

const (
	onOffer        saslEvent = iota // features with SASL mechanisms
	onNoOffer                       // features without
	onAuth                          // <auth/> goes to the server
	onAuthenticate                  // <authenticate/> does (XEP-0388)
	onHeader                        // the client sends a header
	onSuccess                       // <success/> of SASL has gone to the client
	onFailure                       // <failure/> has
	onSASL2Success                  // <success/> of XEP-0388 has
)

// A saslStep is the answer to an event: the state that follows, and what it means
// for the phase of the client's stream.
type saslStep struct {
	next    saslState
	restart bool // another header is due
	header  bool // the client's header, queued or just received, counts now
}

// saslSteps is the table of authentication: state × event.
//
// Servers do not take a header together with the end of SASL: a client that sends
// it early, behind <auth/>, would break its stream. Such a header is queued until
// <success/> has been relayed, and only then counts for the table of phases; after
// <failure/> none is due, so that it is refused there.
//
// XEP-0388 has no restart, so that it has no running state: its success comes
// while SASL is offered. Where <auth/> is running it was not asked for, and is not
// the outcome. A session that is authenticated stays so.
var saslSteps = [...][8]saslStep{
	saslNone: {
		onOffer: {next: saslOffered}, onNoOffer: {next: saslNone},
		onAuth: {next: saslRunning}, onAuthenticate: {next: saslNone},
		onHeader:  {next: saslNone, header: true},
		onSuccess: {next: saslDone, restart: true}, onFailure: {next: saslNone}, onSASL2Success: {next: saslDone},
	},
	saslOffered: {
		onOffer: {next: saslOffered}, onNoOffer: {next: saslNone},
		onAuth: {next: saslRunning}, onAuthenticate: {next: saslOffered},
		onHeader:  {next: saslOffered, header: true},
		onSuccess: {next: saslDone, restart: true}, onFailure: {next: saslOffered}, onSASL2Success: {next: saslDone},
	},
	saslRunning: {
		onOffer: {next: saslRunning}, onNoOffer: {next: saslRunning},
		onAuth: {next: saslRunning}, onAuthenticate: {next: saslOffered},
		onHeader:  {next: saslHeaderQueued},
		onSuccess: {next: saslDone, restart: true}, onFailure: {next: saslOffered}, onSASL2Success: {next: saslRunning},
	},
	saslHeaderQueued: { // the client is not read: nothing of it comes
		onOffer: {next: saslHeaderQueued}, onNoOffer: {next: saslHeaderQueued},
		onAuth: {next: saslHeaderQueued}, onAuthenticate: {next: saslHeaderQueued},
		onHeader:  {next: saslHeaderQueued},
		onSuccess: {next: saslDone, restart: true, header: true}, onFailure: {next: saslOffered, header: true}, onSASL2Success: {next: saslHeaderQueued},
	},
	saslDone: {
		onOffer: {next: saslDone}, onNoOffer: {next: saslDone},
		onAuth: {next: saslDone}, onAuthenticate: {next: saslDone},
		onHeader:  {next: saslDone, header: true},
		onSuccess: {next: saslDone, restart: true}, onFailure: {next: saslDone}, onSASL2Success: {next: saslDone},
	},
}

// unauthenticated reports whether the server has yet to authenticate the client. A
// server that asks for no SASL does not authenticate anybody.
func (st saslState) unauthenticated() bool { return st != saslNone && st != saslDone }

// noteLogin tells the host, once, when nothing more is to be done to authenticate the
// client.
func (s *Session) noteLogin(ev *relay.Event) {
	if !s.loggedIn && !s.sasl.unauthenticated() {
		s.loggedIn = true
		s.host.LoggedIn(ev)
	}
}

// loginFailed tells the host of a <failure/> that the client has got.
func (s *Session) loginFailed(ev *relay.Event, condition string) {
	if s.ending == endNone && !s.loggedIn && s.host.LoginFailed(ev, condition) {
		s.endWith(ev, endFailedLogins, nil)
	}
}

// saslStep moves the session by one event. It returns false when that was illegal
// and has ended the session.
func (s *Session) saslStep(ev *relay.Event, e saslEvent) bool {
	st := saslSteps[s.sasl][e]
	s.sasl = st.next
	if st.restart {
		s.streamStep(ev, toServer, streamRestartDue)
	}
	return !st.header || s.streamStep(ev, toServer, streamHeader)
}
