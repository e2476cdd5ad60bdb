package upstream

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An authority issues certificates.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain [][]byte // its own certificate and those above it, without the root
	file  string   // its certificate in PEM
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority returns an authority below parent, or a root if that is nil.
// edit may be nil.
func newAuthority(t *testing.T, name string, parent *authority, edit func(*x509.Certificate)) *authority {
	t.Helper()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if edit != nil {
		edit(template)
	}
	a := &authority{key: newKey(t)}
	der := sign(t, template, a.key, parent)
	if parent != nil {
		a.chain = append([][]byte{der}, parent.chain...)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue returns the certificate that edit describes, with its chain; a nil
// authority signs with the key of the certificate itself.
func (a *authority) issue(t *testing.T, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "server"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	edit(template)
	key := newKey(t)
	der := sign(t, template, key, a)
	c := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if a != nil {
		c.Certificate = append(c.Certificate, a.chain...)
	}
	var err error
	if c.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func sign(t *testing.T, template *x509.Certificate, key crypto.Signer, by *authority) []byte {
	t.Helper()
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writePair writes a certificate and its key to files.
func writePair(t *testing.T, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	certFile = filepath.Join(t.TempDir(), "cert.pem")
	keyFile = filepath.Join(t.TempDir(), "key.pem")
	writePEM(t, certFile, "CERTIFICATE", c.Certificate[0])
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, keyFile, "PRIVATE KEY", der)
	return certFile, keyFile
}

func dnsNames(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = names }
}

// Names of certificates that crypto/x509 cannot write.
type (
	srvName  string
	xmppAddr string
	dnsName  string
)

// sanNames puts names of these types into the certificate.
func sanNames(critical bool, names ...any) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		var general []asn1.RawValue
		for _, name := range names {
			switch name := name.(type) {
			case dnsName:
				general = append(general, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(name)})
			case srvName:
				general = append(general, otherName(oidSRVName, asn1.TagIA5String, string(name)))
			case xmppAddr:
				general = append(general, otherName(oidXMPPAddr, asn1.TagUTF8String, string(name)))
			}
		}
		c.ExtraExtensions = []pkix.Extension{{Id: oidSAN, Critical: critical, Value: mustMarshal(general)}}
	}
}

func otherName(id asn1.ObjectIdentifier, tag int, s string) asn1.RawValue {
	value := mustMarshal(asn1.RawValue{Tag: tag, Bytes: []byte(s)})
	explicit := mustMarshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value})
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: append(mustMarshal(id), explicit...)}
}

func mustMarshal(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// chatServer returns an authority and a certificate that it issued for
// chat.example.
func chatServer(t *testing.T) (*authority, tls.Certificate) {
	t.Helper()
	ca := newAuthority(t, "Test CA", nil, nil)
	return ca, ca.issue(t, dnsNames("chat.example"))
}
