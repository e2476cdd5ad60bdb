//go:build unix && !linux

package socket

import (
	"io"
	"syscall"
)

// Direct tells that Read and Gather work here.
const Direct = true

// Read reads once without waiting; b is not empty. The error is syscall.EAGAIN
// when there is nothing now; nothing and no error is the end.
func Read(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// Gather writes what fits without waiting and returns how much that was. An
// error means that the connection is broken.
func Gather(fd uintptr, pieces [][]byte) (n int, err error) {
	for _, b := range pieces {
		k, err := write(fd, b)
		n += k
		if err != nil || k < len(b) {
			return n, err
		}
	}
	return n, nil
}

func write(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), b)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return 0, nil
		}
		return max(n, 0), err
	}
}

// Ended is io.EOF when the peer will send nothing more, and another error when
// the connection is broken. An end behind bytes that nobody has read is not seen
// here.
func Ended(fd uintptr) error {
	n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
	switch {
	case err == syscall.EAGAIN, err == syscall.EINTR, err == nil && n > 0:
		return nil
	case err != nil:
		return err
	}
	return io.EOF
}

// Unsent is not known here.
func Unsent(uintptr) int { return -1 }
