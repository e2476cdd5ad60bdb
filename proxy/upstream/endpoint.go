package upstream

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Timeouts of opening one stream. Total bounds all attempts for one session.
const (
	TCPTimeout    = 5 * time.Second
	TLSTimeout    = 5 * time.Second
	HeaderTimeout = 10 * time.Second
	TotalTimeout  = 15 * time.Second
)

// A security is how the bytes between the gateway and a server are protected.
type security uint8

const (
	plain security = iota
	startTLS
	directTLS
)

// An endpoint is one place where a stream may be opened, with all that is to
// be known for that.
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
}

// open connects, introduces the client (PROXY), secures the connection, sends
// the header and waits for the server's header and the element behind it. The
// error is an *Error; it wraps a *redirect when the server sent the client
// elsewhere before anything else.
func (e *endpoint) open(ctx context.Context, r *Request) (*Stream, error) {
	panic("not written yet")
}

// An Observer is told what happens while streams are opened. Its methods must
// be quick and may be called by several goroutines at once. server is
// Server.Name, the other strings are constants of this package.
type Observer interface {
	// Opened is called for each phase that ends.
	Opened(server, phase, result string, took time.Duration)
	// FailedOver is called when a session goes on to another server than
	// the one that was tried first.
	FailedOver(from string)
	// Redirected is called for each <see-other-host/> that is followed.
	Redirected(server string)
	// Health is called when a server is found up or down.
	Health(server string, up bool)
	// CertificateExpires is called for each verified certificate.
	CertificateExpires(server string, at time.Time)
}
