package main

import (
	"bufio"
	"os"
	"strings"
	"testing"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReport(t *testing.T) {
	res, err := readResults()
	if err != nil {
		t.Fatal(err)
	}
	if read(t, reportFile) != report(res) {
		t.Errorf("%s is not what %s says: run a scenario", reportFile, resultsFile)
	}
	for _, bl := range blocks {
		text := read(t, bl.file)
		want, err := bl.in(text, res)
		if err != nil {
			t.Fatal(err)
		}
		if text != want {
			t.Errorf("%s shows old figures: go run . -report", bl.file)
		}
	}
}

// Targets and headlines name cases that exist.
func TestTargets(t *testing.T) {
	res, err := readResults()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range targets {
		r, ok := res[g.scenario]
		found := !ok // not run yet
		for _, c := range r.Cells {
			_, vs := c.Ratios[g.vs]
			found = found || c.Case == g.name && (vs || g.vs == "")
		}
		if !found {
			t.Errorf("no figure for the target %q of %s", g.figure, g.scenario)
		}
	}
	for _, h := range shown {
		if _, _, _, ok := h.find(res); !ok {
			t.Errorf("README.md: no figure for %q of %s", h.figure, h.scenario)
		}
	}
}

func TestSpread(t *testing.T) {
	if got := spreadOf([]float64{3, 1, 2, 5, 4, 11, 7, 8, 9, 10, 6}); got != (spread{2, 6, 10}) {
		t.Error(got)
	}
}

func TestDeframer(t *testing.T) {
	messages := []string{"", "a", strings.Repeat("b", 125), strings.Repeat("c", 126), strings.Repeat("d", 70000)}
	wire := []byte{}
	for _, m := range messages {
		wire = appendFrame(wire, opText, false, []byte(m))
	}
	for _, step := range []int{1, 7, 4096, len(wire)} {
		var d deframer
		got, text := []string{}, ""
		for rest := wire; len(rest) > 0; {
			payload, used, end := d.next(rest[:min(step, len(rest))])
			rest = rest[used:]
			text += string(payload)
			if end {
				got, text = append(got, text), ""
			}
		}
		if strings.Join(got, "|") != strings.Join(messages, "|") {
			t.Errorf("%d bytes at a time: %d messages", step, len(got))
		}
	}
}

func TestNextElement(t *testing.T) {
	wire := "<?xml version='1.0'?><stream:stream id='1'><a/> \n<b x='/'><c/><d>e</d></b><f></f></stream:stream>"
	s := &session{in: bufio.NewReaderSize(strings.NewReader(wire), 16)}
	for _, want := range []string{"<a/>", "<b x='/'><c/><d>e</d></b>", "<f></f>"} {
		got, err := s.next()
		if string(got) != want || err != nil {
			t.Errorf("%q, %v instead of %q", got, err, want)
		}
	}
	if got, err := s.next(); err == nil {
		t.Errorf("%q after the end", got)
	}
}
