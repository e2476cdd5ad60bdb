package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// How long connecting may take.
const (
	staticTimeout = 5 * time.Second
	dialGrace     = time.Second // for Dial to return its own, better error
)

// A dialing is the gateway's state of an attempt to connect.
type dialing struct {
	began  time.Duration
	static *upstream.Static        // that the loop connects to; nil for Dial
	cancel context.CancelCauseFunc // of Dial
}

// Connect implements session.Host. The loop connects to a Static server, because it
// needs no goroutine for that. Everything else goes through Dial.
func (l *live) Connect(ev *relay.Event, a *session.Attempt) {
	c, r := l.settings(), &a.Request
	domain := NormalDomain(r.Domain)
	d := &dialing{began: ev.Now}
	a.State = d
	if r.Number == 1 {
		l.tapped(domain)
	}
	if c.Static != nil && r.Number == 1 {
		if d.static = c.Static(domain); d.static != nil {
			a.Patience = staticTimeout
			d.static.Begin()
			if l.handle.Connect(ev, d.static.Addr) {
				return
			}
			d.static.Done()
			d.static = nil
		}
	}
	a.Patience = upstream.TotalTimeout + dialGrace
	q := &upstream.Request{
		Domain: domain, JID: r.JID, Header: r.Header, Client: r.Client, Listener: r.Listener,
		Secure: r.Secure, TLS: r.TLS, ID: strconv.FormatUint(r.ID, 10), Avoid: r.Avoid,
	}
	if !q.Listener.IsValid() {
		q.Listener = l.handle.LocalAddr()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	d.cancel = cancel
	go l.open(ctx, cancel, q)
}

// open calls Dial and gives the stream, or the error, to the session.
func (l *live) open(ctx context.Context, cancel context.CancelCauseFunc, q *upstream.Request) {
	defer cancel(nil)
	begun := time.Now()
	stream, err := l.settings().callDial(ctx, q)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	l.gateway().observer.Dialed(l.s.ID(), dialResult(err), time.Since(begun))
	if err != nil {
		l.handle.Post(func(ev *relay.Event) { l.failed(ev, err) })
		return
	}
	l.handle.Attach(stream.Conn, stream.Early, func(ev *relay.Event, err error) (wanted bool) {
		if err != nil {
			stream.Done()
			l.failed(ev, err)
			return false
		}
		to := &session.Server{Name: stream.Server, TLS: stream.TLS(), TLSInfo: serverTLS(stream), Done: stream.Done, OtherCertificate: l.otherCertificate(stream)}
		answered := stream.Early != nil
		stream.Conn, stream.Early = nil, nil // the session keeps the stream
		if wanted = l.s.Attached(ev, to, answered); !wanted {
			stream.Done()
		}
		return wanted
	})
}

// callDial calls Dial. A panic becomes the error.
func (c *Config) callDial(ctx context.Context, q *upstream.Request) (stream *upstream.Stream, err error) {
	defer upstream.CatchPanic(&err)
	return c.Dial(ctx, q)
}

// failed reports to the session that connecting has failed.
func (l *live) failed(ev *relay.Event, err error) {
	text := ""
	var failed *upstream.Error
	if errors.As(err, &failed) && failed.Result == upstream.ResultTLSRequired {
		text = session.TLSRequired
	}
	l.s.ConnectFailed(ev, fmt.Errorf("dial server: %w", err), text)
}

// Connected implements session.Host.
func (l *live) Connected(ev *relay.Event, a *session.Attempt, err error) {
	d := a.State.(*dialing)
	l.dialed(d, err, ev.Now)
	if err != nil {
		d.static.Done()
		l.failed(ev, &staticError{d.static.Server, connectError(d.static.Addr, err)})
		return
	}
	l.s.Attached(ev, l.gateway().serverOf(d.static), false)
}

// A staticServer is shared by all sessions at one upstream.Static.
type staticServer struct {
	of *upstream.Static
	session.Server
}

// serverOf returns the description of a server for sessions. It caches one, because
// there is a single Static at a time; after a change sessions keep the one they have.
func (g *Gateway) serverOf(of *upstream.Static) *session.Server {
	s := g.static.Load()
	if s == nil || s.of != of {
		s = &staticServer{of, session.Server{
			Name: of.Server, Static: true, Done: of.Done,
			Answered: func(result string, took time.Duration) { of.Opened(upstream.PhaseHeader, result, took) },
		}}
		g.static.Store(s)
	}
	return &s.Server
}

// A staticError names the server that a loop could not connect to.
type staticError struct {
	server string
	error
}

func (e *staticError) Unwrap() error { return e.error }

// Abandon implements session.Host.
func (l *live) Abandon(ev *relay.Event, a *session.Attempt, cause error) (name string) {
	d := a.State.(*dialing)
	if d.static == nil {
		d.cancel(cause)
		return ""
	}
	l.handle.Abandon(ev)
	l.dialed(d, cause, ev.Now)
	d.static.Done()
	return d.static.Server
}

// dialed reports the outcome of a connection by the loop to both observers.
func (l *live) dialed(d *dialing, err error, now time.Duration) {
	result, took := dialResult(err), now-d.began
	l.gateway().observer.Dialed(l.s.ID(), result, took)
	d.static.Opened(upstream.PhaseTCP, result, took)
}

// connectError returns err as package net would.
func connectError(to net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: os.NewSyscallError("connect", err)}
}

// Results of Observer.Dialed.
const (
	dialOK        = "ok"
	dialRefused   = "refused"
	dialTimedOut  = "timeout"
	dialAbandoned = "abandoned" // the client left first
	dialOther     = "error"
)

// DialResults returns all results that Observer.Dialed gets.
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
