//go:build unix

package main

import (
	"math"
	"syscall"
)

// descriptorLimit returns how many files this process may open; zero means
// that there is no limit. The Go runtime has raised the soft limit to the
// hard one.
func descriptorLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	if n := uint64(limit.Cur); n < math.MaxInt32 {
		return n
	}
	return 0 // some systems write infinity as -1, some as the largest integer
}
