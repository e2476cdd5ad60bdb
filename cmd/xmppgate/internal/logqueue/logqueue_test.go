package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// An output takes what a test lets it take.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	room func(n int) (int, error) // how many of n bytes are taken; nil means all
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	room := o.room
	o.mu.Unlock()
	n, err := len(p), error(nil)
	if room != nil {
		n, err = room(len(p))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p[:n])
	return n, err
}

func (o *output) becomes(room func(int) (int, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.room = room
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func fails(err error) func(int) (int, error) { return func(int) (int, error) { return 0, err } }

func report(lines uint64) []byte { return fmt.Appendf(nil, "lost %d\n", lines) }

func writeLines(w *Writer, from, to int) {
	for i := from; i < to; i++ {
		fmt.Fprintf(w, "%d\n", i)
	}
}

func expectText(t *testing.T, o *output, want string) {
	t.Helper()
	if got := o.String(); got != want {
		t.Errorf("written: %q, want %q", got, want)
	}
}

func expectLost(t *testing.T, w *Writer, want uint64) {
	t.Helper()
	if got := w.Lost(); got != want {
		t.Errorf("%d lines are lost, want %d", got, want)
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o output
		w := New(&o, report)
		var want strings.Builder
		for i := range 20000 {
			fmt.Fprintf(w, "%d\n", i)
			fmt.Fprintf(&want, "%d\n", i)
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		long := strings.Repeat("x", 3*maxWrite) + "\n"
		w.Write([]byte(long))
		w.Close(time.Second)
		expectText(t, &o, want.String()+long)
		expectLost(t, w, 0)
	})
}

// What waits is bounded while nothing is taken, and all that was queued comes
// out in the end, with one line about the rest.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o output
		read := make(chan struct{})
		o.becomes(func(n int) (int, error) { <-read; return n, nil })
		w := New(&o, report)
		line := strings.Repeat("x", 99) + "\n"
		lines := 10 * MaxBytes / len(line)
		for i := range lines {
			fmt.Fprint(w, line)
			if i == 5 {
				synctest.Wait() // some are with the writer that blocks
			}
		}
		kept := MaxBytes / len(line)
		expectLost(t, w, uint64(lines-kept))
		if got := len(w.pending); got > MaxBytes {
			t.Errorf("%d bytes wait, more than %d", got, MaxBytes)
		}
		close(read)
		synctest.Wait()
		expectText(t, &o, strings.Repeat(line, kept)+fmt.Sprintf("lost %d\n", lines-kept))
		fmt.Fprint(w, line)
		w.Close(time.Second)
		if !strings.HasSuffix(o.String(), fmt.Sprintf("lost %d\n%s", lines-kept, line)) {
			t.Error("there is no room after the queue was written")
		}
	})
}

// Lines that an output refuses are counted, and the count is written when it
// takes lines again.
func TestFails(t *testing.T) {
	for _, err := range []error{syscall.EPIPE, syscall.ENOSPC, syscall.EIO, syscall.EBADF} {
		synctest.Test(t, func(t *testing.T) {
			var o output
			w := New(&o, report)
			writeLines(w, 0, 2)
			synctest.Wait()
			o.becomes(fails(err))
			writeLines(w, 2, 5)
			synctest.Wait()
			writeLines(w, 5, 9)
			synctest.Wait()
			expectLost(t, w, 7)
			expectText(t, &o, "0\n1\n")
			o.becomes(nil)
			writeLines(w, 9, 11)
			w.Close(time.Second)
			expectLost(t, w, 7)
			expectText(t, &o, "0\n1\nlost 7\n9\n10\n")
		})
	}
}

// Half a line does not spoil the next one.
func TestFailsWithinLine(t *testing.T) {
	for _, c := range []struct {
		taken int
		lost  uint64
		want  string
	}{
		{0, 3, "lost 3\nlast\n"},
		{3, 3, "fir\nlost 3\nlast\n"},
		{6, 2, "first\nlost 2\nlast\n"},
		{9, 2, "first\nsec\nlost 2\nlast\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var o output
			w := New(&o, report)
			o.becomes(func(int) (int, error) { return c.taken, syscall.ENOSPC })
			fmt.Fprint(w, "first\nsecond\nthird\n") // one write, for one chunk
			synctest.Wait()
			expectLost(t, w, c.lost)
			o.becomes(nil)
			fmt.Fprint(w, "last\n")
			w.Close(time.Second)
			expectText(t, &o, c.want)
		})
	}
}

// Nothing is lost at a descriptor that somebody else has made non-blocking.
func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o output
		w := New(&o, report)
		o.becomes(func(n int) (int, error) { return min(n, 1), syscall.EAGAIN })
		writeLines(w, 0, 3)
		time.Sleep(time.Second)
		o.becomes(nil)
		writeLines(w, 3, 5)
		w.Close(time.Second)
		expectText(t, &o, "0\n1\n2\n3\n4\n")
		expectLost(t, w, 0)
	})
}

// Close waits for the last line, but not for ever.
func TestClose(t *testing.T) {
	for _, c := range []struct{ slow, took time.Duration }{{300 * time.Millisecond, 300 * time.Millisecond}, {time.Minute, 500 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) {
			var o output
			w := New(&o, report)
			o.becomes(func(n int) (int, error) { time.Sleep(c.slow); return n, nil })
			begun := time.Now()
			writeLines(w, 0, 1)
			w.Close(500 * time.Millisecond)
			if took := time.Since(begun); took != c.took {
				t.Errorf("Close took %v, want %v", took, c.took)
			}
			writeLines(w, 3, 5)
			expectLost(t, w, 2)
			<-w.done
		})
	}
}

func TestNeverFails(t *testing.T) {
	w := New(&output{room: fails(errors.New("no"))}, report)
	defer w.Close(time.Second)
	if n, err := w.Write([]byte("line\n")); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
