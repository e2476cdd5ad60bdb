// Package doctor is the subcommand that examines the path from a client to its
// XMPP server, as the client sees it, and says what to change where.
//
// It knows nothing of the gateway: what answers may be xmppgate, the WebSocket
// module of Prosody or that of ejabberd, with any proxy in front. Everything that
// answers is taken for hostile: every step has a deadline, everything read has a
// limit, and nothing is printed before [report.clean] has seen it.
//
//	doctor.go    the command line, and the order of the checks
//	findings.go  the table: what can be wrong, and what to change in which product
//	report.go    the lines, as text and as JSON; secrets and control characters
//	discover.go  host-meta (XEP-0156)
//	reach.go     DNS, TCP, TLS and the certificate
//	upgrade.go   the handshake of the WebSocket, and what answers in its place
//	products.go  how to recognise what answers
//	socket.go    messages of a WebSocket
//	element.go   the XML of one message
//	stream.go    the XMPP stream: headers, features, stream errors
//	login.go     SASL
//	session.go   what a logged-in client does: bind, echo, large messages, resumption
//	idle.go      how long the path stays open in silence
//
// To recognise one more fault, add a row to the table in findings.go and report it
// where it shows.
package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// The exit statuses of Run.
const (
	ExitOK       = 0 // neither warning nor failure
	ExitFailed   = 1 // at least one failure, or interrupted
	ExitUsage    = 2 // wrong command line; nothing was examined
	ExitWarnings = 3 // warnings and no failure
)

const usage = `Usage: xmppgate doctor [flags] URL
       xmppgate doctor [flags] DOMAIN

Examines the path from a client to its XMPP server: host-meta, DNS, TCP, TLS, the
proxies in front, the WebSocket, the XMPP stream. With --jid also login, messages,
resumption and the idle time. URL is that of the WebSocket (wss:// or ws://); with
DOMAIN it is taken from the domain's host-meta, as clients do.

Exit codes: 0 all is well, 1 failures, 2 wrong command line, 3 warnings only.

Flags:
`

// options are the flags.
type options struct {
	target       string
	domain       string
	jid          string
	passwordFile string
	origin       string
	ca           string
	idle         time.Duration
	timeout      time.Duration
	large        int
	json         bool
	allowPlain   bool
}

// The bounds of flags.
const (
	defaultIdle    = 90 * time.Second
	defaultTimeout = 15 * time.Second // above the 10 s that xmppgate takes to give up a server
	defaultLarge   = 60000            // bytes: below 65,536, the least limit in use
	largestLarge   = 8 << 20          // bytes
	maxPassword    = 4 << 10          // bytes
	maxCAFile      = 4 << 20          // bytes
)

// Run is the subcommand doctor with its arguments. It returns the exit status.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.domain, "domain", "", "XMPP `domain` to ask for, if it is not that of the JID or the host of the URL")
	flags.StringVar(&o.jid, "jid", "", "`account` to log in with, as in user@example.org")
	flags.StringVar(&o.passwordFile, "password-file", "", "`file` with the password of the account; - is the standard input")
	flags.StringVar(&o.origin, "origin", "", "`origin` of the web page that will connect, as in https://chat.example.org")
	flags.StringVar(&o.ca, "ca", "", "trust the certificates in this PEM `file` besides those of the system")
	flags.DurationVar(&o.idle, "idle", defaultIdle, "how long to be silent, to see whether the path stays open; 0 skips that")
	flags.DurationVar(&o.timeout, "timeout", defaultTimeout, "how long one step may take")
	flags.IntVar(&o.large, "large", defaultLarge, "`bytes` of the large message; 0 skips it")
	flags.BoolVar(&o.json, "json", false, "print one JSON object instead of lines")
	flags.BoolVar(&o.allowPlain, "allow-plain", false, "send the password by PLAIN even without TLS")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	var rest []string
	for { // flags may stand on both sides of the target
		switch err := flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			return ExitOK
		case err != nil:
			return ExitUsage
		}
		if flags.NArg() == 0 {
			break
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
	if len(rest) > 0 {
		o.target, rest = rest[0], rest[1:]
	}
	x, err := newExamination(o, rest, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "doctor: %v\n", err)
		return ExitUsage
	}
	x.report = newReport(stdout, o.json, x.secrets()...)
	x.notes = stderr
	x.run(ctx)
	return x.report.finish()
}

// An examination is one run over one path.
type examination struct {
	options
	report *report
	notes  io.Writer // progress, for people
	roots  *x509.CertPool

	lookup   func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dialTCP  func(ctx context.Context, address string) (net.Conn, error)
	hostMeta string   // host[:port] to ask for host-meta; empty if the URL is given
	insecure bool     // ask by http, as the command line says
	url      *url.URL // of the WebSocket, once it is known

	local, password string // of the account
	address         netip.AddrPort
	seen            products // what has answered so far
	bindings        []string // types of channel binding on offer
	sasl2           bool     // log in by SASL2 (XEP-0388), because the server offers nothing else
	beside          []string // mechanisms of SASL2, where both are on offer
	deflates        bool     // compression works
	interrupted     func() bool
}

// newExamination checks the command line. Errors do not quote arguments: one may be
// a password that ended up in the wrong place.
func newExamination(o options, rest []string, stdin io.Reader) (*examination, error) {
	x := &examination{options: o, lookup: net.DefaultResolver.LookupNetIP}
	x.dialTCP = func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{Timeout: x.timeout}).DialContext(ctx, "tcp", address)
	}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(rest) > 0 {
		fail("one argument is expected, the URL or the domain, and flags begin with --")
	}
	if err := x.parseTarget(o.target); err != nil {
		fail("%w", err)
	}
	if o.jid != "" {
		bare, _, _ := strings.Cut(o.jid, "/")
		local, domain, ok := strings.Cut(bare, "@")
		if !ok || local == "" || domain == "" {
			fail("--jid must be of the form user@example.org")
		} else {
			x.local = local
			if x.domain == "" {
				x.domain = domain
			}
		}
	}
	if x.domain == "" {
		switch {
		case x.url != nil:
			x.domain = x.url.Hostname()
		case x.hostMeta != "":
			x.domain = (&url.URL{Host: x.hostMeta}).Hostname()
		}
	}
	if (o.jid == "") != (o.passwordFile == "") {
		fail("--jid and --password-file belong together; --password-file - reads the standard input")
	}
	if o.timeout <= 0 || o.idle < 0 || o.timeout > time.Hour || o.idle > 24*time.Hour {
		fail("--timeout must be positive and at most 1h, --idle must be 0 to 24h")
	}
	if o.large < 0 || o.large > largestLarge {
		fail("--large must be 0 to %d", largestLarge)
	}
	if o.origin != "" {
		if u, err := url.Parse(o.origin); o.origin != "null" && (err != nil || u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "") || hasControl(o.origin) {
			fail("--origin must be of the form https://chat.example.org")
		}
	}
	if o.ca != "" {
		pem, err := readLimited(o.ca, maxCAFile)
		pool, poolErr := x509.SystemCertPool()
		if poolErr != nil {
			pool = x509.NewCertPool()
		}
		switch {
		case err != nil:
			fail("--ca: %w", err)
		case !pool.AppendCertsFromPEM(pem):
			fail("--ca: the file has no certificate in PEM")
		}
		x.roots = pool
	}
	if len(errs) == 0 && o.passwordFile != "" {
		if err := x.readPassword(stdin); err != nil {
			fail("--password-file: %w", err)
		}
	}
	return x, errors.Join(errs...)
}

// parseTarget understands a URL of a WebSocket, an origin that has host-meta, or a
// domain.
func (x *examination) parseTarget(target string) error {
	const want = "the URL of the WebSocket (wss://…) or a domain is expected"
	if target == "" || hasControl(target) {
		return errors.New(want)
	}
	if !strings.Contains(target, "://") {
		host := target
		if h, port, err := net.SplitHostPort(target); err == nil && port != "" {
			host = h
		}
		if host == "" || strings.ContainsAny(host, "/@?#: ") {
			return errors.New(want)
		}
		x.hostMeta = strings.Replace(target, host, ascii(host), 1)
		if x.domain == "" {
			x.domain = host
		}
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return errors.New(want)
	}
	if u.User != nil {
		return errors.New("a URL with a user or a password in it is of no use to clients: leave them out")
	}
	u.Fragment = ""
	u.Host = strings.Replace(u.Host, u.Hostname(), ascii(u.Hostname()), 1)
	switch u.Scheme {
	case "ws", "wss":
		x.url = u
	case "http", "https":
		x.hostMeta, x.insecure = u.Host, u.Scheme == "http"
	default:
		return errors.New(want)
	}
	return nil
}

// ascii is a host as DNS, TLS and HTTP name it. What IDNA does not know, such as an
// address, stays as it is.
func ascii(host string) string {
	if a, err := idna.Lookup.ToASCII(host); err == nil {
		return a
	}
	return host
}

func (x *examination) readPassword(stdin io.Reader) (err error) {
	var text []byte
	if x.passwordFile == "-" {
		text, err = io.ReadAll(io.LimitReader(stdin, maxPassword+1))
	} else {
		text, err = readLimited(x.passwordFile, maxPassword)
	}
	if err != nil {
		return err
	}
	// Editors end a file with a line feed that is not part of the password.
	text, rest, _ := bytes.Cut(text, []byte("\n"))
	text = bytes.TrimSuffix(text, []byte("\r"))
	switch {
	case len(text) > maxPassword:
		return fmt.Errorf("the password is longer than %d bytes", maxPassword)
	case len(text) == 0:
		return errors.New("the first line is empty")
	case len(bytes.TrimSpace(rest)) > 0:
		return errors.New("there is more than one line")
	}
	x.password = string(text)
	return nil
}

// readLimited reads a file that must not be longer than limit.
func readLimited(name string, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("the file is larger than %d bytes", limit)
	}
	return text, err
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// within returns a context for one step.
func (x *examination) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, x.timeout)
}

// deadline returns the moment when a step that starts now is over.
func (x *examination) deadline(ctx context.Context) time.Time {
	end := time.Now().Add(x.timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		return d
	}
	return end
}

// run makes the checks in order. One that fails so that nothing behind it can work
// ends the examination; what is left out then is said at the end.
func (x *examination) run(ctx context.Context) {
	x.interrupted = func() bool { return ctx.Err() != nil }
	defer func() { x.report.interrupted = x.interrupted() }()
	if x.url != nil {
		x.report.target(printableURL(x.url), x.domain)
	}
	for _, step := range []struct {
		check func(context.Context) bool
		rest  string // what cannot be examined when the check fails
	}{
		{x.discover, "dns and what follows"},
		{x.reach, "upgrade and what follows"},
		{x.upgrades, "stream and what follows"},
		{x.streams, "login and what follows"},
	} {
		if !step.check(ctx) {
			why := "they need what failed"
			if x.interrupted() {
				why = "interrupted"
			}
			x.report.skip([]string{step.rest}, why)
			return
		}
	}
}
