package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The relay scenarios: the generator owns both ends of each connection and
// knows every byte that must arrive. A system is what lies between.

// A system is a program between WebSocket clients and their server.
type system struct {
	name     string
	xmpp     bool // its server end speaks XMPP streams; else the WebSocket goes through
	proc     *process
	addr     unix.SockaddrInet4
	listener int
	epoll    int
	patience int // how many milliseconds to wait for events; 0 spins
	pairs    []*pair
	stuck    []*pair // those whose batch did not fit into the socket
}

// A pair is one connection through a system.
type pair struct {
	fd    [2]int    // client, server
	seq   [2]uint32 // next stanza up, down
	dir   int
	sent  int // bytes of the batch in flight
	got   int // bytes of it that arrived
	ended int // messages of it that ended
	frame deframer
	since time.Time
}

const (
	client = 0
	server = 1

	up       = 0
	down     = 1
	pingPong = 2
)

// A template is a batch of stanzas with places for their numbers.
type template struct {
	data   []byte
	spots  []spot
	period int // bytes of one stanza; 0 where frames are not taken apart
}

type spot struct {
	offset int
	key    [8]byte
}

// stamp numbers the stanzas from seq on.
func (t *template) stamp(seq uint32) []byte {
	for i := range t.spots {
		s := &t.spots[i]
		n := seq + uint32(i)
		for j := 7; j >= 0; j-- {
			t.data[s.offset+j] = byte('0'+n%10) ^ s.key[j]
			n /= 10
		}
	}
	return t.data
}

// A load is what crosses: batches of stanzas, as each side sends and expects
// them.
type load struct {
	batch, size int
	send, want  [2]template // by direction
}

const (
	numberAt = "id='"
	nsAttr   = ` xmlns="jabber:client"`
)

func stanza(xmlns string, size int) []byte {
	head := "<message" + xmlns + " to='juliet@example.org/balcony' " + numberAt + "00000000' type='chat'><body>"
	tail := "</body></message>"
	fill := size - len(head) - len(tail) + len(xmlns)
	return []byte(head + strings.Repeat("wherefore art thou? ", fill/20+1)[:fill] + tail)
}

func (s *system) load(batch, size int) *load {
	l := &load{batch: batch, size: size}
	plain, full := stanza("", size), stanza(nsAttr, size)
	l.send[up] = newTemplate(full, batch, opText, true)
	if s.xmpp {
		l.want[up] = newTemplate(full, batch, 0, false) // the declaration does no harm there and stays
		l.send[down] = newTemplate(plain, batch, 0, false)
	} else {
		l.want[up] = newTemplate(full, batch, opText, true)
		l.send[down] = newTemplate(full, batch, opText, false)
	}
	l.want[down] = newTemplate(full, batch, 0, false)
	l.want[down].period = len(full)
	return l
}

func newTemplate(stanza []byte, batch int, opcode byte, masked bool) (t template) {
	at := bytes.Index(stanza, []byte(numberAt)) + len(numberAt)
	for range batch {
		if opcode == 0 {
			t.spots = append(t.spots, spot{offset: len(t.data) + at})
			t.data = append(t.data, stanza...)
			continue
		}
		t.data = appendFrame(t.data, opcode, masked, stanza)
		s := spot{offset: len(t.data) - len(stanza) + at}
		if masked {
			for j := range s.key {
				s.key[j] = maskKey[(at+j)&3]
			}
		}
		t.spots = append(t.spots, s)
	}
	return t
}

// newSystem listens for a system's upstream connections, at socket unless that is empty, and starts it.
func newSystem(name string, xmpp bool, socket string, start func(upstream int) (*process, int, error)) (*system, error) {
	upstream, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &system{name: name, xmpp: xmpp}
	family, at := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: upstream, Addr: [4]byte{127, 0, 0, 1}})
	if socket != "" {
		family, at = unix.AF_UNIX, &unix.SockaddrUnix{Name: socket}
	}
	if s.listener, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if socket == "" {
		unix.SetsockoptInt(s.listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		unix.SetsockoptInt(s.listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err := unix.Bind(s.listener, at); err != nil {
		return nil, err
	}
	if err := unix.Listen(s.listener, 4096); err != nil {
		return nil, err
	}
	timeout(s.listener)
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	var port int
	if s.proc, port, err = start(upstream); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.addr = unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	// Looking whether it is ready may have reached the upstream.
	time.Sleep(200 * time.Millisecond)
	unix.SetNonblock(s.listener, true)
	for {
		fd, err := s.acceptAny()
		if err != nil {
			break
		}
		unix.Close(fd)
	}
	unix.SetNonblock(s.listener, false)
	return s, nil
}

func timeout(fd int) {
	tv := unix.NsecToTimeval(int64(10 * time.Second))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

func (s *system) close() {
	for _, p := range s.pairs {
		unix.Close(p.fd[client])
		unix.Close(p.fd[server])
	}
	unix.Close(s.listener)
	unix.Close(s.epoll)
	s.proc.stop()
}

const (
	request = "GET /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"
	response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n"

	openUp       = `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from="a@localhost" to="localhost" version="1.0"/>`
	openDown     = `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from="localhost" id="1" version="1.0"/>`
	streamHeader = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='localhost' id='1' version='1.0'>`
)

// A step is one exchange of a session: what the client sends, how the server
// knows that it is there, the answer, and how the client knows.
type step struct{ up, upMark, down, downMark string }

var (
	hello = step{openUp, "<stream:stream", "", "</stream:features>"}
	login = []step{
		hello,
		{`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`, "</auth>", `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`, "<success"},
		hello,
		{`<iq xmlns="jabber:client" type="set" id="b"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"/></iq>`, "</iq>", `<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>a@localhost/r</jid></bind></iq>`, "</iq>"},
		{`<presence xmlns="jabber:client"/>`, "<presence", `<presence from='a@localhost/r' to='a@localhost/r'/>`, "<presence"},
	}
	features = `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`
)

// open connects through the system and speaks as far as the steps go.
func (s *system) open(steps ...step) (_ *pair, err error) {
	p := &pair{fd: [2]int{-1, -1}}
	defer func() {
		if err != nil {
			unix.Close(p.fd[client])
			unix.Close(p.fd[server])
			err = fmt.Errorf("%s, connection %d: %w", s.name, len(s.pairs)+1, err)
		}
	}()
	if p.fd[client], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	unix.SetsockoptInt(p.fd[client], unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	timeout(p.fd[client])
	if err := unix.Connect(p.fd[client], &s.addr); err != nil { // loopback: at once
		return nil, err
	}
	unix.Write(p.fd[client], []byte(request))
	if !s.xmpp {
		if err := s.accept(p); err != nil {
			return nil, err
		}
		if err := readUntil(p.fd[server], "\r\n\r\n", 0); err != nil {
			return nil, err
		}
		unix.Write(p.fd[server], []byte(response))
	}
	if err := readUntil(p.fd[client], "\r\n\r\n", 0); err != nil {
		return nil, err
	}
	for i, st := range steps {
		sent := appendFrame(nil, opText, true, []byte(st.up))
		unix.Write(p.fd[client], sent)
		if i == 0 && s.xmpp {
			if err := s.accept(p); err != nil {
				return nil, err
			}
		}
		if s.xmpp {
			err = readUntil(p.fd[server], st.upMark, 0)
		} else {
			err = readUntil(p.fd[server], "", len(sent))
		}
		if err != nil {
			return nil, fmt.Errorf("up %s: %w", st.up, err)
		}
		if st.downMark == "" {
			continue
		}
		parts := []string{st.down}
		if st == hello {
			parts = []string{openDown, features}
			if s.xmpp {
				parts[0] = streamHeader
			}
		}
		var answer []byte
		for _, part := range parts {
			if s.xmpp {
				answer = append(answer, part...)
			} else {
				answer = appendFrame(answer, opText, false, []byte(part))
			}
		}
		unix.Write(p.fd[server], answer)
		if err := readUntil(p.fd[client], st.downMark, 0); err != nil {
			return nil, fmt.Errorf("down %s: %w", st.down, err)
		}
	}
	return p, nil
}

// accept takes the next connection of a session.
func (s *system) accept(p *pair) error {
	for {
		fd, err := s.acceptAny()
		if err != nil {
			return err
		}
		if fd >= 0 {
			p.fd[server] = fd
			return nil
		}
	}
}

// acceptAny is accept, or answers a health check and returns a negative number.
func (s *system) acceptAny() (fd int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		fd, _, err = unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		return -1, err
	}
	timeout(fd)
	if !s.xmpp {
		return fd, nil
	}
	var header [512]byte
	for n := 1; n > 0 && err == nil || err == unix.EINTR; {
		n, _, err = unix.Recvfrom(fd, header[:], unix.MSG_PEEK)
		if got := header[:max(n, 0)]; bytes.Contains(got, []byte(`"a@localhost"`)) {
			return fd, nil
		} else if _, tag, ok := bytes.Cut(got, []byte("<stream:stream")); ok && bytes.Contains(tag, []byte(">")) {
			break // names no user
		}
	}
	unix.Read(fd, header[:])
	unix.Write(fd, []byte(streamHeader+features))
	unix.Close(fd)
	return -1, nil
}

// readUntil reads until mark or, if that is empty, n bytes came.
func readUntil(fd int, mark string, n int) error {
	var buf [4096]byte
	have := 0
	for {
		k, err := unix.Read(fd, buf[have:])
		if err == unix.EINTR { // the Go scheduler's signals
			continue
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return errors.New("closed")
		}
		have += k
		if mark != "" && bytes.Contains(buf[:have], []byte(mark)) || mark == "" && have >= n {
			return nil
		}
	}
}

// grow logs in until there are n connections.
func (s *system) grow(n int) error {
	for len(s.pairs) < n {
		p, err := s.open(login...)
		if err != nil {
			return err
		}
		for side, fd := range p.fd {
			if err := unix.SetNonblock(fd, true); err != nil {
				return err
			}
			event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(len(s.pairs)*2 + side)}
			if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
				return err
			}
		}
		s.pairs = append(s.pairs, p)
	}
	return nil
}

func (s *system) send(l *load, p *pair) error {
	data := l.send[p.dir].stamp(p.seq[p.dir])
	n, err := unix.Write(p.fd[p.dir], data[p.sent:]) // the side that sends has the direction's number
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		return err
	}
	p.sent += max(n, 0)
	if p.sent < len(data) {
		s.stuck = append(s.stuck, p)
	}
	return nil
}

var readBuffer [512 << 10]byte

// receive reads once and compares; done tells that the batch is complete.
func (p *pair) receive(l *load, side int) (done bool, err error) {
	n, err := unix.Read(p.fd[side], readBuffer[:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return false, nil
	}
	if err != nil || n == 0 {
		return false, fmt.Errorf("connection lost: %w", err)
	}
	if side == p.dir {
		return false, fmt.Errorf("unexpected: %.80q", readBuffer[:n])
	}
	t := &l.want[p.dir]
	want, b := t.stamp(p.seq[p.dir]), readBuffer[:n]
	if t.period == 0 {
		if n > len(want)-p.got || !bytes.Equal(b, want[p.got:p.got+n]) {
			return false, fmt.Errorf("%w: %.300q", errDiffers, b)
		}
		p.got += n
		return p.got == len(want), nil
	}
	for len(b) > 0 {
		payload, used, end := p.frame.next(b)
		n := len(payload)
		if n > len(want)-p.got || !bytes.Equal(payload, want[p.got:p.got+n]) {
			return false, fmt.Errorf("%w: %.300q", errDiffers, payload)
		}
		p.got += n
		b = b[used:]
		if end && p.frame.fin() {
			if p.ended++; p.got != p.ended*t.period {
				return false, fmt.Errorf("%w: a message of %d bytes", errDiffers, p.got)
			}
		}
		if end {
			if err := p.frame.check(); err != nil {
				return false, err
			}
		}
	}
	return p.ended == l.batch, nil
}

// slice runs a load over the first n connections for a time, one batch in
// flight on each, and returns how many stanzas arrived. With pingPong the
// server answers each batch, and round trips are added to trips.
func (s *system) slice(l *load, n, mode int, d time.Duration, trips *[]time.Duration) (stanzas int, err error) {
	end := time.Now().Add(d)
	for _, p := range s.pairs[:n] {
		p.dir, p.sent, p.got, p.ended, p.since = mode&1, 0, 0, 0, time.Now()
		if err := s.send(l, p); err != nil {
			return 0, err
		}
	}
	var events [128]unix.EpollEvent
	progress := time.Now()
	for left := n; left > 0; {
		stuck := s.stuck
		s.stuck = nil
		for _, p := range stuck {
			if err := s.send(l, p); err != nil {
				return 0, err
			}
		}
		k, err := unix.EpollWait(s.epoll, events[:], s.patience)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		now := time.Now()
		if k > 0 {
			progress = now
		} else if now.Sub(progress) > 10*time.Second {
			return 0, fmt.Errorf("%s: lost a stanza", s.name)
		}
		for _, e := range events[:max(k, 0)] {
			p := s.pairs[e.Fd/2]
			done, err := p.receive(l, int(e.Fd&1))
			if err != nil {
				return 0, fmt.Errorf("%s: %w", s.name, err)
			}
			if !done {
				continue
			}
			stanzas += l.batch
			p.seq[p.dir] += uint32(l.batch)
			p.sent, p.got, p.ended = 0, 0, 0
			now = time.Now()
			if mode == pingPong {
				if p.dir ^= 1; p.dir == up && trips != nil {
					*trips = append(*trips, now.Sub(p.since))
				}
			}
			if (mode != pingPong || p.dir == up) && now.After(end) {
				left--
				continue
			}
			if mode != pingPong || p.dir == up {
				p.since = now
			}
			if err := s.send(l, p); err != nil {
				return 0, err
			}
		}
	}
	return stanzas, nil
}

// A kind of system: its name, whether its server end speaks XMPP streams, and
// how it starts.
type kind struct {
	name   string
	xmpp   bool
	start  func(upstream int) (*process, int, error)
	socket string // where it finds its server, instead of at a port
}

// startKinds starts all kinds; what has been started is returned in any case.
func startKinds(kinds ...kind) (all []*system, err error) {
	for _, k := range kinds {
		s, err := newSystem(k.name, k.xmpp, k.socket, k.start)
		if err != nil {
			return all, err
		}
		all = append(all, s)
	}
	return all, nil
}

// relaySystems starts what is compared, all on CPU 0.
func relaySystems(b *bench) ([]*system, error) {
	return startKinds(
		kind{name: gate, xmpp: true, start: func(u int) (*process, int, error) { return startGateway(b.dir, "0", b.gateway, u) }},
		kind{name: "HAProxy TCP", start: func(u int) (*process, int, error) {
			return startHAProxy(b.dir, "0", haproxy{mode: "tcp"}, u)
		}},
		kind{name: "HAProxy WS", start: func(u int) (*process, int, error) {
			return startHAProxy(b.dir, "0", haproxy{mode: "http"}, u)
		}},
		kind{name: "nginx WS", start: func(u int) (*process, int, error) { return startNginx(b.dir, "0", u) }},
	)
}

// runUnix compares ways to a server on the same machine.
func runUnix(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	socket := filepath.Join(b.dir, "upstream.sock")
	systems, err := startKinds(
		kind{name: gate, xmpp: true, socket: socket, start: func(u int) (*process, int, error) {
			return startGateway(b.dir, "0", b.gateway, u, "XMPPGATE_UPSTREAM=unix:"+socket)
		}},
		kind{name: gate + " TCP", xmpp: true, start: func(u int) (*process, int, error) { return startGateway(b.dir, "0", b.gateway, u) }},
		kind{name: "HAProxy TCP", start: func(u int) (*process, int, error) {
			return startHAProxy(b.dir, "0", haproxy{mode: "tcp"}, u)
		}},
	)
	defer closeAll(systems)
	if err != nil {
		return err
	}
	return relayRounds(b, r, systems, relayCells)
}

func closeAll(all []*system) {
	for _, s := range all {
		s.close()
	}
}

// pin keeps the calling goroutine on CPU 1, for good.
func pin() error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(1)
	return unix.SchedSetaffinity(0, &set)
}

// relayCell is one kind of load of the relay scenario.
type relayCell struct {
	name        string
	open, n     int
	mode        int
	batch, size int
}

var relayCells = []relayCell{
	{"ping-pong, 1 connection", 1, 1, pingPong, 1, 200},
	{"ping-pong, 64 connections", 64, 64, pingPong, 1, 200},
	{"up, 1 a write, 64 connections", 64, 64, up, 1, 200},
	{"down, 1 a write, 64 connections", 64, 64, down, 1, 200},
	{"up, 16 a write, 64 connections", 64, 64, up, 16, 200},
	{"down, 16 a write, 64 connections", 64, 64, down, 16, 200},
	{"up, 64 KiB, 16 connections", 64, 16, up, 1, 64 << 10},
	{"down, 64 KiB, 16 connections", 64, 16, down, 1, 64 << 10},
	{"up, 256 KiB, 16 connections", 64, 16, up, 1, 256 << 10},
	{"down, 256 KiB, 16 connections", 64, 16, down, 1, 256 << 10},
	{"ping-pong, 700 connections", 700, 700, pingPong, 1, 200},
	{"mixed: ping-pong on 64 of 2,000 connections", 2000, 64, pingPong, 1, 200},
}

func runRelay(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	systems, err := relaySystems(b)
	defer closeAll(systems)
	if err != nil {
		return err
	}
	return relayRounds(b, r, systems, relayCells)
}

// relayRounds measures all cells of all systems, side by side.
func relayRounds(b *bench, r *recorder, systems []*system, cells []relayCell) error {
	for _, c := range cells {
		loads := map[*system]*load{}
		for _, s := range systems {
			if err := s.grow(c.open); err != nil {
				return err
			}
			loads[s] = s.load(c.batch, c.size)
			if _, err := s.slice(loads[s], c.n, c.mode, 20*time.Millisecond, nil); err != nil {
				return err
			}
		}
		for round := range b.rounds(30, 12) {
			for _, s := range shuffled(systems) {
				var trips []time.Duration
				before := cpu(s.proc)
				n, err := s.slice(loads[s], c.n, c.mode, 60*time.Millisecond, &trips)
				if err != nil {
					return err
				}
				used := cpu(s.proc) - before
				r.add(c.name, "CPU ns per stanza", round, s.name, float64(used)/float64(n))
				if c.mode == pingPong && c.n == 1 {
					slices.Sort(trips)
					r.add("round trip p50, 1 connection", "µs", round, s.name, micros(trips[len(trips)/2]))
					r.add("round trip p99, 1 connection", "µs", round, s.name, micros(trips[len(trips)*99/100]))
				}
			}
		}
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// runSetup measures connections that come, say one thing and go.
func runSetup(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	systems, err := relaySystems(b)
	defer closeAll(systems)
	if err != nil {
		return err
	}
	return setupRounds(b, r, systems)
}

// setupRounds measures new connections of all systems, side by side.
func setupRounds(b *bench, r *recorder, systems []*system) error {
	first := step{up: string(stanza(nsAttr, 200)), upMark: "</message>"}
	for round := range b.rounds(20, 8) {
		for _, s := range shuffled(systems) {
			before, n := cpu(s.proc), 0
			for end := time.Now().Add(80 * time.Millisecond); time.Now().Before(end); n++ {
				p, err := s.open(hello, first)
				if err != nil {
					return err
				}
				unix.SetsockoptLinger(p.fd[client], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
				unix.Close(p.fd[client])
				var buf [64]byte
				for k := 1; k > 0 && err == nil || err == unix.EINTR; {
					k, err = unix.Read(p.fd[server], buf[:])
				}
				unix.Close(p.fd[server])
			}
			r.add("connect, upgrade, dial, header, first stanza, close", "CPU µs", round, s.name, micros(cpu(s.proc)-before)/float64(n))
		}
	}
	return nil
}

// idleAfter is how long sessions are quiet before their memory is read: what
// the handshakes needed is not part of it.
const idleAfter = 5 * time.Second

// runIdle measures the memory of sessions that have logged in and are quiet.
func runIdle(b *bench, r *recorder) error {
	for round := range b.rounds(2, 1) {
		systems, err := relaySystems(b)
		for _, s := range systems {
			var at [3]float64
			for i, n := range []int{500, 2000, 9000} {
				if err == nil {
					err = s.grow(n)
					time.Sleep(idleAfter)
					at[i] = rss(s.proc)
				}
			}
			r.add("500 → 2,000 sessions", "KiB per session", round, s.name, (at[1]-at[0])/1500)
			r.add("500 → 9,000 sessions", "KiB per session", round, s.name, (at[2]-at[0])/8500)
			s.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
