// Package logqueue lets a program log without waiting for whoever reads the
// log.
//
// A pipe that nobody reads blocks the writer, a disk may be full, and the
// reader of a pipe may be gone. None of this may stop a session, a drain or the
// end of the process. The price is that lines can be lost; they are counted.
package logqueue

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxBytes bounds the lines that wait to be written.
const MaxBytes = 1 << 20

const (
	// maxWrite is how much is written at once: less than a pipe holds.
	maxWrite = 32 << 10
	// againPause is the pause before the next attempt at a descriptor that
	// somebody else has made non-blocking, and that takes nothing now.
	againPause = 10 * time.Millisecond
)

// A Writer writes lines to another writer, in order, without ever blocking the
// caller. It takes whole lines only, as the handlers of log/slog write them.
type Writer struct {
	out    io.Writer
	report func(lines uint64) []byte
	wake   chan struct{} // has room for one
	done   chan struct{} // closed when nothing more is written
	lost   atomic.Uint64 // lines, since the start

	mu      sync.Mutex // guards all below
	pending []byte     // whole lines
	queued  int        // bytes that wait: pending, and what run has taken of it
	dropped uint64     // lines that found no room behind pending
	closed  bool

	// Used by run only.
	unreported uint64 // lines lost and not yet mentioned in the log
	broken     bool   // the last line that got out has no end
}

// New returns a Writer to out. report makes the line that tells how many lines
// were lost; it is written as soon as out takes lines again.
func New(out io.Writer, report func(lines uint64) []byte) *Writer {
	w := &Writer{out: out, report: report, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write queues a line, or drops it when MaxBytes wait. It never fails: there is
// nobody to tell.
func (w *Writer) Write(line []byte) (int, error) {
	w.mu.Lock()
	if w.closed || w.queued+len(line) > MaxBytes {
		w.dropped++
		w.lost.Add(1)
	} else {
		w.pending = append(w.pending, line...)
		w.queued += len(line)
	}
	w.mu.Unlock()
	w.notify()
	return len(line), nil
}

// Lost returns how many lines were lost so far.
func (w *Writer) Lost() uint64 { return w.lost.Load() }

// Close waits until every line is written, but no longer than timeout. A write
// that blocks is left behind then.
func (w *Writer) Close(timeout time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.notify()
	select {
	case <-w.done:
	case <-time.After(timeout):
	}
}

func (w *Writer) notify() {
	select {
	case w.wake <- struct{}{}:
	default: // run will look anyway
	}
}

// run lives until Close, or until the write that blocks at that time returns.
func (w *Writer) run() {
	defer close(w.done)
	for range w.wake {
		w.mu.Lock()
		lines, dropped, closed := w.pending, w.dropped, w.closed
		w.pending, w.dropped = nil, 0
		w.mu.Unlock()
		w.writeLines(lines)
		// The lines that found no room came after these.
		if w.unreported += dropped; dropped > 0 {
			w.writeReport()
		}
		if closed {
			return
		}
	}
}

// writeLines writes as many lines at a time as fit into maxWrite, or one.
func (w *Writer) writeLines(lines []byte) {
	for len(lines) > 0 {
		n := min(len(lines), maxWrite)
		if end := bytes.LastIndexByte(lines[:n], '\n'); end >= 0 {
			n = end + 1
		} else {
			n = bytes.IndexByte(lines, '\n') + 1
		}
		some := lines[:n]
		lines = lines[n:]
		if w.unreported == 0 || w.writeReport() {
			some = some[w.write(some):]
		}
		missing := uint64(bytes.Count(some, []byte("\n")))
		w.unreported += missing
		w.lost.Add(missing)

		w.mu.Lock()
		w.queued -= n
		w.mu.Unlock()
	}
}

// writeReport tells how many lines were lost and reports whether that got out.
func (w *Writer) writeReport() bool {
	line := w.report(w.unreported)
	if w.write(line) < len(line) {
		return false
	}
	w.unreported = 0
	return true
}

// write returns how much of the lines got out: all, unless out has failed. After
// half a line it starts a new one.
func (w *Writer) write(lines []byte) int {
	if w.broken {
		if n, _ := w.writeAll([]byte("\n")); n == 0 {
			return 0
		}
		w.broken = false
	}
	n, err := w.writeAll(lines)
	if err != nil && n > 0 {
		w.broken = lines[n-1] != '\n'
	}
	return n
}

func (w *Writer) writeAll(p []byte) (written int, err error) {
	for {
		n, err := w.out.Write(p[written:])
		written += n
		if !errors.Is(err, syscall.EAGAIN) {
			return written, err
		}
		time.Sleep(againPause)
	}
}
