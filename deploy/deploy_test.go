// Package deploy holds what runs the gateway elsewhere. Its tests compare these
// files with the program: they need Go and nothing else. Those that need the
// programs that read the files are in the module check.
package deploy

import (
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

// What each package may import of this module. The arrows lead downwards only: a
// package with a new one, and a new package, needs a change here.
var mayImport = map[string][]string{
	"cmd/xmppgate":                   {"cmd/xmppgate/internal/acme", "cmd/xmppgate/internal/demo", "cmd/xmppgate/internal/doctor", "cmd/xmppgate/internal/logqueue", "cmd/xmppgate/internal/status", "framing", "metrics", "proxy", "proxy/certfiles", "proxy/clientaddr", "proxy/filestamp", "proxy/upstream"},
	"cmd/xmppgate/internal/acme":     {},
	"cmd/xmppgate/internal/demo":     {"cmd/xmppgate/internal/logqueue", "proxy", "proxy/upstream"},
	"cmd/xmppgate/internal/doctor":   {"framing"},
	"cmd/xmppgate/internal/logqueue": {},
	"cmd/xmppgate/internal/status":   {"metrics/share", "proxy"},
	"deploy":                         {},
	"framing":                        {},
	"metrics/share":                  {},
	"metrics":                        {"metrics/share"},
	"proxy":                          {"framing", "proxy/clientaddr", "proxy/internal/limit", "proxy/internal/loop", "proxy/internal/loop/polltls", "proxy/internal/relay", "proxy/internal/session", "proxy/upstream"},
	"proxy/certfiles":                {"proxy/filestamp"},
	"proxy/clientaddr":               {},
	"proxy/filestamp":                {},
	"proxy/internal/deflate":         {},
	"proxy/internal/http1":           {},
	"proxy/internal/limit":           {},
	"proxy/internal/loop":            {"proxy/internal/loop/polltls", "proxy/internal/loop/socket", "proxy/internal/relay"},
	"proxy/internal/loop/polltls":    {"proxy/internal/loop/socket"},
	"proxy/internal/loop/socket":     {},
	"proxy/internal/model":           {}, // for tests, and written without the program
	"proxy/internal/relay":           {},
	"proxy/internal/session":         {"framing", "proxy/clientaddr", "proxy/internal/deflate", "proxy/internal/http1", "proxy/internal/limit", "proxy/internal/relay"},
	"proxy/internal/wstest":          {}, // for tests: no package may import it
	"proxy/upstream":                 {"framing", "proxy/filestamp", "proxy/internal/loop/polltls"},
}

// Who may import what is not ours, and what nobody else may.
var mayNotImport = []struct {
	packages string // a pattern of their paths
	imports  string // a pattern of what they may not import
	why      string
}{
	{`framing`, `.*\..*|time|os|net|syscall|net/.*|os/.*`, "framing is the standard library without I/O and clock"},
	{`proxy/internal/relay`, `[^t].*|t[^i].*`, "relay is the contract only, of which moments are a part"},
	{`proxy/internal/session`, `net|os|syscall|os/.*|golang\.org/x/sys/.*|crypto/tls`, "a session does no I/O"},
	{`proxy/internal/http1|proxy/clientaddr`, `net|os|syscall|time`, "it is pure"},
	{`proxy/internal/limit`, `net|os|os/.*|syscall`, "it does no I/O"},
	{`proxy/internal/loop(/.*)?`, `net/http|encoding/xml|github\.com/gobwas/.*`, "a loop knows no XMPP, HTTP or WebSocket"},
	{`(framing|proxy|cmd|deploy)(/.*)?`, `github\.com/prometheus/.*`, "only metrics knows Prometheus"},
	{`(framing|proxy|metrics|deploy)(/.*)?`, `github\.com/(caarlos0|joho)/.*`, "only cmd reads the environment"},
	{`(framing|proxy|metrics|deploy)(/.*)?|cmd/xmppgate|cmd/xmppgate/internal/(demo|logqueue)`, `github\.com/xdg-go/.*`, "only doctor logs in"},
}

var environment = regexp.MustCompile(`\b(os|syscall)\.(Getenv|LookupEnv|Environ|ExpandEnv|Exit)\(`)

// The arrows between the packages.
func TestImports(t *testing.T) {
	for _, system := range []string{"linux", "windows"} {
		t.Run(system, func(t *testing.T) { testImports(t, system) })
	}
}

func testImports(t *testing.T, system string) {
	list := exec.Command("go", "list", "-json=ImportPath,Imports,Dir,GoFiles,Module", "../...")
	list.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Dir  string
			Imports, GoFiles []string
			Module           struct{ Path string }
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(p.ImportPath, p.Module.Path+"/")
		found[path] = true
		allowed, ok := mayImport[path]
		if !ok {
			t.Errorf("%s has no row in mayImport", path)
		}
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, p.Module.Path+"/"); ok {
				if !slices.Contains(allowed, ours) {
					t.Errorf("%s must not import %s", path, ours)
				}
				continue
			}
			for _, rule := range mayNotImport {
				if regexp.MustCompile(`^(`+rule.packages+`)$`).MatchString(path) && regexp.MustCompile(`^(`+rule.imports+`)$`).MatchString(imported) {
					t.Errorf("%s must not import %s: %s", path, imported, rule.why)
				}
			}
		}
		if strings.HasPrefix(path, "cmd/") {
			continue
		}
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if call := environment.Find(text); call != nil {
				t.Errorf("%s/%s calls %s): only cmd reads the environment and ends the process", path, name, call)
			}
		}
	}
	for path := range mayImport {
		if !found[path] {
			t.Errorf("mayImport has a row for %s, which does not exist", path)
		}
	}
}

// CONTRIBUTING names files and directories that exist.
func TestContributing(t *testing.T) {
	text, err := os.ReadFile("../.github/CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile("`((?:cmd|proxy|framing|metrics|deploy|docs)/[\\w./-]+)`").FindAllStringSubmatch(string(text), -1)
	if len(paths) < 10 {
		t.Errorf("found only %q: the test looks for the wrong thing", paths)
	}
	for _, m := range paths {
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Errorf("CONTRIBUTING.md: %v", err)
		}
	}
}

// A build with the tag nodemo, as in the image, contains nothing of the demo.
func TestImageHasNoDemo(t *testing.T) {
	for tags, want := range map[string]bool{"": true, "nodemo": false} {
		out, err := exec.Command("go", "list", "-deps", "-tags", tags, "../cmd/xmppgate").Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), "xmppgate/internal/demo"); got != want {
			t.Errorf("tags %q: demo %v, want %v", tags, got, want)
		}
	}
	if text, err := os.ReadFile("../Dockerfile"); err != nil || !strings.Contains(string(text), "ARG TAGS=nodemo") {
		t.Errorf("the image is built with other tags: %v", err)
	}
}

// files returns the text of the files below deploy that configure something.
func files(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{"bench", "check", "e2e", "release"}, path) {
				return filepath.SkipDir // modules of their own
			}
			return nil
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(found, func(path, _ string) bool { return strings.HasSuffix(path, "_test.go") })
	return found
}

func TestVariablesExist(t *testing.T) {
	help, err := exec.Command("go", "run", "../cmd/xmppgate", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := regexp.MustCompile(`\bXMPPGATE_\w+`)
	names := known.FindAllString(string(help), -1)
	used := 0
	for path, text := range files(t) {
		for _, name := range known.FindAllString(text, -1) {
			used++
			if !slices.Contains(names, name) {
				t.Errorf("%s: no variable is called %s", path, name)
			}
		}
	}
	if used == 0 {
		t.Error("no variable found: the test looks in the wrong place")
	}
}

// Rules and dashboard ask only for metrics and label values that exist.
func TestMetricsExist(t *testing.T) {
	exposition, err := filepath.Glob("../metrics/*.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, path := range exposition {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(xmppgate_\w+)"`).FindAllStringSubmatch(string(source), -1) {
			known[m[1]] = true
		}
	}
	values := map[string][]string{
		"result":    slices.Concat(proxy.DialResults(), proxy.UpgradeResults(), upstream.Results(), proxy.LoginResults(), proxy.ResumeResults(), proxy.HandshakeResults()),
		"mechanism": proxy.Mechanisms(),
		"side":      slices.Concat(proxy.Sides(), proxy.ErrorSides()),
		"condition": proxy.StreamErrors(),
		"phase":     slices.Concat(proxy.Phases(), upstream.Phases()),
	}
	for _, e := range proxy.Endings() {
		values["ending"] = append(values["ending"], e.Name)
	}

	metric := regexp.MustCompile(`(^|[^:\w])(xmppgate_\w+)`)
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	matcher := regexp.MustCompile(`\b(result|phase|ending|mechanism|side|condition)(=~|!~|!=|=)\\?"([^"\\]*)\\?"`)
	used := 0
	for path, text := range files(t) {
		if !strings.HasPrefix(path, "prometheus/rules") && !strings.HasPrefix(path, "grafana/") {
			continue
		}
		for _, m := range metric.FindAllStringSubmatch(text, -1) {
			used++
			if !known[m[2]] && !known[suffix.ReplaceAllString(m[2], "")] {
				t.Errorf("%s: no metric is called %s", path, m[2])
			}
		}
		for _, m := range matcher.FindAllStringSubmatch(text, -1) {
			for _, value := range alternatives(m[3]) {
				if !slices.Contains(values[m[1]], value) {
					t.Errorf("%s: %s is never %q", path, m[1], value)
				}
			}
		}
	}
	if used == 0 {
		t.Error("no metric found: the test looks in the wrong place")
	}
}

// The workflows call targets that the Makefile has, and nothing else tests there.
func TestWorkflows(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	workflows, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^ *- run: make (.+)$`)
	matrix := regexp.MustCompile(`(?m)^ *target: \[(.*)\]$`)
	called := 0
	for _, path := range workflows {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var targets []string
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "${{ matrix.target }}" {
				targets = append(targets, strings.Fields(m[1])...)
			}
		}
		for _, m := range matrix.FindAllStringSubmatch(string(text), -1) {
			for target := range strings.SplitSeq(m[1], ",") {
				targets = append(targets, strings.Trim(target, ` "`))
			}
		}
		for _, target := range targets {
			called++
			if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
				t.Errorf("%s calls make %s, which the Makefile does not have", path, target)
			}
		}
	}
	if called == 0 {
		t.Error("no target found: the test looks in the wrong place")
	}
}

// alternatives expands "a|b" and "x-(a|b)", all that the rules need of regular
// expressions.
func alternatives(pattern string) (all []string) {
	prefix, group, ok := strings.Cut(pattern, "(")
	if !ok {
		return strings.Split(pattern, "|")
	}
	for _, option := range strings.Split(strings.TrimSuffix(group, ")"), "|") {
		all = append(all, prefix+option)
	}
	return all
}
