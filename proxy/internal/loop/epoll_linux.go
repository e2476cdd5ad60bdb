package loop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/internal/relay"
)

// epoll is the loop of Linux: a few workers, each with an epoll descriptor of
// its own. A session belongs to one worker; while it relays it has no
// goroutine, no runtime timer and, between two wake-ups, no buffer. Its
// descriptors are taken out of the Go runtime's poller, which would wake up
// for them too.
//
// The descriptors are edge-triggered, which saves the kernel a second look at
// each of them: it says once that there is something. A session gets one read
// per wake-up, so that one that floods waits for its next turn like all others;
// when that may have left something, and when a side is to be read again, the
// kernel is asked anew by registering the descriptor once more. A short read
// leaves nothing.
type epoll struct {
	clock      func() time.Duration
	ctl        func(ep, op, fd int, event unix.EpollEvent) error // not nil: instead of epollCtl, in tests
	begin      sync.Once
	err        error
	workers    []*worker // one for each processor
	nextWorker atomic.Uint32
	keepAlive  time.Duration
}

// platformLoop is the loop that suits the platform best.
func platformLoop(clock func() time.Duration, keepAlive time.Duration) Loop {
	return &epoll{clock: clock, keepAlive: keepAlive}
}

func (e *epoll) launch() { e.begin.Do(e.startWorkers) }

func (e *epoll) startWorkers() {
	for range runtime.GOMAXPROCS(0) {
		w, err := newWorker(e.clock, e.keepAlive)
		if err != nil {
			e.err = err
			break
		}
		if e.ctl != nil {
			w.ctl = e.ctl
		}
		e.workers = append(e.workers, w)
	}
	e.linkPeers()
	for _, w := range e.workers {
		go w.run()
	}
}

// linkPeers tells each worker of the others.
func (e *epoll) linkPeers() {
	for _, w := range e.workers {
		for _, other := range e.workers {
			if other != w {
				w.others = append(w.others, other)
				w.asleep = append(w.asleep, unix.PollFd{Fd: int32(other.ep), Events: unix.POLLIN})
			}
		}
		w.wakeStalledAfter = wakeStalledAfter * time.Duration(max(1, len(w.others)/4))
	}
}

// Listen implements Loop.
func (e *epoll) Listen(l net.Listener, a Acceptor) Listener {
	e.launch()
	if l, ok := l.(interface{ File() (*os.File, error) }); ok && e.err == nil {
		if file, err := l.File(); err == nil {
			if raw, err := file.SyscallConn(); err == nil {
				if l.(net.Listener).Addr().Network() == "tcp" {
					raw.Control(func(fd uintptr) { socket.KeepAlive(fd, e.keepAlive) })
				}
				return &socketListener{l.(net.Listener), file, raw, e, a}
			}
			file.Close()
		}
	}
	if e.err != nil {
		a.Degraded(e.err)
	}
	return e.fallback().Listen(l, a)
}

// fallback is for what epoll cannot drive.
func (e *epoll) fallback() Loop { return goroutines{e.clock} }

// A socketListener takes sockets as they are: what package net would do for
// each, a worker would undo. They inherit what Listen sets.
type socketListener struct {
	net.Listener
	file *os.File // a listener of package net has no way to wait
	raw  syscall.RawConn
	e    *epoll
	a    Acceptor
}

// Close implements Listener.
func (l *socketListener) Close() {
	l.Listener.Close()
	l.file.Close()
}

// Accept implements Listener.
func (l *socketListener) Accept() (err error) {
	if l.raw.Read(func(fd uintptr) bool {
		err = l.acceptMany(fd)
		return err != syscall.EAGAIN
	}) != nil {
		return net.ErrClosed
	}
	return err
}

// maxAccepts is how many clients are taken before Close may get in between.
const maxAccepts = 64

func (l *socketListener) acceptMany(listener uintptr) error {
	for range maxAccepts {
		fd, remote, err := socket.Accept(listener)
		if err != nil {
			return err
		}
		l.e.adoptFD(int(fd), remote, l.a)
	}
	return nil
}

// Start implements Loop.
func (e *epoll) Start(c net.Conn, a Acceptor) {
	e.launch()
	remote := AddrPort(c.RemoteAddr())
	fd, err := -1, e.err
	if err == nil {
		fd, err = detach(c)
	}
	if err != nil {
		// Not a socket, or out of descriptors.
		e.fallback().Start(c, a)
		return
	}
	e.adoptFD(fd, remote, a)
}

// adoptFD starts the session of the client at fd.
func (e *epoll) adoptFD(fd int, remote netip.AddrPort, a Acceptor) {
	w := e.workers[int(e.nextWorker.Add(1))%len(e.workers)]
	l := &epollConn{w: w, fd: [2]int32{int32(fd), -1}}
	l.c = l
	if l.s = a.Admit(l, remote); l.s == nil {
		socket.Close(uintptr(fd))
		return
	}
	w.adopt(l)
	l.Post(func(ev *relay.Event) {
		l.sides[client].attached = true
		l.s.Start(ev)
	})
}

// Stop implements Loop.
func (e *epoll) Stop() {
	e.begin.Do(func() { e.err = net.ErrClosed })
	for _, w := range e.workers {
		w.stopping.Store(true)
		w.wakeUp()
	}
}

// detach takes the socket out of conn and out of the runtime's poller. conn is
// closed unless there is an error; the connection stays open.
func detach(conn net.Conn) (fd int, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dup error
	if err := raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dup != nil {
		return -1, dup
	}
	conn.Close()
	return fd, nil
}

// SetEpollCtl makes f stand in for epoll_ctl, in tests. It is called before the
// first connection.
func (e *epoll) SetEpollCtl(f func(ep, op, fd int, event unix.EpollEvent) error) { e.ctl = f }

// Rest waits until no worker has anything to do, in tests.
func (e *epoll) Rest(await func(func() bool)) {
	for _, w := range e.workers {
		before := w.idleCount.Load()
		w.wakeUp()
		await(func() bool { return w.idleCount.Load() > before || w.stopping.Load() })
	}
}
