package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/proxy"
)

// States of a drain, in their order.
const (
	drainIdle    = ""        // it has not begun
	drainWaiting = "waiting" // not ready, but clients are accepted: XMPPGATE_DRAIN_DELAY
	drainClosing = "closing" // nobody is accepted, sessions are closed
	drainDone    = "done"    // all sessions have ended, or the time is over
)

// A drain begins once, by a signal or by /drain, and goes through its states.
type drain struct {
	started chan struct{}
	reason  string // of one that no signal has begun

	mu       sync.Mutex // guards what is below
	state    string
	sessions int // when closing began
}

func newDrain() *drain { return &drain{started: make(chan struct{})} }

func (d *drain) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == drainIdle {
		d.state = drainWaiting
		close(d.started)
	}
}

func (d *drain) begun() bool {
	select {
	case <-d.started:
		return true
	default:
		return false
	}
}

func (d *drain) enter(state string, sessions int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.sessions = state, sessions
}

// A drainProgress is the answer of /drain.
type drainProgress struct {
	State    string `json:"state"`
	Sessions int    `json:"sessions"`    // that live
	Of       int    `json:"of,omitzero"` // that lived when closing began
}

// progress tells how far the drain is; live are the sessions of the gateway.
func (d *drain) progress(live iter.Seq[proxy.SessionInfo]) drainProgress {
	d.mu.Lock()
	p := drainProgress{State: d.state, Of: d.sessions}
	d.mu.Unlock()
	p.Sessions = count(live)
	return p
}

func count(sessions iter.Seq[proxy.SessionInfo]) (n int) {
	for range sessions {
		n++
	}
	return n
}

// run drains g: it lets load balancers see for the time of delay that the gateway is
// not ready, while clients that they still send are served, and then closes all
// sessions within timeout. It returns nil when the sessions have ended in time.
func (d *drain) run(ctx context.Context, g *proxy.Gateway, delay, timeout time.Duration, log *slog.Logger) error {
	reason := cmp.Or(d.reason, "asked to")
	if ctx.Err() != nil {
		reason = context.Cause(ctx).Error()
	}
	log.Info("draining", "reason", reason, "delay", delay, "timeout", timeout)
	start := time.Now()
	time.Sleep(delay)
	sessions := count(g.Sessions())
	d.enter(drainClosing, sessions)
	defer d.enter(drainDone, sessions)
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := g.Shutdown(within); err != nil {
		return fmt.Errorf("sessions did not end within %v: %w", timeout, err)
	}
	log.Info("drained", "sessions", sessions, "took", time.Since(start))
	return nil
}

// beginDrain begins the drain, or tells how far it is.
func (a *admin) beginDrain(w http.ResponseWriter, r *http.Request) {
	a.drain.begin()
	if status.WantsPage(r) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	p := a.drain.progress(a.gateway.Sessions())
	w.Header().Set("Content-Type", "application/json")
	if p.State != drainDone {
		w.WriteHeader(http.StatusAccepted)
	}
	_ = json.NewEncoder(w).Encode(p) // fails only if the client has left
}

// drainPollInterval is how often "xmppgate drain --wait" asks.
const drainPollInterval = 500 * time.Millisecond

// requestDrain tells the gateway that runs with the same configuration to drain, and
// waits for the end with --wait.
func requestDrain(ctx context.Context, p process) int {
	flags := flag.NewFlagSet("drain", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	wait := flags.Bool("wait", false, "")
	switch err := flags.Parse(p.args); {
	case errors.Is(err, flag.ErrHelp):
		return printHelp(ctx, p)
	case err != nil:
		return p.usage("unknown flag", p.args[0], []string{"--wait"})
	case flags.NArg() > 0:
		return p.usage("unexpected argument", flags.Arg(0), nil)
	}
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	if err := awaitDrain(ctx, c, *wait, p.stdout); err != nil {
		fmt.Fprintf(p.stderr, "xmppgate: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// awaitDrain prints how far the drain is. With wait it does so until the drain is
// done or the gateway is gone, which comes to the same.
func awaitDrain(ctx context.Context, c *config, wait bool, out io.Writer) error {
	var last string
	for begun := false; ; begun = true {
		body, err := c.askAdmin(ctx, http.MethodPost, "/drain", askTimeout)
		if err != nil {
			if begun && ctx.Err() == nil {
				return nil
			}
			return err
		}
		var p drainProgress
		if err := json.Unmarshal(body, &p); err != nil {
			return fmt.Errorf("/drain: %w", err)
		}
		line := fmt.Sprintf("%s: %d sessions live", p.State, p.Sessions)
		if line != last {
			fmt.Fprintln(out, line)
			last = line
		}
		if !wait || p.State == drainDone {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(drainPollInterval):
		}
	}
}
