package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"xmppgate/proxy/internal/loop/polltls"
)

// alpn is the protocol of direct TLS (XEP-0368, section 3).
const alpn = "xmpp-client"

// maxTLSConfigs bounds how many identities of one server are remembered.
// Clients choose them where there is no list of domains.
const maxTLSConfigs = 1024

// secure starts TLS and verifies the server.
func (a *attempt) secure(context.Context) error {
	deadline := time.Now().Add(TLSTimeout)
	if err := a.conn.SetDeadline(deadline); err != nil {
		return err
	}
	switch {
	case a.security == startTLS:
		in := input{conn: a.conn, deadline: deadline, limit: maxCleartext}
		if err := a.startTLS(&in); err != nil {
			return err
		}
	case a.ahead != nil:
		if err := a.write(nil); err != nil {
			return err
		}
	}
	return a.handshake()
}

// handshake starts TLS on the connection.
func (a *attempt) handshake() error {
	c := a.options.files.credentials(func(err error) { a.observer.FilesRead(a.server, err) })
	conn := polltls.Client(a.conn, c.tls.get(a.options, c, a.reference()))
	if err := conn.Handshake(); err != nil {
		return explainHandshake(err)
	}
	state := conn.ConnectionState()
	if p := state.NegotiatedProtocol; p != "" && p != alpn {
		return &failure{result: ResultBadALPN, err: errALPN}
	}
	if a.security != plain {
		a.observer.CertificateExpires(a.server, state.PeerCertificates[0].NotAfter)
	}
	a.conn, a.encrypted = conn, true
	return nil
}

// reference returns what the certificate has to prove: the domain that the client
// asks for, not the host that was dialled, because that may come from DNS (RFC 6120,
// section 13.7.2.1).
func (a *attempt) reference() reference {
	name := cmp.Or(a.options.name, a.request.Domain, a.identity)
	name = strings.TrimSuffix(name, ".")
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if addr, err := netip.ParseAddr(name); err == nil {
		name = addr.WithZone("").Unmap().String()
	}
	return reference{name, a.security, a.maxVersion()}
}

// maxVersion is that of TLS with the client, see Request.TLS; zero means any.
func (a *attempt) maxVersion() uint16 {
	if a.anyVersion || a.request.TLS == 0 {
		return 0
	}
	return max(a.request.TLS, tls.VersionTLS12)
}

// A reference is what a certificate has to prove (RFC 6125, section 6.2).
type reference struct {
	name     string
	security security // for the SRV-ID; and ALPN belongs to direct TLS

	maxVersion uint16 // of TLS; zero means any
}

// tlsConfigs are the configurations of one server, one for each reference, because they
// hold the session tickets: a session that is resumed must have proved the same name when
// it began. The zero value is empty.
type tlsConfigs struct {
	mu    sync.Mutex
	byRef map[reference]*tls.Config
}

// get returns the configuration for ref. The first call for a ref makes it from o and c.
func (all *tlsConfigs) get(o *options, c *credentials, ref reference) *tls.Config {
	all.mu.Lock()
	defer all.mu.Unlock()
	if cfg, ok := all.byRef[ref]; ok {
		return cfg
	}
	if all.byRef == nil {
		all.byRef = make(map[reference]*tls.Config)
	}
	if len(all.byRef) >= maxTLSConfigs {
		// Any one, because names in use come back.
		for old := range all.byRef {
			delete(all.byRef, old)
			break
		}
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		MaxVersion: ref.maxVersion,
		ServerName: ref.name,
		// VerifyConnection checks instead of crypto/tls, which knows fewer
		// kinds of names. It is also called for resumed sessions.
		InsecureSkipVerify: true,
		// Tickets are filed by ServerName, so there is one at most.
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
		// A stream is many small writes; and polltls would copy the
		// configuration for each connection to set this.
		DynamicRecordSizingDisabled: true,
	}
	// A stream whose URL asks for plain text does not leave this machine, so nobody
	// is in between. The certificates that servers are installed with match no name.
	if ref.security != plain {
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return o.verify(c.roots, ref, s.PeerCertificates) }
	}
	if ref.security == directTLS {
		cfg.NextProtos = []string{alpn}
	}
	if c.certificate != nil {
		cfg.Certificates = []tls.Certificate{*c.certificate}
	}
	all.byRef[ref] = cfg
	return cfg
}

var (
	errALPN   = errors.New("the server wants to speak another protocol than xmpp-client; is it an XMPP server?")
	errNotTLS = errors.New("the server does not answer with TLS; write starttls:// or tcp://")
)

// Alerts that have a meaning of their own (RFC 8446, section 6).
const (
	alertHandshakeFailure = tls.AlertError(40)
	alertProtocolVersion  = tls.AlertError(70)
	alertUnrecognizedName = tls.AlertError(112)
	alertNoProtocol       = tls.AlertError(120)
)

// errVersion is the error of a server that has no TLS of the version of the client.
var errVersion = errors.New("the server has no TLS 1.2, which is all that the client has")

// badCertificate are errors of crypto/tls about certificates that VerifyConnection does
// not see, because they cannot be parsed or the server does not have the key.
var badCertificate = []string{"failed to parse certificate from server", "invalid signature by the server certificate"}

// explainHandshake finds the result of a failed handshake.
func explainHandshake(err error) error {
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) {
		if isHTTP(notTLS.RecordHeader[:]) {
			return badStream(errHTTP)
		}
		return &failure{result: ResultBadStream, err: errNotTLS}
	}
	// crypto/tls has no types for these.
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		switch remote.Err.Error() {
		case alertHandshakeFailure.Error():
			return fmt.Errorf("the server has no certificate for the domain, or no cipher in common; see its log: %w", err)
		case alertProtocolVersion.Error():
			return fmt.Errorf("%w: %w", errVersion, err)
		case alertUnrecognizedName.Error():
			return &failure{result: ResultCertName, err: fmt.Errorf("the server has no certificate for the domain; set ?name= to the name it knows: %w", err)}
		case alertNoProtocol.Error():
			return &failure{result: ResultBadALPN, err: errALPN}
		}
	}
	text := err.Error()
	if strings.HasSuffix(text, "ALPN protocol") {
		return &failure{result: ResultBadALPN, err: errALPN}
	}
	for _, bad := range badCertificate {
		if strings.Contains(text, bad) {
			return certError(ResultCertInvalid, "the certificate is not valid: %s", printable(text))
		}
	}
	return err
}
