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
	sleeps     atomic.Bool   // run waits for the runtime's poller, or is about to
	idleCount  atomic.Uint64 // how often run had nothing more to do; for tests

	// Used by the goroutine of run only.
	ev     relay.Event
	buf    []byte
	events [128]unix.EpollEvent
	ready  [128]*epollConn
	again  []*epollConn // what was in later
	ran    int          // how many of again have run
	due    []*epollConn // what the wheel fires

	// Used by wakeStalled, which run calls.
	others           []*worker
	pollFDs          []unix.PollFd // the epoll descriptors of others
	wakeStalledAfter time.Duration
	checkedOthers    time.Duration // when it last checked them; zero right after waking up

	mu         sync.Mutex // guards what follows; taken after driver.mu
	conns      []*epollConn
	free       []uint32     // indexes into conns
	later      []*epollConn // to run once more, after the others
	generation int32
	wheel      wheel
	wakesAt    uint32 // the tick until which run sleeps; zero while it is awake
	stopped    bool
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
	w := &worker{ep: ep, wakeFD: wakeFD, clock: clock, keepAlive: keepAlive, ctl: epollCtl, buf: make([]byte, relay.ReadSize)}
	w.sleeper, err = newSleeper(ep)
	return w, err
}

// adopt gives l an index, by which events find it.
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

// wakeUp wakes run. After run has ended it does nothing: another file may have the number
// of wakeFD by then.
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

// handleAll handles events until there are none. It returns false then, and the poller
// calls it again when there are new ones; true means that the worker stops.
//
// It does not poll for a while before it returns, hoping for a reply: servers and clients
// that sleep themselves answer too late for that.
//
// No final check is needed: the epoll descriptor is edge-triggered, so later events call
// handleAll again. Only events that were reported and not handled must be remembered (more).
func (w *worker) handleAll(uintptr) (stop bool) {
	w.sleeps.Store(false)
	w.checkedOthers = 0
	for more := true; more; {
		more = w.handle(w.epollWait())
		if w.stopping.Load() {
			return true
		}
		w.wakeStalled()
	}
	w.mu.Lock()
	tick := w.wheel.firesAt()
	w.wakesAt = tick
	w.mu.Unlock()
	w.sleeper.until(tick, time.Duration(tick)*wheelTick-w.ev.Now)
	w.idleCount.Add(1)
	w.sleeps.Store(true)
	return false
}

// wakeStalledAfter is how long others may wait for a worker that is busy. Where there are
// many workers it is longer, because each check asks for all of them.
const wakeStalledAfter = 100 * time.Microsecond

// wakeStalled wakes other workers that sleep although there are events for them. The
// runtime's poller may be late: the thread that polled may be the one that runs this
// worker now. Nobody polls then until this worker has nothing to do or the scheduler's
// monitor polls, after 10 ms.
func (w *worker) wakeStalled() {
	switch {
	case len(w.others) == 0:
		return
	case w.checkedOthers == 0:
		w.checkedOthers = w.ev.Now
		return
	case w.ev.Now-w.checkedOthers < w.wakeStalledAfter:
		return
	}
	w.checkedOthers = w.ev.Now
	wakeSleepers(w.pollFDs, w.others)
}

// pollFDs are the epoll descriptors of workers.
func pollFDs(workers []*worker) (fds []unix.PollFd) {
	for _, w := range workers {
		fds = append(fds, unix.PollFd{Fd: int32(w.ep), Events: unix.POLLIN})
	}
	return fds
}

// wakeSleepers wakes those of workers that sleep although there are events for them. fds are
// their pollFDs.
func wakeSleepers(fds []unix.PollFd, workers []*worker) {
	if n, err := unix.Poll(fds, 0); n <= 0 || err != nil {
		return
	}
	for i, w := range workers {
		if fds[i].Revents != 0 && w.sleeps.Load() {
			w.sleeper.wake()
		}
	}
}

// Sessions for which nothing has come, but which are due or are to run once more, have so
// many turns before events are looked for again, or as many as fit into so much time: to look
// after each of them would cost as much as a ping, and an end costs ten times that.
const (
	fewTurns = 16
	turnTime = 100 * time.Microsecond
)

// handle handles n events, and some of what is due and of what was to run later. It reports
// whether more of that is left, or there may be more events that were reported already.
//
// Clients that have come at the same time and say nothing end at the same time, and sessions
// for which something has come must not wait for all of them. Nor must timers wait for ever
// while much is to be relayed: as many fire as there are events.
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
	if w.ran == len(w.again) {
		w.again, w.later, w.ran = w.later, w.again[:0], 0
	}
	w.wakesAt = 0
	turns := w.turnsLeft()
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
	if turns {
		more = w.takeTurns(n) || more
	}
	return more
}

// turnsLeft reports whether a session is due or is to run once more. The caller holds mu.
func (w *worker) turnsLeft() bool {
	_, due := w.wheel.advance(w.ev.Now, nil, 0)
	return due || w.ran < len(w.again) || len(w.later) > 0
}

// takeTurns runs sessions that are due or are to run once more, n of each and a few more if
// there is time for them. It reports whether any are left.
func (w *worker) takeTurns(n int) bool {
	began := w.clock()
	for turns := 1; w.turn() && (turns < n || turns < fewTurns && w.clock()-began < turnTime); turns++ {
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.turnsLeft()
}

// turn runs a session once more and fires a timer. It reports false if there was neither.
func (w *worker) turn() bool {
	w.mu.Lock()
	w.due, _ = w.wheel.advance(w.ev.Now, w.due[:0], 1)
	w.mu.Unlock()
	again := w.ran < len(w.again)
	if again {
		l := w.again[w.ran]
		w.again[w.ran] = nil
		w.ran++
		l.runAgain()
	}
	for i, l := range w.due {
		w.due[i] = nil
		l.fired()
	}
	return again || len(w.due) > 0
}

// runLater makes run call l.runAgain after the events of other sessions.
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

// A sleeper waits for the events of a worker with the runtime's poller: an epoll
// descriptor can be waited for like any other. A thread that slept in epoll_wait itself
// would keep the scheduler's monitor running, which costs more than a stanza.
type sleeper struct {
	file *os.File
	raw  syscall.RawConn
	tick uint32 // that at which the deadline of file is set; zero when it has to be set anew
}

func newSleeper(ep int) (s sleeper, err error) {
	if err := unix.SetNonblock(ep, true); err != nil {
		return s, err
	}
	s.tick = never
	s.file = os.NewFile(uintptr(ep), "epoll")
	s.raw, err = s.file.SyscallConn()
	return s, err
}

// wait calls f, and again whenever there are events, until f returns true or
// the moment that until has set.
func (s *sleeper) wait(f func(uintptr) bool) {
	if s.raw.Read(f) != nil {
		s.tick = 0 // the deadline has passed; the next Read needs a new one
		s.file.SetReadDeadline(time.Time{})
	}
}

// wake makes wait return, so that its function is called at once. Any goroutine may call it.
func (s *sleeper) wake() { s.file.SetReadDeadline(time.Unix(1, 0)) }

// until makes wait return at tick, in d.
func (s *sleeper) until(tick uint32, d time.Duration) {
	if tick == s.tick {
		return
	}
	s.tick = tick
	deadline := time.Time{}
	if tick != never {
		deadline = time.Now().Add(d)
	}
	s.file.SetReadDeadline(deadline)
}
