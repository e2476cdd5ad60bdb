package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"xmppgate": main})
}

// leakless fails the tests when they leave goroutines behind.
type leakless struct{ *testing.M }

func (l leakless) Run() int {
	code := l.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":       scriptCode,
			"eventually": scriptEventually,
			"terminate":  scriptTerminate,
		},
	})
}

// scriptCode is "code N program args…": the program ends with exit code N.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// scriptEventually is "eventually program args…": the program succeeds within
// ten seconds, however often it has to run; with "!" it fails.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: [!] eventually program args...")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if (err != nil) == neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("it never came to that: %v", err)
		}
	}
}

// scriptTerminate sends SIGTERM to the programs in the background.
func scriptTerminate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: terminate")
	}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		second os.Signal
		code   int
	}{{os.Interrupt, 130}, {syscall.SIGTERM, 143}} {
		signals := make(chan os.Signal)
		exits := make(chan int)
		ctx, cancel := context.WithCancelCause(t.Context())
		go watchSignals(signals, cancel, func(code int) { exits <- code })
		signals <- syscall.SIGTERM
		<-ctx.Done()
		if cause := context.Cause(ctx).Error(); cause != "terminated" {
			t.Errorf("the first signal is reported as %q", cause)
		}
		signals <- c.second
		if code := <-exits; code != c.code {
			t.Errorf("%v: exit code %d, want %d", c.second, code, c.code)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"LISTEN", "ADMIN_LISTEN", "UPSTREAM", "PING_INTERVAL"}
	for word, want := range map[string]string{
		"LISTN":          "LISTEN",
		"LITSEN":         "LISTEN",
		"UPSTRAEM":       "UPSTREAM",
		"PINGINTERVAL":   "PING_INTERVAL",
		"PING_INTERVALL": "PING_INTERVAL",
		"COLOUR":         "",
		"":               "",
	} {
		if got, _ := nearest(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// The version of a build without a repository must still be a sentence.
func TestVersion(t *testing.T) {
	var out strings.Builder
	if code := run(t.Context(), []string{"--version"}, nil, &out, nil); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if strings.Contains(out.String(), "()") || !strings.HasPrefix(out.String(), "xmppgate ") {
		t.Errorf("%q", out.String())
	}
}
