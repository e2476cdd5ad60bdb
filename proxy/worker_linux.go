package proxy

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
