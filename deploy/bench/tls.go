package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// The tls scenario: the relay again, with TLS to the server. What ends it there
// is a HAProxy for each system that is not counted.

// certificate writes a key and its certificate for a terminator and returns the
// file and the key's hash.
func certificate(dir string) (file, pin string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	c := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", "", err
	}
	var text bytes.Buffer
	pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	file = filepath.Join(dir, "terminator.pem")
	return file, fmt.Sprintf("%x", sha256.Sum256(public)), os.WriteFile(file, text.Bytes(), 0o600)
}

// tlsSystems starts what is compared on CPU 0, and the terminators on CPU 1.
func tlsSystems(b *bench) ([]*system, error) {
	file, pin, err := certificate(b.dir)
	if err != nil {
		return nil, err
	}
	terminated := func(start func(port int) (*process, int, error)) func(int) (*process, int, error) {
		return func(upstream int) (*process, int, error) {
			_, port, err := startHAProxy(b.dir, "1", haproxy{
				mode: "tcp",
				bind: "ssl crt " + file + " ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256 curves X25519",
			}, upstream)
			if err != nil {
				return nil, 0, err
			}
			return start(port)
		}
	}
	all, err := startKinds(
		kind{name: gate, xmpp: true, start: terminated(func(port int) (*process, int, error) {
			return startGateway(b.dir, "0", b.gateway, port, fmt.Sprintf("XMPPGATE_UPSTREAM=tls://%s?pin=sha256:%s", loopback(port), pin))
		})},
		kind{name: "HAProxy TCP", start: terminated(func(port int) (*process, int, error) {
			return startHAProxy(b.dir, "0", haproxy{mode: "tcp", server: "ssl verify none"}, port)
		})},
	)
	for _, s := range all {
		s.patience = 10 // the terminator needs the processor, too
	}
	return all, err
}

// aes is what both ends agree on, so that the systems compare.
const aes = "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"

// wssSystems starts what is compared on CPU 0. The generator reaches each through a HAProxy
// on CPU 1 that speaks TLS for it, with a full handshake for each connection.
func wssSystems(b *bench) ([]*system, error) {
	file, _, err := certificate(b.dir)
	if err != nil {
		return nil, err
	}
	behind := func(start func(upstream int) (*process, int, error)) func(int) (*process, int, error) {
		return func(upstream int) (*process, int, error) {
			p, port, err := start(upstream)
			if err != nil {
				return nil, 0, err
			}
			_, port, err = startHAProxy(b.dir, "1", haproxy{
				mode:   "tcp",
				server: "ssl verify none no-ssl-reuse " + aes,
			}, port)
			return p, port, err
		}
	}
	all, err := startKinds(
		kind{name: gate, xmpp: true, start: behind(func(u int) (*process, int, error) {
			return startGateway(b.dir, "0", b.gateway, u, "XMPPGATE_TLS_CERT="+file)
		})},
		kind{name: "HAProxy TCP", start: behind(func(u int) (*process, int, error) {
			return startHAProxy(b.dir, "0", haproxy{mode: "tcp", bind: "ssl crt " + file + " curves X25519 " + aes}, u)
		})},
	)
	for _, s := range all {
		s.patience = 10 // the HAProxy in front needs the processor, too
	}
	return all, err
}

func runWSS(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	systems, err := wssSystems(b)
	defer func() { closeAll(systems) }()
	if err != nil {
		return err
	}
	if err := setupRounds(b, r, systems); err != nil {
		return err
	}
	if err := relayRounds(b, r, systems, tlsCells); err != nil {
		return err
	}
	closeAll(systems)
	if systems, err = wssSystems(b); err != nil {
		return err
	}
	return idleTLS(r, systems)
}

// tlsCells are the loads that relay begins with.
var tlsCells = relayCells[:8]

func runTLS(b *bench, r *recorder) error {
	if err := pin(); err != nil {
		return err
	}
	systems, err := tlsSystems(b)
	defer func() { closeAll(systems) }()
	if err != nil {
		return err
	}
	if err := relayRounds(b, r, systems, tlsCells); err != nil {
		return err
	}
	closeAll(systems)
	systems, err = tlsSystems(b)
	if err != nil {
		return err
	}
	return idleTLS(r, systems)
}

// idleTLS measures the memory of sessions that have logged in and are quiet.
func idleTLS(r *recorder, systems []*system) error {
	for _, s := range systems {
		var at [2]float64
		for i, n := range []int{500, 4000} {
			if err := s.grow(n); err != nil {
				return err
			}
			time.Sleep(idleAfter)
			at[i] = rss(s.proc)
		}
		r.add("idle, 500 → 4,000 sessions", "KiB per session", 0, s.name, (at[1]-at[0])/3500)
	}
	return nil
}
