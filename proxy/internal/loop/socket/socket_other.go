//go:build !unix

package socket

import "syscall"

// Direct: elsewhere sockets are read and written by blocking calls.
const Direct = false

func Ended(uintptr) error                   { return nil }
func Unsent(uintptr) int                    { return -1 }
func Read(uintptr, []byte) (int, error)     { return 0, syscall.EINVAL }
func Gather(uintptr, [][]byte) (int, error) { return 0, syscall.EINVAL }
