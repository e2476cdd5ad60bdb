//go:build !linux

package proxy

import (
	"context"
	"errors"
	"net"
)

// HandOver does nothing here: only the epoll loop moves sessions.
func (g *Gateway) HandOver(context.Context, *net.UnixConn, func(), func()) (moved int, err error) {
	return 0, errors.ErrUnsupported
}

// TakeOver does nothing here.
func (g *Gateway) TakeOver(*net.UnixConn, func(server string) (done func())) (taken int, err error) {
	return 0, errors.ErrUnsupported
}
