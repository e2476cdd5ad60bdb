// Package acme obtains and renews the certificates of a TLS listener from a certificate
// authority (RFC 8555).
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Protocol is what an authority asks for to check a domain by TLS-ALPN-01 (RFC 8737).
const Protocol = acme.ALPNProto

// DefaultDirectory is that of Let's Encrypt.
const DefaultDirectory = acme.LetsEncryptURL

// Times between two looks at a certificate. Where there is one, package autocert renews it
// by itself, and a look finds the new one. Where there is none, retryInterval is longer than
// autocert waits after a failure, so that each look is a new attempt. After failures the
// time doubles up to maxPause: authorities allow a few an hour.
const (
	checkInterval = 5 * time.Second
	retryInterval = 65 * time.Second
	maxPause      = time.Hour
)

// requestTimeout bounds each request to the authority.
const requestTimeout = 30 * time.Second

// A Config says which certificates are wanted.
type Config struct {
	Domains   []string // host names; required
	Cache     string   // the directory that keeps keys and certificates; required
	Email     string   // the authority's contact; empty for none
	Directory string   // URL of the authority; empty means DefaultDirectory
	CA        string   // a PEM file with the authorities that Directory is trusted by; empty means the system's
}

// A Manager keeps certificates. Its methods may be called by several goroutines at once.
type Manager struct {
	domains []string
	auto    autocert.Manager
	cache   *cache
	current sync.Map // *tls.Certificate by domain
}

// New returns a Manager, which has no certificates before Run.
func New(c Config) (*Manager, error) {
	client := &http.Client{Timeout: requestTimeout}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no PEM certificate", c.CA)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		client.Transport = transport
	}
	kept := &cache{Cache: autocert.DirCache(c.Cache)}
	m := &Manager{cache: kept, auto: autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      kept,
		HostPolicy: autocert.HostWhitelist(c.Domains...),
		Email:      c.Email,
		Client:     &acme.Client{DirectoryURL: cmp.Or(c.Directory, DefaultDirectory), HTTPClient: client, UserAgent: "xmppgate"},
	}}
	for _, d := range c.Domains {
		m.domains = append(m.domains, strings.ToLower(d))
	}
	return m, nil
}

// ErrNotKept is matched by an error that tells of a certificate or a key which is in use, and
// which the next process will not find.
var ErrNotKept = errors.New("cannot be kept")

// A cache tells what it could not keep: package autocert does not say that, and goes on
// with what it has in memory.
type cache struct {
	autocert.Cache
	failed atomic.Pointer[func(name string, err error)] // nil before tell
}

// tell sets who is told.
func (c *cache) tell(failed func(name string, err error)) { c.failed.Store(&failed) }

// Put implements autocert.Cache.
func (c *cache) Put(ctx context.Context, name string, data []byte) error {
	err := c.Cache.Put(ctx, name, data)
	if failed := c.failed.Load(); err != nil && failed != nil {
		(*failed)(name, err)
	}
	return err
}

// Run obtains the certificates that are missing, and looks for renewed ones, until ctx ends.
// It calls changed when a domain has a new certificate, and for each failure to get one or to
// keep it for the next process; changed may be called by several goroutines at once.
func (m *Manager) Run(ctx context.Context, changed func(domain string, expires time.Time, err error)) {
	m.cache.tell(func(name string, err error) {
		changed(name, time.Time{}, fmt.Errorf("%w: %w", ErrNotKept, err))
	})
	var all sync.WaitGroup
	for _, domain := range m.domains {
		all.Go(func() {
			for pause := time.Duration(0); ; {
				pause = nextPause(pause, m.look(domain, changed))
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
			}
		})
	}
	all.Wait()
}

// nextPause is how long to wait for the next look behind one that came after pause:
// twice as long after each failure.
func nextPause(pause time.Duration, ok bool) time.Duration {
	if ok {
		return checkInterval
	}
	return min(max(2*pause, retryInterval), maxPause)
}

// look obtains the certificate of a domain. It reports whether there is one.
func (m *Manager) look(domain string, changed func(string, time.Time, error)) (ok bool) {
	now, err := m.obtain(domain)
	if err != nil {
		changed(domain, time.Time{}, err)
		return false
	}
	// Package autocert makes a new tls.Certificate for each call.
	if was := m.of(domain); was == nil || !was.Leaf.Equal(now.Leaf) {
		m.current.Store(domain, now)
		changed(domain, now.Leaf.NotAfter, nil)
	}
	return true
}

// obtain returns the newest certificate of a domain. It takes as long as the authority
// needs, which handshakes must not wait for.
func (m *Manager) obtain(domain string) (*tls.Certificate, error) {
	// A client that knows ECDSA.
	return m.auto.GetCertificate(&tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}})
}

var errNotHere = errors.New("a certificate authority asks for a domain that is not in XMPPGATE_ACME_DOMAINS")

// Get returns the certificate for a client, or nil if there is none for the name that it
// asks for. To an authority it returns the answer.
func (m *Manager) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if slices.Equal(hello.SupportedProtos, []string{Protocol}) {
		if !slices.Contains(m.domains, name) {
			return nil, errNotHere
		}
		return m.auto.GetCertificate(hello)
	}
	return m.of(name), nil
}

// First returns the certificate of the first domain that has one, or nil.
func (m *Manager) First() *tls.Certificate {
	for _, d := range m.domains {
		if c := m.of(d); c != nil {
			return c
		}
	}
	return nil
}

func (m *Manager) of(domain string) *tls.Certificate {
	if c, ok := m.current.Load(domain); ok {
		return c.(*tls.Certificate)
	}
	return nil
}

// Expiries yields the domains that have a certificate, and when it expires.
func (m *Manager) Expiries(yield func(domain string, expires time.Time) bool) {
	for _, d := range m.domains {
		if c := m.of(d); c != nil && !yield(d, c.Leaf.NotAfter) {
			return
		}
	}
}

// Handler answers authorities that check a domain by HTTP-01, and sends everybody else to
// https://. It is to be called before Run.
func (m *Manager) Handler() http.Handler {
	h := m.auto.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// It takes the port for a part of the name.
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r.Host = host
		}
		h.ServeHTTP(w, r)
	})
}
