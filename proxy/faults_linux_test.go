package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy/internal/loop/polltls"
	"xmppgate/proxy/internal/wstest"
	"xmppgate/proxy/upstream"
)

// The table of faults in docs/reliability.md: what becomes of a session when one end does
// one of faults in one of faultPhases. Both loops have to agree on every cell.

// A faultPhase is where a session is when one end goes wrong.
type faultPhase struct {
	name   string
	server bool // it is the server that goes wrong
	// secure tells that the end has yet to begin TLS, raw that the client has yet to
	// send its request.
	secure, raw bool
	steps       string // a transcript that leads there
	next, wrong string // what comes next on the wire, and what must not
}

func (p faultPhase) who() string {
	if p.server {
		return "server"
	}
	return "client"
}

const (
	faultFeatures = `
server sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client receives <stream:features xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
`
	faultAuth = faultFeatures + `client sends <auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>
server receives <auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>
`
	faultOpen = `client sends <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="proto.test" version="1.0"/>
server receives <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to="proto.test" version="1.0">
`
)

var (
	frameOfMessage = string(wstest.Frame(1, true, []byte("<message><body>"+strings.Repeat("x", 300)+"</body></message>")))
	binaryFrame    = string(wstest.Frame(2, true, []byte("<presence/>")))
	elementOfXML   = "<message><body>" + strings.Repeat("x", 300) + "</body></message>"
)

var faultPhases = []faultPhase{
	{name: "TLS handshake", secure: true, raw: true, wrong: "GET /xmpp-websocket HTTP/1.1\r\n\r\n"},
	{name: "HTTP request", raw: true, next: goodRequest, wrong: "GET /xmpp-websocket HTTP/1.1\r\nHost gw\r\n\r\n"},
	{name: "before `<open/>`", next: string(wstest.Frame(1, true, []byte(testOpen))), wrong: string(wstest.Frame(1, true, []byte("<iq/>")))},
	{name: "features known", steps: "session opens" + faultFeatures, next: frameOfMessage, wrong: string(wstest.Frame(1, true, []byte(testOpen)))},
	{name: "login under way", steps: "session opens" + faultAuth, next: frameOfMessage, wrong: string(wstest.Frame(1, true, []byte("<a></b>")))},
	{name: "logged in", steps: "session logs in\n", next: frameOfMessage, wrong: binaryFrame},
	{name: "within a message", steps: "session logs in\nclient sends frame 0184 00000000 3c613e78\n", next: string(wstest.Frame(0, true, []byte(strings.Repeat("x", 300)+"</a>"))), wrong: frameOfMessage},
	{name: "asked to close", steps: "session logs in\nserver sends </stream:stream>\nclient receives <close xmlns=\"urn:ietf:params:xml:ns:xmpp-framing\" />\n", next: string(wstest.Frame(1, true, []byte(`<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`))), wrong: binaryFrame},

	{name: "TLS handshake", server: true, secure: true, steps: "", wrong: "<stream:error/>"},
	{name: "stream header awaited", server: true, steps: faultOpen, next: testHeader, wrong: "220 mail.example.org ESMTP\r\n"},
	{name: "features awaited", server: true, steps: "session opens\n", next: "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>", wrong: "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"},
	{name: "login under way", server: true, steps: "session opens" + faultAuth, next: "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", wrong: testHeader},
	{name: "logged in", server: true, steps: "session logs in\n", next: elementOfXML, wrong: "<!-- x -->"},
	{name: "within an element", server: true, steps: "session logs in\nserver sends <message><body>\n", next: elementOfXML[len("<message><body>"):], wrong: "\xff</body></message>"},
	{name: "asked to close", server: true, steps: "session logs in\nclient sends <close xmlns=\"urn:ietf:params:xml:ns:xmpp-framing\"/>\nserver receives </stream:stream>\n", next: elementOfXML, wrong: "<!-- x -->"},
}

// faults are what an end does. It sends nothing more, and reads what it gets.
var faults = []string{"stall", "dribble", "reset", "half-close", "wrong answer", "close within a TLS record"}

// A cuttable connection can break off within what TLS writes.
type cuttable struct {
	net.Conn
	cut atomic.Bool
}

func (c *cuttable) Write(b []byte) (int, error) {
	if !c.cut.Load() {
		return c.Conn.Write(b)
	}
	n, _ := c.Conn.Write(b[:len(b)/2])
	c.Conn.Close()
	return n, net.ErrClosed
}

// A faultWorld has connections that can be reset and closed one way.
type faultWorld interface {
	world
	// secure adds TLS to the gateway's end of a server's connection.
	secure(net.Conn) secureClient
	// reset ends a connection as a peer does that is gone.
	reset(net.Conn)
}

type secureClient interface {
	net.Conn
	HandshakeContext(context.Context) error
}

// faultSockets is the world of the epoll loop.
type faultSockets struct{ sockets }

func (w *faultSockets) pipe(t *testing.T) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func (w *faultSockets) secure(c net.Conn) secureClient {
	return polltls.Client(c, polltls.Config(&tls.Config{InsecureSkipVerify: true}))
}

func (w *faultSockets) reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// faultBubble is the world of the goroutine loop.
type faultBubble struct{ bubble }

func (w *faultBubble) gateway(g *Gateway) {
	w.bubble.gateway(g)
	g.Certificate = oneCertificate
}

func (w *faultBubble) pipe(*testing.T) (near, far net.Conn) {
	a, b := net.Pipe()
	c, d := net.Pipe()
	isReset := new(atomic.Bool)
	return &duplex{a, c, isReset}, &duplex{d, b, isReset}
}

func (w *faultBubble) secure(c net.Conn) secureClient {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
}

func (w *faultBubble) reset(c net.Conn) {
	c.(*duplex).isReset.Store(true)
	c.Close()
}

// A duplex is a pipe that can be closed one way, and reset.
type duplex struct {
	r, w    net.Conn
	isReset *atomic.Bool
}

func (d *duplex) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	if err != nil && d.isReset.Load() {
		err = &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	}
	return n, err
}
func (d *duplex) Write(b []byte) (int, error)        { return d.w.Write(b) }
func (d *duplex) CloseWrite() error                  { return d.w.Close() }
func (d *duplex) Close() error                       { return errors.Join(d.w.Close(), d.r.Close()) }
func (d *duplex) LocalAddr() net.Addr                { return d.r.LocalAddr() }
func (d *duplex) RemoteAddr() net.Addr               { return d.r.RemoteAddr() }
func (d *duplex) SetReadDeadline(t time.Time) error  { return d.r.SetReadDeadline(t) }
func (d *duplex) SetWriteDeadline(t time.Time) error { return d.w.SetWriteDeadline(t) }
func (d *duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.SetReadDeadline(t), d.SetWriteDeadline(t))
}

// A faultWitness notes the first end of what it is told.
type faultWitness struct {
	nopObserver
	mu  sync.Mutex
	end string
}

func (o *faultWitness) note(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end == "" {
		o.end = s
	}
}

func (o *faultWitness) ended() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}

func (o *faultWitness) Ended(s *EndedSession) { o.note(s.Ending) }
func (o *faultWitness) Upgraded(result string, _ time.Duration) {
	if result != "ok" {
		o.note(result)
	}
}

// A faultRun is one cell on one loop.
type faultRun struct {
	*stage
	w      faultWorld
	p      faultPhase
	fault  string
	o      *faultWitness
	raw    [2]net.Conn // by side, without TLS
	cut    [2]*cuttable
	secure bool // the side that goes wrong speaks TLS
}

// cell returns what becomes of a session.
func (p faultPhase) cell(t *testing.T, w faultWorld, fault string) string {
	r := &faultRun{w: w, p: p, fault: fault, o: new(faultWitness), secure: p.secure || fault == "close within a TLS record"}
	g := &Gateway{Config: Config{Observer: r.o, AuthTimeout: 90 * time.Second}}
	r.stage = newStage(t, w, g, chunkings["whole"])
	g.Dial = r.dialFault
	near, far := w.pipe(t)
	r.raw[client], r.cut[client] = near, &cuttable{Conn: near}
	r.client = near
	overTLS := r.secure && !p.server
	if overTLS {
		g.init()
		g.loop.Start(far, tlsAcceptor{g})
		if !p.secure {
			r.client = tls.Client(r.cut[client], &tls.Config{InsecureSkipVerify: true})
		}
	} else {
		g.serveConn(far)
	}
	if !p.raw {
		io.WriteString(r.client, goodRequest+"\r\n")
		readResponse(t, r.client)
		go r.readClient(false)
	} else if overTLS && !p.secure {
		if err := r.client.(*tls.Conn).Handshake(); err != nil {
			t.Fatal(err)
		}
	}
	if p.raw {
		go io.Copy(io.Discard, r.client)
	}
	w.settle(func() bool { return true })
	r.follow(p.steps)
	if p.secure && p.server {
		r.perform([]line{{actor: "client", verb: "sends", payload: testOpen}})
		w.settle(func() bool { return r.serverEnd() != nil })
	}
	r.take()
	took := r.happen()
	// What follows of it.
	for i := 0; i < 20 && r.over() && r.o.ended() == ""; i++ {
		w.pass(time.Second)
	}
	seen := r.take()
	end := r.o.ended()
	r.close()
	w.settle(func() bool { return true })
	if s, ok := w.(*faultSockets); ok {
		(&modelSockets{sockets: sockets{g: g}, all: []*Gateway{g}}).finishAt(t, &s.now)
	} else if err := g.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if n := len(g.sessions()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if end == "" {
		return "goes on"
	}
	return fmt.Sprintf("`%s` %s%s", end, took, r.told(seen))
}

// follow plays the steps of a transcript.
func (r *faultRun) follow(steps string) {
	if steps == "" {
		return
	}
	lines := parseTranscript(r.t, steps)
	for i := 0; i < len(lines); {
		l := lines[i]
		i++
		if l.actor == "" {
			continue
		}
		want := map[string][]string{}
		for ; i < len(lines) && (lines[i].effect || lines[i].actor == ""); i++ {
			if lines[i].effect {
				want[lines[i].actor] = record(want[lines[i].actor], lines[i].actor, describe(lines[i]))
			}
		}
		r.perform([]line{l})
		r.w.settle(func() bool { return r.writing.Load() == 0 && r.arrived(want) })
		if !r.arrived(want) {
			r.t.Fatalf("%s, %s: after %q came %q", r.p.name, r.fault, l.text, r.take())
		}
		r.take()
	}
}

// dialFault connects to a server whose connection is r.raw.
func (r *faultRun) dialFault(ctx context.Context, _ *upstream.Request) (*upstream.Stream, error) {
	near, far := r.w.pipe(r.t)
	conn, end := near, far
	overTLS := r.secure && r.p.server
	r.mu.Lock()
	r.raw[server], r.cut[server] = far, &cuttable{Conn: far}
	if overTLS && !r.p.secure {
		end = tls.Server(r.cut[server], &tls.Config{Certificates: []tls.Certificate{testCertificate()}})
	}
	r.server = end
	r.mu.Unlock()
	go r.readServer(end)
	if overTLS {
		c := r.w.secure(near)
		if err := c.HandshakeContext(ctx); err != nil {
			near.Close()
			return nil, err
		}
		conn = c
	}
	return &upstream.Stream{Conn: conn}, nil
}

// happen lets the fault happen, and returns how long the session lasted then.
func (r *faultRun) happen() (took string) {
	sd, end := client, r.client
	if r.p.server {
		sd, end = server, r.serverEnd()
	}
	next := r.p.next
	if r.p.secure {
		next = r.hello()
	}
	dribble := ""
	switch r.fault {
	case "dribble":
		dribble = next
	case "reset":
		r.w.reset(r.raw[sd])
	case "half-close":
		r.raw[sd].(interface{ CloseWrite() error }).CloseWrite()
	case "wrong answer":
		r.say(end, r.p.wrong)
	case "close within a TLS record":
		if r.p.secure {
			r.say(end, next[:len(next)/2])
			r.w.settle(func() bool { return true })
			end.Close()
		} else {
			r.cut[sd].cut.Store(true)
			r.say(end, next)
		}
	}
	r.w.settle(func() bool { return r.writing.Load() == 0 })
	if r.fault != "stall" && r.fault != "dribble" {
		// What is told to other goroutines, TLS for example, needs a moment, but
		// no time of the session.
		begun := time.Now()
		for r.o.ended() == "" && !r.over() && time.Since(begun) < 2*time.Second {
			r.w.settle(func() bool { return true })
			time.Sleep(time.Millisecond)
		}
	}
	const stride = time.Second
	for t := time.Duration(0); t < 100*time.Second; t += stride {
		if r.o.ended() != "" || r.over() {
			return within(t)
		}
		if len(dribble) > 1 {
			r.say(end, dribble[:1])
			dribble = dribble[1:]
		}
		if r.p.server && t%(20*time.Second) == 0 { // the client is well
			r.say(r.client, string(wstest.Frame(10, true, nil)))
		}
		r.w.pass(stride)
	}
	return within(100 * time.Second)
}

// over reports whether the session is ending.
func (r *faultRun) over() (over bool) {
	over = true
	for _, s := range r.g.sessions() {
		s.handle.View(func() { over = s.s.Ends() })
	}
	return over
}

// within is a time in the words of the table. The loops keep time to a second or so.
func within(d time.Duration) string {
	if d <= 1500*time.Millisecond {
		return "at once"
	}
	for _, most := range []int{5, 10, 30, 60, 90} {
		if d <= time.Duration(most)*time.Second+2500*time.Millisecond {
			return fmt.Sprintf("within %d s", most)
		}
	}
	return "later"
}

func (r *faultRun) say(end io.Writer, s string) {
	r.writing.Add(1)
	go func() {
		defer r.writing.Add(-1)
		io.WriteString(end, s)
	}()
	r.w.settle(func() bool { return r.writing.Load() == 0 })
}

// hello is the first flight of TLS of the end that goes wrong.
func (r *faultRun) hello() string {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		if r.p.server {
			tls.Server(a, &tls.Config{Certificates: []tls.Certificate{testCertificate()}}).Handshake()
		} else {
			tls.Client(a, &tls.Config{InsecureSkipVerify: true}).Handshake()
		}
		a.Close()
	}()
	if r.p.server {
		return "\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + strings.Repeat("r", 60) // the beginning of a ServerHello
	}
	buf := make([]byte, 4<<10)
	n, _ := b.Read(buf)
	return string(buf[:n])
}

// told is what the other side, or both, get.
func (r *faultRun) told(seen map[string][]string) string {
	var words []string
	if r.p.server || r.fault == "wrong answer" {
		for _, e := range seen["client"] {
			switch p := strings.TrimPrefix(e, "receives "); {
			case strings.HasPrefix(p, "<stream:error"):
				_, rest, _ := strings.Cut(p, "><")
				name, _, _ := strings.Cut(rest, " ")
				words = append(words, "`"+name+"`")
			case strings.HasPrefix(p, "<close"):
				words = append(words, "`<close/>`")
			case strings.HasPrefix(p, "close"):
				if f := strings.Fields(p); len(f) > 1 {
					words = append(words, f[1])
				}
			}
		}
	}
	if r.raw[server] != nil {
		tag := false
		for _, e := range seen["server"] {
			tag = tag || strings.Contains(e, "</stream:stream>")
		}
		if tag {
			words = append(words, "`</stream:stream>`")
		}
		if tag && !r.p.server && r.fault != "wrong answer" && r.fault != "dribble" && r.p.name != "asked to close" {
			r.t.Errorf("%s, %s: a client that is gone ends its stream", r.p.name, r.fault)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return ": " + strings.Join(words, ", ")
}

const reliability = "../docs/reliability.md"

func TestFaultTable(t *testing.T) {
	cells := make([][]string, len(faultPhases))
	t.Run("cells", func(t *testing.T) {
		for i, p := range faultPhases {
			cells[i] = make([]string, len(faults))
			for j, f := range faults {
				t.Run(fmt.Sprintf("%s, %s, %s", p.who(), p.name, f), func(t *testing.T) {
					t.Parallel()
					epoll := p.cell(t, new(faultSockets), f)
					var goroutines string
					synctest.Test(t, func(t *testing.T) { goroutines = p.cell(t, new(faultBubble), f) })
					if epoll != goroutines {
						t.Errorf("%s with epoll, %s with goroutines", epoll, goroutines)
					}
					cells[i][j] = epoll
				})
			}
		}
	})
	var b strings.Builder
	fmt.Fprintf(&b, "| who, and when | %s |\n|---|%s\n", strings.Join(faults, " | "), strings.Repeat("---|", len(faults)))
	for i, p := range faultPhases {
		fmt.Fprintf(&b, "| %s, %s | %s |\n", p.who(), p.name, strings.Join(cells[i], " | "))
	}
	old, write := pageBlock(t, reliability, "faults")
	switch {
	case old == b.String():
	case *update:
		write(b.String())
	default:
		t.Errorf("run: go test ./proxy -run FaultTable -update\n%s has\n%s\nwant\n%s", reliability, old, b.String())
	}
}
