package polltls

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receive receives once. It returns ErrAgain when there is nothing now and
// errEnded when nothing will come. None of these calls waits, so the scheduler
// need not know of them.
func receive(fd int32, b []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			return 0, ErrAgain
		case e != 0:
			return 0, e
		case n == 0:
			return 0, errEnded
		default:
			return int(n), nil
		}
	}
}

// send sends once and returns how much the socket took, which may be nothing.
func send(fd int32, b []byte) (int, error) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, e
		}
	}
}
