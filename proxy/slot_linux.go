package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/polltls"
	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/upstream"
)

// A slot is a link of the epoll loop.
type slot struct {
	hold
	k          *worker
	index      uint32
	generation int32         // tells this session from an earlier one at index
	fd         [2]int32      // -1 for none; that of the server is no connection before it is attached
	interest   [2]uint32     // what epoll reports; zero for a descriptor that is not registered
	tls        *polltls.Conn // of the server; nil without
	alarm      time.Duration // what the wheel was last set to; zero when it has fired
	win        [2]window
	refeed     [2]bool // the window holds bytes that the session would not take yet
	large      [2]bool // what comes is larger than usual

	// Of the wheel, guarded by worker.mu.
	fires         uint32 // the tick at which it does; zero when it is not set
	before, after *slot
}

func (l *slot) event(f func(*session, *workspace)) {
	l.hold.event(func(s *session, w *workspace) {
		f(s, w)
		l.settle(w)
		l.again(w)
	})
}

func (l *slot) post(f func(*session, *workspace)) { l.event(f) }

func (l *slot) attach(stream *upstream.Stream) {
	var (
		fd     int
		secure *polltls.Conn
		err    error
	)
	if t, ok := stream.Conn.(*tls.Conn); ok {
		secure, fd, err = polltls.Take(t, detach)
	} else {
		fd, err = detach(stream.Conn)
	}
	if err != nil {
		stream.Conn.Close()
		stream.Done()
		l.event(func(s *session, w *workspace) { s.dialFailed(w, err) })
		return
	}
	l.event(func(s *session, w *workspace) {
		if s.ending != endNone {
			socket.Close(uintptr(fd))
			stream.Done()
			return
		}
		l.fd[server], l.tls = int32(fd), secure
		l.sides[server].attached = true
		s.attached(w, stream)
		if len(stream.Early) > 0 {
			l.feed(w, server, stream.Early, true)
		}
		stream.Conn, stream.Early = nil, nil
	})
}

func (l *slot) local() netip.AddrPort { return socket.Local(uintptr(l.fd[client])) }

func (l *slot) connect(w *workspace, to net.Addr) bool {
	fd, err := socket.Connect(to, upstream.KeepAlive.Idle)
	if err == errors.ErrUnsupported || err == syscall.EAGAIN {
		return false // EAGAIN: a Unix socket whose backlog is full, which can be waited for
	}
	if err != nil {
		l.s.connected(w, err)
		return true
	}
	l.fd[server] = int32(fd)
	if socket.Connected(fd) { // the server is near
		l.connected(w)
		return true
	}
	l.s.need().cancelDial = func(cause error) {
		l.disconnect()
		l.s.g.dialed(cause, true, l.s.g.clock()-l.s.rare.dialed)
	}
	if err := l.watch(server, unix.EPOLLOUT); err != nil {
		l.disconnect()
		l.s.rare.cancelDial = nil
		l.s.connected(w, err)
	}
	return true
}

func (l *slot) connecting() bool { return l.fd[server] >= 0 && !l.sides[server].attached }

func (l *slot) disconnect() {
	socket.Close(uintptr(l.fd[server]))
	l.fd[server], l.interest[server] = -1, 0
}

// connected tells the session the outcome of connect.
func (l *slot) connected(w *workspace) {
	err := socket.Error(uintptr(l.fd[server]))
	if err != nil {
		l.disconnect()
	} else {
		l.sides[server].attached = true
	}
	l.s.connected(w, err)
}

// ready handles what epoll reports of sd, as one event: it reads once at most.
// It reports whether epoll may have more to say that it has said already.
func (l *slot) ready(sd side, events uint32) (more bool) {
	w := &l.k.ws
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.recover(w)
	if sd == server && l.connecting() {
		l.connected(w)
		l.settle(w)
		l.again(w)
		return true
	}
	o := &l.sides[sd]
	if !o.attached || o.shut {
		return false
	}
	more = events != unix.EPOLLIN
	if sd == client && !l.turn(client) {
		// Nobody listens to it. What a server has said before it ended is
		// still delivered; this can only be what the client said to a server
		// that does not listen.
		switch {
		case events&unix.EPOLLERR != 0:
			l.eof(w, client, syscall.ECONNRESET)
		case events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0:
			l.leave(w)
		}
	}
	if events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		l.writePending(w, sd)
	}
	if events&^unix.EPOLLOUT != 0 && l.turn(sd) && !l.refeed[sd] {
		more = l.read(w, sd) || more
	} else {
		more = true
		l.settle(w)
	}
	l.again(w)
	for l.buffered(sd) && l.turn(sd) && !l.refeed[sd] && !l.gone {
		l.read(w, sd)
		l.again(w)
	}
	if more && o.attached && !o.shut {
		// What is left is reported once more. But a hang-up is reported
		// whether asked for or not, so who is not to be read is left alone.
		if want := l.wanted(sd); !quiet(want) || l.interest[sd] != want {
			if err := l.watch(sd, want); err != nil {
				l.fail(w, err)
			}
		}
	}
	return more
}

// writePending writes what sd did not take before.
func (l *slot) writePending(w *workspace, sd side) {
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
			l.wrote(w, sd, n, err)
		} else {
			l.sent(w, sd, n, err)
		}
		return
	}
	if len(pending) > 0 {
		n, err := socket.Write(uintptr(l.fd[sd]), pending)
		l.wrote(w, sd, n, err)
	}
}

// secure is the TLS of sd, nil without.
func (l *slot) secure(sd side) *polltls.Conn {
	if sd == server {
		return l.tls
	}
	return nil
}

// read reads sd once and settles. It reports whether there may be more to read.
func (l *slot) read(w *workspace, sd side) (more bool) {
	win := &l.win[sd]
	space := l.k.buf[:readSize]
	if l.large[sd] {
		space = l.k.buf
	}
	kept := 0
	if win.short() {
		kept = copy(space, win.bytes()) // and more can be read at once
	}
	behind := kept == 0 && !win.empty()
	var (
		n   int
		err error
	)
	if c := l.secure(sd); c != nil {
		// Into a window there might go less than a record.
		if n, err = c.Read(space[kept:]); err == polltls.ErrAgain {
			err = syscall.EAGAIN
		}
		more = !c.Drained()
		if behind && n > 0 {
			win.add(space[:n])
			l.feed(w, sd, win.bytes(), false)
			return more
		}
	} else {
		if behind {
			space = win.space(sd)
		}
		n, err = socket.Read(uintptr(l.fd[sd]), space[kept:])
		more = n == len(space)-kept
	}
	switch {
	case err == syscall.EAGAIN:
		l.settle(w)
	case err != nil:
		l.eof(w, sd, err)
		l.settle(w)
	case n == 0:
		l.eof(w, sd, io.EOF)
		l.settle(w)
	case behind:
		l.feed(w, sd, win.filled(n), false)
	default:
		win.release()
		l.feed(w, sd, space[:kept+n], true)
	}
	return more
}

// feed hands b to the session, settles and keeps what the session wants again.
// b is the window of sd, or borrowed.
func (l *slot) feed(w *workspace, sd side, b []byte, borrowed bool) {
	rest := l.s.receive(w, sd, b)
	// Where one read takes no whole element, larger reads save copies. It
	// would not be fair to others where it takes hundreds.
	l.large[sd] = len(rest) > readSize/4 || l.large[sd] && len(b) > readSize
	l.refeed[sd] = len(rest) > 0 && l.s.waits(sd)
	l.settle(w) // what is to be written aliases b
	switch win := &l.win[sd]; {
	case l.gone:
		if l.connecting() {
			l.disconnect()
		}
		win.release()
	case !borrowed:
		win.keep(rest)
	case len(rest) > 0:
		if l.refeed[sd] {
			win.buf = getBuffer(len(rest)) // it only becomes less
		} else {
			win.buf = getGrowing(len(rest))
		}
		win.buf.n = copy(win.buf.b, rest)
	}
}

// again feeds what had to wait for another event. What has to wait once more, for
// no other reason than that it becomes so much, lets the other sessions go first.
func (l *slot) again(w *workspace) {
	for sd := client; sd <= server; sd++ {
		for fed := false; l.refeed[sd] && l.turn(sd) && !l.gone; fed = true {
			if fed && l.s.reads(sd) {
				l.k.goOnLater(l)
				break
			}
			l.feed(w, sd, l.win[sd].bytes(), false)
		}
	}
}

// goOn is again as an event of its own.
func (l *slot) goOn() {
	w := &l.k.ws
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.recover(w)
	if !l.gone {
		l.again(w)
	}
}

func (l *slot) buffered(sd side) bool {
	c := l.secure(sd)
	return c != nil && c.Buffered()
}

func (l *slot) expired() {
	w := &l.k.ws
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.recover(w)
	if l.gone {
		return
	}
	l.alarm = 0
	l.tick(l.s, w)
	l.settle(w)
	l.again(w)
}

func (l *slot) write(sd side, pieces [][]byte) (n int, err error) {
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

func (l *slot) sealed(sd side) int {
	if c := l.secure(sd); c != nil {
		return c.Pending()
	}
	return 0
}

func (l *slot) unsent(sd side) int {
	n := socket.Unsent(uintptr(l.fd[sd]))
	if n >= 0 {
		n += l.sealed(sd)
	}
	return n
}

func (l *slot) finish(sd side) bool {
	if c := l.secure(sd); c != nil {
		if c.CloseNotify(); c.Pending() > 0 {
			return true // who does not even take that is closed a little later
		}
	}
	socket.Finish(uintptr(l.fd[sd]))
	return true
}

func (l *slot) shut(sd side) {
	socket.Close(uintptr(l.fd[sd])) // which ends its registration
	l.fd[sd], l.interest[sd] = -1, 0
	l.refeed[sd], l.large[sd] = false, false
	if sd == server {
		l.tls = nil
	}
	l.win[sd].release()
}

func (l *slot) update(now, due time.Duration) error {
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
	k := l.k
	switch {
	case l.gone:
		if l.connecting() {
			l.disconnect()
		}
		for sd := range l.win {
			l.refeed[sd] = false
			l.win[sd].release()
		}
		k.mu.Lock()
		k.wheel.unset(l)
		k.slots[l.index] = nil
		k.free = append(k.free, l.index)
		k.mu.Unlock()
	case due != 0 && (l.alarm == 0 || l.alarm > due):
		l.alarm = due
		k.mu.Lock()
		k.wheel.set(l, now, due)
		idle := k.idle
		k.idle = false
		k.mu.Unlock()
		if idle {
			k.wakeUp()
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
func (l *slot) wanted(sd side) (want uint32) {
	switch {
	case l.turn(sd) && !l.refeed[sd]:
		want = reading
	case sd == client && !l.left:
		want = unix.EPOLLRDHUP
	}
	if len(l.sides[sd].pending()) > 0 || l.sealed(sd) > 0 || l.buffered(sd) && l.turn(sd) {
		want |= unix.EPOLLOUT // what is buffered needs a turn, epoll knows nothing of it
	}
	if want == 0 {
		want = unix.EPOLLONESHOT
	}
	return want
}

// watch registers sd. The kernel refuses that when fs.epoll.max_user_watches is
// reached, or without memory: nothing would be heard of sd.
func (l *slot) watch(sd side, want uint32) error {
	op := unix.EPOLL_CTL_MOD
	if l.interest[sd] == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	if err := l.k.ctl(l.k.ep, op, int(l.fd[sd]), unix.EpollEvent{Events: want | unix.EPOLLET, Fd: int32(l.index<<1 | uint32(sd)), Pad: l.generation}); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.interest[sd] = want
	return nil
}

// epollCtl is unix.EpollCtl by value, which keeps the event off the heap where a
// test puts something else in its place.
func epollCtl(ep, op, fd int, event unix.EpollEvent) error { return unix.EpollCtl(ep, op, fd, &event) }
