//go:build unix && !linux

package socket

import "syscall"

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

// Unsent is not known here.
func Unsent(uintptr) int { return -1 }
