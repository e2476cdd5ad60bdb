//go:build !unix

package demo

import "os/exec"

// There is hardly a Prosody to start on other systems. Ending the process is all
// that is tried.

func ownGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) { cmd.Process.Kill() }

type guard struct{ cmd *exec.Cmd }

func startGuard(string) (*guard, error) { return &guard{}, nil }

func (g *guard) adopt(cmd *exec.Cmd) { g.cmd = cmd }

func (g *guard) terminate() { g.kill() }

func (g *guard) kill() {
	if g.cmd != nil && g.cmd.Process != nil {
		g.cmd.Process.Kill()
	}
}

func takeTerminal() (giveBack func()) { return func() {} }
