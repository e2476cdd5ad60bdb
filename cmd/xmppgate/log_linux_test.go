package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// These tests give the program a log that nobody reads.

// startWith runs the program with stderr as its log and waits until it serves.
func startWith(t *testing.T, stderr *os.File, environ ...string) *gatewayProcess {
	t.Helper()
	g := newGateway(t, environ...)
	g.Stdout, g.Stderr = stderr, stderr
	g.begin()
	return g
}

var lostMetric = regexp.MustCompile(`(?m)^xmppgate_log_lines_lost_total (\d+)$`)

func (g *gatewayProcess) linesLost() int {
	g.t.Helper()
	_, body := g.get("/metrics")
	n, err := strconv.Atoi(lostMetric.FindStringSubmatch(body)[1])
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// works passes a session from its begin to its end, and a second one that the
// drain ends.
func (g *gatewayProcess) works() {
	g.t.Helper()
	g.open().Close()
	g.open().Close()
	g.eventually("sessions do not end", func() bool {
		_, body := g.get("/metrics")
		return strings.Contains(body, `xmppgate_sessions_ended_total{ending="client-lost"} 2`)
	})
}

// fill leaves no room in a pipe for another byte.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	fd := int(pipe.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{4096, 1} {
		for {
			if _, err := syscall.Write(fd, make([]byte, size)); errors.Is(err, syscall.EAGAIN) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestLogNobodyReads(t *testing.T) {
	_, w := newPipe(t)
	fill(t, w)
	g := startWith(t, w)
	g.works()
	g.drains()
}

// A pipe that another process has made non-blocking.
func TestLogThatIsNonblocking(t *testing.T) {
	_, w := newPipe(t)
	fill(t, w)
	if err := syscall.SetNonblock(int(w.Fd()), true); err != nil {
		t.Fatal(err)
	}
	g := startWith(t, w)
	g.works()
	g.drains()
}

func TestLogReaderIsGone(t *testing.T) {
	r, w := newPipe(t)
	g := startWith(t, w)
	r.Close()
	g.works()
	g.eventually("no lost line is counted", func() bool { return g.linesLost() >= 2 })
	g.drains()
}

func TestLogDiskIsFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	g := startWith(t, full)
	g.works()
	g.eventually("no lost line is counted", func() bool { return g.linesLost() == 3 }) // with "serving"
	g.drains()
}

func TestLogIsClosed(t *testing.T) {
	path, err := exec.LookPath("xmppgate")
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t)
	closed := exec.Command("/bin/sh", "-c", `exec "$0" >&- 2>&-`, path)
	closed.Env, g.Cmd = g.Env, closed
	g.begin()
	g.works()
	g.drains()
}

// When somebody reads again the log goes on, and says how much is missing.
func TestLogIsReadAgain(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	g := startWith(t, w)
	w.Close()
	// The line of the start is written after the admin listener answers.
	for lines := bufio.NewScanner(first); lines.Scan() && !strings.Contains(lines.Text(), `"serving"`); {
	}
	first.Close()
	g.works()
	g.eventually("no lost line is counted", func() bool { return g.linesLost() >= 2 })

	second, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	g.stderr = bufio.NewScanner(second)
	g.open().Close()
	g.logs("log lines were lost: whatever reads the log was too slow or gone, or the disk was full")
	if !strings.Contains(g.stderr.Text(), `"lines":2`) {
		t.Error(g.stderr.Text())
	}
	g.logs("session ended")
	g.signal(syscall.SIGTERM)
	g.logs("drained") // flushed
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if rest, _ := io.ReadAll(second); len(rest) > 0 {
		t.Errorf("behind it: %s", rest)
	}
}
