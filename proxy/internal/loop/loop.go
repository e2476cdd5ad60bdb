// Package loop reads and writes the connections of sessions, keeps their deadlines
// and applies back-pressure. It knows sockets and no XMPP; what it tells sessions,
// and what they tell it, is package relay.
//
// There are two loops. On Linux a few workers, each with an epoll descriptor of its
// own, drive all sessions, without a goroutine, a runtime timer or, at rest, a
// buffer for each. Elsewhere, and for comparison, sessions have goroutines. What
// both share, an event with all that follows from it, is in driver.go.
package loop

import (
	"net"
	"net/netip"
	"time"

	"xmppgate/proxy/internal/relay"
)

// A Loop drives sessions.
type Loop interface {
	// Listen takes l over, whose clients become sessions of a. It may be called
	// for any number of listeners.
	Listen(l net.Listener, a Acceptor) Listener
	// Start begins to drive the session that a makes of the client at the other
	// end of conn, and takes conn over.
	Start(conn net.Conn, a Acceptor)
	// Stop ends the loop when no session is left.
	Stop()
}

// A Listener is where clients connect.
type Listener interface {
	// Accept waits for clients and starts their sessions. It returns from time
	// to time with nil, and with net.ErrClosed after Close.
	Accept() error
	// Close makes Accept return. It waits for one that is under way.
	Close()
}

// An Acceptor makes sessions of clients.
type Acceptor interface {
	// Admit returns the session of a client at remote, which is invalid for a
	// Unix socket. h is the way to its connections, to be used from its first
	// event on. Nil means that the client is to be disconnected at once.
	Admit(h Handle, remote netip.AddrPort) relay.Session
	// Degraded tells that sessions have goroutines because of err.
	Degraded(err error)
}

// A Handle is the way to the connections of a session. Connect, Abandon and
// LocalAddr are called during an event of the session, all else from anywhere but from an event.
type Handle interface {
	// Connect begins to connect the session to a server, a *net.TCPAddr or a
	// *net.UnixAddr, without waiting and without a goroutine. The outcome is
	// told by Session.Connected, perhaps before Connect returns. It reports
	// false if the loop cannot do that.
	Connect(ev *relay.Event, to net.Addr) bool

	// Abandon gives up a Connect whose outcome was not told yet.
	Abandon(ev *relay.Event)

	// Attach gives the session a connection to a server, of which early was
	// read already. It calls attached once, as an event: with an error if
	// the loop cannot drive conn. attached reports whether the session wants the
	// connection, which is closed otherwise.
	Attach(conn net.Conn, early []byte, attached func(*relay.Event, error) (wanted bool))

	// LocalAddr is the address that the client has connected to, invalid for a
	// Unix socket.
	LocalAddr() netip.AddrPort

	// Post runs f as an event of the session.
	Post(f func(*relay.Event))

	// View runs f while no event of the session runs.
	View(f func())
}

// Names of loops, see New.
const (
	Auto      = "auto"      // what suits the platform: epoll on Linux
	Goroutine = "goroutine" // a few goroutines for each session, on any platform
)

// New returns the loop with this name, which is Auto when it is empty. clock tells
// the time since the loop's epoch and is never zero. Connections to servers and
// clients get TCP keep-alive after keepAlive without traffic.
func New(name string, clock func() time.Duration, keepAlive time.Duration) Loop {
	if name == Goroutine {
		return goroutines{clock}
	}
	return platformLoop(clock, keepAlive)
}

// AddrPort returns the address of a TCP connection, IPv4 where it is that; it is
// invalid for any other.
func AddrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// Short names for what every line here is about.
const (
	client = relay.Client
	server = relay.Server
)

type side = relay.Side
