package proxy

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// promised are the behaviours that must have a test of their own, by the
// numbers that tests cite: 1 to 16 upgrade, 17 to 36 open and restart, 37 to 55
// close, 56 to 70 namespaces, 71 to 82 features, 83 to 100 XML, 101 to 110
// WebSocket, 111 to 117 the server's side, S1 to S24 ways to smuggle.
func promised() (cases []string) {
	for _, r := range [][2]int{{1, 15}, {17, 107}, {109, 117}} {
		for i := r[0]; i <= r[1]; i++ {
			cases = append(cases, strconv.Itoa(i))
		}
	}
	for i := 1; i <= 24; i++ {
		cases = append(cases, fmt.Sprintf("S%d", i))
	}
	return cases
}

var (
	// A vector cites its cases and its source in the two lines below its
	// first sentence, a Go test in its doc comment.
	citesVector = regexp.MustCompile(`(?m)^(.*)\nCases: (.*)\n(.*)$`)
	citesTest   = regexp.MustCompile(`((?://.*\n)*)// Cases: ([^\n.]*)\. (.*)\n(?:// .*\n)*func (Test\w+)`)
)

// A citation is one test's claim to a case.
type citation struct{ behaviour, source, file string }

// firstSentence is that of a comment.
func firstSentence(comment string) string {
	text := strings.Join(strings.Fields(strings.ReplaceAll(comment, "//", "")), " ")
	if s, _, ok := strings.Cut(text, ". "); ok {
		return s + "."
	}
	return text
}

// TestConformance keeps testdata/CONFORMANCE.md equal to what the tests cite
// and fails when a promised case is cited by none. -update rewrites the file.
func TestConformance(t *testing.T) {
	cited := map[string][]citation{}
	cite := func(behaviour, cases, source, file string) {
		for c := range strings.SplitSeq(cases, ",") {
			c = strings.TrimSpace(c)
			cited[c] = append(cited[c], citation{strings.ReplaceAll(behaviour, "|", `\|`), strings.TrimSpace(source), file})
		}
	}
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		vector := strings.HasSuffix(path, ".txtar") && strings.Contains(path, "testdata")
		if !vector && !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if vector {
			if m := citesVector.FindSubmatch(b); m != nil {
				cite(string(m[1]), string(m[2]), string(m[3]), name)
			}
			return nil
		}
		for _, m := range citesTest.FindAllSubmatch(b, -1) {
			cite(firstSentence(string(m[1])), string(m[2]), strings.TrimSuffix(string(m[3]), "."), name+" "+string(m[4]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range promised() {
		if cited[c] == nil {
			t.Errorf("case %s has no test", c)
		}
	}

	var page strings.Builder
	page.WriteString("# Conformance\n\nWhich behaviour follows from which text, and what tests it. Written by `go test ./proxy -run Conformance -update`.\n\n| case | behaviour | source | tests |\n| --- | --- | --- | --- |\n")
	for _, c := range slices.SortedFunc(maps.Keys(cited), compareCases) {
		var behaviours, sources, files []string
		for _, x := range cited[c] {
			behaviours = append(behaviours, x.behaviour)
			sources = append(sources, x.source)
			files = append(files, "`"+x.file+"`")
		}
		fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", c, strings.Join(distinct(behaviours), " "), strings.Join(distinct(sources), "; "), strings.Join(distinct(files), "<br>"))
	}
	const file = "testdata/CONFORMANCE.md"
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != page.String() {
		t.Errorf("%s does not say what the tests cite (%v): run with -update and read the difference", file, err)
	}
}

func distinct(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }

// compareCases sorts 2 before 10 and numbers before letters.
func compareCases(a, b string) int {
	letters := func(s string) string { return strings.TrimRight(s, "0123456789") }
	number := func(s string) int { n, _ := strconv.Atoi(strings.TrimLeft(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")); return n }
	return cmp.Or(cmp.Compare(letters(a), letters(b)), cmp.Compare(number(a), number(b)))
}
