package proxy

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/internal/loop/polltls"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
	"xmppgate/proxy/upstream"
)

// This file is TLS between clients and the gateway, see ServeTLS.

// MaxHandshakes bounds the handshakes of TLS with clients that are under way at once. Each
// has a goroutine and holds about 45 KiB. One more ends the oldest.
const MaxHandshakes = 1024

// alpnHTTP is the protocol that clients get if they ask for any (RFC 7301).
const alpnHTTP = "http/1.1"

// ACMEProtocol is what a certificate authority asks for to check who answers (RFC 8737).
// The connection then carries nothing else.
const ACMEProtocol = "acme-tls/1"

// clientTLS is how the gateway speaks TLS with its clients. It lasts as long as the
// gateway and has the keys of session tickets: clients resume their TLS sessions across a
// change of the certificate or of the configuration.
type clientTLS struct {
	tickets   *tls.Config
	noTickets *tls.Config
	challenge *tls.Config // for certificate authorities, see ACMEProtocol
}

func newClientTLS() *clientTLS {
	c := &clientTLS{challenge: &tls.Config{NextProtos: []string{ACMEProtocol}, GetCertificate: chooseCertificate}}
	for _, with := range []struct {
		config  **tls.Config
		tickets bool
	}{{&c.tickets, true}, {&c.noTickets, false}} {
		*with.config = polltls.Config(&tls.Config{
			MinVersion:             tls.VersionTLS12,
			NextProtos:             []string{alpnHTTP},
			GetCertificate:         chooseCertificate,
			GetConfigForClient:     c.forClient,
			SessionTicketsDisabled: !with.tickets,
		})
	}
	return c
}

// config returns the configuration for sessions that go by s.
func (c *clientTLS) config(s *settings) *tls.Config {
	if s.ChannelBinding == framing.ChannelBindingEndPoint {
		return c.noTickets // a resumed session does not tell which certificate its client knows
	}
	return c.tickets
}

// forClient implements tls.Config.GetConfigForClient.
func (c *clientTLS) forClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if p := hello.SupportedProtos; len(p) == 1 && p[0] == ACMEProtocol && handshakeOf(hello).settings.ACME {
		return c.challenge, nil
	}
	return nil, nil
}

// A handshake is TLS being negotiated with one client.
type handshake struct {
	conn        net.Conn
	crowdedOut  atomic.Bool // a newer one has taken its place
	settings    *settings
	certificate *tls.Certificate // that the client gets; nil before that is known
	err         error            // why there is none
}

type handshakeKey struct{}

func handshakeOf(hello *tls.ClientHelloInfo) *handshake {
	return hello.Context().Value(handshakeKey{}).(*handshake)
}

var errNoCertificate = errors.New("there is no certificate for clients")

// chooseCertificate implements tls.Config.GetCertificate.
func chooseCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h := handshakeOf(hello)
	if choose := h.settings.Certificate; choose != nil {
		h.certificate, h.err = choose(hello)
	}
	if h.certificate == nil && h.err == nil {
		h.err = errNoCertificate
	}
	return h.certificate, h.err
}

// handshakes are those under way, the oldest first. When there are too many the oldest gives
// way: clients that stop in the middle of it do not keep others out, which need a round trip.
type handshakes struct {
	mu  sync.Mutex
	all list.List // of *handshake
}

// enter adds h.
func (hs *handshakes) enter(h *handshake) (leave func()) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.all.Len() >= MaxHandshakes {
		oldest := hs.all.Remove(hs.all.Front()).(*handshake)
		oldest.crowdedOut.Store(true)
		oldest.conn.SetDeadline(time.Unix(1, 0))
	}
	e := hs.all.PushBack(h)
	return func() {
		hs.mu.Lock()
		defer hs.mu.Unlock()
		hs.all.Remove(e) // does nothing if it was removed
	}
}

// Handshakes returns how many handshakes of TLS with clients are under way.
func (g *Gateway) Handshakes() int {
	g.handshakes.mu.Lock()
	defer g.handshakes.mu.Unlock()
	return g.handshakes.all.Len()
}

// StartTLS implements session.Host.
func (l *live) StartTLS(ev *relay.Event, early []byte) {
	g := l.gateway()
	h, began := &handshake{settings: l.settings()}, ev.Now
	var state tls.ConnectionState
	negotiate := func(conn net.Conn) (*tls.Conn, error) {
		h.conn = conn
		defer g.handshakes.enter(h)()
		t := polltls.Server(conn, g.tls.config(h.settings))
		err := t.HandshakeContext(context.WithValue(context.Background(), handshakeKey{}, h))
		if err == nil {
			if state = t.ConnectionState(); state.NegotiatedProtocol == ACMEProtocol {
				err = session.ErrDone
			}
		}
		return t, err
	}
	l.handle.Secure(ev, early, negotiate, func(ev *relay.Event, err error) {
		o := Handshake{Result: handshakeOK, Took: ev.Now - began}
		if err == nil || errors.Is(err, session.ErrDone) {
			o.Version, o.Curve, o.Resumed = tlsVersionName(state.Version), curveName(state.CurveID), state.DidResume
		} else {
			o.Result, err = h.explain(err)
		}
		g.observer.Secured(o)
		var leaf *session.Leaf
		if h.settings.ChannelBinding == framing.ChannelBindingEndPoint && h.certificate != nil {
			sum := session.Leaf(sha256.Sum256(h.certificate.Certificate[0]))
			leaf = &sum
		}
		l.s.Secured(ev, negotiated(&state), leaf, err)
	})
}

// negotiated is what sessions keep of the state of a connection.
func negotiated(state *tls.ConnectionState) TLSInfo {
	return TLSInfo{Version: state.Version, Cipher: state.CipherSuite, Curve: uint16(state.CurveID)}
}

// serverTLS is what was negotiated with a server.
func serverTLS(stream *upstream.Stream) (i TLSInfo) {
	if t, ok := stream.Conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		i = negotiated(&state)
	}
	return i
}

// otherCertificate reports whether the server's certificate is another one than the client
// has got. Then ChannelBindingEndPoint is of no use: the server would refuse every login
// that binds to the certificate. It is false where either is not known.
func (l *live) otherCertificate(stream *upstream.Stream) bool {
	t, ok := stream.Conn.(*tls.Conn)
	leaf := l.s.Leaf()
	if !ok || leaf == nil || sha256.Sum256(t.ConnectionState().PeerCertificates[0].Raw) == *leaf {
		return false
	}
	l.gateway().notice("other-certificate", slog.LevelWarn, "channel binding is hidden: the server's certificate is not the one that clients get", func() []slog.Attr {
		return []slog.Attr{slog.String("server", stream.Server), slog.String("remedy", "put the same certificate into XMPPGATE_TLS_CERT and into the server's configuration, or write XMPPGATE_CHANNEL_BINDING=auto")}
	})
	return true
}

// HandshakeRefused implements session.Host.
func (l *live) HandshakeRefused(ev *relay.Event, result string) {
	l.gateway().observer.Secured(Handshake{Result: result})
}

// A Handshake describes how TLS with a client was negotiated.
type Handshake struct {
	// Result is one of HandshakeResults.
	Result string
	// Version and Curve are one of TLSVersions and TLSCurves. They are empty if the
	// handshake has failed.
	Version, Curve string
	// Resumed reports whether the client had a ticket of an earlier session.
	Resumed bool
	// Took is the time from the ClientHello to the outcome. Zero if the handshake has
	// not begun.
	Took time.Duration
}

// Results of handshakes that the session does not tell.
const (
	handshakeOK            = "ok"
	handshakeBusy          = "busy"           // too many at once
	handshakeGone          = "gone"           // the client closed the connection
	handshakeVersion       = "version"        // no version in common
	handshakeCipher        = "cipher"         // no cipher suite, curve or signature in common
	handshakeALPN          = "alpn"           // the client wants another protocol than HTTP/1.1
	handshakeNoCertificate = "no-certificate" // there is none for the client
	handshakeRefused       = "refused"        // the client sent an alert: it does not trust the certificate
	handshakeProtocol      = "protocol"       // the client broke the protocol
)

// HandshakeResults returns all values of Handshake.Result.
func HandshakeResults() []string {
	return []string{handshakeOK, handshakeBusy, handshakeGone, handshakeVersion, handshakeCipher, handshakeALPN, handshakeNoCertificate,
		handshakeRefused, handshakeProtocol, session.HandshakeNotTLS, session.HandshakeTimeout, session.HandshakeLimited, session.HandshakeShutdown}
}

// handshakeErrors are what crypto/tls says of clients that it cannot serve. It has no types
// for these. Where it repeats what the client has sent, cause stands for it.
var handshakeErrors = []struct{ text, result, cause string }{
	{"client offered only unsupported versions", handshakeVersion, "the client does not offer TLS 1.2 or later"},
	{"client requested unsupported application protocol", handshakeALPN, "the client offers other protocols (ALPN) than http/1.1"},
	{"no cipher suite supported by both", handshakeCipher, ""},
	{"no key exchanges supported by both", handshakeCipher, ""},
	{"no ECDHE curve supported by both", handshakeCipher, ""},
	{"peer doesn't support any of the certificate's signature algorithms", handshakeCipher, ""},
	{"client doesn't support certificate curve", handshakeCipher, ""},
}

// explain finds out why a handshake has failed.
func (h *handshake) explain(err error) (result string, cause error) {
	var remote *net.OpError
	switch {
	case h.crowdedOut.Load():
		return handshakeBusy, errors.New("too many clients were in the handshake, and this one for the longest time")
	case h.err != nil:
		return handshakeNoCertificate, h.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return handshakeGone, errors.New("the client closed the connection during the handshake")
	case errors.As(err, &remote) && remote.Op == "remote error":
		return handshakeRefused, err
	}
	for _, known := range handshakeErrors {
		switch {
		case !strings.Contains(err.Error(), known.text):
		case known.cause != "":
			return known.result, errors.New(known.cause)
		default:
			return known.result, err
		}
	}
	return handshakeProtocol, err
}

// tlsVersions are those that clients may get.
var tlsVersions = map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"}

func tlsVersionName(v uint16) string { return tlsVersions[v] }

// TLSVersions returns the values of Handshake.Version.
func TLSVersions() []string {
	return []string{tlsVersions[tls.VersionTLS12], tlsVersions[tls.VersionTLS13]}
}

// otherCurve is a key exchange that has no name here.
const otherCurve = "other"

// tlsCurves are key exchanges that crypto/tls supports.
var tlsCurves = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// TLSCurves returns the values of Handshake.Curve.
func TLSCurves() (names []string) {
	for _, c := range tlsCurves {
		names = append(names, c.String())
	}
	return append(names, otherCurve)
}

func curveName(id tls.CurveID) string {
	for _, c := range tlsCurves {
		if c == id {
			return c.String()
		}
	}
	return otherCurve // RSA key exchange has none
}
