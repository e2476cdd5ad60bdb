package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

const (
	client = relay.Client
	server = relay.Server
)

// Timeouts that tests wait for.
const (
	closeTimeout = session.CloseTimeout
	headTimeout  = session.HeadTimeout
)

// probe looks at the connections of a session.
func (l *live) probe() (p loop.Probe) {
	l.handle.View(func() { p = l.handle.(interface{ Probe() loop.Probe }).Probe() })
	return p
}

// state looks at a session.
func (l *live) state() (p session.Probe) {
	l.handle.View(func() { p = l.s.Probe() })
	return p
}

// control calls f with the descriptor of a side.
func (l *live) control(sd relay.Side, f func(fd uintptr)) {
	l.handle.View(func() {
		l.handle.(interface {
			Control(relay.Side, func(uintptr))
		}).Control(sd, f)
	})
}

func (l *live) ended(as string) bool { return l.state().Ending == as }

// serveConn takes one connection over.
func (g *Gateway) serveConn(conn net.Conn) {
	g.init()
	g.loop.Start(conn, g)
}

// admit takes a client in and drives it by nothing.
func (g *Gateway) admit() *live {
	g.init()
	if s, ok := g.Admit(nil, netip.AddrPort{}).(*session.Session); ok {
		return s.Host().(*live)
	}
	return nil
}

func neverDial(context.Context, *upstream.Request) (*upstream.Stream, error) {
	return nil, context.Canceled
}

// always is a Config.Static that leads to one address.
func always(address net.Addr) func(string) *upstream.Static {
	s := &upstream.Static{Addr: address, Server: address.Network() + "://" + address.String()}
	return func(string) *upstream.Static { return s }
}

// await waits until f holds, or for long enough.
func await(f func() bool) {
	for begun := time.Now(); !f() && time.Since(begun) < patience; {
		time.Sleep(50 * time.Microsecond)
	}
}
