package proxy

import (
	"net/netip"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/internal/session"
)

// An Observer gets the rare events of a gateway. Its methods must not block and may
// be called by several goroutines at once.
type Observer interface {
	// Upgraded is called once for every connection, after its HTTP request
	// was answered or it has ended without one. result is one of
	// UpgradeResults, took the time since the connection was accepted.
	Upgraded(result string, took time.Duration)
	// Dialed is called once for every attempt of a session to get a server.
	// result is one of DialResults.
	Dialed(session uint64, result string, took time.Duration)
	// AcceptFailed is called for every failed accept, for example because no
	// descriptor was left.
	AcceptFailed()
	// FeaturesSent is called once for every session whose client gets features,
	// with the time since the WebSocket was opened.
	FeaturesSent(session uint64, took time.Duration)
	// LoginEnded is called for the outcome of every login. mechanism is one of
	// Mechanisms, result one of LoginResults, took the time since the WebSocket was
	// opened. The mechanism is "none" if the client has left without a try.
	LoginEnded(session uint64, mechanism, result string, took time.Duration)
	// Restarted is called when a stream has started again after SASL.
	Restarted()
	// Resumable is called when a server lets the client resume its stream later
	// (XEP-0198). ResumeEnded is called for the outcome of every wish to resume
	// one; result is one of ResumeResults.
	Resumable()
	ResumeEnded(result string)
	// StreamError is called for every stream error. side is the one of ErrorSides
	// that has sent it, condition one of StreamErrors.
	StreamError(side, condition string)
	// Secured is called once for every handshake of TLS with a client, and for every
	// client that ought to have begun one.
	Secured(Handshake)
	// Pinged is called for every pong that answers a ping of the gateway.
	Pinged(roundTrip time.Duration)
	// Paused is called whenever a client is not read for a while because it has sent
	// more than Config.StanzaRate or Config.ByteRate.
	Paused()
	// StallOver is called when a side of a session, one of Sides, that had taken
	// nothing for d takes bytes again, or is gone. d is at least a second.
	StallOver(side string, d time.Duration)
	// Ended is called once for every session, which is an upgraded connection. s is
	// the observer's to keep, and does not change.
	Ended(s *EndedSession)
}

// Sides returns the names of the two sides of a session.
func Sides() []string { return []string{"client", "server"} }

// Traffic counts what was relayed in one direction, in first-level elements by kind
// and in bytes of XML. The zero value is no traffic.
type Traffic = session.Traffic

// EndingInfo describes one way for a session to end: how it is reported, and what
// client and server get.
type EndingInfo = session.EndingInfo

// Endings returns all ways in which a session can end.
func Endings() []EndingInfo { return session.Endings() }

// UpgradeResults returns all results that Observer.Upgraded gets.
func UpgradeResults() []string { return session.UpgradeResults() }

// UpgradeRemedy returns what an operator may change when requests are refused with one of
// UpgradeResults; empty if there is nothing to say.
func UpgradeRemedy(result string) string { return session.UpgradeRemedy(result) }

// LoginMeaning returns what happened at one of LoginResults, in words; empty for success.
func LoginMeaning(result string) string {
	failed, _ := session.FailedLogin(result)
	return failed.Meaning
}

// LoginResults returns all results that Observer.LoginEnded gets: the conditions of RFC
// 6120, section 6.5, and what there is beside them.
func LoginResults() []string { return session.LoginResults() }

// Mechanisms returns all families of SASL mechanisms that Observer.LoginEnded gets.
func Mechanisms() []string { return framing.Mechanisms() }

// ResumeResults returns all results that Observer.ResumeEnded gets.
func ResumeResults() []string { return session.ResumeResults() }

// ErrorSides and StreamErrors return the sides and conditions that Observer.StreamError
// gets.
func ErrorSides() []string { return session.ErrorSides() }

func StreamErrors() (all []string) {
	for _, c := range framing.Conditions() {
		all = append(all, string(c))
	}
	return all
}

// Phases returns all values of SessionInfo.Phase, in the order in which sessions
// pass through them.
func Phases() []string { return session.Phases() }

// SessionInfo describes one live session at the moment of the call. It has no
// content.
type SessionInfo struct {
	ID        uint64         // unique for the Gateway, counting from 1
	Remote    netip.AddrPort // the client; invalid on a Unix socket, see Config.ClientAddress
	Domain    string         // the attribute to of the client's header; empty before it came
	Server    string         // upstream.Stream.Server; empty without a connection
	Phase     string         // one of Phases
	Resumable bool           // whether the client has enabled resumption (XEP-0198)
	Since     time.Time      // when the WebSocket was opened
	Idle      time.Duration  // since the last byte from either side
	Up        Traffic        // client to server
	Down      Traffic        // server to client
	UpQueue   Queue          // to the server
	DownQueue Queue          // to the client
	Ping      time.Duration  // last round trip; zero before the first pong
	ClientTLS bool           // whether the client's connection is encrypted on its way to the gateway, as far as that is known
	ServerTLS bool           // whether the gateway speaks TLS with the server
	Steps     Steps          // when the session came to the steps of its login, since then

	// ClientTLSInfo and ServerTLSInfo are what was negotiated, as far as it is known.
	ClientTLSInfo, ServerTLSInfo TLSInfo

	// Compressed tells that the client and the gateway have agreed on compression.
	// The sizes are those of all messages since then, zero without it.
	Compressed               bool
	UpMessages, DownMessages MessageSize
}

// Steps has the moments at which a session came to the steps of its login, counted from
// the opening of the WebSocket. The zero value has none.
type Steps = session.Steps

// StepNames returns the names that Steps.All yields, in their order.
func StepNames() []string { return session.StepNames() }

// A TLSInfo is what TLS was negotiated to, in the numbers of package crypto/tls. What is not
// known is zero.
type TLSInfo = session.TLSInfo

// A MessageSize counts the payloads of WebSocket messages in one direction: their text,
// and what was sent for it.
type MessageSize = session.MessageSize

// CompressionInfo tells how compression is used.
type CompressionInfo = session.CompressionInfo

// A Queue is what is known of the writing to one side of a session. The zero value
// means that the side takes everything.
type Queue struct {
	Bytes   int           // that wait: in the gateway, and in the kernel as of the last check
	Stalls  int           // how often the side took nothing for a second or longer
	Stalled time.Duration // in all
}

// An EndedSession describes a session that is over. It has no content, and no JID unless
// Config.LogJIDs.
type EndedSession struct {
	SessionInfo           // at the end; Phase is the last one before the ending
	Ended       time.Time // when it did
	Ending      string    // the Name of one of Endings
	Cause       string    // what happened, in words; at most a KiB
	Condition   string    // of the server's stream error; empty if there was none
	Mechanism   string    // of the last login, one of Mechanisms; empty if the client chose none
	Login       string    // its outcome, one of LoginResults; empty if there was none
	JID         string    // bare, see Config.LogJIDs; empty if it is not known
	Limit, Size int       // what was exceeded, and by what, in bytes; zero if nothing was, or it is not known
}

// Age is the time from the connection to the end.
func (s *EndedSession) Age() time.Duration { return s.Ended.Sub(s.Since) }
