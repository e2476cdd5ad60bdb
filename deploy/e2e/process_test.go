package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a child in its own process group. Its output is kept, so that a failing test can show it.
type process struct {
	name string
	cmd  *exec.Cmd
	log  transcript
	done chan struct{} // closed when the child has been reaped
}

// startProcess starts cmd in a process group of its own; the kernel kills it should the test binary die.
func startProcess(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold on to the pipe
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the whole group at once.
func (p *process) kill() {
	syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
}

// terminate asks with SIGTERM and reports how the process ended; after the limit it kills.
func (p *process) terminate(limit time.Duration) error {
	syscall.Kill(p.pid(), syscall.SIGTERM)
	select {
	case <-p.done:
		syscall.Kill(-p.pid(), syscall.SIGKILL) // stragglers of the group
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("%s: exit code %d after SIGTERM", p.name, code)
		}
		return nil
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("%s: still running %v after SIGTERM", p.name, limit)
	}
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// awaitReady polls until ready returns nil; the error carries the log.
func (p *process) awaitReady(limit time.Duration, ready func() error) error {
	err := poll(limit, func() error {
		if p.exited() {
			return errStop{fmt.Errorf("%s exited: %v", p.name, p.cmd.ProcessState)}
		}
		return ready()
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w\n%s", p.name, err, p.log.tail(0))
	}
	return nil
}

// transcript collects output; safe for concurrent use.
type transcript struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *transcript) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *transcript) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Len()
}

// tail returns what was written after the first from bytes, at most the last 16 KiB of it.
func (l *transcript) tail(from int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	const most = 16 << 10
	s := l.b.String()[from:]
	if len(s) > most {
		s = "[...]" + s[len(s)-most:]
	}
	return s
}

// errStop ends a poll before its time.
type errStop struct{ error }

// poll calls f every few milliseconds until it returns nil or an errStop; its last error is returned at the time limit.
func poll(limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	pause := time.Millisecond
	for {
		err := f()
		if err == nil {
			return nil
		}
		if stop := (errStop{}); errors.As(err, &stop) {
			return stop.error
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %v: %w", limit, err)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// The ports of servers. The system gives those above to clients, also between the moment when a port is found free and
// that when a server takes it.
const firstPort, lastPort = 12000, 31999

var portCount atomic.Uint32

// freePorts returns n ports that nothing listens on, on either loopback address, and that no other call returns.
func freePorts(n int) (ports []int, err error) {
	for range lastPort - firstPort {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + int(uint32(os.Getpid())*64+portCount.Add(1))%(lastPort-firstPort+1)
		if err = free(port); err == nil {
			ports = append(ports, port)
		}
	}
	return nil, fmt.Errorf("no free ports: %w", err)
}

func free(port int) error {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// accepts reports whether something accepts TCP connections at addr.
func accepts(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
