package main

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
)

// This file tells systemd what it wants to know of a service with Type=notify. Without
// NOTIFY_SOCKET nothing is told.

// notifyReady tells that clients are served.
func notifyReady() { notify(daemon.SdNotifyReady) }

// notifyReloading tells that a signal is being obeyed, until notifyReady. With
// Type=notify-reload "systemctl reload" is SIGHUP, and waits for that.
func notifyReloading() {
	notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// notifyStopping tells that the process is about to end.
func notifyStopping() { notify(daemon.SdNotifyStopping) }

// notifySuccessor tells that another process is the service from now on. Only the one
// that was so far may say that (NotifyAccess=main).
func notifySuccessor(pid int) { notify(fmt.Sprintf("MAINPID=%d\n%s", pid, daemon.SdNotifyReady)) }

func notify(state string) {
	_, _ = daemon.SdNotify(false, state) // systemd has its own timeouts for what it misses
}
