package session

import (
	"bytes"
	"errors"

	"xmppgate/proxy/internal/relay"
)

// A tlsState is how far TLS between the client and the gateway has come.
type tlsState uint8

const (
	tlsNone    tlsState = iota // the gateway speaks none
	tlsAwaited                 // the client has to begin
	tlsStarted                 // Host.StartTLS is under way; the client is not read
	tlsOn
)

// A Leaf is the SHA-256 hash of a certificate.
type Leaf [32]byte

// Sizes of TLS records (RFC 8446, section 5.1).
const (
	recordHeader    = 5
	maxRecord       = 1 << 14
	recordHandshake = 22
)

// acceptTLS starts TLS if the client has to begin with it. It reports whether what has
// come in b is inside.
//
// The first record is awaited here, where that costs neither a goroutine nor one of the
// handshakes that may run at once. It nearly always holds all of the ClientHello.
func (s *Session) acceptTLS(ev *relay.Event, b []byte) bool {
	switch s.tls {
	case tlsNone, tlsOn:
		return true
	case tlsStarted:
		return false
	}
	size, known := firstRecord(b)
	switch {
	case !known:
		s.rejectCleartext(ev, b)
	case size > 0 && len(b) >= size:
		s.startTLS(ev, b)
	}
	return false
}

// startTLS begins the handshake, if limits allow it.
func (s *Session) startTLS(ev *relay.Event, b []byte) {
	if !s.host.HandshakeAllowed(ev) {
		s.host.HandshakeRefused(ev, HandshakeLimited)
		s.reject(ev, &rejectHandshakes, nil, nil)
		return
	}
	s.tls = tlsStarted
	s.host.StartTLS(ev, b)
}

// firstRecord returns the size of the record that b begins with, zero if b is too short
// to tell. known is false if b is not a record of a handshake.
func firstRecord(b []byte) (size int, known bool) {
	start := []byte{recordHandshake, 3}
	if n := min(len(b), len(start)); !bytes.Equal(b[:n], start[:n]) {
		return 0, false
	}
	if len(b) < recordHeader {
		return 0, true
	}
	n := int(b[3])<<8 | int(b[4])
	return recordHeader + n, n > 0 && n <= maxRecord
}

// rejectCleartext refuses a client that does not speak TLS. One that is likely to speak
// HTTP is told why.
func (s *Session) rejectCleartext(ev *relay.Event, b []byte) {
	s.tls = tlsNone
	r, _ := preface(b)
	if r == nil || r == &rejectTLS || r == &rejectHTTP2 {
		r = &rejectNoTLS
	}
	s.host.HandshakeRefused(ev, HandshakeNotTLS)
	s.reject(ev, r, nil, nil)
}

// rejectHandshake lets the connection end before TLS is there, so that no answer can be
// given.
func (s *Session) rejectHandshake(ev *relay.Event, r *rejection) {
	switch {
	case r == &rejectTimeout:
		s.host.HandshakeRefused(ev, HandshakeTimeout)
	case s.tls == tlsStarted:
		s.host.HandshakeRefused(ev, HandshakeShutdown)
	}
	if s.tls == tlsStarted {
		s.setState(ev, client, relay.StateClosed, 0)
	} else {
		s.setState(ev, client, relay.StateFinishing, lingerTimeout)
	}
}

// Results of handshakes that Host.StartTLS has not begun, or will not see the end of.
const (
	HandshakeNotTLS   = "not-tls"
	HandshakeTimeout  = "timeout"
	HandshakeLimited  = "limited"
	HandshakeShutdown = "shutdown"
)

// A TLSInfo is what TLS was negotiated to, in the numbers of package crypto/tls. What is not
// known is zero.
type TLSInfo struct{ Version, Cipher, Curve uint16 }

// Secured tells the outcome of Host.StartTLS: what was negotiated, and the certificate, nil
// if it is not known.
func (s *Session) Secured(ev *relay.Event, negotiated TLSInfo, leaf *Leaf, err error) {
	switch {
	case s.ending != endNone: // it is over
	case errors.Is(err, ErrDone):
		s.tls = tlsOn
		s.reject(ev, &rejectChallenge, nil, nil)
	case err != nil:
		s.tls = tlsAwaited
		s.reject(ev, &rejectHandshake, nil, err)
	default:
		s.tls, s.secure = tlsOn, true
		if s.clientTLS.Version == 0 { // else a proxy speaks TLS with the client, too
			s.clientTLS = negotiated
		}
		if leaf != nil && !s.proxied {
			s.ensureExtra().leaf = leaf
		}
		s.wait(ev, endOpenTimeout, HeadTimeout)
	}
}

// ErrDone is the error of a handshake that was all the client wanted.
var ErrDone = errors.New("the handshake was all")

// Leaf is the certificate that the client has got, nil when it is not known.
func (s *Session) Leaf() *Leaf {
	if s.extra == nil {
		return nil
	}
	return s.extra.leaf
}
