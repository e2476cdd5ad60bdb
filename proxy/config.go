package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"slices"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// Defaults of the fields of Config.
const (
	DefaultMaxStanza       = 256 << 10 // bytes, the default of Prosody
	DefaultMaxServerStanza = 16 << 20  // bytes
	DefaultPingInterval    = 30 * time.Second
)

// The most that the fields of Config may be; what is above counts as that. A
// message of a client is held as a whole, an element of a server is not.
const (
	LargestStanza       = 64 << 20    // bytes
	LargestServerStanza = 1 << 30     // bytes
	MostSessions        = 500_000_000 // for no process has more than 2^30 descriptors
	LongestPingInterval = 24 * time.Hour
)

// DefaultPaths are the usual paths of Prosody and ejabberd.
var DefaultPaths = []string{"/xmpp-websocket", "/ws"}

// Names of loops, see Config.Loop.
const (
	LoopAuto      = loop.Auto      // what suits the platform: epoll on Linux
	LoopGoroutine = loop.Goroutine // a few goroutines for each session, on any platform
)

// A Config is what an operator decides. Every field but Dial has a zero value that
// works.
type Config struct {
	// Dial finds the XMPP server of one session and opens a stream to it, as
	// upstream.Router.Connect does. If the Stream has no Early bytes, the
	// session sends the header. The context is cancelled when that takes too
	// long or the client goes away. Required.
	Dial func(context.Context, *upstream.Request) (*upstream.Stream, error)

	// Static returns the server that a session for a domain may connect to
	// without Dial, as upstream.Router.Static does; nil if there is none. A
	// loop that can do that for less does not call Dial then. Nil means that
	// there never is one.
	Static func(domain string) *upstream.Static

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
}

// settings is what sessions go by.
func (c *Config) settings(streamID func() string, owner *Gateway) *session.Settings {
	s := &session.Settings{
		PathServed:          c.servedPaths(),
		ClientAddress:       c.ClientAddress,
		Domain:              c.domains(),
		SeeOther:            c.SeeOther,
		ChannelBinding:      c.ChannelBinding,
		StripBindingOverTLS: c.StripBindingOverTLS,
		HideExternal:        c.HideExternal,
		MaxStanza:           bounded(c.MaxStanza, DefaultMaxStanza, LargestStanza),
		MaxServerStanza:     bounded(c.MaxServerStanza, DefaultMaxServerStanza, LargestServerStanza),
		PingInterval:        bounded(c.PingInterval, DefaultPingInterval, LongestPingInterval),
		StreamID:            streamID,
		Owner:               owner,
	}
	if c.AllowedOrigins != nil {
		s.OriginAllowed = c.originAllowed
	}
	return s
}

// servedPaths tells whether a path is one of Paths.
func (c *Config) servedPaths() func(path []byte) bool {
	paths := c.Paths
	if paths == nil {
		paths = DefaultPaths
	}
	var patterns []pathPattern
	for _, path := range paths {
		if p, err := parsePath(path); err == nil {
			patterns = append(patterns, p)
		}
	}
	return func(path []byte) bool {
		return slices.ContainsFunc(patterns, func(p pathPattern) bool { return p.matches(path) })
	}
}

// bounded is a field of Config as it is used: its default when it is not set.
func bounded[T int | time.Duration](v, standard, most T) T {
	if v <= 0 {
		return standard
	}
	return min(v, most)
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
