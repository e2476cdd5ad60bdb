package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// results are the figures of the last run of each scenario.
type results map[string]result

type result struct {
	Date     string
	Command  string
	Versions map[string]string
	Cells    []cell
}

// A cell is one quantity, as measured for all systems in the same rounds.
type cell struct {
	Case, Unit string
	Values     map[string]spread
	Ratios     map[string]spread // of xmppgate to each other system, round by round
}

// A spread is the 10th percentile, the median and the 90th percentile.
type spread [3]float64

const (
	resultsFile = "results.json"
	reportFile  = "RESULTS.md"
)

func readResults() (results, error) {
	res := results{}
	b, err := os.ReadFile(resultsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return res, nil
	}
	if err != nil {
		return nil, err
	}
	return res, json.Unmarshal(b, &res)
}

func writeResults(res results) error {
	b, err := json.MarshalIndent(res, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(resultsFile, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(reportFile, []byte(report(res)), 0o644)
}

// A block is a part of a page that shows figures, between the marks <!-- mark --> and
// <!-- /mark -->.
type block struct {
	file, mark string
	text       func(results) string
}

var blocks = []block{
	{"../../README.md", "numbers", headlines},
	{"../../docs/benchmarks.md", "numbers", summary},
	{scalingPage, "measured", measured},
	{scalingPage, "plan", plan},
	{scalingPage, "held", held},
}

func writePages(res results) error {
	for _, bl := range blocks {
		b, err := os.ReadFile(bl.file)
		if err != nil {
			return err
		}
		text, err := bl.in(string(b), res)
		if err != nil {
			return err
		}
		if err := os.WriteFile(bl.file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// in returns the text of the page with the block as it is now.
func (bl block) in(text string, res results) (string, error) {
	begin, end := "<!-- "+bl.mark+" -->\n", "<!-- /"+bl.mark+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", fmt.Errorf("%s: no %s … %s", bl.file, begin, end)
	}
	return before + begin + bl.text(res) + end + after, nil
}

func report(res results) string {
	var b strings.Builder
	b.WriteString(`# Results

Written by ` + "`go run .`" + ` in this directory; [main.go](main.go) says how to run one
scenario. The systems of a scenario take turns in random order, in slices of
tens of milliseconds to seconds, on one machine with two virtual cores and only
loopback. CPU is what the kernel counts for the named processes; the load
generator does not count. Ratios are xmppgate's figure over the other's in the
same round; below 1 xmppgate needs less. Each figure is the median of all rounds, with
the 10th and 90th percentile. The generator checks that every message arrives
once, in order and with the same bytes, or the run fails.

## Targets

`)
	b.WriteString(summary(res))
	for _, s := range scenarios {
		if r, ok := res[s.name]; ok {
			b.WriteString("\n" + renderScenario(s, r))
		}
	}
	return b.String()
}

func renderScenario(s scenario, r result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n`%s`, %s. ", s.title, s.text, r.Command, r.Date)
	for i, name := range sorted(r.Versions) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", name, r.Versions[name])
	}
	b.WriteString(".\n")
	systems := []string{}
	for _, c := range r.Cells {
		for _, name := range sorted(c.Values) {
			if !slices.Contains(systems, name) && name != gate {
				systems = append(systems, name)
			}
		}
	}
	row := func(first string, rest ...string) {
		b.WriteString("| " + first + " | " + strings.Join(rest, " | ") + " |\n")
	}
	rule := func(n int) { b.WriteString("| --- " + strings.Repeat("| ---: ", n) + "|\n") }

	b.WriteString("\n")
	row("", append([]string{gate}, systems...)...)
	rule(len(systems) + 1)
	for _, c := range r.Cells {
		values := []string{}
		for _, name := range append([]string{gate}, systems...) {
			value := "" // measured for others only
			if v, ok := c.Values[name]; ok {
				value = v.String()
			}
			values = append(values, value)
		}
		row(strings.TrimSuffix(c.Case+", "+c.Unit, ", "), values...)
	}
	if len(systems) == 0 {
		return b.String()
	}
	b.WriteString("\n")
	row("ratio to", systems...)
	rule(len(systems))
	for _, c := range r.Cells {
		values := []string{}
		for _, name := range systems {
			values = append(values, c.Ratios[name].ratio())
		}
		row(c.Case, values...)
	}
	return b.String()
}

// String shows three digits, which is more than the spread allows.
func (s spread) String() string {
	if s[0] == s[2] {
		return digits(s[1])
	}
	return fmt.Sprintf("%s (%s–%s)", digits(s[1]), digits(s[0]), digits(s[2]))
}

func (s spread) ratio() string {
	if s[2] == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s[1], s[0], s[2])
}

func digits(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 1e6:
		return fmt.Sprintf("%.2f million", v/1e6)
	case v >= 1000:
		s := fmt.Sprintf("%.0f", v)
		return s[:len(s)-3] + "," + s[len(s)-3:]
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// A target is the ratio, or without vs the value, that a case should have.
type target struct {
	figure         string
	scenario, name string
	vs             string
	max            float64
}

const (
	ownProsody  = "mod_websocket"
	ownEjabberd = "ejabberd_http_ws"
)

var targets = []target{
	{"CPU per stanza, ping-pong, 1 connection", "relay", "ping-pong, 1 connection", "HAProxy TCP", .95},
	{"… 64 connections", "relay", "ping-pong, 64 connections", "HAProxy TCP", 1},
	{"… 700 connections", "relay", "ping-pong, 700 connections", "HAProxy TCP", .97},
	{"… 64 busy among 2,000 connections", "relay", "mixed: ping-pong on 64 of 2,000 connections", "HAProxy TCP", 1},
	{"CPU per stanza, 16 a write, up", "relay", "up, 16 a write, 64 connections", "HAProxy TCP", 1.35},
	{"… down", "relay", "down, 16 a write, 64 connections", "HAProxy TCP", 1.35},
	{"… up", "relay", "up, 16 a write, 64 connections", "HAProxy WS", 1.1},
	{"… down", "relay", "down, 16 a write, 64 connections", "HAProxy WS", 1.1},
	{"CPU per 64 KiB stanza, up", "relay", "up, 64 KiB, 16 connections", "HAProxy TCP", .75},
	{"… down", "relay", "down, 64 KiB, 16 connections", "HAProxy TCP", .75},
	{"round trip p50", "relay", "round trip p50, 1 connection", "HAProxy TCP", 1},
	{"CPU per new connection", "setup", "connect, upgrade, dial, header, first stanza, close", "HAProxy WS", 1},
	{"KiB per idle session, logged in", "idle", "500 → 9,000 sessions", "", 1},
	{"TLS to the server: CPU per stanza, ping-pong, 1 connection", "tls", "ping-pong, 1 connection", "HAProxy TCP", 1},
	{"… 64 connections", "tls", "ping-pong, 64 connections", "HAProxy TCP", 1},
	{"… 16 a write, up", "tls", "up, 16 a write, 64 connections", "HAProxy TCP", 1},
	{"… down", "tls", "down, 16 a write, 64 connections", "HAProxy TCP", 1},
	{"… of 64 KiB, up", "tls", "up, 64 KiB, 16 connections", "HAProxy TCP", 1},
	{"… down", "tls", "down, 64 KiB, 16 connections", "HAProxy TCP", 1},
	{"TLS to the server: memory per idle session", "tls", "idle, 500 → 4,000 sessions", "HAProxy TCP", 1},
	{"TLS with clients: CPU per new connection", "wss", "connect, upgrade, dial, header, first stanza, close", "HAProxy TCP", 1},
	{"… per stanza, ping-pong, 64 connections", "wss", "ping-pong, 64 connections", "HAProxy TCP", 1},
	{"… 16 a write, up", "wss", "up, 16 a write, 64 connections", "HAProxy TCP", 1},
	{"… down", "wss", "down, 16 a write, 64 connections", "HAProxy TCP", 1},
	{"… of 64 KiB, up", "wss", "up, 64 KiB, 16 connections", "HAProxy TCP", 1},
	{"… down", "wss", "down, 64 KiB, 16 connections", "HAProxy TCP", 1},
	{"TLS with clients: KiB per idle session", "wss", "idle, 500 → 4,000 sessions", "", 4.6},
	{"… memory per idle session", "wss", "idle, 500 → 4,000 sessions", "HAProxy TCP", 1},
	{"Prosody: CPU per message, saturated", "prosody", "saturated", ownProsody, .70},
	{"… saturated", "prosody", "saturated", "nginx → " + ownProsody, .68},
	{"… at 1,000/s", "prosody", "1,000 messages/s", ownProsody, .92},
	{"… at 1,000/s", "prosody", "1,000 messages/s", "nginx → " + ownProsody, .85},
	{"… of 64 KiB", "prosody", "64 KiB stanzas", ownProsody, .50},
	{"… of 256 KiB", "prosody", "256 KiB stanzas", ownProsody, .50},
	{"Prosody: memory per idle session", "prosody-idle", "500 → 2,000 sessions", ownProsody, 1},
	{"ejabberd: CPU per message, saturated", "ejabberd", "saturated", ownEjabberd, .75},
	{"… at 1,000/s", "ejabberd", "1,000 messages/s", ownEjabberd, .95},
	{"ejabberd: p99 latency at 1,000/s", "ejabberd", "latency p99 at 1,000/s", ownEjabberd, .40},
	{"ejabberd: memory per idle session", "ejabberd-idle", "500 → 2,000 sessions", ownEjabberd, 1},
	{"p99 beside a flood and ten that never read, to alone", "fair", "p99 disturbed to alone", "", 2},
	{"p99 beside 1,000 slow clients, to alone: in TLS", "slowloris", "p99 beside 1,000 slow clients to alone, in TLS", "", 2},
	{"… in the request", "slowloris", "p99 beside 1,000 slow clients to alone, in the request", "", 2},
	{"… in the first frame", "slowloris", "p99 beside 1,000 slow clients to alone, in the first frame", "", 2},
	{"… inside an element", "slowloris", "p99 beside 1,000 slow clients to alone, inside an element", "", 2},
	{"KiB per session, 100,100 sessions held", "crowd", "RSS over that of an empty gateway", "", 1},
	{"… sessions lost", "crowd", "sessions lost", "", 0},
	{"an hour of churn: RSS, last quarter to second", "churn", "RSS, last quarter to second", "", 1.1},
	{"… descriptors", "churn", "descriptors, last quarter to second", "", 1.03},
	{"… goroutines", "churn", "goroutines, last quarter to second", "", 1.1},
}

// A headline is a figure that README.md shows. Those that are missed belong to
// the choice.
type headline struct{ figure, scenario, name, vs string }

var shown = []headline{
	{"CPU per stanza, ping-pong on 64 connections", "relay", "ping-pong, 64 connections", "HAProxy TCP"},
	{"CPU per stanza, 16 a write, to the server", "relay", "up, 16 a write, 64 connections", "HAProxy TCP"},
	{"CPU per message, Prosody saturated", "prosody", "saturated", ownProsody},
	{"CPU per message, ejabberd saturated", "ejabberd", "saturated", ownEjabberd},
	{"CPU per message, ejabberd at 1,000 messages/s", "ejabberd", "1,000 messages/s", ownEjabberd},
	{"KiB per idle session, logged in", "idle", "500 → 9,000 sessions", ""},
}

func headlines(res results) string {
	var b strings.Builder
	b.WriteString("| figure | compared with | median (p10–p90) |\n| --- | --- | ---: |\n")
	for _, h := range shown {
		if vs, _, text, ok := h.find(res); ok {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", h.figure, vs, text)
		}
	}
	return b.String()
}

// find returns what h was compared with, the median, and the figure as text.
func (h headline) find(res results) (vs string, median float64, text string, ok bool) {
	for _, c := range res[h.scenario].Cells {
		switch {
		case c.Case != h.name:
		case h.vs == "":
			got := c.Values[gate]
			return "absolute", got[1], got.String(), true
		default:
			got := c.Ratios[h.vs]
			return h.vs, got[1], got.ratio(), true
		}
	}
	return "", 0, "", false
}

// summary shows each target, and whether it is met.
func summary(res results) string {
	var b strings.Builder
	b.WriteString("| figure | compared with | ratio (p10–p90) | target | |\n| --- | --- | ---: | ---: | --- |\n")
	for _, t := range targets {
		vs, median, text, ok := headline{t.figure, t.scenario, t.name, t.vs}.find(res)
		if !ok {
			continue
		}
		met := "met"
		if median > t.max {
			met = "missed"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | ≤ %.2f | %s |\n", t.figure, vs, text, t.max, met)
	}
	return b.String()
}
