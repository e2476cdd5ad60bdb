// Package check tests the files of deploy with the programs that will read
// them, or with the parsers of those programs. It is a module of its own: the
// gateway does not depend on Kubernetes.
package check

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// xmppgate is the path of the binary under test.
var xmppgate string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "xmppgate-check-")
	if err != nil {
		panic(err)
	}
	xmppgate = filepath.Join(dir, "xmppgate")
	build := exec.Command("go", "build", "-o", xmppgate, "./cmd/xmppgate")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// run runs a command that has to succeed; a missing one is a failure, not a
// skip: deploy/test.sh installs them.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
}

// checkConfig asks the binary whether it would start with these variables.
func checkConfig(t *testing.T, environ map[string]string) (printed string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), xmppgate, "check-config")
	cmd.Env = []string{}
	runtime := t.TempDir() // what RuntimeDirectory=xmppgate makes
	paths := strings.NewReplacer("/run/xmppgate/", runtime+"/", "/etc/xmppgate/", configDirectory(t, environ)+"/")
	for name, value := range environ {
		cmd.Env = append(cmd.Env, name+"="+paths.Replace(value))
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("check-config with %v: %v\n%s", environ, err, out)
	}
	return string(out)
}

// configDirectory stands for /etc/xmppgate. It has the certificate and the key that environ
// names there.
func configDirectory(t *testing.T, environ map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	cert, ok := strings.CutPrefix(environ["XMPPGATE_TLS_CERT"], "/etc/xmppgate/")
	if !ok {
		return dir
	}
	key := strings.TrimPrefix(environ["XMPPGATE_TLS_KEY"], "/etc/xmppgate/")
	run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=chat.example.org",
		"-keyout", filepath.Join(dir, key), "-out", filepath.Join(dir, cert))
	return dir
}

// drainTime returns the longest time from SIGTERM to the end.
func drainTime(t *testing.T, environ map[string]string) (sum time.Duration) {
	t.Helper()
	printed := checkConfig(t, environ)
	for _, name := range []string{"XMPPGATE_DRAIN_DELAY", "XMPPGATE_DRAIN_TIMEOUT"} {
		value := regexp.MustCompile(`(?m)^` + name + ` +(\S+)$`).FindStringSubmatch(printed)
		if value == nil {
			t.Fatalf("no %s in %s", name, printed)
		}
		d, err := time.ParseDuration(value[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += d
	}
	return sum
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
