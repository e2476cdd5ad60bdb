package loop

import (
	"context"
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
// its own. A session belongs to one worker. Its descriptors are taken out of the Go
// runtime's poller, which would also wake up for them.
//
// The descriptors are edge-triggered: the kernel reports once that there is something,
// which costs less than a report at each wait. A session gets one read for each event, so
// that a session that floods does not keep others waiting. When the read may have left
// something, and when a side is to be read again, the descriptor is registered once more,
// which makes the kernel report anew. A short read leaves nothing.
type epoll struct {
	clock      func() time.Duration
	ctl        func(ep, op, fd int, event unix.EpollEvent) error // not nil: instead of epollCtl, in tests
	begin      sync.Once
	err        error
	workers    []*worker      // one for each processor
	running    sync.WaitGroup // of workers
	nextWorker atomic.Uint32
	keepAlive  time.Duration

	looking sync.Mutex    // guards what follows
	pollFDs []unix.PollFd // the epoll descriptors of workers
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
	e.pollFDs = pollFDs(e.workers)
	for _, w := range e.workers {
		e.running.Go(w.run)
	}
}

// linkPeers tells each worker of the others.
func (e *epoll) linkPeers() {
	for _, w := range e.workers {
		for _, other := range e.workers {
			if other != w {
				w.others = append(w.others, other)
			}
		}
		w.pollFDs = pollFDs(w.others)
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

// fallback is the loop for connections that epoll cannot drive.
func (e *epoll) fallback() Loop { return goroutines{e.clock} }

// A socketListener accepts sockets without package net, which would put each into the
// runtime's poller. They inherit the options that Listen sets.
type socketListener struct {
	net.Listener
	file *os.File // to wait for clients, which a listener of package net does not allow
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
	l.e.LetRun() // there may be more of them without end
	return err
}

// maxAccepts is how many clients are accepted before sessions and Close have their chance.
// One costs as much as some stanzas.
const maxAccepts = 8

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

// LetRun implements Loop. To give way is not enough: the runtime's poller is asked only by
// a processor that has nothing to run, or after 10 ms.
func (e *epoll) LetRun() {
	if e.looking.TryLock() {
		wakeSleepers(e.pollFDs, e.workers)
		e.looking.Unlock()
	}
	runtime.Gosched()
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
	l := e.newConn(int32(fd), -1)
	if l.s = a.Admit(l, remote); l.s == nil {
		socket.Close(uintptr(fd))
		return
	}
	l.w.adopt(l)
	l.Post(func(ev *relay.Event) {
		l.sides[client].attached = true
		l.s.Start(ev)
	})
}

// newConn returns the connections of a session, and chooses its worker.
func (e *epoll) newConn(client, server int32) *epollConn {
	w := e.workers[int(e.nextWorker.Add(1))%len(e.workers)]
	ec := &epollConn{w: w, fd: [2]int32{client, server}}
	ec.conn = ec
	return ec
}

// Stop implements Loop.
func (e *epoll) Stop(ctx context.Context) {
	e.begin.Do(func() { e.err = net.ErrClosed })
	for _, w := range e.workers {
		w.stopping.Store(true)
		w.wakeUp()
	}
	ended := make(chan struct{}) // when their descriptors are closed
	go func() {
		defer close(ended)
		e.running.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// detach returns a descriptor of the socket of conn that the runtime's poller does not
// know. Without an error conn is closed; the connection itself stays open.
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

// AwaitIdle waits until no worker has anything to do, in tests. It waits twice:
// the first count may be that of a pass that had looked for events before the
// call.
func (e *epoll) AwaitIdle(await func(func() bool)) {
	for _, w := range e.workers {
		for range 2 {
			before := w.idleCount.Load()
			w.wakeUp()
			await(func() bool { return w.idleCount.Load() > before || w.stopping.Load() })
		}
	}
}
