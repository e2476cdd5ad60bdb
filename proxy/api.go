package proxy

import (
	"net/netip"
	"time"

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
	Dialed(result string, took time.Duration)
	// AcceptFailed is called for every failed accept, for example because no
	// descriptor was left.
	AcceptFailed()
	// Pinged is called for every pong that answers a ping of the gateway.
	Pinged(roundTrip time.Duration)
	// Ended is called once for every session, which is an upgraded
	// connection. ending is the Name of one of Endings.
	Ended(ending string, age time.Duration)
}

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
	Ping      time.Duration  // last round trip; zero before the first pong
}
