package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"xmppgate/proxy"
	"xmppgate/proxy/filestamp"
)

// denyPoll is how often the deny list is looked at: by its file's status, because a file
// that a program replaces, or that Kubernetes swaps behind a link, tells no watcher.
const denyPoll = time.Second

// A denyFile is the file with the networks whose clients may not connect.
type denyFile struct {
	log   *slog.Logger
	deny  func(*proxy.DenyList)
	count func(ok bool)

	mu     sync.Mutex      // guards all below
	path   string          // of the list in force
	stamp  filestamp.Stamp // of what was read last, successfully or not
	failed string          // why it cannot be used; empty if it can
}

// run looks at the file that path returns until ctx is done.
func (d *denyFile) run(ctx context.Context, path func() string) {
	tick := time.NewTicker(denyPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.look(path())
		}
	}
}

// look puts the list at path into force if it is not yet. If it cannot be used the old one
// stays.
func (d *denyFile) look(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if path == "" {
		if d.path != "" {
			d.path, d.stamp, d.failed = "", filestamp.Stamp{}, ""
			d.deny(nil)
		}
		return
	}
	stamp := filestamp.Of(path)
	first := path != d.path
	changed := first || !stamp.Equal(d.stamp)
	if !changed && d.failed == "" { // permissions leave no stamp
		return
	}
	d.path, d.stamp = path, stamp
	list, err := readDenyList(path)
	if err == nil {
		d.failed = ""
		d.count(true)
		d.deny(list)
		if !first {
			d.log.Info("the deny list has changed and was read", "file", path, "networks", list.Len())
		}
		return
	}
	was := d.failed
	if d.failed = err.Error(); changed || d.failed != was {
		d.count(false)
		d.log.Warn("the deny list cannot be used; the old one stays in force", "file", path, "error", err)
	}
}

// readDenyList reads a deny list.
func readDenyList(path string) (*proxy.DenyList, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open another one may take for ever
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, proxy.MaxDenyListSize+1))
	if err != nil {
		return nil, err
	}
	return proxy.ParseDenyList(text)
}

// checkDenyFile reports a deny list that cannot be read.
func (c *config) checkDenyFile(r *report) {
	if c.DenyFile == "" {
		return
	}
	if _, err := readDenyList(c.DenyFile); err != nil {
		r.addError("DENY_FILE", fmt.Errorf("the deny list cannot be read: %w", err))
	}
}
