//go:build !linux

package main

import (
	"context"
	"errors"
	"net"
)

var errNoUpgrade = errors.New("a running program is replaced on Linux only")

func (u *upgrader) replace(context.Context) error { return errNoUpgrade }

// A predecessor does not exist here.
type predecessor struct {
	hello
	conn *net.UnixConn
}

func inherit(map[string]string) (*predecessor, error) { return nil, nil }

func (p *predecessor) listener(string, listenAddress) (l net.Listener, borrowed bool, err error) {
	return nil, false, nil
}

func (p *predecessor) refuse(error) {}

func (p *predecessor) serves(error) error { return errNoUpgrade }

func (p *predecessor) close() {}
