package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The fair scenario: what quiet sessions notice of others in the same process.

const (
	fairQuiet = 50                    // sessions whose round trips count
	fairEvery = 20 * time.Millisecond // between round trips of one of them
	fairDeaf  = 10                    // sessions that are written to and never read
	fairRound = 2 * time.Second
)

// quiet has each session exchange a stanza at its turn and returns how long
// that took, in order of size.
func (s *system) quiet(l *load, d time.Duration) (trips []time.Duration, err error) {
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer unix.Close(timer)
	tick := unix.NsecToTimespec(int64(fairEvery / fairQuiet))
	if err := unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: tick, Value: tick}, nil); err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return nil, err
	}
	var (
		events    [128]unix.EpollEvent
		turn      uint64 // of the next session
		busy      = make([]bool, fairQuiet)
		left      int // how many are busy
		end       = time.Now().Add(d)
		exchanges = func(i int, side int) error {
			p := s.pairs[i]
			done, err := p.receive(l, side)
			if err != nil || !done {
				return err
			}
			p.seq[p.dir]++
			p.sent, p.got, p.ended = 0, 0, 0
			if p.dir ^= 1; p.dir == down {
				return s.send(l, p)
			}
			trips = append(trips, time.Since(p.since))
			busy[i] = false
			left--
			return nil
		}
	)
	for over := false; !over || left > 0; {
		n, err := unix.EpollWait(s.epoll, events[:], 10000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("%s: a stanza is lost: %w", s.name, err)
		}
		for _, e := range events[:n] {
			if e.Fd >= 0 {
				if err := exchanges(int(e.Fd/2), int(e.Fd&1)); err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				continue
			}
			var b [8]byte
			unix.Read(timer, b[:])
			if over = time.Now().After(end); over {
				continue
			}
			// Who has not got the last answer waits for the next turn.
			for range min(binary.NativeEndian.Uint64(b[:]), fairQuiet) {
				i := turn % fairQuiet
				turn++
				if p := s.pairs[i]; !busy[i] {
					busy[i] = true
					left++
					p.dir, p.sent, p.got, p.ended, p.since = up, 0, 0, 0, time.Now()
					if err := s.send(l, p); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	slices.Sort(trips)
	return trips, nil
}

// A disturbance is one session that floods and those that are deaf, driven by
// a thread of its own.
type disturbance struct {
	pairs []*pair // the first one floods
	load  *load
	epoll int
	quit  chan struct{}
	done  chan error
	bytes int // that came back to the one that floods
}

// disturb begins to.
func (s *system) disturb() (_ *disturbance, err error) {
	d := &disturbance{load: s.load(256, 200), quit: make(chan struct{}), done: make(chan error, 1)}
	if d.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for i := range 1 + fairDeaf {
		p, err := s.open(login...)
		if err != nil {
			return nil, err
		}
		d.pairs = append(d.pairs, p)
		for side, fd := range p.fd {
			if err := unix.SetNonblock(fd, true); err != nil {
				return nil, err
			}
			// Edges: there is no more to do for one that is full.
			event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(i*2 + side)}
			if i > 0 && side == client {
				continue // never read
			}
			if err := unix.EpollCtl(d.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
				return nil, err
			}
		}
	}
	go d.run()
	return d, nil
}

// stop ends it and returns how many bytes of the flood came back.
func (d *disturbance) stop() (int, error) {
	close(d.quit)
	err := <-d.done
	for _, p := range d.pairs {
		for _, fd := range p.fd {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		}
	}
	unix.Close(d.epoll)
	time.Sleep(200 * time.Millisecond) // the farewells
	return d.bytes, err
}

func (d *disturbance) run() {
	runtime.LockOSThread()
	unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	var (
		events [32]unix.EpollEvent
		sent   = make([]int, len(d.pairs)) // bytes of the current batch
		bufs   = [2][]byte{make([]byte, 64<<10), make([]byte, 64<<10)}
		back   []byte // what the server still has to send back, in its buffer
		err    error
	)
	write := func(p int, side int) (more bool) {
		data := d.load.send[side].data
		n, e := unix.Write(d.pairs[p].fd[side], data[sent[p]:])
		if e != nil && e != unix.EAGAIN && e != unix.EINTR {
			err = fmt.Errorf("disturbance %d: %w", p, e)
		}
		sent[p] = (sent[p] + max(n, 0)) % len(data)
		return n > 0
	}
	read := func(side int) []byte {
		n, e := unix.Read(d.pairs[0].fd[side], bufs[side])
		if n == 0 || e != nil && e != unix.EAGAIN && e != unix.EINTR {
			err = fmt.Errorf("the flood ended on side %d: %w", side, e)
		}
		return bufs[side][:max(n, 0)]
	}
	for more := false; err == nil; {
		select {
		case <-d.quit:
			d.done <- nil
			return
		default:
		}
		wait := 10
		if more {
			wait = 0
		}
		n, e := unix.EpollWait(d.epoll, events[:], wait)
		if e != nil && e != unix.EINTR {
			err = e
		}
		for _, ev := range events[:max(n, 0)] {
			for p := int(ev.Fd / 2); p > 0 && write(p, server); {
			}
		}
		// The flood: the client writes and reads, the server sends back.
		more = write(0, client)
		got := len(read(client))
		d.bytes += got
		if len(back) == 0 {
			back = read(server)
			more = more || len(back) > 0
		}
		more = more || got > 0
		if len(back) > 0 {
			n, e := unix.Write(d.pairs[0].fd[server], back)
			if e != nil && e != unix.EAGAIN && e != unix.EINTR {
				err = e
			}
			back = back[max(n, 0):]
			more = more || n > 0
		}
	}
	d.done <- err
}

// raise lets the processes that this thread starts from now on go before all
// others on the machine, and this thread before them: beside a flood, two
// processors would show the kernel's scheduler more than anything else. The
// flood takes what is left. Without the privilege all are equal.
func raise() (self func()) {
	runtime.LockOSThread()
	set := func(policy uint32, priority uint32) {
		unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
	}
	set(unix.SCHED_RR, 1)
	return func() { set(unix.SCHED_FIFO, 2) }
}

func runFair(b *bench, r *recorder) error {
	raiseSelf := raise()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))  // neither thread waits for the other,
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nor for the collector
	systems, err := startKinds(
		kind{name: gate, xmpp: true, start: func(u int) (*process, int, error) {
			return startGateway(b.dir, "", b.gateway, u, "GOMAXPROCS=")
		}},
		kind{name: "HAProxy TCP", start: func(u int) (*process, int, error) {
			return startHAProxy(b.dir, "", haproxy{mode: "tcp", threads: runtime.NumCPU()}, u)
		}},
	)
	defer closeAll(systems)
	if err != nil {
		return err
	}
	for _, s := range systems {
		if err := s.grow(fairQuiet); err != nil {
			return err
		}
	}
	raiseSelf()
	other := map[*system]*system{systems[0]: systems[1], systems[1]: systems[0]}
	p99 := map[string]map[*system][]float64{}
	for round := -1; round < b.rounds(15, 4); round++ { // the first one is not counted
		for _, s := range shuffled(systems) {
			l := s.load(1, 200)
			for _, c := range []struct {
				name string
				by   *system
			}{{"alone", nil}, {"disturbed", s}, {"the other one disturbed", other[s]}} {
				var d *disturbance
				var err error
				if c.by != nil {
					if d, err = c.by.disturb(); err != nil {
						return err
					}
				}
				trips, err := s.quiet(l, fairRound)
				if err != nil {
					return err
				}
				flood := 0
				if d != nil {
					if flood, err = d.stop(); err != nil {
						return fmt.Errorf("%s: %w", c.by.name, err)
					}
				}
				if round < 0 {
					continue
				}
				r.add("round trip p50, "+c.name, "µs", round, s.name, micros(trips[len(trips)/2]))
				at99 := micros(trips[len(trips)*99/100])
				r.add("round trip p99, "+c.name, "µs", round, s.name, at99)
				if c.by == s {
					r.add("the flood that came back", "MB/s", round, s.name, float64(flood)/1e6/fairRound.Seconds())
				}
				if p99[c.name] == nil {
					p99[c.name] = map[*system][]float64{}
				}
				p99[c.name][s] = append(p99[c.name][s], at99)
			}
		}
	}
	median := func(name string, s *system) float64 { return spreadOf(p99[name][s])[1] }
	for _, s := range systems {
		r.add("p99 disturbed to alone", "ratio of medians", 0, s.name, median("disturbed", s)/median("alone", s))
	}
	for _, s := range systems {
		r.add("p99 with the other one disturbed to alone", "ratio of medians", 0, s.name, median("the other one disturbed", s)/median("alone", s))
	}
	return nil
}
