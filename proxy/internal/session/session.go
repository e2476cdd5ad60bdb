package session

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"time"
	"unique"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

// Timeouts of a session. Each bounds one wait for one peer.
const (
	TLSTimeout    = 10 * time.Second // for TLS with the client, a PROXY header in front of it included
	HeadTimeout   = 10 * time.Second // for the HTTP request
	openTimeout   = 10 * time.Second // for <open/> after the upgrade
	headerTimeout = 10 * time.Second // for the server's stream header
	saslTimeout   = 30 * time.Second // for the outcome of SASL while a header waits for it
	CloseTimeout  = 5 * time.Second  // for the answer to any kind of close
	lingerTimeout = 2 * time.Second  // for the client's EOF when no Close frame is awaited any more
	hangUpTimeout = 4 * time.Second  // for a server to take what was sent before the client was gone
)

// Limits in bytes.
const (
	// maxFrame is the largest message to the client that is one frame, except
	// while memory is scarce (relay.Event.Scarce).
	maxFrame = relay.MaxKept
	// minFragment is the least payload of a fragment that is not the last.
	minFragment = 16 << 10
	// maxOutput is how much one event may write to the client. The rest of
	// the input waits for the next event. It is twice what a read brings,
	// but declarations make a small element many times as large.
	maxOutput = 2 * relay.ReadSize
	// maxHeader bounds the first message of a client.
	maxHeader = 4 << 10
	// maxUnauthenticated bounds the messages of a client that has yet to
	// authenticate: the least that RFC 6120, section 13.12 allows.
	maxUnauthenticated = 10000
)

// A scratch is what a session needs only while an event runs. It lives in
// relay.Event.Scratch, so that a session at rest has none.
type scratch struct {
	parser   framing.MessageParser
	head     http1.Head // of the request, while it is looked at
	features []byte     // without what cannot cross the gateway, while they are sent

	text, deflated           []byte // a message to the client, while it is compressed
	inflated                 []byte // what a client has sent compressed, until the outboxes are written
	deflateWork, inflateWork int    // of this event

	counted *Session       // whose elements were counted in this event
	before  [2]relay.Count // what they were before
}

func scratchOf(ev *relay.Event) *scratch {
	sc, ok := ev.Scratch.(*scratch)
	if !ok {
		sc = new(scratch)
		ev.Scratch = sc
	}
	return sc
}

// A Session is one client's WebSocket and the stream to the server behind it.
//
// It is a pure state machine (relay.Session): it appends what has to be written to
// the outboxes of an event and sets the states of the connections. Nothing here
// blocks, reads a clock, starts a goroutine or touches a socket.
type Session struct {
	set    *Settings
	host   Host
	id     uint64 // zero until its HTTP request was answered with 101
	remote netip.AddrPort
	domain unique.Handle[string] // the to attribute of the header, decoded
	server *Server               // nil without a connection
	began  time.Duration

	Index   uint32        // for the host, guarded by it
	Network limit.Network // of the client, for the host; set by it before Start or in ClientFound

	paidUntil uint32 // zero for a client without limits, see pace.go
	steps     Steps  // of the login

	phase      [2]streamPhase // changed by streamStep alone
	ending     ending         // endNone while the session lives
	pendingEnd ending         // the orderly ending that is under way

	clientTLS TLSInfo // of TLS with the client; zero when it is not known

	refused limit.Reason // why a limit keeps it out
	proxied bool         // its PROXY header was read
	secure  bool         // it is encrypted on its way to the gateway
	tls     tlsState

	// What has happened to the streams.
	openSent     bool              // the client has got <open/>
	featuresSent bool              // the client has got <stream:features/>
	headerSent   bool              // the server has got a header
	endTagSent   bool              // the server has got </stream:stream>
	closeSent    bool              // the client has got <close/>
	sasl         saslState         // changed by saslStep alone
	loggedIn     bool              // the client is authenticated, or the server asks nobody to be
	mechanism    framing.Mechanism // that the client has chosen last
	login        loginResult       // of the last login
	bound        bool              // the client has got its JID, or its earlier stream back: see awaitBound
	resumable    bool              // the server lets the client resume the stream (XEP-0198)
	alreadySent  alreadySent
	clientFull   bool // receiveServer stopped because of the client, not for want of bytes
	readByHost   bool // Host.Connect has read what is being received
	endsSoon     bool // see EndSoon

	pingOutstanding bool   // a ping is out, and the client has said nothing since
	await           ending // what happens at extra.due

	unfinished // the client's message, or HTTP request, that is being put together

	extra    *extra // nil while none of it is needed
	splitter framing.StreamSplitter
	lastIn   [2]time.Duration
	pingSent uint32 // when, see pingClock; zero when no pong is due
	ping     uint32 // last round trip in microseconds
	relayed  [2]relay.Count
}

// An extra is what most sessions do not need most of the time.
type extra struct {
	due          time.Duration    // when the wait for one thing is over
	stateDue     [2]time.Duration // when the wait for the end of a connection is over
	skip         int64            // bytes of a frame to discard
	header       []byte           // for the server, also for the next one until SASL starts
	headerQueued bool             // it may not be written yet
	headerSent   time.Duration    // when the server got one that it has yet to answer; zero for none
	attempt      *Attempt         // Host.Connect is under way; nil when it is not
	dials        int              // how many there were
	avoid        string           // the server that has failed
	listener     netip.AddrPort   // where the client says that it has connected
	pong         []byte           // payload of the ping to answer when the client reads again
	pongDue      bool             // there is such a ping
	unread       int              // answers of our own that wait for the client
	fragmented   int              // bytes of the message to the client that is not complete; zero means none
	replies      []string         // answers of our own that wait for its end
	negotiation  negotiation      // the login that is under way
	jid          string           // of the client, see Settings.LogJIDs
	tap          Tap              // of an operator who looks at the session
	result       string           // of a request that was not upgraded
	cause        error            // what made the session end, for the log
	verdict                       // what the log learns beside it
	unwritable   [2]error         // why nothing can be written to a side; nil while it can
	compression  *compression     // if it was agreed on, until the end
	relayed      *[2]Traffic      // what Session.relayed had no room for
	resume       time.Duration    // when a client that has sent too much is read again; zero when it is read
	stalls       *[2]Stalls       // of each side; nil while there was none
	leaf         *Leaf            // the certificate that the client has got; nil when it is not known
}

// An alreadySent is what the client has of an earlier server, and must not get once
// more of this one.
type alreadySent struct{ header, features bool }

// dropExtra forgets extra when none of it is needed.
func (s *Session) dropExtra() {
	if x := s.extra; x != nil && s.await == endNone && s.ending == endNone && x.stateDue == [2]time.Duration{} && x.unwritable == [2]error{} && x.header == nil && x.headerSent == 0 && x.attempt == nil && !x.pongDue && x.unread == 0 && x.fragmented == 0 && x.relayed == nil && x.compression == nil && x.resume == 0 && x.stalls == nil && x.leaf == nil && x.verdict == (verdict{}) && x.negotiation == (negotiation{}) && x.jid == "" && x.tap == nil {
		s.extra = nil
	}
}

func (s *Session) ensureExtra() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

// headerQueued reports whether a header for the server waits: for the dial, for the end
// of SASL, or for earlier bytes. Until it has left the client is not read.
func (s *Session) headerQueued() bool { return s.extra != nil && s.extra.headerQueued }

// unanswered reports whether the server has yet to answer its first header. What a
// client sends early (XEP-0509) waits for that, because the server may be lost or name another one,
// which is to get it then.
func (s *Session) unanswered() bool { return s.headerSent && s.phase[toClient] == phaseNoHeader }

func (s *Session) cause() error {
	if s.extra == nil {
		return nil
	}
	return s.extra.cause
}

// domainName is empty before the header came.
func (s *Session) domainName() string {
	if s.domain == (unique.Handle[string]{}) {
		return ""
	}
	return s.domain.Value()
}

// Init makes s the session of a client at remote, which is invalid for a Unix
// socket. speaksTLS tells that the client has to begin with TLS, behind its PROXY header.
// With a reason it is refused once its request has come. s must be zero.
func (s *Session) Init(set *Settings, host Host, remote netip.AddrPort, speaksTLS bool, refused limit.Reason) {
	s.set, s.host, s.remote, s.refused = set, host, remote, refused
	if speaksTLS {
		s.tls = tlsAwaited
	}
}

// Host returns what Init was given.
func (s *Session) Host() Host { return s.host }

// Settings returns what Init was given.
func (s *Session) Settings() *Settings { return s.set }

// Refused returns what Init was given.
func (s *Session) Refused() limit.Reason { return s.refused }

// upgraded reports whether the HTTP request was answered with 101.
func (s *Session) upgraded() bool { return s.id != 0 }

// LoggedIn reports whether Host.LoggedIn was called.
func (s *Session) LoggedIn() bool { return s.loggedIn }

// step logs at debug level what the session has come to. With attributes, which cost even
// where nobody reads them, ask Host.Debug and call Host.Step.
func (s *Session) step(name string) {
	if s.host.Debug() {
		s.host.Step(name)
	}
}

// Start implements relay.Session. Only from here on the gateway knows the session,
// so that no other event can come before.
func (s *Session) Start(ev *relay.Event) {
	s.began = ev.Now
	ev.State[client] = relay.StateOpen
	if s.tls == tlsNone {
		s.wait(ev, endOpenTimeout, HeadTimeout)
	} else {
		s.wait(ev, endOpenTimeout, TLSTimeout)
	}
	if s.host.Started() {
		s.Shutdown(ev)
	}
}

// wait lets the session end as e unless something happens within d. There is
// one such wait at a time; a new one replaces the old.
func (s *Session) wait(ev *relay.Event, end ending, d time.Duration) {
	s.await, s.ensureExtra().due = end, ev.Now+d
}

func (s *Session) waitForNothing() {
	if s.await != endNone {
		s.await, s.extra.due = endNone, 0
		s.dropExtra()
	}
}

// markAlive notes a sign of life of the client.
func (s *Session) markAlive(ev *relay.Event) { s.lastIn[client], s.pingOutstanding = ev.Now, false }

// waitsForServer reports whether the client is not read because of the server.
func (s *Session) waitsForServer() bool { return s.headerQueued() || s.unanswered() }

// Reads implements relay.Session.
func (s *Session) Reads(c *relay.Conns, sd side) bool {
	switch c.State[sd] {
	case relay.StateOpen:
		return sd == server || !s.waitsForServer() && s.tls != tlsStarted && !s.paused()
	case relay.StateClosing, relay.StateFinishing:
		return true
	}
	return false
}

// Waits implements relay.Session.
func (s *Session) Waits(c *relay.Conns, sd side) bool {
	if sd == client && c.State[client] == relay.StateOpen {
		// All that a client has sent before it was paused is taken.
		return s.waitsForServer() || s.tls == tlsStarted || s.compression() != nil && s.compression().serverFull
	}
	return !s.Reads(c, sd) || sd == server && s.clientFull
}

// Receive implements relay.Session.
func (s *Session) Receive(ev *relay.Event, sd side, b []byte) (rest []byte) {
	sc := scratchOf(ev)
	sc.counted, sc.before = s, s.relayed
	if s.compression() != nil {
		sc.deflateWork, sc.inflateWork, sc.inflated = 0, 0, sc.inflated[:0]
	}
	if sd == server {
		s.lastIn[server] = ev.Now
		rest = s.receiveServer(ev, b)
		s.readByHost = false
		return rest
	}
	if !s.upgraded() {
		return s.receiveRequest(ev, b)
	}
	s.markAlive(ev)
	return s.receiveClient(ev, b)
}

// streamStep moves a stream by one event. It returns false when that was illegal and
// has ended the session.
func (s *Session) streamStep(ev *relay.Event, d direction, e streamEvent) bool {
	st := streamSteps[d][s.phase[d]][e]
	if st.ending != endNone {
		s.endWith(ev, st.ending, fmt.Errorf("%s came while the stream %s", e, s.phase[d]))
		return false
	}
	s.phase[d] = st.next
	return true
}

// EOF implements relay.Session.
func (s *Session) EOF(ev *relay.Event, sd side, err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && s.extra != nil {
		err = s.extra.unwritable[sd]
	}
	if sd == server && s.serverChosen() && s.redial(ev) {
		return
	}
	s.setState(ev, sd, relay.StateClosed, 0)
	if sd == client {
		s.endWith(ev, s.pendingOr(endClientLost), err)
	} else {
		s.endWith(ev, s.pendingOr(endServerLost), err)
	}
}

// HungUp implements relay.Session. What the client has sent before is relayed as long
// as the server takes it, and then EOF comes. But the server must not wait for the end
// of the session longer than hangUpTimeout.
func (s *Session) HungUp(ev *relay.Event) {
	s.unpause() // what it has sent is bounded now
	if ev.State[client] == relay.StateOpen && s.ending == endNone && s.ensureExtra().stateDue[client] == 0 {
		s.setState(ev, client, relay.StateOpen, hangUpTimeout)
	}
}

// hangUpExpired acts on a client that has hung up, when the server has had its time.
func (s *Session) hangUpExpired(ev *relay.Event) {
	if s.Reads(ev.Conns, client) && !ev.Blocked[server] {
		s.setState(ev, client, relay.StateOpen, hangUpTimeout) // it is read, until EOF
		return
	}
	s.EOF(ev, client, nil)
	if ev.Blocked[server] && ev.State[server] == relay.StateFinishing && !s.ending.info().EndTag {
		s.setState(ev, server, relay.StateClosed, 0)
	}
}

// Taken implements relay.Session. A server that still takes what a client has left
// behind gets more time for the rest.
func (s *Session) Taken(ev *relay.Event, sd side, since time.Duration) {
	x := s.extra
	if x == nil || sd == client {
		return
	}
	if x.stateDue[server] != 0 {
		x.stateDue[server] = max(x.stateDue[server], since+hangUpTimeout)
	}
	if x.stateDue[client] != 0 && ev.State[client] == relay.StateOpen && x.unwritable[client] == nil {
		x.stateDue[client] = max(x.stateDue[client], since+hangUpTimeout)
	}
}

// WriteFailed implements relay.Session. What sd has sent is still read, but not for
// long: the end may never come that way.
func (s *Session) WriteFailed(ev *relay.Event, sd side, err error) {
	s.ensureExtra().unwritable[sd] = fmt.Errorf("write: %w", err)
	if ev.State[sd] == relay.StateOpen {
		s.setState(ev, sd, relay.StateOpen, CloseTimeout)
	}
}

// Stalls are the times in which a side took nothing although bytes waited for it.
type Stalls struct {
	Number int
	Time   time.Duration // in all
}

// StallOver implements relay.Session.
func (s *Session) StallOver(sd side, d time.Duration) {
	x := s.ensureExtra()
	if x.stalls == nil {
		x.stalls = new([2]Stalls)
	}
	x.stalls[sd].Number++
	x.stalls[sd].Time += d
	s.host.StallOver(sd, d)
}

// Stalled implements relay.Session.
func (s *Session) Stalled(ev *relay.Event, sd side) {
	end := endClientStalled
	if sd == server {
		end = endServerStalled
	}
	s.setState(ev, sd, relay.StateClosed, 0)
	s.endWith(ev, end, nil)
}

// Shutdown ends the session because the gateway goes away. Neither side is
// told that the stream is over: clients resume it elsewhere.
func (s *Session) Shutdown(ev *relay.Event) { s.endWith(ev, endShutdown, nil) }

// EndSoon announces EndByOperator. It reports false if the session is ending, or about
// to be ended already. Until then it does not move to another process.
func (s *Session) EndSoon() bool {
	if s.ending != endNone || s.endsSoon {
		return false
	}
	s.endsSoon = true
	return true
}

// EndByOperator ends the session because an operator wants it. As with Shutdown the
// stream stays resumable.
func (s *Session) EndByOperator(ev *relay.Event) { s.endWith(ev, endOperator, nil) }

// Flushed implements relay.Session.
func (s *Session) Flushed(ev *relay.Event, sd side) {
	if sd == server {
		s.sendHeader(ev)
	}
	if sd == client && s.extra != nil {
		s.extra.unread = len(s.extra.replies)
		if s.extra.pongDue && ev.State[client] == relay.StateOpen {
			s.sendControl(ev, ws.OpPong, s.extra.pong)
		}
		s.extra.pongDue = false
	}
}

// Deadline implements relay.Session.
func (s *Session) Deadline(c *relay.Conns) time.Duration {
	d := time.Duration(0)
	if x := s.extra; x != nil {
		d = relay.Earlier(relay.Earlier(x.due, x.resume), relay.Earlier(x.stateDue[client], x.stateDue[server]))
	}
	if c.State[client] == relay.StateOpen && s.upgraded() {
		d = relay.Earlier(d, relay.Earlier(s.pingAt(), s.endsAt()))
	}
	return d
}

// pingAt is when the client's silence has to be looked at: after an interval it
// is pinged, after another it is given up. The first is shorter by up to an eighth. Pings go
// out at moments that all sessions share, so that the loop wakes up for many of them at
// once; the moment is random each time, so that clients which connected together do not
// stay together.
func (s *Session) pingAt() time.Duration {
	if s.pingOutstanding {
		return s.lastIn[client] + 2*s.set.PingInterval
	}
	const moments = 32 // of an interval
	moment := s.set.PingInterval / moments
	random := rand.NewPCG(s.id, uint64(s.lastIn[client])).Uint64() % 1024
	at := s.lastIn[client] + s.set.PingInterval - time.Duration(random)*(3*moment/1024)
	return at - at%moment
}

// Expired implements relay.Session.
func (s *Session) Expired(ev *relay.Event) {
	if x := s.extra; x != nil {
		for sd := range x.stateDue {
			switch {
			case !due(x.stateDue[sd], ev.Now):
			case ev.State[sd] == relay.StateOpen && x.unwritable[sd] != nil:
				s.EOF(ev, side(sd), x.unwritable[sd])
			case side(sd) == client && ev.State[client] == relay.StateOpen:
				s.hangUpExpired(ev)
			case ev.Blocked[sd] && (side(sd) == client || s.ending.info().EndTag):
				// It has not got all that is meant for it; a side that takes
				// nothing more is given up as stalled. A server whose stream
				// is not over gets no more time than Taken has granted.
				x.stateDue[sd] = ev.Now + CloseTimeout
			default:
				s.setState(ev, side(sd), relay.StateClosed, 0)
			}
		}
		if due(x.resume, ev.Now) {
			s.unpause()
		}
		if due(x.due, ev.Now) {
			end := s.await
			err := s.timeoutCause(end)
			s.waitForNothing()
			s.endWith(ev, end, err)
		}
	}
	if ev.State[client] != relay.StateOpen || !s.upgraded() {
		return
	}
	if due(s.endsAt(), ev.Now) {
		s.tooOld(ev)
		return
	}
	if ev.Now < s.pingAt() {
		return
	}
	if !s.Reads(ev.Conns, client) || ev.Blocked[server] || ev.Blocked[client] {
		// It is not silent: it is not read, or has yet to read our ping.
		// Other timeouts bound that.
		s.markAlive(ev)
		return
	}
	if s.pingOutstanding {
		s.setState(ev, client, relay.StateClosed, 0)
		s.endWith(ev, s.pendingOr(endClientSilent), fmt.Errorf("nothing came from the client for %v", 2*s.set.PingInterval))
		return
	}
	s.pingOutstanding, s.pingSent = true, pingClock(ev.Now)
	ev.AwaitsAnswer = true
	s.sendControl(ev, ws.OpPing, []byte(pingPayload))
}

func due(t, now time.Duration) bool { return t != 0 && t <= now }
