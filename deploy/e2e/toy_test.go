package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// toyServer is as much of an XMPP server as a login needs: SASL PLAIN with any password, binding, an empty result for every
// other request. It can be killed and started again, at once.
type toyServer struct {
	address  string
	features string      // offered before SASL; empty means PLAIN
	starttls *tls.Config // offered, and required, if not nil
	direct   *tls.Config // TLS from the first byte, if not nil

	mu    sync.Mutex
	ln    net.Listener
	conns map[net.Conn]bool
	auths int // <auth/> elements received so far
}

// startToy starts a toy server on a free port until the test ends.
func startToy(t *testing.T, s *toyServer) *toyServer {
	t.Helper()
	s.address = "127.0.0.1:0"
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// start listens at the address that s has, or had before it was killed.
func (s *toyServer) start() error {
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address, s.ln, s.conns = ln.Addr().String(), ln, map[net.Conn]bool{}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serve(ln, c)
		}
	}()
	return nil
}

// kill ends all connections with RST and refuses new ones, as the kernel does for a process that is gone.
func (s *toyServer) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ln.Close()
	for c := range s.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(s.conns)
}

func (s *toyServer) authenticated() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.auths
}

func (s *toyServer) serve(ln net.Listener, c net.Conn) {
	s.mu.Lock()
	if ln != s.ln { // killed since
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
		c.Close()
	}()
	conn, secure := c, s.starttls == nil
	if s.direct != nil {
		conn = tls.Server(c, s.direct)
	}
	in, user := newSplitter(conn), ""
	for {
		el, err := in.next()
		if err != nil {
			return
		}
		e, err := parse(el)
		if err != nil {
			return
		}
		answer := ""
		switch {
		case strings.HasPrefix(el, "<stream:stream"):
			answer = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams + "' id='toy' from='" + domain +
				"' version='1.0'><stream:features>" + s.offer(secure, user) + "</stream:features>"
		case el == streamEnd:
			io.WriteString(conn, streamEnd)
			return
		case e.is("starttls"):
			if _, err := io.WriteString(conn, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"); err != nil {
				return
			}
			conn = tls.Server(c, s.starttls)
			in, secure = newSplitter(conn), true
		case e.is("auth"):
			s.mu.Lock()
			s.auths++
			s.mu.Unlock()
			secret, _ := base64.StdEncoding.DecodeString(e.Text)
			_, user, _ = strings.Cut(string(secret), "\x00") // RFC 4616: authorization, NUL, localpart, NUL, password
			user, _, _ = strings.Cut(user, "\x00")
			in.restart()
			answer = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
		case e.is("iq"):
			payload := ""
			if e.has("bind") {
				payload = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>" + user + "@" + domain + "/" + e.child("bind", "resource").Text + "</jid></bind>"
			}
			answer = "<iq type='result' id='" + e.attr("id") + "'>" + payload + "</iq>"
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

func (s *toyServer) offer(secure bool, user string) string {
	switch {
	case !secure:
		return "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
	case user != "":
		return "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
	case s.features != "":
		return s.features
	}
	return "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
}

// authority signs certificates.
type authority struct {
	file string // its certificate, PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.crt")}
	c := a.issue(t, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid = "CA of "+t.Name(), true, true
	})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o644); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate for [domain], or what change makes of it. An authority without a key signs with the
// certificate's own.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "e2e"},
		DNSNames:     []string{domain},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(cert)
	}
	parent, signer := a.cert, a.key
	if signer == nil {
		parent, signer = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// pinOf is the option of a server's URL that pins the key of a certificate.
func pinOf(c tls.Certificate) string {
	hash := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return "pin=sha256:" + hex.EncodeToString(hash[:])
}

// withCertificate is a server's TLS configuration.
func withCertificate(c tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}}
}
