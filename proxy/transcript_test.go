package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"golang.org/x/tools/txtar"

	"xmppgate/framing"
	"xmppgate/proxy/internal/model"
	"xmppgate/proxy/internal/wstest"
	"xmppgate/proxy/upstream"
)

var update = flag.Bool("update", false, "rewrite the effects in testdata with what happened")

// A transcript is testdata/*.txtar: what both ends do and what the gateway
// must do about it, in the order of the page.
//
//	actor sends …      a stimulus
//	actor receives …   an effect of the stimulus above it
//
// A stimulus with its effects is a step. After the stimulus the runner waits
// until every goroutine of the gateway is idle, then compares all that has
// arrived on both wires: what is not on the page must not happen.
//
//	client sends <xml/>            a text message
//	client sends ping|pong|binary PAYLOAD, close [CODE [REASON]], frame HEX
//	client drops                   the connection ends without a Close frame
//	client stops reading, client reads
//	server sends BYTES
//	server drops
//	server refuses                 the next dial fails
//	server hangs                   the next dial does not come to an end
//	gateway stops                  Shutdown is called
//	operator ends                  End is called for all sessions
//	gateway denies NETWORK         Deny is called
//	gateway sheds                  SetOverload is called
//	30s pass
//	client receives …, client sees EOF, server receives BYTES, server sees EOF
//	session opens, session logs in the usual steps
//
// A payload is the text to the end of the line, a Go string literal, or the
// following lines indented by one tab. {c*N} stands for N times c.
//
// Every transcript is played in each of the chunkings; the page must not
// depend on it. A file named chunking lists the ones that apply.

// The usual steps.
const (
	sessionOpens = `client sends <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="proto.test" version="1.0"/>
server receives <?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to="proto.test" version="1.0">
server sends <?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='i1' version='1.0' xml:lang='en' xmlns='jabber:client' from='proto.test'>
client receives <open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from='proto.test' id='i1' version='1.0' xml:lang='en'/>`

	sessionLogsIn = sessionOpens + `
server sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client receives <stream:features xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client sends <auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>
server receives <auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>
server sends <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
client receives <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
` + sessionOpens
)

// A chunking cuts the bytes of one stimulus into writes. fragments makes more
// than one frame of a text message; coalesce makes one stimulus of adjacent
// sends of one actor.
type chunking struct {
	cut       func([]byte) [][]byte
	fragments int
	coalesce  bool
}

func whole(b []byte) [][]byte { return [][]byte{b} }

var chunkings = map[string]chunking{
	"whole":     {cut: whole},
	"halves":    {cut: func(b []byte) [][]byte { return [][]byte{b[:len(b)/2], b[len(b)/2:]} }},
	"fragments": {cut: whole, fragments: 3},
	"coalesced": {cut: whole, coalesce: true},
	"bytes": {cut: func(b []byte) (all [][]byte) {
		if len(b) > 1<<14 { // large ones: enough cuts, in less time
			return slices.Collect(slices.Chunk(b, 1021))
		}
		return slices.Collect(slices.Chunk(b, 1))
	}},
}

// A world is where a transcript is played: in a bubble with a fake clock and
// pipes, for the goroutine loop, or on real sockets for the loop of the
// platform.
type world interface {
	gateway(*Gateway)
	pipe(t *testing.T) (near, far net.Conn)
	// connect connects a client to g.
	connect(t *testing.T, g *Gateway) net.Conn
	pass(d time.Duration)
	// settle waits until nothing more happens; arrived tells that all that
	// is expected has.
	settle(arrived func() bool)
}

type bubble struct{}

func (bubble) gateway(g *Gateway)                   { g.Loop = LoopGoroutine }
func (bubble) pipe(*testing.T) (near, far net.Conn) { return net.Pipe() }
func (w bubble) connect(t *testing.T, g *Gateway) net.Conn {
	conn, far := w.pipe(t)
	g.serveConn(far)
	return conn
}
func (bubble) pass(d time.Duration) { time.Sleep(d) }
func (bubble) settle(func() bool)   { synctest.Wait() }

// archives yields the files that match pattern; there must be some.
func archives(t *testing.T, pattern string) iter.Seq2[string, *txtar.Archive] {
	return func(yield func(string, *txtar.Archive) bool) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files: %v", pattern, err)
		}
		for _, file := range files {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(file, ar) {
				return
			}
		}
	}
}

// eachTranscript calls f for every file and chunking.
func eachTranscript(t *testing.T, f func(t *testing.T, file string, ar *txtar.Archive, c chunking, first bool)) {
	for file, ar := range archives(t, "testdata/*.txtar") {
		names := slices.Sorted(maps.Keys(chunkings))
		if only := section(ar, "chunking"); only != nil {
			names = strings.Fields(string(only))
		}
		for _, name := range names {
			c, ok := chunkings[name]
			if !ok {
				t.Fatalf("%s: unknown chunking %q; there are %v", file, name, slices.Sorted(maps.Keys(chunkings)))
			}
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+name, func(t *testing.T) {
				f(t, file, ar, c, name == names[0])
			})
		}
	}
}

func TestTranscripts(t *testing.T) {
	eachTranscript(t, func(t *testing.T, file string, ar *txtar.Archive, c chunking, first bool) {
		synctest.Test(t, func(t *testing.T) {
			happened, ok := play(t, ar, c, bubble{})
			switch {
			case *update && first:
				for i := range ar.Files {
					if ar.Files[i].Name == "transcript" {
						ar.Files[i].Data = []byte(happened)
					}
				}
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			case !ok:
				about, _, _ := strings.Cut(string(ar.Comment), "\n")
				t.Errorf("%s: %s\n%s\nIf the effects are right: go test ./proxy -run '%s' -update", file, about, happened, path.Dir(t.Name()))
			}
		})
	})
}

func section(ar *txtar.Archive, name string) []byte {
	for _, f := range ar.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

// A line is one event of a transcript.
type line struct {
	text    string // as it stands in the file, with its continuation
	actor   string
	verb    string
	payload string
	effect  bool
	derived bool // from one of the usual steps
}

var (
	usual  = map[string]string{"session opens": sessionOpens, "session logs in": sessionLogsIn}
	repeat = regexp.MustCompile(`\{(.)\*(\d+)\}`)
)

// parseTranscript reads events; blank lines and comments become lines without
// an actor.
func parseTranscript(t *testing.T, src string) (lines []line) {
	t.Helper()
	rows := strings.Split(strings.TrimSuffix(src, "\n"), "\n")
	for i := 0; i < len(rows); i++ {
		row := rows[i]
		if row == "" || row[0] == '#' {
			lines = append(lines, line{text: row})
			continue
		}
		if steps, ok := usual[row]; ok {
			for j, l := range parseTranscript(t, steps) {
				l.derived = true
				l.text = ""
				if j == 0 {
					l.text = row
				}
				lines = append(lines, l)
			}
			continue
		}
		l := line{text: row}
		f := strings.SplitN(row, " ", 3)
		if len(f) == 2 && f[1] == "pass" {
			l.actor, l.verb, l.payload = "time", "pass", f[0]
			lines = append(lines, l)
			continue
		}
		if len(f) < 2 {
			t.Fatalf("line %d: %q is not an event; testdata/README.md lists them", i+1, row)
		}
		l.actor, l.verb = f[0], f[1]
		if len(f) == 3 {
			l.payload = f[2]
		}
		if l.payload == "" && i+1 < len(rows) && strings.HasPrefix(rows[i+1], "\t") {
			var text []string
			for i+1 < len(rows) && strings.HasPrefix(rows[i+1], "\t") {
				i++
				text = append(text, rows[i][1:])
			}
			l.payload = strings.Join(text, "\n")
			l.text += "\n\t" + strings.Join(text, "\n\t")
		}
		l.payload = expand(t, i+1, l.payload)
		switch l.actor + " " + l.verb {
		case "client receives", "server receives", "client sees", "server sees":
			l.effect = true
		case "client sends", "client drops", "client stops", "client reads", "server sends", "server drops", "server refuses", "server hangs", "gateway stops", "gateway denies", "gateway sheds", "operator ends":
		default:
			t.Fatalf("line %d: %q is not an event; testdata/README.md lists them", i+1, row)
		}
		lines = append(lines, l)
	}
	return lines
}

func expand(t *testing.T, at int, s string) string {
	if kind, rest, ok := strings.Cut(s, " "); ok && (kind == "ping" || kind == "pong" || kind == "binary" || kind == "compressed") {
		return kind + " " + expand(t, at, rest)
	}
	if strings.HasPrefix(s, `"`) {
		u, err := strconv.Unquote(s)
		if err != nil {
			t.Fatalf("line %d: %s: %v", at, s, err)
		}
		s = u
	}
	return repeat.ReplaceAllStringFunc(s, func(m string) string {
		f := repeat.FindStringSubmatch(m)
		n, _ := strconv.Atoi(f[2])
		return strings.Repeat(f[1], n)
	})
}

// shorten is the inverse of expand, for the page.
func shorten(s string) string {
	s = model.Shorten(s)
	if s != strings.TrimSpace(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0xfffd }) || s == "" || s[0] == '"' {
		return strconv.Quote(s)
	}
	return s
}

// A stage is the two ends of one session and what has arrived there.
type stage struct {
	t     *testing.T
	world world
	g     *Gateway
	c     chunking
	// upstream is the name of the servers, of which Dial chooses one; empty
	// where there is no choice.
	upstream string
	client   net.Conn
	server   net.Conn                 // nil before the dial
	writing  atomic.Int32             // goroutines that write for the script
	written  map[string]chan struct{} // by actor, the end of its last write

	mu       sync.Mutex // the fake clock gives no happens-before
	refuses  bool
	hangs    bool
	resume   chan struct{}
	received map[string][]string // by actor
}

// env makes a gateway of the environment variables of a file.
func env(t *testing.T, src []byte) *Gateway {
	g := &Gateway{}
	for row := range strings.Lines(string(src)) {
		k, v, _ := strings.Cut(strings.TrimSpace(row), "=")
		var err error
		switch k {
		case "":
		case "XMPPGATE_DOMAINS":
			g.Domains = strings.Split(v, ",")
		case "XMPPGATE_ORIGINS":
			for o := range strings.SplitSeq(v, ",") {
				var p OriginPattern
				if p, err = ParseOriginPattern(o); err != nil {
					break
				}
				g.AllowedOrigins = append(g.AllowedOrigins, p)
			}
		case "XMPPGATE_PUBLIC_URL":
			g.PublicURL = v
			defer func() {
				if err := g.CheckPublicURL(); err != nil {
					t.Fatal(err)
				}
			}()
		case "XMPPGATE_PATH":
			g.Paths = strings.Split(v, ",")
		case "XMPPGATE_MAX_STANZA_BYTES":
			g.MaxStanza, err = strconv.Atoi(v)
		case "XMPPGATE_MAX_SERVER_STANZA_BYTES":
			g.MaxServerStanza, err = strconv.Atoi(v)
		case "XMPPGATE_MAX_SESSIONS":
			g.MaxSessions, err = strconv.Atoi(v)
		case "XMPPGATE_COMPRESSION":
			g.Compression = v == "on"
		case "XMPPGATE_COMPRESSION_MEMORY":
			g.CompressionMemory, err = strconv.ParseInt(v, 10, 64)
		case "XMPPGATE_SEE_OTHER":
			from, to, _ := strings.Cut(v, "=")
			g.SeeOther = map[string]string{from: to}
		case "XMPPGATE_CHANNEL_BINDING":
			g.ChannelBinding = map[string]framing.ChannelBinding{"strip": framing.ChannelBindingStrip, "end-point": framing.ChannelBindingEndPoint}[v]
		case "XMPPGATE_TRUSTED_PROXIES":
			g.ClientAddress.Unix = v == "unix" // a pipe has no address, either
		case "XMPPGATE_LOG_JIDS":
			g.LogJIDs, err = strconv.ParseBool(v)
		case "XMPPGATE_UPSTREAM": // see stage.upstream
		case "XMPPGATE_PING_INTERVAL":
			g.PingInterval, err = time.ParseDuration(v)
		case "XMPPGATE_STANZA_RATE":
			g.StanzaRate, err = strconv.Atoi(v)
		case "XMPPGATE_AUTH_TIMEOUT":
			g.AuthTimeout, err = time.ParseDuration(v)
		case "XMPPGATE_MAX_SESSION_AGE":
			g.MaxSessionAge, err = time.ParseDuration(v)
		case "XMPPGATE_NETWORK_FAILED_LOGINS":
			r := &g.NetworkLimits.FailedLogins
			_, err = fmt.Sscanf(v, "%g/s:%d", &r.PerSecond, &r.Burst)
		default:
			t.Fatalf("env: unknown variable %q; add it to env in transcript_test.go", k)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// play performs a transcript and returns the page as it happened.
func play(t *testing.T, ar *txtar.Archive, c chunking, world world) (happened string, ok bool) {
	st := newStage(t, world, env(t, section(ar, "env")), c)
	if _, names, ok := strings.Cut(string(section(ar, "env")), "XMPPGATE_UPSTREAM="); ok {
		st.upstream, _, _ = strings.Cut(names, "\n")
	}
	outcomes := new(outcomes)
	if st.g.Observer == nil {
		st.g.Observer = outcomes
	}
	lines := parseTranscript(t, string(section(ar, "transcript")))

	st.connect(section(ar, "headers"))

	var page []string
	ok = true
	for i := 0; i < len(lines); {
		l := lines[i]
		i++
		if l.actor == "" {
			page = append(page, l.text)
			continue
		}
		if l.effect {
			t.Fatalf("%q is an effect without a stimulus above it", l.text)
		}
		want := map[string][]string{}
		var wantLines []line
		batch := []line{l}
		asked := false // the server has got a header, what follows answers that
		for ; i < len(lines) && (lines[i].effect || st.joins(l, lines[i]) && !asked); i++ {
			asked = asked || lines[i].actor == "server" && lines[i].verb == "receives" && strings.HasPrefix(lines[i].payload, "<?xml")
			if !lines[i].effect {
				batch = append(batch, lines[i])
				continue
			}
			wantLines = append(wantLines, lines[i])
			want[lines[i].actor] = record(want[lines[i].actor], lines[i].actor, describe(lines[i]))
		}
		st.perform(batch)
		world.settle(func() bool { return st.writing.Load() == 0 && st.arrived(want) })
		same := st.arrived(want)
		got := st.take()
		for _, b := range batch {
			if b.text != "" {
				page = append(page, b.text)
			}
		}
		if same {
			for _, w := range wantLines {
				if w.text != "" {
					page = append(page, w.text)
				}
			}
			continue
		}
		ok = false
		if !*update {
			page = append(page, "# ^^^ expected:")
			for _, w := range wantLines {
				page = append(page, "#   "+w.actor+" "+pretty(describe(w)))
			}
			page = append(page, "# but these are the effects:")
		}
		for _, actor := range []string{"server", "client"} {
			for _, e := range got[actor] {
				page = append(page, actor+" "+pretty(e))
			}
		}
		if !*update {
			break
		}
	}
	st.close()
	world.settle(func() bool { return len(st.g.sessions()) == 0 })
	outcomes.compare(t, ar)
	return strings.Join(page, "\n") + "\n", ok
}

// newStage makes a stage for a session of g.
func newStage(t *testing.T, world world, g *Gateway, c chunking) *stage {
	st := &stage{t: t, world: world, c: c, g: g, received: make(map[string][]string), written: make(map[string]chan struct{})}
	g.streamID = func() string { return "gw1" }
	g.Dial = st.dial
	world.gateway(g)
	return st
}

// connect connects the client, up to the answer to its request. Without other headers it
// offers compression where the gateway knows that.
func (st *stage) connect(headers []byte) {
	st.client = st.world.connect(st.t, st.g)
	if st.g.Config.Compression && len(headers) == 0 {
		headers = []byte(strings.ReplaceAll(wstest.Offer, "\r\n", "\n"))
	}
	if _, err := io.WriteString(st.client, "GET /xmpp-websocket HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"+
		st.extraHeaders(headers)+"\r\n"); err != nil {
		st.t.Fatal(err)
	}
	readResponse(st.t, st.client)
	go st.readClient(st.g.Config.Compression)
	st.world.settle(func() bool { return len(st.g.sessions()) == 1 })
}

// close closes both ends.
func (st *stage) close() {
	st.client.Close()
	if srv := st.serverEnd(); srv != nil {
		srv.Close()
	}
	st.reads()
}

// outcomes notes what becomes of logins and the like, one a line.
type outcomes struct {
	nopObserver
	mu   sync.Mutex
	text strings.Builder
}

func (o *outcomes) note(words ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.WriteString(strings.Join(words, " ") + "\n")
}

func (o *outcomes) FeaturesSent(uint64, time.Duration) { o.note("features sent") }
func (o *outcomes) LoginEnded(_ uint64, mechanism, result string, _ time.Duration) {
	o.note("login", mechanism, result)
}
func (o *outcomes) Restarted()                         { o.note("restarted") }
func (o *outcomes) Resumable()                         { o.note("resumable") }
func (o *outcomes) ResumeEnded(result string)          { o.note("resume", result) }
func (o *outcomes) StreamError(side, condition string) { o.note("stream error", side, condition) }

// compare fails if there are others than the file outcomes has, where there is one.
func (o *outcomes) compare(t *testing.T, ar *txtar.Archive) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range ar.Files {
		f := &ar.Files[i]
		switch {
		case f.Name != "outcomes" || string(f.Data) == o.text.String():
		case *update:
			f.Data = []byte(o.text.String())
		default:
			t.Errorf("the outcomes are\n%swant\n%s", o.text.String(), f.Data)
		}
	}
}

func (st *stage) extraHeaders(b []byte) string {
	return strings.ReplaceAll(string(b), "\n", "\r\n")
}

// joins reports whether next may be part of one stimulus with l.
func (st *stage) joins(l, next line) bool {
	return st.c.coalesce && l.verb == "sends" && next.verb == "sends" && next.actor == l.actor
}

// describe is the form in which effects are compared.
func describe(l line) string {
	if l.verb == "sees" {
		return "sees EOF"
	}
	return "receives " + l.payload
}

// pretty is an effect as the page shows it.
func pretty(e string) string {
	payload, ok := strings.CutPrefix(e, "receives ")
	if !ok || strings.HasPrefix(payload, "close") {
		return e
	}
	for _, kind := range []string{"ping ", "pong ", "compressed "} {
		if p, ok := strings.CutPrefix(payload, kind); ok {
			return "receives " + kind + shorten(p)
		}
	}
	return "receives " + shorten(payload)
}

// record appends an effect. A stream has no messages: adjacent bytes are one
// effect.
func record(all []string, actor, e string) []string {
	if n := len(all); actor == "server" && n > 0 && strings.HasPrefix(e, "receives ") && strings.HasPrefix(all[n-1], "receives ") {
		all[n-1] += strings.TrimPrefix(e, "receives ")
		return all
	}
	return append(all, e)
}

func (st *stage) note(actor, e string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.noteLocked(actor, e)
}

// noteLocked is note for a caller that holds mu.
func (st *stage) noteLocked(actor, e string) {
	st.received[actor] = record(st.received[actor], actor, e)
}

// arrived reports whether what has arrived is what was wanted.
func (st *stage) arrived(want map[string][]string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return slices.Equal(st.received["server"], want["server"]) && slices.Equal(st.received["client"], want["client"])
}

func (st *stage) take() map[string][]string {
	st.mu.Lock()
	defer st.mu.Unlock()
	got := st.received
	st.received = make(map[string][]string)
	return got
}

// serverEnd is nil before the dial.
func (st *stage) serverEnd() net.Conn {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.server
}

func (st *stage) dial(ctx context.Context, _ *upstream.Request) (*upstream.Stream, error) {
	st.mu.Lock()
	refuses, hangs := st.refuses, st.hangs
	st.mu.Unlock()
	switch {
	case refuses:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case hangs:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := st.world.pipe(st.t)
	st.mu.Lock()
	st.server = far
	// The end of an earlier server's connection comes before or after.
	st.received["server"] = slices.DeleteFunc(st.received["server"], func(e string) bool { return e == "sees EOF" })
	st.mu.Unlock()
	go st.readServer(far)
	return &upstream.Stream{Conn: near, Server: st.upstream}, nil
}

func (st *stage) perform(batch []line) {
	var out []byte
	var chunks [][]byte
	for _, l := range batch {
		switch l.actor + " " + l.verb {
		case "client sends":
			for _, f := range clientFrames(st.t, l.payload, st.c.fragments) {
				out = append(out, f...)
			}
		case "server sends":
			out = append(out, l.payload...)
		case "client drops":
			conn := st.client
			if t, ok := conn.(*tls.Conn); ok {
				conn = t.NetConn() // without close_notify, which the gateway would answer
			}
			conn.Close()
		case "client stops":
			st.mu.Lock()
			st.resume = make(chan struct{})
			st.mu.Unlock()
		case "client reads":
			st.reads()
		case "server drops":
			st.serverEnd().Close()
		case "server refuses", "server hangs":
			st.mu.Lock()
			st.refuses, st.hangs = l.verb == "refuses", l.verb == "hangs"
			st.mu.Unlock()
		case "gateway stops":
			go st.g.Shutdown(context.Background())
		case "operator ends":
			st.g.End(func(*SessionInfo) bool { return true })
		case "gateway denies":
			list, err := ParseDenyList([]byte(l.payload))
			if err != nil {
				st.t.Fatal(err)
			}
			st.g.Deny(list)
		case "gateway sheds":
			st.g.SetOverload("memory")
		case "time pass":
			d, err := time.ParseDuration(l.payload)
			if err != nil {
				st.t.Fatal(err)
			}
			st.world.pass(d)
		}
	}
	if len(out) == 0 {
		return
	}
	chunks = st.c.cut(out)
	conn := st.client
	if batch[0].actor == "server" {
		if conn = st.serverEnd(); conn == nil {
			st.t.Fatalf("%q before the dial", batch[0].text)
		}
	}
	// A gateway that stops reading must not stop the script.
	// Writes to one connection follow each other.
	before, done := st.written[batch[0].actor], make(chan struct{})
	st.written[batch[0].actor] = done
	st.writing.Add(1)
	go func() {
		defer st.writing.Add(-1)
		defer close(done)
		if before != nil {
			<-before
		}
		for _, b := range chunks {
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	}()
}

func (st *stage) reads() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.resume != nil {
		close(st.resume)
		st.resume = nil
	}
}

// clientFrames is what a client writes for a payload.
func clientFrames(t *testing.T, payload string, fragments int) [][]byte {
	kind, rest, _ := strings.Cut(payload, " ")
	switch kind {
	case "ping":
		return [][]byte{maskedFrame(ws.OpPing, true, []byte(rest))}
	case "pong":
		return [][]byte{maskedFrame(ws.OpPong, true, []byte(rest))}
	case "binary":
		return [][]byte{maskedFrame(ws.OpBinary, true, []byte(rest))}
	case "close":
		var body []byte
		if rest != "" {
			code, reason, _ := strings.Cut(rest, " ")
			n, err := strconv.Atoi(code)
			if err != nil {
				t.Fatalf("close: %v", err)
			}
			body = append(binary.BigEndian.AppendUint16(nil, uint16(n)), reason...)
		}
		return [][]byte{maskedFrame(ws.OpClose, true, body)}
	case "frame":
		b, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
		if err != nil {
			t.Fatalf("frame: %v", err)
		}
		return [][]byte{b}
	}
	first, message := wstest.Frame, []byte(payload)
	if kind == "compressed" {
		first, message = wstest.Compressed, wstest.Deflate([]byte(rest))
	}
	if fragments == 0 || len(message) < fragments {
		return [][]byte{first(ws.OpText, true, message)}
	}
	var frames [][]byte
	for part := range slices.Chunk(message, (len(message)+fragments-1)/fragments) {
		if frames == nil {
			frames = append(frames, first(ws.OpText, false, part))
		} else {
			frames = append(frames, maskedFrame(ws.OpContinuation, false, part))
		}
	}
	frames[len(frames)-1][0] |= 0x80
	return frames
}

func maskedFrame(op ws.OpCode, fin bool, payload []byte) []byte {
	return wstest.Frame(op, fin, payload)
}

// readClient notes what the client receives. compresses tells whether the gateway may have agreed to compress.
func (st *stage) readClient(compresses bool) {
	conn := &gated{st: st}
	var parts []byte // of a message that is not complete
	divided, compressed := false, false
	var inflater wstest.Inflater
	for {
		h, err := ws.ReadHeader(conn)
		if err != nil {
			if !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) {
				st.note("client", "sees EOF")
			}
			return
		}
		p := make([]byte, h.Length)
		if _, err := io.ReadFull(conn, p); err != nil {
			st.note("client", "receives part of a frame")
			return
		}
		if compresses && h.OpCode == ws.OpText {
			compressed = h.Rsv1()
			if compressed {
				h.Rsv &^= ws.Rsv(true, false, false)
			}
		}
		if h.Masked || !h.Fin && h.OpCode.IsControl() || h.Rsv != 0 ||
			!h.OpCode.IsControl() && (divided != (h.OpCode == ws.OpContinuation) || !compressed && !utf8.Valid(p)) {
			st.note("client", fmt.Sprintf("receives a bad frame %+v", h))
		}
		if !h.OpCode.IsControl() {
			parts, divided = append(parts, p...), !h.Fin
			if divided {
				continue
			}
			p, parts = parts, nil
			if compressed {
				text, err := inflater.Inflate(p)
				if err != nil {
					st.note("client", fmt.Sprintf("receives a message that cannot be inflated: %v", err))
				}
				p = append([]byte("compressed "), text...)
			}
		} else if h.OpCode == ws.OpClose && divided {
			st.note("client", "receives part of a message")
		}
		switch h.OpCode {
		case ws.OpText, ws.OpContinuation:
			st.note("client", "receives "+string(p))
		case ws.OpPing:
			st.note("client", "receives ping "+string(p))
		case ws.OpPong:
			st.note("client", "receives pong "+string(p))
		case ws.OpClose:
			e := "receives close"
			if len(p) >= 2 {
				e += fmt.Sprintf(" %d", binary.BigEndian.Uint16(p))
				if len(p) > 2 {
					e += " " + string(p[2:])
				}
			}
			st.note("client", e)
		default:
			st.note("client", fmt.Sprintf("receives a bad frame %+v", h))
		}
	}
}

// gated reads the client's end unless the script has stopped that.
type gated struct{ st *stage }

func (g *gated) Read(b []byte) (int, error) {
	g.st.mu.Lock()
	wait := g.st.resume
	g.st.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return g.st.client.Read(b)
}

func (st *stage) readServer(conn net.Conn) {
	b := make([]byte, 1<<16)
	for {
		n, err := conn.Read(b)
		if n > 0 {
			st.note("server", "receives "+string(b[:n]))
		}
		if err != nil {
			st.mu.Lock()
			defer st.mu.Unlock()
			if !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, net.ErrClosed) && st.server == conn {
				st.noteLocked("server", "sees EOF")
			}
			return
		}
	}
}

// readResponse reads the head of a response, byte by byte so that what follows
// it stays in conn.
func readResponse(t testing.TB, conn io.Reader) string {
	t.Helper()
	var head []byte
	b := make([]byte, 1)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("response %q: %v", head, err)
		}
		head = append(head, b[0])
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("response %q", head)
	}
	return string(head)
}
