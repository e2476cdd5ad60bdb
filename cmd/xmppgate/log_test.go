package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestLogFormats(t *testing.T) {
	for _, c := range []struct {
		format string
		want   string // a regular expression
	}{
		{logText, `^\d\d:\d\d:\d\d\.\d{3} WRN ended            age=1m30s cause="a b" remote=192\.0\.2\.1:5\n$`},
		{logJournal, `^<4>msg=ended age_seconds=90 cause="a b" remote=192\.0\.2\.1:5\n$`},
		{logJSON, `^\{"time":"[^"]+","level":"WARN","msg":"ended","age_seconds":90,"cause":"a b","remote":"192\.0\.2\.1:5"\}\n$`},
	} {
		var out strings.Builder
		log := slog.New(logHandlers(c.format, slog.LevelInfo, false)(&out))
		log.Debug("not logged")
		log.Warn("ended", "age", 90*time.Second, "cause", "a b", "remote", "192.0.2.1:5")
		if got := out.String(); !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%s: %q, want %s", c.format, got, c.want)
		}
	}
}

// A peer's text must not start a line or move the cursor.
func TestLogLinesStayWhole(t *testing.T) {
	hostile := "a\nb\r\x1b[31m\x00\u2028\u009b <6>"
	for _, format := range []string{logText, logJournal, logJSON} {
		for _, color := range []bool{false, true} {
			var out strings.Builder
			log := slog.New(logHandlers(format, slog.LevelInfo, color)(&out)).With("with", hostile)
			log.Info("line\x1b[2J\nbroken", "text", hostile, "error", errors.New(hostile), hostile, 1)
			line, end := strings.CutSuffix(out.String(), "\n")
			plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(line, "")
			if color && format == logText && plain == line {
				t.Errorf("%s has no colour: %q", format, line)
			}
			if !color || format != logText {
				plain = line
			}
			control := "\n\r\x1b\x00\u2028\u009b"
			if format == logJSON {
				control = "\n\r\x1b\x00\u2028" // JSON escapes these alone
			}
			if !end || strings.ContainsAny(plain, control) {
				t.Errorf("%s: %q", format, out.String())
			}
		}
	}
}

func TestJournalPriorities(t *testing.T) {
	var out strings.Builder
	log := slog.New(logHandlers(logJournal, slog.LevelDebug, true)(&out))
	log.Debug("d")
	log.Info("i")
	log.Warn("w")
	log.Error("e")
	log.With("a", 1).WithGroup("g").Error("e", "b", 2)
	want := "<7>msg=d\n<6>msg=i\n<4>msg=w\n<3>msg=e\n<3>msg=e a=1 g.b=2\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Only what systemd reads itself gets priorities: anything else would show them.
func TestLogFormatOf(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		format string
		w      io.Writer
		want   string
	}{
		{logAuto, io.Discard, logJSON},
		{logAuto, file, logJSON},
		{logText, file, logText},
		{logJournal, file, logJournal},
	} {
		if got := logFormatOf(c.format, process{stderr: c.w}); got != c.want {
			t.Errorf("%s: got %s, want %s", c.format, got, c.want)
		}
	}
}
