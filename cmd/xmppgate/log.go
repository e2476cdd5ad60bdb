package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/lmittmann/tint"
)

// This file decides what a line of the log looks like. What is logged where it
// happens has no content of a stanza and no credentials, at any level. Names of
// attributes are lower_snake.

// Values of XMPPGATE_LOG_FORMAT.
const (
	logAuto    = "auto"
	logText    = "text"    // made for people
	logJournal = "journal" // with a priority in front, as sd-daemon(3) describes
	logJSON    = "json"
)

// logTimeout is how long the end of the process waits for a log that is not
// read.
const logTimeout = 500 * time.Millisecond

// logFormatOf returns what auto means for the process that p is of, and any other
// format unchanged.
func logFormatOf(format string, p process) string {
	if format != logAuto {
		return format
	}
	if terminal(p.stderr) {
		return logText
	}
	if toJournal, err := journal.StderrIsJournalStream(); err == nil && toJournal && p.stderr == io.Writer(os.Stderr) {
		return logJournal
	}
	return logJSON
}

// logHandlers returns a function that creates handlers in the given format.
func logHandlers(format string, level slog.Leveler, color bool) func(io.Writer) slog.Handler {
	switch format {
	case logText:
		o := &tint.Options{Level: level, ReplaceAttr: aligned, TimeFormat: "15:04:05.000", NoColor: !color}
		return func(w io.Writer) slog.Handler { return tint.NewTextHandler(w, o) }
	case logJournal:
		return func(w io.Writer) slog.Handler { return newJournalHandler(w, level) }
	}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: inSeconds}
	return func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, o) }
}

// messageWidth is where the attributes of short messages begin in text, in columns.
const messageWidth = 16

// aligned fills short messages up, so that the attributes of lines of one kind stand
// in columns. It quotes what a terminal would obey in a message or a name, which the
// handler does for values only.
func aligned(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.MessageKey {
		return slog.String(a.Key, fmt.Sprintf("%-*s", messageWidth, printable(a.Value.String())))
	}
	a.Key = printable(a.Key)
	return a
}

func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

// inSeconds writes durations in seconds, as in metrics, and adds the unit to the
// name. JSON would show a bare number of nanoseconds.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
	}
	return a
}

// priorities are those of syslog(3) that the levels of slog correspond to.
var priorities = []struct {
	from   slog.Level
	prefix string
}{
	{slog.LevelError, "<3>"},
	{slog.LevelWarn, "<4>"},
	{slog.LevelInfo, "<6>"},
	{slog.LevelDebug, "<7>"},
}

// A journalHandler writes lines for the journal of systemd: it has the time already,
// and takes the level from a prefix. Each level has a handler of its own, because a
// handler does not tell its writer the level.
type journalHandler []slog.Handler // as priorities

func newJournalHandler(w io.Writer, level slog.Leveler) journalHandler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return inSeconds(groups, a)
	}}
	var h journalHandler
	for _, p := range priorities {
		h = append(h, slog.NewTextHandler(prefixWriter{w, p.prefix}, options))
	}
	return h
}

// at returns the handler of a level.
func (h journalHandler) at(level slog.Level) slog.Handler {
	for i, p := range priorities {
		if level >= p.from {
			return h[i]
		}
	}
	return h[len(h)-1]
}

func (h journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.at(level).Enabled(ctx, level)
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.at(r.Level).Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(x slog.Handler) slog.Handler { return x.WithAttrs(attrs) })
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(x slog.Handler) slog.Handler { return x.WithGroup(name) })
}

func (h journalHandler) each(f func(slog.Handler) slog.Handler) journalHandler {
	out := make(journalHandler, len(h))
	for i := range h {
		out[i] = f(h[i])
	}
	return out
}

// A prefixWriter puts a prefix in front of each line. It is written together with the
// line, which is one write of a handler.
type prefixWriter struct {
	w      io.Writer
	prefix string
}

func (p prefixWriter) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// lostReport returns the line that reports lost lines. It is written at any log
// level, because the lost ones may have been important.
func lostReport(newHandler func(io.Writer) slog.Handler, lines uint64) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were lost: whatever reads the log was too slow or gone, or the disk was full", 0)
	r.Add("lines", lines)
	_ = newHandler(&b).Handle(context.Background(), r) // a buffer does not fail
	return b.Bytes()
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
