package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"xmppgate/proxy"
)

// What is not a file could keep who reads it waiting for ever.
func TestDenyListIsAFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { writer.Close() }) // whoever reads it all the same goes on
	if _, err := readDenyList(fifo); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}

// Of a file that is too large no more is read than shows that.
func TestDenyListIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deny")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 4*proxy.MaxDenyListSize); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readDenyList(file)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 8*proxy.MaxDenyListSize { // for buffers that grow; all of it would take twice that
		t.Errorf("%d bytes are allocated for it", n)
	}
}
