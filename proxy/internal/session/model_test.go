package session

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/model"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/wstest"
)

// Sessions do what package model says, whatever both ends do. Here a session has a loop
// that is as simple as the contract of package relay allows, so that thousands run in a
// second; the loops themselves are tested with the same actions in package proxy.

var modelTime = flag.Duration("model", 0, "how long to try sessions against the model at random; zero for some from fixed seeds and some more")

// modelConfigs are tried in turn.
var modelConfigs = []model.Config{
	{MaxStanza: 12_000, MaxServerStanza: 10_000, Stalls: true},
	{MaxStanza: 300_000, MaxServerStanza: 400_000, Stalls: true},
	{MaxStanza: 12_000, MaxServerStanza: 10_000, Compression: true},
	{MaxStanza: 12_000, MaxServerStanza: 400_000, Stalls: true, Compression: true},
}

func TestModel(t *testing.T) {
	random := uint64(time.Now().UnixNano())
	t.Logf("random seed %d", random)
	n := 0
	stats := &modelStats{}
	run := func(seed uint64) {
		n++
		r := rand.New(rand.NewPCG(seed, 0))
		cfg := modelConfigs[r.IntN(len(modelConfigs))]
		actions := model.Generate(r, cfg, 5+r.IntN(60))
		why := runModel(cfg, actions, stats)
		if why == "" {
			return
		}
		actions = model.Shrink(actions, func(fewer []model.Action) bool { return runModel(cfg, fewer, nil) != "" })
		t.Fatalf("seed %d, %+v:\n%s", seed, cfg, runModel(cfg, actions, nil))
	}
	begun := time.Now()
	fixed := uint64(2000)
	if testing.Short() {
		fixed = 500
	}
	for i := range fixed {
		run(i)
	}
	if !testing.Short() {
		for _, e := range Endings() {
			switch e.Name {
			case "client-stalled", "server-stalled", "auth-timeout", "failed-logins", "max-age", "denied", "memory-short", "internal":
				continue // the model does not know them
			}
			if stats.endings[e.Name] == 0 {
				t.Errorf("no session has ended as %s: the actions are too few or too dull", e.Name)
			}
		}
		if stats.moved == 0 {
			t.Error("no session has moved to another process")
		}
	}
	for i := uint64(0); i < 200 || time.Since(begun) < *modelTime; i++ {
		run(random + i)
	}
	t.Logf("%d sessions, %d actions in %v: %d moved to another process, endings %v", n, stats.actions, time.Since(begun).Round(time.Millisecond), stats.moved, stats.endings)
}

type modelStats struct {
	actions, moved int
	endings        map[string]int
}

// runModel returns what a session does otherwise than the model, as a transcript, or "".
func runModel(cfg model.Config, actions []model.Action, stats *modelStats) (why string) {
	m := model.New(cfg)
	l := newPlainLoop(cfg)
	var page strings.Builder
	defer func() {
		if r := recover(); r != nil {
			why = fmt.Sprintf("%s# panic: %v", page.String(), r)
		}
	}()
	for i, a := range actions {
		fmt.Fprintln(&page, a)
		want := m.Do(a)
		if m.Unsure {
			return ""
		}
		got := l.do(a)
		fault := l.fault
		switch {
		case fault != "":
		case !want.Matches(got):
			fault = fmt.Sprintf("expected:\n%s# but these are the effects:\n%s", effects(want), effects(got))
		case l.s.ending != endNone && l.s.ending.info().Name != m.Ended, l.s.ending == endNone && m.Ended != "":
			fault = fmt.Sprintf("the ending is %d, not %q", l.s.ending, m.Ended)
		}
		if fault != "" {
			return page.String() + "# ^^^ " + fault
		}
		page.WriteString(effects(got))
		if stats != nil {
			stats.actions++
		}
		if i%3 == 0 && l.move() && stats != nil {
			stats.moved++
		}
	}
	if fault := l.close(); fault != "" {
		return page.String() + "# at the end: " + fault
	}
	if stats != nil {
		if stats.endings == nil {
			stats.endings = make(map[string]int)
		}
		stats.endings[l.s.ending.info().Name]++
	}
	return ""
}

func effects(seen model.Seen) string {
	var b strings.Builder
	for _, end := range []int{model.Server, model.Client} {
		for _, s := range seen[end] {
			if len(s) > 300 {
				s = s[:300] + " and more"
			}
			fmt.Fprintf(&b, "%s %s\n", [...]string{model.Client: "client", model.Server: "server"}[end], s)
		}
	}
	return b.String()
}

// A modelHost notes what a session does with the gateway.
type modelHost struct {
	fakeHost
	connect bool // a server is asked for
	overs   int
	debts   int // servers that are in use
}

func (h *modelHost) Connect(_ *relay.Event, a *Attempt) { h.connect, a.Patience = true, 10*time.Second }
func (h *modelHost) Over(*relay.Event)                  { h.overs++ }

// A plainLoop is the simplest loop: it lets a session do one thing after another.
type plainLoop struct {
	cfg   model.Config
	set   *Settings
	host  *modelHost
	s     *Session
	ev    *relay.Event
	fault string

	unread   [2][]byte // what has arrived and was not read
	win      [2][]byte // what the session wants again of its input
	waits    [2]bool   // it is to be given that before anything is read
	eofs     [2]error  // that are to be told when the side is read
	attached [2]bool
	finished [2]bool
	shut     [2]bool
	gone     [2]bool // the peer has hung up
	hungUp   bool
	refuses  bool
	upgraded bool

	stopped bool
	pending []byte // what a client that does not read has not taken
	out     [2][]byte
	seen    model.Seen
	sawEOF  [2]bool

	parts    []byte
	divided  bool
	deflated bool
	inflater wstest.Inflater
}

func newPlainLoop(cfg model.Config) *plainLoop {
	l := &plainLoop{cfg: cfg, set: testSettings(), host: new(modelHost), s: new(Session), ev: &relay.Event{Now: 1, Conns: new(relay.Conns)}}
	l.set.MaxStanza, l.set.MaxServerStanza = cfg.MaxStanza, cfg.MaxServerStanza
	l.set.Domain = func(to []byte) (string, framing.Condition) {
		name, _ := framing.Unquote(to)
		switch {
		case to == nil:
			return "", framing.CondImproperAddressing
		case name != model.Domain:
			return name, framing.CondHostUnknown
		}
		return name, ""
	}
	l.set.Compression = new(Compression)
	l.set.AcceptCompression = cfg.Compression
	l.set.Compression.SetMemory(1 << 20)
	l.attached[client] = true
	l.s.Init(l.set, l.host, netip.AddrPort{}, false, limit.None)
	request := goodRequest
	if cfg.Compression {
		request += wstest.Offer
	}
	l.event(func(ev *relay.Event) { l.s.Start(ev) })
	l.input(client, []byte(request+"\r\n"))
	head, rest, ok := bytes.Cut(l.out[client], []byte("\r\n\r\n"))
	if !ok || !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || len(rest) > 0 || cfg.Compression != bytes.Contains(head, []byte("permessage-deflate")) {
		panic(fmt.Sprintf("response %q", l.out[client]))
	}
	l.out[client] = nil
	l.upgraded = true
	return l
}

func (l *plainLoop) do(a model.Action) model.Seen {
	l.seen = model.Seen{}
	switch a.Actor + " " + a.Verb {
	case "client sends":
		if !l.gone[client] {
			l.input(client, bytes.Clone(a.Bytes))
		}
	case "server sends":
		if l.attached[server] && !l.gone[server] {
			l.input(server, bytes.Clone(a.Bytes))
		}
	case "client drops":
		l.hangUp(client)
	case "server drops":
		if l.attached[server] {
			l.hangUp(server)
		}
	case "server refuses":
		l.refuses = true
	case "client stops":
		l.stopped = true
	case "client reads":
		l.stopped = false
		if len(l.pending) > 0 {
			l.event(func(ev *relay.Event) {
				l.out[client] = append(l.out[client], l.pending...)
				l.pending, ev.Blocked[client] = nil, false
				l.s.Flushed(ev, client)
			})
		}
		l.read()
	case "gateway stops":
		l.event(l.s.Shutdown)
	case "operator ends":
		l.event(func(ev *relay.Event) { l.s.EndByOperator(ev) })
	case "gateway sheds":
		l.event(l.s.Shed)
	case "time pass":
		l.pass(a.Pass)
	}
	l.look()
	return l.seen
}

func (l *plainLoop) hangUp(sd side) {
	if l.gone[sd] || l.shut[sd] {
		l.gone[sd] = true
		return
	}
	l.gone[sd], l.eofs[sd] = true, io.EOF
	if sd == client {
		// What is written to it is lost.
		if l.stopped = false; len(l.pending) > 0 {
			l.event(func(ev *relay.Event) {
				l.pending, ev.Blocked[client] = nil, false
				l.s.WriteFailed(ev, client, io.ErrClosedPipe)
			})
		}
	}
	l.read()
}

func (l *plainLoop) pass(d time.Duration) {
	for until := l.ev.Now + d; ; {
		due := l.s.Deadline(l.ev.Conns)
		if due == 0 || due > until || l.host.overs > 0 {
			l.ev.Now = until
			return
		}
		l.ev.Now = max(l.ev.Now, due)
		l.event(l.s.Expired)
		if l.s.Deadline(l.ev.Conns) == due {
			l.fault = "the deadline does not move"
			return
		}
	}
}

// mayRead is what a loop may read (see relay).
func (l *plainLoop) mayRead(sd side) bool {
	return l.attached[sd] && !l.shut[sd] && l.s.Reads(l.ev.Conns, sd) && !(l.ev.State[sd] == relay.StateOpen && l.ev.Blocked[1-sd])
}

// event runs f, does what follows from it, and reads what may be read then.
func (l *plainLoop) event(f func(*relay.Event)) {
	if l.host.overs > 0 {
		return
	}
	f(l.ev)
	l.settle()
	l.read()
}

// input is bytes that arrive. They are kept until they may be read.
func (l *plainLoop) input(sd side, b []byte) {
	if l.shut[sd] || l.host.overs > 0 {
		return
	}
	l.unread[sd] = append(l.unread[sd], b...)
	l.read()
}

// read gives the session what has arrived.
func (l *plainLoop) read() {
	for again := true; again && l.host.overs == 0 && l.fault == ""; {
		again = false
		for sd := client; sd <= server; sd++ {
			if l.mayRead(sd) && (l.waits[sd] || len(l.unread[sd]) > 0) {
				if !l.waits[sd] {
					n := min(len(l.unread[sd]), relay.ReadSize)
					l.win[sd] = append(l.win[sd], l.unread[sd][:n]...)
					l.unread[sd] = l.unread[sd][n:]
				}
				// In a buffer of its own, which is spoiled afterwards: the session
				// must not keep a reference to it.
				buf := bytes.Clone(l.win[sd])
				rest := l.s.Receive(l.ev, sd, buf)
				l.waits[sd] = len(rest) > 0 && l.s.Waits(l.ev.Conns, sd)
				l.settle()
				l.win[sd] = bytes.Clone(rest)
				for i := range buf {
					buf[i] = 0xee
				}
				if most := max(l.cfg.MaxStanza, l.cfg.MaxServerStanza) + relay.ReadSize; len(l.win[sd]) > most {
					l.fault = fmt.Sprintf("%d bytes are kept", len(l.win[sd]))
				}
				again = true
			}
			if !l.waits[sd] && len(l.unread[sd]) == 0 && l.eofs[sd] != nil && l.mayRead(sd) && l.ev.State[sd] != relay.StateClosed {
				err := l.eofs[sd]
				l.eofs[sd] = nil
				l.s.EOF(l.ev, sd, err)
				l.settle()
				again = true
			}
		}
		if l.eofs[client] != nil && !l.mayRead(client) && !l.hungUp && l.host.overs == 0 {
			l.hungUp = true
			l.s.HungUp(l.ev)
			l.settle()
			again = true
		}
		if l.host.connect {
			l.host.connect = false
			l.connect()
			again = true
		}
	}
}

func (l *plainLoop) connect() {
	if l.refuses {
		l.s.ConnectFailed(l.ev, io.ErrUnexpectedEOF, "")
	} else {
		l.host.debts++
		l.attached[server] = l.s.Attached(l.ev, &Server{Done: func() { l.host.debts-- }}, false)
		if !l.attached[server] {
			l.fault = "the session does not want its server"
		}
	}
	l.settle()
}

// settle writes the outboxes and acts on the states.
func (l *plainLoop) settle() {
	for sd := client; sd <= server; sd++ {
		for l.ev.Out[sd].Size() > 0 {
			if n := l.ev.Out[sd].Size(); n > 2<<20 {
				l.fault = fmt.Sprintf("%d bytes go out at once", n)
			}
			b := join(l.ev.Out[sd].Take())
			l.s.Counted(l.ev, sd)
			l.ev.Out[sd].Reset()
			switch {
			case !l.attached[sd] || l.shut[sd] || l.finished[sd]:
				l.fault = fmt.Sprintf("%q is written to side %d, which is not open", b, sd)
			case sd == client && l.stopped && l.cfg.Stalls:
				l.pending = append(l.pending, b...)
				l.ev.Blocked[client] = true
			default:
				l.out[sd] = append(l.out[sd], b...)
				l.s.Flushed(l.ev, sd)
			}
		}
	}
	for sd := client; sd <= server; sd++ {
		if !l.attached[sd] || l.shut[sd] {
			continue
		}
		if l.ev.State[sd] == relay.StateFinishing && !l.finished[sd] && !l.ev.Blocked[sd] {
			l.finished[sd] = true
		}
		if l.ev.State[sd] == relay.StateClosed {
			l.shut[sd], l.waits[sd], l.win[sd], l.unread[sd] = true, false, nil, nil
		}
	}
	l.look()
	if l.ev.Conns.Over() && l.host.overs == 0 {
		l.s.Over(l.ev)
	}
}

// look notes what both ends see now.
func (l *plainLoop) look() {
	if !l.upgraded {
		return
	}
	if b := l.out[server]; len(b) > 0 {
		l.note(model.Server, "receives "+string(b))
		l.out[server] = nil
	}
	l.frames()
	for sd := client; sd <= server; sd++ {
		if (l.finished[sd] || l.shut[sd]) && !(sd == client && l.stopped && l.cfg.Stalls) && l.attached[sd] {
			l.note(int(sd), "sees EOF")
		}
	}
}

func (l *plainLoop) note(end int, s string) {
	if l.gone[end] {
		return
	}
	all := l.seen[end]
	switch n := len(all); {
	case s == "sees EOF" && n > 0 && all[n-1] == s:
	case s == "sees EOF" && l.sawEOF[end]:
	case end == model.Server && n > 0 && strings.HasPrefix(s, "receives ") && strings.HasPrefix(all[n-1], "receives "):
		all[n-1] += strings.TrimPrefix(s, "receives ")
	default:
		if s == "sees EOF" {
			l.sawEOF[end] = true
		} else if l.sawEOF[end] {
			l.fault = "bytes behind the end"
		}
		l.seen[end] = append(all, s)
	}
}

// frames reads the frames that the client has got.
func (l *plainLoop) frames() {
	for len(l.out[client]) > 0 {
		r := bytes.NewReader(l.out[client])
		h, err := ws.ReadHeader(r)
		if err != nil || int64(r.Len()) < h.Length {
			l.fault = "part of a frame"
			return
		}
		p := make([]byte, h.Length)
		io.ReadFull(r, p)
		l.out[client] = l.out[client][len(l.out[client])-r.Len():]
		if h.Masked || h.OpCode.IsControl() && (!h.Fin || h.Rsv != 0) || !h.OpCode.IsControl() && l.divided != (h.OpCode == ws.OpContinuation) ||
			h.Rsv != 0 && (!l.cfg.Compression || !h.Rsv1() || l.divided) {
			l.fault = fmt.Sprintf("a bad frame %+v", h)
		}
		switch h.OpCode {
		case ws.OpPing:
			l.note(model.Client, "receives ping "+string(p))
		case ws.OpPong:
			l.note(model.Client, "receives pong "+string(p))
		case ws.OpClose:
			if l.divided {
				l.note(model.Client, "receives part of a message")
			}
			s := "receives close"
			if len(p) >= 2 {
				s += fmt.Sprintf(" %d", binary.BigEndian.Uint16(p))
			}
			if len(p) > 2 {
				s += " " + string(p[2:])
			}
			l.note(model.Client, s)
		default:
			if h.OpCode == ws.OpText {
				l.deflated = h.Rsv1()
			}
			l.parts = append(l.parts, p...)
			if l.divided = !h.Fin; l.divided {
				continue
			}
			text := l.parts
			l.parts = nil
			if l.deflated {
				if text, err = l.inflater.Inflate(text); err != nil {
					l.fault = "a message that cannot be inflated"
				}
			}
			l.note(model.Client, "receives "+string(text))
		}
	}
}

// move lets the session go on in another process, if it is at rest.
func (l *plainLoop) move() bool {
	if l.host.overs > 0 || len(l.win[client])+len(l.unread[client])+len(l.unread[server]) > 0 || len(l.pending) > 0 || l.eofs != [2]error{} {
		return false
	}
	st, err := l.s.State(l.ev.Conns, l.ev.Now)
	if err != nil {
		return false
	}
	if err := st.Check(); err != nil {
		l.fault = err.Error()
		return false
	}
	old := l.s
	l.s = new(Session)
	l.s.Init(l.set, l.host, st.Remote, false, limit.None)
	l.s.Restore(l.ev, st, &Server{Name: st.Server, Done: func() { l.host.debts-- }})
	old.Leave()
	l.host.debts++
	l.settle()
	return true
}

// close ends the session in whatever state it is, and returns what is left of it.
func (l *plainLoop) close() string {
	l.hangUp(client)
	if l.attached[server] {
		l.hangUp(server)
	}
	l.pass(2 * time.Minute)
	switch c := l.set.Compression.Info(); {
	case l.fault != "":
		return l.fault
	case l.host.overs != 1:
		return fmt.Sprintf("Over was called %d times, states %v", l.host.overs, l.ev.State)
	case l.host.debts != 0:
		return fmt.Sprintf("%d servers are in use", l.host.debts)
	case c.Memory != 0 || c.Sessions != 0:
		return fmt.Sprintf("%d bytes of compression are in use", c.Memory)
	}
	return ""
}
