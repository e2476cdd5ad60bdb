package proxy

import (
	"context"
	"fmt"
	"net"
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
// The returned function connects to it.
func ParseUpstream(s string) (dial func(context.Context) (net.Conn, error), err error) {
	network, address := "", ""
	switch {
	case strings.HasPrefix(s, "tcp://"):
		network, address = "tcp", strings.TrimPrefix(s, "tcp://")
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("upstream %q: write tcp://host:port", s)
		}
		if _, err := net.LookupPort("tcp", port); err != nil {
			return nil, fmt.Errorf("upstream %q: %q is no port", s, port)
		}
	case strings.HasPrefix(s, "unix:"):
		network, address = "unix", strings.TrimPrefix(s, "unix:")
		if !strings.HasPrefix(address, "/") {
			return nil, fmt.Errorf("upstream %q: write unix:/path", s)
		}
	default:
		return nil, fmt.Errorf("upstream %q: write tcp://host:port or unix:/path", s)
	}
	d := net.Dialer{KeepAliveConfig: KeepAlive}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }, nil
}
