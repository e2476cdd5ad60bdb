// Package polltls is crypto/tls without waiting: an event loop that owns the
// descriptors of its sockets drives established TLS connections which have
// no goroutine and, while they are idle, no buffer.
//
// The handshake is ordinary blocking code on a *tls.Conn of [Client] or
// [Server]; so is everything after it where no such loop exists, which is
// everywhere but on Linux. [Take] then moves the connection into the loop.
//
// A loop drives a Conn as it would drive a socket, except for two things. What
// is Buffered inside is not reported by epoll; and a Read may leave something
// Pending. When the descriptor is ready, under the lock of the session:
//
//	if writable && c.Pending() > 0 {
//		n, broken := c.Flush()
//		// n > 0 is progress; at Pending() == 0 the session may write again
//	}
//	if readable || c.Buffered() { // and the session wants to read
//		n, err := c.Read(b) // ErrAgain: nothing came of it
//		// hand over b[:n], which may lead to c.Write, or act on err
//	}
//	// wait for writable while c.Pending() > 0;
//	// do not wait for readable while c.Buffered(): have another turn
//
// crypto/tls was not made for this, but allows it. Once a handshake is
// complete, it does not remember an error of the underlying Read that is a
// temporary net.Error: the same Read may be repeated when more has arrived.
// It does remember every error of the underlying Write, so that one accepts
// all there is, and what the socket does not take at once waits in the Conn.
package polltls

import "crypto/tls"

// Config returns cfg as this package wants it: records are as large as their
// contents from the first one on, since each costs a header and a seal, and
// the server may not start another handshake, which would have to wait.
//
// Client and Server apply it. To have connections share one Config, which
// saves its memory in each of them and lets a server recognize its own session
// tickets, call it once and use the result: it returns that as it is.
func Config(cfg *tls.Config) *tls.Config {
	if cfg.DynamicRecordSizingDisabled && cfg.Renegotiation == tls.RenegotiateNever {
		return cfg
	}
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	cfg.Renegotiation = tls.RenegotiateNever
	return cfg
}
