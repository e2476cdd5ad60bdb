package certfiles

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A made certificate is PEM and its key.
type made struct{ cert, key []byte }

func newMade(t testing.TB, key crypto.Signer, notAfter time.Time, names ...string) made {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, NotAfter: notAfter, DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return made{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
}

func newECDSA(t testing.TB, names ...string) made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newMade(t, key, time.Now().Add(time.Hour), names...)
}

// files are a pair in a directory.
func write(t testing.TB, p Pair, m made) {
	t.Helper()
	for file, text := range map[string][]byte{p.Cert: m.cert, p.Key: m.key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newPair(t testing.TB, m made) Pair {
	dir := t.TempDir()
	p := Pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	write(t, p, m)
	return p
}

// presents fails unless clients that ask for name get m.
func presents(t *testing.T, s *Store, name string, m made) {
	t.Helper()
	c, err := s.Get(&tls.ClientHelloInfo{ServerName: name})
	block, _ := pem.Decode(m.cert)
	if err != nil || !bytes.Equal(c.Certificate[0], block.Bytes) {
		t.Errorf("%q gets another certificate, %v", name, err)
	}
}

// A diary notes what Check tells.
type diary []string

func (d *diary) read(_ Pair, err error) { *d = append(*d, fmt.Sprint(err)) }

// told returns what was told since the last call.
func (d *diary) told() string {
	text := strings.Join(*d, ", ")
	*d = nil
	return text
}

func TestChoice(t *testing.T) {
	first, wild, exact := newECDSA(t, "one.example"), newECDSA(t, "*.two.example"), newECDSA(t, "A.two.example", "three.example")
	s, err := Load([]Pair{newPair(t, first), newPair(t, wild), newPair(t, exact)})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]made{
		"": first, "one.example": first, "ONE.example": first, "unknown.example": first, "two.example": first,
		"b.two.example": wild, "a.two.example": exact, "b.a.two.example": first, "Three.Example": exact,
	} {
		presents(t, s, name, want)
	}
}

// Of two certificates for a name a client gets the one whose key it knows.
func TestTwoKinds(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	modern, old := newECDSA(t, "a.example"), newMade(t, key, time.Now().Add(time.Hour), "a.example")
	s, err := Load([]Pair{newPair(t, newECDSA(t, "other.example")), newPair(t, modern), newPair(t, old)})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		scheme tls.SignatureScheme
		want   made
	}{{tls.ECDSAWithP256AndSHA256, modern}, {tls.PSSWithSHA256, old}} {
		c, err := s.Get(&tls.ClientHelloInfo{ServerName: "a.example", SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{test.scheme}, SupportedCurves: []tls.CurveID{tls.X25519}})
		block, _ := pem.Decode(test.want.cert)
		if err != nil || !bytes.Equal(c.Certificate[0], block.Bytes) {
			t.Errorf("%v: another certificate, %v", test.scheme, err)
		}
	}
}

// Whatever happens to the files, a certificate in force fits its key, and what is wrong is
// told once.
func TestCheck(t *testing.T) {
	a, b, c := newECDSA(t, "a.example"), newECDSA(t, "a.example"), newECDSA(t, "a.example")
	p := newPair(t, a)
	s, err := Load([]Pair{p})
	if err != nil {
		t.Fatal(err)
	}
	var d diary
	tells := func(want string) {
		t.Helper()
		s.Check(d.read)
		if got := d.told(); got != want && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	set := func(file string, text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		// Files of one size that are written within a tick of the clock look the same.
		when := time.Now().Add(time.Duration(len(text)+int(text[len(text)/2])) * time.Second)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	tells("")
	presents(t, s, "", a)

	set(p.Cert, b.cert) // the key comes a moment later
	tells("")
	presents(t, s, "", a)
	set(p.Key, b.key)
	tells("<nil>")
	presents(t, s, "", b)
	tells("")

	set(p.Key, c.key) // the certificate does not come
	tells("")
	tells("private key does not match public key")
	tells("")
	presents(t, s, "", b)
	set(p.Cert, []byte("nonsense")) // another fault
	tells("")
	tells("failed to find any PEM data")
	tells("")
	if err := os.Remove(p.Cert); err != nil {
		t.Fatal(err)
	}
	tells("")
	tells("no such file")
	presents(t, s, "", b)
	set(p.Cert, c.cert)
	tells("<nil>")
	presents(t, s, "", c)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	expired := newMade(t, key, time.Now().Add(-time.Minute), "a.example")
	set(p.Cert, expired.cert)
	set(p.Key, expired.key)
	tells("")
	tells("the old one is valid now")
	presents(t, s, "", c)
	if got := s.Certificates(); len(got) != 1 || got[0].File != p.Cert || time.Until(got[0].Expires) < time.Minute {
		t.Errorf("%+v", got)
	}
}

// Kubernetes swaps a link to the directory with all files of a secret.
func TestSwappedLinks(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := Pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	version := 0
	swap := func(m made) {
		version++
		next := filepath.Join(dir, fmt.Sprintf("..v%d", version))
		must(os.Mkdir(next, 0o700))
		write(t, Pair{next + "/tls.crt", next + "/tls.key"}, m)
		must(os.Symlink(next, dir+"/..new"))
		must(os.Rename(dir+"/..new", dir+"/..data"))
	}
	first := newECDSA(t)
	swap(first)
	must(os.Symlink("..data/tls.crt", p.Cert))
	must(os.Symlink("..data/tls.key", p.Key))
	s, err := Load([]Pair{p})
	must(err)
	presents(t, s, "", first)
	var d diary
	for range 3 {
		next := newECDSA(t)
		swap(next)
		s.Check(d.read)
		presents(t, s, "", next)
		if got := d.told(); got != "<nil>" {
			t.Errorf("told %q", got)
		}
	}
}

func TestLoad(t *testing.T) {
	a, b := newPair(t, newECDSA(t)), newPair(t, newECDSA(t))
	if _, err := Load([]Pair{{a.Cert, b.Key}, {"/nowhere", "/nowhere"}}); err == nil || strings.Count(err.Error(), "\n") != 1 ||
		!strings.Contains(err.Error(), a.Cert+" and "+b.Key+": tls: private key does not match") || !strings.Contains(err.Error(), "/nowhere: open /nowhere: no such file") {
		t.Errorf("%v", err)
	}
}
