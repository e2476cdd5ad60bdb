package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// errBeforeSASL is an error that a user has seen before sending a password.
type errBeforeSASL struct{ error }

// eventually logs a user in, as often as it takes. A user whose server goes away in the middle of SASL has to start
// again; one that has not begun must not notice.
func eventually(url, host, localpart string) (c *client, attempts int, err error) {
	for attempts = 1; attempts <= 10; attempts++ {
		if c, err = dial(url); err != nil {
			return nil, attempts, errBeforeSASL{err}
		}
		if _, err = c.open(host); err != nil {
			c.conn().Close()
			return nil, attempts, errBeforeSASL{err}
		}
		if err = c.sasl(host, localpart); err == nil {
			err = c.bind("")
		}
		if err == nil {
			return c, attempts, nil
		}
		c.conn().Close()
	}
	return nil, attempts, err
}

// loginAll logs n users in, some at a time, and calls disturb, never twice at once, after each of the logins but for the
// last.
func loginAll(t *testing.T, g *gateway, host string, n int, localpart func(int) string, disturb func(in int)) {
	t.Helper()
	var mu sync.Mutex
	in, cutOff := 0, 0
	inParallel(t, n, 16, func(i int) error {
		c, attempts, err := eventually(g.url(), host, localpart(i))
		if err != nil {
			return fmt.Errorf("attempt %d: %w", attempts, err)
		}
		t.Cleanup(func() { c.conn().Close() })
		mu.Lock()
		defer mu.Unlock()
		in, cutOff = in+1, cutOff+attempts-1
		if in < n {
			disturb(in)
		}
		return nil
	})
	failovers, err := g.metric("xmppgate_upstream_failovers_total")
	if err != nil || failovers == 0 {
		t.Errorf("%v failovers, %v; want some", failovers, err)
	}
	t.Logf("%d users are in; %d logins were cut off in the middle of SASL; %v failovers", in, cutOff, failovers)
}

// One of two ejabberd nodes is killed while users log in.
func TestNodeKilled(t *testing.T) {
	needGateway(t)
	t.Parallel()
	const users = 200
	dir := t.TempDir()
	// With hash all users go to one server, for they have no name but one address.
	for _, policy := range []string{"round-robin", "least-sessions", "first"} {
		t.Run(policy, func(t *testing.T) {
			victim, err := newServer("ejabberd", filepath.Join(dir, policy))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(victim.proc.kill)
			upstream := "tcp://" + victim.c2s
			for _, s := range servers {
				if s.name == "ejabberd" {
					upstream += ",tcp://" + s.c2s
				}
			}
			g := gatewayFor(t, upstream, "XMPPGATE_UPSTREAM_POLICY="+policy)
			loginAll(t, g, anonDomain, users, func(int) string { return "" }, func(in int) {
				if in == users/4 {
					victim.proc.kill()
				}
			})
		})
	}
}

// Three servers are killed in turn while users log in, each when the one before is back.
func TestRollingKill(t *testing.T) {
	needGateway(t)
	t.Parallel()
	const users, kills = 500, 20
	for _, policy := range []string{"round-robin", "hash", "least-sessions", "first"} {
		t.Run(policy, func(t *testing.T) {
			toys := make([]*toyServer, 3)
			urls := make([]string, len(toys))
			for i := range toys {
				toys[i] = startToy(t, &toyServer{})
				urls[i] = "tcp://" + toys[i].address
			}
			g := gatewayFor(t, strings.Join(urls, ","), "XMPPGATE_UPSTREAM_POLICY="+policy)
			down := -1
			loginAll(t, g, domain, users, func(i int) string { return fmt.Sprint("user", i) }, func(in int) {
				if in%(users/kills) != 0 {
					return
				}
				if down >= 0 {
					if err := toys[down].start(); err != nil {
						t.Error(err)
					}
				}
				down = (down + 1) % len(toys)
				toys[down].kill()
			})
		})
	}
}
