package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// askDrain sends POST /drain.
func (g *gatewayProcess) askDrain() (status int, p drainProgress) {
	g.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.dir+"/admin")
		},
	}}
	r, err := client.Post("http://localhost/drain", "", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		g.t.Fatal(err)
	}
	return r.StatusCode, p
}

// answerClose reads the close frame of a drain and answers it.
func answerClose(t *testing.T, c net.Conn) {
	t.Helper()
	op, payload := readFrame(t, c)
	if code, _ := ws.ParseCloseFrameData(payload); op != ws.OpClose || code != ws.StatusGoingAway {
		t.Errorf("%v %q, want a close frame with 1001", op, payload)
	}
	if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewCloseFrame(payload))); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// During the delay load balancers see that the gateway is not ready, and clients
// that they send all the same are served.
func TestDrainDelay(t *testing.T) {
	g := startGateway(t, "XMPPGATE_DRAIN_DELAY=1h")
	g.becomesReady()
	g.open()
	g.signal(syscall.SIGTERM)
	g.logs("draining")
	if status, body := g.get("/readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
		t.Errorf("/readyz: %d %s", status, body)
	}
	g.open()
	if status, p := g.askDrain(); status != http.StatusAccepted || p != (drainProgress{State: drainWaiting, Sessions: 2}) {
		t.Errorf("%d %+v", status, p)
	}
	g.signal(syscall.SIGTERM)
	g.ends(143)

	g = startGateway(t, "XMPPGATE_DRAIN_DELAY=10ms")
	c := g.open()
	g.signal(syscall.SIGTERM)
	answerClose(t, c)
	g.ends(exitOK)
}

// /drain tells how far the drain is, until a signal ends the process and with it the
// admin listener.
func TestDrainProgress(t *testing.T) {
	g := startGateway(t)
	clients := []net.Conn{g.open(), g.open()}
	if status, p := g.askDrain(); status != http.StatusAccepted || p.Sessions != 2 {
		t.Errorf("%d %+v", status, p)
	}
	g.logs("draining")
	answerClose(t, clients[0])
	var status int
	var p drainProgress
	asks := func(want drainProgress) func() bool {
		return func() bool {
			status, p = g.askDrain()
			return p == want
		}
	}
	g.eventually("one session is closed", asks(drainProgress{drainClosing, 1, 2}))
	if status != http.StatusAccepted {
		t.Errorf("status %d while a session lives", status)
	}
	answerClose(t, clients[1])
	g.eventually("both are closed", asks(drainProgress{drainDone, 0, 2}))
	if status != http.StatusOK {
		t.Errorf("status %d when all is done", status)
	}
	g.signal(syscall.SIGTERM)
	g.ends(exitOK)
	if _, err := os.Stat(g.dir + "/admin"); !os.IsNotExist(err) {
		t.Errorf("the admin socket is left: %v", err)
	}
}

func TestDrainCommandWaits(t *testing.T) {
	for _, args := range [][]string{{"drain"}, {"drain", "--wait"}} {
		g := startGateway(t)
		c := g.open()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		command := exec.CommandContext(ctx, "xmppgate", args...)
		command.Env = g.Env
		var out strings.Builder
		command.Stdout = &out
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		if len(args) == 1 {
			if err := command.Wait(); err != nil { // while the session lives
				t.Errorf("%v: %v", args, err)
			}
		}
		answerClose(t, c)
		if len(args) == 2 {
			if err := command.Wait(); err != nil || !strings.HasSuffix(out.String(), "done: 0 sessions live\n") {
				t.Errorf("%v: %v %q", args, err, out.String())
			}
		}
		g.signal(syscall.SIGTERM)
		g.ends(exitOK)
	}
	if err := exec.CommandContext(t.Context(), "xmppgate", "drain", "--now").Run(); exitCode(err) != exitUsage {
		t.Errorf("an unknown flag: %v", err)
	}
}
