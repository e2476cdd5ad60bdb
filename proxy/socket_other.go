//go:build !unix

package proxy

import "syscall"

// directSockets: elsewhere sockets are read and written by blocking calls.
const directSockets = false

func unsentNow(uintptr) int                   { return -1 }
func readNow(uintptr, []byte) (int, error)    { return 0, syscall.EINVAL }
func writeNow(uintptr, [][]byte) (int, error) { return 0, syscall.EINVAL }
