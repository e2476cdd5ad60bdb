package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestListenAllOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	socket := filepath.Join(t.TempDir(), "s")
	if _, err := listenAll([]string{"unix:" + socket, taken.Addr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the first listener is still there")
	}
}

func TestAddresses(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listeners, err := listenAll([]string{"unix:" + socket, "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(listeners)
	got := addresses(listeners)
	if !strings.HasPrefix(got, "unix:"+socket+",127.0.0.1:") || strings.HasSuffix(got, ":0") {
		t.Error(got)
	}
}

func TestUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")

	t.Run("stale", func(t *testing.T) {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as after SIGKILL
		l.Close()
		again, err := listen("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
	t.Run("alive", func(t *testing.T) {
		l, err := listen("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := listen("unix:" + path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("error %v", err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("file", func(t *testing.T) {
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("error %v", err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
}
