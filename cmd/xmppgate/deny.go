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
)

// denyPoll is how often the deny list is looked at: by its file's status, because a file
// that a program replaces, or that Kubernetes swaps behind a link, tells no watcher.
const denyPoll = time.Second

// A denyFile is the file with the networks whose clients may not connect.
type denyFile struct {
	log   *slog.Logger
	deny  func(*proxy.DenyList)
	count func(ok bool)

	mu   sync.Mutex // guards all below
	path string     // of the list in force
	read fileStatus // what was read last, successfully or not
}

// A fileStatus tells whether a file is another one than before.
type fileStatus struct {
	info os.FileInfo
	err  string
}

func statusOf(path string) (s fileStatus) {
	info, err := os.Stat(path)
	if err != nil {
		return fileStatus{err: err.Error()}
	}
	return fileStatus{info: info}
}

func (s fileStatus) same(other fileStatus) bool {
	if s.info == nil || other.info == nil {
		return s.info == nil && other.info == nil && s.err == other.err
	}
	return os.SameFile(s.info, other.info) && s.info.Size() == other.info.Size() && s.info.ModTime().Equal(other.info.ModTime())
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
			d.path, d.read = "", fileStatus{}
			d.deny(nil)
		}
		return
	}
	now := statusOf(path)
	if path == d.path && now.same(d.read) {
		return
	}
	first := path != d.path
	d.path, d.read = path, now
	list, err := readDenyList(path)
	d.count(err == nil)
	if err != nil {
		d.log.Warn("the deny list cannot be used; the old one stays in force", "file", path, "error", err)
		return
	}
	d.deny(list)
	if !first {
		d.log.Info("the deny list has changed and was read", "file", path, "networks", list.Len())
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
