package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy"
)

// A list that could not be used is read again although its file looks the same: who may
// read it leaves no trace there. The same fault is told once.
func TestDenyListIsTriedAgain(t *testing.T) {
	file, moment := filepath.Join(t.TempDir(), "deny"), time.Now().Add(-time.Hour)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, moment, moment); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	var reads, lists int
	d := &denyFile{log: slog.New(slog.NewTextHandler(&log, nil)), deny: func(*proxy.DenyList) { lists++ }, count: func(bool) { reads++ }}
	look := func(text string, wantReads, wantLists int) {
		t.Helper()
		write(text)
		d.look(file)
		if d.look(file); reads != wantReads || lists != wantLists {
			t.Errorf("%q: %d reads and %d lists, want %d and %d\n%s", text, reads, lists, wantReads, wantLists, &log)
		}
	}
	look("198.51.100.2", 1, 1)
	moment = moment.Add(time.Second)
	look("whoever that", 2, 1)
	look("192.0.2.1/33", 3, 1) // another fault
	look("192.0.2.1/32", 4, 2)
	look("192.0.2.2/32", 4, 2) // nothing tells that it has changed
	if n := strings.Count(log.String(), "cannot be used"); n != 2 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
}
