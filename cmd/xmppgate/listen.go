package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"xmppgate/proxy/upstream"
)

// A listenAddress is an item of LISTEN or ADMIN_LISTEN.
type listenAddress struct {
	network string // tcp or unix
	name    string // host:port, or the path of a socket

	cleartext bool // no TLS in spite of TLS_CERT

	// Who may connect to a Unix socket. Without restricted the umask of the
	// process decides.
	restricted bool
	mode       fs.FileMode
	gid        int // -1 leaves it to the system
}

// groupMode is the mode of a socket that was given to a group.
const groupMode fs.FileMode = 0o660

// maxSocketPath is the length of the longest path of a socket in bytes.
const maxSocketPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// parseListen parses host:port or unix:/path, with options in a query.
func parseListen(s string) (listenAddress, error) {
	rest, unix := strings.CutPrefix(s, "unix:")
	if !unix {
		address, query, optional := strings.Cut(s, "?")
		_, port, err := net.SplitHostPort(address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return listenAddress{}, fmt.Errorf("%q is not an address: write host:port, :port or unix:/path", s)
		}
		if optional && query != "tls=off" {
			return listenAddress{}, fmt.Errorf("%q: the only option of a TCP address is ?tls=off", s)
		}
		return listenAddress{network: "tcp", name: address, cleartext: optional}, nil
	}
	path, query, _ := strings.Cut(rest, "?")
	a := listenAddress{network: "unix", name: path, gid: -1}
	switch {
	case !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
		return a, fmt.Errorf("%q has no absolute path: write unix:/path", s)
	case len(path) > maxSocketPath:
		return a, fmt.Errorf("%q is too long: a Unix socket allows at most %d bytes", s, maxSocketPath)
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return a, fmt.Errorf("%q has options that are not a query: write unix:/path?mode=0660&group=www-data", s)
	}
	for name, values := range options {
		if len(values) > 1 {
			return a, fmt.Errorf("%q: option %s listed twice", s, name)
		}
		switch name {
		case "mode":
			mode, err := strconv.ParseUint(values[0], 8, 32)
			if err != nil || mode == 0 || mode > 0o777 {
				return a, fmt.Errorf("%q: option mode: write permissions in octal, such as 0660", s)
			}
			a.mode = fs.FileMode(mode)
		case "group":
			if a.gid, err = lookupGroup(values[0]); err != nil {
				return a, fmt.Errorf("%q: option group: %w", s, err)
			}
		default:
			return a, fmt.Errorf("%q: unknown option %q; there are mode and group", s, name)
		}
	}
	a.restricted = len(options) > 0
	if a.restricted && a.mode == 0 {
		a.mode = groupMode
	}
	return a, nil
}

// lookupGroup returns the number of a group, which may be given as one.
func lookupGroup(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("group %q does not exist on this machine: write an existing one, or its number", name)
	}
	return strconv.Atoi(g.Gid)
}

func (a listenAddress) String() string {
	if a.network == "unix" {
		return "unix:" + a.name
	}
	return a.name
}

// overlaps reports whether a and b cannot be listened on at once.
func (a listenAddress) overlaps(b listenAddress) bool {
	if a.network != b.network {
		return false
	}
	if a.network == "unix" {
		return filepath.Clean(a.name) == filepath.Clean(b.name)
	}
	return a.covers(b.name) || b.covers(a.name)
}

// covers reports whether a connection to host:port would come to a.
func (a listenAddress) covers(address string) bool {
	host, port := splitHostPort(a.name)
	otherHost, otherPort := splitHostPort(address)
	if port != otherPort || port == 0 {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if host == "" || err == nil && ip.IsUnspecified() {
		// Package net listens on IPv4 and IPv6, whichever wildcard it is.
		return otherHost == "" || onThisMachine(otherHost)
	}
	return host == otherHost
}

// splitHostPort splits an address that is known to be valid. Spellings of the
// same host become the same.
func splitHostPort(address string) (host string, port uint64) {
	host, number, _ := net.SplitHostPort(address)
	port, _ = strconv.ParseUint(number, 10, 16)
	host = strings.ToLower(host)
	if host == "localhost" {
		host = "127.0.0.1" // what package net prefers
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return host, port
}

// onThisMachine reports whether an address belongs to this machine.
func onThisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	own, _ := net.InterfaceAddrs() // without them only loopback is known
	for _, a := range own {
		if n, err := netip.ParsePrefix(a.String()); err == nil && n.Addr() == ip {
			return true
		}
	}
	return false
}

// listenAll opens every address of a variable, or none. held, unless it is nil, returns
// the listeners that this process was given by another one.
func listenAll(variable string, addresses []listenAddress, held func(variable string, a listenAddress) (net.Listener, error)) ([]net.Listener, error) {
	var opened []net.Listener
	for _, address := range addresses {
		var l net.Listener
		var err error
		if held != nil {
			l, err = held(variable, address)
		}
		if l == nil && err == nil {
			l, err = listen(address)
		}
		if err != nil {
			closeAll(opened)
			return nil, explain(err, variable, address)
		}
		opened = append(opened, l)
	}
	return opened, nil
}

// usualOwners are those who usually listen on a port.
var usualOwners = map[uint64]string{
	80:   "a web server",
	443:  "a web server",
	5222: "the XMPP server, for its clients",
	5223: "the XMPP server, for its clients over TLS",
	5269: "the XMPP server, for other servers",
	5270: "the XMPP server, for other servers over TLS",
	5280: "ejabberd, or the HTTP modules of Prosody",
	5281: "the HTTP modules of Prosody, over TLS",
	5290: "another xmppgate",
	5443: "ejabberd, for HTTP over TLS",
	8080: "a web server",
	8280: "the page of xmppgate demo",
	9090: "Prometheus",
	9280: "another xmppgate",
}

// explain adds a remedy to an error of listen.
func explain(err error, variable string, a listenAddress) error {
	_, port := splitHostPort(a.name)
	owner, known := usualOwners[port]
	switch {
	case a.network == "unix" && errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: make the directory, or set %s%s", err, prefix, variable)
	case a.network == "unix":
		return err
	case errors.Is(err, syscall.EADDRINUSE) && known:
		return fmt.Errorf("%w: port %d usually belongs to %s; set %s%s to another one", err, port, owner, prefix, variable)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: set %s%s to another port", err, prefix, variable)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this machine has no such address; set %s%s to another one", err, prefix, variable)
	case errors.Is(err, fs.ErrPermission) && port < 1024:
		return fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE; set %s%s to another one", err, prefix, variable)
	}
	return err
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // a second Close is harmless
	}
}

// addresses names listeners as the configuration does, with the port that
// the system chose for port 0.
func addresses(listeners []net.Listener) string {
	var names []string
	for _, l := range listeners {
		name := l.Addr().String()
		if l.Addr().Network() == "unix" {
			name = "unix:" + name
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

func listen(a listenAddress) (net.Listener, error) {
	if a.network == "unix" {
		if err := removeStale(a.name); err != nil {
			return nil, err
		}
	}
	l, err := a.bind()
	if err != nil || !a.restricted {
		return l, err
	}
	if err := a.restrict(); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// bind opens the listener. Until restrict is called only root may connect to a
// socket with options.
func (a listenAddress) bind() (l net.Listener, err error) {
	lc := net.ListenConfig{KeepAliveConfig: upstream.KeepAlive}
	open := func() error {
		l, err = lc.Listen(context.Background(), a.network, a.name)
		return err
	}
	if a.restricted {
		err = withoutPermissions(open)
	} else {
		err = open()
	}
	return l, err
}

// restrict gives the socket its group and mode, in this order.
func (a listenAddress) restrict() error {
	if a.gid >= 0 {
		if err := os.Chown(a.name, -1, a.gid); err != nil {
			return fmt.Errorf("listen unix: %w: the user who runs xmppgate must be a member of the group", err)
		}
	}
	return os.Chmod(a.name, a.mode)
}

// removeStale removes the socket of a process that was killed. It keeps a socket
// that accepts connections, and any other file.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen unix: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen unix %s: the file exists and is not a socket", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("listen unix %s: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen unix: %w", err)
	}
	return os.Remove(path)
}

// checkSockets reports errors of listen that can be found without listening,
// because the gateway may be running.
func (c *config) checkSockets() error {
	var errs []error
	check := func(variable string, addresses []listenAddress) {
		for _, a := range addresses {
			err := checkHost(a, variable)
			if a.network == "unix" {
				err = checkSocket(a.name)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s%s: %s: %w", prefix, variable, a, err))
			}
		}
	}
	check("LISTEN", c.listeners)
	check("ADMIN_LISTEN", c.adminListeners)
	return errors.Join(errs...)
}

// checkHost reports whether this machine can listen at the host of an address. It
// tries a free port, because the configured one may belong to a running gateway.
func checkHost(a listenAddress, variable string) error {
	if a.network != "tcp" {
		return nil
	}
	host, _, _ := net.SplitHostPort(a.name)
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err == nil {
		return l.Close()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without the port
	}
	return explain(err, variable, a)
}

// checkSocket reports what keeps a socket from being made.
func checkSocket(path string) error {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the directory %s does not exist: make it, with RuntimeDirectory= in systemd for example", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case !writable(dir):
		return fmt.Errorf("the directory %s is not writable for the user who runs this", dir)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return errors.New("the file exists and is not a socket: remove it, or write another path")
	}
	return nil
}
