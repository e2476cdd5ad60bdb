package acme

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCache puts a certificate where package autocert keeps its own.
func writeCache(t *testing.T, dir, domain string) (leaf []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), DNSNames: []string{domain}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.WriteFile(filepath.Join(dir, domain), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return der
}

// A certificate is told about once, a failure each time. What one process has obtained the
// next one finds.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	leaf := writeCache(t, dir, "a.example.org")
	m, err := New(Config{Domains: []string{"A.example.org", "b.example.org"}, Cache: dir, Directory: "https://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	changed := func(domain string, _ time.Time, err error) { told = append(told, fmt.Sprint(domain, " ", err == nil)) }
	for range 2 {
		if !m.look("a.example.org", changed) || m.look("b.example.org", changed) {
			t.Error("there is one for a alone")
		}
	}
	if got := fmt.Sprint(told); got != "[a.example.org true b.example.org false b.example.org false]" {
		t.Errorf("told %s", got)
	}
	for name, want := range map[string][]byte{"a.example.org": leaf, "A.EXAMPLE.org": leaf, "b.example.org": nil, "c.example.org": nil, "": nil} {
		c, err := m.Get(&tls.ClientHelloInfo{ServerName: name})
		if err != nil || (c == nil) != (want == nil) || c != nil && !bytes.Equal(c.Certificate[0], want) {
			t.Errorf("%q gets %v, %v", name, c, err)
		}
	}
	if first := m.First(); first == nil || !bytes.Equal(first.Certificate[0], leaf) {
		t.Error("the first is another")
	}
}

// An authority that fails is asked less and less often.
func TestPauses(t *testing.T) {
	pause, tries := time.Duration(0), 0
	for total := time.Duration(0); total < 24*time.Hour; total += pause {
		pause = nextPause(pause, false)
		tries++
	}
	if tries > 30 || pause != maxPause || nextPause(pause, true) != checkInterval {
		t.Errorf("%d tries a day, the last after %v", tries, pause)
	}
}

// Only domains of the list are answered for.
func TestChallengeOfOthers(t *testing.T) {
	m, err := New(Config{Domains: []string{"a.example.org"}, Cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get(&tls.ClientHelloInfo{ServerName: "b.example.org", SupportedProtos: []string{Protocol}}); err != errNotHere {
		t.Error(err)
	}
	for host, want := range map[string]int{"a.example.org": 404, "a.example.org:80": 404, "b.example.org": 403} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://"+host+"/.well-known/acme-challenge/x", nil)
		m.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d", host, w.Code)
		}
	}
}

// A full disk is told: without that, each start would order certificates until the
// authority refuses.
func TestCacheThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Domains: []string{"a.example.org"}, Cache: dir})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.domains = nil // nobody is asked
	m.Run(ctx, func(domain string, _ time.Time, err error) { told = append(told, fmt.Sprint(domain, ": ", err)) })
	if err := m.auto.Cache.Put(t.Context(), "a.example.org", []byte("x")); err == nil {
		t.Fatal("it was kept")
	}
	if len(told) != 1 || !strings.Contains(told[0], "a.example.org: cannot be kept: mkdir") {
		t.Errorf("told %q", told)
	}
}
