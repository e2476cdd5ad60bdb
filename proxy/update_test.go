package proxy

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"xmppgate/framing"
)

// status returns the status of the response to a request for a path.
func (b *bench) status(path string) (status int) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.gate.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, after, _ := strings.Cut(goodRequest, "/xmpp-websocket")
	fmt.Fprintf(conn, "GET %s%s\r\n", path, after)
	if _, err := fmt.Fscanf(conn, "HTTP/1.1 %d", &status); err != nil {
		b.t.Fatal(err)
	}
	return status
}

// moveServer makes later sessions go to a new server.
func (b *bench) moveServer(c *Config) {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	to := &Gateway{}
	dialTo("tcp", l.Addr().String())(to)
	if _, secure := b.upstream.(*secureListener); secure {
		to.Static, to.Dial = nil, dialSecurely(to.Dial)
		l = &secureListener{l}
	}
	c.Static, c.Dial = to.Static, to.Dial
	b.upstream = l
}

// A new configuration is for new sessions. Live ones go on with theirs.
func TestUpdate(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		var log bytes.Buffer
		b := newBench(t, l)
		update := func(change func(*Config)) {
			t.Helper()
			c := b.g.Config
			change(&c)
			if err := b.g.Update(c); err != nil {
				t.Fatal(err)
			}
		}
		const smallest = 10000
		large := "<iq>" + strings.Repeat("x", 2*smallest) + "</iq>"
		cl, srv := b.connect()

		update(func(c *Config) { c.Paths = []string{"/chat"} })
		if got := b.status("/xmpp-websocket"); got != 404 {
			t.Errorf("a path that is gone: %d", got)
		}
		if got := b.status("/chat"); got != 101 {
			t.Errorf("a new path: %d", got)
		}
		b.g.eventuallyHas(t, 1)

		// MaxSessions counts those that live.
		update(func(c *Config) { c.MaxSessions = 1 })
		if got := b.status("/ws"); got != 503 {
			t.Errorf("a session more than allowed: %d", got)
		}
		b.g.eventuallyHas(t, 1)

		update(func(c *Config) { c.MaxStanza = smallest; b.moveServer(c) })
		cl2, srv2 := b.connect()
		b.send(cl2, large)
		if m := b.message(cl2); !strings.Contains(m, string(framing.CondPolicyViolation)) {
			t.Errorf("a new session sent more than it may, and got %.80q", m)
		}
		cl2.Close()
		srv2.Close()

		update(func(c *Config) {
			c.Domains = []string{"other.test"}
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		b.send(cl, large)
		b.expect(srv, large)
		b.relays(cl, srv)
		b.g.eventuallyHas(t, 0)
		b.g.mu.Lock()
		defer b.g.mu.Unlock()
		if !strings.Contains(log.String(), "domain=proto.test") {
			t.Errorf("the log of the update has %q", log.String())
		}
	})
}

// eventuallyHas waits until so many connections are left.
func (g *Gateway) eventuallyHas(t *testing.T, conns int) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		n := g.conns
		g.mu.Unlock()
		if n == conns {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections, want %d", n, conns)
		}
	}
}

// A configuration that is wrong changes nothing, and everything about it is said.
func TestUpdateRefused(t *testing.T) {
	b := newBench(t, LoopGoroutine)
	before := b.g.settings.Load()
	err := b.g.Update(Config{Loop: LoopAuto, Paths: []string{"x", "/ws", "/a b"}, MaxSessions: 1})
	if err == nil || strings.Count(err.Error(), "\n") != 3 ||
		!strings.Contains(err.Error(), "no Dial") || !strings.Contains(err.Error(), "the loop cannot change from goroutine to auto") {
		t.Errorf("got %v", err)
	}
	if b.g.settings.Load() != before || b.g.maxSessions != 0 {
		t.Error("something has changed")
	}
	cl, srv := b.connect()
	b.relays(cl, srv)
}

// Sessions that open, relay and end during updates notice nothing.
func TestUpdateUnderLoad(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		const sessions, messages = 8, 200
		var ends sync.WaitGroup
		for range sessions {
			cl, srv := b.connect()
			ends.Go(func() {
				for range messages {
					b.send(cl, "<presence/>")
				}
			})
			ends.Go(func() {
				want := strings.Repeat("<presence/>", messages)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(srv, got); err != nil || string(got) != want {
					t.Errorf("%v, %.80q", err, got)
				}
			})
		}
		done := make(chan struct{})
		go func() { ends.Wait(); close(done) }()
		for i := 0; ; i++ {
			c := b.g.Config
			c.MaxSessions, c.PingInterval = sessions+i%2, time.Minute+time.Duration(i%2)
			c.Domains = []string{"proto.test", fmt.Sprint(i, ".test")}
			if err := b.g.Update(c); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
}
