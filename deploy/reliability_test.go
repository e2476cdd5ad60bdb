package deploy

import (
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block returns the rows of a table in docs/reliability.md, cell by cell.
func block(t *testing.T, name string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "<!-- "+name+" -->\n")
	table, _, ok2 := strings.Cut(rest, "<!-- /"+name+" -->")
	if !ok || !ok2 {
		t.Fatalf("docs/reliability.md has no table %s", name)
	}
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows[2:]
}

// sources returns the Go files that git knows and f accepts, with their text.
func sources(t *testing.T, f func(name string) bool) map[string]string {
	t.Helper()
	out, err := exec.Command("git", "-C", "..", "ls-files", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, name := range strings.Fields(string(out)) {
		if !f(name) {
			continue
		}
		text, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	return all
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.go") }

// The table of fuzz targets has all there are, and nothing else.
func TestFuzzTargets(t *testing.T) {
	var want, got []string
	target := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	for name, text := range sources(t, isTest) {
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.HasPrefix(name, "deploy/") {
				want = append(want, "`"+m[1]+"` `"+path.Dir(name)+"`")
			}
		}
	}
	for _, row := range block(t, "fuzz") {
		got = append(got, row[0]+" "+row[1])
		if row[2] == "" || !regexp.MustCompile(`^\d+$`).MatchString(row[3]) {
			t.Errorf("%s: compared with %q, %q executions", row[0], row[2], row[3])
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/reliability.md has the targets\n%s\nbut there are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What the table of the system's faults names is there: tests, metrics and log lines.
func TestSystemFaults(t *testing.T) {
	tests, program := "", ""
	for name, text := range sources(t, func(string) bool { return true }) {
		if isTest(name) {
			tests += text
		} else {
			program += text
		}
	}
	metrics, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	for _, row := range block(t, "system") {
		if len(row) != 5 || row[0] == "" || row[1] == "" || row[4] == "" {
			t.Fatalf("%q: the row is not complete", row)
		}
		for _, m := range quoted.FindAllStringSubmatch(row[2], -1) {
			if !strings.Contains(program, m[1]) {
				t.Errorf("%s: nothing logs %q", row[0], m[1])
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(row[3], -1) {
			if !strings.Contains(string(metrics), m[0]) {
				t.Errorf("%s: there is no metric %s", row[0], m[1])
			}
		}
		for _, m := range quoted.FindAllStringSubmatch(row[4], -1) {
			if !strings.Contains(tests, "func "+m[1]+"(") {
				t.Errorf("%s: there is no test %s", row[0], m[1])
			}
		}
	}
}

// wallClock has the files that use the time of day, and why they may: a jump of the clock
// must not end a session, nor keep one alive. Everything else goes by what time.Now has of
// the monotonic clock, which Sub, Since, Before and After use.
var wallClock = map[string]string{
	"cmd/xmppgate/internal/acme/acme.go":    "certificates end at a time of day",
	"cmd/xmppgate/internal/doctor/reach.go": "certificates end at a time of day",
	"cmd/xmppgate/internal/status/page.go":  "for people",
	"cmd/xmppgate/upgrade_linux.go":         "a deadline that is over",
	"metrics/collect.go":                    "metrics tell the time of day",
	"metrics/exemplar.go":                   "a jump back makes an exemplar due at once",
	"metrics/metrics.go":                    "metrics tell the time of day",
	"metrics/tls.go":                        "metrics tell the time of day",
	"proxy/certfiles/certfiles.go":          "certificates end at a time of day",
	"proxy/filestamp/filestamp.go":          "whether a file is another one",
	"proxy/internal/limit/limit.go":         "of the gateway's own clock",
	"proxy/internal/loop/goroutine.go":      "a deadline that is over",
	"proxy/internal/loop/worker_linux.go":   "a deadline that is over",
	"proxy/tls.go":                          "a deadline that is over",
	"proxy/upstream/certificate.go":         "certificates end at a time of day",
	"proxy/upstream/tls.go":                 "certificates end at a time of day",
}

func TestWallClock(t *testing.T) {
	uses := regexp.MustCompile(`\.Unix(Nano|Milli|Micro)?\(|time\.(Unix|UnixMilli|Date|Parse)\(|\.Round\(0\)|\.UTC\(\)|ModTime|NotAfter|NotBefore|CLOCK_REALTIME`)
	found := map[string]bool{}
	for name, text := range sources(t, func(name string) bool { return !isTest(name) && !strings.HasPrefix(name, "deploy/") }) {
		m := uses.FindString(text)
		if m == "" {
			continue
		}
		if found[name] = true; wallClock[name] == "" {
			t.Errorf("%s uses %s: does it go by the time of day, which may jump?", name, m)
		}
	}
	for name := range wallClock {
		if !found[name] {
			t.Errorf("%s does not use the time of day any more", name)
		}
	}
}
