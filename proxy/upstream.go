package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// KeepAlive is how TCP notices that the other machine is gone. The kernel's
// interval and count are left alone: each would be one more system call for
// every connection.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: -1, Count: -1}

// ParseUpstream reads the address of an XMPP server:
//
//	tcp://host:port   a stream in plain text
//	unix:/path        the same over a Unix socket
//
// The returned function connects to it; direct is its address unless that
// takes a look into DNS. See Gateway.
func ParseUpstream(s string) (dial func(context.Context) (net.Conn, error), direct net.Addr, err error) {
	network, address := "", ""
	switch {
	case strings.HasPrefix(s, "tcp://"):
		network, address = "tcp", strings.TrimPrefix(s, "tcp://")
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" {
			return nil, nil, fmt.Errorf("upstream %q: write tcp://host:port", s)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return nil, nil, fmt.Errorf("upstream %q: %q is no port", s, port)
		}
		if a, err := netip.ParseAddrPort(address); err == nil {
			direct = net.TCPAddrFromAddrPort(a)
		}
	case strings.HasPrefix(s, "unix:"):
		network, address = "unix", strings.TrimPrefix(s, "unix:")
		if !strings.HasPrefix(address, "/") {
			return nil, nil, fmt.Errorf("upstream %q: write unix:/path", s)
		}
		direct = &net.UnixAddr{Net: "unix", Name: address}
	default:
		return nil, nil, fmt.Errorf("upstream %q: write tcp://host:port or unix:/path", s)
	}
	d := net.Dialer{KeepAliveConfig: KeepAlive}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }, direct, nil
}
