package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unsentNow is how many bytes a socket still has to hand over.
func unsentNow(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return -1
	}
	return n
}

// maxPieces is the most that one writev takes (IOV_MAX).
const maxPieces = 1024

// writeGathered writes pieces in one system call.
func writeGathered(fd uintptr, pieces [][]byte) (n int, err error) {
	for len(pieces) > 0 {
		batch := pieces[:min(len(pieces), maxPieces)]
		want := 0
		for _, b := range batch {
			want += len(b)
		}
		k, err := unix.Writev(int(fd), batch)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return n, nil
		case err != nil:
			return n, err
		}
		n += k
		if k < want {
			return n, nil
		}
		pieces = pieces[len(batch):]
	}
	return n, nil
}
