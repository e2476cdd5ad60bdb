//go:build unix && !linux

package proxy

import "syscall"

// directSockets tells that the loop may use the descriptors of sockets itself.
const directSockets = true

// readNow reads once without waiting.
func readNow(fd uintptr, b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), b)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// writeNow writes what fits without waiting and returns how much that was. An
// error means that the connection is broken.
func writeNow(fd uintptr, pieces [][]byte) (n int, err error) {
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

// unsentNow is not known here.
func unsentNow(uintptr) int { return -1 }
