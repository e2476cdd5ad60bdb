package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/upstream"
)

// A Gateway accepts WebSocket connections that speak the subprotocol xmpp
// (RFC 7395) and relays each of them to an XMPP server over a stream of its
// own (RFC 6120).
//
// Its fields are read when the first connection is served and must not change
// afterwards. Every field but Dial has a zero value that works.
type Gateway struct {
	// Dial finds the XMPP server of one session and opens a stream to it, as
	// upstream.Router.Connect does. If the Stream has no Early bytes, the
	// session sends the header. The context is cancelled when that takes too
	// long or the client goes away. Required.
	Dial func(context.Context, *upstream.Request) (*upstream.Stream, error)

	// Direct is the one address that Dial connects to, if there is nothing
	// else to it: a *net.TCPAddr or a *net.UnixAddr of a server that speaks
	// in plain text. A loop that can do that for less does not call Dial
	// then. Nil means that only Dial knows.
	Direct net.Addr

	// DirectFor tells whether a session for a domain may connect to Direct,
	// as upstream.Router.DirectFor does. Nil means any may.
	DirectFor func(domain string) bool

	// SeeOther maps what servers call each other in <see-other-host/>, as in
	// "node2.example.org:5222", to the WebSocket URLs that clients get
	// instead (RFC 7395, section 3.6.1). A server that is not in it is gone
	// to before the client authenticates, and is the client's to find later.
	SeeOther map[string]string

	// ChannelBinding says what becomes of the SASL mechanisms that a gateway
	// which ends TLS breaks. HideExternal removes the mechanism EXTERNAL,
	// which a gateway with a certificate of its own is offered; no client
	// may use it in any case.
	ChannelBinding framing.ChannelBinding
	HideExternal   bool

	// StripBindingOverTLS makes ChannelBinding framing.ChannelBindingStrip, if it is
	// framing.ChannelBindingPass, for servers that Dial reaches over TLS: what binds
	// a login to that connection cannot work for a client.
	StripBindingOverTLS bool

	// ClientAddress says who tells the address of a client other than its
	// connection does. The zero value means nobody.
	ClientAddress clientaddr.Policy

	// Domains are the domains a client may name in the to attribute of its
	// header. Nil means any: the server decides.
	Domains []string

	// Paths are the URL paths that accept WebSocket connections, as CheckPath
	// takes them; * stands for exactly one segment, as in
	// "/*/xmpp-websocket". Nil means DefaultPaths.
	Paths []string

	// AllowedOrigins match the values of the header field Origin that
	// browsers may send. Nil means any. Clients that send no Origin are not
	// browsers and always pass.
	AllowedOrigins []OriginPattern

	// MaxSessions bounds the sessions that live at once; further
	// connections are refused with 503. Zero means no bound; MostSessions is the
	// most.
	MaxSessions int

	// MaxStanza is the largest message of a client in bytes. Zero means
	// DefaultMaxStanza; LargestStanza is the most.
	MaxStanza int

	// MaxServerStanza is the largest element of a server in bytes, as the
	// client gets it. Up to 256 KiB it is one frame; beyond that it is
	// passed on while it comes, in fragments of one message. Zero means
	// DefaultMaxServerStanza; LargestServerStanza is the most.
	MaxServerStanza int

	// PingInterval is how long a client may be silent before it gets a
	// WebSocket ping; after two intervals without a byte the session ends.
	// Zero means DefaultPingInterval; LongestPingInterval is the most.
	PingInterval time.Duration

	// Loop names what drives the sessions: LoopAuto or LoopGoroutine. Empty
	// means LoopAuto.
	Loop string

	// Observer learns what happens. Nil means nobody does.
	Observer Observer

	// Log gets one record when a session ends. Its handler must not wait for
	// whoever reads the log: all sessions of a loop would wait too. Nil means
	// none.
	Log *slog.Logger

	state
}

// An Observer is told about the rare events of a gateway. Its methods must be
// quick and may be called by several goroutines at once. Every string is a
// value of the closed set named beside it.
type Observer interface {
	// Upgraded is called once for every HTTP request. See UpgradeResults.
	Upgraded(result string, took time.Duration)
	// Dialed is called once for every attempt to connect to the server,
	// which was to Gateway.Direct or by Gateway.Dial. See DialResults.
	Dialed(result string, direct bool, took time.Duration)
	// Answered is called once for the first header that a server reached by
	// Gateway.Direct has got. Gateway.Dial knows about its own. See
	// AnswerResults.
	Answered(result string, took time.Duration)
	// AcceptFailed is called for every connection that could not be accepted,
	// for want of descriptors for example.
	AcceptFailed()
	// Pinged is called for every pong that answers a ping of the gateway.
	Pinged(roundTrip time.Duration)
	// Ended is called once for every session. See Endings.
	Ended(ending string, age time.Duration)
}

// Traffic counts what was relayed in one direction.
type Traffic struct {
	Messages, Presences, IQs, Nonzas uint64 // first-level elements by kind
	Bytes                            uint64 // of their XML, without WebSocket framing
}

// SessionInfo describes one live session. It holds no content.
type SessionInfo struct {
	ID     uint64
	Remote netip.AddrPort // the client
	Domain string         // the to attribute of its header; empty before it came
	Server string         // where its stream leads, see upstream.Stream; empty for Direct
	Phase  string         // see Phases
	// Resumable tells whether XEP-0198 resumption is on.
	Resumable bool
	Since     time.Time
	Idle      time.Duration // since the last byte from either side
	Up        Traffic       // client to server
	Down      Traffic       // server to client
	Ping      time.Duration // last round trip; zero before the first pong
}
