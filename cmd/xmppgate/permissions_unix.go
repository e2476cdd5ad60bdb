//go:build unix

package main

import "syscall"

// withoutPermissions runs f, whose files nobody but root may use until they are
// given a mode. The umask belongs to the whole process: call it only while
// nothing else makes files.
func withoutPermissions(f func() error) error {
	old := syscall.Umask(0o777)
	defer syscall.Umask(old)
	return f()
}

// writable reports whether this process may make files in a directory.
func writable(dir string) bool { return syscall.Access(dir, 2|1) == nil } // W_OK, X_OK
