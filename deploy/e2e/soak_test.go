package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	soakTime    = flag.Duration("soak", 8*time.Second, "how long TestSoak disturbs each server's gateways")
	soakClients = flag.Int("soak.clients", 40, "how many clients talk meanwhile, in pairs")
	soakSeed    = flag.Uint64("soak.seed", 0, "chooses the disturbances; 0 stands for another seed each time")
)

// maxGivenUp is how many pairs of clients may be given up in a round, because the server has forgotten a session or is
// silent for [patience]. Prosody 0.12 does that now and then when a session is resumed while it has yet to handle bytes of
// the old connection, over TCP too; all that a gateway that ended streams would lose is far more.
const maxGivenUp = 2

// soakEvery is the time between two messages of all clients: a server that is busy makes the faults of maxGivenUp common.
const soakEvery = 2 * time.Millisecond

// soakRound is how long clients talk before all is counted, and the server starts anew.
const soakRound = time.Minute

// A link relays TCP connections, until it is told to break or to hold them.
type link struct {
	net.Listener
	to string

	mu    sync.Mutex
	conns map[net.Conn]net.Conn // both ways
	held  sync.RWMutex          // bytes pass while it can be read-locked
}

func newLink(t *testing.T, to string) *link {
	l := &link{to: to, conns: map[net.Conn]net.Conn{}}
	var err error
	if l.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); l.cut(func() bool { return true }) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go l.relay(c)
		}
	}()
	return l
}

func (l *link) relay(near net.Conn) {
	far, err := net.DialTimeout("tcp", l.to, patience)
	if err != nil {
		reset(near)
		return
	}
	l.mu.Lock()
	l.conns[near], l.conns[far] = far, near
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.copy(far, near) })
	both.Go(func() { l.copy(near, far) })
	both.Wait()
	near.Close()
	far.Close()
	l.mu.Lock()
	delete(l.conns, near)
	delete(l.conns, far)
	l.mu.Unlock()
}

func (l *link) copy(to, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		l.held.RLock() // waits
		l.held.RUnlock()
		_, failed := to.Write(b[:n])
		switch {
		case err == io.EOF && failed == nil:
			to.(*net.TCPConn).CloseWrite()
			return
		case err != nil || failed != nil:
			reset(to)
			reset(from)
			return
		}
	}
}

func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// cut breaks those connections that which wants, and returns how many.
func (l *link) cut(which func() bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for a, b := range l.conns {
		if which() {
			reset(a)
			reset(b)
			n++
		}
	}
	return n
}

// hold lets nothing pass for some time.
func (l *link) hold(d time.Duration) {
	l.held.Lock()
	time.Sleep(d)
	l.held.Unlock()
}

// A soak is a server with gateways and links that come and go.
type soak struct {
	t        *testing.T
	s        *server
	r        *rand.Rand // of the disturbances
	gateways []*soakGateway
	counts   map[string]int // of disturbances

	mu       sync.Mutex
	losses   map[string]int // of connections, by what a client has seen
	messages int
	doubled  int
	moved    int // came out of order
	returned int // to their senders
	given    int // pairs given up in this round, see maxGivenUp
}

type soakGateway struct {
	*gateway
	client, server *link
	config, cert   string // files
	url            string
}

func newSoak(t *testing.T, name string) *soak {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-soak.seed=%d", seed)
	k := &soak{t: t, r: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}, losses: map[string]int{}}
	var err error
	if k.s, err = newServer(name, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", k.s.name, k.s.proc.log.tail(0))
		}
		k.s.proc.kill()
	})
	for i := range 4 {
		dir := t.TempDir()
		g := &soakGateway{server: newLink(t, k.s.c2s), config: filepath.Join(dir, "settings"), cert: filepath.Join(dir, "localhost.pem")}
		env := []string{"XMPPGATE_CONFIG=" + g.config, "XMPPGATE_DRAIN_TIMEOUT=5s"}
		scheme := "ws://"
		if i == encrypted {
			if err := writeCertificate(dir); err != nil {
				t.Fatal(err)
			}
			env = append(env, "XMPPGATE_TLS_CERT="+g.cert)
			scheme = "wss://"
		}
		g.write(0)
		if g.gateway, err = startGateway("tcp://"+g.server.Addr().String(), env...); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("gateway %d:\n%s", i, g.proc.log.tail(0))
			}
			g.proc.kill()
		})
		g.client = newLink(t, g.listen)
		g.url = scheme + g.client.Addr().String() + "/xmpp-websocket"
		k.gateways = append(k.gateways, g)
	}
	return k
}

// The gateways by what happens to them. All are reloaded, and lose connections.
const (
	lasting   = iota // nothing else: what it holds in the end is compared
	killed           // killed, and ended by SIGTERM
	upgraded         // replaced by a new process that takes over its sessions
	encrypted        // ended by SIGTERM; certificates are replaced
)

// write writes the settings, another one each time.
func (g *soakGateway) write(n int) {
	text := fmt.Sprintf("XMPPGATE_PING_INTERVAL=%ds\nXMPPGATE_MAX_SESSIONS=%d\n", 20+n%20, 1000+n)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// The disturbances, and how many of twenty each is.
var disturbances = []struct {
	name  string
	share int
	do    func(k *soak, g *soakGateway) error
}{
	{"links of clients break", 4, func(k *soak, g *soakGateway) error {
		g.client.cut(func() bool { return k.r.IntN(2) == 0 })
		return nil
	}},
	{"links to the server break", 2, func(k *soak, g *soakGateway) error {
		g.server.cut(func() bool { return k.r.IntN(2) == 0 })
		return nil
	}},
	// None breaks meanwhile, see talk.
	{"links are held", 2, func(k *soak, g *soakGateway) error {
		var both sync.WaitGroup
		a, b := time.Duration(k.r.IntN(1000)), time.Duration(k.r.IntN(1000))
		both.Go(func() { g.client.hold(a * time.Millisecond) })
		g.server.hold(b * time.Millisecond)
		both.Wait()
		return nil
	}},
	{"reload", 3, func(k *soak, g *soakGateway) error {
		g.write(k.r.IntN(1000))
		return syscall.Kill(-g.proc.pid(), syscall.SIGHUP)
	}},
	{"kill", 2, func(k *soak, _ *soakGateway) error {
		g := k.gateways[killed]
		g.proc.kill()
		return g.start()
	}},
	{"end", 2, func(k *soak, _ *soakGateway) error {
		g := k.gateways[[]int{killed, encrypted}[k.r.IntN(2)]]
		return errors.Join(g.proc.terminate(20*time.Second), g.start())
	}},
	{"upgrade", 3, func(k *soak, _ *soakGateway) error {
		g := k.gateways[upgraded]
		c := exec.Command(gatewayBinary, "upgrade")
		c.Env = append(os.Environ(), "XMPPGATE_ADMIN_LISTEN="+g.admin, "XMPPGATE_LISTEN="+g.listen, "XMPPGATE_UPSTREAM="+g.upstream)
		out, err := c.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}},
	{"certificate", 2, func(k *soak, _ *soakGateway) error {
		return writeCertificate(filepath.Dir(k.gateways[encrypted].cert))
	}},
}

// disturb does one thing after the other until the time is over.
func (k *soak) disturb(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Duration(k.r.IntN(500)) * time.Millisecond) {
		g, n := k.gateways[k.r.IntN(len(k.gateways))], k.r.IntN(20)
		for _, d := range disturbances {
			if n -= d.share; n >= 0 {
				continue
			}
			k.counts[d.name]++
			if err := d.do(k, g); err != nil {
				k.t.Errorf("%s: %v", d.name, err)
			}
			break
		}
	}
}

// A talker is a chatter that resumes wherever it can when it loses its connection.
type talker struct {
	*chatter
	k     *soak
	r     *rand.Rand
	given *atomic.Bool // the pair is given up
}

// giveUp stops counting the pair, if that is why the connection or the resumption has failed.
func (c *talker) giveUp(err error) error {
	var op *net.OpError
	if !errors.As(err, &resumeFailed{}) && !(errors.As(err, &op) && op.Timeout()) {
		return err
	}
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if !c.given.Swap(true) {
		c.k.given++
		c.k.t.Logf("given up: %s: %v", c.jid, err)
	}
	return nil
}

// url is that of some gateway.
func (c *talker) url() string { return c.k.gateways[c.r.IntN(len(c.k.gateways))].url }

// persist calls f until there is no error, but not for ever.
func persist(f func() error) (err error) {
	for end := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil || time.Now().After(end) || errors.As(err, &resumeFailed{}) {
			return err
		}
	}
}

// begin logs in.
func (c *talker) begin(name string) error {
	return persist(func() (err error) {
		if c.chatter.client, err = dial(c.url()); err != nil {
			return err
		}
		if err = c.login(domain, name, "soak"); err == nil {
			err = errors.Join(c.send("<presence><priority>-1</priority></presence>"), c.enable())
		}
		return err
	})
}

// talk sends until stop is closed, then the last message, and receives until that of the peer has come and the server
// has all of its own.
func (c *talker) talk(stop <-chan struct{}) error {
	said := false // the last message; guarded by c.mu
	for {
		broken := make(chan struct{})
		quiet := make(chan struct{}) // stop or broken
		var sender sync.WaitGroup
		sender.Go(func() {
			select {
			case <-stop:
			case <-broken:
			}
			close(quiet)
		})
		sender.Go(func() {
			c.sendSome(quiet)
			select {
			case <-broken:
				return
			default:
			}
			<-quiet
			select {
			case <-stop:
			default:
				return
			}
			if !said {
				c.send(`<message to="` + c.to + `"><body>end</body></message>`) // it is not forgotten if this fails
				c.mu.Lock()
				said = true
				c.mu.Unlock()
			}
			for c.transport.send(`<r xmlns="`+nsSM+`"/>`) == nil { // until the other loop has what it waits for
				select {
				case <-broken:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		err := c.receiveUntil(func() bool {
			if c.returned["end"] {
				delete(c.returned, "end")
				c.send(`<message to="` + c.to + `"><body>end</body></message>`)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.k.t.Failed() || c.given.Load() || len(c.got) > 0 && c.got[len(c.got)-1] == "end" && said && len(c.sm.unacked) == 0
		})
		close(broken)
		if err == nil {
			sender.Wait()
			return nil
		}
		c.conn().Close()
		sender.Wait()
		if err := c.k.lost(err); err != nil {
			return c.giveUp(err)
		}
		// As clients do. Prosody 0.12 may forget a session that is resumed while it has not yet done with the old
		// connection, over TCP too.
		time.Sleep(time.Duration(300+c.r.IntN(500)) * time.Millisecond)
		again := persist(func() error {
			fresh, err := c.reattach(c.url())
			if err == nil {
				c.chatter.client = fresh
			}
			return err
		})
		if again != nil {
			return c.giveUp(fmt.Errorf("after %v: %w", err, again))
		}
		c.resend() // if it fails, so does what comes next
	}
}

// lost counts a connection that was lost, and returns what must not happen to one.
func (k *soak) lost(err error) error {
	what := ""
	var op *net.OpError
	switch {
	case closeCode(err) != 0:
		what = fmt.Sprintf("close frame, %d", closeCode(err))
	case errors.Is(err, errEnded):
		what = "<close/>"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		what = "EOF"
	case errors.As(err, &op) && !op.Timeout():
		what = op.Err.Error()
	default:
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.losses[what]++
	return nil
}

// round lets clients talk, and counts what has come.
func (k *soak) round(n int, d time.Duration) {
	talkers := make([]*talker, *soakClients&^1)
	for i := range talkers {
		talkers[i] = &talker{&chatter{every: soakEvery * time.Duration(*soakClients)}, k, rand.New(rand.NewPCG(uint64(n), uint64(i))), new(atomic.Bool)}
		if k.s.name == "ejabberd" {
			talkers[i].returned = map[string]bool{}
		}
	}
	inParallel(k.t, len(talkers), 16, func(i int) error {
		name := fmt.Sprintf("soak%d", i)
		if n == 0 {
			if err := k.s.register(name); err != nil {
				return err
			}
		}
		return talkers[i].begin(name)
	})
	if k.t.Failed() {
		return
	}
	for i, c := range talkers {
		c.peer = talkers[i^1].chatter
		c.to, c.given = c.peer.jid, talkers[i|1].given
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i, c := range talkers {
		all.Go(func() {
			if err := c.talk(stop); err != nil {
				k.t.Errorf("round %d, client %d: %v", n, i, err)
			}
		})
	}
	k.disturb(d)
	close(stop)
	all.Wait()
	for i, c := range talkers {
		switch {
		case c.given.Load():
			c.conn().Close()
		case !k.t.Failed():
			if err := errors.Join(k.account(c.chatter), c.close()); err != nil {
				k.t.Errorf("round %d, client %d: %v", n, i, err)
			}
		}
	}
	if k.given > maxGivenUp {
		k.t.Errorf("round %d: %d pairs are given up, at most %d may be", n, k.given, maxGivenUp)
	}
	k.given = 0
}

// account checks that a client has got every message of its peer once, in order. ejabberd 23.01, over TCP too, delivers
// out of order what arrives while a session is resumed, and again what it does not acknowledge then. Rarely it returns to
// the sender what it finds no session for while one moves; that was seen behind a gateway only. All of that is counted.
func (k *soak) account(c *chatter) error {
	k.messages += c.peer.sent
	c.got = c.got[:len(c.got)-1]
	if k.s.name == "prosody" {
		return c.check()
	}
	times := make([]int, c.peer.sent)
	last := -1
	for _, body := range c.got {
		var n int
		if _, err := fmt.Sscan(body, &n); err != nil || n < 0 || n >= len(times) {
			if body == "end" {
				continue
			}
			return fmt.Errorf("unknown message %q", body)
		}
		if times[n]++; times[n] > 1 {
			k.doubled++
		} else if n < last {
			k.moved++
		}
		last = max(last, n)
	}
	for n, times := range times {
		switch {
		case times > 0:
		case c.peer.returned[fmt.Sprint(n)]:
			k.returned++
		default:
			return fmt.Errorf("message %d of %d is lost", n, len(c.got))
		}
	}
	return nil
}

// Behaviour: client-lost, server-lost, shutdown, real-resumption. Links, gateways and certificates come and go, gateways
// are reloaded and upgraded, while clients talk. Nothing is lost, doubled or out of order, and a gateway that stays
// holds no more in the end than before.
func TestSoak(t *testing.T) {
	needGateway(t)
	t.Parallel()
	for _, name := range []string{"prosody", "ejabberd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newSoak(t, name)
			quiet := func() (f footprint) {
				err := poll(patience, func() error {
					n, err := k.gateways[lasting].metric("xmppgate_sessions")
					if err == nil && n > 0 {
						err = fmt.Errorf("%v sessions are left", n)
					}
					return err
				})
				if err == nil {
					f, err = k.gateways[lasting].footprint()
				}
				if err != nil {
					t.Error(err)
				}
				return f
			}
			begin, before := time.Now(), quiet()
			for round := 0; round == 0 || !t.Failed() && time.Since(begin) < *soakTime; round++ {
				k.round(round, min(soakRound, *soakTime))
				after := quiet()
				switch {
				case round == 0:
					before.rss = after.rss * 3 / 2
				case after.rss > before.rss && !race:
					t.Errorf("round %d: %v, want %d KiB at most", round, after, before.rss)
				}
				if after.descriptors > before.descriptors+2 || after.goroutines > before.goroutines+5 {
					t.Errorf("round %d: %v, before %v", round, after, before)
				}
				t.Logf("round %d: %d messages; by the server %d doubled, %d out of order, %d returned; %v; connections lost: %v; disturbances: %v",
					round, k.messages, k.doubled, k.moved, k.returned, after, k.losses, k.counts)
				if *soakTime > soakRound {
					k.s.proc.kill()
					if err := k.s.start(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}
