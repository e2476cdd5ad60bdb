package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"xmppgate/proxy"
)

// This file and upgrade_linux.go replace the running program by the one that is at its
// path now, without losing a session:
//
//	old                                 new
//	starts the program, with its
//	listeners and a socket to talk
//	hello: which listeners these are -->
//	                                    reads its configuration, listens, serves
//	                                <-- answer: it serves, or what is wrong
//	hands over sessions at rest     --> takes them over, see proxy.Gateway.HandOver
//	closes its listeners
//	hands over those that come to rest, until none is left or the drain time is over
//	closes what is left and ends
//
// Until the sessions at rest are handed over both accept clients. If the new process
// fails before, the old one goes on as if nothing had been.

const (
	// upgradeVersion is that of hello and answer.
	upgradeVersion = 1
	// startTimeout is how long a new process may take until it serves.
	startTimeout = 30 * time.Second
	// successorVariable tells a new process the descriptor to talk to the old one. It
	// is not a setting.
	successorVariable = prefix + "PREDECESSOR_FD"
)

// A hello is what the old process tells the new one at first. The listeners have the
// descriptors behind that of the connection.
type hello struct {
	Version    int
	Succession proxy.Succession
	Listeners  []heldAddress
}

// A heldAddress is an address as the configuration spells it.
type heldAddress struct {
	Variable, Address string
	Borrowed          bool // from systemd, which keeps the path of a Unix socket
}

// An answerToHello is what the new process has to say to that.
type answerToHello struct {
	Error    string // why it does not serve; empty if it does
	Sessions bool   // it takes over sessions
	Why      string // why it does not
}

// A heldListener is a listener of this process.
type heldListener struct {
	heldAddress
	net.Listener
}

// An upgrader replaces this program while it runs.
type upgrader struct {
	program string // its path
	environ map[string]string
	gateway *proxy.Gateway
	drain   func() time.Duration // how long sessions that are not at rest are waited for
	log     *slog.Logger

	begun  chan struct{} // closed when the new process is in charge
	over   chan struct{} // closed when nothing more is handed over
	cancel context.CancelFunc

	mu        sync.Mutex // held by upgrade
	listeners []heldListener
}

func newUpgrader(environ map[string]string, g *proxy.Gateway, drain func() time.Duration, log *slog.Logger) *upgrader {
	program, _ := os.Executable() // an error is found when the program is started
	return &upgrader{
		program: program, environ: environ, gateway: g, drain: drain, log: log,
		begun: make(chan struct{}), over: make(chan struct{}),
	}
}

// hold makes the listeners of a variable go to the new process. systemd has those that
// belong to it.
func (u *upgrader) hold(variable string, addresses []listenAddress, listeners []net.Listener, systemd map[net.Listener]bool) {
	for i, l := range listeners {
		u.listeners = append(u.listeners, heldListener{heldAddress{variable, addresses[i].String(), systemd[l]}, l})
	}
}

var errUpgrading = errors.New("an upgrade is under way, or has been")

// upgrade starts the new program and returns nil when that is in charge. After an error
// nothing has changed.
func (u *upgrader) upgrade(ctx context.Context) error {
	if !u.mu.TryLock() {
		return errUpgrading
	}
	defer u.mu.Unlock()
	if u.succeeded() {
		return errUpgrading
	}
	err := u.replace(ctx)
	if err != nil {
		u.log.Error("the program was not replaced and goes on", "program", u.program, "error", err)
	}
	return err
}

// succeeded reports whether a new process is in charge.
func (u *upgrader) succeeded() bool {
	select {
	case <-u.begun:
		return true
	default:
		return false
	}
}

// handOver hands over sessions to a process that kill ends. It returns when those at rest
// are moved, and this process accepts no more clients.
func (u *upgrader) handOver(conn *net.UnixConn, kill func()) error {
	ctx, cancel := context.WithTimeout(context.Background(), u.drain())
	u.cancel = cancel
	begun, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(u.over)
		defer conn.Close()
		defer cancel()
		moved, err := u.gateway.HandOver(ctx, conn, func() {
			u.letGo()
			close(begun)
		}, kill)
		switch {
		case err == nil:
			u.log.Info("sessions handed over", "sessions", moved, "left", count(u.gateway.Sessions()))
		default:
			u.log.Warn("not all sessions were handed over: those left stay until they end, or the drain time is over", "sessions", moved, "left", count(u.gateway.Sessions()), "error", err)
			failed <- err
			<-ctx.Done()
		}
	}()
	err := beginning(begun, failed)
	if err != nil {
		cancel()
		<-u.over
		u.over = make(chan struct{})
	}
	return err
}

// beginning waits until the new process is in charge, or has failed before that. One that
// has failed later is in charge all the same: nobody is accepted here any more.
func beginning(begun <-chan struct{}, failed <-chan error) error {
	select {
	case <-begun:
		return nil
	case err := <-failed:
		select {
		case <-begun: // select chose at random
			return nil
		default:
			return err
		}
	}
}

// letGo stops accepting clients, which the new process does.
func (u *upgrader) letGo() {
	for _, l := range u.listeners {
		if l, ok := l.Listener.(*net.UnixListener); ok {
			l.SetUnlinkOnClose(false) // the new process listens there
		}
	}
	u.gateway.StopAccepting()
}

// keepSessions waits for the end of sessions that the new process does not take.
func (u *upgrader) keepSessions(conn *net.UnixConn) {
	u.letGo()
	ctx, cancel := context.WithTimeout(context.Background(), u.drain())
	u.cancel = cancel
	go func() {
		defer close(u.over)
		defer conn.Close()
		defer cancel()
		for count(u.gateway.Sessions()) > 0 && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
}

// await waits until nothing more is handed over, or ctx is done.
func (u *upgrader) await(ctx context.Context) {
	defer context.AfterFunc(ctx, u.cancel)()
	<-u.over
}

// takeOver takes over the sessions of before, which is told that this process serves;
// why is what keeps it from taking sessions, or nil. It returns when there are no more.
func takeOver(before *predecessor, g *proxy.Gateway, join func(string) func(), why error, log *slog.Logger) {
	defer before.close()
	if err := before.serves(why); err != nil {
		log.Error("the old process cannot be told that this one serves: it goes on, too", "error", err)
		return
	}
	if why != nil {
		log.Warn("the sessions of the old process stay there until they end, or its drain time is over", "error", why)
		return
	}
	taken, err := g.TakeOver(before.conn, join)
	if err != nil {
		log.Warn("the old process has ended before all its sessions were taken over", "sessions", taken, "error", err)
		return
	}
	log.Info("sessions taken over", "sessions", taken)
}

// upgradeProgram serves POST /upgrade.
func (a *admin) upgradeProgram(w http.ResponseWriter, r *http.Request) {
	if err := a.upgrade(context.WithoutCancel(r.Context())); err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, errUpgrading) {
			status = http.StatusConflict
		}
		answer(w, status, err.Error()+"\n")
		return
	}
	answer(w, http.StatusOK, "the new program is in charge\n")
}

// requestUpgrade tells the gateway that runs with the same configuration to replace
// itself by the program that is at its path now.
func requestUpgrade(ctx context.Context, p process) int {
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	body, err := c.askAdmin(ctx, http.MethodPost, "/upgrade", startTimeout+10*time.Second)
	if err != nil {
		return p.failed(err)
	}
	_, _ = p.stdout.Write(body)
	return exitOK
}

// decode parses what the other process has said.
func decode(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("the other process says %.100q: %w", b, err)
	}
	return nil
}
