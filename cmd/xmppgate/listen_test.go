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
	if _, err := listenAll("LISTEN", parseAll(t, "unix:"+socket, taken.Addr().String()), nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the first listener is still there")
	}
}

func TestAddresses(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listeners, err := listenAll("LISTEN", parseAll(t, "unix:"+socket, "127.0.0.1:0"), nil)
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
		again, err := listen(parseAll(t, "unix:"+path)[0])
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
	t.Run("alive", func(t *testing.T) {
		l, err := listen(parseAll(t, "unix:"+path)[0])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := listen(parseAll(t, "unix:"+path)[0]); !errors.Is(err, syscall.EADDRINUSE) {
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
		if _, err := listen(parseAll(t, "unix:"+path)[0]); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("error %v", err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	})
}

// parseAll parses addresses that are valid.
func parseAll(t *testing.T, addresses ...string) (all []listenAddress) {
	t.Helper()
	for _, s := range addresses {
		a, err := parseListen(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// Whoever has the port is named, and what to set.
func TestPortIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = listenAll("ADMIN_LISTEN", parseAll(t, taken.Addr().String()), nil)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.HasSuffix(err.Error(), ": set XMPPGATE_ADMIN_LISTEN to another port") {
		t.Errorf("%v", err)
	}
	for address, want := range map[string]string{
		":5280":          "port 5280 usually belongs to ejabberd, or the HTTP modules of Prosody; set XMPPGATE_LISTEN to another one",
		"127.0.0.1:5222": "the XMPP server, for its clients;",
		"[::1]:9280":     "another xmppgate;",
	} {
		if err := explain(syscall.EADDRINUSE, "LISTEN", parseAll(t, address)[0]); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := listenAll("LISTEN", parseAll(t, "192.0.2.1:0"), nil); err == nil || !strings.Contains(err.Error(), "this machine has no such address; set XMPPGATE_LISTEN") {
		t.Errorf("%v", err)
	}
	if _, err := listenAll("LISTEN", parseAll(t, "unix:"+t.TempDir()+"/none/s"), nil); err == nil || !strings.Contains(err.Error(), "make the directory, or set XMPPGATE_LISTEN") {
		t.Errorf("%v", err)
	}
}
