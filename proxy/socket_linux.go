package proxy

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directSockets tells that the loops may use the descriptors of sockets
// themselves. None of these calls waits, so the scheduler need not know.
const directSockets = true

// readNow reads once without waiting.
func readNow(fd uintptr, b []byte) (int, error) {
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

// writeNow writes what fits without waiting and returns how much that was. An
// error means that the connection is broken.
func writeNow(fd uintptr, pieces [][]byte) (n int, err error) {
	if len(pieces) == 1 {
		return writePiece(fd, pieces[0])
	}
	return writeGathered(fd, pieces)
}

func writePiece(fd uintptr, b []byte) (int, error) {
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

// writeGathered writes many pieces in one system call.
func writeGathered(fd uintptr, pieces [][]byte) (n int, err error) {
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

// unsentNow is how many bytes a socket still has to hand over.
func unsentNow(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return -1
	}
	return n
}
