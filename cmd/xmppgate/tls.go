package main

import (
	"context"
	"crypto/tls"
	"time"

	"xmppgate/proxy/certfiles"
)

// This file is TLS with clients: where it is spoken, and with which certificates.

// checkTLS reads the certificates.
func (c *config) checkTLS(r *report) {
	switch {
	case len(c.TLSCert) == 0 && len(c.TLSKey) == 0:
		return
	case len(c.TLSCert) == 0:
		r.add("TLS_KEY", "the certificates are missing: set %sTLS_CERT to their files, in the same order", prefix)
		return
	case len(c.TLSKey) != 0 && len(c.TLSKey) != len(c.TLSCert):
		r.add("TLS_KEY", "%d keys for %d certificates: write the key of each certificate, in the same order", len(c.TLSKey), len(c.TLSCert))
		return
	}
	keys := c.TLSKey
	if len(keys) == 0 {
		keys = c.TLSCert
	}
	var pairs []certfiles.Pair
	seen := map[string]bool{}
	for i, file := range c.TLSCert {
		if seen[file] {
			r.add("TLS_CERT", "%s is listed twice: remove one", file)
			return
		}
		seen[file] = true
		pairs = append(pairs, certfiles.Pair{Cert: file, Key: keys[i]})
	}
	var err error
	if c.certificates, err = certfiles.Load(pairs); err != nil {
		r.addError("TLS_CERT", err)
	}
}

// speaksTLS reports whether clients at an address of LISTEN begin with TLS.
func (c *config) speaksTLS(a listenAddress) bool {
	return len(c.TLSCert) > 0 && a.network == "tcp" && !a.cleartext
}

// turnsTLS reports whether the named variable turns TLS on or off, in comparison with the
// configuration of the start. The listeners do not change while they are open.
func (c *config) turnsTLS(name string, start *config) bool {
	return (name == prefix+"TLS_CERT" || name == prefix+"TLS_KEY") && (len(c.TLSCert) == 0) != (len(start.TLSCert) == 0)
}

// certificate returns how clients get their certificates, nil without TLS.
func (c *config) certificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.certificates == nil {
		return nil
	}
	return c.certificates.Get
}

// watchCertificates looks at the files of certificates until ctx ends.
func (s *service) watchCertificates(ctx context.Context) {
	ticker := time.NewTicker(certfiles.CheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if files := s.config().certificates; files != nil {
				files.Check(s.observer.CertificateRead)
			}
		}
	}
}
