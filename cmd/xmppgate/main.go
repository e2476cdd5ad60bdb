// Command xmppgate lets XMPP clients that speak WebSocket (RFC 7395) talk to
// an XMPP server that speaks TCP (RFC 6120).
//
// It is configured by environment variables, and a file of them that
// XMPPGATE_CONFIG names. xmppgate --help lists them, the subcommands and the exit
// codes. SIGHUP makes it read the file again, and what it names.
//
// The first SIGINT or SIGTERM drains: /readyz fails at once, after
// XMPPGATE_DRAIN_DELAY no client is accepted any more, and the sessions are closed
// one after another, spread over XMPPGATE_DRAIN_TIMEOUT. The second one ends the process at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/caarlos0/env/v11"
)

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h
)

func main() {
	ctx := untilSignal(os.Exit)
	os.Exit(run(ctx, os.Args[1:], env.ToMap(os.Environ()), os.Stdout, os.Stderr))
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM.
// The second one calls exit: restoring the default action instead would leave
// process 1 of a container with a code that means something else.
func untilSignal(exit func(int)) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go watchSignals(signals, cancel, exit)
	return ctx
}

// watchSignals lives as long as the process.
func watchSignals(signals <-chan os.Signal, cancel context.CancelCauseFunc, exit func(int)) {
	cancel(errors.New((<-signals).String()))
	code := 128
	if s, ok := (<-signals).(syscall.Signal); ok {
		code += int(s)
	}
	exit(code)
}

// A process is what a command gets of the process that it runs in.
type process struct {
	args           []string // behind the command
	environ        map[string]string
	stdout, stderr io.Writer
}

// A command is one row of the table of subcommands.
type command struct {
	name, help string
	run        func(context.Context, process) int
	ownFlags   bool // parses its arguments itself; others take none
}

// commands returns the table. A variable would depend on itself, because the
// command help is a row and prints all rows.
func commands() []command {
	return slices.Concat([]command{
		{name: "serve", help: "relay until SIGTERM; the default", run: serve},
		{name: "check-config", help: "print the configuration, or what is wrong with it", run: checkConfig},
		{name: "healthcheck", help: "ask a running gateway for /healthz; for HEALTHCHECK of a container", run: healthcheck},
		{name: "reload", help: "tell a running gateway to read its configuration again; for ExecReload= of systemd", run: requestReload},
		{name: "drain", help: "tell a running gateway to drain; --wait stays until it is done", run: requestDrain, ownFlags: true},
		{name: "tap", help: "show what passes through a session of a running gateway, without content; tap --help has more", run: runTap, ownFlags: true},
		{name: "upgrade", help: "replace a running gateway by the program at its path; sessions go on", run: requestUpgrade},
		{name: "doctor", help: "examine the path from a client to its server; doctor --help has more", run: runDoctor, ownFlags: true},
	}, demoCommand, []command{
		{name: "completion", help: "print the completion of commands for a shell: bash, fish or zsh", run: printCompletion, ownFlags: true},
		{name: "man", help: "print the man page", run: printMan},
		{name: "version", help: "print the version", run: printVersion},
		{name: "help", help: "print this", run: printHelp},
	})
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, environ map[string]string, stdout, stderr io.Writer) int {
	p := process{args, environ, stdout, stderr}
	name := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, p.args = args[0], args[1:]
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
		if c.name != name {
			continue
		}
		if len(p.args) == 0 || c.ownFlags {
			return c.run(ctx, p)
		}
		switch arg := p.args[0]; {
		case arg == "-h" || arg == "-help" || arg == "--help":
			return printHelp(ctx, p)
		case arg == "-version" || arg == "--version":
			return printVersion(ctx, p)
		case strings.HasPrefix(arg, "-"):
			return p.usage("unknown flag", arg, []string{"--help", "--version"})
		default:
			return p.usage("unexpected argument", arg, nil)
		}
	}
	return p.usage("unknown command", name, names)
}

// usage reports a wrong command line.
func (p process) usage(problem, arg string, known []string) int {
	suggestion := ""
	if near, ok := nearest(arg, known); ok {
		suggestion = fmt.Sprintf(" Did you mean %s?", near)
	}
	fmt.Fprintf(p.stderr, "xmppgate: %s %q.%s Run xmppgate --help for usage.\n", problem, arg, suggestion)
	return exitUsage
}

// misconfigured prints every error of a configuration on a line of its own.
func (p process) misconfigured(err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.stderr, "xmppgate: %s\n", strings.TrimSuffix(line, "\n"))
	}
	return exitConfig
}

func checkConfig(_ context.Context, p process) int {
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	if err := c.checkSockets(); err != nil {
		return p.misconfigured(err)
	}
	for _, warning := range c.warnings() {
		fmt.Fprintf(p.stderr, "xmppgate: warning: %s\n", warning)
	}
	c.print(p.stdout)
	return exitOK
}

func printVersion(_ context.Context, p process) int {
	fmt.Fprintln(p.stdout, readBuild())
	return exitOK
}

func printHelp(_ context.Context, p process) int {
	fmt.Fprint(p.stdout, helpText())
	return exitOK
}
