//go:build unix

package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sandbox makes the surroundings of a demo: a PATH that holds only the given
// shell scripts, and a temporary directory that must be empty afterwards.
func sandbox(t *testing.T, scripts map[string]string) (bin string) {
	t.Helper()
	bin, temp := t.TempDir(), t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	t.Setenv("TMPDIR", temp)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir()) // where macOS keeps caches
	t.Cleanup(func() {
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	start, stop := prosodyStart, prosodyStop
	t.Cleanup(func() { prosodyStart, prosodyStop = start, stop })
	prosodyStart, prosodyStop = 300*time.Millisecond, 100*time.Millisecond
	return bin
}

func TestDemoFailures(t *testing.T) {
	for _, test := range []struct {
		name    string
		scripts map[string]string
		args    []string
		status  int
		says    []string
	}{
		{
			name: "no server anywhere", status: exitUsage,
			says: []string{"apt-get install prosody", "docker compose -f deploy/compose.yaml up", "--upstream tcp://host:port"},
		},
		{
			name: "prosody exits", status: exitFailed,
			scripts: map[string]string{"prosody": "echo no such module; exit 1"},
			says:    []string{"ended at once", "no such module"},
		},
		{
			name: "prosody hangs half alive", status: exitFailed,
			scripts: map[string]string{"prosody": "trap '' TERM; echo Shutting down; while :; do /bin/sleep 1; done"},
			says:    []string{"did not open its port in 300ms", "Shutting down"},
		},
		{
			name: "apt has no lists", status: exitUsage,
			scripts: map[string]string{
				"apt-get":  "echo 'E: Unable to locate package prosody' >&2; exit 100",
				"dpkg-deb": "exit 1",
			},
			says: []string{`run "apt-get update"`, "apt-get install prosody"},
		},
		{
			name: "apt has no network", status: exitUsage,
			scripts: map[string]string{
				"apt-get": `case $1 in install) echo "'http://x/prosody_1_all.deb' prosody_1_all.deb 1 X";;
					*) echo 'E: Failed to fetch' >&2; exit 100;; esac`,
				"dpkg-deb": "exit 1",
			},
			says: []string{"E: Failed to fetch", "apt-get install prosody"},
		},
		{name: "unknown flag", args: []string{"--nonsense"}, status: exitUsage, says: []string{"nonsense", "Usage: xmppgate demo"}},
		{name: "argument", args: []string{"now"}, status: exitUsage, says: []string{`"now"`}},
		{name: "bad upstream", args: []string{"--upstream", "example.org"}, status: exitFailed, says: []string{"example.org"}},
		{name: "bad gateway", args: []string{"--gateway", "https://example.org/"}, status: exitFailed, says: []string{"ws://"}},
		{name: "no definite host", args: []string{"--upstream", "tcp://127.0.0.1:1", "--listen", ":0"}, status: exitFailed, says: []string{"name one host"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			sandbox(t, test.scripts)
			var stdout, stderr bytes.Buffer
			if got := Run(t.Context(), test.args, &stdout, &stderr); got != test.status {
				t.Errorf("status %d, want %d", got, test.status)
			}
			for _, want := range test.says {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("does not say %q:\n%s", want, &stderr)
				}
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: %s", &stdout)
			}
		})
	}
}

// Ctrl-C before the server is up must end whatever the server started, too.
func TestDemoInterruptedWhileStarting(t *testing.T) {
	bin := sandbox(t, map[string]string{"prosody": `/bin/sleep 1000 & echo $! >"$PIDFILE"; wait`})
	pidfile := filepath.Join(bin, "pid")
	t.Setenv("PIDFILE", pidfile)
	prosodyStart = time.Minute

	ctx, cancel := context.WithCancel(t.Context())
	var child int
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if pid, err := os.ReadFile(pidfile); err == nil && bytes.HasSuffix(pid, []byte("\n")) {
				child, _ = strconv.Atoi(string(bytes.TrimSpace(pid)))
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	var stderr bytes.Buffer
	if got := Run(ctx, nil, io.Discard, &stderr); got != exitOK {
		t.Errorf("status %d: %s", got, &stderr)
	}
	if child == 0 {
		t.Fatal("the child did not start")
	}
	// Killed, it may wait for its new parent for a moment.
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(child, 0) == nil && !zombie(child); {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", child)
		}
		time.Sleep(time.Millisecond)
	}
}

// zombie tells whether a process is dead but not yet collected, as children of
// the dead are for ever in containers without an init.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && regexp.MustCompile(`\) Z `).Match(stat)
}

// With a server of the user's nothing is started but gateway and page, and a
// port that is taken does no harm.
func TestDemoUpstream(t *testing.T) {
	sandbox(t, nil)
	taken, err := listenNear("127.0.0.1:8280")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout lockedBuffer
	status := make(chan int)
	go func() {
		status <- Run(ctx, []string{"--upstream", "tcp://127.0.0.1:1", "--domain", "example.org"}, &stdout, io.Discard)
	}()
	stdout.await(t, "Ctrl-C")
	link := regexp.MustCompile(`http://\S+`).FindString(stdout.String())
	if !strings.HasSuffix(link, "/?jid=alice@example.org&to=bob@example.org") || strings.Contains(link, taken.Addr().String()) {
		t.Errorf("link %q", link)
	}
	response, err := http.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	page, _ := io.ReadAll(response.Body)
	if !bytes.Contains(page, []byte(`value="bob@example.org"`)) || bytes.Contains(page, []byte(`value="secret"`)) {
		t.Errorf("page:\n%s", page)
	}
	cancel()
	if got := <-status; got != exitOK {
		t.Errorf("status %d", got)
	}
}

// The policy lets the page reach the gateway and nothing else; the page has no
// inline script or style that would need an exception.
func TestDemoPage(t *testing.T) {
	handler, err := chatPage{Endpoint: "ws://127.0.0.1:5290/xmpp-websocket", Domain: `"><script>`, Password: "secret"}.handler()
	if err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{
		"/": "text/html", "/app.js": "text/javascript", "/xmpp.js": "text/javascript", "/xml.js": "text/javascript",
		"/scram.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml",
	} {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequest("GET", path, nil))
		if got := response.Header().Get("Content-Type"); response.Code != 200 || !strings.HasPrefix(got, kind) {
			t.Errorf("%s: %d, %s", path, response.Code, got)
		}
		policy := response.Header().Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "connect-src ws://127.0.0.1:5290;") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", path, policy)
		}
		if path == "/" && regexp.MustCompile(`<style|style=|\son\w+=|<script>`).Match(response.Body.Bytes()) {
			t.Errorf("inline code, or a domain that was not escaped:\n%s", response.Body)
		}
	}
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, httptest.NewRequest("GET", "/no-such-file", nil))
	if response.Code != 404 {
		t.Errorf("/no-such-file: %d", response.Code)
	}
}

// A lockedBuffer is written by the demo while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not print %q:\n%s", text, b)
		}
	}
}
