package upstream

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// maxNames bounds how many names of a certificate an error lists.
const maxNames = 5

// Names that crypto/x509 does not know.
var (
	oidSAN      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidXMPPAddr = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 5} // RFC 6120, section 13.7.1.4
	oidSRVName  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 7} // RFC 4985, section 2
)

// srvServices are the SRV-IDs that prove a name. TLS from the first byte is
// checked in the way of STARTTLS (XEP-0368, section 3), and has a service of
// its own besides.
var srvServices = map[security][]string{
	startTLS:  {"_xmpp-client."},
	directTLS: {"_xmpps-client.", "_xmpp-client."},
}

// verify checks the certificates that a server presents. The error is a
// *failure.
//
// A pin replaces the check of chain and name, because it identifies the key.
func (o *options) verify(roots *x509.CertPool, ref reference, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return certError(ResultCertInvalid, "the server presents no certificate")
	}
	leaf := certs[0]
	if len(o.pins) > 0 {
		if !slices.Contains(o.pins, pin(sha256.Sum256(leaf.RawSubjectPublicKeyInfo))) {
			return certError(ResultCertPin, "the key of the certificate does not match any ?pin=")
		}
		return checkTime(leaf, time.Now())
	}
	others := x509.NewCertPool()
	for _, c := range certs[1:] {
		others.AddCert(c)
	}
	names := otherNames(leaf)
	chains, err := withoutCriticalSAN(leaf, names).Verify(x509.VerifyOptions{Roots: roots, Intermediates: others})
	if err != nil {
		return explainChain(leaf, o.files.ca, err)
	}
	switch {
	case ref.name == "":
		return certError(ResultCertName, "the client names no domain to check the certificate for; set ?name=")
	case leaf.VerifyHostname(ref.name) == nil:
		return nil
	case names.prove(ref) && slices.ContainsFunc(chains, unconstrained):
		return nil
	}
	return certError(ResultCertName, "the certificate is for %s, not for %s; set ?name= if that is on purpose",
		listNames(leaf, names), printable(ref.name))
}

// unconstrained reports whether the authorities of a chain may certify any
// name. Constraints are about other kinds of names than SRV-ID and XmppAddr,
// so a constrained authority could put anything there.
func unconstrained(chain []*x509.Certificate) bool {
	for _, c := range chain[1:] {
		if len(c.PermittedDNSDomains) > 0 || len(c.ExcludedDNSDomains) > 0 ||
			len(c.PermittedIPRanges) > 0 || len(c.ExcludedIPRanges) > 0 ||
			len(c.PermittedEmailAddresses) > 0 || len(c.ExcludedEmailAddresses) > 0 ||
			len(c.PermittedURIDomains) > 0 || len(c.ExcludedURIDomains) > 0 {
			return false
		}
	}
	return true
}

// xmppNames are the names in a certificate that only XMPP knows.
type xmppNames struct{ srv, xmpp []string }

// prove reports whether one of the names is the one that ref asks for.
func (n xmppNames) prove(ref reference) bool {
	if _, err := netip.ParseAddr(ref.name); err == nil {
		return false // an address has a kind of name of its own
	}
	for _, name := range n.srv {
		for _, service := range srvServices[ref.security] {
			if strings.EqualFold(name, service+ref.name) {
				return true
			}
		}
	}
	return slices.ContainsFunc(n.xmpp, func(name string) bool {
		ascii, err := idna.Lookup.ToASCII(name)
		return err == nil && strings.EqualFold(ascii, ref.name)
	})
}

// otherNames returns the SRV-IDs and XmppAddrs of a certificate; what cannot be
// read is left out.
func otherNames(c *x509.Certificate) (names xmppNames) {
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		var all []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &all); err != nil || len(rest) > 0 {
			return names
		}
		for _, general := range all {
			// GeneralName, otherName [0] (RFC 5280, section 4.2.1.6).
			var other struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue `asn1:"tag:0,explicit"`
			}
			if general.Class != asn1.ClassContextSpecific || general.Tag != 0 {
				continue
			}
			if rest, err := asn1.UnmarshalWithParams(general.FullBytes, &other, "tag:0"); err != nil || len(rest) > 0 {
				continue
			}
			var text string
			if rest, err := asn1.Unmarshal(other.Value.Bytes, &text); err != nil || len(rest) > 0 {
				continue
			}
			switch {
			case other.Type.Equal(oidSRVName):
				names.srv = append(names.srv, text)
			case other.Type.Equal(oidXMPPAddr):
				names.xmpp = append(names.xmpp, text)
			}
		}
	}
	return names
}

// withoutCriticalSAN returns c without the note of crypto/x509 that its names are
// critical and unknown, if they are known here.
func withoutCriticalSAN(c *x509.Certificate, names xmppNames) *x509.Certificate {
	if len(c.UnhandledCriticalExtensions) == 0 || len(names.srv)+len(names.xmpp) == 0 {
		return c
	}
	copied := *c // other connections may share c
	copied.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions), oidSAN.Equal)
	return &copied
}

// explainChain finds out why there is no chain from leaf to a root, be it one in
// the file ca or, without that, one of the system's.
func explainChain(leaf *x509.Certificate, ca string, err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if err := checkTime(invalid.Cert, time.Now()); err != nil {
			return err
		}
		return certError(ResultCertExpired, "the certificate has expired")
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return certError(ResultCertInvalid, "the certificate is not meant for servers; it lacks the usage serverAuth")
	case errors.As(err, &unknown):
		switch c := unknown.Cert; {
		case selfSigned(leaf) && ca != "":
			return certError(ResultCertSelfSigned, "the certificate is self-signed and is not in %s, the file of ?ca=; put it there, or set ?pin= to its key in place of ?ca=", ca)
		case selfSigned(leaf):
			return certError(ResultCertSelfSigned, "the certificate is self-signed; set ?pin= to its key or ?ca= to its file to trust it")
		case c != nil && slices.Contains(weakAlgorithms, c.SignatureAlgorithm):
			return certError(ResultCertInvalid, "the certificate is signed with %s, which is broken", c.SignatureAlgorithm)
		}
		if ca != "" {
			return certError(ResultCertUnknownCA, "the certificate comes from %q, which is not in %s, the file of ?ca=; put the certificate of that authority there, or let the server send the whole chain",
				printable(leaf.Issuer.String()), ca)
		}
		return certError(ResultCertUnknownCA, "the certificate comes from %q, which is not trusted; set ?ca= to its file, or let the server send the whole chain",
			printable(leaf.Issuer.String()))
	}
	return certError(ResultCertInvalid, "the certificate is not valid: %s", printable(err.Error()))
}

// weakAlgorithms are those that crypto/x509 does not accept.
var weakAlgorithms = []x509.SignatureAlgorithm{
	x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1,
}

// checkTime checks when a certificate is valid.
func checkTime(c *x509.Certificate, now time.Time) error {
	const day = time.RFC3339
	switch {
	case now.After(c.NotAfter):
		return certError(ResultCertExpired, "the certificate expired on %s; renew it", c.NotAfter.Format(day))
	case now.Before(c.NotBefore):
		return certError(ResultCertExpired, "the certificate is not valid before %s; is the clock right?", c.NotBefore.Format(day))
	}
	return nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// listNames returns the names of a certificate for an error.
func listNames(c *x509.Certificate, other xmppNames) string {
	names := slices.Concat(c.DNSNames, other.srv, other.xmpp)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no host at all (the common name does not count)"
	}
	shown := make([]string, 0, maxNames)
	for _, name := range names[:min(len(names), maxNames)] {
		shown = append(shown, printable(name))
	}
	text := strings.Join(shown, ", ")
	if n := len(names) - len(shown); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

func certError(result, format string, args ...any) error {
	return &failure{result: result, err: fmt.Errorf(format, args...)}
}
