package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A connection that is accepted, made, used and ended by descriptors only.
func TestConnection(t *testing.T) {
	for network, address := range map[string]string{
		"tcp4": "127.0.0.1:0",
		"tcp6": "[::1]:0",
		"unix": filepath.Join(t.TempDir(), "s"),
	} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			raw, err := l.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			near, connected, err := Connect(l.Addr(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer Close(near)
			if !connected {
				t.Error("a server on this machine is not known to be connected")
			}
			var far uintptr
			for err = syscall.EAGAIN; err == syscall.EAGAIN; {
				raw.Control(func(fd uintptr) { far, _, err = Accept(fd) })
			}
			if err != nil {
				t.Fatal(err)
			}
			defer Close(far)
			if err := Error(near); err != nil {
				t.Fatal("not connected: ", err)
			}
			if network != "unix" {
				if got := Local(far).String(); got != l.Addr().String() {
					t.Errorf("local address %s, want %s", got, l.Addr())
				}
				for _, keepAlive := range []bool{false, true} {
					if keepAlive {
						KeepAlive(near, time.Minute)
					}
					option := func(level, name int) int {
						v, err := unix.GetsockoptInt(int(near), level, name)
						if err != nil {
							t.Error(err)
						}
						return v
					}
					if option(unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
						t.Error("waits before it sends")
					}
					if on := option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0; on != keepAlive {
						t.Errorf("looks after the other machine: %v", on)
					}
					if idle := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); keepAlive && idle != 60 {
						t.Errorf("looks after the other machine after %d s", idle)
					}
				}
			}

			if _, err := Read(near, make([]byte, 1)); err != syscall.EAGAIN {
				t.Errorf("nothing to read: %v", err)
			}
			var want []byte
			var pieces [][]byte
			for i := range 3 * len(gather{}.vec) {
				p := bytes.Repeat([]byte{byte(i)}, 1+i%5)
				pieces = append(pieces, p)
				want = append(want, p...)
			}
			if n, err := Gather(far, pieces); n != len(want) || err != nil {
				t.Fatal(n, err)
			}
			Finish(far)
			var got []byte
			for b := make([]byte, 100); ; {
				n, err := Read(near, b)
				if err == nil && n == 0 {
					break
				}
				if err != nil && err != syscall.EAGAIN {
					t.Fatal(err)
				}
				got = append(got, b[:n]...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d", len(got), len(want))
			}

			// What does not fit is not written, which is no error.
			big := make([]byte, 64<<20)
			n, err := Write(near, big)
			if n == 0 || n == len(big) || err != nil {
				t.Errorf("wrote %d: %v", n, err)
			}
			if u := Unsent(near); u <= 0 || network != "unix" && u > n {
				t.Errorf("%d written, %d unsent", n, u)
			}
		})
	}
}

func TestConnectFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, _, err := Connect(l.Addr(), time.Minute); err != syscall.ECONNREFUSED {
		t.Error(err)
	}
	if _, _, err := Connect(&net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "none")}, 0); err != syscall.ENOENT {
		t.Error(err)
	}
	zone := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "lo"}
	if _, _, err := Connect(zone, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := Write(^uintptr(0), []byte("x")); err == nil || errors.Is(err, io.EOF) {
		t.Error("wrote to no socket: ", err)
	}
}
