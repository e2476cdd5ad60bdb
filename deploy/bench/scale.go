package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The scale scenario: what docs/scaling.md reckons with, as far as the other scenarios do not
// have it.

const (
	scaleFew  = 500
	scaleMany = 5000
)

func runScale(b *bench, r *recorder) error {
	if err := idleCost(b, r); err != nil {
		return err
	}
	return loginCost(b, r)
}

// idleCost measures what sessions cost that have logged in and only answer pings.
func idleCost(b *bench, r *recorder) error {
	s, err := newSystem(gate, true, "", func(u int) (*process, int, error) {
		return startGateway(b.dir, "", b.gateway, u, production...)
	})
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.watchListener(); err != nil {
		return err
	}
	st := &partState{}
	hold := func(d time.Duration) error {
		for end := time.Now().Add(d); time.Now().Before(end); {
			if err := s.answerPings(st, 100*time.Millisecond); err != nil {
				return err
			}
		}
		if st.Sessions < 0 {
			return fmt.Errorf("%d sessions were lost", -st.Sessions)
		}
		return nil
	}
	var kernel, user [2]float64
	for i, n := range []int{scaleFew, scaleMany} {
		if err := s.growAndAnswer(n, st); err != nil {
			return err
		}
		st.Sessions = 0 // answerPings counts those that are lost
		if err := hold(idleAfter); err != nil {
			return err
		}
		user[i] = rss(s.proc)
		if kernel[i], err = kernelMemory(); err != nil {
			return err
		}
	}
	const added = scaleMany - scaleFew
	r.add("memory of the kernel, of the two sockets of a gateway", "KiB per session", 0, gate, (kernel[1]-kernel[0])/added/2)
	r.add("memory of the gateway", "KiB per session", 0, gate, (user[1]-user[0])/added)

	for round := range b.rounds(6, 3) {
		slice := 30 * time.Second // one ping each
		count, err := countSyscalls(s.proc)
		if err != nil {
			return err
		}
		before, pongs, begin := cpu(s.proc), st.Pongs, time.Now()
		if err := hold(slice); err != nil {
			return err
		}
		took, answered := time.Since(begin), float64(st.Pongs-pongs)
		used := micros(cpu(s.proc) - before)
		calls, err := count()
		if err != nil {
			return err
		}
		r.add("idle, pings after 30 seconds", "CPU µs per session and second", round, gate, used/scaleMany/took.Seconds())
		r.add("a ping and its pong", "CPU µs", round, gate, used/answered)
		r.add("a ping and its pong, system calls", "", round, gate, calls/answered)
		two, err := twoCalls()
		if err != nil {
			return err
		}
		r.add("the two system calls that they need at least", "CPU µs", round, gate, two)
	}
	return nil
}

// growAndAnswer logs in until there are n sessions, and answers the pings of those before.
func (s *system) growAndAnswer(n int, st *partState) error {
	for begun := len(s.pairs); begun < n; begun = len(s.pairs) {
		if err := s.grow(min(begun+100, n)); err != nil {
			return err
		}
		st.Sessions += len(s.pairs) - begun
		if err := s.answerPings(st, 0); err != nil {
			return err
		}
	}
	return nil
}

// watchListener lets answerPings answer health checks as well.
func (s *system) watchListener() error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, s.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
}

// kernelMemory is what the kernel has allocated in its slabs for whatever there are many of,
// in KiB: sockets, files, inodes and what epoll keeps.
func kernelMemory() (kib float64, err error) {
	f, err := os.Open("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 4 || !socketCaches[w[0]] {
			continue
		}
		objects, _ := strconv.ParseFloat(w[1], 64)
		size, _ := strconv.ParseFloat(w[3], 64)
		kib += objects * size / 1024
	}
	if kib == 0 {
		return 0, fmt.Errorf("/proc/slabinfo has none of %v", sorted(socketCaches))
	}
	return kib, nil
}

// socketCaches are the slabs that a quiet socket has something in.
var socketCaches = map[string]bool{
	"TCP": true, "UNIX": true, "UNIX-STREAM": true, "sock_inode_cache": true, "dentry": true, "filp": true, "lsm_file_cache": true,
	"lsm_inode_cache": true, "eventpoll_epi": true, "eventpoll_pwq": true, "tcp_bind_bucket": true, "tcp_bind2_bucket": true,
	"request_sock_TCP": true, "skbuff_head_cache": true, "skbuff_small_head": true, "ep_head": true, "kmalloc-64": true, "kmalloc-96": true,
}

// A memory is what the system has, in KiB.
type memory struct{ kernel, available float64 }

func systemMemory() (m memory, err error) {
	if m.kernel, err = kernelMemory(); err != nil {
		return m, err
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	_, after, _ := strings.Cut(string(b), "MemAvailable:")
	_, err = fmt.Sscan(after, &m.available)
	return m, err
}

// countSyscalls counts the system calls of a process from now on. What it returns stops
// that and tells how many there were.
func countSyscalls(p *process) (stop func() (float64, error), err error) {
	id, err := os.ReadFile("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")
	if err != nil {
		return nil, fmt.Errorf("system calls cannot be counted: %w", err)
	}
	config, err := strconv.ParseUint(strings.TrimSpace(string(id)), 10, 64)
	if err != nil {
		return nil, err
	}
	var counters []int
	stop = func() (n float64, err error) {
		for _, fd := range counters {
			var b [8]byte
			if _, e := unix.Read(fd, b[:]); e != nil {
				err = e
			}
			n += float64(binary.NativeEndian.Uint64(b[:]))
			unix.Close(fd)
		}
		return n, err
	}
	for _, pid := range p.pids() {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		for _, t := range tasks {
			tid, _ := strconv.Atoi(filepath.Base(t))
			fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
				Type:   unix.PERF_TYPE_TRACEPOINT,
				Config: config,
				Bits:   unix.PerfBitInherit, // threads that are yet to come
			}, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err != nil {
				stop()
				return nil, fmt.Errorf("system calls cannot be counted: %w", err)
			}
			counters = append(counters, fd)
		}
	}
	return stop, nil
}

// twoCalls is the CPU time of writing a ping to a connection over loopback and of reading
// its pong, in µs.
func twoCalls() (float64, error) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	if err := unix.Listen(l, 1); err != nil {
		return 0, err
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return 0, err
	}
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(c)
	unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(c, at); err != nil {
		return 0, err
	}
	s, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	runtime.LockOSThread() // whose CPU time is taken
	defer runtime.UnlockOSThread()
	const times = 2000
	ping, pong := appendFrame(nil, opPing, false, []byte("12345678")), appendFrame(nil, opPong, true, []byte("12345678"))
	var used time.Duration
	var buf [64]byte
	for range times {
		// The gateway's end is timed, the client's is not.
		t := threadTime()
		if _, err := unix.Write(s, ping); err != nil {
			return 0, err
		}
		used += threadTime() - t
		if _, err := unix.Read(c, buf[:]); err != nil {
			return 0, err
		}
		if _, err := unix.Write(c, pong); err != nil {
			return 0, err
		}
		t = threadTime()
		if _, err := unix.Read(s, buf[:]); err != nil {
			return 0, err
		}
		used += threadTime() - t
	}
	t := threadTime()
	for range 2 * times {
		threadTime()
	}
	used -= threadTime() - t // what the clock costs
	return micros(used) / times, nil
}

// threadTime is the CPU time of the calling thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano())
}

// overTLS is the system of loginCost whose clients begin with TLS.
const overTLS = gate + ", TLS"

// loginCost measures complete logins, in plain text and with a full TLS handshake before. All
// of them stay: what a session costs that ends is in the setup scenario.
func loginCost(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	plain, err := newSystem(gate, true, "", func(u int) (*process, int, error) { return startGateway(b.dir, "0", b.gateway, u) })
	if err != nil {
		return err
	}
	defer plain.close()
	secure, err := wssSystems(b)
	defer func() { closeAll(secure) }()
	if err != nil {
		return err
	}
	secure[0].name = overTLS
	const each = 150
	for round := -1; round < b.rounds(16, 8); round++ { // the first one is not counted
		for _, s := range shuffled([]*system{plain, secure[0]}) {
			before := cpu(s.proc)
			if err := s.grow(len(s.pairs) + each); err != nil {
				return err
			}
			if round >= 0 {
				r.add("login", "CPU µs", round, s.name, micros(cpu(s.proc)-before)/each)
			}
		}
	}
	return nil
}
