package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"xmppgate/cmd/xmppgate/internal/acme"
	"xmppgate/proxy/certfiles"
)

// This file is TLS with clients: where it is spoken, and with which certificates.

// checkACME reports what ACME would fail with.
func (c *config) checkACME(r *report) {
	if len(c.ACMEDomains) == 0 {
		return
	}
	before := len(r.errs)
	for _, name := range c.ACMEDomains {
		ascii, err := idna.Lookup.ToASCII(name)
		if _, ip := netip.ParseAddr(name); err != nil || ip == nil || !strings.EqualFold(ascii, name) || !strings.Contains(name, ".") {
			r.add("ACME_DOMAINS", "%q is not a host name that an authority certifies: write one such as xmpp.example.org, in its xn-- form if it is not ASCII", name)
		}
	}
	if u, err := url.Parse(c.ACMEDirectory); err != nil || u.Scheme != "https" || u.Host == "" {
		r.add("ACME_DIRECTORY", "must be an https:// URL")
	}
	for _, a := range c.acmeListeners {
		if a.network != "tcp" || a.cleartext {
			r.add("ACME_LISTEN", "%s: write host:port, such as :80", a)
		}
	}
	switch {
	case len(r.errs) > before:
		return
	case c.ACMECache == "":
		r.add("ACME_DOMAINS", "set %sACME_CACHE to a directory for keys and certificates: without it each start would ask for new ones, of which authorities give a few a week", prefix)
	case !filepath.IsAbs(c.ACMECache):
		r.add("ACME_CACHE", "write an absolute path")
	case !writable(existing(c.ACMECache)):
		r.add("ACME_CACHE", "the directory is not writable for the user who runs this: let it belong to that user, with StateDirectory= in systemd for example")
	}
	m, err := acme.New(acme.Config{Domains: c.ACMEDomains, Cache: c.ACMECache, Email: c.ACMEEmail, Directory: c.ACMEDirectory, CA: c.ACMECA})
	if err != nil {
		r.addError("ACME_CA", err)
	}
	c.acme = m
}

// existing returns path, or the first of its parents that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// checkTLS reads the certificates.
func (c *config) checkTLS(r *report) {
	c.checkACME(r)
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

// hasTLS reports whether clients get certificates.
func (c *config) hasTLS() bool { return len(c.TLSCert) > 0 || len(c.ACMEDomains) > 0 }

// speaksTLS reports whether clients at an address of LISTEN begin with TLS.
func (c *config) speaksTLS(a listenAddress) bool {
	return c.hasTLS() && a.network == "tcp" && !a.cleartext
}

// turnsTLS reports whether the named variable turns TLS on or off, in comparison with the
// configuration of the start. The listeners do not change while they are open.
func (c *config) turnsTLS(name string, start *config) bool {
	return (name == prefix+"TLS_CERT" || name == prefix+"TLS_KEY") && c.hasTLS() != start.hasTLS()
}

var errNoCertificate = errors.New("there is no certificate yet: the log tells what the authority of ACME says")

// certificate returns how clients get their certificates: one of manager, nil without ACME,
// for the name that they ask for, or else one of the files. It is nil without TLS.
func (c *config) certificate(manager *acme.Manager) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	files := c.certificates
	switch {
	case manager == nil && files == nil:
		return nil
	case manager == nil:
		return files.Get
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if found, err := manager.Get(hello); found != nil || err != nil {
			return found, err
		}
		if files != nil {
			return files.Get(hello)
		}
		if first := manager.First(); first != nil {
			return first, nil
		}
		return nil, errNoCertificate
	}
}

// Limits of the server for HTTP-01, which anybody can reach.
const (
	acmeTimeout   = 5 * time.Second
	acmeMaxHeader = 8 << 10 // bytes
)

// runACME obtains certificates until ctx ends. At listeners it answers the authority that
// checks by HTTP-01.
func (s *service) runACME(ctx context.Context, listeners []net.Listener) {
	if len(listeners) > 0 {
		server := &http.Server{
			Handler: s.start.acme.Handler(), ReadTimeout: acmeTimeout, WriteTimeout: acmeTimeout, MaxHeaderBytes: acmeMaxHeader,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		server.SetKeepAlivesEnabled(false)
		defer server.Close()
		for _, l := range listeners {
			go func() { _ = server.Serve(boundListener(l)) }()
		}
	}
	go s.start.acme.Run(ctx, s.observer.CertificateObtained) // may wait for the authority for minutes
	<-ctx.Done()
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
