package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"xmppgate/proxy/upstream"
)

// connect asks Dial for a stream and tells the session.
func (g *Gateway) connect(ctx context.Context, cancel context.CancelCauseFunc, l link, q *upstream.Request) {
	defer cancel(nil)
	begun := time.Now()
	stream, err := g.callDial(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	g.dialed(err, false, time.Since(begun))
	if err != nil {
		l.post(func(s *session, w *workspace) { s.dialFailed(w, fmt.Errorf("dial server: %w", err)) })
		return
	}
	l.attach(stream)
}

// callDial is Dial, whose panic ends the attempt.
func (g *Gateway) callDial(ctx context.Context, q *upstream.Request) (stream *upstream.Stream, err error) {
	defer upstream.CatchPanic(&err)
	return g.Dial(ctx, q)
}

// dialError is what package net makes of err.
func dialError(to net.Addr, err error) error {
	return fmt.Errorf("dial server: %w", &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: os.NewSyscallError("connect", err)})
}

func (g *Gateway) dialed(err error, direct bool, took time.Duration) {
	g.observer.Dialed(dialResult(err), direct, took)
}

// Results of a dial, see Observer.
const (
	dialOK        = "ok"
	dialRefused   = "refused"
	dialTimedOut  = "timeout"
	dialAbandoned = "abandoned" // the client went away first
	dialOther     = "error"
)

// DialResults lists the results that Observer.Dialed is told.
func DialResults() []string {
	return []string{dialOK, dialRefused, dialTimedOut, dialAbandoned, dialOther}
}

func dialResult(err error) string {
	switch {
	case err == nil:
		return dialOK
	case errors.Is(err, context.Canceled):
		return dialAbandoned
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return dialRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return dialTimedOut
	}
	return dialOther
}

// answerResult is what e says of a server that was to answer a header; the
// names are those of a dial where they mean the same.
func answerResult(e ending) string {
	switch e {
	case endNone:
		return dialOK
	case endServerSilent:
		return dialTimedOut
	case endServerLost:
		return "closed"
	case endServerBroken, endServerTooLarge:
		return "bad-stream"
	}
	return dialAbandoned
}

// AnswerResults lists the results that Observer.Answered is told.
func AnswerResults() []string {
	return []string{dialOK, dialTimedOut, "closed", "bad-stream", dialAbandoned}
}
