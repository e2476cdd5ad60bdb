package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
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

	DefaultCompressionMemory = 64 << 20 // bytes, for 5,461 sessions
)

// The largest values of fields of Config; a larger one counts as the largest. A
// message of a client is held in memory as a whole, an element of a server is not.
const (
	LargestStanza       = 64 << 20    // bytes
	LargestServerStanza = 1 << 30     // bytes
	MostSessions        = 500_000_000 // because a process has at most 2^30 descriptors
	LongestPingInterval = 24 * time.Hour

	LargestCompressionMemory = 64 << 30 // bytes
)

// DefaultPaths are the usual paths of Prosody and ejabberd. They must not be
// changed.
var DefaultPaths = []string{"/xmpp-websocket", "/ws"}

// Names of loops, see Config.Loop.
const (
	LoopAuto      = loop.Auto      // the best for the platform: epoll on Linux
	LoopGoroutine = loop.Goroutine // a few goroutines for each session, on any platform
)

// A Config has the settings of a Gateway. Only Dial is required; the zero value of
// every other field is a working default. Slices, maps and functions are shared with
// the sessions and must not change once the Gateway has the Config. Functions may be
// called by several goroutines at once.
type Config struct {
	// Dial opens a stream to the XMPP server of one session, as
	// upstream.Router.Connect does. It may block, and is called on a goroutine
	// of its own. The gateway owns the Stream; if it has no Early bytes the
	// session sends the header. The context is cancelled if Dial takes longer
	// than upstream.TotalTimeout and a second, or if the client leaves. An
	// error ends the session as dial-failed. Required.
	Dial func(context.Context, *upstream.Request) (*upstream.Stream, error)

	// Static returns the server that a session for domain may connect to
	// without Dial, or nil, as upstream.Router.Static does. It must not block.
	// The epoll loop then connects without a goroutine. Nil means that every
	// session calls Dial.
	Static func(domain string) *upstream.Static

	// SeeOther maps the host of a server's <see-other-host/>, such as
	// "node2.example.org:5222", to the WebSocket URL that clients get instead
	// (RFC 7395, section 3.6.1). Redirects to a host without an entry are
	// followed by Dial before the client authenticates, and are passed on
	// unchanged after that.
	SeeOther map[string]string

	// ChannelBinding says how SASL mechanisms with channel binding are treated,
	// which cannot work through a gateway that ends TLS. The zero value passes
	// them on.
	ChannelBinding framing.ChannelBinding

	// HideExternal removes the mechanism EXTERNAL from the features. Set it if
	// the gateway presents a certificate of its own to a server, which may then
	// offer EXTERNAL to every client. Clients that choose EXTERNAL are refused
	// in any case.
	HideExternal bool

	// StripBindingOverTLS changes ChannelBinding from
	// framing.ChannelBindingPass to framing.ChannelBindingStrip for servers
	// that Dial reaches over TLS. There channel binding would bind to the
	// gateway's connection instead of the client's.
	StripBindingOverTLS bool

	// ClientAddress says which proxies may state the address of a client. The
	// zero value trusts none: the address is that of the connection.
	ClientAddress clientaddr.Policy

	// Domains are the domains that a client may name in the attribute to of
	// its header, in any spelling; another one ends the session with
	// host-unknown. Nil allows all, and leaves the decision to the server.
	Domains []string

	// Paths are the URL paths that accept WebSocket connections; others get
	// status 404. * stands for exactly one segment, as in
	// "/*/xmpp-websocket". Paths that CheckPath refuses match nothing. Nil
	// means DefaultPaths.
	Paths []string

	// PublicURL is the URL by which clients on the Internet reach the WebSocket,
	// such as wss://xmpp.example.org/xmpp-websocket. {domain} in it stands for
	// each of Domains. The gateway tells it to clients that ask for
	// /.well-known/host-meta of one of Domains (XEP-0156); if Domains is nil, of
	// any. Empty, or one that CheckPublicURL refuses, means that it does not.
	PublicURL string

	// Ready reports whether sessions find a server now. /healthz says so to load
	// balancers. It must not block. Nil means that they do.
	Ready func() bool

	// AllowedOrigins match the header field Origin of the browsers that may
	// connect; others get status 403. A request without Origin is not from a
	// browser and is accepted. Nil allows all.
	AllowedOrigins []OriginPattern

	// Certificate returns the certificate that a client of ServeTLS gets, as
	// tls.Config.GetCertificate does. It is called for every handshake, so that a
	// certificate may change at any time. Required by ServeTLS.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// ACME lets certificate authorities check ServeTLS by TLS-ALPN-01 (RFC 8737):
	// Certificate is asked for the answer, by a client that offers ACMEProtocol and
	// nothing else.
	ACME bool

	// MaxSessions is the number of sessions that may live at once. More
	// connections get status 503. Zero means no limit; the largest value is
	// MostSessions.
	MaxSessions int

	// MaxUnauthenticated is the number of connections that may live at once without
	// being authenticated, those that have yet to send a request included. More get
	// status 503. Zero means no limit.
	MaxUnauthenticated int

	// NetworkLimits bound what the clients of one network may have. Clients beyond them
	// get status 429. They do not concern the proxies of ClientAddress, but the clients
	// behind these. The zero value has no limits.
	NetworkLimits NetworkLimits

	// AuthTimeout is how long after the upgrade a client must be authenticated; else
	// its session ends as auth-timeout. A server that offers features without SASL
	// authenticates nobody, and its sessions are not concerned. Zero means no limit.
	AuthTimeout time.Duration

	// MaxSessionAge is the age at which a session ends as max-age, so that the
	// sessions of several gateways spread anew; its client may resume its stream
	// (XEP-0198). Sessions end up to a fifth earlier, so that those which began together
	// do not end together. Zero means no limit.
	MaxSessionAge time.Duration

	// StanzaRate and ByteRate are how many messages and pings, and how many bytes of
	// them, a client may send a second; the rates of ten seconds at once. A client that
	// sends more is not read until it is within them again. Clients that NetworkLimits
	// exempt may send as much as they like. Zero means no limit.
	StanzaRate, ByteRate int

	// MaxStanza is the size in bytes of the largest message of a client. A
	// larger one ends the session as too-large. Zero means DefaultMaxStanza;
	// the largest value is LargestStanza.
	MaxStanza int

	// MaxServerStanza is the size in bytes of the largest element of a server,
	// as the client gets it. A larger one ends the session as
	// server-too-large. Elements up to 256 KiB are one WebSocket frame; larger
	// ones are forwarded while they arrive, as fragments of one message. Zero
	// means DefaultMaxServerStanza; the largest value is LargestServerStanza.
	MaxServerStanza int

	// PingInterval is the time without a byte from the client after which it
	// gets a WebSocket ping. After two intervals the session ends as
	// client-silent. Zero means DefaultPingInterval; the largest value is
	// LongestPingInterval.
	PingInterval time.Duration

	// LogJIDs adds the bare JID of a session to its log lines: what the client's
	// header states, until the server names the one that it has authenticated.
	LogJIDs bool

	// Compression accepts permessage-deflate (RFC 7692) from clients that offer it.
	// What they get is compressed once they have authenticated.
	Compression bool

	// CompressionMemory is how many bytes all sessions together keep from one
	// compressed message to the next, 12 KiB each as a rule. Beyond that, new
	// sessions go without compression. Zero means DefaultCompressionMemory; the
	// largest value is LargestCompressionMemory.
	CompressionMemory int64

	// Loop is LoopAuto or LoopGoroutine. Empty means LoopAuto.
	Loop string

	// Observer gets the events of the gateway. Nil means none.
	Observer Observer

	// Log gets one record at the end of each session, and notices. Its handler
	// must not block: it would delay all sessions of a worker. Nil disables
	// the log.
	Log *slog.Logger
}

// settings returns the settings of sessions that c describes.
func (c *Config) settings(streamID func() string, owner *settings) session.Settings {
	s := session.Settings{
		PathServed:          c.servedPaths(),
		RootPage:            page("." + c.firstPath()), // relative, because a proxy may have moved it
		SocketPage:          page(""),
		HostMeta:            c.hostMeta(),
		Ready:               c.Ready,
		ClientAddress:       c.ClientAddress,
		Domain:              c.domains(),
		SeeOther:            c.SeeOther,
		ChannelBinding:      c.ChannelBinding,
		StripBindingOverTLS: c.StripBindingOverTLS,
		HideExternal:        c.HideExternal,
		LogJIDs:             c.LogJIDs,
		MaxStanza:           bounded(c.MaxStanza, DefaultMaxStanza, LargestStanza),
		MaxServerStanza:     bounded(c.MaxServerStanza, DefaultMaxServerStanza, LargestServerStanza),
		PingInterval:        bounded(c.PingInterval, DefaultPingInterval, LongestPingInterval),
		Limits:              &owner.gateway.sessionLimits,
		Compression:         &owner.gateway.compression,
		AcceptCompression:   c.Compression,
		StreamID:            streamID,
		Owner:               owner,
	}
	if c.AllowedOrigins != nil {
		s.OriginAllowed = c.originAllowed
	}
	return s
}

// limitsOfSessions returns the limits of sessions that c describes.
func (c *Config) limitsOfSessions() *session.Limits {
	return &session.Limits{
		AuthTimeout: max(0, c.AuthTimeout),
		MaxAge:      max(0, c.MaxSessionAge),
		Messages:    max(0, c.StanzaRate),
		Bytes:       max(0, c.ByteRate),
	}
}

// servedPaths returns a function that reports whether a path matches one of Paths.
func (c *Config) servedPaths() func(path []byte) bool {
	var patterns []pathPattern
	for _, path := range c.paths() {
		if p, err := parsePath(path); err == nil {
			patterns = append(patterns, p)
		}
	}
	return func(path []byte) bool {
		return slices.ContainsFunc(patterns, func(p pathPattern) bool { return p.matches(path) })
	}
}

// compressionMemory is zero without compression.
func (c *Config) compressionMemory() int64 {
	if !c.Compression {
		return 0
	}
	return bounded(c.CompressionMemory, DefaultCompressionMemory, LargestCompressionMemory)
}

// paths returns Paths or its default.
func (c *Config) paths() []string {
	if c.Paths == nil {
		return DefaultPaths
	}
	return c.Paths
}

// bounded returns the effective value of a field of Config: defaultValue if v is not
// set, and largest at most.
func bounded[T int | int64 | time.Duration](v, defaultValue, largest T) T {
	if v <= 0 {
		return defaultValue
	}
	return min(v, largest)
}

func randomID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
