package loop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/debug"
	"syscall"
)

// A Negotiate does the TLS handshake with a client, see Handle.Secure.
type Negotiate func(net.Conn) (*tls.Conn, error)

// turns bounds the handshakes that compute at once. All others wait, for a turn or for their
// client. There is half a turn for each processor: a handshake computes as long as some 50
// stanzas take, and sessions would wait behind all handshakes that are ready to run.
var turns = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// A handshakeConn is the connection of a handshake. early is read first. Whoever waits for
// the client has no turn.
type handshakeConn struct {
	net.Conn
	early []byte
	turn  bool // this handshake has a turn
	over  bool
}

// negotiate calls f. What was early must all have been read then: a client cannot have sent
// more than its ClientHello before it has an answer.
func (c *handshakeConn) negotiate(f Negotiate) (t *tls.Conn, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		c.over = true
		c.leave()
	}()
	if t, err = f(c); err == nil && len(c.early) > 0 {
		err = errSurplus
	}
	return t, err
}

var errSurplus = errors.New("the client has sent data before the keys were agreed on")

// enter takes a turn.
func (c *handshakeConn) enter() {
	if !c.turn && !c.over {
		turns <- struct{}{}
		c.turn = true
	}
}

// leave gives the turn back.
func (c *handshakeConn) leave() {
	if c.turn {
		<-turns
		c.turn = false
	}
}

// Read implements net.Conn.
func (c *handshakeConn) Read(b []byte) (n int, err error) {
	if len(c.early) > 0 {
		n = copy(b, c.early)
		c.early = c.early[n:]
	} else {
		c.leave()
		n, err = c.Conn.Read(b)
	}
	c.enter()
	return n, err
}

// Write implements net.Conn.
func (c *handshakeConn) Write(b []byte) (int, error) {
	c.leave()
	defer c.enter()
	return c.Conn.Write(b)
}

// SyscallConn implements syscall.Conn, see polltls.Server.
func (c *handshakeConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// CloseWrite sends FIN.
func (c *handshakeConn) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite sends FIN.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
