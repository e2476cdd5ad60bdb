package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// overTLS connects to a TLS listener and returns the certificate that it presents for name.
// The connection must be good for a WebSocket.
func overTLS(t *testing.T, address, name string) (certificate []byte) {
	t.Helper()
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"http/1.1"}})
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n")
	head := make([]byte, 1024)
	n, err := c.Read(head)
	if err != nil || !strings.HasPrefix(string(head[:n]), "HTTP/1.1 101 ") || !strings.Contains(string(head[:n]), "Strict-Transport-Security: ") {
		t.Fatalf("%q, %v", head[:n], err)
	}
	return c.ConnectionState().PeerCertificates[0].Raw
}

// handshakesOf tries n handshakes and returns how many succeed.
func handshakesOf(t *testing.T, address string, n int) (succeeded int) {
	t.Helper()
	for range n {
		if c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}); err == nil {
			succeeded++
			c.Close()
		}
	}
	return succeeded
}

// leafOf returns the certificate in a file.
func leafOf(t *testing.T, cert, key string) []byte {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate[0]
}

// presents fails unless the listener presents the certificate of a file for name.
func presents(t *testing.T, address, name, cert, key string) {
	t.Helper()
	if !bytes.Equal(overTLS(t, address, name), leafOf(t, cert, key)) {
		t.Errorf("%s gets another certificate than that in %s", name, cert)
	}
}

func tlsCertEffect(t *testing.T) {
	c1, k1 := writeCertificate(t, "one.example")
	c2, k2 := writeCertificate(t, "two.example", "*.two.example")
	g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0,127.0.0.1:0?tls=off,unix:"+t.TempDir()+"/s", "XMPPGATE_TLS_CERT="+c1+","+c2, "XMPPGATE_TLS_KEY="+k1+","+k2)
	addresses := strings.Split(g.serving.Listen, ",")
	presents(t, addresses[0], "one.example", c1, k1)
	presents(t, addresses[0], "Two.Example", c2, k2)
	presents(t, addresses[0], "a.two.example", c2, k2)
	presents(t, addresses[0], "a.b.two.example", c1, k1)
	presents(t, addresses[0], "", c1, k1)
	for _, plain := range addresses[1:] {
		if got := opened(t, plain, ""); !strings.Contains(got, "<open ") {
			t.Errorf("%s: %s", plain, got)
		}
	}
	if _, body := g.get("/metrics"); !strings.Contains(body, `xmppgate_tls_certificate_expiry_timestamp_seconds{file="`+c2+`"}`) ||
		!strings.Contains(body, `xmppgate_tls_handshakes_total{result="ok"} 5`) || !strings.Contains(body, `xmppgate_tls_versions_total{version="1.3"} 5`) {
		t.Error(body)
	}
}

// The key may be in the file of the certificate.
func tlsKeyEffect(t *testing.T) {
	cert, key := writeCertificate(t)
	refuses(t, "XMPPGATE_TLS_CERT="+cert)
	both := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(both, append(contents(t, cert), contents(t, key)...), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_TLS_CERT="+both)
	presents(t, g.serving.Listen, "", cert, key)
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A reload changes the certificates, but does not turn TLS on or off.
func reloadTLS(t *testing.T) {
	c1, k1 := writeCertificate(t, "one.example")
	c2, k2 := writeCertificate(t, "two.example")
	g := fileGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0")
	one := []string{"XMPPGATE_TLS_CERT=" + c1, "XMPPGATE_TLS_KEY=" + k1}
	g.configure(one)
	g.serves()
	presents(t, g.serving.Listen, "two.example", c1, k1)
	g.configure([]string{"XMPPGATE_TLS_CERT=" + c1 + "," + c2, "XMPPGATE_TLS_KEY=" + k1 + "," + k2})
	if notes := g.reloads(); notes != "" {
		t.Errorf("the reload notes %q", notes)
	}
	presents(t, g.serving.Listen, "two.example", c2, k2)
	g.configure(nil)
	if notes := g.reloads(); strings.Count(notes, "takes effect at the next start") != 2 {
		t.Errorf("the reload notes %q", notes)
	}
	presents(t, g.serving.Listen, "one.example", c1, k1)
	g.configure([]string{"XMPPGATE_TLS_CERT=" + c1, "XMPPGATE_TLS_KEY=" + k2})
	if status, body := g.post("/reload"); status != http.StatusUnprocessableEntity || !strings.Contains(body, c1+" and "+k2) {
		t.Errorf("%d %s", status, body)
	}
	presents(t, g.serving.Listen, "one.example", c1, k1)
}

// Files that change are read while the gateway runs, and broken ones are not.
func TestCertificateFiles(t *testing.T) {
	cert, key := writeCertificate(t, "a.example")
	nextCert, nextKey := writeCertificate(t, "a.example")
	g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_TLS_CERT="+cert, "XMPPGATE_TLS_KEY="+key)
	old := leafOf(t, cert, key)
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.logs("the changed certificate for clients cannot be used; the old one stays in force")
	if !bytes.Equal(overTLS(t, g.serving.Listen, ""), old) {
		t.Error("the old certificate is not in force")
	}
	if _, body := g.get("/metrics"); !strings.Contains(body, `xmppgate_tls_certificates_read_total{result="error"} 1`) {
		t.Error(body)
	}
	for from, to := range map[string]string{nextCert: cert, nextKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	g.logs("the certificate for clients has changed and was read")
	presents(t, g.serving.Listen, "", cert, key)
	g.signal(syscall.SIGTERM)
	g.ends(exitOK)
}

// acmeEffect sets all that ACME has, with an authority that certifies nobody.
func acmeEffect(t *testing.T) {
	accounts := make(chan string, 10)
	authority := httptest.NewUnstartedServer(nil)
	authority.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url := "https://" + r.Host
		w.Header().Set("Replay-Nonce", "n")
		switch r.URL.Path {
		case "/here":
			fmt.Fprintf(w, `{"newNonce":"%[1]s/nonce","newAccount":"%[1]s/account","newOrder":"%[1]s/order","revokeCert":"%[1]s/r","keyChange":"%[1]s/k"}`, url)
		case "/account":
			var request struct{ Payload string }
			_ = json.NewDecoder(r.Body).Decode(&request)
			payload, _ := base64.RawURLEncoding.DecodeString(request.Payload)
			accounts <- string(payload)
			w.WriteHeader(http.StatusForbidden)
		}
	})
	authority.Config.ErrorLog = log.New(io.Discard, "", 0)
	authority.StartTLS()
	t.Cleanup(authority.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	challenges := free.Addr().String()
	free.Close()
	cache := filepath.Join(t.TempDir(), "made", "acme")
	g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_ACME_DOMAINS=a.example.org", "XMPPGATE_ACME_CACHE="+cache, "XMPPGATE_ACME_LISTEN="+challenges,
		"XMPPGATE_ACME_EMAIL=me@example.org", "XMPPGATE_ACME_DIRECTORY="+authority.URL+"/here", "XMPPGATE_ACME_CA="+ca)
	g.logs("no certificate by ACME; it is asked for again")
	if account := <-accounts; !strings.Contains(account, `"mailto:me@example.org"`) {
		t.Errorf("the account is %s", account)
	}
	if _, err := os.Stat(filepath.Join(cache, "acme_account+key")); err != nil {
		t.Error(err)
	}
	if n := handshakesOf(t, g.serving.Listen, 1); n != 0 {
		t.Error("a handshake without a certificate")
	}
	g.eventually("the handshake is not counted", func() bool {
		_, body := g.get("/metrics")
		return strings.Contains(body, `xmppgate_tls_handshakes_total{result="no-certificate"} 1`)
	})
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + challenges + "/ws")
	if err != nil || r.StatusCode != http.StatusFound || !strings.HasPrefix(r.Header.Get("Location"), "https://127.0.0.1") {
		t.Fatalf("a browser gets %v, %v", r, err)
	}
	r.Body.Close()
	g.signal(syscall.SIGTERM)
	g.ends(exitOK)
}

// What belongs to ACME takes effect at a start only.
func reloadACME(t *testing.T) {
	g := fileGateway(t).serves()
	g.configure([]string{"XMPPGATE_ACME_DOMAINS=a.example.org", "XMPPGATE_ACME_CACHE=" + t.TempDir()})
	if notes := g.reloads(); notes != "XMPPGATE_ACME_DOMAINS: takes effect at the next start\nXMPPGATE_ACME_CACHE: takes effect at the next start\n" {
		t.Errorf("%q", notes)
	}
}
