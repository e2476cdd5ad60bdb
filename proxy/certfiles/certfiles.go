// Package certfiles keeps the certificates of a TLS listener in memory as their files
// change.
package certfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"xmppgate/proxy/filestamp"
)

// A Pair names the files of a certificate with its chain and of its private key, both PEM.
// They may be the same file.
type Pair struct{ Cert, Key string }

// CheckInterval is the time between two calls of Store.Check.
const CheckInterval = 500 * time.Millisecond

// A Store has the certificates of some pairs of files. [Load] makes it. Its methods may be
// called by several goroutines at once, except for Check.
type Store struct {
	pairs   []*pair
	current atomic.Pointer[set]
}

// A pair is a Pair and what its files hold.
type pair struct {
	Pair
	certificate *tls.Certificate  // in force
	stamps      []filestamp.Stamp // of the last attempt to read the files
	failed      error             // what it came to; nil if it succeeded
	told        bool              // failed was told
}

// A set is all certificates that are in force.
type set struct {
	all    []*tls.Certificate // in the order of the pairs
	byName map[string][]*tls.Certificate
}

// Load reads all pairs, of which there must be one at least. The error joins everything
// that is wrong.
func Load(pairs []Pair) (*Store, error) {
	s := &Store{}
	var errs []error
	for _, names := range pairs {
		p := &pair{Pair: names, stamps: filestamp.All(names.Cert, names.Key)}
		var err error
		if p.certificate, err = p.load(); err != nil {
			errs = append(errs, err)
		}
		s.pairs = append(s.pairs, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.publish()
	return s, nil
}

// load reads the files.
func (p *pair) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.files(), err)
	}
	return &c, nil
}

// files names the files in errors.
func (p *pair) files() string {
	if p.Cert == p.Key {
		return p.Cert
	}
	return p.Cert + " and " + p.Key
}

// publish puts what the pairs have in force.
func (s *Store) publish() {
	now := &set{byName: map[string][]*tls.Certificate{}}
	for _, p := range s.pairs {
		now.all = append(now.all, p.certificate)
		for _, name := range p.certificate.Leaf.DNSNames {
			name = strings.ToLower(name)
			now.byName[name] = append(now.byName[name], p.certificate)
		}
	}
	s.current.Store(now)
}

// Get returns the certificate for a client, as tls.Config.GetCertificate does: one for the
// name that the client asks for (SNI), or else the first. Of several for a name, as with
// keys of two kinds, it is the first that the client supports.
func (s *Store) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := s.current.Load()
	name := strings.ToLower(hello.ServerName)
	candidates := now.byName[name]
	if candidates == nil {
		if _, domain, ok := strings.Cut(name, "."); ok {
			candidates = now.byName["*."+domain]
		}
	}
	if candidates == nil {
		candidates = now.all
	}
	if len(candidates) > 1 {
		anyName := *hello
		anyName.ServerName = ""
		for _, c := range candidates {
			if anyName.SupportsCertificate(c) == nil {
				return c, nil
			}
		}
	}
	return candidates[0], nil
}

// Check looks whether the files have changed. It is to be called every CheckInterval. It
// calls read when a pair was read again, or cannot be: then the old certificate stays in
// force, and read is not called again for the same cause.
func (s *Store) Check(read func(Pair, error)) {
	for _, p := range s.pairs {
		stamps := filestamp.All(p.Cert, p.Key)
		changed := !filestamp.Same(stamps, p.stamps)
		if !changed && p.failed == nil {
			continue
		}
		p.stamps = stamps
		c, err := p.load()
		if err == nil {
			err = p.worse(c.Leaf)
		}
		switch {
		case err == nil:
			p.certificate, p.failed, p.told = c, nil, false
			s.publish()
			read(p.Pair, nil)
		case changed:
			// Who writes two files changes one first. The next look tells.
			p.failed, p.told = err, p.told && p.failed.Error() == err.Error()
		case !p.told || p.failed.Error() != err.Error():
			p.failed, p.told = err, true
			read(p.Pair, err)
		}
	}
}

// worse tells why c must not replace the certificate in force, if that is valid now.
func (p *pair) worse(c *x509.Certificate) error {
	now := time.Now()
	valid := func(c *x509.Certificate) bool { return !now.Before(c.NotBefore) && !now.After(c.NotAfter) }
	if valid(c) || !valid(p.certificate.Leaf) {
		return nil
	}
	return fmt.Errorf("%s: the new certificate is valid from %s to %s only, and the old one is valid now",
		p.files(), c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
}

// A Certificate describes one that is in force.
type Certificate struct {
	File    string // Pair.Cert
	Expires time.Time
}

// Certificates returns those in force, in the order of the pairs.
func (s *Store) Certificates() (all []Certificate) {
	for i, c := range s.current.Load().all {
		all = append(all, Certificate{s.pairs[i].Cert, c.Leaf.NotAfter})
	}
	return all
}
