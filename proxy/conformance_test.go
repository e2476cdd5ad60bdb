package proxy

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const conformance = "testdata/CONFORMANCE.md"

var (
	// A vector names its behaviours and its source in the two lines below its
	// first sentence, a Go test in its doc comment.
	vectorNames = regexp.MustCompile(`^.*\nBehaviour: (.*)\n(.*)\n`)
	testNames   = regexp.MustCompile(`(?m)^// Behaviour: ([a-z0-9, -]+)\.(.*)\n(?:// .*\n)*func (Test\w+)`)
	// A row of CONFORMANCE.md: slug, behaviour, source, tests.
	conformanceRow = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| (.*) \\| (.*) \\| (.*)\\|$")

	specification = regexp.MustCompile(`RFC \d+|XEP-\d{4}|XML 1\.0|PROXY protocol`)
)

// TestConformance holds CONFORMANCE.md together with the tests: each row has a
// source and tests, and each behaviour that a test names has a row. -update
// rewrites the column of tests.
func TestConformance(t *testing.T) {
	text, err := os.ReadFile(conformance)
	if err != nil {
		t.Fatal(err)
	}
	tests := testsByBehaviour(t)
	seen := map[string]bool{}
	page := conformanceRow.ReplaceAllStringFunc(string(text), func(row string) string {
		m := conformanceRow.FindStringSubmatch(row)
		slug, behaviour, source := m[1], m[2], m[3]
		switch {
		case seen[slug]:
			t.Errorf("%s has two rows for %s", conformance, slug)
		case behaviour == "" || !specification.MatchString(source):
			t.Errorf("%s: %s needs a behaviour and a source such as RFC 7395, section 3.4", conformance, slug)
		case tests[slug] == nil:
			t.Errorf("%s: no test names %s: add one, or remove the row", conformance, slug)
		}
		seen[slug] = true
		return fmt.Sprintf("| `%s` | %s | %s | %s |", slug, behaviour, source, listed(tests[slug]))
	})
	for slug, names := range tests {
		if !seen[slug] {
			t.Errorf("%s name the behaviour %q, for which %s has no row: use a slug from there, or add a row", names, slug, conformance)
		}
	}
	switch {
	case page == string(text):
	case *update:
		if err := os.WriteFile(conformance, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s does not list the tests as they are: go test ./proxy -run Conformance -update", conformance)
	}
}

// testsByBehaviour reads which tests name which behaviours, in the whole
// repository.
func testsByBehaviour(t *testing.T) map[string][]string {
	tests := map[string][]string{}
	add := func(slugs, test string) {
		for slug := range strings.SplitSeq(slugs, ",") {
			slug = strings.TrimSpace(slug)
			tests[slug] = append(tests[slug], test)
		}
	}
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		name := strings.TrimPrefix(filepath.ToSlash(file), "../")
		vector := path.Ext(name) == ".txtar" && !strings.HasPrefix(name, "cmd/")
		if !vector && !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if !vector {
			for _, m := range testNames.FindAllStringSubmatch(string(text), -1) {
				add(m[1], path.Dir(name)+" "+m[3])
			}
			return nil
		}
		m := vectorNames.FindStringSubmatch(string(text))
		if m == nil || !specification.MatchString(m[2]) {
			t.Errorf("%s: below the first sentence there must be a line such as\nBehaviour: restart-held\nwith slugs of %s, and one with the source, such as\nRFC 7395, section 3.7", name, conformance)
			return nil
		}
		_, short, _ := strings.Cut(strings.TrimSuffix(name, ".txtar"), "/testdata/")
		add(m[1], short)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

// listed renders names of tests, Go tests first, and not all of very many.
func listed(names []string) string {
	const most = 6
	slices.SortFunc(names, func(a, b string) int {
		goTest := func(s string) int { return strings.Index(s, " Test") }
		return cmp.Or(cmp.Compare(min(goTest(b), 0), min(goTest(a), 0)), cmp.Compare(a, b))
	})
	more := ""
	if n := len(names) - most; n > 1 {
		names, more = names[:most], fmt.Sprintf(" and %d more", n)
	}
	var all []string
	for _, name := range names {
		all = append(all, "`"+name+"`")
	}
	return strings.Join(all, ", ") + more
}

// pageBlock returns what stands in a page between <!-- name --> and <!-- /name -->, and a function that replaces it.
func pageBlock(t *testing.T, page, name string) (shown string, write func(string)) {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %s … %s", page, strings.TrimSpace(begin), end)
	}
	return shown, func(block string) {
		t.Helper()
		if err := os.WriteFile(page, []byte(before+begin+block+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
