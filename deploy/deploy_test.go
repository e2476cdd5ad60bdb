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

// The arrows between the packages, in both senses: what a package may import of
// ours, and who may import what is not ours.
func TestImports(t *testing.T) {
	type listed struct {
		ImportPath string
		Standard   bool
		Imports    []string
		Deps       []string
	}
	// With a profile each package is listed once more, by another name.
	out, err := exec.Command("go", "list", "-pgo=off", "-deps", "-json=ImportPath,Standard,Imports,Deps", "xmppgate/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	within := func(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

	for path, p := range packages {
		if !within(path, "xmppgate") {
			continue
		}
		for _, dep := range p.Deps {
			switch {
			case within(path, "xmppgate/framing") && !packages[dep].Standard && !within(dep, "xmppgate/framing"):
				t.Errorf("%s depends on %s: framing is the standard library only", path, dep)
			case within(path, "xmppgate/proxy") && (within(dep, "xmppgate/metrics") || within(dep, "xmppgate/cmd")):
				t.Errorf("%s depends on %s: proxy tells an Observer", path, dep)
			case within(path, "xmppgate/metrics") && (within(dep, "xmppgate/proxy") || within(dep, "xmppgate/framing") || within(dep, "xmppgate/cmd")):
				t.Errorf("%s depends on %s: metrics knows no sessions", path, dep)
			}
		}
		for _, imported := range p.Imports {
			if within(imported, "github.com/prometheus/client_golang") && !within(path, "xmppgate/metrics") {
				t.Errorf("%s imports %s: only metrics knows Prometheus", path, imported)
			}
			if within(imported, "github.com/caarlos0/env/v11") && !within(path, "xmppgate/cmd") {
				t.Errorf("%s imports %s: only cmd reads the environment", path, imported)
			}
		}
	}
}

// A build with the tag nodemo, as in the image, contains nothing of the demo.
func TestImageHasNoDemo(t *testing.T) {
	for tags, want := range map[string]bool{"": true, "nodemo": false} {
		out, err := exec.Command("go", "list", "-deps", "-tags", tags, "xmppgate/cmd/xmppgate").Output()
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
			if slices.Contains([]string{"bench", "check", "e2e"}, path) {
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
	help, err := exec.Command("go", "run", "xmppgate/cmd/xmppgate", "--help").Output()
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
		"result": slices.Concat(proxy.DialResults(), proxy.UpgradeResults(), upstream.Results()),
		"phase":  slices.Concat(proxy.Phases(), upstream.Phases()),
	}
	for _, e := range proxy.Endings() {
		values["ending"] = append(values["ending"], e.Name)
	}

	metric := regexp.MustCompile(`(^|[^:\w])(xmppgate_\w+)`)
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	matcher := regexp.MustCompile(`\b(result|phase|ending)(=~|!~|!=|=)\\?"([^"\\]*)\\?"`)
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
