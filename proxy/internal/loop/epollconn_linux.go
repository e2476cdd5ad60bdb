package loop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/polltls"
	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/internal/relay"
)

// An epollConn is a session's connections in the epoll loop.
type epollConn struct {
	driver

	// Set once.
	w          *worker
	index      uint32 // in worker.conns
	generation int32  // tells this session from an earlier one at index

	// Guarded by driver.mu.
	fd       [2]int32      // -1 for none; that of the server is still connecting unless it is attached
	interest [2]uint32     // the events epoll reports; zero for a descriptor that is not registered
	tls      *connTLS      // nil without TLS
	armed    time.Duration // what the wheel was last set to; zero when it has fired

	// Guarded by worker.mu, for the wheel.
	fires         uint32 // the tick at which it does; zero when it is not set
	before, after *epollConn
}

// A connTLS is the TLS of a session. Most have none, so it is not part of an epollConn.
type connTLS struct {
	sides     [2]*polltls.Conn // nil without TLS
	handshake net.Conn         // with the client, while it is under way
	counted   int              // what held has of both
}

// count makes held have what both sides keep.
func (t *connTLS) count() {
	if n := t.held(); n != t.counted {
		held.Add(int64(n - t.counted))
		t.counted = n
	}
}

func (t *connTLS) held() (bytes int) {
	for _, c := range t.sides {
		if c != nil {
			bytes += c.Held()
		}
	}
	return bytes
}

// ensureTLS returns what is there of TLS, to add to it.
func (ec *epollConn) ensureTLS() *connTLS {
	if ec.tls == nil {
		ec.tls = &connTLS{}
	}
	return ec.tls
}

func (ec *epollConn) now() time.Duration { return ec.w.clock() }

func (ec *epollConn) later() { ec.w.runLater(ec) }

// Attach implements Handle.
func (ec *epollConn) Attach(c net.Conn, early []byte, attached func(*relay.Event, error) bool) {
	var (
		fd     int
		secure *polltls.Conn
		err    error
	)
	if t, ok := c.(*tls.Conn); ok {
		secure, fd, err = polltls.Take(t, detach)
	} else {
		fd, err = detach(c)
	}
	if err != nil {
		c.Close()
		ec.Post(func(ev *relay.Event) { attached(ev, err) })
		return
	}
	ec.event(func(ev *relay.Event) input {
		if !attached(ev, nil) {
			socket.Close(uintptr(fd))
			return input{}
		}
		ec.fd[server] = int32(fd)
		if secure != nil {
			ec.ensureTLS().sides[server] = secure
		}
		ec.sides[server].attached = true
		return input{b: early, side: server, borrowed: true}
	})
}

// Secure implements Handle. The handshake uses a copy of the descriptor, in the runtime's
// poller. Events of the original mean nothing meanwhile; it is registered again afterwards.
func (ec *epollConn) Secure(ev *relay.Event, early []byte, negotiate Negotiate, done func(*relay.Event, error)) {
	conn, err := socket.Conn(uintptr(ec.fd[client]))
	if err != nil {
		done(ev, err)
		return
	}
	ec.sides[client].attached = false
	ec.ensureTLS().handshake = conn
	c := &handshakeConn{Conn: conn, early: bytes.Clone(early)}
	go func() {
		t, err := c.negotiate(negotiate)
		ec.event(func(ev *relay.Event) input {
			ec.tls.handshake = nil
			if ec.over {
				return input{} // update has closed the descriptor
			}
			if err == nil {
				ec.tls.sides[client], _, err = polltls.Take(t, func(net.Conn) (fd int, err error) { return int(ec.fd[client]), nil })
			}
			conn.Close() // the copy
			ec.sides[client].attached = true
			done(ev, err)
			return input{}
		})
	}()
}

// LocalAddr implements Handle.
func (ec *epollConn) LocalAddr() netip.AddrPort { return socket.Local(uintptr(ec.fd[client])) }

// Connect implements Handle.
func (ec *epollConn) Connect(ev *relay.Event, to net.Addr) bool {
	fd, connected, err := socket.Connect(to, ec.w.keepAlive)
	if err == errors.ErrUnsupported || err == syscall.EAGAIN {
		return false // EAGAIN: the backlog of a Unix socket is full; a goroutine can wait for it
	}
	if err != nil {
		ec.s.Connected(ev, err)
		return true
	}
	ec.fd[server] = int32(fd)
	if connected {
		ec.sides[server].attached = true
		ec.s.Connected(ev, nil)
	} else if err := ec.watch(server, unix.EPOLLOUT); err != nil {
		ec.disconnect()
		ec.s.Connected(ev, err)
	}
	return true
}

// Abandon implements Handle.
func (ec *epollConn) Abandon(*relay.Event) {
	if ec.connecting() {
		ec.disconnect()
	}
}

func (ec *epollConn) connecting() bool { return ec.fd[server] >= 0 && !ec.sides[server].attached }

func (ec *epollConn) disconnect() {
	socket.Close(uintptr(ec.fd[server]))
	ec.fd[server], ec.interest[server] = -1, 0
}

// connected tells the session whether it is connected to the server.
func (ec *epollConn) connected(ev *relay.Event) {
	err := socket.Error(uintptr(ec.fd[server]))
	if err != nil {
		ec.disconnect()
	} else {
		ec.sides[server].attached = true
	}
	ec.s.Connected(ev, err)
}

// ready handles events of sd, as one event of the session that reads once at most. It
// reports whether there may be more that epoll has reported already.
func (ec *epollConn) ready(sd side, events uint32) (more bool) {
	ev := &ec.w.ev
	ec.mu.Lock()
	defer ec.mu.Unlock()
	if ec.suspended {
		return false
	}
	if sd == server && ec.connecting() {
		ec.run(ev, func(ev *relay.Event) input {
			ec.connected(ev)
			return input{}
		})
		return true
	}
	o := &ec.sides[sd]
	if !o.attached || o.shut {
		return false
	}
	more = events != unix.EPOLLIN
	ec.run(ev, func(ev *relay.Event) (in input) {
		if sd == client && !ec.mayRead(client) {
			// Only its end counts. After a reset nothing can be delivered in
			// either direction; after FIN the server's bytes still can.
			switch {
			case events&unix.EPOLLERR != 0:
				ec.eof(ev, client, syscall.ECONNRESET)
			case events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0:
				ec.hungUp(ev)
			}
		}
		if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			ec.writePending(ev, sd)
		}
		if events&^unix.EPOLLOUT == 0 || !ec.mayRead(sd) || ec.inputWaits[sd] {
			more = true
			return input{}
		}
		in, left := ec.readOnce(ev, sd)
		more = left || more
		return in
	})
	for ec.buffered(sd) && ec.mayRead(sd) && !ec.inputWaits[sd] && !ec.over {
		ec.run(ev, func(ev *relay.Event) input {
			in, _ := ec.readOnce(ev, sd)
			return in
		})
	}
	if more && o.attached && !o.shut {
		// Register again, which makes epoll report what is left. Not for a
		// side that is not read: a hang-up would be reported again and again.
		if want := ec.wanted(sd); !onlyHangUp(want) || ec.interest[sd] != want {
			if err := ec.watch(sd, want); err != nil {
				ec.fail(ev, err)
			}
		}
	}
	return more
}

// readOnce reads sd once. It reports whether there may be more to read.
func (ec *epollConn) readOnce(ev *relay.Event, sd side) (in input, more bool) {
	scratch := ec.w.buf
	var err error
	if t := ec.secure(sd); t != nil {
		// There may be less room behind what is kept than a record needs.
		in, _, err = ec.read(sd, scratch, true, t.Read)
		more = !t.Drained()
		if err == polltls.ErrAgain {
			err = syscall.EAGAIN
		}
	} else {
		fd := uintptr(ec.fd[sd])
		in, more, err = ec.read(sd, scratch, false, func(b []byte) (int, error) { return socket.Read(fd, b) })
	}
	if err != nil && err != syscall.EAGAIN {
		ec.eof(ev, sd, err)
	}
	return in, more
}

// writePending writes what sd did not take before.
func (ec *epollConn) writePending(ev *relay.Event, sd side) {
	pending := ec.sides[sd].pending()
	if t := ec.secure(sd); t != nil {
		if t.Pending() == 0 {
			return
		}
		n, broken := t.Flush()
		whole := !broken && t.Pending() == 0 && len(pending) > 0
		if whole {
			n, broken = len(pending), t.Write([][]byte{pending})
		}
		var err error
		if broken {
			err = errBroken
		}
		if whole {
			ec.wrote(ev, sd, n, err)
		} else {
			ec.sent(ev, sd, n, err)
		}
		return
	}
	if len(pending) > 0 {
		n, err := socket.Write(uintptr(ec.fd[sd]), pending)
		ec.wrote(ev, sd, n, err)
	}
}

// secure is the TLS of sd, nil without.
func (ec *epollConn) secure(sd side) *polltls.Conn {
	if ec.tls == nil {
		return nil
	}
	return ec.tls.sides[sd]
}

func (ec *epollConn) buffered(sd side) bool {
	t := ec.secure(sd)
	return t != nil && t.Buffered()
}

// runAgain is called by the worker after later.
func (ec *epollConn) runAgain() {
	ec.mu.Lock()
	defer ec.mu.Unlock()
	if !ec.over && !ec.suspended {
		ec.run(&ec.w.ev, nothing)
	}
}

// fired is called by the wheel.
func (ec *epollConn) fired() {
	ec.mu.Lock()
	defer ec.mu.Unlock()
	if ec.over || ec.suspended {
		return
	}
	ec.armed = 0
	ec.run(&ec.w.ev, func(ev *relay.Event) input {
		ec.expired(ev)
		return input{}
	})
}

func (ec *epollConn) write(sd side, pieces [][]byte) (n int, err error) {
	if t := ec.secure(sd); t != nil {
		if t.Write(pieces) {
			err = errBroken
		}
		for _, p := range pieces {
			n += len(p)
		}
		return n, err
	}
	return socket.Gather(uintptr(ec.fd[sd]), pieces)
}

// errBroken stands for any failure to write to TLS, which reports no cause.
var errBroken = errors.New("the connection is broken")

func (ec *epollConn) unsentRecords(sd side) int {
	if t := ec.secure(sd); t != nil {
		return t.Pending()
	}
	return 0
}

func (ec *epollConn) heldByTLS() int {
	if ec.tls == nil {
		return 0
	}
	return ec.tls.held()
}

func (ec *epollConn) unsent(sd side) int {
	n := socket.Unsent(uintptr(ec.fd[sd]))
	if n >= 0 {
		n += ec.unsentRecords(sd)
	}
	return n
}

func (ec *epollConn) closeNotify(sd side) {
	if t := ec.secure(sd); t != nil {
		t.CloseNotify()
	}
}

func (ec *epollConn) finish(sd side) bool {
	socket.Finish(uintptr(ec.fd[sd]))
	return true
}

func (ec *epollConn) shut(sd side) {
	socket.Close(uintptr(ec.fd[sd])) // epoll forgets it
	ec.fd[sd], ec.interest[sd] = -1, 0
	if ec.tls != nil {
		ec.tls.sides[sd] = nil
	}
}

func (ec *epollConn) stopSecuring() {
	if ec.tls != nil && ec.tls.handshake != nil {
		ec.tls.handshake.Close()
	}
}

func (ec *epollConn) update(now, due time.Duration) error {
	if ec.tls != nil {
		ec.tls.count()
	}
	for sd := client; sd <= server; sd++ {
		o := &ec.sides[sd]
		if !o.attached || o.shut {
			continue
		}
		// Reading often stops only until the next event. It costs nothing to
		// leave the registration as it is: ready changes it if something comes.
		if want, has := ec.wanted(sd), ec.interest[sd]; want != has && !(onlyHangUp(want) && has == reading) {
			if err := ec.watch(sd, want); err != nil {
				return err
			}
		}
	}
	w := ec.w
	switch {
	case ec.over:
		if ec.connecting() {
			ec.disconnect()
		}
		if !ec.sides[client].attached && ec.fd[client] >= 0 { // during a handshake
			ec.shut(client)
		}
		w.mu.Lock()
		w.wheel.unset(ec)
		w.conns[ec.index] = nil
		w.free = append(w.free, ec.index)
		w.mu.Unlock()
	case due != 0 && (ec.armed == 0 || ec.armed > due):
		ec.armed = due
		w.mu.Lock()
		w.wheel.set(ec, now, due)
		sleepsTooLong := w.wheel.firesAt() < w.wakesAt
		if sleepsTooLong {
			w.wakesAt = 0
		}
		w.mu.Unlock()
		if sleepsTooLong {
			w.wakeUp()
		}
	}
	return nil
}

// reading is what epoll reports of a side that is only read.
const reading = unix.EPOLLIN | unix.EPOLLRDHUP

// onlyHangUp reports whether want has neither reading nor writing.
func onlyHangUp(want uint32) bool { return want == unix.EPOLLONESHOT || want == unix.EPOLLRDHUP }

// wanted returns the events to register sd for. A client that is not read is watched for
// FIN, once.
func (ec *epollConn) wanted(sd side) (want uint32) {
	switch {
	case ec.mayRead(sd) && !ec.inputWaits[sd]:
		want = reading
	case sd == client && !ec.sawFIN:
		want = unix.EPOLLRDHUP
	}
	if len(ec.sides[sd].pending()) > 0 || ec.unsentRecords(sd) > 0 || ec.buffered(sd) && ec.mayRead(sd) {
		want |= unix.EPOLLOUT // epoll does not know of bytes that TLS has buffered, but a socket is nearly always writable
	}
	if want == 0 {
		want = unix.EPOLLONESHOT
	}
	return want
}

// watch registers sd for the events want. The kernel fails when
// fs.epoll.max_user_watches is reached or memory is short; no event would come then.
func (ec *epollConn) watch(sd side, want uint32) error {
	op := unix.EPOLL_CTL_MOD
	if ec.interest[sd] == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	if err := ec.w.ctl(ec.w.ep, op, int(ec.fd[sd]), unix.EpollEvent{Events: want | unix.EPOLLET, Fd: int32(ec.index<<1 | uint32(sd)), Pad: ec.generation}); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	ec.interest[sd] = want
	return nil
}

// epollCtl is unix.EpollCtl with the event by value. With a pointer the event would be
// allocated, because tests may replace this function.
func epollCtl(ep, op, fd int, event unix.EpollEvent) error { return unix.EpollCtl(ep, op, fd, &event) }

// Control calls f with the descriptor of a side, in tests.
func (ec *epollConn) Control(sd side, f func(fd uintptr)) { f(uintptr(ec.fd[sd])) }
