package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// copied is a copy of the files of the repository that git knows or would add.
func copied(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	run(t, "../../..", `git ls-files -z --cached --others --exclude-standard --deduplicate | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
		tar -c --null --files-from=- | tar -x -C "$1"`, root)
	return root
}

// run runs a script, which must succeed, and returns what it prints.
func run(t *testing.T, dir, script string, args ...string) string {
	t.Helper()
	c := exec.Command("bash", append([]string{"-ec", script, "bash"}, args...)...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// A renamed copy builds, and renaming it back gives what there was.
func TestRename(t *testing.T) {
	root := copied(t)
	before := copied(t)
	const to = "git.example.org/chat/Gateway"
	if err := rename(root, to); err != nil {
		t.Fatal(err)
	}
	run(t, root, `go build ./... && go vet ./... && go mod tidy -diff`)
	if out := run(t, root, `gofmt -s -l .`); out != "" {
		t.Errorf("gofmt: %s", out)
	}
	if got := run(t, root, `grep -rnE '^module xmppgate|pkg: xmppgate/|replace xmppgate' --include=go.mod --include=.golangci.yml . || true`); got != "" {
		t.Errorf("the old path is still in\n%s", got)
	}
	for _, page := range []string{"README.md", "docs/install.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil || !strings.Contains(string(text), "go install "+to+"/cmd/xmppgate@latest") {
			t.Errorf("%s does not say how to install it: %v", page, err)
		}
	}
	run(t, root+"/deploy", `for m in bench check e2e release; do (cd $m && go vet ./... && go mod tidy -diff); done`)

	if err := rename(root, unpublished); err != nil {
		t.Fatal(err)
	}
	run(t, ".", `diff -r "$1" "$2"`, before, root)
}

// A path that cannot be is refused, and nothing changes.
func TestRefused(t *testing.T) {
	root := t.TempDir()
	const mod = "module xmppgate\n\nrequire example.org/other/lib v1.0.0\n"
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", mod)
	write("a.go", "package a\n\nimport _ \"xmppgate/b\"\n")
	for to, why := range map[string]string{
		"":                         "make rename MODULE=",
		"gateway":                  "missing dot",
		"example.org/gateway/v2":   "ends with /v2",
		"example.org/gateway/v1":   "malformed module path",
		"gopkg.in/gateway.v3":      "ends with .v3",
		"https://example.org/gate": "is a URL",
		"example.org/gate/":        "trailing slash",
		"example.org//gate":        "double slash",
		"example.org/ga te":        "invalid char",
		"example.org/gäte":         "invalid char",
		"-example.org/gate":        "leading dash",
		"../gate":                  "malformed module path",
		"/gate":                    "malformed module path",
		"example.org/gate@v1":      "invalid char",
		"example.org/other/lib":    "another module",
		"example.org/other":        "another module",
	} {
		if err := rename(root, to); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", to, err, why)
		}
	}
	// A file that cannot be parsed keeps the others from being changed.
	write("b.go", "package\n")
	if err := rename(root, "example.org/gate"); err == nil {
		t.Error("a broken file was overlooked")
	}
	for name, want := range map[string]string{"go.mod": mod, "a.go": "package a\n\nimport _ \"xmppgate/b\"\n"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
}

// Only what is an import is changed in a Go file.
func TestImports(t *testing.T) {
	const before = `package a // xmppgate/proxy

import (
	"fmt"

	"example.org/lib"
	"xmppgate"
	p "xmppgate/proxy"
	"xmppgate.example.org/proxy"
	"xmppgates/proxy"
)

const name = "xmppgate/proxy" // a user agent
`
	const after = `package a // xmppgate/proxy

import (
	"fmt"

	"a.example.org/x"
	p "a.example.org/x/proxy"
	"example.org/lib"
	"xmppgate.example.org/proxy"
	"xmppgates/proxy"
)

const name = "xmppgate/proxy" // a user agent
`
	got, err := renaming{"xmppgate", "a.example.org/x"}.imports([]byte(before))
	if err != nil || string(got) != after {
		t.Errorf("%v\n%s\nwant\n%s", err, got, after)
	}
}
