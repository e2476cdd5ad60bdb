package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"xmppgate/framing"
)

// Timeouts of the phases of opening one stream. TotalTimeout bounds all attempts
// for one session together.
const (
	TCPTimeout    = 5 * time.Second
	TLSTimeout    = 5 * time.Second
	HeaderTimeout = 10 * time.Second
	TotalTimeout  = 10 * time.Second
)

// fallbackDelay is how long the first address family has for itself (Happy
// Eyeballs, RFC 8305, section 8).
const fallbackDelay = 250 * time.Millisecond

// KeepAlive makes TCP detect a peer that has disappeared. Interval and count stay
// at the kernel's defaults, because each would cost another system call for every
// connection.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: -1, Count: -1}

// A security is how the bytes between the gateway and a server are protected.
type security uint8

const (
	plain security = iota
	startTLS
	directTLS
)

// An endpoint is one address where a stream may be opened, and how.
type endpoint struct {
	server   string // Server.Name
	network  string // "tcp" or "unix"
	address  string // host:port, or a path; host may be a name
	security security
	identity string                 // what the certificate must be for if neither name= nor the session says; may be empty
	options  *options               // of the URL, shared
	allowed  func(netip.Addr) error // checked for each address before it is connected to; nil allows all
	resolver *net.Resolver          // for host; nil means the system's
	observer Observer               // never nil

	dialed func(net.Conn) net.Conn // wraps connections in tests; nil but there
}

// open connects, sends a PROXY header if there is one, secures the connection, sends the
// stream header, and waits for the server's header and the element behind it. The error
// is an *Error. It wraps a *redirect if the server answers with <see-other-host/>.
//
// If the server refuses the request, for example with host-unknown, open succeeds and
// the stream error is in Stream.Early. If the server says that it cannot serve now, for
// example with system-shutdown, open fails; see Error.stream.
func (e *endpoint) open(ctx context.Context, r *Request) (*Stream, error) {
	stream, err := e.try(ctx, attempt{endpoint: e, request: r})
	if r.TLS != 0 && errors.Is(err, errVersion) {
		return e.try(ctx, attempt{endpoint: e, request: r, anyVersion: true})
	}
	return stream, err
}

// try is open in one attempt.
func (e *endpoint) try(ctx context.Context, a attempt) (*Stream, error) {
	if err := a.run(ctx, PhaseTCP, a.dial); err != nil {
		return nil, err
	}
	// The end of ctx ends whatever the connection is waiting for.
	socket := a.conn
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	err := a.negotiate(ctx)
	if !stop() && err == nil {
		err = a.explain(ctx, PhaseHeader, ctx.Err())
	}
	if err == nil {
		return a.stream(), nil
	}
	if err.relay && ctx.Err() == nil {
		err.stream = a.stream()
	} else {
		socket.Close()
	}
	return nil, err
}

// An attempt is one run of endpoint.open.
type attempt struct {
	*endpoint
	request *Request
	conn    net.Conn // the socket, later TLS on top of it
	ahead   []byte   // the PROXY header, to be written first
	early   []byte   // see Stream.Early

	anyVersion bool // of TLS, see Request.TLS

	encrypted bool  // conn is TLS
	features  bool  // early ends with the server's features
	wantsTLS  bool  // and they demand STARTTLS, which is yet to come
	clear     input // what came before it
}

// stream hands over the connection, which then has no deadline any more.
func (a *attempt) stream() *Stream {
	a.conn.SetDeadline(time.Time{}) // fails on a closed connection only
	return &Stream{Conn: a.conn, Early: a.early, Server: a.server, features: a.features, plain: a.features && !a.encrypted}
}

// negotiate secures the connection and exchanges headers. A server on this machine
// that requires TLS gets it even if its URL has none.
func (a *attempt) negotiate(ctx context.Context) *Error {
	if a.security != plain {
		if err := a.run(ctx, PhaseTLS, a.secure); err != nil {
			return err
		}
	}
	if err := a.run(ctx, PhaseHeader, a.exchangeHeaders); err != nil || !a.wantsTLS {
		return err
	}
	if err := a.run(ctx, PhaseTLS, a.upgrade); err != nil {
		return err
	}
	a.observer.Encrypted(a.server)
	return a.run(ctx, PhaseHeader, a.exchangeHeaders)
}

// run runs one phase and tells the observer how it ended.
func (a *attempt) run(ctx context.Context, phase string, f func(context.Context) error) *Error {
	start := time.Now()
	if err := f(ctx); err != nil {
		failed := a.explain(ctx, phase, err)
		a.observer.Opened(a.server, failed.Phase, failed.Result, time.Since(start))
		return failed
	}
	a.observer.Opened(a.server, phase, ResultOK, time.Since(start))
	return nil
}

// dial connects. Looking up the host is part of it.
func (a *attempt) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, TCPTimeout)
	defer cancel()
	d := net.Dialer{
		FallbackDelay:   fallbackDelay,
		KeepAliveConfig: KeepAlive,
		Resolver:        a.resolver,
	}
	if a.allowed != nil {
		// Checked here, an answer of DNS cannot change in between.
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return a.check(address)
		}
	}
	conn, err := d.DialContext(ctx, a.network, a.address)
	if err != nil {
		return err
	}
	if a.dialed != nil {
		conn = a.dialed(conn)
	}
	a.conn = conn
	if a.options.proxy != 0 {
		if a.ahead, err = proxyHeader(a.options.proxy, a.request, conn); err != nil {
			conn.Close()
			return err
		}
	}
	return nil
}

// check asks whether an address may be connected to.
func (a *attempt) check(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // a Unix socket
	}
	if err := a.allowed(ap.Addr().WithZone("").Unmap()); err != nil {
		return &failure{result: ResultForbidden, err: err}
	}
	return nil
}

// write writes a.ahead, if there is any, and b in one call.
func (a *attempt) write(b []byte) error {
	b, a.ahead = append(a.ahead, b...), nil
	_, err := a.conn.Write(b)
	return err
}

// lineEnds is what a health check sends behind a header: white space for an XMPP
// server, the end of a request for one that speaks HTTP, which would otherwise
// wait for it in silence.
const lineEnds = "\r\n\r\n"

// exchangeHeaders sends the client's header and reads the answer.
func (a *attempt) exchangeHeaders(context.Context) error {
	in := input{conn: a.conn, deadline: time.Now().Add(HeaderTimeout), limit: maxEarly}
	if err := a.conn.SetDeadline(in.deadline); err != nil {
		return err
	}
	header := framing.AppendStreamHeader(nil, a.request.Header)
	if a.request.probe {
		header = append(header, lineEnds...)
	}
	if err := a.write(header); err != nil {
		return err
	}
	if err := in.header(); err != nil {
		return err
	}
	in.readTimeout = featuresTimeout
	u, err := in.next()
	a.early = in.buf
	switch {
	case err != nil && !enough(err):
		return err
	case u.Kind == framing.KindEnd:
		return &failure{result: ResultClosed, err: errEnd}
	case u.Kind == framing.KindHeader:
		return badStream(errTwoHeaders)
	case u.Class == framing.ClassStreamError:
		if err := classifyStreamError(u); err != nil {
			return err
		}
	case u.Class == framing.ClassFeatures && err == nil:
		a.features = true
		if !a.encrypted {
			a.clear = in
			return a.checkTLSRequired(u)
		}
	}
	return nil
}

// checkTLSRequired checks whether features allow a login without TLS. They do not
// if they offer STARTTLS and no SASL mechanism. If they offer both and mark STARTTLS
// as required, servers differ in what they mean: on this machine the gateway starts
// TLS; for another machine the operator has chosen plain text.
func (a *attempt) checkTLSRequired(features framing.StreamUnit) error {
	only := features.OffersStartTLS() && !features.OffersSASL()
	if sameMachine(a.conn) {
		a.wantsTLS = only || features.RequiresStartTLS()
		return nil
	}
	if only {
		return &failure{result: ResultTLSRequired, err: fmt.Errorf("the server requires TLS; write starttls://%s", a.address)}
	}
	return nil
}

// sameMachine reports whether what is written to conn stays on this machine.
func sameMachine(conn net.Conn) bool {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return true // a Unix socket
	}
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	return remote.IP.IsLoopback() || ok && local.IP.Equal(remote.IP)
}

// classifyStreamError returns an error if a stream error in place of the features
// means that another server should be tried. It returns nil if the stream error is
// about the client's request, so that the client gets it.
func classifyStreamError(u framing.StreamUnit) error {
	c := u.StreamErrorCondition()
	if c == framing.CondSeeOtherHost {
		// Nonsense is the client's to see.
		if to, ok := normalHost(u.SeeOtherHost()); ok {
			return &failure{result: ResultStreamError, err: &redirect{to}, relay: true}
		}
		return nil
	}
	for _, unable := range unableConditions {
		if c == unable {
			return &failure{result: ResultStreamError, err: fmt.Errorf("stream error %s", c), relay: true}
		}
	}
	return nil
}

// unableConditions say that this server cannot serve now, whatever is asked of
// it; another may (RFC 6120, section 4.9.3). All other conditions answer the
// request.
var unableConditions = []framing.Condition{
	framing.CondConnectionTimeout,
	framing.CondInternalServerError,
	framing.CondRemoteConnectionFailed,
	framing.CondReset,
	framing.CondResourceConstraint,
	framing.CondSystemShutdown,
	framing.CondUndefined,
}

// An Observer gets the events of a Router. Its methods must not block and may be
// called by several goroutines at once. server is ServerStatus.Name, phase one of
// Phases, result one of Results.
type Observer interface {
	// Opened is called at the end of each phase of opening a stream.
	Opened(server, phase, result string, took time.Duration)
	// FailedOver is called when a session goes on to another server because
	// the server from has failed.
	FailedOver(from string)
	// Redirected is called for each <see-other-host/> that is followed.
	Redirected(server string)
	// Health is called when a server goes up, with nil, or down, with the
	// reason. The calls for one server are in order.
	Health(server string, down *Error)
	// Encrypted is called for each stream that got TLS because the server, on
	// this machine, requires it, although its URL has no TLS.
	Encrypted(server string)
	// FilesRead is called when the files in a server's URL have changed and
	// were read again. If err is not nil the old ones stay in force.
	FilesRead(server string, err error)
	// CertificateExpires is called for each verified certificate, with its
	// expiry.
	CertificateExpires(server string, at time.Time)
	// Updated is called by Router.Update with the names of all servers, before
	// anything happens at a new one. What comes afterwards from other servers is
	// of attempts that were under way. Health does not come from them.
	Updated(servers []string)
}
