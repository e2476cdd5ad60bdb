package session

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unique"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// StateVersion is the version of State. A change that an older or a newer program
// would misread, such as a field that must not be ignored, needs another one.
const StateVersion = 2

// A State is all that another process needs to go on with a session at rest: it is
// authenticated, or need not be, and nothing is under way on either side. Moments are told as the time
// since, because processes do not share an epoch.
type State struct {
	ID       uint64
	Remote   netip.AddrPort
	Secure   bool
	Domain   string
	Server   string // Server.Name
	Age      time.Duration
	LastIn   [2]time.Duration // since something came, by side
	Ping     time.Duration    // last round trip
	PingSent time.Duration    // since a ping that has yet to be answered; zero for none
	Silent   bool             // nothing has come since that ping

	Authenticated bool // false if the server asks for no SASL
	Resumable     bool
	Bound         bool
	Steps         map[string]time.Duration // of the login, by name
	Mechanism     string                   // of the login, one of framing.Mechanisms
	Login         string                   // its outcome, one of LoginResults; empty for none
	JID           string                   // see Settings.LogJIDs
	Relayed       [2]Traffic               // so far, to server and client
	Stalls        [2]Stalls                // that are over, by side
	Splitter      []byte                   // framing.StreamSplitter
	Compression   *CompressionState
}

// errBusy is why a session stays where it is.
var errBusy = errors.New("something is under way")

// State returns the state of s if it is at rest. It must not be called during an
// event.
func (s *Session) State(c *relay.Conns, now time.Duration) (*State, error) {
	open := [2]relay.State{relay.StateOpen, relay.StateOpen}
	switch {
	case s.sasl.unauthenticated(), !s.featuresSent, s.phase != [2]streamPhase{phaseOpen, phaseOpen}, s.ending != endNone, s.pendingEnd != endNone,
		c.State != open, c.Blocked != [2]bool{}, s.unfinished != unfinished{}, s.server == nil, s.await != endNone, s.endsSoon:
		return nil, errBusy
	case s.extra != nil && !s.extra.atRest():
		return nil, errBusy
	}
	splitter, err := s.splitter.AppendBinary(nil)
	if err != nil {
		return nil, errBusy
	}
	st := &State{
		ID: s.id, Remote: s.remote, Secure: s.secure, Domain: s.domainName(), Server: s.server.Name,
		Age: now - s.began, LastIn: [2]time.Duration{now - s.lastIn[client], now - s.lastIn[server]},
		Ping: s.roundTrip(), Silent: s.pingOutstanding, Authenticated: s.sasl == saslDone, Resumable: s.resumable,
		Bound: s.bound, Steps: s.steps.stepTimes(), Mechanism: s.mechanism.String(), Login: s.login.String(),
		Relayed: [2]Traffic{toServer: s.traffic(toServer), toClient: s.traffic(toClient)}, Splitter: splitter,
		Compression: s.compressionState(),
	}
	if s.extra != nil && s.extra.stalls != nil {
		st.Stalls = *s.extra.stalls
	}
	if s.pingSent != 0 {
		st.PingSent = max(time.Duration(pingClock(now)-s.pingSent)*time.Microsecond, 1)
	}
	if s.extra != nil {
		st.JID = s.extra.jid
	}
	return st, nil
}

// atRest reports whether nothing of x is needed to go on.
func (x *extra) atRest() bool {
	return x.due == 0 && x.stateDue == [2]time.Duration{} && x.skip == 0 && x.header == nil && !x.headerQueued && x.headerSent == 0 &&
		x.attempt == nil && x.resume == 0 && !x.pongDue && x.unread == 0 && x.fragmented == 0 && x.replies == nil && x.cause == nil &&
		x.verdict == verdict{} && x.negotiation == negotiation{} && x.tap == nil && x.unwritable == [2]error{}
}

// Check returns what is wrong with st.
func (st *State) Check() error {
	if c := st.Compression; c != nil && !c.params().Valid() {
		return fmt.Errorf("compression with a window of %d bits", c.WindowBits)
	}
	return new(framing.StreamSplitter).UnmarshalBinary(st.Splitter)
}

// Restore makes s the session that st describes, whose Check returns nil. It takes the
// place of Start; server is the one that st names.
func (s *Session) Restore(ev *relay.Event, st *State, server *Server) {
	var splitter framing.StreamSplitter
	_ = splitter.UnmarshalBinary(st.Splitter) // see Check
	since := func(d time.Duration) time.Duration { return ev.Now - d }
	s.id, s.remote, s.secure, s.server, s.splitter = st.ID, st.Remote, st.Secure, server, splitter
	s.domain = unique.Make(st.Domain)
	s.began, s.lastIn = since(st.Age), [2]time.Duration{since(st.LastIn[client]), since(st.LastIn[relay.Server])}
	s.ping, s.pingOutstanding, s.resumable = uint32(st.Ping/time.Microsecond), st.Silent, st.Resumable
	if st.PingSent != 0 {
		s.pingSent = cmp.Or(pingClock(ev.Now)-uint32(st.PingSent/time.Microsecond), 1) // zero means none
	}
	// What a program of another age calls otherwise is forgotten.
	s.mechanism = framing.Mechanism(max(0, slices.Index(framing.Mechanisms(), st.Mechanism)))
	s.login = loginResult(max(0, slices.Index(loginResults, st.Login)))
	s.bound = st.Bound
	s.steps.setTimes(st.Steps)
	if st.JID != "" && s.set.LogJIDs {
		s.ensureExtra().jid = st.JID
	}
	s.restoreCompression(st.Compression)
	s.proxied, s.openSent, s.featuresSent, s.headerSent = true, true, true, true
	s.phase = [2]streamPhase{phaseOpen, phaseOpen}
	if st.Authenticated {
		s.sasl = saslDone
	}
	if up, down := asCount(st.Relayed[toServer]), asCount(st.Relayed[toClient]); asTraffic(up) == st.Relayed[toServer] && asTraffic(down) == st.Relayed[toClient] {
		s.relayed = [2]relay.Count{toServer: up, toClient: down}
	} else {
		s.ensureExtra().relayed = &st.Relayed
	}
	if st.Stalls != [2]Stalls{} {
		s.ensureExtra().stalls = &st.Stalls
	}
	ev.State = [2]relay.State{relay.StateOpen, relay.StateOpen}
	s.noteLogin(ev)
	s.limitPace(ev)
	if s.host.Started() {
		s.Shutdown(ev)
	}
}

// Leave gives up the session, which goes on in another process. It gets no event any
// more.
func (s *Session) Leave() {
	s.releaseServer()
	s.endCompression()
}

// ID is what Host.Upgraded has returned, zero before.
func (s *Session) ID() uint64 { return s.id }
