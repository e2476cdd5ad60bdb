package socket

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Direct tells that Read and Gather work here. None of these calls waits, so
// the scheduler need not know: one that knows wakes its monitor, which then runs
// for a millisecond at least.
const Direct = true

// nonblocking is how sockets are made.
const nonblocking = unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

// Accept takes one connection of a listener. client is not valid for a Unix
// socket. The error is syscall.EAGAIN when there is none.
func Accept(listener uintptr) (fd uintptr, client netip.AddrPort, err error) {
	for {
		var from unix.RawSockaddrAny
		size := uint32(unsafe.Sizeof(from))
		n, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, listener, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)), nonblocking, 0, 0)
		switch e {
		case 0:
			return n, addressOf(&from), nil
		case syscall.EINTR:
			continue
		}
		return 0, client, e
	}
}

// addressOf is not valid for a Unix socket.
func addressOf(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), networkOrder(a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), networkOrder(a.Port))
	}
	return netip.AddrPort{}
}

// Local is the address of this end of a socket, not valid for a Unix socket.
func Local(fd uintptr) netip.AddrPort {
	var a unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(a))
	if _, _, e := syscall.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size))); e != 0 {
		return netip.AddrPort{}
	}
	return addressOf(&a)
}

// networkOrder turns a port from the order of the network to that of the
// machine, or back.
func networkOrder(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return binary.BigEndian.Uint16(b[:])
}

// Conn returns a connection for a copy of fd, which stays open. It waits in the runtime's
// poller, has no addresses, and costs half as many system calls as net.FileConn.
func Conn(fd uintptr) (net.Conn, error) {
	copied, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return fileConn{os.NewFile(uintptr(copied), "socket")}, nil
}

// A fileConn is a connection of which only the bytes matter.
type fileConn struct{ *os.File }

func (fileConn) LocalAddr() net.Addr  { return noAddr{} }
func (fileConn) RemoteAddr() net.Addr { return noAddr{} }

type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "" }

// Connect begins to connect. connected reports whether that has ended already, as it has
// where the server is near; otherwise the descriptor is writable when it has ended, see
// Error. keepAlive is for KeepAlive; servers on this machine need none. The error is
// errors.ErrUnsupported for an address that only package net understands.
func Connect(to net.Addr, keepAlive time.Duration) (fd uintptr, connected bool, err error) {
	var (
		family, size uintptr
		addr         unsafe.Pointer
		near         bool
	)
	switch to := to.(type) {
	case *net.TCPAddr:
		a := to.AddrPort().Addr().Unmap()
		near = a.IsLoopback()
		switch {
		case a.Is4():
			r := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(uint16(to.Port)), Addr: a.As4()}
			family, addr, size = unix.AF_INET, unsafe.Pointer(r), unix.SizeofSockaddrInet4
		case a.Is6() && a.Zone() == "":
			r := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(uint16(to.Port)), Addr: a.As16()}
			family, addr, size = unix.AF_INET6, unsafe.Pointer(r), unix.SizeofSockaddrInet6
		}
	case *net.UnixAddr:
		r := &unix.RawSockaddrUnix{Family: unix.AF_UNIX}
		if len(to.Name) < len(r.Path) {
			for i := range len(to.Name) {
				r.Path[i] = int8(to.Name[i])
			}
			family, addr, size = unix.AF_UNIX, unsafe.Pointer(r), unix.SizeofSockaddrUnix
		}
	}
	if family == 0 {
		return 0, false, errors.ErrUnsupported
	}
	fd, _, e := syscall.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|nonblocking, 0)
	if e != 0 {
		return 0, false, e
	}
	switch {
	case family == unix.AF_UNIX:
	case near:
		NoDelay(fd)
	default:
		KeepAlive(fd, keepAlive)
	}
	// Linux says EINPROGRESS even of what has ended meanwhile. A second call tells.
	for range 2 {
		_, _, e = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(addr), size)
		switch e {
		case 0, syscall.EISCONN:
			return fd, true, nil
		case syscall.EINPROGRESS, syscall.EALREADY, syscall.EINTR:
		default:
			Close(fd)
			return 0, false, e
		}
	}
	return fd, false, nil
}

// NoDelay makes TCP send what it is given at once.
func NoDelay(fd uintptr) { set(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// KeepAlive is NoDelay, and makes TCP look after idle time whether the other machine is
// still there. The connections of a listener inherit both.
func KeepAlive(fd uintptr, idle time.Duration) {
	NoDelay(fd)
	set(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	set(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(idle/time.Second))
}

func set(fd, level, option uintptr, value int32) {
	syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, level, option, uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
}

// Error is how Connect has ended that had not ended at once.
func Error(fd uintptr) error {
	var value, size = int32(0), uint32(4)
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if e == 0 {
		e = syscall.Errno(value)
	}
	if e != 0 {
		return e
	}
	return nil
}

// Close closes a socket, which takes no time without SO_LINGER.
func Close(fd uintptr) { syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0) }

// Finish sends FIN.
func Finish(fd uintptr) { syscall.RawSyscall(unix.SYS_SHUTDOWN, fd, unix.SHUT_WR, 0) }

// Read reads once without waiting; b is not empty. The error is syscall.EAGAIN
// when there is nothing now; nothing and no error is the end.
func Read(fd uintptr, b []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, e
	}
}

// Write writes what fits without waiting and returns how much that was; b is
// not empty. An error means that the connection is broken.
func Write(fd uintptr, b []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, nil
		}
		return 0, e
	}
}

// gather is what sendmsg needs; it is kept because the kernel's view of it
// must not live on a stack.
type gather struct {
	vec [64]unix.Iovec
	msg unix.Msghdr
}

var gathers = sync.Pool{New: func() any { return new(gather) }}

// Gather is Write for many pieces, none of them empty, in one system call.
func Gather(fd uintptr, pieces [][]byte) (n int, err error) {
	if len(pieces) == 1 {
		return Write(fd, pieces[0])
	}
	g := gathers.Get().(*gather)
	defer gathers.Put(g)
	for len(pieces) > 0 {
		k, want := 0, 0
		for ; k < min(len(pieces), len(g.vec)); k++ {
			g.vec[k].Base = &pieces[k][0]
			g.vec[k].SetLen(len(pieces[k]))
			want += len(pieces[k])
		}
		g.msg.Iov = &g.vec[0]
		g.msg.SetIovlen(k)
		r, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&g.msg)), syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
		clear(g.vec[:k])
		switch e {
		case 0:
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return n, nil
		default:
			return n, e
		}
		n += int(r)
		if int(r) < want {
			return n, nil
		}
		pieces = pieces[k:]
	}
	return n, nil
}

// Ended is io.EOF when the peer will send nothing more, and another error when
// the connection is broken. It reads nothing: there may be bytes in front of the
// end.
func Ended(fd uintptr) error {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
	n, _, e := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&unix.Timespec{})), 0, 0, 0)
	switch {
	case e != 0 || n == 0:
		return nil
	case p.Revents&unix.POLLERR != 0:
		return syscall.ECONNRESET
	}
	return io.EOF
}

// Unsent is how many bytes the peer has yet to take of what was written, or -1
// when that is not known.
func Unsent(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return -1
	}
	return n
}
