//go:build linux

package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/polltls"
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

// A worker is one thread's worth of sessions.
type worker struct {
	ep, poke int // the epoll descriptor, and an eventfd that wakes it
	sleeper  sleeper
	clock    func() time.Duration
	ctl      func(ep, op, fd int, event unix.EpollEvent) error // epollCtl
	stopping atomic.Bool
	sleeps   atomic.Bool   // waits for the runtime's poller, or is about to
	rests    atomic.Uint64 // how often there was nothing more to do; tests wait for that

	// Of the goroutine run.
	ws     workspace
	buf    []byte
	events [128]unix.EpollEvent
	ready  [128]*slot
	left   []*slot // what was in later
	due    []*slot
	skip   int // how often linger is left out
	doubt  int // what skip becomes when linger is in vain

	// Of the goroutine run, too; for nudge.
	others     []*worker
	asleep     []unix.PollFd // the epoll descriptors of others
	nudgeAfter time.Duration
	nudged     time.Duration // when it last looked at them, or else woke up; zero before its first turn

	mu         sync.Mutex // guards what follows; taken after hold.mu
	slots      []*slot
	free       []uint32 // indexes into slots
	later      []*slot  // whose input one wake-up was not enough for
	generation int32
	wheel      wheel
	idle       bool // run sleeps and does not watch the wheel
	stopped    bool
}

// pokeID is the epoll data of worker.poke; no slot has it.
const pokeID = -1

func newWorker(clock func() time.Duration) (*worker, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	poke, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, poke, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: pokeID})
	}
	if err != nil {
		unix.Close(ep)
		return nil, err
	}
	k := &worker{ep: ep, poke: poke, clock: clock, ctl: epollCtl, buf: make([]byte, largeRead)}
	k.sleeper, err = newSleeper(ep)
	return k, err
}

// adopt gives l a place, which is how events find it.
func (k *worker) adopt(l *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.generation++
	l.generation = k.generation
	if n := len(k.free); n > 0 {
		l.index = k.free[n-1]
		k.free = k.free[:n-1]
	} else {
		l.index = uint32(len(k.slots))
		k.slots = append(k.slots, nil)
	}
	k.slots[l.index] = l
}

// wakeUp makes run look around, unless it has ended: then the number of poke
// may belong to somebody's socket.
func (k *worker) wakeUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		one := [8]byte{7: 1}
		unix.Write(k.poke, one[:])
	}
}

func (k *worker) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	k.sleeper.file.Close()
	unix.Close(k.poke)
}

// run handles events until the worker is stopped.
func (k *worker) run() {
	defer k.close()
	turns := k.turns // made once
	for !k.stopping.Load() {
		k.sleeper.wait(turns)
	}
}

// turns handles what there is to do, until there is nothing more for now: then
// it returns false, and is called again when there is.
//
// It need not look whether there is nothing more: whatever comes after a look
// makes the poller call again. Only what an earlier look has shown and a turn
// has left is not told twice.
func (k *worker) turns(uintptr) (stop bool) {
	k.sleeps.Store(false)
	k.nudged = 0
	for n := k.look(); ; {
		more := k.turn(n)
		if k.stopping.Load() {
			return true
		}
		k.nudge()
		if more {
			n = k.look()
		} else if n = k.linger(); n == 0 {
			break
		}
	}
	k.mu.Lock()
	next, d := k.wheel.next, k.wheel.wait(k.ws.now)
	k.idle = d < 0
	k.mu.Unlock()
	k.sleeper.until(next, d)
	k.rests.Add(1)
	k.sleeps.Store(true)
	return false
}

// nudgeAfter is how long others may wait for a worker that is busy. It is
// longer where there are many, so that looking at them all costs little.
const nudgeAfter = 100 * time.Microsecond

// nudge wakes the workers that sleep although there are events for them. The
// runtime's poller should; but the thread that waited for it may be the one
// that runs this worker now, and its scheduler waits again only when that has
// nothing more to do, or its monitor comes by: after 10 ms.
func (k *worker) nudge() {
	switch {
	case len(k.others) == 0:
		return
	case k.nudged == 0:
		k.nudged = k.ws.now
		return
	case k.ws.now-k.nudged < k.nudgeAfter:
		return
	}
	k.nudged = k.ws.now
	if n, err := unix.Poll(k.asleep, 0); n <= 0 || err != nil {
		return
	}
	for i, other := range k.others {
		if k.asleep[i].Revents != 0 && other.sleeps.Load() {
			other.sleeper.wake()
		}
	}
}

const (
	// lingerLooks is how often linger looks: for about ten microseconds,
	// which is what a thread that falls asleep and is woken costs.
	lingerLooks = 64
	maxDoubt    = 1023
)

// linger looks for events that come at once: an answer to what was just
// written costs less so, and is relayed in a quarter of the time. Where nothing
// comes that soon, it is soon left out nearly always.
func (k *worker) linger() (n int) {
	if k.skip > 0 {
		k.skip--
		return 0
	}
	for range lingerLooks {
		if n = k.look(); n > 0 {
			k.doubt /= 2
			return n
		}
	}
	k.doubt = min(2*k.doubt+1, maxDoubt)
	k.skip = k.doubt
	return 0
}

// turn handles n events and what is due. It reports whether there may be more
// to do.
func (k *worker) turn(n int) (more bool) {
	k.ws.now = k.clock()
	k.mu.Lock()
	for i := range k.events[:n] {
		// An event may be older than the end of its session.
		k.ready[i] = nil
		if ev := &k.events[i]; ev.Fd != pokeID {
			if l := k.slots[uint32(ev.Fd)>>1]; l != nil && l.generation == ev.Pad {
				k.ready[i] = l
			}
		}
	}
	k.due = k.wheel.advance(k.ws.now, k.due[:0])
	k.left, k.later = k.later, k.left[:0]
	k.mu.Unlock()

	more = n == len(k.events)
	for i := range k.events[:n] {
		ev := &k.events[i]
		if l := k.ready[i]; l != nil {
			more = l.ready(side(ev.Fd&1), ev.Events) || more
		} else if ev.Fd == pokeID {
			var b [8]byte
			unix.Read(k.poke, b[:])
		}
		k.ready[i] = nil
	}
	for i, l := range k.left {
		l.goOn()
		k.left[i] = nil
	}
	for i, l := range k.due {
		l.expired()
		k.due[i] = nil
	}
	return more
}

// goOnLater makes run call goOn of l, after the others have had their turn.
func (k *worker) goOnLater(l *slot) {
	k.mu.Lock()
	k.later = append(k.later, l)
	k.mu.Unlock()
	k.wakeUp()
}

// look returns the number of events there are.
func (k *worker) look() int {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(k.ep), uintptr(unsafe.Pointer(&k.events[0])), uintptr(len(k.events)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// A sleeper waits for the events of a worker by the runtime's poller: its epoll
// descriptor can be waited for like any other. A thread that sleeps in a
// system call of its own would have the scheduler's monitor run all the time,
// which costs more than a stanza.
type sleeper struct {
	file *os.File
	raw  syscall.RawConn
	tick time.Duration // that the deadline of file stands for
}

func newSleeper(ep int) (s sleeper, err error) {
	if err := unix.SetNonblock(ep, true); err != nil {
		return s, err
	}
	s.file = os.NewFile(uintptr(ep), "epoll")
	s.raw, err = s.file.SyscallConn()
	return s, err
}

// wait calls f, and again whenever there are events, until f returns true or
// the moment that was set by until.
func (s *sleeper) wait(f func(uintptr) bool) {
	if s.raw.Read(f) != nil {
		s.tick = -1 // the deadline is over; each call of Read needs a new one
		s.file.SetReadDeadline(time.Time{})
	}
}

// wake makes wait call its function at once. Anybody may call it.
func (s *sleeper) wake() { s.file.SetReadDeadline(time.Unix(1, 0)) }

// until makes wait end at tick, which is d away. With a negative d it does not
// end.
func (s *sleeper) until(tick, d time.Duration) {
	if d < 0 {
		tick = 0
	}
	if tick == s.tick {
		return
	}
	s.tick = tick
	deadline := time.Time{}
	if tick != 0 {
		deadline = time.Now().Add(d)
	}
	s.file.SetReadDeadline(deadline)
}

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
