package main

import (
	"flag"
	"fmt"
	"iter"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"xmppgate/metrics"
	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

var update = flag.Bool("update", false, "rewrite the tables of README")

const readme = "../../README.md"

// The tables of README must say what the program does.
func TestReadme(t *testing.T) {
	for name, table := range map[string]func(*testing.T) string{
		"config":  configTable,
		"metrics": metricsTable,
		"endings": endingsTable,
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(readme)
			if err != nil {
				t.Fatal(err)
			}
			begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->"
			before, rest, ok := strings.Cut(string(text), begin)
			got, after, ok2 := strings.Cut(rest, end)
			if !ok || !ok2 {
				t.Fatalf("README has no place between %q and %q", begin, end)
			}
			want := table(t)
			if got == want {
				return
			}
			if !*update {
				t.Fatalf("run: go test ./cmd/xmppgate -run Readme -update\nREADME has\n%s\nwant\n%s", got, want)
			}
			if err := os.WriteFile(readme, []byte(before+begin+want+end+after), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
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
	table := row("variable", "default", "meaning") + row("---", "---", "---")
	for _, v := range variables() {
		table += row(code(v.name), code(v.standard), v.help)
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
	m := newMetrics(source{&proxy.Gateway{}, router}, build{}, 0, 1, nil)
	m.Opened(server.Name, upstream.PhaseTCP, upstream.ResultOK, 0)
	m.CertificateExpires(server.Name, time.Now())
	one := metrics.New(oneSession{}, metrics.Options{ConnectionsLimit: 1})
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

func (oneSession) Servers() []metrics.Server { return nil }

func (oneSession) Connections() iter.Seq[metrics.Connection] {
	return slices.Values([]metrics.Connection{{Ping: time.Second}})
}
