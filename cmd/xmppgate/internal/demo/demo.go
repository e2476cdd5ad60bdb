// Package demo is the subcommand that shows the gateway: it starts a Prosody of
// its own, a gateway and a chat page, all on loopback, and removes everything at
// the end. The rest of the program does not depend on it: a build with the tag
// nodemo contains nothing of it.
//
//	demo.go     flags, and the order in which things start and end
//	prosody.go  finding, downloading, starting and ending Prosody
//	page.go     the HTTP server of the page
//	page/       the page: an XMPP client in JavaScript
package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"xmppgate/cmd/xmppgate/internal/logqueue"
	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

// options are the flags of the demo. It takes no environment: it shows the
// gateway, it does not run one for others.
type options struct {
	upstream string
	gateway  string
	domain   string
	password string
	listen   string
	page     string

	foreground bool
}

const usage = `Usage: xmppgate demo [flags]

Starts a Prosody of its own, the gateway and a chat page, all on loopback, and
removes everything at Ctrl-C.

Flags:
`

// errNoServer says what to do if no Prosody is found.
var errNoServer = errors.New(`no Prosody found. One of these helps:

  install it     sudo apt-get install prosody   (or brew, dnf, apk)
  use Docker     docker compose -f deploy/compose.yaml up --build
  use your own   xmppgate demo --upstream tcp://host:port --domain example.org`)

// The exit statuses of Run; xmppgate --help lists them.
const (
	exitOK     = 0 // ended by a signal, or by the end of the context
	exitFailed = 1
	exitUsage  = 2 // wrong flags, or the user has to install something first
)

// Run is the subcommand demo with its arguments. It returns the exit status.
// It watches for signals itself: a second one must not keep it from ending the
// server that it started.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	// A closed terminal ends the demo as well, so that no server is left.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	var o options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.upstream, "upstream", "", "use this `server` instead of starting one: tcp://host:port, or any other URL of XMPPGATE_UPSTREAM except srv:")
	flags.StringVar(&o.gateway, "gateway", "", "serve only the page, for the gateway at this WebSocket `URL`")
	flags.StringVar(&o.domain, "domain", "localhost", "XMPP `domain` of the accounts")
	flags.StringVar(&o.password, "password", "", "`password` that the page fills in, for accounts made to be shown")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:5290", "`address` of the gateway; the next free port if taken")
	flags.StringVar(&o.page, "page", "127.0.0.1:8280", "`address` of the page; the next free port if taken")
	flags.BoolVar(&o.foreground, "foreground", false, "take the terminal from the program that started this one, such as make: Ctrl-C ends the demo only")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "demo: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	case o.upstream != "" && o.gateway != "":
		fmt.Fprintln(stderr, "demo: --upstream and --gateway exclude each other")
		return exitUsage
	}

	if o.foreground {
		defer takeTerminal()()
	}
	switch err := serve(ctx, o, stdout, stderr); {
	case err == nil, ctx.Err() != nil: // Ctrl-C, at whatever moment
		return exitOK
	case errors.Is(err, errNoServer):
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return exitFailed
	}
}

// serve runs until ctx ends or something dies. Everything it starts is
// undone by its deferred calls, however far it came.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	failed := make(chan error, 3)
	page := chatPage{Endpoint: o.gateway, Domain: o.domain, Password: o.password}
	where := []string{} // "what  where" lines for the reader

	address := o.upstream
	if address == "" && o.gateway == "" {
		server, err := startProsody(ctx, stderr)
		if err != nil {
			return err
		}
		defer server.stop()
		go func() {
			<-server.exited
			failed <- fmt.Errorf("prosody ended by itself\n%s", server.logTail())
		}()
		address = "tcp://" + server.addr
		page.Domain, page.Password = domain, password
		where = append(where, fmt.Sprintf("server   %s  Prosody, in %s", address, server.dir))
	}

	if o.gateway == "" {
		endpoint, stop, err := startGateway(ctx, address, o, stderr, failed)
		if err != nil {
			return err
		}
		defer stop()
		page.Endpoint = endpoint
		where = append(where, "gateway  "+endpoint+"  for any XMPP client that speaks WebSocket")
	}

	listener, err := listenNear(o.page)
	if err != nil {
		return err
	}
	handler, err := page.handler()
	if err != nil {
		listener.Close()
		return err
	}
	server := newPageServer(handler)
	go func() { failed <- fmt.Errorf("page: %w", server.Serve(listener)) }()
	defer server.Close()

	host := *listener.Addr().(*net.TCPAddr)
	if host.IP.IsUnspecified() { // in a container: its port is published elsewhere
		host.IP = net.IPv4(127, 0, 0, 1)
	}
	link := func(who, other string) string {
		q := url.Values{"jid": {who + "@" + page.Domain}, "to": {other + "@" + page.Domain}}
		if page.Password != "" { // the page then connects at once
			q.Set("password", page.Password)
		}
		readable := strings.ReplaceAll(q.Encode(), "%40", "@")
		return "http://" + host.String() + "/?" + readable
	}
	fmt.Fprintf(stdout, "\n  Alice    %s\n  Bob      %s\n\n", link("alice", "bob"), link("bob", "alice"))
	if page.Password != "" {
		fmt.Fprint(stdout, "  Open both in a browser: they log in at once, and the two can chat.\n\n")
	}
	for _, line := range where {
		fmt.Fprintf(stdout, "  %s\n", line)
	}
	fmt.Fprintln(stdout, "\n  Ctrl-C stops everything and removes it.")

	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// checkTimeout is how long the server of --upstream may take to answer.
const checkTimeout = 10 * time.Second

// startGateway relays until stop is called and returns the URL for clients. A
// server that does not answer is an error: the page could only say so later.
func startGateway(ctx context.Context, server string, o options, log io.Writer, failed chan<- error) (endpoint string, stop func(), err error) {
	parsed, err := upstream.ParseServer(server)
	if err != nil {
		return "", nil, err
	}
	router, err := upstream.NewRouter(upstream.Config{Default: []*upstream.Server{parsed}})
	if err != nil {
		return "", nil, err
	}
	listener, err := listenNear(o.listen)
	if err != nil {
		return "", nil, err
	}
	if listener.Addr().(*net.TCPAddr).IP.IsUnspecified() {
		listener.Close()
		return "", nil, fmt.Errorf("listen on %q: the page has to name one host, such as 127.0.0.1", o.listen)
	}
	check, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no answer in %v", checkTimeout))
	defer cancel()
	if err := router.Check(check); err != nil {
		listener.Close()
		return "", nil, fmt.Errorf("no XMPP server answers at %s. Is it running, and is this its port for clients, usually 5222?\n\n  %w", server, err)
	}
	// A terminal may be stopped: sessions do not wait for it.
	lines := logqueue.New(log, func(lost uint64) []byte { return fmt.Appendf(nil, "%d log lines were lost\n", lost) })
	gateway := &proxy.Gateway{Config: proxy.Config{
		Dial:   router.Connect,
		Static: router.Static,
		Log:    slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelWarn})),
		// AllowedOrigins stays open: other web clients may try this gateway too,
		// and it is as private as the loopback interface.
	}}
	go func() { failed <- fmt.Errorf("gateway: %w", gateway.Serve(listener)) }()
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		gateway.Shutdown(ctx) // late sessions die with the process
		lines.Close(500 * time.Millisecond)
	}
	return "ws://" + listener.Addr().String() + proxy.DefaultPaths[0], stop, nil
}

// listenNear listens at address or, when its port is taken, at one of the ports
// after it.
func listenNear(address string) (net.Listener, error) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", address, err)
	}
	for last := port + 20; ; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || port == last {
			return l, err
		}
	}
}
