package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	native = os.Getenv("E2E_NATIVE") != ""
	race   = os.Getenv("E2E_RACE") != ""

	goroutineLoop = os.Getenv("E2E_LOOP") == "goroutine"

	servers []*server

	clusterOnly bool // set by the tests in a cluster, which need no servers here
)

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" { // this process is a client that TestResumeAfterKill is going to kill
		victim()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if clusterOnly {
		return m.Run()
	}
	if err := prerequisites(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if err := writeUncached(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "xmppgate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if os.Getenv("E2E_KEEP") == "" {
		defer os.RemoveAll(dir)
	} else {
		fmt.Fprintln(os.Stderr, "e2e: files in", dir)
	}
	defer func() {
		for _, s := range servers {
			if s.gw != nil {
				s.gw.proc.kill()
			}
			s.proc.kill()
		}
	}()
	if err := startAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// uncached is a file that keeps go test from answering from its cache, which does not know that the gateway is an input:
// go test does not cache the result of tests that read a file this new.
const uncached = ".uncached"

func writeUncached() error {
	if err := os.WriteFile(uncached, nil, 0o644); err != nil {
		return err
	}
	future := time.Now().Add(100 * 365 * 24 * time.Hour)
	return os.Chtimes(uncached, future, future)
}

// prerequisites says in one line what is missing.
func prerequisites() error {
	var missing []string
	for _, program := range []string{"go", "prosody", "erl", "haproxy", "nginx", "caddy", "apache2", "stunnel4", "prometheus", "java", "javac", nodeJS(), "/usr/bin/chromium"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if _, err := os.Stat("/usr/lib/prosody/modules/mod_sasl2"); err != nil {
		missing = append(missing, "prosody-modules")
	}
	if _, err := os.Stat("/usr/lib/python3/dist-packages/nbxmpp"); err != nil {
		missing = append(missing, "python3-nbxmpp")
	}
	if jars, _ := filepath.Glob("clients/smack/lib/smack-websocket-java11-*.jar"); len(jars) == 0 {
		missing = append(missing, "Smack")
	}
	if erlangLibraries() == "" {
		missing = append(missing, "ejabberd")
	}
	for _, dir := range []string{"strophe.js", "strophe.js-1", "@xmpp/client", "stanza", "stanza-11", "converse.js", "playwright-core"} {
		if _, err := os.Stat(filepath.Join("clients/node_modules", dir)); err != nil {
			missing = append(missing, "npm package "+dir)
		}
	}
	if runtime.GOOS != "linux" {
		missing = append(missing, "Linux")
	}
	if len(missing) > 0 {
		return errors.New("missing: " + strings.Join(missing, ", ") + " (run deploy/e2e/setup.sh)")
	}
	return nil
}

// startAll builds the gateway while the servers start.
func startAll(dir string) error {
	var wg sync.WaitGroup
	var buildErr error
	if !native {
		if gatewayBinary = os.Getenv("E2E_GATEWAY"); gatewayBinary == "" {
			wg.Go(func() { gatewayBinary, buildErr = build(dir) })
		}
	}
	names := []string{"prosody", "ejabberd"}
	started, errs := make([]*server, len(names)), make([]error, len(names))
	for i, name := range names {
		wg.Go(func() { started[i], errs[i] = newServer(name, filepath.Join(dir, name)) })
	}
	wg.Wait()
	for _, s := range started {
		if s != nil && s.proc != nil {
			servers = append(servers, s)
		}
	}
	if err := errors.Join(append(errs, buildErr)...); err != nil || native {
		return err
	}
	for _, s := range servers {
		var err error
		if s.gw, err = startGateway("tcp://" + s.c2s); err != nil {
			return err
		}
	}
	return nil
}

func build(dir string) (binary string, err error) {
	binary = filepath.Join(dir, "xmppgate")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/xmppgate")...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, out)
	}
	return binary, nil
}

// eachServer runs f once for each server, as a subtest; what server and gateway logged meanwhile is shown on failure.
func eachServer(t *testing.T, f func(t *testing.T, s *server)) {
	t.Helper()
	if _, err := os.ReadFile(uncached); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			logged := map[*process]int{s.proc: s.proc.log.len()}
			if s.gw != nil {
				logged[s.gw.proc] = s.gw.proc.log.len()
			}
			t.Cleanup(func() {
				if !t.Failed() {
					return
				}
				for p, from := range logged {
					t.Logf("log of %s:\n%s", p.name, p.log.tail(from))
				}
			})
			f(t, s)
		})
	}
}
