//go:build !unix

package demo

import "os/exec"

// Elsewhere there is no Prosody to start but in theory; ending the process is
// all that is tried.

func ownGroup(*exec.Cmd) {}

func terminateGroup(cmd *exec.Cmd) { cmd.Process.Kill() }

func killGroup(cmd *exec.Cmd) { cmd.Process.Kill() }
