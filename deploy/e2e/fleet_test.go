//go:build fleet

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// This file is a fleet: three gateways before three ejabberd nodes of one cluster. It takes a minute, so that it is not
// part of the other tests: make fleet-test.

// An erlangNode is an ejabberd of a cluster.
type erlangNode struct {
	*server
	name string
}

// startCluster starts n nodes, with an epmd of their own, and joins them.
func startCluster(t *testing.T, n int) (nodes []*erlangNode) {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(ports[0])
	epmd, err := startProcess("epmd", exec.Command("epmd", "-address", "127.0.0.1", "-port", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(epmd.kill)
	if err := epmd.awaitReady(10*time.Second, func() error { return accepts("127.0.0.1:" + port) }); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s, err := newServer("ejabberd", filepath.Join(t.TempDir(), fmt.Sprint("node", i)))
		if err != nil {
			t.Fatal(err)
		}
		s.proc.kill() // it has no name yet
		node := &erlangNode{s, fmt.Sprintf("ejabberd%d@127.0.0.1", i)}
		alone := s.command
		s.command = func() *exec.Cmd {
			cmd := alone()
			cmd.Args = append(cmd.Args, "-name", node.name, "-setcookie", "fleet", "-kernel", "inet_dist_use_interface", "{127,0,0,1}")
			cmd.Env = append(cmd.Env, "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+port)
			return cmd
		}
		if err := os.RemoveAll(filepath.Join(s.dir, "spool")); err != nil { // the database knows the name of its node
			t.Fatal(err)
		}
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.proc.kill() })
		if i > 0 {
			// As ejabberdctl does it, from a node of its own: the node that joins starts its applications anew, and an answer
			// of its own would be lost.
			join := fmt.Sprintf("ok = rpc:call('%s', ejabberd_cluster, join, ['%s']), halt().", node.name, nodes[0].name)
			cmd := exec.Command("erl", "-noinput", "-hidden", "-name", fmt.Sprintf("ctl%d@127.0.0.1", i), "-setcookie", "fleet", "-eval", join)
			cmd.Env = append(os.Environ(), "HOME="+s.dir, "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT="+port, "ERL_CRASH_DUMP_BYTES=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s does not join: %v: %.1000s", node.name, err, out)
			}
			if err := poll(30*time.Second, s.ready); err != nil {
				t.Fatal(err)
			}
		}
		nodes = append(nodes, node)
	}
	err = poll(30*time.Second, func() error {
		for _, node := range nodes {
			var all []string
			if err := node.call("list_cluster", struct{}{}, &all); err != nil || len(all) != n {
				return fmt.Errorf("%s is with %q: %w", node.name, all, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// A member is a client that comes back by itself, through any gateway. It has an address of its own, by which the gateways
// choose its server.
type member struct {
	*client
	name, from string
	peer       *member
	gateways   []*gateway
	next       int // gateway to try

	sent    atomic.Int64
	mu      sync.Mutex
	got     map[string]int // by body
	losses  int
	resumed int
	anew    int
	away    time.Duration // the longest
	err     error
}

func (m *member) dial() (*client, error) {
	g := m.gateways[m.next%len(m.gateways)]
	m.next++
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(m.from)}, Timeout: 2 * time.Second}
	tr, err := dialWebSocket(g.url(), ws.Dialer{NetDial: d.DialContext})
	if err != nil {
		return nil, err
	}
	return &client{transport: tr}, nil
}

// login logs in anew.
func (m *member) login() error {
	c, err := m.dial()
	if err != nil {
		return err
	}
	if err := errors.Join(c.login(domain, m.name, "phone")); err != nil {
		return err
	}
	if err := errors.Join(c.send("<presence/>"), c.enable()); err != nil {
		c.conn().Close()
		return err
	}
	m.client = c
	return nil
}

// comeBack resumes or, if the server that had the session is gone, logs in anew, and sends what was not acknowledged.
func (m *member) comeBack() error {
	old := m.client
	c, err := m.dial()
	if err != nil {
		return err
	}
	if err = c.authenticate(domain, m.name); err == nil {
		// ejabberd does not answer when the node that has the session was lost a moment ago.
		giveUp := time.AfterFunc(3*time.Second, func() { c.conn().Close() })
		err = c.resume(old)
		giveUp.Stop()
	}
	if failed := (resumeFailed{}); errors.As(err, &failed) {
		c.conn().Close()
		old.mu.Lock()
		unacked := slices.Clone(old.sm.unacked)
		old.mu.Unlock()
		if err := m.login(); err != nil {
			return err
		}
		m.mu.Lock()
		m.anew++
		m.mu.Unlock()
		for _, stanza := range unacked {
			if strings.HasPrefix(stanza, "<message") {
				m.client.mu.Lock()
				m.client.sm.unacked = append(m.client.sm.unacked, stanza)
				m.client.mu.Unlock()
				if err := m.client.transport.send(stanza); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err != nil {
		c.conn().Close()
		return err
	}
	m.mu.Lock()
	m.resumed++
	m.mu.Unlock()
	m.client = c
	return c.resend()
}

// live receives, sends every 100 ms, and comes back after each loss, until stop is closed.
func (m *member) live(stop <-chan struct{}) {
	over := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	for {
		c, done := m.client, make(chan struct{})
		go func() { // send
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-done:
					return
				case <-tick.C:
					n := m.sent.Add(1)
					// In the queue for resumption, whatever becomes of it. The server is asked what it has.
					if errors.Join(c.message(m.peer.name+"@"+domain, fmt.Sprintf("<body>%d</body>", n)),
						c.transport.send(`<r xmlns="`+nsSM+`"/>`)) != nil {
						return
					}
				}
			}
		}()
		err := m.receive(c)
		close(done)
		if over() {
			return
		}
		begin := time.Now()
		m.mu.Lock()
		m.losses++
		m.mu.Unlock()
		for err != nil && !over() {
			if err = m.comeBack(); err != nil {
				time.Sleep(50 * time.Millisecond)
				if time.Since(begin) > 30*time.Second {
					m.mu.Lock()
					m.err = fmt.Errorf("%s is not back after 30 s: %w", m.name, err)
					m.mu.Unlock()
					return
				}
			}
		}
		m.mu.Lock()
		m.away = max(m.away, time.Since(begin))
		m.mu.Unlock()
	}
}

// receive receives until the connection ends.
func (m *member) receive(c *client) error {
	take := func(e *element) {
		if e.is("message") && e.has("body") && e.attr("type") != "error" {
			m.mu.Lock()
			m.got[e.body()]++
			m.mu.Unlock()
		}
	}
	for _, e := range c.backlog { // what came while the session was resumed
		take(e)
	}
	c.backlog = nil
	for {
		e, err := c.receive()
		if err != nil {
			return err
		}
		if e.raw == gatewayClose || e.raw == streamEnd {
			return errEnded
		}
		take(e)
	}
}

// A fleetRow is what came of one kind of loss.
type fleetRow struct {
	what                                                  string
	members, lostThem, resumed, anew, sent, lost, doubled int
	away                                                  time.Duration
}

// Behaviour: client-lost, real-resumption. XEP-0198, section 5. Any gateway and any node of the cluster is killed under
// clients that talk to each other; all come back within seconds, through another gateway, and what was with a gateway or
// the network is neither lost nor doubled.
func TestFleet(t *testing.T) {
	needGateway(t)
	nodes := startCluster(t, 3)
	var urls []string
	for _, n := range nodes {
		urls = append(urls, "tcp://"+n.c2s)
	}
	var gateways []*gateway
	for range 3 {
		gateways = append(gateways, gatewayFor(t, strings.Join(urls, ",")))
	}
	const members = 24
	all := make([]*member, members)
	for i := range all {
		all[i] = &member{name: nodes[0].newUser(t, "member"), from: fmt.Sprintf("127.0.1.%d", i+1), gateways: gateways, next: i, got: map[string]int{}}
	}
	var rows []fleetRow
	// under kills something while the members talk, and tells what came of it.
	under := func(what string, mayLose bool, kill func(), restart func()) {
		for i, m := range all {
			m.peer = all[i^1]
			m.got, m.losses, m.resumed, m.anew, m.away = map[string]int{}, 0, 0, 0, 0
			m.sent.Store(0)
			m.next = i
			if err := poll(20*time.Second, m.login); err != nil {
				t.Fatal(err)
			}
		}
		stop := make(chan struct{})
		var lives sync.WaitGroup
		for _, m := range all {
			lives.Go(func() { m.live(stop) })
		}
		time.Sleep(time.Second)
		kill()
		time.Sleep(4 * time.Second)
		restart()
		time.Sleep(time.Second)
		// Those who send stop; what is under way arrives.
		close(stop)
		row := fleetRow{what: what, members: members}
		poll(10*time.Second, func() error {
			for _, m := range all {
				m.mu.Lock()
				n := len(m.got)
				m.mu.Unlock()
				if n < int(m.peer.sent.Load()) {
					return errors.New("some are under way")
				}
			}
			return nil
		})
		for _, m := range all {
			m.conn().Close()
		}
		lives.Wait()
		for _, m := range all {
			row.sent += int(m.sent.Load())
			for n := range int(m.peer.sent.Load()) {
				switch k := m.got[fmt.Sprint(n+1)]; {
				case k == 0:
					row.lost++
				case k > 1:
					row.doubled += k - 1
				}
			}
			row.lostThem, row.resumed, row.anew, row.away = row.lostThem+m.losses, row.resumed+m.resumed, row.anew+m.anew, max(row.away, m.away)
			if m.err != nil {
				t.Error(m.err)
			}
		}
		rows = append(rows, row)
		t.Logf("%+v", row)
		if !mayLose && (row.lost > 0 || row.doubled > 0 || row.anew > 0) {
			t.Errorf("%s: %d lost, %d doubled, %d had to log in anew", what, row.lost, row.doubled, row.anew)
		}
		if row.lostThem == 0 || row.away > 10*time.Second {
			t.Errorf("%s: %d connections were lost, and somebody was away for %v", what, row.lostThem, row.away)
		}
	}
	for i, g := range gateways {
		under(fmt.Sprintf("gateway %d is killed", i+1), false, g.proc.kill, func() {
			if err := g.start(); err != nil {
				t.Fatal(err)
			}
		})
	}
	for i, n := range nodes {
		under(fmt.Sprintf("ejabberd %d is killed", i+1), true, n.proc.kill, func() {
			if err := n.start(); err != nil {
				t.Fatal(err)
			}
		})
	}

	// A stream is resumed at another node than the one that has it.
	direct := make([]*gateway, len(nodes))
	for i, n := range nodes {
		direct[i] = gatewayFor(t, "tcp://"+n.c2s)
	}
	m, tries := all[0], 0
	m.resumed = 0
	for home := range nodes {
		for away := range nodes {
			if home == away {
				continue
			}
			m.gateways, m.next = direct[home:home+1], 0
			// Other nodes forget for a moment that a resource has been replaced: ejabberd ends the new session as conflicting.
			if err := poll(20*time.Second, m.login); err != nil {
				t.Fatal(err)
			}
			m.abort(lossRST)
			m.gateways = direct[away : away+1]
			if err := poll(20*time.Second, m.comeBack); err != nil {
				t.Fatal(err)
			}
			m.conn().Close()
			tries++
		}
	}
	t.Logf("%d of %d resumed at another node", m.resumed, tries)

	var b strings.Builder
	fmt.Fprintf(&b, "| what is killed | connections lost | resumed | logged in anew | messages | lost | doubled | longest away |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %d of %d | %d | %d | %d | %d | %d | %.2f s |\n", strings.TrimSuffix(r.what, " is killed"), r.lostThem, r.members, r.resumed, r.anew, r.sent, r.lost, r.doubled, r.away.Seconds())
	}
	fmt.Fprintf(&b, "\nOf %d clients that came back to another node of the cluster than theirs, %d resumed there.\n", tries, m.resumed)
	if *update {
		const file, begin, end = "../../docs/scaling.md", "<!-- cluster -->\n", "<!-- /cluster -->"
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, ok := strings.Cut(string(page), begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no %s … %s", file, begin, end)
		}
		if err := os.WriteFile(file, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
