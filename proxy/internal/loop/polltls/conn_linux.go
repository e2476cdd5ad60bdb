package polltls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"xmppgate/proxy/internal/loop/socket"
)

// Sizes in bytes.
const (
	maxPlaintext = 16 << 10 // of a record
	maxReceive   = 64 << 10 // what one Read receives at most
	// maxReplies is how much may wait to be sent in reply to a peer that
	// asks and does not read: some 150 updates of its keys.
	maxReplies = 4 << 10
)

// ErrAgain means that there is nothing to read now: read again when the
// descriptor is readable.
var ErrAgain error = again{}

// again is a temporary net.Error, as crypto/tls wants it.
type again struct{}

func (again) Error() string   { return "polltls: nothing to read now" }
func (again) Temporary() bool { return true }
func (again) Timeout() bool   { return true }

var (
	// It is not io.ErrUnexpectedEOF itself, which crypto/tls may turn into
	// the io.EOF of a close_notify.
	errEnded   = fmt.Errorf("polltls: connection ended without close_notify: %w", io.ErrUnexpectedEOF)
	errReplies = errors.New("polltls: peer asks for replies and does not read them")
	errForeign = errors.New("polltls: not a connection of Client or Server, or taken before")
	errEarly   = errors.New("polltls: handshake is not complete")
)

// A Conn is an established TLS connection driven by an event loop. Its methods
// do not block. They must be called one at a time, as under the lock of a
// session, and not after the loop has closed the descriptor.
//
// After any of them the loop has to look at Pending, and after Read at
// Buffered, of which epoll knows nothing.
type Conn struct {
	tls           *tls.Conn
	conn          net.Conn // until Take
	local, remote net.Addr // from then on

	err     error // what has ended the reading
	kept    *keptBuffer
	batch   []byte // records that Write will send together, nil for at once
	sealed  []byte // records that the socket did not take
	replies int    // how much of sealed Read has caused, at most
	budget  int    // how much wire.Read may receive
	fd      int32
	reading bool // Read runs
	more    bool // see Buffered
	drained bool // see Drained
	closed  bool // close_notify was sent, and nothing may follow it
	broken  bool // nothing more is sent
}

// Client is tls.Client for a connection that may be taken later; see Config.
func Client(conn net.Conn, cfg *tls.Config) *tls.Conn {
	c := &Conn{conn: conn}
	c.tls = tls.Client((*wire)(c), Config(cfg))
	return c.tls
}

// Server is tls.Server for a connection that may be taken later; see Config.
func Server(conn net.Conn, cfg *tls.Config) *tls.Conn {
	c := &Conn{conn: conn}
	c.tls = tls.Server((*wire)(c), Config(cfg))
	return c.tls
}

// SyscallConn implements syscall.Conn, for what can be asked of a socket while
// another goroutine uses it.
func (w *wire) SyscallConn() (syscall.RawConn, error) {
	if c, ok := w.conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Take moves t, the handshake of which is complete, out of the blocking world.
// detach takes the descriptor out of the underlying connection, which it
// closes; the loop will close the descriptor. Nothing may use t meanwhile, nor
// read or write by it later.
//
// What t has received already is not lost: Buffered is true to begin with.
// When there is an error, nothing has changed.
func Take(t *tls.Conn, detach func(net.Conn) (fd int, err error)) (c *Conn, fd int, err error) {
	w, ok := t.NetConn().(*wire)
	if !ok || w.conn == nil {
		return nil, -1, errForeign
	}
	if !t.ConnectionState().HandshakeComplete {
		return nil, -1, errEarly
	}
	// A session ticket that comes later may be filed under the address.
	local, remote := w.conn.LocalAddr(), w.conn.RemoteAddr()
	if fd, err = detach(w.conn); err != nil {
		return nil, -1, fmt.Errorf("polltls: detach: %w", err)
	}
	c = (*Conn)(w)
	c.conn, c.local, c.remote, c.fd, c.more = nil, local, remote, int32(fd), true
	if tlsLayout != nil {
		tlsLayout.inside(t).trim()
	}
	return c, fd, nil
}

// Read reads the records that are there, as far as b has room, and receives
// once at most. With room for 20 KiB or more, nothing is left inside but a
// part of a record.
//
// The error is ErrAgain, or io.EOF after a close_notify of the peer, or else
// what has broken the connection; it wraps io.ErrUnexpectedEOF when the peer
// has ended that without a close_notify. There is none when n > 0.
//
// Read may write as well: a peer can ask for new keys, and is told of errors.
func (c *Conn) Read(b []byte) (n int, err error) {
	if c.err == nil {
		c.reading = true
		n = c.read(b)
		c.reading = false
	}
	c.more = n == len(b) || n > 0 && c.err != nil
	switch {
	case n > 0:
		return n, nil
	case c.err != nil:
		return 0, c.err
	}
	return 0, ErrAgain
}

func (c *Conn) read(b []byte) (n int) {
	var lent *lentBuffer
	for received := false; n < len(b) && c.err == nil; {
		if c.more {
			m, err := c.decrypt(b[n:])
			n += m
			if err == ErrAgain {
				c.more = false
			} else if c.err == nil {
				c.err = err
			}
			continue
		}
		if received {
			break
		}
		received, c.more = true, true
		lent = c.receive(len(b) - n)
	}
	c.stow(lent)
	return n
}

// Buffered reports whether Read may have something to return without anything
// having arrived: the loop has to read before it waits.
func (c *Conn) Buffered() bool { return c.more }

// Drained reports whether the last Read that received anything has received all
// there was: the socket tells when more comes, also if it tells only once.
func (c *Conn) Drained() bool { return c.drained }

// decrypt reads of one record. It returns ErrAgain when more has to be received
// for that.
func (c *Conn) decrypt(b []byte) (int, error) {
	if tlsLayout != nil {
		// crypto/tls would find out the same and leave garbage.
		if in := tlsLayout.inside(c.tls); in.input.Len() == 0 && in.raw.Len() < headerSize {
			return 0, ErrAgain
		}
	}
	return c.tls.Read(b)
}

// receive receives once: no more than leaves nothing inside when there is room
// for n bytes, but enough to complete a record. It returns the buffer that it
// has lent to crypto/tls, see stow.
func (c *Conn) receive(n int) *lentBuffer {
	n = min(max(n, maxRecord), maxReceive)
	c.drained = false
	if tlsLayout == nil {
		c.budget = n // crypto/tls receives
		return nil
	}
	in := tlsLayout.inside(c.tls)
	lent := lentBuffers.Get().(*lentBuffer)
	room := in.lend(lent[:n])
	n, err := receive(c.fd, room)
	c.drained = n < len(room)
	in.extend(n)
	if err != ErrAgain {
		c.err = err
	}
	return lent
}

// stow takes back what was lent, nil for nothing, and leaves crypto/tls with as
// much memory as it needs.
func (c *Conn) stow(lent *lentBuffer) {
	if tlsLayout == nil {
		return
	}
	in := tlsLayout.inside(c.tls)
	kept := c.kept
	if in.held() == 0 {
		c.kept = nil
	} else if lent != nil {
		c.kept = keptBuffers.Get().(*keptBuffer)
		in.move(c.kept[:])
	}
	in.trim()
	if kept != nil && kept != c.kept {
		keptBuffers.Put(kept)
	}
	if lent != nil {
		lentBuffers.Put(lent)
	}
}

// Write encrypts and sends pieces, small ones together. It takes all of them;
// what the socket does not take is Pending, and while something is, the loop
// should not write more. broken means that nothing will ever be sent again;
// what the peer has sent may still be read.
func (c *Conn) Write(pieces [][]byte) (broken bool) {
	if len(pieces) == 1 && len(pieces[0]) <= maxPlaintext {
		c.seal(pieces[0])
		return c.broken
	}
	lent := lentBuffers.Get().(*lentBuffer)
	defer lentBuffers.Put(lent)
	record := lent[:0:maxPlaintext]
	c.batch = lent[maxPlaintext:maxPlaintext]
	for _, p := range pieces {
		for len(p) > 0 {
			if len(record) == 0 && len(p) >= maxPlaintext {
				c.seal(p[:maxPlaintext])
				p = p[maxPlaintext:]
				continue
			}
			n := min(len(p), cap(record)-len(record))
			record, p = append(record, p[:n]...), p[n:]
			if len(record) == cap(record) {
				c.seal(record)
				record = record[:0]
			}
		}
	}
	c.seal(record)
	c.send(c.batch)
	c.batch = nil
	return c.broken
}

// seal encrypts b, by way of wire.Write.
func (c *Conn) seal(b []byte) {
	if c.broken || len(b) == 0 {
		return
	}
	if _, err := c.tls.Write(b); err != nil {
		c.broken = true // after an alert, or after CloseNotify
	}
}

// send sends records, and keeps what the socket does not take.
func (c *Conn) send(b []byte) {
	if len(b) == 0 || c.broken {
		return
	}
	n := 0
	if len(c.sealed) == 0 {
		var err error
		if n, err = socket.Write(uintptr(c.fd), b); err != nil {
			c.broken = true
			return
		}
	}
	if b = b[n:]; len(b) > 0 {
		c.sealed = append(c.sealed, b...)
	}
}

// Pending is how many bytes wait for the socket to take them: the loop has to
// call Flush when the descriptor is writable.
func (c *Conn) Pending() int { return len(c.sealed) }

// Held is how much memory is kept for records: a part of one to be read, and those that are
// pending. What a handshake has left is not counted.
func (c *Conn) Held() (bytes int) {
	if c.kept != nil {
		bytes = len(c.kept)
	}
	return bytes + cap(c.sealed)
}

// Flush sends what the socket takes of what is pending, and returns how much
// that was. For broken see Write.
func (c *Conn) Flush() (n int, broken bool) {
	if len(c.sealed) == 0 {
		return 0, c.broken
	}
	n, err := socket.Write(uintptr(c.fd), c.sealed)
	c.sealed = c.sealed[n:]
	c.broken = c.broken || err != nil
	if err != nil || len(c.sealed) == 0 {
		c.sealed, c.replies = nil, 0
	}
	return n, c.broken
}

// CloseNotify tells the peer that nothing more will come; nothing can be
// written after it. In XMPP it belongs behind </stream:stream>: without that
// the server is to believe that the session may be resumed.
//
// Only the first call has an effect.
func (c *Conn) CloseNotify() {
	if !c.broken && !c.closed {
		c.tls.CloseWrite() // an error of which would be one of wire.Write
		c.closed = true
	}
}

// wire is what crypto/tls takes for the connection beneath: that of the
// handshake at first, then the descriptor.
type wire Conn

func (w *wire) Read(b []byte) (int, error) {
	if w.conn != nil {
		return w.conn.Read(b)
	}
	if w.budget == 0 {
		return 0, ErrAgain
	}
	want := min(len(b), w.budget)
	n, err := receive(w.fd, b[:want])
	w.budget -= n
	if n < want {
		w.budget, w.drained = 0, true // that was all, for now
	}
	return n, err
}

// Write takes everything: crypto/tls would not forget an error.
func (w *wire) Write(b []byte) (int, error) {
	if w.conn != nil {
		return w.conn.Write(b)
	}
	c := (*Conn)(w)
	if c.closed {
		return len(b), nil
	}
	if len(c.batch)+len(b) > cap(c.batch) {
		c.send(c.batch)
		c.batch = c.batch[:0]
	}
	if cap(c.batch) == 0 || len(c.sealed) > 0 {
		c.send(b)
	} else {
		c.batch = append(c.batch, b...)
	}
	if c.reading && len(c.sealed) > 0 {
		if c.replies += len(b); c.replies > maxReplies && c.err == nil {
			c.err = errReplies
		}
	}
	return len(b), nil
}

func (w *wire) Close() error {
	if w.conn != nil {
		return w.conn.Close()
	}
	return nil
}

// CloseWrite sends FIN, before Take.
func (w *wire) CloseWrite() error {
	if c, ok := w.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (w *wire) LocalAddr() net.Addr {
	if w.conn != nil {
		return w.conn.LocalAddr()
	}
	return w.local
}

func (w *wire) RemoteAddr() net.Addr {
	if w.conn != nil {
		return w.conn.RemoteAddr()
	}
	return w.remote
}

func (w *wire) SetDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetDeadline(t)
	}
	return nil
}

func (w *wire) SetReadDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetReadDeadline(t)
	}
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetWriteDeadline(t)
	}
	return nil
}

// receive is socket.Read with the errors of a Conn.
func receive(fd int32, b []byte) (int, error) {
	n, err := socket.Read(uintptr(fd), b)
	switch {
	case err == syscall.EAGAIN:
		return 0, ErrAgain
	case err == nil && n == 0:
		return 0, errEnded
	}
	return n, err
}
