//go:build linux

package proxy

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/upstream"
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
	clock   func() time.Duration
	ctl     func(ep, op, fd int, event unix.EpollEvent) error // not nil: instead of epollCtl, in tests
	begin   sync.Once
	err     error
	workers []*worker // one for each processor
	turn    atomic.Uint32
}

// platformLoop is the loop that suits the platform best.
func platformLoop(clock func() time.Duration) loop { return &epoll{clock: clock} }

func (e *epoll) launch() { e.begin.Do(e.startWorkers) }

func (e *epoll) startWorkers() {
	for range runtime.GOMAXPROCS(0) {
		k, err := newWorker(e.clock)
		if err != nil {
			e.err = err
			break
		}
		if e.ctl != nil {
			k.ctl = e.ctl
		}
		e.workers = append(e.workers, k)
	}
	e.acquaint()
	for _, k := range e.workers {
		go k.run()
	}
}

// acquaint tells each worker of the others.
func (e *epoll) acquaint() {
	for _, k := range e.workers {
		for _, other := range e.workers {
			if other != k {
				k.others = append(k.others, other)
				k.asleep = append(k.asleep, unix.PollFd{Fd: int32(other.ep), Events: unix.POLLIN})
			}
		}
		k.nudgeAfter = nudgeAfter * time.Duration(max(1, len(k.others)/4))
	}
}

func (e *epoll) listen(l net.Listener, g *Gateway) listener {
	if l, ok := l.(interface{ File() (*os.File, error) }); ok && e.err == nil {
		if file, err := l.File(); err == nil {
			if raw, err := file.SyscallConn(); err == nil {
				if l.(net.Listener).Addr().Network() == "tcp" {
					raw.Control(func(fd uintptr) { socket.KeepAlive(fd, upstream.KeepAlive.Idle) })
				}
				return &socketListener{l.(net.Listener), file, raw, e, g}
			}
			file.Close()
		}
	}
	if e.err != nil {
		g.log(slog.LevelWarn, "the epoll loop does not start: sessions get goroutines, which cost more; raise the limit of open files", []slog.Attr{slog.String("error", e.err.Error())})
	}
	return goroutines{}.listen(l, g)
}

// A socketListener takes sockets as they are: what package net would do for
// each, a worker would undo. They inherit what listen sets.
type socketListener struct {
	net.Listener
	file *os.File // a listener of package net has no way to wait
	raw  syscall.RawConn
	e    *epoll
	g    *Gateway
}

func (l *socketListener) close() {
	l.Close()
	l.file.Close()
}

func (l *socketListener) accept() (err error) {
	if l.raw.Read(func(fd uintptr) bool {
		err = l.acceptMany(fd)
		return err != syscall.EAGAIN
	}) != nil {
		return net.ErrClosed
	}
	return err
}

// maxAccepts is how many clients are taken before close may get in between.
const maxAccepts = 64

func (l *socketListener) acceptMany(listener uintptr) error {
	for range maxAccepts {
		fd, client, err := socket.Accept(listener)
		if err != nil {
			return err
		}
		if s := l.g.admit(client); s == nil {
			socket.Close(fd)
		} else {
			l.e.drive(s, int(fd))
			l.g.started(s)
		}
	}
	return nil
}

func (e *epoll) start(s *session, conn net.Conn) {
	e.launch()
	fd, err := -1, e.err
	if err == nil {
		fd, err = detach(conn)
	}
	if err != nil {
		// No socket, or no descriptor left to take it over with.
		goroutines{}.start(s, conn)
		return
	}
	e.drive(s, fd)
}

// drive is start with a descriptor.
func (e *epoll) drive(s *session, fd int) {
	k := e.workers[int(e.turn.Add(1))%len(e.workers)]
	l := &slot{k: k, fd: [2]int32{int32(fd), -1}}
	l.s, l.t = s, l
	s.link = l
	k.adopt(l)
	l.event(func(s *session, w *workspace) {
		l.sides[client].attached = true
		s.begin(w)
	})
}

func (e *epoll) stop() {
	e.begin.Do(func() { e.err = net.ErrClosed })
	for _, k := range e.workers {
		k.stopping.Store(true)
		k.wakeUp()
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
