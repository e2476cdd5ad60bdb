package upstream

import (
	"crypto/tls"
	"net"
)

// A Stream is a connection to a server that has answered the header of a Request.
// It belongs to whoever gets it: close Conn, and call Done, when the session is
// over.
type Stream struct {
	// Conn is the connection: a *net.TCPConn, a *net.UnixConn, or a
	// *tls.Conn that polltls.Client made.
	Conn net.Conn
	// Early has all bytes that were read from the stream: the server's header
	// and usually the element behind it. Nil means that no header was
	// exchanged yet, which a Router never returns.
	Early []byte
	// Server is the name of the configured server, see Server.Name.
	Server string

	features bool // Early has the server's features
	plain    bool // and they do not demand TLS
	done     func()
}

// TLS reports whether Conn is encrypted.
func (s *Stream) TLS() bool {
	_, ok := s.Conn.(*tls.Conn)
	return ok
}

// Done tells the Router that the session is over. Call it once. It does not close
// Conn.
func (s *Stream) Done() {
	if s.done != nil {
		s.done()
	}
}
