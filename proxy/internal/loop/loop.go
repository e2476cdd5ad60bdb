// Package loop reads and writes the connections of sessions, keeps their deadlines
// and applies back-pressure. It knows sockets and no XMPP; what it tells sessions,
// and what they tell it, is package relay.
//
// There are two loops. On Linux a few workers, each with an epoll descriptor of its
// own, drive all sessions; a session has no goroutine and no runtime timer, and at rest
// no buffer. Elsewhere, and for comparison, sessions have goroutines.
//
// The files, from what both loops share to what they do not:
//
//   - driver.go runs an event and what follows from it; output.go writes to a side
//     and keeps what it does not take; window.go keeps input; buffer.go has the memory.
//   - secure.go is what both do for a handshake of TLS with a client.
//   - epoll_linux.go starts the workers and takes connections in, worker_linux.go
//     waits for events, epollconn_linux.go handles those of one session, and
//     wheel_linux.go has the timers. move_linux.go gives sessions to another process.
//   - goroutine.go is the other loop.
package loop

import (
	"context"
	"net"
	"net/netip"
	"time"

	"xmppgate/proxy/internal/relay"
)

// A Loop drives sessions.
type Loop interface {
	// Listen takes over l, whose clients become sessions of a. It may be called
	// for any number of listeners.
	Listen(l net.Listener, a Acceptor) Listener
	// Start takes over conn, a connection to a client, and drives the session that
	// a makes for it.
	Start(conn net.Conn, a Acceptor)
	// LetRun lets sessions run for which something has come, before the caller goes on.
	// Who has a little to do for many sessions calls it in between, not during an event.
	LetRun()
	// Stop ends the loop, and returns when that has nothing open any more, or ctx is
	// done. It is called when no session is left, and not during an event.
	Stop(ctx context.Context)
}

// A Listener is where clients connect.
type Listener interface {
	// Accept waits for clients and starts their sessions. It returns nil after one
	// or more, and net.ErrClosed after Close.
	Accept() error
	// Close makes Accept return. It waits for a client that is being accepted.
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

// A Handle is the way to the connections of a session. Connect, Abandon, Secure and
// LocalAddr are called during an event of the session. The other methods must not be:
// they wait for the event to end.
type Handle interface {
	// Connect begins to connect the session to a server, a *net.TCPAddr or a
	// *net.UnixAddr, without waiting and without a goroutine. The outcome is
	// told by Session.Connected, perhaps before Connect returns. It reports
	// false if the loop cannot do that.
	Connect(ev *relay.Event, to net.Addr) bool

	// Abandon gives up a Connect whose outcome is not known yet.
	Abandon(ev *relay.Event)

	// Attach gives the session a connection to a server, from which early was
	// already read. It calls attached once, as an event, with an error if the loop
	// cannot drive conn. If attached returns false, conn is closed.
	Attach(conn net.Conn, early []byte, attached func(*relay.Event, error) (wanted bool))

	// Secure starts TLS with the client, during an event of the session that has
	// received early, the beginning of a ClientHello, and nothing was written yet.
	// negotiate does the handshake, on a goroutine of its own: it gets a connection
	// from which early is read first, may wait, and returns what polltls.Server has
	// made of it. done is called as an event with the outcome. Until then the client
	// is neither read nor written; if its connection is closed, negotiate fails
	// soon and done is not called.
	Secure(ev *relay.Event, early []byte, negotiate Negotiate, done func(*relay.Event, error))

	// LocalAddr is the address that the client has connected to, invalid for a
	// Unix socket.
	LocalAddr() netip.AddrPort

	// Post runs f as an event of the session.
	Post(f func(*relay.Event))

	// View runs f while no event of the session runs. The session waits for f.
	View(f func())

	// Held is how much memory the buffers of the session have, in bytes. It is called
	// within View.
	Held() (bytes int)

	// Queue returns the number of bytes that wait for a side, and how long that
	// has taken none of them; less than relay.StallNoted counts as zero. It is
	// called during View, and makes no system call: what waits in the kernel is
	// that of the last check, which is a second old at most.
	Queue(sd relay.Side) (bytes int, stalled time.Duration)
}

// A Mover is a Loop that goes on with sessions of another process. The epoll loop is one.
type Mover interface {
	// Restore starts a session whose connections are those at fds, the client's
	// first, which it owns from then on. session makes it; begin is its first
	// event. It reports false if the loop cannot do that, and then calls neither.
	Restore(fds [2]int, session func(Handle) relay.Session, begin func(*relay.Event)) bool
}

// A Movable is a Handle whose session can go on in another process.
type Movable interface {
	// Suspend stops driving the session, until Resume or Release is called. It
	// reports false, and nothing has changed, if something is under way in the
	// loop or ready returns false. Otherwise fds are the connections, the
	// client's first; they belong to the loop. Events that come from within this
	// process meanwhile are postponed.
	Suspend(ready func(*relay.Conns) bool) (fds [2]int, ok bool)
	// Resume goes on with a session that was suspended.
	Resume()
	// Release forgets a session that was suspended and goes on elsewhere. It
	// gets no further event.
	Release()
}

// Names of loops, see New.
const (
	Auto      = "auto"      // what suits the platform: epoll on Linux
	Goroutine = "goroutine" // a few goroutines for each session, on any platform
)

// New returns the loop with this name; empty means Auto. clock returns the time since
// the loop's epoch and never zero. Connections get TCP keep-alive after keepAlive without
// traffic.
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

// Short names for the sides.
const (
	client = relay.Client
	server = relay.Server
)

type side = relay.Side
