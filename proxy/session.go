package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unique"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/upstream"
)

// A side is one of the two connections of a session.
type side uint8

const (
	client side = iota
	server
)

func (sd side) other() side { return 1 - sd }

// feeds is the direction of what is written to sd.
func (sd side) feeds() direction {
	if sd == server {
		return up
	}
	return down
}

// A leg is where the connection of one side is in its life. The loop acts on
// it after every event.
type leg uint8

const (
	legNone      leg = iota // there is no connection yet
	legOpen                 // in use
	legClosing              // client only: our Close frame is out, the answer is awaited
	legFinishing            // all is said: FIN follows the last byte, then EOF is awaited
	legClosed               // the loop closes the connection
)

// Timeouts of a session. Each bounds one wait for one peer.
const (
	headTimeout   = 10 * time.Second // for the HTTP request
	openTimeout   = 10 * time.Second // for <open/> after the upgrade
	dialTimeout   = 5 * time.Second  // for the connection to the server
	dialGrace     = time.Second      // for Gateway.Dial to say what has taken it all its time
	headerTimeout = 10 * time.Second // for the server's stream header
	saslTimeout   = 30 * time.Second // for the outcome of SASL while a header waits for it
	closeTimeout  = 5 * time.Second  // for the answer to any kind of close
	lingerTimeout = 2 * time.Second  // for the client's EOF when no Close frame is awaited any more
	stallTimeout  = 30 * time.Second // for a peer that does not read
	hangUpTimeout = 4 * time.Second  // for a server to take what a client sent before it hung up
)

// Limits in bytes.
const (
	// maxWhole is the largest message to the client that is one frame.
	maxWhole = 256 << 10
	// minPart is the least that a frame in the middle of a larger one has.
	minPart = 16 << 10
	// maxOutput is what a wake-up may leave for the client until what
	// else the server has sent waits for the next one: twice what a read
	// brings. Declarations make a small element many times as large.
	maxOutput = 2 * readSize
	// maxHeader bounds the first message of a client.
	maxHeader = 4 << 10
	// maxUnauthenticated bounds the messages of a client that has yet to
	// authenticate: the least that RFC 6120, section 13.12 allows.
	maxUnauthenticated = 10000
)

// A workspace is what an event needs only while it runs. Loops own
// workspaces; a session at rest has none.
type workspace struct {
	now    time.Duration // since the gateway's epoch
	parser framing.MessageParser
	head   http1.Head // of the request, while it is looked at
	out    [2]outbox

	counted *session // whose elements were counted in this event; nil for none
	before  [2]tally // what they were before
}

// A session is one client's WebSocket and the stream to the server behind it.
//
// It is a pure state machine: a loop calls its event methods (receive, eof,
// expire, drained, stalled, attached, dialFailed, shutdown), one at a time;
// they append what has to be written to the outboxes of the workspace and set
// the legs. Nothing here blocks, reads a clock or touches a socket.
type session struct {
	g      *Gateway
	link   link
	id     uint64
	remote netip.AddrPort
	domain unique.Handle[string] // the to attribute of the header, decoded
	stream *upstream.Stream      // nil without a connection that Gateway.Dial has made
	began  time.Duration
	place  uint32 // in Gateway.live, guarded like that

	phase   [2]phase
	leg     [2]leg
	ending  ending // endNone while the session lives
	closing ending // the orderly ending that is under way

	busy     bool // the gateway has no room for it
	proxied  bool // its PROXY header was read
	upgraded bool // its HTTP request was answered with 101
	secure   bool // it is encrypted on its way to the gateway

	// Flags of the opening and of SASL.
	openSent      bool // the client has got <open/>
	featuresSent  bool // the client has got <stream:features/>
	headerSent    bool // the server has got a header
	endTagSent    bool // the server has got </stream:stream>
	closeSent     bool // the client has got <close/>
	saslOffered   bool // the server wants the client to authenticate
	saslRunning   bool // <auth/> is on its way, its outcome is not known
	authenticated bool
	resumable     bool // XEP-0198 is on
	known         known
	leftOver      bool // receiveServer has enough for now, not too little

	blocked [2]bool // set by the loop: the side takes no more bytes now
	asked   bool    // a ping is out, and the client has said nothing since
	await   ending  // what happens at rare.due

	// The client's message that is being put together: its first partial
	// bytes stand, unmasked, at the start of what receive returned.
	fragments uint16
	partial   int

	rare     *rare // nil while none of it is needed
	down     framing.StreamSplitter
	lastIn   [2]time.Duration
	pingSent time.Duration // zero when no pong is due
	ping     time.Duration // last round trip
	relayed  [2]tally
}

// A rare is what most sessions do not need most of the time.
type rare struct {
	due        time.Duration           // when the wait for one thing is over
	legDue     [2]time.Duration        // when the wait for the end of a leg is
	skip       int64                   // bytes of a frame to discard
	header     []byte                  // for the server, also for the next one until SASL starts
	held       bool                    // it may not be written yet
	headerSent time.Duration           // when the server got one that it has yet to answer; zero for none
	cancelDial context.CancelCauseFunc // not nil while the dial runs
	dialed     time.Duration           // when it began
	dials      int                     // how many there were
	avoid      string                  // the server that has failed
	listener   netip.AddrPort          // where the client says that it has connected
	pong       []byte                  // payload of the ping to answer when the client reads again
	pinged     bool                    // there is such a ping
	unread     int                     // answers of our own that wait for the client
	divided    int                     // bytes of the message to the client that is not complete; zero means none
	replies    []string                // answers of our own that wait for its end
	result     string                  // of a request that was not upgraded
	cause      error                   // what made the session end, for the log
	verdict                            // what the log learns beside it
	unwritable [2]error                // why nothing can be written to a side; nil while it can
	relayed    *[2]Traffic             // what the tallies had no room for
}

// A known is what the client has of an earlier server, and must not get once
// more of this one.
type known struct{ header, features bool }

// spare forgets rare when none of it is needed.
func (s *session) spare() {
	if r := s.rare; r != nil && s.await == endNone && s.ending == endNone && r.legDue == [2]time.Duration{} && r.unwritable == [2]error{} && r.header == nil && r.headerSent == 0 && r.cancelDial == nil && !r.pinged && r.unread == 0 && r.divided == 0 && r.relayed == nil && r.verdict == (verdict{}) {
		s.rare = nil
	}
}

func (s *session) need() *rare {
	if s.rare == nil {
		s.rare = new(rare)
	}
	return s.rare
}

// holds reports whether a header for the server waits: for the dial, for the end
// of SASL, or for earlier bytes. Until it has left the client is not read.
func (s *session) holds() bool { return s.rare != nil && s.rare.held }

// unanswered reports whether the server has yet to answer its first header. What a
// client sends early (XEP-0509) waits for that, as it does where Gateway.Dial
// exchanges the headers: the server may be lost or send the session elsewhere,
// and another one is to get it then.
func (s *session) unanswered() bool { return s.headerSent && s.phase[down] == idle }

func (s *session) cause() error {
	if s.rare == nil {
		return nil
	}
	return s.rare.cause
}

// domainName is empty before the header came.
func (s *session) domainName() string {
	if s.domain == (unique.Handle[string]{}) {
		return ""
	}
	return s.domain.Value()
}

// begin is the first event: a client has connected. Only from here on the
// gateway knows the session, so that no other event can come before.
func (s *session) begin(w *workspace) {
	s.g.connected(s)
	s.began = w.now
	s.leg[client] = legOpen
	s.wait(w, endOpenTimeout, headTimeout)
}

// wait lets the session end as e unless something happens within d. There is
// one such wait at a time; a new one replaces the old.
func (s *session) wait(w *workspace, e ending, d time.Duration) {
	s.await, s.need().due = e, w.now+d
}

func (s *session) waitForNothing() {
	if s.await != endNone {
		s.await, s.rare.due = endNone, 0
		s.spare()
	}
}

// heard notes a sign of life of the client.
func (s *session) heard(w *workspace) { s.lastIn[client], s.asked = w.now, false }

// reads reports whether the session wants bytes from sd.
func (s *session) reads(sd side) bool {
	switch s.leg[sd] {
	case legOpen:
		return !(sd == client && (s.holds() || s.unanswered()))
	case legClosing, legFinishing:
		return true
	}
	return false
}

// waits reports whether what receive has left of the bytes of sd is to be given to
// it once more when sd may be read, without waiting for new ones.
func (s *session) waits(sd side) bool { return !s.reads(sd) || sd == server && s.leftOver }

// over reports whether both connections are done with.
func (s *session) over() bool {
	return s.leg[client] == legClosed && (s.leg[server] == legClosed || s.leg[server] == legNone)
}

// receive takes bytes from sd. b is what the last call for this side returned
// with new bytes behind it; the result is the part of b that is wanted again.
func (s *session) receive(w *workspace, sd side, b []byte) (rest []byte) {
	if w.counted != s {
		w.counted, w.before = s, s.relayed
	}
	if sd == server {
		s.lastIn[server] = w.now
		return s.receiveServer(w, b)
	}
	if !s.upgraded {
		return s.receiveRequest(w, b)
	}
	s.heard(w)
	return s.receiveClient(w, b)
}

// step moves a stream by one event. It returns false when that was illegal and
// has ended the session.
func (s *session) step(w *workspace, d direction, e event) bool {
	st := steps[d][s.phase[d]][e]
	if st.ending != endNone {
		s.endWith(w, st.ending, fmt.Errorf("%s came while the stream %s", e, s.phase[d]))
		return false
	}
	s.phase[d] = st.next
	return true
}

// ---- client to server

// receiveClient takes frames apart, puts messages together and hands them on.
//
// The payload of an unfragmented message is used where it lies. Fragments are
// moved together: b[start:start+partial] is the unfinished message, frames go
// on at b[pos].
func (s *session) receiveClient(w *workspace, b []byte) (rest []byte) {
	start, pos := 0, s.partial
	var m framing.Message // one for all, for it is large
	for s.ending == endNone && s.leg[client] == legOpen && !s.holds() && !s.unanswered() {
		f, size, err := parseFrame(b[pos:], s.fragments > 0)
		if err != nil {
			s.endWith(w, endBadFrame, err)
			break
		}
		if size == 0 {
			break
		}
		if f.op == ws.OpBinary {
			s.endWith(w, endBinary, nil)
			break
		}
		if !f.op.IsControl() {
			// The announced length alone decides: not a byte of a message
			// that is too large is waited for.
			if f.length > int64(s.limit()-s.partial) {
				s.tooLarge(w, saturated(f.length+int64(s.partial)))
				break
			}
		}
		n := size + int(f.length)
		if len(b)-pos < n {
			break
		}
		payload := b[pos+size : pos+n]
		unmask(payload, [4]byte(b[pos+size-4:]))
		pos += n

		switch {
		case f.op.IsControl():
			s.control(w, f.op, payload)
		case f.fin && s.fragments == 0:
			start = pos
			s.message(w, payload, &m)
		default:
			if s.fragments++; s.fragments > maxFragments {
				s.need().cause = errFragments
				s.tooLarge(w, 0)
				break
			}
			s.partial += copy(b[start+s.partial:], payload)
			if f.fin {
				whole := b[start : start+s.partial]
				start = pos
				s.partial, s.fragments = 0, 0
				s.message(w, whole, &m)
			}
		}
	}
	if s.ending != endNone || s.leg[client] != legOpen {
		s.partial, s.fragments = 0, 0
		return s.awaitClose(w, b[pos:])
	}
	if s.partial == 0 {
		return b[pos:]
	}
	// Close the gap that frame headers and control frames have left.
	kept := start + s.partial
	return b[start : kept+copy(b[kept:], b[pos:])]
}

// limit is the largest message that the client may send now. A server that
// offers no SASL has nobody authenticate.
func (s *session) limit() int {
	switch {
	case s.phase[up] == idle:
		return maxHeader
	case s.phase[down] == idle, s.saslOffered && !s.authenticated:
		return min(maxUnauthenticated, s.g.maxStanza)
	}
	return s.g.maxStanza
}

// tooLarge refuses a message by the way that fits the phase. Once the stream
// is open the stream ends, not just the WebSocket: a client that resumed would
// send the same message for ever.
//
// size is that of the message as it is announced; zero means that there are too
// many fragments instead.
func (s *session) tooLarge(w *workspace, size int) {
	if size > 0 {
		s.need().limit, s.rare.size = s.limit(), size
	}
	if s.phase[up] == idle {
		s.endWith(w, endOpenTooLarge, nil)
		return
	}
	s.refuse(w, endTooLarge, framing.CondPolicyViolation, "stanza too large", framing.StanzaTooBig)
}

// control answers a control frame (RFC 6455, section 5.5).
func (s *session) control(w *workspace, op ws.OpCode, p []byte) {
	switch op {
	case ws.OpPing:
		if s.blocked[client] {
			// The latest ping is answered when there is room
			// (section 5.5.3), so a client that does not read costs no
			// memory.
			r := s.need()
			r.pong = append(r.pong[:0], p...)
			r.pinged = true
			return
		}
		s.sendControl(w, ws.OpPong, p)
	case ws.OpPong:
		s.ponged(w, p)
	case ws.OpClose:
		s.closeFrame(w, p)
	}
}

// closeFrame answers the client's Close frame. Without <close/> before it the
// stream stays resumable (RFC 7395, section 3.6).
func (s *session) closeFrame(w *workspace, p []byte) {
	code, err := parseClose(p)
	switch {
	case errors.Is(err, errCloseReason):
		s.endWith(w, endNotText, err)
	case err != nil:
		s.endWith(w, endBadFrame, err)
	default:
		s.finishClient(w, code)
		s.endWith(w, s.orderly(endClientLeft), fmt.Errorf("the client closed the WebSocket with code %d", code))
	}
}

// finishClient echoes a Close frame and lets the connection end.
func (s *session) finishClient(w *workspace, code ws.StatusCode) {
	o := &w.out[client]
	o.keep(appendClose(o.grow(), code, ""))
	s.setLeg(w, client, legFinishing, lingerTimeout)
}

// awaitClose discards what a client sends after our Close frame, up to its
// own Close frame (RFC 6455, section 5.5.1). Where that cannot be found any more
// it is not waited for.
func (s *session) awaitClose(w *workspace, b []byte) (rest []byte) {
	for s.leg[client] == legClosing && len(b) > 0 {
		if r := s.need(); r.skip > 0 {
			n := min(r.skip, int64(len(b)))
			r.skip -= n
			b = b[n:]
			continue
		}
		f, size, err := parseFrame(b, ws.OpCode(b[0]&0x0f) == ws.OpContinuation)
		switch {
		case err != nil, f.length > int64(s.g.maxStanza):
			s.setLeg(w, client, legFinishing, lingerTimeout)
		case size == 0, f.op == ws.OpClose && len(b) < size+int(f.length):
			return b
		case f.op == ws.OpClose:
			s.setLeg(w, client, legFinishing, lingerTimeout)
		default:
			s.rare.skip = f.length
			b = b[size:]
		}
	}
	return nil
}

// message takes one whole message of the client.
func (s *session) message(w *workspace, b []byte, m *framing.Message) {
	if s.phase[up] == closed {
		return
	}
	if err := w.parser.Parse(b, m); err != nil {
		s.badMessage(w, b, err)
		return
	}
	switch m.Kind {
	case framing.KindHeader:
		s.clientHeader(w, m)
	case framing.KindEnd:
		s.clientEnd(w)
	default:
		s.clientElement(w, m)
	}
}

// badMessage refuses what is not exactly one permitted element. None of it
// has been forwarded.
func (s *session) badMessage(w *workspace, b []byte, err error) {
	if errors.Is(err, framing.ErrNotText) {
		s.endWith(w, endNotText, err)
		return
	}
	condition, e := framing.CondNotWellFormed, endBadXML
	var bad *framing.Error
	if errors.As(err, &bad) {
		condition = bad.Condition
	}
	if s.phase[up] == idle {
		e = endBadOpen
		if framing.IsLegacyHeader(b) {
			s.need().cause = errLegacyHeader
			s.refuse(w, e, framing.CondInvalidNamespace, "use <open/> (RFC 7395)", "")
			return
		}
	}
	s.need().cause = err
	s.refuse(w, e, condition, err.Error(), "")
}

// clientHeader takes <open/>: the first one leads to the dial, one after SASL
// restarts the stream.
func (s *session) clientHeader(w *workspace, m *framing.Message) {
	domain, condition := s.g.domain(m.Header.To)
	first := s.phase[up] == idle
	if first {
		s.domain = unique.Make(domain)
	} else if condition == "" && domain != "" && domain != s.domainName() {
		// The session belongs to the domain that it started with.
		condition = framing.CondImproperAddressing
	}
	// A header that reaches a server together with the end of SASL is not
	// well-formed for it: one that comes early is held until <success/> was
	// relayed, and is due only then.
	early := s.phase[up] == open && s.saslRunning
	if !early && !s.step(w, up, header) {
		return
	}
	if condition != "" {
		s.need().cause = domainError(condition, first)
		s.refuse(w, endBadOpen, condition, "", "")
		return
	}
	s.hold(m.Header)
	if first {
		s.dial(w)
		return
	}
	s.waitForSASL(w)
	s.release(w)
}

// request describes the session to whoever finds its server.
func (s *session) request() *upstream.Request {
	header := bytes.Clone(s.rare.header)
	var u framing.StreamUnit
	new(framing.StreamSplitter).Next(header, &u)
	q := &upstream.Request{
		Domain:   NormalDomain(s.domainName()),
		Header:   u.Header,
		Client:   s.remote,
		Listener: s.rare.listener,
		Secure:   s.secure,
		ID:       strconv.FormatUint(s.id, 10),
		Avoid:    s.rare.avoid,
	}
	if !q.Listener.IsValid() {
		q.Listener = s.link.local()
	}
	if from := u.Header.From; from != nil {
		if jid, err := framing.Unquote(from); err == nil {
			q.JID, _, _ = strings.Cut(jid, "/")
		}
	}
	return q
}

// dial starts to connect to a server; the outcome is an event.
func (s *session) dial(w *workspace) {
	r := s.rare
	r.dialed = w.now
	r.dials++
	if s.g.Direct != nil && r.dials == 1 && (s.g.DirectFor == nil || s.g.DirectFor(s.domainName())) {
		s.wait(w, endDialFailed, dialTimeout)
		if s.link.connect(w, s.g.Direct) {
			return
		}
	}
	s.wait(w, endDialFailed, upstream.TotalTimeout+dialGrace)
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancelDial = cancel
	go s.g.connect(ctx, cancel, s.link, s.request())
}

// maxDials bounds the servers that a session goes through, those not counted
// which Gateway.Dial tries.
const maxDials = 3

// redial replaces a server that cannot serve, unless the client has begun to
// authenticate there. It may know of the server's header and its features; those
// of the next server are not shown to it.
func (s *session) redial(w *workspace) bool {
	r := s.rare
	if r == nil || r.header == nil || s.dividing() || s.traffic(up) != (Traffic{}) || r.dials >= maxDials || s.ending != endNone || s.closing != endNone {
		return false
	}
	s.known = known{header: s.openSent, features: s.featuresSent}
	if s.stream != nil {
		r.avoid = s.stream.Server
		s.leave()
	}
	s.setLeg(w, server, legNone, 0)
	r.unwritable[server] = nil
	s.phase[down], s.headerSent = idle, false
	s.down = s.g.newDown()
	r.held = true
	s.dial(w)
	return true
}

// leave ends the use of a server.
func (s *session) leave() {
	if s.stream != nil {
		s.stream.Done()
		s.stream = nil
	}
}

// waitForSASL bounds how long a header is held: meanwhile nobody listens to
// the client, not even whether it is still there.
func (s *session) waitForSASL(w *workspace) { s.wait(w, endServerSilent, saslTimeout) }

// hold keeps a header and stops reading the client.
func (s *session) hold(a framing.Header) {
	r := s.need()
	r.header, r.held = framing.AppendStreamHeader(nil, a), true
}

// release writes the held header unless something still holds it. It is always
// a write of its own: no bytes of an earlier stream may arrive with it.
func (s *session) release(w *workspace) {
	if !s.holds() || s.leg[server] != legOpen || s.saslRunning || s.blocked[server] || w.out[server].size != 0 {
		return
	}
	w.out[server].add(s.rare.header)
	s.released(w)
}

// released notes that the held header was sent.
func (s *session) released(w *workspace) {
	if s.rare.held = false; s.traffic(up) != (Traffic{}) {
		s.rare.header = nil
	}
	s.headerSent, s.rare.headerSent = true, w.now
	if s.phase[down] == open {
		s.phase[down] = restart
	}
	s.wait(w, endServerSilent, headerTimeout)
}

// clientEnd takes <close/>: the server may still have something to say.
func (s *session) clientEnd(w *workspace) {
	first := s.phase[up] == idle
	if !s.step(w, up, end) {
		return
	}
	if first {
		s.endWith(w, endClientClosed, nil)
		return
	}
	s.sendEndTag(w)
	if s.closing == endNone {
		s.closing = endClientClosed
		s.wait(w, s.closing, closeTimeout)
	}
}

func (s *session) sendEndTag(w *workspace) {
	if s.headerSent && !s.endTagSent && s.leg[server] == legOpen {
		s.endTagSent = true
		w.out[server].addString(framing.EndTag)
	}
}

// clientElement forwards an element unchanged, unless it would change the
// transport under the gateway: what was cut from the features is refused too,
// because a client may send what was never offered.
func (s *session) clientElement(w *workspace, m *framing.Message) {
	if s.phase[up] == idle && string(m.Local) == "open" {
		s.need().cause = errOpenNamespace
		s.refuse(w, endBadOpen, framing.CondInvalidNamespace, "", "")
		return
	}
	if !s.step(w, up, element) {
		return
	}
	switch m.Class {
	case framing.ClassStartTLS:
		if !s.dividing() {
			s.sendString(w, framing.StartTLSFailure)
		}
		s.endWith(w, endStartTLS, nil)
		return
	case framing.ClassCompress:
		s.reply(w, framing.CompressFailure)
		return
	case framing.ClassSASLAuth, framing.ClassSASL2Authenticate:
		// The gateway vouches for nobody: what EXTERNAL would prove to the
		// server is who the gateway is.
		if m.External {
			s.reply(w, externalFailure[m.Class])
			return
		}
		s.saslRunning = m.Class == framing.ClassSASLAuth
	}
	if r := s.rare; r != nil && r.header != nil {
		r.header = nil // no other server knows what this one is told
		s.spare()
	}
	s.count(up, m.Class, len(m.Raw))
	w.out[server].add(m.Raw)
}

// maxUnread bounds the answers of our own that wait for a client which does not
// read.
const maxUnread = 16

// reply answers an element in the server's stead, once the client has all of the
// message that it is getting. A client that provokes answers and does not read
// them is cut off: unlike the server's elements they stop nobody, so they would
// pile up.
func (s *session) reply(w *workspace, m string) {
	if s.blocked[client] || s.dividing() {
		r := s.need()
		if r.unread++; r.unread > maxUnread {
			r.cause = errUnreadReplies
			s.stalled(w, client)
			return
		}
	}
	if s.dividing() {
		s.rare.replies = append(s.rare.replies, m)
		return
	}
	s.sendString(w, m)
}

var externalFailure = map[framing.Class]string{
	framing.ClassSASLAuth:          framing.SASLExternalFailure,
	framing.ClassSASL2Authenticate: framing.SASL2ExternalFailure,
}

// ---- server to client

// receiveServer cuts the server's stream into elements and sends each as one
// message (RFC 7395, section 3.3.3). It stops when the client's side has enough;
// the rest is input that was not read yet.
func (s *session) receiveServer(w *workspace, b []byte) (rest []byte) {
	var u framing.StreamUnit // one for all, for it is large
	s.leftOver = false
	for s.ending == endNone && s.phase[down] != closed {
		if len(b) > 0 && (w.out[client].size >= maxOutput || s.blocked[client]) {
			s.leftOver = true
			return b
		}
		n, err := s.down.Next(b, &u)
		b = b[n:]
		if err == nil && u.Kind == framing.KindNone && s.divides(w, len(b)) {
			n, err = s.down.Part(b, &u)
			b = b[n:]
		}
		if err != nil {
			s.badStream(w, err)
			return nil
		}
		switch u.Kind {
		case framing.KindNone:
			if s.ending != endNone {
				return nil
			}
			return b
		case framing.KindHeader:
			s.serverHeader(w, u.Header)
		case framing.KindEnd:
			s.serverEnd(w)
		default:
			s.serverElement(w, &u)
			if s.leg[server] == legNone {
				return nil // what follows is of no interest any more
			}
		}
	}
	return nil
}

// divides reports whether n bytes of an element are passed on before the rest has
// come.
func (s *session) divides(w *workspace, n int) bool {
	switch {
	case s.dividing():
		return n >= minPart
	case n > s.g.maxServerStanza:
		s.serverTooLarge(w)
		return false
	}
	return n >= maxWhole
}

// dividing reports whether the client has got a part of a message and waits for
// the rest. Only control frames may come between (RFC 6455, section 5.4).
func (s *session) dividing() bool { return s.rare != nil && s.rare.divided > 0 }

func (s *session) serverTooLarge(w *workspace) {
	s.need().limit = s.g.maxServerStanza
	s.endWith(w, endServerTooLarge, fmt.Errorf("element of more than %d bytes", s.g.maxServerStanza))
}

// badStream ends a session whose server sends what cannot be passed on.
func (s *session) badStream(w *workspace, err error) {
	e := endServerBroken
	if errors.Is(err, framing.ErrTooLarge) {
		e = endServerTooLarge
	}
	s.endWith(w, e, err)
}

func (s *session) serverHeader(w *workspace, a framing.Header) {
	s.answered(w, endNone)
	if !s.step(w, down, header) {
		return
	}
	if s.rare != nil {
		s.rare.headerSent = 0
	}
	if s.await == endServerSilent {
		s.waitForNothing()
	}
	if s.known.header {
		s.known.header = false
		return
	}
	s.known = known{} // the features of a restarted stream are others
	s.openSent = true
	s.sendText(w, framing.AppendOpen(nil, a))
}

// answered reports how a server reached directly has answered its first header:
// by one of its own, or by the end e of the session.
func (s *session) answered(w *workspace, e ending) {
	if s.stream == nil && s.headerSent && s.phase[down] == idle {
		s.g.observer.Answered(answerResult(e), w.now-s.rare.headerSent)
	}
}

// serverEnd takes </stream:stream>. After an error the session is over;
// otherwise the client is given time to close its stream too.
func (s *session) serverEnd(w *workspace) {
	if !s.step(w, down, end) {
		return
	}
	switch {
	case s.closing != endNone:
		s.endWith(w, s.closing, nil)
	default:
		s.closing = endServerClosed
		s.wait(w, s.closing, closeTimeout)
		s.sendClose(w)
	}
}

// serverElement takes an element, or a part of one. An element is judged by its
// start and takes effect at its end.
func (s *session) serverElement(w *workspace, u *framing.StreamUnit) {
	size := u.Size()
	if s.dividing() {
		size += s.rare.divided
	}
	if size > s.g.maxServerStanza {
		s.serverTooLarge(w)
		return
	}
	if u.Kind == framing.KindElement || u.Kind == framing.KindElementStart {
		if !s.elementStarts(w, u) {
			return
		}
	} else {
		s.countBytes(down, len(u.Raw))
	}
	s.sendElement(w, u)
	if s.dividing() {
		return
	}
	switch u.Class {
	case framing.ClassSASLSuccess:
		s.authenticated, s.saslRunning = true, false
		if s.phase[up] == open {
			s.phase[up] = restart
		}
		if s.holds() && s.step(w, up, header) {
			s.release(w)
		}
	case framing.ClassSASLFailure:
		s.saslRunning = false
		if s.holds() {
			s.step(w, up, header)
		}
	case framing.ClassSASL2Success:
		s.authenticated = true
	case framing.ClassSMEnabled, framing.ClassSMResumed:
		s.resumable = true
	case framing.ClassStreamError:
		s.closing = endServerError
		s.wait(w, s.closing, closeTimeout)
	}
}

// elementStarts looks at an element before any of it is sent. It reports false if
// the client gets nothing of it, or something else.
func (s *session) elementStarts(w *workspace, u *framing.StreamUnit) bool {
	if !s.step(w, down, element) {
		return false
	}
	if u.Class == framing.ClassStreamError {
		condition := cmp.Or(s.down.StreamErrorCondition(*u), framing.CondUndefinedCondition)
		s.need().cause = fmt.Errorf("the server sent the stream error %s", condition)
		s.rare.condition = condition
		if s.elsewhere(w, *u, condition) {
			if s.ending == endNone {
				s.need().cause, s.rare.verdict = nil, verdict{}
			}
			return false
		}
	}
	if u.Class == framing.ClassFeatures && (!s.featuresSent || s.known.features) && s.leadsNowhere(*u) {
		s.tlsRequired(w)
		return false
	}
	if s.known.features && u.Class == framing.ClassFeatures {
		s.known.features = false
		return false
	}
	s.count(down, u.Class, len(u.Raw))
	switch u.Class {
	case framing.ClassTLSProceed, framing.ClassCompressed:
		// What follows would be no XML any more; nobody asked for it.
		s.endWith(w, endServerBroken, errUpgradedStream)
		return false
	case framing.ClassFeatures:
		s.saslOffered, s.featuresSent = s.down.OffersSASL(*u), true
		if s.saslOffered && s.down.Binding == framing.ChannelBindingPass && s.down.OffersChannelBinding(*u) {
			s.g.bindingOffered()
		}
		s.sendFeatures(w, *u)
		return false
	}
	return true
}

// elsewhere acts on a stream error that speaks of another server: the client
// cannot, for it names a TCP endpoint (RFC 6120, section 4.9.3.19).
func (s *session) elsewhere(w *workspace, u framing.StreamUnit, condition framing.Condition) bool {
	switch condition {
	case framing.CondSeeOtherHost:
		if !s.followed() && s.redial(w) {
			return true
		}
		uri, ok := s.g.SeeOther[s.down.SeeOtherHost(u)]
		if ok && !s.closeSent {
			s.closeSent = true
			s.sendText(w, framing.AppendSeeOtherURI(nil, uri))
			s.endWith(w, endServerError, nil)
		}
		return ok
	case framing.CondSystemShutdown:
		return s.chosen() && !s.followed() && s.redial(w)
	}
	return false
}

// followed reports whether Gateway.Dial has looked at what is being received: the
// first element behind the header, if it came early. Where that leads elsewhere,
// Gateway.Dial has been, or has found no other server.
func (s *session) followed() bool {
	return s.stream != nil && s.stream.Early != nil && s.featuresSent == s.known.features
}

// chosen reports whether Gateway.Dial has chosen the server, and may choose
// another.
func (s *session) chosen() bool { return s.stream != nil && s.stream.Server != "" }

// leadsNowhere reports whether a client that is shown the features, without
// <starttls/>, would wait for ever.
func (s *session) leadsNowhere(u framing.StreamUnit) bool {
	return s.down.RequiresStartTLS(u) && !s.down.OffersSASL(u)
}

// tlsRequired acts on first features that demand TLS, which the stream is too far
// on for. Gateway.Dial knows how to begin with it.
func (s *session) tlsRequired(w *workspace) {
	if s.stream == nil && s.redial(w) {
		return
	}
	s.dialFailed(w, errTLSRequired)
}

var errTLSRequired = errors.New("the server lets nobody in without TLS; write starttls:// for it")

var errDialTimeout = errors.New("no connection in time")

// Causes that the table of endings does not tell.
var (
	errFragments     = fmt.Errorf("a message of more than %d fragments", maxFragments)
	errLegacyHeader  = errors.New("a stream header of RFC 6120 in place of <open/>: the client is older than RFC 7395")
	errOpenNamespace = errors.New("<open/> is not in the namespace of RFC 7395")
	errUnreadReplies = fmt.Errorf("the client left %d answers unread", maxUnread)
)

// domainError says why a header may not lead to the domain that it names.
func domainError(condition framing.Condition, first bool) error {
	switch {
	case condition == framing.CondHostUnknown:
		return errors.New("the domain is not one that clients may name")
	case first:
		return errors.New("the header names no domain")
	}
	return errors.New("the header names another domain than the first one")
}

// saturated is n as an int.
func saturated(n int64) int { return int(min(n, math.MaxInt)) }

var errUpgradedStream = errors.New("the server started TLS or compression unasked")

// ---- other events

// connected tells how it went to connect to Gateway.Direct.
func (s *session) connected(w *workspace, err error) {
	s.g.dialed(err, true, w.now-s.rare.dialed)
	if err != nil {
		s.dialFailed(w, dialError(s.g.Direct, err))
		return
	}
	s.attached(w, nil)
}

// attached gives the session its connection to the server: stream, if it was
// Gateway.Dial that made it. What came Early is yet to be received.
func (s *session) attached(w *workspace, stream *upstream.Stream) {
	s.need().cancelDial = nil
	s.stream = stream
	s.leg[server] = legOpen
	s.lastIn[server] = w.now
	if stream != nil && s.g.StripBindingOverTLS && s.down.Binding == framing.ChannelBindingPass {
		if _, secure := stream.Conn.(*tls.Conn); secure {
			s.down.Binding = framing.ChannelBindingStrip
		}
	}
	if stream != nil && stream.Early != nil {
		s.released(w)
		return
	}
	s.release(w)
}

// dialFailed tells the session that there is no server to be had.
func (s *session) dialFailed(w *workspace, err error) {
	s.need().cancelDial = nil
	s.need().cause = err
	s.refuse(w, endDialFailed, endDialFailed.info().Condition, dialFailure(err), "")
}

// dialFailure is what the client may know of a dial that failed: what only the
// operator can mend, without a word about where the server is.
func dialFailure(err error) string {
	var failed *upstream.Error
	if errors.Is(err, errTLSRequired) || errors.As(err, &failed) && failed.Result == upstream.ResultTLSRequired {
		return "the server behind the gateway requires TLS, which the gateway is not configured for"
	}
	return ""
}

// eof tells that nothing more comes from sd. err is io.EOF or what broke the
// connection; bytes that came before it have been received.
func (s *session) eof(w *workspace, sd side, err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && s.rare != nil {
		err = s.rare.unwritable[sd]
	}
	if sd == server && s.chosen() && s.redial(w) {
		return
	}
	s.setLeg(w, sd, legClosed, 0)
	if sd == client {
		s.endWith(w, s.orderly(endClientLost), err)
	} else {
		s.endWith(w, s.orderly(endServerLost), err)
	}
}

// hungUp tells that the client has sent FIN, which was found while it is not read.
// What it has sent before is relayed as long as the server takes it, and reading
// that ends with eof; but the server must not wait for the end longer than
// hangUpTimeout.
func (s *session) hungUp(w *workspace) {
	if s.leg[client] == legOpen && s.ending == endNone && s.need().legDue[client] == 0 {
		s.setLeg(w, client, legOpen, hangUpTimeout)
	}
}

// leftUnread acts on a client that has hung up when the time for that is over.
func (s *session) leftUnread(w *workspace) {
	if s.reads(client) && !s.blocked[server] {
		s.setLeg(w, client, legOpen, hangUpTimeout) // it is read, until eof
		return
	}
	s.eof(w, client, nil)
	if s.blocked[server] && s.leg[server] == legFinishing && !s.ending.info().EndTag {
		s.setLeg(w, server, legClosed, 0)
	}
}

// took tells that sd has taken some of what waits for it, after the moment since.
// A server that is to get the rest of what a client has left has more time then.
func (s *session) took(sd side, since time.Duration) {
	r := s.rare
	if r == nil || sd == client {
		return
	}
	if r.legDue[server] != 0 {
		r.legDue[server] = max(r.legDue[server], since+closeTimeout)
	}
	if r.legDue[client] != 0 && s.leg[client] == legOpen && r.unwritable[client] == nil {
		r.legDue[client] = max(r.legDue[client], since+hangUpTimeout)
	}
}

// writeFailed tells that nothing can be written to sd any more, nor will be. What
// it has sent is still read, but not for long: the end may never come that way.
func (s *session) writeFailed(w *workspace, sd side, err error) {
	s.need().unwritable[sd] = fmt.Errorf("write: %w", err)
	if s.leg[sd] == legOpen {
		s.setLeg(w, sd, legOpen, closeTimeout)
	}
}

// orderly is the ending under way, or e when there is none.
func (s *session) orderly(e ending) ending {
	if s.closing != endNone {
		return s.closing
	}
	return e
}

// stalled tells that sd has taken no byte for stallTimeout.
func (s *session) stalled(w *workspace, sd side) {
	e := endClientStalled
	if sd == server {
		e = endServerStalled
	}
	s.setLeg(w, sd, legClosed, 0)
	s.endWith(w, e, nil)
}

// shutdown ends the session because the gateway goes away. Neither side is
// told that the stream is over: clients resume it elsewhere.
func (s *session) shutdown(w *workspace) { s.endWith(w, endShutdown, nil) }

// drained tells that sd has taken every byte.
func (s *session) drained(w *workspace, sd side) {
	if sd == server {
		s.release(w)
	}
	if sd == client && s.rare != nil {
		s.rare.unread = len(s.rare.replies)
		if s.rare.pinged && s.leg[client] == legOpen {
			s.sendControl(w, ws.OpPong, s.rare.pong)
		}
		s.rare.pinged = false
	}
}

// deadline is when expire has to be called; zero means never.
func (s *session) deadline() time.Duration {
	d := time.Duration(0)
	if r := s.rare; r != nil {
		d = earlier(r.due, earlier(r.legDue[client], r.legDue[server]))
	}
	if s.leg[client] == legOpen && s.upgraded {
		d = earlier(d, s.pingAt())
	}
	return d
}

// pingAt is when the client's silence has to be looked at: after an interval it
// is pinged, after another it is given up. The first is somewhat shorter, by the
// number of the session, so that clients which connected together do not stay
// together.
func (s *session) pingAt() time.Duration {
	if s.asked {
		return s.lastIn[client] + 2*s.g.pingInterval
	}
	return s.lastIn[client] + s.g.pingInterval - time.Duration(s.id%1024)*(s.g.pingInterval/10240)
}

// earlier is the earlier of two moments, of which zero is none.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// expire does what is due at w.now.
func (s *session) expire(w *workspace) {
	if r := s.rare; r != nil {
		for sd := range r.legDue {
			switch {
			case !due(r.legDue[sd], w.now):
			case s.leg[sd] == legOpen && r.unwritable[sd] != nil:
				s.eof(w, side(sd), r.unwritable[sd])
			case side(sd) == client && s.leg[client] == legOpen:
				s.leftUnread(w)
			case s.blocked[sd] && (side(sd) == client || s.ending.info().EndTag):
				// It has not got all that is meant for it; a side that takes
				// nothing more is given up as stalled. A server whose stream
				// is not over gets no more than took has granted.
				r.legDue[sd] = w.now + closeTimeout
			default:
				s.setLeg(w, side(sd), legClosed, 0)
			}
		}
		if due(r.due, w.now) {
			e := s.await
			err := s.silence(e)
			s.waitForNothing()
			s.endWith(w, e, err)
		}
	}
	if s.leg[client] != legOpen || !s.upgraded || w.now < s.pingAt() {
		return
	}
	if !s.reads(client) || s.blocked[server] || s.blocked[client] {
		// It is not silent: nobody listens to it, or it has not come to
		// our ping yet. Other timeouts end that.
		s.heard(w)
		return
	}
	if s.asked {
		s.setLeg(w, client, legClosed, 0)
		s.endWith(w, s.orderly(endClientSilent), fmt.Errorf("nothing came from the client for %v", 2*s.g.pingInterval))
		return
	}
	s.asked, s.pingSent = true, w.now
	s.sendControl(w, ws.OpPing, []byte(pingPayload))
}

// silence says what has not come in time.
func (s *session) silence(e ending) error {
	switch {
	case e == endOpenTimeout:
		return fmt.Errorf("no <open/> within %v", openTimeout)
	case e == endServerSilent && s.holds():
		return fmt.Errorf("the server did not tell the outcome of SASL within %v", saslTimeout)
	case e == endServerSilent:
		return fmt.Errorf("no stream header from the server within %v", headerTimeout)
	}
	return nil // the table of endings tells
}

// pingPayload marks the pongs that answer us; unsolicited ones are usually
// empty (RFC 6455, section 5.5.3).
const pingPayload = "xmppgate"

func due(t, now time.Duration) bool { return t != 0 && t <= now }

// ponged measures the round trip of a ping of ours.
func (s *session) ponged(w *workspace, p []byte) {
	if s.pingSent == 0 || string(p) != pingPayload {
		return
	}
	s.ping = w.now - s.pingSent
	s.pingSent = 0
	s.g.observer.Pinged(s.ping)
}

// ---- endings

// failed ends the session at once, whatever state it is in.
func (s *session) failed(err error) {
	s.ending = endInternal
	s.need().cause = err
	s.waitForNothing()
	for sd := range s.leg {
		s.rare.legDue[sd] = 0
		if s.leg[sd] != legNone {
			s.leg[sd] = legClosed
		}
	}
}

// endWith ends the session by its table row.
func (s *session) endWith(w *workspace, e ending, cause error) {
	if s.ending != endNone {
		return
	}
	// An ending that was under way has its own cause already.
	if cause != nil && e != s.closing {
		s.need().cause = cause
	}
	s.refuse(w, e, e.info().Condition, "", "")
}

// refuse ends the session with a stream condition of its own. The order of
// what the client gets is that of RFC 7395, section 3.5: header, error, close.
func (s *session) refuse(w *workspace, e ending, condition framing.Condition, text, app string) {
	if s.ending != endNone {
		return
	}
	if !s.upgraded {
		s.reject(w, unserved(e), nil, nil)
		return
	}
	s.answered(w, e)
	s.ending = e
	s.waitForNothing()
	if r := s.rare; r != nil {
		r.header, r.held = nil, false
		if r.cancelDial != nil && e == endDialFailed {
			r.cause = errDialTimeout
			r.cancelDial(context.DeadlineExceeded)
		} else if r.cancelDial != nil {
			r.cancelDial(context.Canceled)
		}
		r.cancelDial = nil
	}
	info := e.info()

	if s.leg[client] == legOpen {
		code, reason := e.code(), e.reason(s.cause())
		switch {
		case s.dividing():
			// No other message may come before the end of this one, which
			// will not come: the client must not take it for complete.
			if code == ws.StatusNormalClosure {
				code, reason = ws.StatusInternalServerError, info.Meaning
			}
		default:
			if condition != "" {
				if !s.openSent {
					s.sendOwnOpen(w)
				}
				s.sendText(w, framing.AppendStreamError(nil, condition, text, app))
			}
			if info.Close {
				s.sendClose(w)
			}
		}
		o := &w.out[client]
		o.keep(appendClose(o.grow(), code, reason))
		if e.fails() {
			s.setLeg(w, client, legFinishing, lingerTimeout)
		} else {
			s.setLeg(w, client, legClosing, closeTimeout)
		}
	}
	if s.leg[server] == legOpen {
		if info.EndTag {
			s.sendEndTag(w)
		}
		s.setLeg(w, server, legFinishing, closeTimeout)
	}
}

// setLeg moves a leg on; the loop closes the connection d later at the latest.
func (s *session) setLeg(w *workspace, sd side, l leg, d time.Duration) {
	s.leg[sd] = l
	switch {
	case d != 0:
		s.need().legDue[sd] = w.now + d
	case s.rare != nil:
		s.rare.legDue[sd] = 0
	}
}

// sendOwnOpen sends a header in the server's stead, in front of an error that
// occurs before the server's header came.
func (s *session) sendOwnOpen(w *workspace) {
	s.openSent = true
	a := framing.Header{ID: framing.Quote(s.g.streamID()), Version: framing.Quote("1.0"), Lang: framing.Quote("en")}
	if d := s.domainName(); d != "" {
		a.From = framing.Quote(d)
	}
	s.sendText(w, framing.AppendOpen(nil, a))
}

// A tally is a Traffic in half the space. Its bytes are the first to find no
// room: an element has more than one.
type tally struct{ messages, presences, iqs, nonzas, bytes uint32 }

// count adds one element of n bytes, or the first n bytes of one.
func (s *session) count(d direction, c framing.Class, n int) {
	s.countBytes(d, n)
	t := &s.relayed[d]
	switch c {
	case framing.ClassMessage:
		t.messages++
	case framing.ClassPresence:
		t.presences++
	case framing.ClassIQ:
		t.iqs++
	default:
		t.nonzas++
	}
}

// countBytes adds n bytes.
func (s *session) countBytes(d direction, n int) {
	t := &s.relayed[d]
	if uint64(t.bytes)+uint64(n) > math.MaxUint32 {
		s.carry(d, n)
		return
	}
	t.bytes += uint32(n)
}

// carry empties a tally that has no room for n more bytes.
func (s *session) carry(d direction, n int) {
	r := s.need()
	if r.relayed == nil {
		r.relayed = new([2]Traffic)
	}
	r.relayed[d].add(s.relayed[d].traffic())
	r.relayed[d].Bytes += uint64(n)
	s.relayed[d] = tally{}
}

func (t *tally) add(o tally) {
	t.messages += o.messages
	t.presences += o.presences
	t.iqs += o.iqs
	t.nonzas += o.nonzas
	t.bytes += o.bytes
}

func (t *tally) sub(o tally) {
	t.messages -= o.messages
	t.presences -= o.presences
	t.iqs -= o.iqs
	t.nonzas -= o.nonzas
	t.bytes -= o.bytes
}

// countedNow is what this event has counted in direction d, and has neither been
// written nor become part of a backlog.
func (s *session) countedNow(w *workspace, d direction) (t tally) {
	if w.counted == s {
		if t = s.relayed[d]; t.messages >= w.before[d].messages && t.bytes >= w.before[d].bytes { // else it was carried
			t.sub(w.before[d])
		} else {
			t = tally{}
		}
		w.before[d] = s.relayed[d]
	}
	return t
}

// uncount takes back what was counted and not relayed after all. What was carried
// meanwhile stays.
func (s *session) uncount(d direction, lost tally) {
	if t := &s.relayed[d]; t.messages >= lost.messages && t.presences >= lost.presences && t.iqs >= lost.iqs && t.nonzas >= lost.nonzas && t.bytes >= lost.bytes {
		t.sub(lost)
	}
}

func (t tally) traffic() Traffic {
	return Traffic{uint64(t.messages), uint64(t.presences), uint64(t.iqs), uint64(t.nonzas), uint64(t.bytes)}
}

// traffic is all that was relayed.
func (s *session) traffic(d direction) Traffic {
	t := s.relayed[d].traffic()
	if s.rare != nil && s.rare.relayed != nil {
		t.add(s.rare.relayed[d])
	}
	return t
}
