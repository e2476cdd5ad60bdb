//go:build unix

package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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
		{
			name: "dead upstream", args: []string{"--upstream", "tcp://127.0.0.1:1"}, status: exitFailed,
			says: []string{"no XMPP server answers at tcp://127.0.0.1:1", "Is it running", "connection refused"},
		},
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

// Ctrl-C before the server is up must also end whatever the server started.
func TestDemoInterruptedWhileStarting(t *testing.T) {
	bin := sandbox(t, map[string]string{"prosody": `/bin/sleep 1000 & echo $! >"$PIDFILE"; wait`})
	pidfile := filepath.Join(bin, "pid")
	t.Setenv("PIDFILE", pidfile)
	prosodyStart = time.Minute

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	status := make(chan int)
	var stderr bytes.Buffer
	go func() { status <- Run(ctx, nil, io.Discard, &stderr) }()
	child := awaitPID(t, pidfile)
	cancel()
	if got := <-status; got != exitOK {
		t.Errorf("status %d: %s", got, &stderr)
	}
	awaitDead(t, child)
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
	server := listenXMPP(t)
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
		status <- Run(ctx, []string{"--upstream", "tcp://" + server, "--domain", "example.org"}, &stdout, io.Discard)
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

// listenXMPP starts a server that opens each stream and does nothing more.
func listenXMPP(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1' version='1.0'><stream:features/>")
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// A demo that is killed cannot end its server. Its guard does, and removes the
// directory, which the sandbox checks.
func TestDemoKilled(t *testing.T) {
	if os.Getenv("DEMO_TO_KILL") != "" {
		prosodyStart = time.Minute
		os.Exit(Run(t.Context(), nil, io.Discard, os.Stderr))
	}
	bin := sandbox(t, map[string]string{"prosody": `/bin/sleep 1000 & echo $! >"$PIDFILE"; wait`})
	pidfile := filepath.Join(bin, "pid")
	t.Setenv("PIDFILE", pidfile)
	t.Setenv("DEMO_TO_KILL", "1")
	demo := exec.Command(os.Args[0], "-test.run=^TestDemoKilled$")
	demo.Stderr = os.Stderr
	ownGroup(demo)
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	child := awaitPID(t, pidfile)
	killGroup(demo) // a shell that closes, or timeout -s KILL
	demo.Wait()
	awaitDead(t, child)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		left, err := os.ReadDir(os.Getenv("TMPDIR"))
		if err != nil || len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still there: %v", left)
		}
	}
}

func awaitPID(t *testing.T, pidfile string) int {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if line, err := os.ReadFile(pidfile); err == nil && bytes.HasSuffix(line, []byte("\n")) {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("the server did not start")
	return 0
}

// awaitDead returns when a process is gone. Killed, it may wait for its new
// parent for a moment.
func awaitDead(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(pid, 0) == nil && !zombie(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d is still there", pid)
		}
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
		"/scram.js": "text/javascript", "/words.js": "text/javascript", "/style.css": "text/css", "/icon.svg": "image/svg+xml",
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
