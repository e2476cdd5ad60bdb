package loop

import (
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
	w          *worker
	index      uint32
	generation int32         // tells this session from an earlier one at index
	fd         [2]int32      // -1 for none; that of the server is no connection before it is attached
	interest   [2]uint32     // what epoll reports; zero for a descriptor that is not registered
	tls        *polltls.Conn // of the server; nil without
	armed      time.Duration // what the wheel was last set to; zero when it has fired

	// Of the wheel, guarded by worker.mu.
	fires         uint32 // the tick at which it does; zero when it is not set
	before, after *epollConn
}

func (l *epollConn) now() time.Duration { return l.w.clock() }

func (l *epollConn) later() { l.w.runLater(l) }

// Attach implements Handle.
func (l *epollConn) Attach(c net.Conn, early []byte, attached func(*relay.Event, error) bool) {
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
		l.Post(func(ev *relay.Event) { attached(ev, err) })
		return
	}
	l.event(func(ev *relay.Event) input {
		if !attached(ev, nil) {
			socket.Close(uintptr(fd))
			return input{}
		}
		l.fd[server], l.tls = int32(fd), secure
		l.sides[server].attached = true
		return input{b: early, side: server, borrowed: true}
	})
}

// LocalAddr implements Handle.
func (l *epollConn) LocalAddr() netip.AddrPort { return socket.Local(uintptr(l.fd[client])) }

// Connect implements Handle.
func (l *epollConn) Connect(ev *relay.Event, to net.Addr) bool {
	fd, err := socket.Connect(to, l.w.keepAlive)
	if err == errors.ErrUnsupported || err == syscall.EAGAIN {
		return false // EAGAIN: a Unix socket whose backlog is full, which can be waited for
	}
	if err != nil {
		l.s.Connected(ev, err)
		return true
	}
	l.fd[server] = int32(fd)
	if socket.Connected(fd) { // the server is near
		l.connected(ev)
	} else if err := l.watch(server, unix.EPOLLOUT); err != nil {
		l.disconnect()
		l.s.Connected(ev, err)
	}
	return true
}

// Abandon implements Handle.
func (l *epollConn) Abandon(*relay.Event) {
	if l.connecting() {
		l.disconnect()
	}
}

func (l *epollConn) connecting() bool { return l.fd[server] >= 0 && !l.sides[server].attached }

func (l *epollConn) disconnect() {
	socket.Close(uintptr(l.fd[server]))
	l.fd[server], l.interest[server] = -1, 0
}

// connected tells the session the outcome of connect.
func (l *epollConn) connected(ev *relay.Event) {
	err := socket.Error(uintptr(l.fd[server]))
	if err != nil {
		l.disconnect()
	} else {
		l.sides[server].attached = true
	}
	l.s.Connected(ev, err)
}

// ready handles what epoll reports of sd, as one event: it reads once at most.
// It reports whether epoll may have more to say that it has said already.
func (l *epollConn) ready(sd side, events uint32) (more bool) {
	ev := &l.w.ev
	l.mu.Lock()
	defer l.mu.Unlock()
	if sd == server && l.connecting() {
		l.run(ev, func(ev *relay.Event) input {
			l.connected(ev)
			return input{}
		})
		return true
	}
	o := &l.sides[sd]
	if !o.attached || o.shut {
		return false
	}
	more = events != unix.EPOLLIN
	l.run(ev, func(ev *relay.Event) (in input) {
		if sd == client && !l.mayRead(client) {
			// Nobody listens to it. What a server has said before it ended is
			// still delivered; this can only be what the client said to a
			// server that does not listen.
			switch {
			case events&unix.EPOLLERR != 0:
				l.eof(ev, client, syscall.ECONNRESET)
			case events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0:
				l.hungUp(ev)
			}
		}
		if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			l.writePending(ev, sd)
		}
		if events&^unix.EPOLLOUT == 0 || !l.mayRead(sd) || l.refeed[sd] {
			more = true
			return input{}
		}
		in, left := l.readOnce(ev, sd)
		more = left || more
		return in
	})
	for l.buffered(sd) && l.mayRead(sd) && !l.refeed[sd] && !l.over {
		l.run(ev, func(ev *relay.Event) input {
			in, _ := l.readOnce(ev, sd)
			return in
		})
	}
	if more && o.attached && !o.shut {
		// What is left is reported once more. But a hang-up is reported
		// whether asked for or not, so who is not to be read is left alone.
		if want := l.wanted(sd); !quiet(want) || l.interest[sd] != want {
			if err := l.watch(sd, want); err != nil {
				l.fail(ev, err)
			}
		}
	}
	return more
}

// readOnce reads sd once. It reports whether there may be more to read.
func (l *epollConn) readOnce(ev *relay.Event, sd side) (in input, more bool) {
	scratch := l.w.buf[:relay.ReadSize]
	if l.large[sd] && !scarce() {
		scratch = l.w.buf
	}
	var err error
	if c := l.secure(sd); c != nil {
		// Behind what is kept there might be less room than for a record.
		in, _, err = l.read(sd, scratch, true, c.Read)
		more = !c.Drained()
		if err == polltls.ErrAgain {
			err = syscall.EAGAIN
		}
	} else {
		fd := uintptr(l.fd[sd])
		in, more, err = l.read(sd, scratch, false, func(b []byte) (int, error) { return socket.Read(fd, b) })
	}
	if err != nil && err != syscall.EAGAIN {
		l.eof(ev, sd, err)
	}
	return in, more
}

// writePending writes what sd did not take before.
func (l *epollConn) writePending(ev *relay.Event, sd side) {
	pending := l.sides[sd].pending()
	if c := l.secure(sd); c != nil {
		if c.Pending() == 0 {
			return
		}
		n, broken := c.Flush()
		whole := !broken && c.Pending() == 0 && len(pending) > 0
		if whole {
			n, broken = len(pending), c.Write([][]byte{pending})
		}
		var err error
		if broken {
			err = errBroken
		}
		if whole {
			l.wrote(ev, sd, n, err)
		} else {
			l.sent(ev, sd, n, err)
		}
		return
	}
	if len(pending) > 0 {
		n, err := socket.Write(uintptr(l.fd[sd]), pending)
		l.wrote(ev, sd, n, err)
	}
}

// secure is the TLS of sd, nil without.
func (l *epollConn) secure(sd side) *polltls.Conn {
	if sd == server {
		return l.tls
	}
	return nil
}

func (l *epollConn) buffered(sd side) bool {
	c := l.secure(sd)
	return c != nil && c.Buffered()
}

// runAgain runs what later has asked for.
func (l *epollConn) runAgain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.run(&l.w.ev, nothing)
	}
}

// fired is called by the wheel.
func (l *epollConn) fired() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.armed = 0
	l.run(&l.w.ev, func(ev *relay.Event) input {
		l.expired(ev)
		return input{}
	})
}

func (l *epollConn) write(sd side, pieces [][]byte) (n int, err error) {
	if c := l.secure(sd); c != nil {
		if c.Write(pieces) {
			err = errBroken
		}
		for _, p := range pieces {
			n += len(p)
		}
		return n, err
	}
	return socket.Gather(uintptr(l.fd[sd]), pieces)
}

// errBroken is all that TLS says of a write that has failed.
var errBroken = errors.New("the connection is broken")

func (l *epollConn) unsentRecords(sd side) int {
	if c := l.secure(sd); c != nil {
		return c.Pending()
	}
	return 0
}

func (l *epollConn) unsent(sd side) int {
	n := socket.Unsent(uintptr(l.fd[sd]))
	if n >= 0 {
		n += l.unsentRecords(sd)
	}
	return n
}

func (l *epollConn) finish(sd side) bool {
	if c := l.secure(sd); c != nil {
		if c.CloseNotify(); c.Pending() > 0 {
			return true // who does not even take that is closed a little later
		}
	}
	socket.Finish(uintptr(l.fd[sd]))
	return true
}

func (l *epollConn) shut(sd side) {
	socket.Close(uintptr(l.fd[sd])) // which ends its registration
	l.fd[sd], l.interest[sd] = -1, 0
	if sd == server {
		l.tls = nil
	}
}

func (l *epollConn) update(now, due time.Duration) error {
	for sd := client; sd <= server; sd++ {
		o := &l.sides[sd]
		if !o.attached || o.shut {
			continue
		}
		// What is not to be read is often to be read again before anything
		// has come; ready sees to the rest.
		if want, has := l.wanted(sd), l.interest[sd]; want != has && !(quiet(want) && has == reading) {
			if err := l.watch(sd, want); err != nil {
				return err
			}
		}
	}
	w := l.w
	switch {
	case l.over:
		if l.connecting() {
			l.disconnect()
		}
		w.mu.Lock()
		w.wheel.unset(l)
		w.conns[l.index] = nil
		w.free = append(w.free, l.index)
		w.mu.Unlock()
	case due != 0 && (l.armed == 0 || l.armed > due):
		l.armed = due
		w.mu.Lock()
		w.wheel.set(l, now, due)
		stopped := w.wheelStopped
		w.wheelStopped = false
		w.mu.Unlock()
		if stopped {
			w.wakeUp()
		}
	}
	return nil
}

// reading is what epoll reports of a side that is only read.
const reading = unix.EPOLLIN | unix.EPOLLRDHUP

// quiet tells whether a side waits for nothing, or only for its hang-up.
func quiet(want uint32) bool { return want == unix.EPOLLONESHOT || want == unix.EPOLLRDHUP }

// wanted is what the side waits for. A client that is not read may hang up all
// the same, which is said once.
func (l *epollConn) wanted(sd side) (want uint32) {
	switch {
	case l.mayRead(sd) && !l.refeed[sd]:
		want = reading
	case sd == client && !l.left:
		want = unix.EPOLLRDHUP
	}
	if len(l.sides[sd].pending()) > 0 || l.unsentRecords(sd) > 0 || l.buffered(sd) && l.mayRead(sd) {
		want |= unix.EPOLLOUT // what is buffered needs a turn, epoll knows nothing of it
	}
	if want == 0 {
		want = unix.EPOLLONESHOT
	}
	return want
}

// watch registers sd. The kernel refuses that when fs.epoll.max_user_watches is
// reached, or without memory: nothing would be heard of sd.
func (l *epollConn) watch(sd side, want uint32) error {
	op := unix.EPOLL_CTL_MOD
	if l.interest[sd] == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	if err := l.w.ctl(l.w.ep, op, int(l.fd[sd]), unix.EpollEvent{Events: want | unix.EPOLLET, Fd: int32(l.index<<1 | uint32(sd)), Pad: l.generation}); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.interest[sd] = want
	return nil
}

// epollCtl is unix.EpollCtl by value, which keeps the event off the heap where a
// test puts something else in its place.
func epollCtl(ep, op, fd int, event unix.EpollEvent) error { return unix.EpollCtl(ep, op, fd, &event) }

// Control calls f with the descriptor of a side, in tests.
func (l *epollConn) Control(sd side, f func(fd uintptr)) { f(uintptr(l.fd[sd])) }
