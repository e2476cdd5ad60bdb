package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"xmppgate/proxy/upstream"
)

// listenAll opens every address, or none.
func listenAll(addresses []string) ([]net.Listener, error) {
	var opened []net.Listener
	for _, address := range addresses {
		l, err := listen(address)
		if err != nil {
			closeAll(opened)
			return nil, err
		}
		opened = append(opened, l)
	}
	return opened, nil
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

// splitAddress turns an address of the configuration into one of package net.
func splitAddress(address string) (network, name string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", address
}

func listen(address string) (net.Listener, error) {
	network, name := splitAddress(address)
	if network == "unix" {
		if err := removeStale(name); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{KeepAliveConfig: upstream.KeepAlive}
	return lc.Listen(context.Background(), network, name)
}

// removeStale removes the socket that a process left behind when it was
// killed. A socket where somebody answers stays, and so does any other file.
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
