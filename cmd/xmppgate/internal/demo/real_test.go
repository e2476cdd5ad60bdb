//go:build e2e && linux

package demo

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// runRealDemo starts a demo and returns its two links; at the end of the test
// the demo must go without a trace.
func runRealDemo(t *testing.T, args ...string) (links []string) {
	t.Helper()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr lockedBuffer
	status := make(chan int, 1)
	go func() { status <- Run(ctx, args, &stdout, &stderr) }()
	t.Cleanup(func() {
		cancel()
		if got := <-status; got != exitOK {
			t.Errorf("status %d: %s", got, &stderr)
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	stdout.await(t, "Ctrl-C")
	t.Logf("%s%s", &stdout, &stderr)
	return regexp.MustCompile(`http://\S+`).FindAllString(stdout.String(), 2)
}

// Two people chat in a browser, by way of the gateway and a real Prosody.
// "go test -tags e2e -run DemoChat -artifacts" keeps the screenshots.
func TestDemoChat(t *testing.T) {
	if _, err := exec.LookPath("prosody"); err != nil {
		t.Fatal("needs prosody: run deploy/e2e/setup.sh")
	}
	clients, err := filepath.Abs("../../../../deploy/e2e/clients")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(clients, "node_modules/playwright-core")); err != nil {
		t.Fatalf("%v: run deploy/e2e/setup.sh", err)
	}
	node := filepath.Join(clients, "node/bin/node") // where setup.sh puts it if the installed one is too old
	if _, err := os.Stat(node); err != nil {
		node = "node"
	}
	links := runRealDemo(t)
	away := runRealDemo(t, "--gateway", "ws://127.0.0.1:1/")
	driver := exec.CommandContext(t.Context(), node, "testdata/browser.cjs", links[0], links[1], away[0], t.ArtifactDir())
	driver.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(clients, "node_modules"))
	out, err := driver.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// Without an installed Prosody the demo unpacks Debian's packages. Here they
// may well be installed, so PATH and apt are told otherwise.
func TestDemoDownload(t *testing.T) {
	hidden := regexp.MustCompile(`^(prosody.*|lua5\.4|lua-.*)$`)
	bin := t.TempDir()
	programs, err := filepath.Glob("/usr/bin/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		if name := filepath.Base(program); !hidden.MatchString(name) {
			if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	status, err := os.ReadFile("/var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for entry := range strings.SplitSeq(string(status), "\n\n") {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(entry), "Package: "), "\n")
		if !hidden.MatchString(name) {
			kept = append(kept, entry)
		}
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	installed := write("status", strings.Join(kept, "\n\n"))
	t.Setenv("APT_CONFIG", write("apt.conf", `Dir::State::status "`+installed+`";`))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", bin)

	runRealDemo(t)
	if _, err := os.Stat(filepath.Join(os.Getenv("XDG_CACHE_HOME"), "xmppgate/prosody/usr/bin/prosody")); err != nil {
		t.Error(err)
	}
}

// Ctrl-C in the terminal of "make demo" is not an error of make.
func TestDemoMake(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	for _, name := range []string{"MAKEFLAGS", "MAKELEVEL", "MFLAGS"} { // those of "make test" must not leak into it
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	var stdout lockedBuffer
	terminal := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command", "make -C ../../../.. demo", "/dev/null")
	terminal.Stdout = &stdout
	keys, err := terminal.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := terminal.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.await(t, "Ctrl-C stops")
	io.WriteString(keys, "\x03")
	err = terminal.Wait()
	if err != nil || strings.Contains(stdout.String(), "***") {
		t.Errorf("%v\n%s", err, &stdout)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
