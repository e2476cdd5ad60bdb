package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxTalk bounds a hello and an answer in bytes.
const maxTalk = 256 << 10

// firstInherited is the first descriptor behind standard input, output and error.
const firstInherited = 3

// replace starts the new program and lets it take over.
func (u *upgrader) replace(ctx context.Context) (err error) {
	conn, theirs, err := talk()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	h := hello{Version: upgradeVersion, Succession: u.gateway.Succession()}
	passed := []int{theirs}
	defer func() {
		for _, fd := range passed {
			unix.Close(fd)
		}
	}()
	for _, l := range u.listeners {
		fd, err := descriptorOf(l.Listener)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Address, err)
		}
		passed = append(passed, fd)
		h.Listeners = append(h.Listeners, l.heldAddress)
	}
	process, err := u.start(passed)
	if err != nil {
		return err
	}
	u.log.Info("a new process was started to take over", "program", u.program, "pid", process.Pid)
	unix.Close(passed[0]) // so that its end is seen
	passed = passed[1:]
	ended, end := make(chan struct{}), ""
	go func() {
		defer close(ended)
		state, err := process.Wait()
		if end = state.String(); err != nil {
			end = err.Error()
		}
	}()
	kill := func() {
		process.Kill()
		<-ended
	}
	err = u.takenOverBy(ctx, conn, h, kill)
	if err == nil {
		notifySuccessor(process.Pid)
		close(u.begun)
		return nil
	}
	if kill(); !errors.As(err, new(*declined)) {
		err = fmt.Errorf("%w (the new process: %s)", err, end)
	}
	return err
}

// start starts the program with descriptors behind those for input, output and errors.
//
// It does without package os/exec, which asks an os.File for its descriptor. That makes
// the socket behind it blocking for this process, too, and the next accept would stop
// all of it.
func (u *upgrader) start(passed []int) (*os.Process, error) {
	attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}}
	for _, fd := range passed {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	for name, value := range u.environ {
		if strings.HasPrefix(name, "LISTEN_") {
			continue // is about sockets of systemd, which the new process gets from here
		}
		attr.Env = append(attr.Env, name+"="+value)
	}
	attr.Env = append(attr.Env, successorVariable+"="+strconv.Itoa(firstInherited))
	pid, err := syscall.ForkExec(u.program, os.Args[:1], attr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.program, err)
	}
	return os.FindProcess(pid)
}

// descriptorOf returns another descriptor of a listener.
func descriptorOf(l net.Listener) (fd int, err error) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); controlErr != nil {
		return -1, controlErr
	}
	return fd, err
}

// takenOverBy talks to the new process until that is in charge.
func (u *upgrader) takenOverBy(ctx context.Context, conn *net.UnixConn, h hello, kill func()) error {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	conn.SetDeadline(time.Now().Add(startTimeout))
	if err := say(conn, h); err != nil {
		return err
	}
	var a answerToHello
	if err := hear(conn, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return &declined{a.Error}
	}
	conn.SetDeadline(time.Time{})
	if a.Sessions {
		if err := u.handOver(conn, kill); err != nil {
			return err
		}
	} else {
		u.log.Warn("the new process does not take over sessions: they stay until they end, or the drain time is over", "reason", a.Why)
		u.keepSessions(conn)
	}
	return nil
}

// A declined is what the new process has found wrong.
type declined struct{ text string }

func (r *declined) Error() string { return "the new process: " + r.text }

// talk returns both ends of a connection between two processes.
func talk() (ours *net.UnixConn, theirs int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	if ours, err = unixConn(os.NewFile(uintptr(fds[0]), "connection to the new process")); err != nil {
		unix.Close(fds[1])
	}
	return ours, fds[1], err
}

// unixConn makes a connection of f, which it closes.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%s: not a Unix socket", f.Name())
	}
	return conn, nil
}

func say(conn *net.UnixConn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = conn.Write(b)
	return err
}

func hear(conn *net.UnixConn, v any) error {
	b := make([]byte, maxTalk)
	n, err := conn.Read(b)
	if err != nil {
		return err
	}
	return decode(b[:n], v)
}

// A predecessor is the process whose place this one takes. Nil is none.
type predecessor struct {
	hello
	conn  *net.UnixConn
	files []*os.File // as hello.Listeners; nil for those that are in use
}

// inherit returns the predecessor that has started this process. It removes its
// variable from environ.
func inherit(environ map[string]string) (*predecessor, error) {
	value, ok := environ[successorVariable]
	if !ok {
		return nil, nil
	}
	delete(environ, successorVariable)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < firstInherited {
		return nil, fmt.Errorf("%s=%s is not a descriptor", successorVariable, value)
	}
	conn, err := unixConn(inherited(fd))
	if err != nil {
		return nil, err
	}
	p := &predecessor{conn: conn}
	conn.SetDeadline(time.Now().Add(startTimeout))
	if err := hear(conn, &p.hello); err != nil {
		return nil, err
	}
	for i := range p.Listeners {
		p.files = append(p.files, inherited(fd+1+i))
	}
	if p.Version != upgradeVersion {
		return p, fmt.Errorf("the running program upgrades in another way (version %d, here %d): restart it instead", p.Version, upgradeVersion)
	}
	return p, nil
}

// inherited returns a file that is not passed on to further processes.
func inherited(fd int) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited descriptor "+strconv.Itoa(fd))
}

// listener returns the listener that p has for an address, or nil, and whether it belongs
// to systemd.
func (p *predecessor) listener(variable string, a listenAddress) (l net.Listener, borrowed bool, err error) {
	if p == nil {
		return nil, false, nil
	}
	i := slices.IndexFunc(p.Listeners, func(h heldAddress) bool { return h.Variable == variable && h.Address == a.String() })
	if i < 0 || p.files[i] == nil {
		return nil, false, nil
	}
	defer p.files[i].Close()
	l, err = net.FileListener(p.files[i])
	p.files[i] = nil
	borrowed = p.Listeners[i].Borrowed
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(!borrowed)
	}
	return l, borrowed, err
}

// refuse tells that this process cannot take over.
func (p *predecessor) refuse(err error) {
	if p != nil {
		_ = say(p.conn, answerToHello{Error: strings.TrimSpace(err.Error())}) // it sees the end of this process, too
		p.close()
	}
}

// serves tells that this process serves, and whether it takes sessions: why is nil then.
func (p *predecessor) serves(why error) error {
	a := answerToHello{Sessions: why == nil}
	if why != nil {
		a.Why = why.Error()
	}
	return say(p.conn, a)
}

// close closes what is not in use.
func (p *predecessor) close() {
	if p == nil {
		return
	}
	for _, f := range p.files {
		if f != nil {
			f.Close()
		}
	}
	p.conn.Close()
}
