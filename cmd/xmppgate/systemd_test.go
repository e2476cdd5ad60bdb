//go:build systemd

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine has a systemd of its own, see testdata/machine.sh.
type machine struct {
	t   *testing.T
	pid int // of its process 1, as it is here
}

func bootMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("testdata/machine.sh", "start", dir)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t}
	t.Cleanup(func() {
		if m.pid != 0 {
			syscall.Kill(m.pid, syscall.SIGKILL)
		}
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		c.Wait()
		if out, err := exec.Command("testdata/machine.sh", "clean", dir).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	m.eventually("it does not boot", func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.Process.Pid))
		fmt.Sscan(string(children), &m.pid)
		out, _ := m.run("systemctl", "is-system-running")
		return strings.TrimSpace(out) == "running"
	})
	return m
}

func (m *machine) eventually(problem string, done func() bool) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			out, _ := m.run("journalctl", "--no-pager", "-n", "40")
			m.t.Fatalf("%s\n%s", problem, out)
		}
	}
}

// run runs a program there.
func (m *machine) run(name string, args ...string) (out string, err error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(m.pid), "-m", "-p", "-u", "-i", "-C", "-r", "-w", "--", "env", "-i", "PATH=" + os.Getenv("PATH"), name}, args...)...)
	b, err := c.CombinedOutput()
	return string(b), err
}

func (m *machine) systemctl(args ...string) {
	m.t.Helper()
	if out, err := m.run("systemctl", args...); err != nil {
		journal, _ := m.run("journalctl", "--no-pager", "-n", "40")
		m.t.Fatalf("systemctl %v: %v %s\n%s", args, err, out, journal)
	}
}

// property returns one of the unit.
func (m *machine) property(name string) string {
	m.t.Helper()
	out, err := m.run("systemctl", "show", "--value", "-p", name, "xmppgate.service")
	if err != nil {
		m.t.Fatal(out)
	}
	return strings.TrimSpace(out)
}

// write writes a file there, in one step.
func (m *machine) write(path string, b []byte, mode os.FileMode) {
	m.t.Helper()
	path = filepath.Join(fmt.Sprintf("/proc/%d/root", m.pid), path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", b, mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The units as they are shipped, with a real systemd: start, reload, which is an upgrade,
// a reload that fails, the end of the process, restart and stop.
func TestSystemd(t *testing.T) {
	program := filepath.Join(t.TempDir(), "xmppgate")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	const sessions = 100
	address, admin, upstream := freeAddress(t), freeAddress(t), freeAddress(t)
	m := bootMachine(t)
	version, _ := m.run("systemctl", "--version")
	version, _, _ = strings.Cut(version, "\n")
	install := func() { m.write("/usr/local/bin/xmppgate", readAll(t, program), 0o755) }
	settings := func(more string) {
		m.write("/etc/default/xmppgate", fmt.Appendf(nil, "XMPPGATE_UPSTREAM=tcp://%s\nXMPPGATE_LISTEN=%s\nXMPPGATE_ADMIN_LISTEN=%s\n%s", upstream, address, admin, more), 0o644)
	}
	install()
	settings("")
	for _, unit := range []string{"xmppgate.service", "xmppgate.socket"} {
		m.write("/etc/systemd/system/"+unit, readAll(t, "../../deploy/systemd/"+unit), 0o644)
	}
	m.write("/etc/systemd/system/xmppgate.socket.d/address.conf", fmt.Appendf(nil, "[Socket]\nListenStream=\nListenStream=%s\n", address), 0o644)
	m.systemctl("daemon-reload")
	m.systemctl("start", "xmppgate.socket")

	pause := int(200 * time.Millisecond)
	server := startParty(t, "proof-server", upstream, pause)
	// The first client starts the service.
	clients := []*party{startParty(t, "proof-clients", address, 0, sessions, pause, 0)}
	pid := m.property("MainPID")
	becomesSole := func() {
		t.Helper()
		m.eventually("the old process stays", func() bool {
			out, _ := m.run("sh", "-c", "cat /sys/fs/cgroup/system.slice/xmppgate.service/cgroup.procs")
			return strings.TrimSpace(out) == m.property("MainPID")
		})
	}
	for range 5 {
		install()
		m.systemctl("reload", "xmppgate")
		next := m.property("MainPID")
		if next == pid || m.property("ActiveState") != "active" {
			t.Fatalf("process %s, then %s, which is %s", pid, next, m.property("ActiveState"))
		}
		pid = next
		becomesSole()
	}
	settings("XMPPGATE_PING_INTERVAL=soon\n")
	if out, err := m.run("systemctl", "reload", "xmppgate"); err == nil {
		t.Errorf("a reload of a wrong configuration: %s", out)
	}
	if out, _ := m.run("journalctl", "--no-pager", "-u", "xmppgate", "-n", "10"); !strings.Contains(out, "XMPPGATE_PING_INTERVAL") {
		t.Errorf("the journal says nothing about it: %s", out)
	}
	settings("")
	if now := m.property("MainPID"); now != pid || m.property("ActiveState") != "active" || m.property("NRestarts") != "0" {
		t.Errorf("process %s, then %s, which is %s", pid, now, m.property("ActiveState"))
	}
	up, down := balance(t, clients, server, sessions)
	t.Logf("%s: 5 reloads, and one that failed; %d messages up and %d down, none lost", version, up, down)

	// A restart refuses nobody: systemd has the socket.
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		m.systemctl("restart", "xmppgate")
	}()
	for waiting := true; waiting; {
		select {
		case <-restarted:
			waiting = false
		default:
		}
		c, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			t.Fatalf("during a restart: %v", err)
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	opens := func() net.Conn {
		t.Helper()
		c, err := proofLogin(address, 1_000_000)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	opens().Close()

	// A process that is killed is started again.
	pid = m.property("MainPID")
	m.run("kill", "-9", pid)
	opens().Close()
	m.eventually("it is not started again", func() bool { return m.property("NRestarts") == "1" && m.property("ActiveState") == "active" })

	// Stop drains.
	c := opens()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		m.systemctl("stop", "xmppgate.service", "xmppgate.socket")
	}()
	for {
		op, payload, _, err := proofFrame(c)
		if err != nil {
			t.Fatal(err)
		}
		if op == 8 {
			if code := int(payload[0])<<8 | int(payload[1]); code != 1001 {
				t.Errorf("close code %d", code)
			}
			break
		}
	}
	c.Close()
	<-stopped
	if state, result := m.property("ActiveState"), m.property("Result"); state != "inactive" || result != "success" {
		t.Errorf("%s, %s", state, result)
	}
}
