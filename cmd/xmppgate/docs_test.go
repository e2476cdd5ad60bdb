package main

import (
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"xmppgate/cmd/xmppgate/internal/doctor"
	"xmppgate/metrics"
	"xmppgate/proxy"
	"xmppgate/proxy/certfiles"
	"xmppgate/proxy/upstream"
)

var update = flag.Bool("update", false, "rewrite the tables of README.md and docs")

const root = "../../"

// The tables of the documents say what the program does.
func TestTables(t *testing.T) {
	for _, test := range []struct {
		file, name string
		table      func(*testing.T) string
	}{
		{"README.md", "variables", firstVariables},
		{"docs/configuration.md", "config", configTable},
		{"docs/metrics.md", "metrics", metricsTable},
		{"docs/endings.md", "endings", endingsTable},
		{"docs/doctor.md", "findings", func(*testing.T) string { return doctor.Table() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := readDoc(t, test.file)
			begin, end := "<!-- "+test.name+" -->\n", "<!-- /"+test.name+" -->"
			before, rest, ok := strings.Cut(text, begin)
			got, after, ok2 := strings.Cut(rest, end)
			if !ok || !ok2 {
				t.Fatalf("%s has no place between %q and %q", test.file, begin, end)
			}
			want := test.table(t)
			if got == want {
				return
			}
			if !*update {
				t.Fatalf("run: go test ./cmd/xmppgate -run Tables -update\n%s has\n%s\nwant\n%s", test.file, got, want)
			}
			if err := os.WriteFile(root+test.file, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// README.md is for the first ten minutes: the rest belongs into docs.
func TestReadmeSize(t *testing.T) {
	const limit = 9 << 10
	if n := len(readDoc(t, "README.md")); n > limit {
		t.Errorf("README.md has %d bytes, more than %d: move text to docs", n, limit)
	}
}

// docs/README.md leads to every page of docs.
func TestIndex(t *testing.T) {
	index := readDoc(t, "docs/README.md")
	pages, err := filepath.Glob(root + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}

var (
	fenced  = regexp.MustCompile("(?ms)^```.*?^```")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// Links between the documents lead to a file and a heading that exist.
func TestLinks(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return fs.SkipDir
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		name := strings.TrimPrefix(file, root)
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(readDoc(t, name), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			target, anchor, _ := strings.Cut(m[1], "#")
			to := name
			if target != "" {
				to = path.Join(path.Dir(filepath.ToSlash(name)), target)
			}
			if _, err := os.Stat(root + to); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", name, m[1])
			} else if anchor != "" && !slices.Contains(anchors(readDoc(t, to)), anchor) {
				t.Errorf("%s: %s has no heading for #%s", name, to, anchor)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("no links found")
	}
}

// anchors are the names by which links reach the headings of a page, as GitHub
// makes them.
func anchors(page string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		names = append(names, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return names
}

// docs/troubleshooting.md explains every result and ending that needs somebody to
// act, and quotes only what the program says.
func TestTroubleshooting(t *testing.T) {
	page := readDoc(t, "docs/troubleshooting.md")
	for _, name := range slices.Concat(proxy.UpgradeResults(), upstream.Results()) {
		if name != upstream.ResultOK && !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("no row explains the result %s", name)
		}
	}
	_, logins, _ := strings.Cut(page, "\n## Clients cannot log in\n")
	for _, name := range proxy.LoginResults() {
		if name != "success" && !regexp.MustCompile("(?m)^\\| (`[a-z-]+`, )*`"+name+"`(, `[a-z-]+`)* \\|").MatchString(logins) {
			t.Errorf("no row explains the login result %s", name)
		}
	}
	for _, e := range proxy.Endings() {
		if e.Level >= slog.LevelWarn && !strings.Contains(page, "`"+e.Name+"`") {
			t.Errorf("no row explains the ending %s", e.Name)
		}
	}

	var source strings.Builder
	for _, dir := range []string{"cmd/xmppgate", "proxy"} {
		err := filepath.WalkDir(root+dir, func(file string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				return err
			}
			text, err := os.ReadFile(file)
			source.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, log, ok := strings.Cut(page, "\n## Lines in the log\n")
	if !ok {
		t.Fatal("no section about the log")
	}
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		messages, _, _ := strings.Cut(line[2:], " |")
		for message := range strings.SplitSeq(messages, ", ") {
			if !strings.Contains(source.String(), strings.Trim(message, "`")) {
				t.Errorf("the program never logs %s", message)
			}
		}
	}
}

// The doctor's remedies name only variables that exist.
func TestRemedies(t *testing.T) {
	seen := 0
	for _, name := range regexp.MustCompile(`\bXMPPGATE_\w+`).FindAllString(readDoc(t, "cmd/xmppgate/internal/doctor/findings.go"), -1) {
		seen++
		if !slices.ContainsFunc(variables(), func(v variable) bool { return v.name == name }) {
			t.Errorf("there is no %s", name)
		}
	}
	if seen == 0 {
		t.Error("no variable found: the test looks in the wrong place")
	}
}

// The documents name only variables and metrics that exist.
func TestNames(t *testing.T) {
	known := "XMPPGATE_" // alone it stands for all
	for _, v := range variables() {
		known += " " + v.name
	}
	known += " xmppgate_ xmppgate_connection_" + metricsTable(t)
	name := regexp.MustCompile(`\b(XMPPGATE|xmppgate)_\w*`)
	pages, err := filepath.Glob(root + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, root+"README.md") {
		file := strings.TrimPrefix(page, root)
		for _, n := range name.FindAllString(readDoc(t, file), -1) {
			if !regexp.MustCompile(`\b` + n + `\b`).MatchString(known) {
				t.Errorf("%s: there is no %s", file, n)
			}
		}
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(root + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// row renders one line of a markdown table.
func row(cells ...string) string {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(c, "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func configTable(*testing.T) string {
	table := row("variable", "default", "reload", "meaning") + row("---", "---", "---", "---")
	when := map[bool]string{false: "yes", true: "start"}
	for _, v := range variables() {
		table += row(code(v.name), code(v.defaultValue), when[v.onlyStart], v.help)
	}
	return table
}

// firstVariables are those that README.md shows.
func firstVariables(t *testing.T) string {
	var first []variable
	for _, name := range []string{"LISTEN", "UPSTREAM", "DOMAINS", "ORIGINS", "TRUSTED_PROXIES", "PROXY_PROTOCOL",
		"ADMIN_LISTEN", "MAX_STANZA_BYTES", "MAX_SESSIONS", "LOG_LEVEL"} {
		i := slices.IndexFunc(variables(), func(v variable) bool { return v.name == prefix+name })
		if i < 0 {
			t.Fatalf("no variable is called %s%s", prefix, name)
		}
		first = append(first, variables()[i])
	}
	return variableTable(first)
}

func variableTable(all []variable) string {
	table := row("variable", "default", "meaning") + row("---", "---", "---")
	for _, v := range all {
		table += row(code(v.name), code(v.defaultValue), v.help)
	}
	return table
}

func endingsTable(*testing.T) string {
	yes := map[bool]string{true: "yes"}
	table := row("ending", "what happened", "log level", "stream error", "`<close/>`", "close code", "`</stream:stream>` to the server") +
		row("---", "---", "---", "---", "---", "---", "---")
	for _, e := range proxy.Endings() {
		number := ""
		if e.Code != 0 {
			number = fmt.Sprint(e.Code)
		}
		meaning := strings.NewReplacer("<", "`<", ">", ">`").Replace(e.Meaning)
		table += row(code(e.Name), meaning, strings.ToLower(e.Level.String()), code(string(e.Condition)), yes[e.Close], number, yes[e.EndTag])
	}
	return table
}

var (
	help   = regexp.MustCompile(`^# HELP (xmppgate_\S+) (.*)`)
	kind   = regexp.MustCompile(`^# TYPE (xmppgate_\S+) (.*)`)
	sample = regexp.MustCompile(`^xmppgate_[a-z_]+(\{(.*)\})? `)
	label  = regexp.MustCompile(`(\w+)="`)
)

// metricsTable reads the metrics from the endpoints, as Prometheus does. One
// made-up session and one server make every family appear.
func metricsTable(t *testing.T) string {
	server, err := upstream.ParseServer("tls://example.org")
	if err != nil {
		t.Fatal(err)
	}
	router, err := upstream.NewRouter(upstream.Config{Default: []*upstream.Server{server}})
	if err != nil {
		t.Fatal(err)
	}
	cert, key := writeCertificate(t)
	certificates, err := certfiles.Load([]certfiles.Pair{{Cert: cert, Key: key}})
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(source{&proxy.Gateway{}, router, func() *certfiles.Store { return certificates }, nil}, build{}, nil, nil, nil, nil)
	m.Opened(server.Name, upstream.PhaseTCP, upstream.ResultOK, 0)
	m.FilesRead(server.Name, upstream.ResultOK)
	m.CertificateExpires(server.Name, time.Now())
	one := metrics.New(oneSession{}, metrics.Options{ConnectionsLimit: func() int { return 1 }})
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	one.ConnectionsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics/connections", nil))

	table := row("metric", "type", "labels", "meaning") + row("---", "---", "---", "---")
	var name, meaning, typ string
	for line := range strings.Lines(w.Body.String()) {
		switch {
		case help.MatchString(line):
			found := help.FindStringSubmatch(line)
			name, meaning = found[1], found[2]
		case kind.MatchString(line):
			typ = kind.FindStringSubmatch(line)[2]
		case name != "" && sample.MatchString(line):
			// The first sample shows the labels of all.
			var labels []string
			for _, l := range label.FindAllStringSubmatch(sample.FindStringSubmatch(line)[2], -1) {
				if l[1] != "le" {
					labels = append(labels, code(l[1]))
				}
			}
			table += row(code(name), typ, strings.Join(labels, " "), meaning)
			name = ""
		}
	}
	return table
}

// oneSession is a source with a session that shows all it can.
type oneSession struct{}

func (oneSession) Totals() (up, down metrics.Traffic) { return up, down }

func (oneSession) Compression() (c metrics.Compression) { return c }

func (oneSession) Sessions() map[string]int { return nil }

func (oneSession) Servers() []metrics.Server { return nil }

func (oneSession) Connections() iter.Seq[metrics.Connection] {
	return slices.Values([]metrics.Connection{{UpQueue: metrics.Queue{Bytes: 1, Stalled: time.Second}, Ping: time.Second, Compressed: true}})
}
