package deploy

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var tryMutants = flag.Bool("mutants", false, "try the mutants, for about a quarter of an hour")

// A mutant is the program without one of its protections, see mutants.txt.
type mutant struct {
	name, file string
	old, new   []string // lines
	test       string   // arguments of go test, separated by spaces
}

func readMutants(t *testing.T) (all []*mutant) {
	t.Helper()
	text, err := os.ReadFile("mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	m := new(mutant)
	for i, line := range strings.Split(string(text), "\n") {
		mark, rest, _ := strings.Cut(line, " ")
		switch mark {
		case "", "#", "#\t=", "#\tfile", "#\t-", "#\t+", "#\ttest":
		case "=":
			m = &mutant{name: rest}
			all = append(all, m)
		case "file":
			m.file = rest
		case "-":
			m.old = append(m.old, rest)
		case "+":
			m.new = append(m.new, rest)
		case "test":
			m.test = rest
		default:
			t.Fatalf("mutants.txt, line %d: %q", i+1, line)
		}
	}
	return all
}

// mutate returns the text of the file without the protection.
func (m *mutant) mutate(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", m.file))
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Join(m.old, "\n")
	if n := strings.Count(string(text), old); n != 1 {
		t.Fatalf("%s has this %d times: write it into mutants.txt as it is now, and once only:\n%s", m.file, n, old)
	}
	return strings.Replace(string(text), old, strings.Join(m.new, "\n"), 1)
}

// run runs the tests of m, with more arguments of go test in front.
func (m *mutant) run(t *testing.T, arguments ...string) (passed bool, out string) {
	t.Helper()
	arguments = append(append([]string{"test", "-timeout=2m", "-short"}, arguments...), strings.Fields(m.test)...)
	c := exec.Command("go", arguments...)
	c.Dir = ".."
	text, err := c.CombinedOutput()
	return err == nil, string(text)
}

// Every protection has a test that fails without it. Without -mutants only the list is
// checked: that each change of it still fits.
func TestMutants(t *testing.T) {
	known := map[string]bool{} // arguments of tests that pass as things are
	for _, m := range readMutants(t) {
		t.Run(m.name, func(t *testing.T) {
			text := m.mutate(t)
			if len(m.new) == 0 || m.test == "" {
				t.Fatal("new text or test is missing")
			}
			if !*tryMutants {
				return
			}
			if !known[m.test] {
				if passed, out := m.run(t); !passed || strings.Contains(out, "[no tests to run]") {
					t.Fatalf("go test %s, as things are:\n%s", m.test, out)
				}
				known[m.test] = true
			}
			dir := t.TempDir()
			changed := filepath.Join(dir, "changed.go")
			original, err := filepath.Abs(filepath.Join("..", m.file))
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
			if err != nil {
				t.Fatal(err)
			}
			for file, content := range map[string][]byte{changed: []byte(text), filepath.Join(dir, "overlay.json"): overlay} {
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			passed, out := m.run(t, "-overlay="+filepath.Join(dir, "overlay.json"), "-vet=off", "-failfast")
			switch {
			case strings.Contains(out, "[build failed]"), strings.Contains(out, "[setup failed]"):
				t.Fatalf("it does not compile:\n%s", out)
			case passed:
				t.Errorf("it survives: go test %s\n%s", m.test, out)
			}
		})
	}
}
