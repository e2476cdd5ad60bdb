package session

import (
	"net/netip"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
)

// A verdict is what is known of an ending beside its cause. Zero values mean that
// there is nothing to say.
type verdict struct {
	condition framing.Condition // of the server's stream error
	limit     int               // that was exceeded, in bytes
	size      int               // that exceeded it, as far as it is known
}

// Phases of an Info, in the order in which sessions pass through them.
const (
	sessionOpening     = "opening"     // between the upgrade and the server's header
	sessionNegotiating = "negotiating" // not authenticated
	sessionEstablished = "established"
	sessionClosing     = "closing"
)

// Phases lists the values of Info.Phase.
func Phases() []string {
	return []string{sessionOpening, sessionNegotiating, sessionEstablished, sessionClosing}
}

// An Info describes a session. It holds no content.
type Info struct {
	ID        uint64 // zero before the upgrade
	Remote    netip.AddrPort
	Domain    string // the to attribute of its header; empty before it came
	Server    string // see Server.Name; empty without a connection
	Phase     string // see Phases
	Resumable bool   // XEP-0198 resumption is on
	Began     time.Duration
	LastIn    time.Duration // when something came from either side
	Up, Down  Traffic
	Ping      time.Duration // last round trip; zero before the first pong
	Secure    bool          // the client's connection is encrypted on its way to the gateway
	ServerTLS bool          // the gateway speaks TLS with the server
	Stalls    [2]Stalls     // of the sides, those that are over
	Steps     Steps         // of the login

	// ClientTLSInfo and ServerTLSInfo are what was negotiated, as far as it is known.
	ClientTLSInfo, ServerTLSInfo TLSInfo

	// Compressed tells that compression was agreed on. The sizes are those of all
	// messages since; without compression they are zero.
	Compressed               bool
	UpMessages, DownMessages MessageSize
}

// Info describes s as it is now.
func (s *Session) Info() Info {
	i := Info{
		ID: s.id, Remote: s.remote, Domain: s.domainName(), Resumable: s.resumable,
		Began: s.began, LastIn: max(s.lastIn[client], s.lastIn[server]),
		Up: s.traffic(toServer), Down: s.traffic(toClient), Ping: s.roundTrip(), Secure: s.secure,
		ClientTLSInfo: s.clientTLS, Steps: s.steps,
	}
	if c := s.compression(); c != nil {
		i.Compressed, i.UpMessages, i.DownMessages = true, c.relayed[toServer], c.relayed[toClient]
	}
	if s.server != nil {
		i.Server, i.ServerTLS, i.ServerTLSInfo = s.server.Name, s.server.TLS, s.server.TLSInfo
	}
	if s.extra != nil && s.extra.stalls != nil {
		i.Stalls = *s.extra.stalls
	}
	switch {
	case s.ending != endNone, s.pendingEnd != endNone:
		i.Phase = sessionClosing
	case s.sasl == saslDone:
		i.Phase = sessionEstablished
	case s.openSent:
		i.Phase = sessionNegotiating
	default:
		i.Phase = sessionOpening
	}
	return i
}

// reached is the last phase that the session was in before it began to end.
func (s *Session) lastPhase() string {
	switch {
	case s.sasl == saslDone:
		return sessionEstablished
	case s.phase[toClient] != phaseNoHeader:
		return sessionNegotiating
	}
	return sessionOpening
}

// Traffic returns what the session has relayed to the server and to the client.
func (s *Session) Traffic() (up, down Traffic) {
	return s.traffic(toServer), s.traffic(toClient)
}

// A Record is what there is to say of a session that is over.
type Record struct {
	Info                        // Phase is the last one before the ending
	Ending    *EndingInfo       // nil if the connection never became a session
	Result    string            // of a request that was not upgraded, see UpgradeResults
	Cause     error             // nil if Ending says it all
	Condition framing.Condition // of the server's stream error, or empty
	Limit     int               // that was exceeded, in bytes; zero means none
	Size      int               // that exceeded it; zero if it is not known
	Tried     string            // the server that has failed before, or empty
	Mechanism string            // of the last login, see framing.Mechanisms; empty if there was none
	JID       string            // bare, see Settings.LogJIDs; empty if it is not known
	Login     string            // its outcome, see LoginResults; empty if there was none
}

// Record describes s when it is over.
func (s *Session) Record() Record {
	r := Record{Info: s.Info()}
	r.Phase = s.lastPhase()
	if s.upgraded() || s.ending == endInternal {
		r.Ending = s.ending.info()
	}
	if s.mechanism != framing.MechanismNone {
		r.Mechanism = s.mechanism.String()
	}
	r.Login = s.login.String()
	if x := s.extra; x != nil {
		r.Result, r.Cause, r.Condition, r.Limit, r.Size = x.result, x.cause, x.condition, x.limit, x.size
		r.Tried, r.JID = x.avoid, x.jid
	}
	return r
}

// Over implements relay.Session.
func (s *Session) Over(ev *relay.Event) {
	s.host.Over(ev)
	s.releaseServer()
	s.endCompression()
}
