package upstream

import (
	"fmt"
	"strings"
	"unicode"
)

// Phases of opening a stream, in order.
const (
	PhaseResolve = "resolve"
	PhaseTCP     = "tcp" // or the Unix socket
	PhaseTLS     = "tls" // STARTTLS included
	PhaseHeader  = "header"
)

// Results of a phase. Every failed certificate check has one of its own, for
// each asks somebody else to do something else.
const (
	ResultOK             = "ok"
	ResultRefused        = "refused"
	ResultTimeout        = "timeout"
	ResultAbandoned      = "abandoned" // the client went away first
	ResultNoServer       = "no-server" // DNS has no usable answer, or none of the servers is up
	ResultForbidden      = "forbidden-address"
	ResultNoSTARTTLS     = "no-starttls"
	ResultInjected       = "injected" // bytes between <proceed/> and TLS
	ResultBadALPN        = "bad-alpn"
	ResultCertExpired    = "cert-expired"
	ResultCertName       = "cert-name"
	ResultCertSelfSigned = "cert-self-signed"
	ResultCertUnknownCA  = "cert-unknown-ca"
	ResultCertPin        = "cert-pin"
	ResultCertInvalid    = "cert-invalid" // anything else
	ResultClosed         = "closed"       // the server hung up
	ResultStreamError    = "stream-error"
	ResultBadStream      = "bad-stream" // what came is no XMPP stream
	ResultError          = "error"
)

// An Error says why no stream could be opened at one server. It holds nothing
// that a client said.
type Error struct {
	Server string // see Server.Name
	Phase  string
	Result string
	Err    error // the cause
}

func (e *Error) Error() string {
	return fmt.Sprintf("server %s: %s: %v", e.Server, strings.ToLower(e.Phase), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// A redirect is a server's <see-other-host/> (RFC 6120, section 4.9.3.19), in
// the form host:port.
type redirect struct{ to string }

func (r *redirect) Error() string { return "see other host " + r.to }

// maxText bounds what an error quotes of somebody else's words.
const maxText = 200

// printable returns s fit for a log: of bounded length and without characters
// that do not print.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
