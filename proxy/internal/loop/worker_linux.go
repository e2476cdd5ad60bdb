package loop

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/relay"
)

// A worker is one thread's worth of sessions.
type worker struct {
	ep, wakeFD int // the epoll descriptor, and an eventfd that wakes it
	sleeper    sleeper
	clock      func() time.Duration
	keepAlive  time.Duration
	ctl        func(ep, op, fd int, event unix.EpollEvent) error // epollCtl
	stopping   atomic.Bool
	sleeps     atomic.Bool   // waits for the runtime's poller, or is about to
	idleCount  atomic.Uint64 // how often there was nothing more to do; tests wait for that

	// Of the goroutine run.
	ev          relay.Event
	buf         []byte
	events      [128]unix.EpollEvent
	ready       [128]*epollConn
	left        []*epollConn // what was in later
	due         []*epollConn
	spinSkip    int // how often spin is left out
	spinBackoff int // what spinSkip becomes when spin is in vain

	// Of the goroutine run, too; for wakeStalled.
	others           []*worker
	asleep           []unix.PollFd // the epoll descriptors of others
	wakeStalledAfter time.Duration
	lookedAtOthers   time.Duration // when it last looked at them, or else woke up; zero before its first turn

	mu           sync.Mutex // guards what follows; taken after driver.mu
	conns        []*epollConn
	free         []uint32     // indexes into conns
	later        []*epollConn // whose input one wake-up was not enough for
	generation   int32
	wheel        wheel
	wheelStopped bool // run sleeps and does not watch the wheel
	stopped      bool
}

// wakeID is the epoll data of worker.wakeFD; no connection has it.
const wakeID = -1

func newWorker(clock func() time.Duration, keepAlive time.Duration) (*worker, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	wakeFD, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wakeFD, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeID})
	}
	if err != nil {
		unix.Close(ep)
		return nil, err
	}
	w := &worker{ep: ep, wakeFD: wakeFD, clock: clock, keepAlive: keepAlive, ctl: epollCtl, buf: make([]byte, largeRead)}
	w.sleeper, err = newSleeper(ep)
	return w, err
}

// adopt gives l a place, which is how events find it.
func (w *worker) adopt(l *epollConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation++
	l.generation = w.generation
	if n := len(w.free); n > 0 {
		l.index = w.free[n-1]
		w.free = w.free[:n-1]
	} else {
		l.index = uint32(len(w.conns))
		w.conns = append(w.conns, nil)
	}
	w.conns[l.index] = l
}

// wakeUp makes run look around, unless it has ended: then the number of wakeFD
// may belong to somebody's socket.
func (w *worker) wakeUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		one := [8]byte{7: 1}
		unix.Write(w.wakeFD, one[:])
	}
}

func (w *worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.sleeper.file.Close()
	unix.Close(w.wakeFD)
}

// run handles events until the worker is stopped.
func (w *worker) run() {
	defer w.close()
	handleAll := w.handleAll // made once
	for !w.stopping.Load() {
		w.sleeper.wait(handleAll)
	}
}

// handleAll handles what there is to do, until there is nothing more for now: then
// it returns false, and is called again when there is.
//
// It need not look whether there is nothing more: whatever comes after a look
// makes the poller call again. Only what an earlier look has shown and a turn
// has left is not told twice.
func (w *worker) handleAll(uintptr) (stop bool) {
	w.sleeps.Store(false)
	w.lookedAtOthers = 0
	for n := w.epollWait(); ; {
		more := w.handle(n)
		if w.stopping.Load() {
			return true
		}
		w.wakeStalled()
		if more {
			n = w.epollWait()
		} else if n = w.spin(); n == 0 {
			break
		}
	}
	w.mu.Lock()
	next, d := w.wheel.next, w.wheel.wait(w.ev.Now)
	w.wheelStopped = d < 0
	w.mu.Unlock()
	w.sleeper.until(next, d)
	w.idleCount.Add(1)
	w.sleeps.Store(true)
	return false
}

// wakeStalledAfter is how long others may wait for a worker that is busy. It is
// longer where there are many, so that looking at them all costs little.
const wakeStalledAfter = 100 * time.Microsecond

// wakeStalled wakes the workers that sleep although there are events for them. The
// runtime's poller should; but the thread that waited for it may be the one
// that runs this worker now, and its scheduler waits again only when that has
// nothing more to do, or its monitor comes by: after 10 ms.
func (w *worker) wakeStalled() {
	switch {
	case len(w.others) == 0:
		return
	case w.lookedAtOthers == 0:
		w.lookedAtOthers = w.ev.Now
		return
	case w.ev.Now-w.lookedAtOthers < w.wakeStalledAfter:
		return
	}
	w.lookedAtOthers = w.ev.Now
	if n, err := unix.Poll(w.asleep, 0); n <= 0 || err != nil {
		return
	}
	for i, other := range w.others {
		if w.asleep[i].Revents != 0 && other.sleeps.Load() {
			other.sleeper.wake()
		}
	}
}

const (
	// spinLooks is how often spin looks: for about ten microseconds,
	// which is what a thread that falls asleep and is woken costs.
	spinLooks      = 64
	maxSpinBackoff = 1023
)

// spin looks for events that come at once: an answer to what was just
// written costs less so, and is relayed in a quarter of the time. Where nothing
// comes that soon, it is soon left out nearly always.
func (w *worker) spin() (n int) {
	if w.spinSkip > 0 {
		w.spinSkip--
		return 0
	}
	for range spinLooks {
		if n = w.epollWait(); n > 0 {
			w.spinBackoff /= 2
			return n
		}
	}
	w.spinBackoff = min(2*w.spinBackoff+1, maxSpinBackoff)
	w.spinSkip = w.spinBackoff
	return 0
}

// handle handles n events and what is due. It reports whether there may be more
// to do.
func (w *worker) handle(n int) (more bool) {
	w.ev.Now = w.clock()
	w.mu.Lock()
	for i := range w.events[:n] {
		// An event may be older than the end of its session.
		w.ready[i] = nil
		if ev := &w.events[i]; ev.Fd != wakeID {
			if l := w.conns[uint32(ev.Fd)>>1]; l != nil && l.generation == ev.Pad {
				w.ready[i] = l
			}
		}
	}
	w.due = w.wheel.advance(w.ev.Now, w.due[:0])
	w.left, w.later = w.later, w.left[:0]
	w.mu.Unlock()

	more = n == len(w.events)
	for i := range w.events[:n] {
		ev := &w.events[i]
		if l := w.ready[i]; l != nil {
			more = l.ready(side(ev.Fd&1), ev.Events) || more
		} else if ev.Fd == wakeID {
			var b [8]byte
			unix.Read(w.wakeFD, b[:])
		}
		w.ready[i] = nil
	}
	for i, l := range w.left {
		l.runAgain()
		w.left[i] = nil
	}
	for i, l := range w.due {
		l.fired()
		w.due[i] = nil
	}
	return more
}

// runLater makes run call runAgain of l, after the others have had their turn.
func (w *worker) runLater(l *epollConn) {
	w.mu.Lock()
	w.later = append(w.later, l)
	w.mu.Unlock()
	w.wakeUp()
}

// epollWait returns the number of events there are.
func (w *worker) epollWait() int {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.ep), uintptr(unsafe.Pointer(&w.events[0])), uintptr(len(w.events)), 0, 0, 0)
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
