package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// diagnoseTimeout bounds a diagnosis.
const diagnoseTimeout = time.Second

// maxAnswer is what is read of an answer to see what it is.
const maxAnswer = 16

// diagnose returns the failure of a health check. If the server has closed the
// connection without an answer, as many do when they cannot parse what they get, it
// tries whether the port speaks HTTP or TLS and says so. A server that speaks HTTP
// may also wait for more of a TLS handshake. This costs two more connections, once.
func (e *endpoint) diagnose(ctx context.Context, r *Request, failure *Error) *Error {
	silent := failure.Result == ResultTimeout && failure.Phase == PhaseTLS && e.security == directTLS
	if !silent && (failure.Result != ResultClosed || failure.Phase == PhaseTCP) {
		return failure
	}
	ctx = context.WithoutCancel(ctx)
	for _, language := range []struct {
		excluded bool
		spoken   func(context.Context, net.Conn) bool
		err      error
	}{
		{false, speaksHTTP, errHTTP}, // first, because HTTP servers are slow to refuse TLS
		{e.security == directTLS, e.speaksTLS, fmt.Errorf("%w%s", errTLS, e.address)},
	} {
		if language.excluded {
			continue
		}
		spoken, err := e.speaks(ctx, r, language.spoken)
		if err != nil {
			failure.Err = errors.Join(failure.Err, err)
		}
		if spoken {
			return &Error{Server: failure.Server, Phase: failure.Phase, Result: ResultBadStream, Err: language.err, symptom: failure.Result}
		}
	}
	return failure
}

// speaks connects and reports whether the server speaks a language, which spoken
// tests. The error is a panic.
func (e *endpoint) speaks(ctx context.Context, r *Request, spoken func(context.Context, net.Conn) bool) (yes bool, err error) {
	defer CatchPanic(&err)
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout/2)
	defer cancel()
	a := attempt{endpoint: e, request: r}
	if a.dial(ctx) != nil {
		return false, nil
	}
	defer a.conn.Close()
	deadline, _ := ctx.Deadline()
	a.conn.SetDeadline(deadline)
	return a.write(nil) == nil && spoken(ctx, a.conn), nil
}

// speaksTLS tells whether the server goes through a handshake, or refuses one in
// TLS. It does not matter with whom.
func (e *endpoint) speaksTLS(ctx context.Context, conn net.Conn) bool {
	err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: e.identity}).HandshakeContext(ctx)
	var alert *net.OpError
	return err == nil || errors.As(err, &alert) && alert.Op == "remote error"
}

// speaksHTTP tells whether the server answers a request.
func speaksHTTP(_ context.Context, conn net.Conn) bool {
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return false
	}
	b := make([]byte, maxAnswer)
	n, _ := io.ReadAtLeast(conn, b, len("HTTP/"))
	return isHTTP(b[:n])
}
