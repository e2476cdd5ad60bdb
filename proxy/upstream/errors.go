package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"unicode"
)

// Phases of opening a stream, in order.
const (
	PhaseResolve = "resolve"
	PhaseTCP     = "tcp" // or the Unix socket
	PhaseTLS     = "tls" // STARTTLS included
	PhaseHeader  = "header"
)

// Results of a phase. Each kind of failed certificate check has its own, because
// each has another remedy.
const (
	ResultOK             = "ok"
	ResultRefused        = "refused"
	ResultTimeout        = "timeout"
	ResultAbandoned      = "abandoned" // the client left first
	ResultNoServer       = "no-server" // DNS has no usable answer, or none of the servers is up
	ResultForbidden      = "forbidden-address"
	ResultTLSRequired    = "tls-required" // by a server on another machine whose URL has no TLS
	ResultNoSTARTTLS     = "no-starttls"
	ResultInjected       = "injected" // bytes between <proceed/> and TLS
	ResultBadALPN        = "bad-alpn"
	ResultCertExpired    = "cert-expired"
	ResultCertName       = "cert-name"
	ResultCertSelfSigned = "cert-self-signed"
	ResultCertUnknownCA  = "cert-unknown-ca"
	ResultCertPin        = "cert-pin"
	ResultCertInvalid    = "cert-invalid" // anything else
	ResultClosed         = "closed"       // by the server
	ResultStreamError    = "stream-error"
	ResultBadStream      = "bad-stream" // the answer is not an XMPP stream
	ResultError          = "error"
)

// Phases returns all phases, in their order.
func Phases() []string { return []string{PhaseResolve, PhaseTCP, PhaseTLS, PhaseHeader} }

// Results returns all results.
func Results() []string {
	return []string{
		ResultOK, ResultRefused, ResultTimeout, ResultAbandoned, ResultNoServer, ResultForbidden,
		ResultTLSRequired, ResultNoSTARTTLS, ResultInjected, ResultBadALPN, ResultCertExpired, ResultCertName,
		ResultCertSelfSigned, ResultCertUnknownCA, ResultCertPin, ResultCertInvalid,
		ResultClosed, ResultStreamError, ResultBadStream, ResultError,
	}
}

// An Error says why no stream could be opened at one server. Its text has no words
// of a client, except for a domain that the certificate does not match.
type Error struct {
	Server string // see ServerStatus.Name; "none" if no server was tried
	Phase  string // one of Phases
	Result string // one of Results, not ResultOK
	Err    error  // the cause, which Unwrap returns

	relay bool // whether the client may see what the server said

	symptom string // the result that a diagnosis has explained; empty without one

	// stream is set if the server said in a stream error, which is in Early,
	// that it cannot serve now or that another host can. If there is no other,
	// the client may as well have it from this one. The connection is open:
	// use it or close it.
	stream *Stream
}

func (e *Error) Error() string {
	return fmt.Sprintf("server %s: %s: %v", e.Server, strings.ToLower(e.Phase), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// A failure is a cause whose result is known where it happens.
type failure struct {
	result string
	err    error
	relay  bool // see Error
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// explain makes an *Error of what went wrong in a phase. Once ctx has ended
// everything else is a consequence.
func (e *endpoint) explain(ctx context.Context, phase string, err error) *Error {
	err = lookupError(err, e.resolver)
	x := &Error{Server: e.server, Phase: phase, Result: ResultError, Err: err}
	var lookup *net.DNSError
	if errors.As(err, &lookup) {
		x.Phase = PhaseResolve // the dialer does both
	}
	var known *failure
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		x.Result, x.Err = ResultAbandoned, context.Cause(ctx)
	case ctx.Err() != nil:
		x.Result, x.Err = ResultTimeout, silence(x.Phase, context.Cause(ctx))
	case errors.As(err, &known):
		x.Result, x.Err, x.relay = known.result, known.err, known.relay
		if known.err == errTLS {
			x.Err = fmt.Errorf("%w%s", errTLS, e.address)
		}
	case lookup != nil && lookup.IsNotFound:
		x.Result = ResultNoServer
	case errors.As(err, &timeout) && timeout.Timeout():
		x.Result, x.Err = ResultTimeout, silence(x.Phase, err)
	case isAny(err, syscall.ECONNREFUSED, syscall.ENOENT):
		x.Result = ResultRefused
	case isAny(err, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE):
		x.Result, x.Err = ResultClosed, fmt.Errorf("the server closed the connection: %w", err)
	}
	return x
}

// silences say what it means when a phase takes too long.
var silences = map[string]string{
	PhaseResolve: "DNS does not answer",
	PhaseTCP:     "nothing answers at the address: a firewall drops packets, or the address is wrong",
	PhaseTLS:     "the server does not answer the start of TLS",
	PhaseHeader:  "the server accepts connections and sends no stream header: it may wait for TLS (tls:// in its URL) or for a PROXY header (?proxy=v2), or hang",
}

// silence says what err, that a phase took too long, means.
func silence(phase string, err error) error { return fmt.Errorf("%s: %w", silences[phase], err) }

// isAny reports whether err is one of the targets.
func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// A redirect is a server's <see-other-host/> (RFC 6120, section 4.9.3.19), in
// the form host:port.
type redirect struct{ to string }

func (r *redirect) Error() string { return "see other host " + r.to }

// maxText bounds the text of a peer that an error quotes, in bytes.
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

// CatchPanic turns a panic into an error with the stack. Defer it in a goroutine
// that works for one session, so that a panic there ends that session and not the
// process.
func CatchPanic(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
	}
}
