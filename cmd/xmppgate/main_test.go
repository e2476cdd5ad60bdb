package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// programs are what the tests run as processes of their own.
var programs = map[string]func(){"xmppgate": main, "get": getMain, "session": sessionMain}

func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, programs)
}

// leakless fails the tests when they leave goroutines behind.
type leakless struct{ *testing.M }

func (l leakless) Run() int {
	code := l.M.Run()
	// Package net/http waits half a second there for the end of a client that
	// was refused.
	if err := goleak.Find(goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")); err != nil && code == 0 {
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
			"server":     scriptServer,
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

// scriptServer is "server path": an XMPP server at a Unix socket, until the
// script ends. Its streams have the name of the socket for an id.
func scriptServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: server path")
	}
	path := ts.MkAbs(args[0])
	l, err := net.Listen("unix", path)
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go acceptStreams(l, filepath.Base(path))
}

// getMain is the program "get socket path": it asks the admin endpoints and
// prints the answer. It fails unless that is 200.
func getMain() {
	status, body, err := get(os.Args[1], os.Args[2])
	if err != nil {
		body = err.Error() + "\n"
	}
	fmt.Print(body)
	if status != http.StatusOK {
		os.Exit(1)
	}
}

// sessionMain is the program "session socket domain": it opens a stream, prints
// what it gets up to the features, or to the end of the session, and leaves.
func sessionMain() {
	c, err := dialGateway(context.Background(), os.Args[1])
	if err == nil {
		defer c.Close()
		err = sendOpen(c, os.Args[2])
	}
	for received := ""; err == nil && !strings.Contains(received, "features"); {
		var h ws.Header
		if h, err = ws.ReadHeader(c); err != nil {
			break
		}
		payload := make([]byte, h.Length)
		_, err = io.ReadFull(c, payload)
		if received = string(payload); h.OpCode == ws.OpClose {
			break
		}
		fmt.Println(received)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
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
