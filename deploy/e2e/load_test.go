package e2e

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// phase is a point of a session's life at which a client may vanish.
type phase int

const (
	beforeUpgrade phase = iota
	midHead
	afterUpgrade
	midFrame
	afterOpen
	afterAuth
	afterBind
	midStanza
	phases
)

// vanish brings a session to a phase and breaks the connection, by RST or by FIN.
func vanish(g *gateway, at phase, how loss) error {
	if at < afterUpgrade {
		c, err := net.DialTimeout("tcp", g.listen, patience)
		if err != nil {
			return err
		}
		if at == midHead {
			fmt.Fprintf(c, "GET /xmpp-websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: webs", g.listen)
		}
		if how == lossRST {
			c.(*net.TCPConn).SetLinger(0)
		}
		return c.Close()
	}
	c, err := dial(g.url())
	if err != nil {
		return err
	}
	defer c.abort(how)
	w := c.transport.(*websocket)
	switch at {
	case midFrame: // of 100 bytes, 9 arrive
		_, err = w.c.Write(append([]byte{0x81, 0x80 | 100, 0, 0, 0, 0}, "<open to="...))
	case afterOpen:
		_, err = c.open(anonDomain)
	case afterAuth:
		err = c.authenticate(anonDomain, "")
	case afterBind:
		err = errors.Join(c.authenticate(anonDomain, ""), c.bind(""))
	case midStanza: // the first of several fragments
		if err = errors.Join(c.authenticate(anonDomain, ""), c.bind("")); err == nil {
			err = w.write(ws.NewFrame(ws.OpText, false, []byte(`<message xmlns="jabber:client" to="nobody@`+domain+`"><body>par`)))
		}
	}
	return err
}

// vanishMany lets n clients vanish, spread evenly over the phases, and returns the first error.
func vanishMany(g *gateway, n int) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	var first atomic.Pointer[error]
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && first.Load() == nil; i = next.Add(1) - 1 {
				at, how := phase(i%int64(phases)), []loss{lossRST, lossFIN}[i/int64(phases)%2]
				if err := vanish(g, at, how); err != nil {
					err = fmt.Errorf("client %d, phase %d: %w", i, at, err)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// Behaviour: client-lost. Ten thousand clients vanish without a word, at all points of a session's life. Nothing of them stays.
func TestVanishingClients(t *testing.T) {
	needGateway(t)
	eachServer(t, func(t *testing.T, s *server) {
		const clients, warmUp = 10000, 2000
		g := gatewayFor(t, "tcp://"+s.c2s)
		// settle waits until all sessions have ended and no more is held than allowed.
		settle := func(most footprint) (now footprint, err error) {
			err = poll(60*time.Second, func() error {
				active, err := g.metric("xmppgate_sessions")
				if err == nil {
					now, err = g.footprint()
				}
				if err != nil {
					return errStop{err}
				}
				if active > 0 || now.descriptors > most.descriptors || now.goroutines > most.goroutines || now.rss > most.rss && !race {
					return fmt.Errorf("%v sessions, %v; want at most %v", active, now, most)
				}
				return nil
			})
			return now, err
		}
		if err := vanishMany(g, 100); err != nil { // what is started on demand is started now
			t.Fatal(err)
		}
		idle, err := settle(footprint{100, 100, 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := vanishMany(g, warmUp); err != nil { // the heap gets its size
			t.Fatal(err)
		}
		// Give or take a connection of this test's own.
		most := footprint{idle.descriptors + 2, idle.goroutines + 5, 1 << 20}
		before, err := settle(most)
		if err != nil {
			t.Fatalf("after %d clients: %v", warmUp, err)
		}
		most.rss = before.rss * 6 / 5
		begin := time.Now()
		if err := vanishMany(g, clients); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		after, err := settle(most)
		if err != nil {
			t.Fatalf("after %d clients: %v", clients, err)
		}
		t.Logf("%d clients vanished in %v\nidle   %v\nbefore %v\nafter  %v", clients, took, idle, before, after)
	})
}

// A thousand sessions at once. Each sends twenty numbered messages to its neighbour; each message arrives once, in order.
func TestThousandSessions(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		const sessions, messages = 1000, 20
		begin := time.Now()
		clients := make([]*client, sessions)
		t.Cleanup(func() {
			for _, c := range clients {
				if c != nil {
					c.conn().Close()
				}
			}
		})
		inParallel(t, sessions, 32, func(i int) (err error) {
			clients[i], err = login(s.websocket(), anonDomain, "", "")
			return err
		})
		if t.Failed() {
			return
		}
		t.Logf("%d logged in after %v", sessions, time.Since(begin))
		inParallel(t, sessions, sessions, func(i int) error {
			c, to := clients[i], clients[(i+1)%sessions]
			for n := range messages {
				if err := c.message(to.jid, fmt.Sprintf("<body>%d</body>", n)); err != nil {
					return err
				}
			}
			from := clients[(i+sessions-1)%sessions].jid
			for n := range messages {
				e, err := c.receive()
				if err != nil {
					return err
				}
				if !e.is("message") || e.attr("from") != from || e.body() != fmt.Sprint(n) {
					return fmt.Errorf("want message %d of %s, got %s", n, from, e.raw)
				}
			}
			return nil
		})
		t.Logf("%d messages arrived after %v", sessions*messages, time.Since(begin))
		// A message too many would come before the end of the stream; close fails on it, for it awaits nothing else.
		inParallel(t, sessions, 64, func(i int) error {
			if err := clients[i].close(); err != nil {
				return err
			}
			if extra := clients[i].backlog; len(extra) > 0 {
				return fmt.Errorf("unexpected %s", extra[0].raw)
			}
			return nil
		})
		t.Logf("all left after %v", time.Since(begin))
	})
}

// inParallel calls f for 0 to n-1, from some goroutines, and fails the test on its errors.
func inParallel(t *testing.T, n, goroutines int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	var next, failures atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil && failures.Add(1) <= 5 {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if f := failures.Load(); f > 5 {
		t.Errorf("%d clients failed", f)
	}
}
