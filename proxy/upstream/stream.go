package upstream

import (
	"crypto/tls"
	"net"
)

// A Stream is a connection to a server that has answered the header of a
// Request.
type Stream struct {
	// Conn is the connection: a *net.TCPConn, a *net.UnixConn, or a
	// *tls.Conn that polltls.Client made.
	Conn net.Conn
	// Early is what was read of the stream: the server's header, at least,
	// and as a rule the element behind it. Nil means that the header was not
	// sent; a Router never returns that.
	Early []byte
	// Server is the name of the configured server, see Server.Name.
	Server string

	features bool // Early has the server's features
	plain    bool // and they do not demand TLS
	done     func()
}

// TLS reports whether the gateway speaks TLS with the server.
func (s *Stream) TLS() bool {
	_, ok := s.Conn.(*tls.Conn)
	return ok
}

// Done tells the Router that the session is over. It may be called on a
// Stream once.
func (s *Stream) Done() {
	if s.done != nil {
		s.done()
	}
}
