//go:build unix

package demo

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup gives the command a process group: Ctrl-C in the terminal reaches
// only us, and what the command starts can be ended with it.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func killGroup(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// A guard is a process that outlives this one if this one is killed, and then
// ends its process group and removes a directory. It notices by the end of a
// pipe that nobody else holds. PR_SET_PDEATHSIG would do so on Linux only, and
// would leave the directory.
type guard struct{ cmd *exec.Cmd }

// guardScript uses nothing that is looked up in PATH. $1 is the directory.
const guardScript = `trap '' HUP INT TERM
while read -r _; do :; done
kill -TERM 0
/bin/sleep 1
/bin/rm -rf "$1"
kill -KILL 0`

// startGuard starts the guard of a directory.
func startGuard(dir string) (*guard, error) {
	g := &guard{exec.Command("/bin/sh", "-c", guardScript, "xmppgate-demo-guard", dir)}
	ownGroup(g.cmd) // what ends us must not end it
	if _, err := g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return g, g.cmd.Start()
}

// adopt puts a command that is to be started into the guarded group. From its
// first instruction on it cannot be left behind.
func (g *guard) adopt(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: g.cmd.Process.Pid}
}

// terminate asks the group to end. The guard stays.
func (g *guard) terminate() { syscall.Kill(-g.cmd.Process.Pid, syscall.SIGTERM) }

// kill ends what is left of the group, the guard included.
func (g *guard) kill() {
	killGroup(g.cmd)
	g.cmd.Wait()
}

// takeTerminal makes this process the only one that Ctrl-C in the terminal
// reaches, until giveBack is called. Otherwise a make that waits for us would
// die of the signal and report an error. Without a terminal, or in the
// background, it does nothing.
func takeTerminal() (giveBack func()) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return func() {}
	}
	fd, group := int(tty.Fd()), unix.Getpgrp()
	foreground, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || foreground != group || group == os.Getpid() || unix.Setpgid(0, 0) != nil {
		tty.Close()
		return func() {}
	}
	// SIGTTOU would stop us at the ioctl. SIGTSTP (Ctrl-Z) would stop us
	// alone: the shell waits for make, which does not stop.
	signal.Ignore(syscall.SIGTTOU, syscall.SIGTSTP)
	unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, os.Getpid())
	return func() {
		unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group)
		signal.Reset(syscall.SIGTTOU, syscall.SIGTSTP)
		tty.Close()
	}
}
