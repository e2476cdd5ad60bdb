package session

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What doc.go says of the files holds: only the tables move a session, and one file
// writes to the client after the upgrade.
func TestSourceKeepsTheRules(t *testing.T) {
	rules := []struct {
		pattern *regexp.Regexp
		files   []string // where it may occur, and does
	}{
		{regexp.MustCompile(`\.phase(\[\S+\])? (=|:=|\+=) `), []string{"session.go", "state.go"}}, // which restores one
		{regexp.MustCompile(`\.sasl = `), []string{"sasl.go", "state.go"}},
		{regexp.MustCompile(`Out\[client\]($|[^.]|\.[^S])`), []string{"handshake.go", "reject.go", "writer.go"}},
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, rule := range rules {
		var got []string
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for range rule.pattern.FindAll(b, -1) {
				got = append(got, file)
			}
		}
		if got = slices.Compact(got); !slices.Equal(got, rule.files) {
			t.Errorf("%v is in %v, and belongs into %v", rule.pattern, got, rule.files)
		}
	}
}
