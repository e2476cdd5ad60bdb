package doctor

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// A level says how bad a line is.
type level int

const (
	ok level = iota
	warn
	fail
)

func (l level) String() string { return [...]string{"ok", "warn", "fail"}[l] }

// MarshalText makes a level a word in JSON.
func (l level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// A line is the result of a check, or a part of it.
type line struct {
	Check    string   `json:"check"`             // what was examined
	Level    level    `json:"level"`             // ok, warn or fail
	Finding  string   `json:"finding,omitempty"` // see findings; empty if ok
	Text     string   `json:"text"`              // what was found
	Remedies []remedy `json:"remedies,omitempty"`
}

// A skipped check was not made.
type skipped struct {
	Checks []string `json:"checks"`
	Why    string   `json:"why"`
}

// A report is what an examination has found. As text it is printed line by line, as
// JSON at the end.
type report struct {
	out     io.Writer
	json    bool
	secrets []string

	interrupted bool

	URL     string         `json:"url,omitempty"`
	Domain  string         `json:"domain,omitempty"`
	Lines   []line         `json:"lines"`
	Skipped []skipped      `json:"skipped,omitempty"`
	Count   map[string]int `json:"count"` // of lines by level
	Exit    int            `json:"exit"`
}

func newReport(out io.Writer, asJSON bool, secrets ...string) *report {
	return &report{out: out, json: asJSON, secrets: secrets, Lines: []line{}, Count: map[string]int{"ok": 0, "warn": 0, "fail": 0}}
}

// secrets are the strings that must not be printed, whoever says them.
func (x *examination) secrets() []string {
	if x.password == "" {
		return nil
	}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + x.local + "\x00" + x.password))
	return []string{plain, base64.StdEncoding.EncodeToString([]byte(x.password)), x.password, url.QueryEscape(x.password)}
}

// maxText is the length of a line of a report. What peers say is shorter: see quote.
const maxText = 600 // runes

// clean makes text fit for a terminal: peers choose parts of it.
func (r *report) clean(text string) string {
	for _, secret := range r.secrets {
		if len(secret) >= 4 { // a shorter one is in many words by chance
			text = strings.ReplaceAll(text, secret, "[password]")
		}
	}
	return printable(text, maxText)
}

// printable replaces what a terminal would interpret, such as escape sequences and
// characters that change the direction of writing, and cuts what is too long.
func printable(text string, most int) string {
	var b strings.Builder
	n := 0
	for _, c := range text {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			b.WriteByte(' ')
		case !unicode.IsPrint(c):
			b.WriteRune(unicode.ReplacementChar)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// quote is a short piece of what a peer said.
func quote(text string) string {
	return `"` + printable(strings.Join(strings.Fields(text), " "), 120) + `"`
}

// printableURL is a URL without what may be a token: the query.
func printableURL(u *url.URL) string {
	short := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	text := printable(short.String(), 200)
	if u.RawQuery != "" {
		text += "?…"
	}
	return text
}

// target says what is examined.
func (r *report) target(url, domain string) {
	r.URL, r.Domain = r.clean(url), r.clean(domain)
	if !r.json {
		fmt.Fprintf(r.out, "%s, domain %s\n", r.URL, r.Domain)
	}
}

// ok reports that a check found what it should.
func (r *report) ok(check, format string, args ...any) {
	r.add(line{Check: check, Level: ok, Text: fmt.Sprintf(format, args...)})
}

// found reports a finding, with the remedies for the products that may be meant.
func (x *examination) found(check, id, format string, args ...any) {
	if x.interrupted() {
		return // what fails then fails for that
	}
	f, known := findings[id]
	if !known {
		panic("doctor: no finding " + id)
	}
	x.report.add(line{Check: check, Level: f.level, Finding: id, Text: fmt.Sprintf(format, args...), Remedies: x.seen.relevant(f.remedies)})
}

func (r *report) add(l line) {
	l.Text = r.clean(l.Text)
	// One fault may show at several addresses; a peer must not fill the report.
	if slices.ContainsFunc(r.Lines, func(o line) bool { return o.Check == l.Check && o.Text == l.Text }) {
		return
	}
	r.Lines = append(r.Lines, l)
	r.Count[l.Level.String()]++
	if r.json {
		return
	}
	text := l.Text
	if l.Finding != "" {
		text += " [" + l.Finding + "]"
	}
	fmt.Fprintf(r.out, "%-5s %-12s %s\n", l.Level, l.Check, text)
	for _, m := range l.Remedies {
		fmt.Fprintf(r.out, "      %-12s %s: %s\n", "", m.Product, m.Change)
	}
}

// skip says that checks were not made.
func (r *report) skip(checks []string, why string) {
	r.Skipped = append(r.Skipped, skipped{checks, why})
}

// finish prints the rest and returns the exit status.
func (r *report) finish() int {
	switch {
	case r.Count["fail"] > 0 || r.interrupted:
		r.Exit = ExitFailed
	case r.Count["warn"] > 0:
		r.Exit = ExitWarnings
	}
	if r.json {
		e := json.NewEncoder(r.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		e.Encode(r)
		return r.Exit
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(r.out, "Not examined: %s (%s).\n", strings.Join(s.Checks, ", "), s.Why)
	}
	fmt.Fprintf(r.out, "%d ok, %d warnings, %d failures.\n", r.Count["ok"], r.Count["warn"], r.Count["fail"])
	return r.Exit
}
