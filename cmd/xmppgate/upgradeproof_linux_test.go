package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// This file is the proof that upgrades lose nothing: sessions exchange messages all the
// while the program is replaced, again and again, and every message is accounted for.
// Clients and the server are processes of their own, because one process may have too few
// descriptors for all of them. "make upgrade-proof" runs it in full.

var (
	proofSessions = flag.Int("upgrade.sessions", 300, "sessions of TestUpgradeProof")
	proofTimes    = flag.Int("upgrade.times", 4, "upgrades of TestUpgradeProof")
	proofRate     = flag.Int("upgrade.rate", 600, "messages a second of TestUpgradeProof, half of them in each direction")
	proofProgram  = flag.String("upgrade.program", "", "the program of TestUpgradeProof, instead of the test itself")
	proofFaults   = flag.Bool("upgrade.faults", true, "in TestUpgradeProof, let a new process end or hang before each upgrade that succeeds")
)

func init() {
	programs["proof-clients"] = proofClientsMain
	programs["proof-server"] = proofServerMain
}

// proofMessage is message n of a session in one direction. All of it but the time follows
// from the session and the number, so that whoever gets it knows what it has to be.
func proofMessage(down bool, session, n int, sent time.Time) []byte {
	space := ""
	if down {
		space = " xmlns='jabber:client'"
	}
	size := 20 + (session*31+n*17)%150
	switch {
	case (session+n)%499 == 3:
		size = 100_000 // more than one read or write, but not of all sessions together
	case (session+n)%53 == 5:
		size = 6000
	}
	return fmt.Appendf(nil, "<message%s id='%d-%d' t='%019d'><body>%s</body></message>",
		space, session, n, sent.UnixNano(), strings.Repeat(strconv.Itoa(n%10), size))
}

// proofSentAt returns the time in a message, which it removes.
func proofSentAt(message []byte) time.Time {
	const digits = 19
	_, rest, _ := bytes.Cut(message[:min(len(message), 200)], []byte(" t='"))
	if len(rest) < digits {
		return time.Time{}
	}
	ns, _ := strconv.ParseInt(string(rest[:digits]), 10, 64)
	copy(rest, strings.Repeat("0", digits))
	return time.Unix(0, ns)
}

// A ledger is what one process has sent and received, by session.
type ledger struct {
	Sent, Received map[int]int
	Wrong          []string        // what should not have come, or did not
	Delays         []time.Duration // of messages
	Pings          []time.Duration // the longest of each upgrade and session that pings

	mu      sync.Mutex
	stopped atomic.Bool
	pinging atomic.Bool
}

func newLedger() *ledger { return &ledger{Sent: make(map[int]int), Received: make(map[int]int)} }

func (l *ledger) sent(session, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Sent[session] = n
}

func (l *ledger) received(session, n int, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Received[session] = n
	l.Delays = append(l.Delays, time.Since(sent))
}

func (l *ledger) wrong(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.Wrong) < 20 {
		l.Wrong = append(l.Wrong, fmt.Sprintf(format, args...))
	}
}

// obey does what the test says on standard input, line by line, until that ends. It
// answers each line with one.
func (l *ledger) obey() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "stop":
			l.stopped.Store(true)
		case "ping":
			l.pinging.Store(true)
		case "quiet":
			l.pinging.Store(false)
		}
		l.mu.Lock()
		if in.Text() == "forget" {
			l.Delays, l.Pings = nil, nil
		}
		answer := &ledger{Wrong: l.Wrong, Sent: l.Sent, Received: l.Received}
		if in.Text() == "tell" {
			answer.Delays, answer.Pings = l.Delays, l.Pings
		}
		b, err := json.Marshal(answer)
		l.mu.Unlock()
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s\n", b)
	}
	os.Exit(0)
}

// send sends messages of a session at a rate until the ledger stops it. write sends one
// message, and another behind it unless that is nil.
func (l *ledger) send(down bool, session int, pause time.Duration, write func(message, next []byte) error) {
	time.Sleep(pause * time.Duration(session%97) / 97)
	for n := 1; !l.stopped.Load(); n++ {
		message, next := proofMessage(down, session, n, time.Now()), []byte(nil)
		if session%7 == 3 {
			n++
			next = proofMessage(down, session, n, time.Now())
		}
		if err := write(message, next); err != nil {
			l.wrong("session %d: message %d is not sent: %v", session, n, err)
			return
		}
		l.sent(session, n)
		wait := pause
		if next != nil {
			wait *= 2
		}
		for end := time.Now().Add(wait); time.Now().Before(end) && !l.stopped.Load(); {
			time.Sleep(min(time.Until(end), 100*time.Millisecond))
		}
	}
}

// halves writes b at once, or with a pause between two parts, so that an upgrade finds
// half of it.
func halves(w io.Writer, b []byte, pause time.Duration) error {
	if pause > 0 {
		half := len(b) / 3
		if _, err := w.Write(b[:half]); err != nil {
			return err
		}
		time.Sleep(pause)
		b = b[half:]
	}
	_, err := w.Write(b)
	return err
}

// proofClientsMain is the program "proof-clients address first number pause pings": so many
// clients, some of which ping during upgrades.
func proofClientsMain() {
	l := newLedger()
	first, number, pings := proofArg(2), proofArg(3), proofArg(5)
	pause := time.Duration(proofArg(4))
	var opened sync.WaitGroup
	limit := make(chan struct{}, 16)
	for i := range number {
		opened.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			c, err := proofLogin(os.Args[1], first+i)
			if err != nil {
				l.wrong("session %d: %v", first+i, err)
				return
			}
			l.converse(c, first+i, pause, i < pings)
		})
	}
	opened.Wait()
	fmt.Println("open")
	l.obey()
}

func proofArg(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

// proofLogin returns a client that has logged in.
func proofLogin(address string, session int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := dialGateway(ctx, address)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	hears := func(times int) {
		for range times {
			if err == nil {
				_, _, _, err = proofFrame(c)
			}
		}
	}
	says := func(text string) {
		if err == nil {
			err = ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(text))))
		}
	}
	err = sendOpen(c, "example.org")
	hears(2)
	says(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHgAeA==</auth>`)
	hears(1)
	if err == nil {
		err = sendOpen(c, "example.org")
	}
	hears(2)
	says(fmt.Sprintf("<presence id='%d'/>", session))
	_ = c.SetDeadline(time.Time{})
	return c, err
}

// proofFrame reads a frame. more is true for a fragment of a message that is not the last.
func proofFrame(r io.Reader) (op ws.OpCode, payload []byte, more bool, err error) {
	h, err := ws.ReadHeader(r)
	if err != nil {
		return 0, nil, false, err
	}
	payload = make([]byte, h.Length)
	_, err = io.ReadFull(r, payload)
	return h.OpCode, payload, !h.Fin, err
}

// converse begins to send and to receive for a client.
func (l *ledger) converse(c net.Conn, session int, pause time.Duration, pings bool) {
	var writing sync.Mutex // a frame at a time
	pongs := make(chan struct{}, 1)
	frames := func(message []byte) (b []byte) {
		var out bytes.Buffer
		parts := [][]byte{message}
		if session%7 == 2 {
			parts = [][]byte{message[:len(message)/2], message[len(message)/2:]}
		}
		for i, part := range parts {
			op := ws.OpText
			if i > 0 {
				op = ws.OpContinuation
			}
			_ = ws.WriteFrame(&out, ws.MaskFrameInPlace(ws.NewFrame(op, i == len(parts)-1, bytes.Clone(part))))
		}
		return out.Bytes()
	}
	go l.send(false, session, pause, func(message, next []byte) error {
		writing.Lock()
		defer writing.Unlock()
		b := frames(message)
		if next != nil {
			b = append(b, frames(next)...)
		}
		return halves(c, b, proofSplit(session, 1))
	})
	go func() {
		r := bufio.NewReader(c)
		var begun []byte // of a message in fragments
		for n := 1; ; {
			op, got, more, err := proofFrame(r)
			switch {
			case err != nil:
				l.wrong("session %d: after %d messages: %v", session, n-1, err)
				return
			case op == ws.OpPong:
				pongs <- struct{}{}
			case op == ws.OpPing:
				writing.Lock()
				_ = ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewPongFrame(got)))
				writing.Unlock()
			case op != ws.OpText && (op != ws.OpContinuation || begun == nil):
				l.wrong("session %d: after %d messages: frame %v %.40q", session, n-1, op, got)
				return
			case more:
				begun = append(begun, got...)
			default:
				got, begun = append(begun, got...), nil
				sent := proofSentAt(got)
				// What is relayed in pieces may need this prefix: nobody knows yet.
				got = bytes.Replace(got, []byte(` xmlns:stream="http://etherx.jabber.org/streams"`), nil, 1)
				if want := proofMessage(true, session, n, time.Unix(0, 0)); !bytes.Equal(got, want) {
					l.wrong("session %d: the client gets %.80q, want %.80q", session, got, want)
					return
				}
				l.received(session, n, sent)
				n++
			}
		}
	}()
	if pings {
		go l.ping(c, &writing, pongs)
	}
}

// proofSplit is the pause between the halves of what a session sends; zero for most.
func proofSplit(session, of int) time.Duration {
	if session%7 != of {
		return 0
	}
	return time.Duration(session%20+1) * time.Millisecond
}

// ping measures how long a session stands still: what the longest ping during an upgrade
// takes. The gateway answers them itself.
func (l *ledger) ping(c net.Conn, writing *sync.Mutex, pongs chan struct{}) {
	for {
		for !l.pinging.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		longest := time.Duration(0)
		for l.pinging.Load() {
			writing.Lock()
			start := time.Now()
			err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewPingFrame([]byte("p"))))
			writing.Unlock()
			if err != nil {
				return
			}
			<-pongs
			longest = max(longest, time.Since(start))
			time.Sleep(3 * time.Millisecond)
		}
		l.mu.Lock()
		l.Pings = append(l.Pings, longest)
		l.mu.Unlock()
	}
}

// proofServerMain is the program "proof-server address pause": an XMPP server that lets
// everybody in.
func proofServerMain() {
	l := newLedger()
	from, err := net.Listen(networkOf(os.Args[1]), os.Args[1])
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := from.Accept()
			if err != nil {
				panic(err)
			}
			go l.serve(c, time.Duration(proofArg(2)))
		}
	}()
	fmt.Println("open")
	l.obey()
}

// serve is the server's side of a session.
func (l *ledger) serve(c net.Conn, pause time.Duration) {
	defer c.Close()
	r := bufio.NewReader(c)
	says := func(text string) { io.WriteString(c, text) }
	const header = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='1' version='1.0'>`
	if !readHeader(r) {
		return
	}
	says(`<?xml version='1.0'?>` + header + `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`)
	if auth, err := r.ReadString('/'); err != nil || !strings.Contains(auth, "<auth") {
		return // a health check
	}
	r.ReadString('>')
	says(`<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`)
	if !readHeader(r) {
		return
	}
	says(header + `<stream:features/>`)
	var session int
	presence, err := r.ReadString('>')
	if _, scanErr := fmt.Sscanf(presence, "<presence id='%d'/>", &session); err != nil || scanErr != nil {
		l.wrong("a session: %q %v", presence, err)
		return
	}
	go l.send(true, session, pause, func(message, next []byte) error {
		return halves(c, append(message, next...), proofSplit(session, 5))
	})
	for n := 1; ; n++ {
		want := proofMessage(false, session, n, time.Unix(0, 0))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil {
			l.wrong("session %d: the server has %d messages, then %v", session, n-1, err)
			return
		}
		sent := proofSentAt(got)
		if !bytes.Equal(got, want) {
			l.wrong("session %d: the server gets %.80q, want %.80q", session, got, want)
			return
		}
		l.received(session, n, sent)
	}
}

// A party is a process that has a ledger.
type party struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startParty returns when all its sessions are open.
func startParty(t *testing.T, name string, args ...any) *party {
	t.Helper()
	p := &party{Cmd: exec.Command(name)}
	for _, a := range args {
		p.Args = append(p.Args, fmt.Sprint(a))
	}
	p.Stderr = os.Stderr
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReaderSize(out, 1<<20)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	if line, err := p.out.ReadString('\n'); line != "open\n" {
		t.Fatalf("%s: %q %v", name, line, err)
	}
	return p
}

// tell sends one word and returns the answer.
func (p *party) tell(t *testing.T, word string) *ledger {
	t.Helper()
	if _, err := io.WriteString(p.in, word+"\n"); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	if err := json.Unmarshal(line, l); err != nil {
		t.Fatal(err)
	}
	for _, w := range l.Wrong {
		t.Error(w)
	}
	if t.Failed() {
		t.FailNow()
	}
	return l
}

// tellAll returns the sum of the answers.
func tellAll(t *testing.T, parties []*party, word string) *ledger {
	t.Helper()
	sum := newLedger()
	for _, p := range parties {
		l := p.tell(t, word)
		maps.Copy(sum.Sent, l.Sent)
		maps.Copy(sum.Received, l.Received)
		sum.Delays, sum.Pings = append(sum.Delays, l.Delays...), append(sum.Pings, l.Pings...)
	}
	slices.Sort(sum.Delays)
	slices.Sort(sum.Pings)
	return sum
}

func (l *ledger) messages() (sent, received int) {
	for _, n := range l.Sent {
		sent += n
	}
	for _, n := range l.Received {
		received += n
	}
	return sent, received
}

// quantiles describes sorted times.
func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(0.5), at(0.99), at(1), len(d))
}

// balance stops the senders and compares the ledgers: all that was sent has to arrive.
func balance(t *testing.T, clients []*party, server *party, sessions int) (sentUp, sentDown int) {
	t.Helper()
	servers := []*party{server}
	tellAll(t, slices.Concat(clients, servers), "stop")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		up, down := tellAll(t, clients, ""), tellAll(t, servers, "")
		sentUp, receivedDown := up.messages()
		sentDown, receivedUp := down.messages()
		switch {
		case sentUp == receivedUp && sentDown == receivedDown:
			if !maps.Equal(up.Sent, down.Received) || !maps.Equal(down.Sent, up.Received) || len(up.Sent) != sessions {
				t.Error("the ledgers differ")
			}
			return sentUp, sentDown
		case time.Now().After(end):
			t.Fatalf("sent %d and %d messages, received %d and %d", sentUp, sentDown, receivedUp, receivedDown)
		}
	}
}

// usage returns what a process holds.
func usage(pid int) (residentKiB, descriptors int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	fmt.Sscan(rss, &residentKiB)
	fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return residentKiB, len(fds)
}

// Sessions exchange messages while the program is replaced again and again, and while new
// processes end or hang before they take over. Each message arrives once, in order, and
// nobody sees the end of a connection.
func TestUpgradeProof(t *testing.T) {
	server := filepath.Join(t.TempDir(), "server")
	pause := 2 * time.Second * time.Duration(*proofSessions) / time.Duration(*proofRate)
	theServer := startParty(t, "proof-server", server, int(pause))
	program := *proofProgram
	if program == "" {
		program, _ = exec.LookPath("xmppgate")
	}
	r := newReplaceable(t, "XMPPGATE_UPSTREAM=unix:"+server)
	install := func() {
		t.Helper()
		b, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		r.replaceBy(b)
	}
	install()
	r.begin()
	const perProcess, pingsPerProcess = 2500, 20
	var clients []*party
	for first := 0; first < *proofSessions; first += perProcess {
		clients = append(clients, startParty(t, "proof-clients", r.dir+"/ws", first, min(perProcess, *proofSessions-first), int(pause), pingsPerProcess))
	}
	all := append(slices.Clone(clients), theServer)

	// What a ping takes without an upgrade, for comparison.
	tellAll(t, clients, "ping")
	time.Sleep(500 * time.Millisecond)
	tellAll(t, clients, "quiet")
	time.Sleep(50 * time.Millisecond)
	calm := tellAll(t, clients, "tell").Pings
	tellAll(t, clients, "forget")

	pid := r.becomesSole()
	var memory, files []int
	begun, failed := time.Now(), 0
	upgrade := func() (out string, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		command := exec.CommandContext(ctx, r.program, "upgrade")
		command.Args[0] = "xmppgate"
		command.Env = r.Env
		b, err := command.CombinedOutput()
		return string(b), err
	}
	faults := faultsWithoutLoss()
	for i := range *proofTimes {
		if *proofFaults {
			fault := faults[i%len(faults)]
			r.between(fault, program)
			if status, body := r.upgrade(); status == http.StatusOK {
				t.Fatalf("%v: the upgrade succeeds: %s", fault, body)
			}
			failed++
			if now := r.becomesSole(); now != pid {
				t.Fatalf("%v: process %d, want %d", fault, now, pid)
			}
		}
		install()
		tellAll(t, clients, "ping")
		if out, err := upgrade(); err != nil {
			t.Fatalf("upgrade %d: %v %s\n%s", i, err, out, r.log())
		}
		next := r.becomesSole()
		tellAll(t, clients, "quiet")
		if next == pid {
			t.Fatal("the same process")
		}
		pid = next
		_, before := tellAll(t, clients, "").messages()
		rss, fds := usage(pid)
		memory, files = append(memory, rss), append(files, fds)
		r.eventually("no message arrives any more", func() bool {
			_, received := tellAll(t, all, "").messages()
			return received > before
		})
	}
	took := time.Since(begun)

	sentUp, sentDown := balance(t, clients, theServer, *proofSessions)
	if _, body := r.get("/metrics"); !strings.Contains(body, fmt.Sprintf("xmppgate_sessions{phase=\"established\"} %d\n", *proofSessions)) {
		t.Errorf("not %d sessions", *proofSessions)
	}
	if log := r.log(); strings.Contains(log, "session ended") || strings.Contains(log, "not taken over") {
		t.Error(log)
	}
	of := tellAll(t, all, "tell")
	t.Logf("%d sessions, %d upgrades and %d that failed in %v", *proofSessions, *proofTimes, failed, took.Round(time.Second))
	t.Logf("messages: %d up, %d down, %.0f a second; lost, doubled, reordered: 0; closes: 0", sentUp, sentDown, float64(sentUp+sentDown)/took.Seconds())
	t.Logf("messages on their way: %s", quantiles(of.Delays))
	t.Logf("longest ping of a session in an upgrade: %s", quantiles(tellAll(t, clients, "tell").Pings))
	t.Logf("the same without upgrade: %s", quantiles(calm))
	t.Logf("resident, KiB: first %d, last %d, min %d, max %d", memory[0], memory[len(memory)-1], slices.Min(memory), slices.Max(memory))
	t.Logf("descriptors: first %d, last %d, min %d, max %d", files[0], files[len(files)-1], slices.Min(files), slices.Max(files))
	syscall.Kill(pid, syscall.SIGKILL)
}
