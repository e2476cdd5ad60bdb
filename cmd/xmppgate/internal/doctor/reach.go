package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxAddresses is how many addresses of a host are tried.
const maxAddresses = 8

// reach resolves the host and connects to each of its addresses, with TLS if the URL
// says so. It reports whether there is one to go on with.
func (x *examination) reach(ctx context.Context) bool {
	secure := x.url.Scheme == "wss"
	port, err := strconv.ParseUint(cmp.Or(x.url.Port(), map[bool]string{true: "443", false: "80"}[secure]), 10, 16)
	if err != nil {
		x.found("dns", "refused", "the port of the URL is not a number below 65,536")
		return false
	}
	host := x.url.Hostname()
	addresses := x.resolve(ctx, host)
	if len(addresses) == 0 {
		return false
	}
	open := x.connects(ctx, addresses, uint16(port))
	if len(open) == 0 {
		return false
	}
	if !secure {
		if isLocal(host) || !slices.ContainsFunc(open, func(a netip.AddrPort) bool { return !a.Addr().Unmap().IsLoopback() }) {
			x.report.ok("tls", "none, and the endpoint is on this machine")
		} else {
			x.found("tls", "plain-websocket", "none: the URL is ws://")
		}
		x.address = open[0]
		return true
	}
	good := false
	for _, a := range open {
		if x.shakesHands(ctx, a, host, len(open) > 1) && !good {
			x.address, good = a, true
		}
	}
	return good
}

// resolve asks for both kinds of addresses.
func (x *examination) resolve(ctx context.Context, host string) (all []netip.Addr) {
	if a, err := netip.ParseAddr(host); err == nil {
		x.report.ok("dns", "the URL has an address")
		return []netip.Addr{a}
	}
	ctx, cancel := x.within(ctx)
	defer cancel()
	var failure error
	for _, network := range []string{"ip4", "ip6"} {
		found, err := x.lookup(ctx, network, host)
		if e, ok := errors.AsType[*net.DNSError](err); err != nil && !(ok && e.IsNotFound) {
			failure = err
		}
		for _, a := range found {
			if a = a.Unmap(); !slices.Contains(all, a) && len(all) < maxAddresses {
				all = append(all, a)
			}
		}
	}
	switch {
	case len(all) > 0:
		var names []string
		for _, a := range all {
			names = append(names, a.String())
		}
		x.report.ok("dns", "%s: %s", host, strings.Join(names, ", "))
	case failure != nil:
		x.found("dns", "dns-failed", "%s: %v", host, withoutServer(failure))
	default:
		x.found("dns", "dns-no-address", "%s has neither an A nor an AAAA record", host)
	}
	return all
}

// withoutServer is an error of a resolver without the part that repeats the name.
func withoutServer(err error) string {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return e.Err
	}
	return err.Error()
}

// connects tries each address and returns those that accept a connection.
func (x *examination) connects(ctx context.Context, addresses []netip.Addr, port uint16) (open []netip.AddrPort) {
	type result struct {
		netip.AddrPort
		err  error
		took time.Duration
	}
	results := make([]result, len(addresses))
	done := make(chan struct{})
	for i, a := range addresses {
		go func() {
			defer func() { done <- struct{}{} }()
			start := time.Now()
			at := netip.AddrPortFrom(a, port)
			c, err := x.dial(ctx, at)
			if err == nil {
				c.Close()
			}
			results[i] = result{at, err, time.Since(start)}
		}()
	}
	for range addresses {
		<-done
	}
	var dead []result
	for _, r := range results {
		switch {
		case r.err == nil:
			open = append(open, r.AddrPort)
			x.report.ok("tcp", "%v accepts connections, after %v", r.AddrPort, r.took.Round(100*time.Microsecond))
		case noRoute(r.err):
			x.report.ok("tcp", "%v was not tried: this machine has no route for %s", r.AddrPort, family(r.Addr()))
		default:
			dead = append(dead, r)
		}
	}
	for _, r := range dead {
		refused := errors.Is(r.err, syscall.ECONNREFUSED)
		why := "no answer in " + x.timeout.String()
		if refused {
			why = "connection refused"
		} else if e, ok := errors.AsType[net.Error](r.err); !ok || !e.Timeout() {
			why = cause(r.err)
		}
		switch {
		case len(open) > 0 && r.Addr().IsLoopback():
			x.report.ok("tcp", "%v: %s, which costs clients on this machine no time", r.AddrPort, why)
		case len(open) > 0:
			x.found("tcp", "address-dead", "%v: %s", r.AddrPort, why)
		case refused:
			x.found("tcp", "refused", "%v: %s", r.AddrPort, why)
		default:
			x.found("tcp", "unreachable", "%v: %s", r.AddrPort, why)
		}
	}
	if len(open) == 0 && len(dead) == 0 {
		x.found("tcp", "unreachable", "this machine has no route to any of the addresses")
	}
	return open
}

func noRoute(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// cause is an error without the operation and the addresses.
func cause(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		err = e.Err
	}
	return err.Error()
}

func (x *examination) dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return x.dialTCP(ctx, a.String())
}

// tlsConfig accepts every certificate: judge says what is wrong with it, and all of
// it, where the handshake would stop at the first fault.
func tlsConfig(host string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true,
		ServerName:         host,
		NextProtos:         []string{"http/1.1"}, // as browsers do for a WebSocket
		MinVersion:         tls.VersionTLS12,
	}
}

// shakesHands makes a TLS connection and judges it. It reports whether the handshake
// succeeded.
func (x *examination) shakesHands(ctx context.Context, a netip.AddrPort, host string, several bool) bool {
	at := ""
	if several {
		at = " at " + a.String()
	}
	config, demanded := tlsConfig(host), false
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		demanded = true
		return new(tls.Certificate), nil
	}
	state, err := x.handshake(ctx, a, config)
	if err != nil && demanded {
		x.found("tls", "client-certificate", "%s%s, after a demand for a certificate", cause(err), at)
		return false
	}
	if err != nil {
		x.handshakeFailed(ctx, a, host, at, err)
		return false
	}
	problems := judge(state.PeerCertificates, host, x.roots, time.Now())
	for _, p := range problems {
		x.found("tls", p.id, "%s%s", p.text, at)
	}
	if len(problems) == 0 {
		leaf := state.PeerCertificates[0]
		x.report.ok("tls", "%s, certificate of %s until %s%s", tls.VersionName(state.Version),
			quote(cmp.Or(leaf.Issuer.CommonName, strings.Join(leaf.Issuer.Organization, " "))), leaf.NotAfter.UTC().Format(time.DateOnly), at)
	}
	return true
}

func (x *examination) handshake(ctx context.Context, a netip.AddrPort, config *tls.Config) (tls.ConnectionState, error) {
	ctx, cancel := x.within(ctx)
	defer cancel()
	c, err := x.dial(ctx, a)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	t := tls.Client(c, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	return t.ConnectionState(), nil
}

// Alerts of TLS (RFC 8446, section 6.2) that say what to change. Package crypto/tls
// has texts for them only.
const (
	alertBadCertificate = "tls: bad certificate"
	alertNoCertificate  = "tls: certificate required"
	alertNoProtocol     = "tls: no application protocol"
)

func hasAlert(err error, alert string) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error" && e.Err.Error() == alert
}

func (x *examination) handshakeFailed(ctx context.Context, a netip.AddrPort, host, at string, err error) {
	if e, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		kind := "something else"
		switch head := string(e.RecordHeader[:]); {
		case strings.HasPrefix(head, "HTTP"):
			kind = "HTTP without TLS"
		case strings.HasPrefix(head, "<"):
			kind = "XMPP over TCP"
		}
		if kind == "XMPP over TCP" {
			x.found("tls", "xmpp-port", "the port speaks %s%s", kind, at)
			return
		}
		x.found("tls", "tls-not-spoken", "the port speaks %s%s", kind, at)
		return
	}
	old := tlsConfig(host)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		old.CipherSuites = append(old.CipherSuites, suite.ID)
	}
	if state, oldErr := x.handshake(ctx, a, old); oldErr == nil {
		x.found("tls", "tls-version", "the best is %s%s", tls.VersionName(state.Version), at)
		return
	}
	// A server that answers nothing to a greeting in TLS may wait for a line of HTTP.
	if closedEarly(err) && x.answersPlain(ctx, a, host) {
		x.found("tls", "tls-not-spoken", "the port speaks HTTP without TLS%s", at)
		return
	}
	if hasAlert(err, alertNoProtocol) {
		x.found("tls", "tls-alpn", "the port refuses HTTP/1.1%s", at)
		return
	}
	why := cause(err)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		why = "the connection was closed instead of an answer"
	} else if errors.Is(err, context.DeadlineExceeded) {
		why = "no answer in " + x.timeout.String()
	}
	x.found("tls", "tls-failed", "%s%s", why, at)
}

func closedEarly(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, context.DeadlineExceeded) || isTimeout(err)
}

// answersPlain reports whether a port answers HTTP without TLS.
func (x *examination) answersPlain(ctx context.Context, a netip.AddrPort, host string) bool {
	c, err := x.dial(ctx, a)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(x.deadline(ctx))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nConnection: close\r\n\r\n", host, userAgent)
	var head [5]byte
	_, err = io.ReadFull(c, head[:])
	return err == nil && string(head[:]) == "HTTP/"
}

// A problem is a finding about a certificate.
type problem struct{ id, text string }

// How long before its end a certificate should have been replaced: two weeks, and a
// sixth of its life if that is shorter.
const expiryWarning = 14 * 24 * time.Hour

// judge returns all that is wrong with a chain.
func judge(chain []*x509.Certificate, host string, roots *x509.CertPool, now time.Time) (problems []problem) {
	say := func(id, format string, args ...any) {
		problems = append(problems, problem{id, fmt.Sprintf(format, args...)})
	}
	if len(chain) == 0 {
		say("cert-invalid", "the server shows no certificate")
		return problems
	}
	leaf := chain[0]
	days := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	switch left := leaf.NotAfter.Sub(now); {
	case left < 0:
		say("cert-expired", "the certificate expired on %s", days(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		say("cert-not-yet", "the certificate is valid from %s", days(leaf.NotBefore))
	case left < min(expiryWarning, life/6):
		say("cert-expires-soon", "the certificate expires on %s", days(leaf.NotAfter))
	}
	if err := leaf.VerifyHostname(host); err != nil {
		say("cert-name", "the certificate is for %s, not for %s", names(leaf), quote(host))
	}
	// The chain is judged at a moment at which the certificate is valid: its expiry
	// is said already.
	when := now
	if when.After(leaf.NotAfter) {
		when = leaf.NotAfter
	} else if when.Before(leaf.NotBefore) {
		when = leaf.NotBefore
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: when, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil {
		return problems
	}
	issuer := quote(cmp.Or(leaf.Issuer.CommonName, leaf.Issuer.String()))
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		switch {
		case string(leaf.RawIssuer) == string(leaf.RawSubject):
			say("cert-self-signed", "the certificate is signed by itself")
		case len(chain) == 1 && (roots != nil || len(leaf.IssuingCertificateURL) > 0):
			say("cert-incomplete", "the server shows one certificate only, and not that of its issuer, %s", issuer)
		case len(chain) == 1:
			say("cert-unknown-ca", "the issuer, %s, is not known here, and the server does not show its certificate", issuer)
		default:
			last := chain[len(chain)-1]
			say("cert-unknown-ca", "the chain ends with %s, which is not known here", quote(cmp.Or(last.Issuer.CommonName, last.Issuer.String())))
		}
		return problems
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		say("cert-expired", "a certificate of the chain, not that of the host, has expired")
		return problems
	}
	say("cert-invalid", "%v", err)
	return problems
}

// names are those that a certificate is for, the first few.
func names(c *x509.Certificate) string {
	var all []string
	for _, n := range c.DNSNames {
		all = append(all, quote(n))
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no host"
	case len(all) > 5:
		return strings.Join(all[:5], ", ") + fmt.Sprintf(" and %d more", len(all)-5)
	}
	return strings.Join(all, ", ")
}
