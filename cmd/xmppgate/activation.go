package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// A sockets has the listeners that systemd has opened for this process (systemd.socket(5)),
// which lets it listen on ports that it may not open itself, and keeps clients waiting
// instead of refusing them while it restarts. Each takes the place of a configured
// address, which says what it is for.
type sockets struct {
	listeners []net.Listener        // not taken yet
	borrowed  map[net.Listener]bool // those in use that belong to systemd
}

// systemdSockets returns what systemd has passed, once.
func systemdSockets() (*sockets, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets of systemd: %w", err)
	}
	s := &sockets{borrowed: make(map[net.Listener]bool)}
	for _, l := range all {
		if l == nil {
			return nil, fmt.Errorf("systemd passes a socket that is none to listen on: write ListenStream= in its unit")
		}
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

// take returns the listener for an address, or nil.
func (s *sockets) take(a listenAddress) net.Listener {
	for i, l := range s.listeners {
		if a.is(l.Addr()) {
			s.listeners = append(s.listeners[:i:i], s.listeners[i+1:]...)
			s.borrowed[l] = true
			return l
		}
	}
	return nil
}

// unused is an error that names the listeners for which no address was configured.
func (s *sockets) unused() error {
	if len(s.listeners) == 0 {
		return nil
	}
	return fmt.Errorf("systemd listens on %s, which is in neither %sLISTEN nor %sADMIN_LISTEN: make ListenStream= of the socket unit and the variable the same",
		strings.ReplaceAll(addresses(s.listeners), ",", " and "), prefix, prefix)
}

// is reports whether a listener with the address l listens on a.
func (a listenAddress) is(l net.Addr) bool {
	if a.network != l.Network() {
		return false
	}
	if a.network == "unix" {
		return a.name == l.String()
	}
	host, port := splitHostPort(a.name)
	theirHost, theirPort := splitHostPort(l.String())
	return port == theirPort && (host == theirHost || unspecified(host) && unspecified(theirHost))
}

func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}
