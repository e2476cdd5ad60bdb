package proxy

import (
	"net/netip"
	"time"

	"xmppgate/proxy/internal/session"
)

// An Observer is told about the rare events of a gateway. Its methods must be
// quick and may be called by several goroutines at once. Every string is a
// value of the closed set named beside it.
type Observer interface {
	// Upgraded is called once for every HTTP request. See UpgradeResults.
	Upgraded(result string, took time.Duration)
	// Dialed is called once for every attempt to connect to a server. See
	// DialResults.
	Dialed(result string, took time.Duration)
	// AcceptFailed is called for every connection that could not be accepted,
	// for want of descriptors for example.
	AcceptFailed()
	// Pinged is called for every pong that answers a ping of the gateway.
	Pinged(roundTrip time.Duration)
	// Ended is called once for every session. See Endings.
	Ended(ending string, age time.Duration)
}

// Traffic counts what was relayed in one direction.
type Traffic = session.Traffic

// EndingInfo describes one way for a session to end: how it is reported and what
// each side is told.
type EndingInfo = session.EndingInfo

// Endings lists the ways in which a session can end.
func Endings() []EndingInfo { return session.Endings() }

// UpgradeResults lists the results that Observer.Upgraded is told.
func UpgradeResults() []string { return session.UpgradeResults() }

// Phases lists the values of SessionInfo.Phase, in the order in which sessions pass
// through them.
func Phases() []string { return session.Phases() }

// SessionInfo describes one live session. It holds no content.
type SessionInfo struct {
	ID     uint64
	Remote netip.AddrPort // the client
	Domain string         // the to attribute of its header; empty before it came
	Server string         // where its stream leads, see upstream.Stream; empty without a connection
	Phase  string         // see Phases
	// Resumable tells whether XEP-0198 resumption is on.
	Resumable bool
	Since     time.Time
	Idle      time.Duration // since the last byte from either side
	Up        Traffic       // client to server
	Down      Traffic       // server to client
	Ping      time.Duration // last round trip; zero before the first pong
}
