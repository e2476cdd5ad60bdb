package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// These tests end or stop one of the two processes in each phase of an upgrade. Both are
// real. What the one says to the other passes through a process between them, so that the
// phase is known.

var slowFaults = flag.Bool("upgrade.slow", false, "in TestUpgradeFaults, let the processes stop in every phase, which takes minutes")

// A fault is what happens to one of two processes.
type fault struct {
	does  string // one of those below
	after string // a phase
}

// What faults do.
const (
	killNew = "kill-new"
	stopNew = "stop-new" // for good
	killOld = "kill-old"
	stopOld = "stop-old" // for longer than a step may take
)

// phases are what one process says to the other, in turns. The last four are repeated
// for each offer.
var phases = []string{"hello", "answer", "offer", "accepted", "go", "driving", "second offer", "second accepted", "second go", "second driving"}

// stopTime is longer than a step of an offer may take.
const stopTime = 7 * time.Second

// faultsWithoutLoss are those of a new process that drives nothing yet.
func faultsWithoutLoss() []fault {
	return []fault{
		{killNew, "offer"}, {killNew, "accepted"}, {killNew, "answer"}, {killNew, "hello"},
		{stopNew, "accepted"}, {stopNew, "offer"},
	}
}

// between puts a program between the old process and the next one, which is a copy of
// program.
func (r *replaceable) between(f fault, program string) {
	r.t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		r.t.Fatal(err)
	}
	middle, err := exec.LookPath("between")
	if err != nil {
		r.t.Fatal(err)
	}
	inner := filepath.Join(r.dir, "inner", "xmppgate")
	if err := os.MkdirAll(filepath.Dir(inner), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(inner+".new", b, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(inner+".new", inner); err != nil {
		r.t.Fatal(err)
	}
	r.replaceBy(fmt.Appendf(nil, "#!/bin/sh\nexec %s %s '%s' %s\n", middle, f.does, f.after, inner))
}

func init() { programs["between"] = betweenMain }

// betweenMain is the program "between what phase program".
func betweenMain() {
	// The new process ends with this one, as the old one expects; that goes by threads.
	runtime.LockOSThread()
	does, after, program := os.Args[1], slices.Index(phases, os.Args[2]), os.Args[3]
	old := must(unixConn(os.NewFile(firstInherited, "old")))
	ours, theirs, err := talk()
	if err != nil {
		panic(err)
	}
	first, _, err := passOn(old, nil)
	if err != nil {
		panic(err)
	}
	var h hello
	if err := decode(first, &h); err != nil {
		panic(err)
	}
	attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2, uintptr(theirs)}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}}
	for i := range h.Listeners {
		attr.Files = append(attr.Files, uintptr(firstInherited+1+i))
	}
	pid := must(syscall.ForkExec(program, []string{"xmppgate"}, attr))
	for _, fd := range attr.Files[3:] {
		syscall.Close(int(fd))
	}
	ended := func() {
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
				os.Exit(4)
			}
		}
	}
	if _, err := ours.Write(first); err != nil {
		panic(err)
	}
	for phase := 0; ; phase++ {
		if phase == after {
			switch does {
			case killNew:
				syscall.Kill(pid, syscall.SIGKILL)
				for err = nil; err == nil; { // what it has said is said
					_, _, err = passOn(ours, old)
				}
				ended()
			case stopNew:
				syscall.Kill(pid, syscall.SIGSTOP)
				time.Sleep(time.Hour)
			case killOld:
				syscall.Kill(os.Getppid(), syscall.SIGKILL)
				for err = nil; err == nil; {
					_, _, err = passOn(old, ours)
				}
				ours.Close()
				ended()
			case stopOld:
				parent := os.Getppid()
				syscall.Kill(parent, syscall.SIGSTOP)
				time.AfterFunc(stopTime, func() { syscall.Kill(parent, syscall.SIGCONT) })
			}
		}
		from, to := ours, old
		if phase%2 == 1 {
			from, to = old, ours
		}
		what, _, err := passOn(from, to)
		switch {
		case from == old && err != nil:
			ours.Close()
			ended()
		case err != nil:
			old.Close()
			ended()
		case strings.Contains(string(what), `"End":true`):
			old.Close()
			ended()
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// passOn passes on a packet with its descriptors, unless to is nil.
func passOn(from, to *net.UnixConn) (b []byte, fds []int, err error) {
	b, rights := make([]byte, 1<<20), make([]byte, 4096)
	n, rn, _, _, err := from.ReadMsgUnix(b, rights)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, io.EOF
	}
	messages, _ := unix.ParseSocketControlMessage(rights[:rn])
	for _, m := range messages {
		some, _ := unix.ParseUnixRights(&m)
		fds = append(fds, some...)
	}
	if to != nil {
		_, _, err = to.WriteMsgUnix(b[:n], rights[:rn], nil)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return b[:n], fds, err
}

// lives reports whether a client has its connection, and somebody drives it.
func lives(c net.Conn) bool {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewPingFrame([]byte("p")))) != nil {
		return false
	}
	op, _, _, err := proofFrame(c)
	for err == nil && op == ws.OpPing {
		op, _, _, err = proofFrame(c)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true // which the caller finds to be stuck
	}
	return err == nil && op == ws.OpPong
}

func TestUpgradeFaults(t *testing.T) {
	program, err := exec.LookPath("xmppgate")
	if err != nil {
		t.Fatal(err)
	}
	stops := []fault{{stopNew, "accepted"}, {stopOld, "go"}, {stopOld, "second offer"}}
	// More than two offers, which begin with 1, 2 and 4 sessions.
	const sessions = 5
	for _, does := range []string{killNew, stopNew, killOld, stopOld} {
		for phase, name := range phases {
			f := fault{does, name}
			if takesLong := does == stopNew || does == stopOld; takesLong && !*slowFaults && !slices.Contains(stops, f) {
				continue // they are like one of these
			}
			t.Run(does+" "+name, func(t *testing.T) {
				t.Parallel()
				// Sessions that the new process may have driven, and does no more.
				fewest, most := sessions, sessions
				switch {
				case does == stopOld:
				case phase < 4: // hello to accepted
				case phase == 4: // go
					fewest--
				case phase < 8:
					fewest, most = sessions-1, sessions-1
				case phase == 8:
					fewest, most = sessions-3, sessions-1
				default:
					fewest, most = sessions-3, sessions-3
				}
				if does == killOld {
					fewest, most = sessions-most, sessions-fewest
					switch name { // it may have said go
					case "accepted":
						most++
					case "second accepted":
						most += 2
					}
				}
				testFault(t, f, program, sessions, fewest, most)
			})
		}
	}
}

// testFault upgrades a gateway with sessions, and counts those that are left.
func testFault(t *testing.T, f fault, program string, sessions, fewest, most int) {
	r := newReplaceable(t, "XMPPGATE_DRAIN_TIMEOUT=5s")
	r.begin()
	go r.Wait()
	t.Cleanup(func() {
		for _, pid := range r.innerProcesses() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	var clients []net.Conn
	for range sessions {
		clients = append(clients, r.talks())
	}
	r.between(f, program)
	begun := time.Now()
	status, err := r.tryUpgrade()
	took := time.Since(begun)
	// One of the two is left, serves on, and the sessions that it has go on.
	var processes []int
	r.eventually("both processes stay", func() bool {
		processes = slices.Concat(r.processes(), r.innerProcesses())
		return len(processes) == 1
	})
	switch serves := processes[0]; {
	case f.does == killOld && (serves == r.Process.Pid || err == nil):
		t.Errorf("the upgrade ends with %d, %v", status, err)
	case (f.does == killNew || f.does == stopNew) && (serves != r.Process.Pid || status != http.StatusInternalServerError):
		t.Errorf("the upgrade ends with %d, %v", status, err)
	case f.does == stopOld && (serves == r.Process.Pid || status != http.StatusOK):
		t.Errorf("the upgrade ends with %d, %v", status, err)
	}
	live := 0
	for i, c := range clients {
		asked := time.Now()
		if lives(c) {
			live++
		}
		if time.Since(asked) > 9*time.Second {
			t.Errorf("client %d hears nothing", i)
		}
	}
	if live < fewest || live > most {
		t.Errorf("%d sessions go on, want %d to %d", live, fewest, most)
	}
	pings(t, r.open())
	t.Logf("status %d after %v: %d of %d sessions go on", status, took.Round(10*time.Millisecond), live, sessions)
}

// tryUpgrade is upgrade, which may fail with the process.
func (r *replaceable) tryUpgrade() (status int, err error) {
	a, err := r.adminClient().Post("http://localhost/upgrade", "", nil)
	if err != nil {
		return 0, err
	}
	a.Body.Close()
	return a.StatusCode, nil
}

// innerProcesses are those behind a program between.
func (r *replaceable) innerProcesses() []int {
	return processesOf(filepath.Join(r.dir, "inner", "xmppgate"))
}
