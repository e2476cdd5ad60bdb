package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
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
	hangUpTimeout = 4 * time.Second  // for a server to take what was sent before the client was gone
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

	features []byte // without what cannot cross the gateway, while they are sent

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

	serverTLS bool // Gateway.Dial has connected to the server over TLS

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
		r.legDue[server] = max(r.legDue[server], since+hangUpTimeout)
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

func due(t, now time.Duration) bool { return t != 0 && t <= now }
