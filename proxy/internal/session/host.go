package session

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

// Settings are what sessions go by. They do not change, except Limits: a session keeps
// those that it has begun with.
type Settings struct {
	// PathServed reports whether a path, as it stands in a request, accepts
	// WebSocket connections. OriginAllowed does so for a value of Origin; nil
	// allows any.
	PathServed    func(path []byte) bool
	OriginAllowed func(origin []byte) bool

	// RootPage and SocketPage are what people get who open the root or the path
	// of a WebSocket in a browser. HostMeta returns the documents for a value of
	// Host, or nil; if it is nil there are none. Ready reports whether sessions
	// find a server now; nil means that they do. It must not block.
	RootPage, SocketPage Document
	HostMeta             func(host []byte) *HostMeta
	Ready                func() bool

	// ClientAddress says who tells the address of a client.
	ClientAddress clientaddr.Policy

	// Domain decodes the to attribute of a header, nil if there is none. The
	// condition is not empty when the session may not go there.
	Domain func(to []byte) (domain string, condition framing.Condition)

	// SeeOther maps the servers of <see-other-host/> to WebSocket URLs.
	SeeOther map[string]string

	// ChannelBinding, StripBindingOverTLS and HideExternal are fields of
	// framing.FeatureFilter, the second one for servers reached over TLS.
	ChannelBinding      framing.ChannelBinding
	StripBindingOverTLS bool
	HideExternal        bool

	// MaxStanza and MaxServerStanza bound messages of clients and elements of
	// servers, in bytes.
	MaxStanza, MaxServerStanza int

	// PingInterval is how long a client may be silent before it is pinged.
	PingInterval time.Duration

	// Limits may change while a session lives: all Settings of a gateway share them.
	// Nil means none.
	Limits *atomic.Pointer[Limits]

	// LogJIDs keeps the bare JID of a session for Record.
	LogJIDs bool

	// AcceptCompression tells that clients may have compression. Compression is what
	// they share; it is there in any case, because a session that comes from another
	// process may have it.
	AcceptCompression bool
	Compression       *Compression

	// StreamID makes the id of a header that is sent in a server's stead.
	StreamID func() string

	// Owner is for the host.
	Owner any
}

// Limits are what a client may do, and for how long. The zero value is no limit.
type Limits struct {
	// AuthTimeout is how long after the upgrade the client must be authenticated; zero
	// means for ever. MaxAge is how old a session may become, less up to a fifth; zero
	// means as old as it likes.
	AuthTimeout, MaxAge time.Duration

	// Messages and Bytes are what a client may send a second, zero for any number; see
	// pace.go. They do not concern clients that Host.Limited exempts.
	Messages, Bytes int
}

// limits returns the limits in force now.
func (set *Settings) limits() Limits {
	if set.Limits == nil {
		return Limits{}
	}
	return *set.Limits.Load()
}

// A Host is what a session needs of the gateway. Its methods are called during
// events of the session and do not wait.
type Host interface {
	// ClientFound tells where the client is, whose connection is that of a proxy. The
	// reason says why it is refused; then the session counts as one that was refused
	// from the beginning.
	ClientFound(ev *relay.Event, client netip.Addr) limit.Reason

	// RefusedMayLinger reports whether there is room for clients that are refused to
	// take their answer in peace; else they are disconnected behind it.
	RefusedMayLinger() bool

	// Limited reports whether the client is subject to Limits.Messages and
	// Limits.Bytes.
	Limited() bool

	// HandshakeAllowed reports whether a TLS handshake with the client may begin, and
	// counts it.
	HandshakeAllowed(ev *relay.Event) bool

	// Paused tells that the client is not read for a while because it has sent too much.
	Paused()

	// LoggedIn tells, once, that the client is authenticated, or that the server has
	// offered features without SASL: it asks nobody to be.
	LoggedIn(ev *relay.Event)

	// LoginFailed tells that the server has refused a login; condition is that of SASL,
	// or empty. It reports whether the session is to end because too many have failed.
	LoginFailed(ev *relay.Event, condition string) (tooMany bool)

	// Started registers the session. It reports whether that is to end at once
	// because the gateway is shutting down.
	Started() (draining bool)

	// StartTLS starts the handshake of TLS with the client, of which early has come.
	// The outcome is told by Secured; until then the client is not read.
	StartTLS(ev *relay.Event, early []byte)

	// HandshakeRefused tells that there was no handshake, or not all of one. result
	// is HandshakeNotTLS, HandshakeTimeout, HandshakeLimited or HandshakeShutdown.
	HandshakeRefused(ev *relay.Event, result string)

	// Upgraded tells that the HTTP request was answered with 101. It returns the
	// number of the session.
	Upgraded(ev *relay.Event, took time.Duration) (id uint64)

	// Connect begins to connect the session to a server. The outcome is told by
	// Attached or ConnectFailed, perhaps before Connect returns.
	Connect(ev *relay.Event, a *Attempt)

	// Connected tells the outcome of a connection that the loop has made.
	Connected(ev *relay.Event, a *Attempt, err error)

	// Abandon gives up an attempt that is under way, because of cause. It returns
	// the Server.Name of the one that was being connected to, if it is known.
	Abandon(ev *relay.Event, a *Attempt, cause error) (name string)

	// FeaturesSent tells that the client has got its first features, and the time since
	// the upgrade.
	FeaturesSent(took time.Duration)

	// LoginEnded tells the outcome of a login: the family of its mechanism, see
	// framing.Mechanisms, one of LoginResults, and the time since the upgrade.
	LoginEnded(ev *relay.Event, mechanism, result string, took time.Duration)

	// Restarted tells that the server has answered the header of a restarted stream.
	Restarted()

	// Resumable tells that the server lets the client resume the stream later
	// (XEP-0198). ResumeEnded tells what became of the client's wish to resume one, one
	// of ResumeResults.
	Resumable()
	ResumeEnded(result string)

	// StreamError tells that one of ErrorSides has sent a stream error.
	StreamError(side, condition string)

	// Pinged tells the round trip of a ping.
	Pinged(roundTrip time.Duration)

	// StallOver tells that a side has taken nothing for d, see relay.Session.
	StallOver(sd relay.Side, d time.Duration)

	// ChannelBindingOffered tells that the server offers what no client can use.
	ChannelBindingOffered()

	// Debug reports whether Step has a reader.
	Debug() bool

	// Step logs what the session has come to, at debug level.
	Step(name string, attrs ...slog.Attr)

	// Notice logs what peers can cause as often as they like.
	Notice(cause string, level slog.Level, message string, attrs func() []slog.Attr)

	// Over is the last call.
	Over(ev *relay.Event)
}

// An Attempt is a session's way to a server, while it is under way.
type Attempt struct {
	Request
	// Patience is set by Connect: how long it may take.
	Patience time.Duration
	// State is for the host.
	State any
}

// A Request describes a session to whoever finds its server. Nothing in it is
// trusted.
type Request struct {
	Domain   string         // the to attribute of the header, decoded
	JID      string         // the bare JID in from, or empty
	Header   framing.Header // that the server gets
	Client   netip.AddrPort
	Listener netip.AddrPort // where the client says that it has connected; invalid if it does not
	Secure   bool           // the client's connection is encrypted on its way to the gateway
	TLS      uint16         // its version, as in package crypto/tls; zero when it is not known
	ID       uint64
	Avoid    string // the Server.Name that has failed the session just now, or empty
	Number   int    // 1 for the first request of the session
}

// A Server is where the stream of a session leads.
type Server struct {
	// Name is that of the configuration.
	Name string
	// TLS tells that the gateway speaks TLS with it, and TLSInfo what was negotiated, as
	// far as it is known.
	TLS     bool
	TLSInfo TLSInfo
	// OtherCertificate tells that its certificate is another one than the client has
	// got from the gateway: nothing can bind to both.
	OtherCertificate bool
	// Static tells that the host has not read the server's answer, because the loop
	// has connected. Another Request may lead to another server.
	Static bool
	// Answered, if it is not nil, is told what came of the first header that the
	// session has sent there, one of AnswerResults.
	Answered func(result string, took time.Duration)
	// Done, if it is not nil, is called when the session does not use the server
	// any more.
	Done func()
}

// Results of Server.Answered; the names are those of a dial where they mean the same.
const (
	AnswerOK        = "ok"
	AnswerTimeout   = "timeout"
	AnswerClosed    = "closed"
	AnswerBadStream = "bad-stream"
	AnswerAbandoned = "abandoned" // the client went away first
)

// AnswerResults lists the results that Server.Answered is told.
func AnswerResults() []string {
	return []string{AnswerOK, AnswerTimeout, AnswerClosed, AnswerBadStream, AnswerAbandoned}
}

// answerResult is what e says of a server that was to answer a header.
func answerResult(end ending) string {
	switch end {
	case endNone:
		return AnswerOK
	case endServerSilent:
		return AnswerTimeout
	case endServerLost:
		return AnswerClosed
	case endServerBroken, endServerTooLarge:
		return AnswerBadStream
	}
	return AnswerAbandoned
}
