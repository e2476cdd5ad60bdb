package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The slowloris scenario: what quiet sessions notice of clients that send a byte a second
// and get nowhere.

const (
	slowClients = 1000
	slowEvery   = time.Second      // between two bytes of one of them
	slowRound   = 12 * time.Second // longer than the gateway waits for most of them
)

// A slowPhase is what slow clients do not come to the end of.
type slowPhase struct {
	name  string
	open  func(s *system, tls int) (*pair, error)
	bytes []byte // one a second, again and again
}

// connect is a connection to a port that has said nothing.
func connect(port int) (*pair, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &pair{fd: [2]int{fd, -1}}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

var slowPhases = []slowPhase{
	{"in TLS", func(_ *system, tls int) (*pair, error) { return connect(tls) },
		append([]byte{22, 3, 1, 2, 0}, make([]byte, 512)...)}, // the record of a ClientHello
	{"in the request", func(s *system, _ int) (*pair, error) { return connect(s.addr.Port) },
		[]byte(strings.TrimSuffix(request, "\r\n") + strings.Repeat("X: y\r\n", 100))},
	{"in the first frame", func(s *system, _ int) (*pair, error) { return s.open() },
		appendFrame(nil, opText, true, make([]byte, 4000))},
	{"inside an element", func(s *system, _ int) (*pair, error) { return s.open(hello) },
		appendFrame(nil, opText, true, []byte("<iq>"+strings.Repeat("x", 9000)))},
}

// A slowCrowd is slowClients of them, on a thread of its own.
type slowCrowd struct {
	s     *system
	tls   int // the port
	phase slowPhase
	all   []*pair // pair.sent is how much of the bytes
	ended int     // how many were ended by the gateway and have come again
	quit  chan struct{}
	done  chan error
}

func (s *system) slowDown(phase slowPhase, tls int) (*slowCrowd, error) {
	c := &slowCrowd{s: s, tls: tls, phase: phase, quit: make(chan struct{}), done: make(chan error, 1)}
	for range slowClients {
		p, err := c.open()
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, p)
	}
	go c.run()
	return c, nil
}

func (c *slowCrowd) open() (*pair, error) {
	p, err := c.phase.open(c.s, c.tls)
	if err == nil {
		err = unix.SetNonblock(p.fd[client], true)
	}
	return p, err
}

func (c *slowCrowd) run() {
	runtime.LockOSThread()
	unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
	tick := time.NewTicker(slowEvery / 100) // for a hundredth of them
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-c.quit:
			c.done <- nil
			return
		case <-tick.C:
		}
		for i := turn % 100; i < slowClients; i += 100 {
			if err := c.byte(i); err != nil {
				c.done <- err
				return
			}
		}
	}
}

// byte has one of the clients send one. One that was ended comes again.
func (c *slowCrowd) byte(i int) (err error) {
	p := c.all[i]
	var answer [4096]byte
	n, err := unix.Read(p.fd[client], answer[:])
	if err == nil && n > 0 || errors.Is(err, unix.EAGAIN) {
		n, _ = unix.Write(p.fd[client], c.phase.bytes[p.sent:p.sent+1])
		p.sent = (p.sent + max(n, 0)) % len(c.phase.bytes)
		return nil // it learns later that it was ended
	}
	p.reset()
	c.ended++
	c.all[i], err = c.open()
	return err
}

// reset ends both sides at once.
func (p *pair) reset() {
	for _, fd := range p.fd {
		if fd >= 0 {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		}
	}
}

func (c *slowCrowd) stop() error {
	close(c.quit)
	err := <-c.done
	for _, p := range c.all {
		if p != nil {
			p.reset()
		}
	}
	time.Sleep(500 * time.Millisecond) // the farewells
	return err
}

func runSlowloris(b *bench, r *recorder) error {
	raiseSelf := raise()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))  // neither thread waits for the other,
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nor for the collector
	file, _, err := certificate(b.dir)
	if err != nil {
		return err
	}
	tls, err := freePort()
	if err != nil {
		return err
	}
	systems, err := startKinds(kind{name: gate, xmpp: true, start: func(u int) (*process, int, error) {
		return startGateway(b.dir, "", b.gateway, u, append(production, "XMPPGATE_LISTEN={listen}?tls=off,"+loopback(tls), "XMPPGATE_TLS_CERT="+file)...)
	}})
	defer closeAll(systems)
	if err != nil {
		return err
	}
	s := systems[0]
	if err := s.grow(fairQuiet); err != nil {
		return err
	}
	raiseSelf()
	const alone = "alone"
	p99 := map[string][]float64{}
	measure := func(round int, name string) error {
		trips, err := s.quiet(s.load(1, 200), slowRound)
		if err != nil || round < 0 {
			return err
		}
		r.add("round trip p50, "+name, "µs", round, gate, micros(trips[len(trips)/2]))
		at99 := micros(trips[len(trips)*99/100])
		r.add("round trip p99, "+name, "µs", round, gate, at99)
		p99[name] = append(p99[name], at99)
		return nil
	}
	for round := -1; round < b.rounds(5, 2); round++ { // the first one is not counted
		if err := measure(round, alone); err != nil {
			return err
		}
		for _, phase := range shuffled(slowPhases) {
			before := rss(s.proc)
			crowd, err := s.slowDown(phase, tls)
			if err != nil {
				return fmt.Errorf("%s: %w", phase.name, err)
			}
			if err := measure(round, phase.name); err != nil {
				return err
			}
			held := rss(s.proc)
			if err := crowd.stop(); err != nil {
				return fmt.Errorf("%s: %w", phase.name, err)
			}
			if round >= 0 {
				r.add("more memory, "+phase.name, "KiB per slow client", round, gate, max(0, held-before)/slowClients)
				r.add("ended meanwhile, "+phase.name, "slow clients", round, gate, float64(crowd.ended))
			}
		}
	}
	for _, phase := range slowPhases {
		r.add("p99 beside 1,000 slow clients to alone, "+phase.name, "ratio of medians", 0, gate, spreadOf(p99[phase.name])[1]/spreadOf(p99[alone])[1])
	}
	return nil
}
