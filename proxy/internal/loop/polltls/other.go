//go:build !linux

package polltls

import (
	"crypto/tls"
	"net"
)

// Client is tls.Client; see Config.
func Client(conn net.Conn, cfg *tls.Config) *tls.Conn { return tls.Client(conn, Config(cfg)) }

// Server is tls.Server; see Config.
func Server(conn net.Conn, cfg *tls.Config) *tls.Conn { return tls.Server(conn, Config(cfg)) }
