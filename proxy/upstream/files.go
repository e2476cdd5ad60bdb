package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"xmppgate/proxy/filestamp"
)

// checkInterval is the time between two checks of files for changes.
const checkInterval = time.Second

// files are the files in the URL of a server. A connection that needs them checks
// whether they have changed, and then reads them again. Because health checks connect
// as well, that happens within seconds. They are opened by name each time, because
// Kubernetes replaces a symbolic link in the path.
type files struct {
	ca, cert, key string // empty if the URL does not name one

	current atomic.Pointer[credentials]

	mu      sync.Mutex // guards all below
	checked time.Time
	stamps  []filestamp.Stamp // of the last attempt to read them
	failed  string            // what it came to; empty if it succeeded
}

// credentials are what the files hold, and what is made of that once. Sessions
// have those that were in force when they connected.
type credentials struct {
	roots       *x509.CertPool   // nil means the system's
	certificate *tls.Certificate // nil means none
	tls         tlsConfigs
}

func (f *files) currentStamps() []filestamp.Stamp { return filestamp.All(f.ca, f.cert, f.key) }

// first reads the files for the first time.
func (f *files) first() (problems []error) {
	f.stamps = f.currentStamps()
	c, problems := f.load()
	f.current.Store(c)
	return problems
}

// credentials returns what the files hold. If they have changed they are read
// again, and read is called with the outcome; after an error the old ones stay in
// force. Only one connection checks at a time; the others do not wait.
func (f *files) credentials(read func(error)) *credentials {
	if f.ca == "" && f.cert == "" || !f.mu.TryLock() {
		return f.current.Load()
	}
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.checked) >= checkInterval {
		f.checked = now
		stamps := f.currentStamps()
		changed := !filestamp.Same(stamps, f.stamps)
		if changed || f.failed != "" { // permissions leave no stamp
			f.stamps = stamps
			f.reload(changed, read)
		}
	}
	return f.current.Load()
}

// checkSoon makes the next connection check the files.
func (f *files) checkSoon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked = time.Time{}
}

// reload reads the files again. What went wrong is told once.
func (f *files) reload(changed bool, read func(error)) {
	c, problems := f.load()
	err := errors.Join(problems...)
	was := f.failed
	if err == nil {
		f.failed = ""
		f.current.Store(c)
		read(nil)
		return
	}
	if f.failed = err.Error(); changed || f.failed != was {
		read(err)
	}
}

// load reads the files. The errors name all that is wrong.
func (f *files) load() (c *credentials, problems []error) {
	c = &credentials{}
	if f.ca != "" {
		if err := c.readRoots(f.ca); err != nil {
			problems = append(problems, fmt.Errorf("option ca: %w", err))
		}
	}
	switch {
	case f.cert == "" && f.key == "":
	case f.key == "":
		problems = append(problems, errors.New("option cert needs key, the file with its private key"))
	case f.cert == "":
		problems = append(problems, errors.New("option key needs cert, the file with its certificate"))
	default:
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			problems = append(problems, fmt.Errorf("options cert and key: %w", err))
		}
		c.certificate = &pair
	}
	return c, problems
}

func (c *credentials) readRoots(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no PEM certificate", file)
	}
	return nil
}
