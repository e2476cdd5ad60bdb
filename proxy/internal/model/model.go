// Package model says what a session must do, for tests: a [Model] is told what both ends
// and the operator do, one [Action] after another, and answers what each end must see.
// [Generate] makes actions at random, legal and illegal ones, and [Shrink] makes those
// that fail fewer.
//
// It is written from RFC 7395, RFC 6455, RFC 6120 and docs/endings.md, not from the
// program: it knows none of its packages, reads everything from its beginning again, and
// understands no XML but the list of what its ends may say (messages.go).
package model

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A Config is what a model has to know of the configuration of the gateway.
type Config struct {
	MaxStanza, MaxServerStanza int // in bytes
	Compression                bool
	// Stalls tells that an end which does not read blocks at once, because there are
	// no buffers between it and the gateway.
	Stalls bool
}

// Domain is the only domain that clients may name.
const Domain = "proto.test"

// PingInterval is that of the gateway.
const PingInterval = 30 * time.Second

// pingEarly is how much earlier than that, at a random moment, a ping may come.
const pingEarly = PingInterval / 8

// An Action is what somebody does: an event of a transcript (proxy/testdata).
type Action struct {
	Actor, Verb string
	Bytes       []byte        // that are sent
	Pass        time.Duration // of the time
	Note        string        // for people
}

// String is the event as it stands in a transcript.
func (a Action) String() string {
	s := ""
	if a.Note != "" {
		s = "# " + a.Note + "\n"
	}
	switch a.Actor + " " + a.Verb {
	case "time pass":
		return fmt.Sprintf("%v pass", a.Pass)
	case "client sends":
		return s + "client sends frame " + hex.EncodeToString(a.Bytes)
	case "server sends":
		return s + "server sends " + strconv.Quote(Shorten(string(a.Bytes)))
	}
	return a.Actor + " " + a.Verb
}

// Shorten writes runs of a character as {c*N}, as transcripts do.
func Shorten(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] == s[i] {
			j++
		}
		if j-i > 40 {
			fmt.Fprintf(&b, "{%c*%d}", s[i], j-i)
		} else {
			b.WriteString(s[i:j])
		}
		i = j
	}
	return b.String()
}

// Ends of a session.
const (
	Client = iota
	Server
)

// Seen is what the ends see, in the words of transcripts. The text behind "…" may be any.
type Seen [2][]string

// Matches reports whether got is what was to be seen.
func (want Seen) Matches(got Seen) bool {
	for end := range want {
		if !slices.EqualFunc(want[end], got[end], matches) {
			return false
		}
	}
	return true
}

func matches(want, got string) bool {
	if known, _, some := strings.Cut(want, "…"); some {
		return strings.HasPrefix(got, known)
	}
	return want == got
}

// A rule is how a session ends.
type rule struct {
	condition string // of the stream error
	close     bool   // the client gets <close/>
	code      int    // of the Close frame; zero when there is no client any more
	endTag    bool   // the server gets </stream:stream>
}

// rules are those of docs/endings.md.
var rules = map[string]rule{
	"client-closed":    {"", true, 1000, true},
	"client-left":      {},
	"client-lost":      {},
	"client-silent":    {},
	"client-stalled":   {},
	"server-closed":    {"", true, 1000, true},
	"server-error":     {"", true, 1000, false},
	"server-lost":      {"", false, 1011, false},
	"server-broken":    {"", false, 1011, false},
	"server-too-large": {"", false, 1011, false},
	"server-silent":    {"remote-connection-failed", true, 1000, false},
	"dial-failed":      {"remote-connection-failed", true, 1000, false},
	"open-timeout":     {"connection-timeout", true, 1000, false},
	"open-too-large":   {"", false, 1009, false},
	"bad-open":         {"bad-format", true, 1000, false},
	"reopened":         {"unsupported-stanza-type", true, 1000, true},
	"bad-frame":        {"", false, 1002, false},
	"binary-frame":     {"", false, 1003, false},
	"not-text":         {"", false, 1007, false},
	"bad-compression":  {"", false, 1007, false},
	"too-large":        {"policy-violation", true, 1000, true},
	"bad-xml":          {"not-well-formed", true, 1000, true},
	"starttls":         {"", true, 1000, true},
	"overload":         {"resource-constraint", true, 1000, true},
	"shutdown":         {"", false, 1001, false},
	"operator-ended":   {"", false, 1001, false},
}

// A phase is that of a stream.
type phase int

const (
	before  phase = iota // it has no header yet
	open                 // elements flow
	restart              // another header is due
	over                 // it has ended
)

// A conn is the state of a connection.
type conn int

const (
	none    conn = iota
	up           // in use
	closing      // our Close frame is sent, that of the client is awaited
	down         // nothing is read of it any more, FIN was sent
)

// A Model is one session from the moment of its upgrade on. It is made by [New].
type Model struct {
	cfg  Config
	now  time.Duration
	seen Seen

	// Ended is the ending, empty while the session lives.
	Ended string
	// Unsure tells that the model has no answer: something came that is not on the
	// list, or happens so near to a timeout that both may be first.
	Unsure bool

	in      [2][]byte // what came and was not taken
	conn    [2]conn
	gone    [2]bool // the end has hung up: it sees nothing any more
	pending string  // the orderly ending that is under way

	clients, servers phase // of the streams that they send
	headerSent       bool  // to the server
	tagSent          bool
	openSent         bool // to the client
	closeSent        bool

	message  []byte // of the client, what has come of it
	frames   int
	deflated bool

	login    login
	loggedIn bool
	queued   string // a header that waits for the outcome of the login
	features bool
	part     bool     // the client has got a part of an element
	replies  []string // that wait for the rest of it

	wait    string        // the ending that comes
	waitDue time.Duration // at this moment
	waited  bool
	byeDue  time.Duration // of the client's Close frame
	lostDue time.Duration // of the end of a client that is not read
	lastIn  time.Duration
	pinged  bool
	fresh   bool // the client has sent something that was not looked at

	refuses bool     // no server is to be had
	stopped bool     // the client does not read
	held    []string // what it will see when it does
	pong    *string
	domain  string
}

type login int

const (
	notAsked login = iota
	asked
	running
	done
)

// New returns the model of a session whose request has been answered.
func New(cfg Config) *Model {
	m := &Model{cfg: cfg, now: 1}
	m.conn[Client] = up
	m.lastIn = m.now
	m.await("open-timeout", 10*time.Second)
	return m
}

// Do tells what both ends must see when a happens.
func (m *Model) Do(a Action) Seen {
	m.seen = Seen{}
	switch a.Actor + " " + a.Verb {
	case "client sends":
		if m.gone[Client] {
			break
		}
		m.in[Client], m.fresh = append(m.in[Client], a.Bytes...), true
	case "server sends":
		if m.conn[Server] == up && !m.gone[Server] {
			m.in[Server] = append(m.in[Server], a.Bytes...)
		}
	case "client drops":
		if m.gone[Client] {
			break
		}
		m.gone[Client], m.stopped, m.held = true, false, nil
		if m.conn[Client] == up && m.Ended == "" && m.Waits() {
			m.lostDue = m.now + 4*time.Second // which is found by its FIN
		} else {
			m.lost(Client)
		}
	case "server drops":
		if m.conn[Server] == none || m.gone[Server] {
			break
		}
		m.gone[Server] = true
		if !m.blocked() || m.Ended != "" {
			m.lost(Server)
		}
	case "server refuses":
		m.refuses = true
	case "client stops":
		m.stopped = true
	case "client reads":
		m.stopped = false
		m.seen[Client] = append(m.seen[Client], m.held...)
		m.held = nil
		if m.pong != nil && m.conn[Client] == up {
			m.say("receives pong " + *m.pong)
		}
		m.pong = nil
	case "gateway stops":
		m.end("shutdown")
	case "operator ends":
		m.end("operator-ended")
	case "gateway sheds":
		if !m.loggedIn {
			m.end("overload")
		}
	case "time pass":
		m.pass(a.Pass)
	default:
		panic(a.String())
	}
	m.settle(a.Actor == "server")
	return m.seen
}

// settle takes what has come, as far as it may be taken.
func (m *Model) settle(serverFirst bool) {
	for range 2 {
		if serverFirst {
			m.readServer()
		}
		m.readClient()
		m.readServer()
	}
	if m.gone[Server] && m.conn[Server] == up && !m.blocked() {
		m.lost(Server)
		m.readClient()
	}
	if m.lostDue != 0 && m.conn[Client] == up && !m.Waits() {
		m.lost(Client)
	}
}

// Waits reports whether the client is not read: a header of it has yet to leave, or to
// be answered for the first time.
func (m *Model) Waits() bool {
	return m.queued != "" || m.headerSent && m.servers == before
}

func (m *Model) blocked() bool { return m.cfg.Stalls && m.stopped && len(m.held) > 0 }

func (m *Model) say(s string) {
	switch {
	case m.gone[Client]:
	case m.stopped:
		m.held = append(m.held, s)
	default:
		m.seen[Client] = append(m.seen[Client], s)
	}
}

func (m *Model) tell(s string) {
	if m.gone[Server] {
		return
	}
	all := m.seen[Server]
	if n := len(all); n > 0 && strings.HasPrefix(s, "receives ") && strings.HasPrefix(all[n-1], "receives ") {
		all[n-1] += strings.TrimPrefix(s, "receives ") // a stream has no messages
		return
	}
	m.seen[Server] = append(all, s)
}

func (m *Model) await(ending string, d time.Duration) {
	m.wait, m.waitDue, m.waited = ending, m.now+d, true
}

// pass lets time pass.
func (m *Model) pass(d time.Duration) {
	const margin = 1300 * time.Millisecond
	until := m.now + d
	for {
		due, what := time.Duration(0), ""
		consider := func(at time.Duration, name string, on bool) {
			if on && (what == "" || at < due) {
				due, what = at, name
			}
		}
		consider(m.waitDue, "wait", m.waited)
		consider(m.byeDue, "bye", m.conn[Client] == closing)
		consider(m.lostDue, "lost", m.lostDue != 0 && m.conn[Client] == up)
		consider(m.pingDue(), "ping", m.conn[Client] == up)
		around := time.Duration(margin)
		if what == "ping" {
			around += pingEarly / 2
		}
		if what != "" && due > until-around && due < until+around {
			m.Unsure = true
		}
		if what == "" || due > until {
			break
		}
		m.now = max(m.now, due)
		switch what {
		case "wait":
			m.waited = false
			m.end(m.wait)
		case "bye":
			if m.blocked() {
				m.byeDue = m.now + 5*time.Second
				break
			}
			m.bye()
		case "lost":
			m.lost(Client)
		case "ping":
			m.ping()
		}
		m.settle(false)
	}
	m.now = until
}

func (m *Model) pingDue() time.Duration {
	if m.pinged {
		return m.lastIn + 2*PingInterval
	}
	return m.lastIn + PingInterval - pingEarly/2
}

func (m *Model) ping() {
	switch {
	case m.Waits() || m.blocked():
		m.Unsure = m.Unsure || !m.pinged // nobody sees when that was
		m.lastIn, m.pinged = m.now, false
	case m.pinged:
		m.say("sees EOF")
		m.conn[Client] = down
		m.end(m.orPending("client-silent"))
	default:
		m.pinged = true
		m.say("receives ping xmppgate")
	}
}

// lost is the end of a connection without a word.
func (m *Model) lost(end int) {
	m.in[end] = nil
	if m.conn[end] == down {
		return
	}
	m.conn[end] = down
	if end == Client {
		m.end(m.orPending("client-lost"))
	} else {
		m.end(m.orPending("server-lost"))
	}
}

func (m *Model) orPending(ending string) string {
	if m.pending != "" {
		return m.pending
	}
	return ending
}

func (m *Model) end(ending string) { m.endAs(ending, rules[ending].condition) }

// endAs ends the session: once, whatever comes later.
func (m *Model) endAs(ending, condition string) {
	if m.Ended != "" {
		return
	}
	r, known := rules[ending]
	if !known {
		panic(ending)
	}
	m.Ended, m.waited, m.queued = ending, false, ""
	if m.conn[Client] == up {
		code := r.code
		if m.part {
			if code == 1000 {
				code = 1011
			}
		} else {
			if condition != "" {
				m.ownOpen()
				m.say("receives " + streamError(condition) + "…")
			}
			if r.close {
				m.sayClose()
			}
		}
		switch code {
		case 1000:
			m.byeSaid("receives close 1000")
		default:
			m.byeSaid(fmt.Sprintf("receives close %d …", code))
		}
		m.conn[Client], m.byeDue = closing, m.now+5*time.Second
		switch {
		case r.code == 1002, r.code == 1003, r.code == 1007, r.code == 1009, ending == "too-large":
			m.bye() // the rest of what it sends cannot be read, or is not wanted
		}
	}
	if m.conn[Server] == up {
		if r.endTag {
			m.endTag()
		}
		m.conn[Server] = down
		m.in[Server] = nil
		m.tell("sees EOF")
	}
}

func (m *Model) byeSaid(s string) {
	if m.part {
		m.say("receives part of a message")
	}
	m.say(s)
}

// bye lets the client see the end of the connection.
func (m *Model) bye() {
	m.conn[Client] = down
	m.say("sees EOF")
}

func (m *Model) sayClose() {
	if !m.closeSent {
		m.closeSent = true
		m.say("receives " + CloseMessage)
	}
}

func (m *Model) endTag() {
	if m.headerSent && !m.tagSent {
		m.tagSent = true
		m.tell("receives </stream:stream>")
	}
}

// ownOpen is the header that precedes an error (RFC 7395, section 3.5).
func (m *Model) ownOpen() {
	if m.openSent {
		return
	}
	m.openSent = true
	from := ""
	if m.domain != "" {
		from = " from='" + m.domain + "'"
	}
	m.say(`receives <open xmlns="urn:ietf:params:xml:ns:xmpp-framing"` + from + ` id='gw1' version='1.0' xml:lang='en'/>`)
}

// A frame is one of the client.
type frame struct {
	op       byte
	fin, rsv bool
	size     int // of the payload
	payload  []byte
	all      int // bytes, the header included
	bad      bool
}

// first reads the first frame of b (RFC 6455, section 5.2). ok is false while its header
// is not complete, payload is nil while that is not.
func first(b []byte, compression, fragmented bool) (f frame, ok bool) {
	if len(b) < 2 {
		return f, false
	}
	f.op, f.fin, f.rsv = b[0]&15, b[0]&0x80 != 0, b[0]&0x40 != 0
	n := int(b[1] & 0x7f)
	control := f.op >= 8
	switch {
	case b[0]&0x30 != 0, f.rsv && !compression, f.rsv && f.op != 1 && f.op != 2:
		f.bad = true
	case f.op > 2 && f.op < 8, f.op > 10:
		f.bad = true
	case control && (!f.fin || n > 125):
		f.bad = true
	case b[1]&0x80 == 0:
		f.bad = true
	case !control && fragmented != (f.op == 0):
		f.bad = true
	}
	if f.bad {
		return f, true
	}
	head := 2
	switch n {
	case 126:
		if len(b) < 4 {
			return f, false
		}
		n, head = int(binary.BigEndian.Uint16(b[2:])), 4
		f.bad = n < 126
	case 127:
		if len(b) < 10 {
			return f, false
		}
		big := binary.BigEndian.Uint64(b[2:])
		f.bad = big < 1<<16 || big >= 1<<63
		n, head = int(min(big, 1<<30)), 10
	}
	if f.bad {
		return f, true
	}
	if len(b) < head+4 {
		return f, false
	}
	key := b[head : head+4]
	head += 4
	f.size, f.all = n, head+n
	if len(b) >= f.all {
		f.payload = make([]byte, n)
		for i := range f.payload {
			f.payload[i] = b[head+i] ^ key[i%4]
		}
	}
	return f, true
}

// limit is the size of the largest message that the client may send now.
func (m *Model) limit() int {
	switch {
	case m.clients == before:
		return 4096
	case m.servers == before, m.login == asked, m.login == running:
		return min(10000, m.cfg.MaxStanza)
	}
	return m.cfg.MaxStanza
}

// readClient takes the frames of the client.
func (m *Model) readClient() {
	if m.gone[Client] && m.conn[Client] == down {
		return
	}
	if !m.fresh {
		return
	}
	if m.conn[Client] == up && !m.Waits() {
		m.lastIn, m.pinged = m.now, false
	}
	m.fresh = false
	defer func() { m.fresh = m.conn[Client] != down && m.Waits() && len(m.in[Client]) > 0 }()
	blocked := m.blocked() // which is found when what has come is taken
	for m.conn[Client] == up && !m.Waits() && len(m.in[Client]) > 0 {
		f, ok := first(m.in[Client], m.cfg.Compression, m.frames > 0)
		if !ok {
			return // more of it has to come
		}
		switch {
		case f.bad:
			m.end("bad-frame")
			m.in[Client] = nil
			return
		case f.op == 2:
			m.end("binary-frame")
			m.in[Client] = nil
			return
		case f.op < 8 && f.size > m.limit()-len(m.message):
			m.tooLarge()
			m.in[Client] = nil
			return
		case f.payload == nil && f.size > 0 || len(m.in[Client]) < f.all:
			return
		}
		m.in[Client] = m.in[Client][f.all:]
		switch f.op {
		case 8:
			m.closeFrame(f.payload)
		case 9:
			if blocked {
				p := string(f.payload)
				m.pong = &p // the last one is answered when there is room
			} else {
				m.say("receives pong " + string(f.payload))
			}
		case 10:
		default:
			if m.frames++; m.frames == 1 {
				m.deflated = f.rsv
			}
			m.message = append(m.message, f.payload...)
			if !f.fin {
				continue
			}
			b := m.message
			m.message, m.frames = nil, 0
			if m.deflated {
				var good bool
				if b, good = m.inflate(b); !good {
					continue
				}
			}
			m.messageOf(b)
		}
	}
	for m.conn[Client] == closing { // only its Close frame counts
		f, ok := first(m.in[Client], m.cfg.Compression, len(m.in[Client]) > 0 && m.in[Client][0]&15 == 0)
		switch {
		case !ok:
			return
		case f.bad, f.size > m.cfg.MaxStanza:
			m.bye()
			return
		case len(m.in[Client]) < f.all:
			return
		case f.op == 8:
			m.bye()
			return
		}
		m.in[Client] = m.in[Client][f.all:]
	}
}

func (m *Model) inflate(b []byte) ([]byte, bool) {
	r := flate.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	text, err := io.ReadAll(io.LimitReader(r, int64(m.limit())+1))
	switch {
	case len(text) > m.limit():
		m.tooLarge()
		return nil, false
	case err != nil:
		m.end("bad-compression")
		return nil, false
	}
	return text, true
}

func (m *Model) tooLarge() {
	if m.clients == before {
		m.end("open-too-large")
		return
	}
	m.end("too-large")
}

// closeFrame is RFC 6455, sections 5.5.1 and 7.4.
func (m *Model) closeFrame(p []byte) {
	code := 0
	if len(p) >= 2 {
		code = int(binary.BigEndian.Uint16(p))
	}
	switch {
	case len(p) == 1:
		m.end("bad-frame")
		return
	case len(p) == 0:
		m.byeSaid("receives close")
	case code < 1000, code == 1004, code == 1005, code == 1006, code > 1014 && code < 3000, code > 4999:
		m.end("bad-frame")
		return
	case !utf8.Valid(p[2:]):
		m.end("not-text")
		return
	default:
		m.byeSaid(fmt.Sprintf("receives close %d", code))
	}
	m.bye()
	m.in[Client] = nil
	m.end(m.orPending("client-left"))
}

// messageOf takes a whole message of the client.
func (m *Model) messageOf(b []byte) {
	if m.clients == over {
		return
	}
	if !utf8.Valid(b) || len(b) == 0 || b[0] != '<' {
		m.end("not-text")
		return
	}
	e := clientMessage(string(b))
	if e == nil {
		m.Unsure = true
		return
	}
	switch e.kind {
	case malformed:
		if m.clients == before {
			m.endAs("bad-open", e.condition)
		} else {
			m.endAs("bad-xml", e.condition)
		}
	case header:
		m.clientHeader(e)
	case end:
		if m.clients == before {
			m.end("client-closed")
			return
		}
		m.clients = over
		m.endTag()
		if m.pending == "" {
			m.pending = "client-closed"
			m.await(m.pending, 5*time.Second)
		}
	default:
		switch {
		case m.clients != before:
			m.clientElement(e, string(b))
		case e.kind == wrongOpen:
			m.endAs("bad-open", "invalid-namespace")
		default:
			m.end("bad-open")
		}
	}
}

func (m *Model) clientHeader(e *entry) {
	condition := ""
	switch e.domain {
	case Domain:
	case "":
		condition = "improper-addressing"
	default:
		condition = "host-unknown"
	}
	switch {
	case m.clients == before:
		m.domain = e.domain
		m.clients = open
		if condition != "" {
			m.endAs("bad-open", condition)
			return
		}
		if m.refuses {
			m.end("dial-failed")
			return
		}
		m.conn[Server] = up
		m.sendHeader(e.out)
	case m.login == running:
		if condition != "" {
			m.endAs("bad-open", condition)
			return
		}
		m.queued = e.out
		m.await("server-silent", 30*time.Second)
	case m.clients == restart:
		m.clients = open
		if condition != "" {
			m.endAs("bad-open", condition)
			return
		}
		m.sendHeader(e.out)
	default:
		m.end("reopened")
	}
}

func (m *Model) sendHeader(h string) {
	m.tell("receives " + h)
	m.headerSent = true
	if m.servers == open {
		m.servers = restart
	}
	m.await("server-silent", 10*time.Second)
}

func (m *Model) clientElement(e *entry, text string) {
	switch e.kind {
	case startTLS:
		if !m.part {
			m.say("receives " + e.out)
		}
		m.end("starttls")
		return
	case answered:
		if m.part {
			m.replies = append(m.replies, e.out)
		} else {
			m.say("receives " + e.out)
		}
		return
	case auth:
		if m.login != done {
			m.login = running
		}
	case authenticate:
		if m.login == running {
			m.login = asked
		}
	}
	out := strings.TrimRight(strings.TrimPrefix(text, declaration), " \t\r\n")
	m.tell("receives " + out)
}

// readServer takes what the server says.
func (m *Model) readServer() {
	if m.blocked() {
		return
	}
	if m.stopped && len(m.in[Server]) > 60<<10 {
		m.Unsure = true // which part of it comes before the client is blocked
	}
	for m.conn[Server] == up && m.Ended == "" {
		if m.servers == over {
			m.in[Server] = nil
			return
		}
		m.in[Server] = bytes.TrimLeft(m.in[Server], " \t\r\n")
		if len(m.in[Server]) == 0 {
			return
		}
		e, n, state := serverPiece(m.in[Server])
		switch state {
		case unknownPiece:
			m.Unsure = true
			m.in[Server] = nil
			return
		case partOfPiece:
			if e.kind == element && len(m.in[Server]) >= 256<<10 {
				if m.servers == before {
					m.end("server-broken")
					return
				}
				m.part = true
			}
			return
		}
		text := m.in[Server][:n]
		m.in[Server] = m.in[Server][n:]
		m.serverPiece(e, string(text))
	}
}

func (m *Model) serverPiece(e *entry, text string) {
	switch {
	case e.kind == malformed:
		m.end("server-broken")
		return
	case e.kind == tooLarge:
		m.end("server-too-large")
		return
	case e.kind == header:
		if m.servers == open {
			m.end("server-broken")
			return
		}
		m.servers = open
		if m.wait == "server-silent" {
			m.waited = false
		}
		m.openSent = true
		m.say("receives " + e.outOf(text))
		return
	case m.servers == before:
		m.end("server-broken")
		return
	case e.kind == end:
		m.servers = over
		if m.pending != "" {
			m.end(m.pending)
			return
		}
		m.pending = "server-closed"
		m.await(m.pending, 5*time.Second)
		m.sayClose()
		return
	case e.kind == needsTLS && !m.features:
		m.end("dial-failed")
		return
	case e.kind == upgrades:
		m.end("server-broken")
		return
	}
	m.say("receives " + e.outOf(text))
	m.part = false
	for _, s := range m.replies {
		m.say("receives " + s)
	}
	m.replies = nil
	switch e.kind {
	case offer:
		m.features = true
		if m.login == notAsked {
			m.login = asked
		}
	case noOffer, needsTLS:
		m.features = true
		if m.login == asked {
			m.login = notAsked
		}
		m.loggedIn = m.loggedIn || m.login == notAsked || m.login == done
	case success:
		m.login, m.loggedIn = done, true
		if m.clients == open {
			m.clients = restart
		}
		if m.queued != "" {
			h := m.queued
			m.queued, m.clients = "", open
			m.sendHeader(h)
		}
	case failure:
		if m.login == running {
			m.login = asked
		}
		if m.queued != "" {
			m.queued = ""
			m.end("reopened") // it was not due
		}
	case success2:
		if m.login != running {
			m.login, m.loggedIn = done, true
		}
	case fatal:
		m.pending = "server-error"
		m.await(m.pending, 5*time.Second)
	}
}

// Over reports whether both ends have been told everything.
func (m *Model) Over() bool {
	return m.Ended != "" && m.conn[Client] == down
}

// AtRest reports whether the session may go on in another process.
func (m *Model) AtRest() bool {
	return m.Ended == "" && m.pending == "" && m.clients == open && m.servers == open && m.features && (m.login == done || m.login == notAsked) &&
		len(m.in[Client]) == 0 && len(m.in[Server]) == 0 && m.frames == 0 && !m.waited && !m.gone[Client] && !m.gone[Server]
}
