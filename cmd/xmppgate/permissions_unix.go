//go:build unix

package main

import "syscall"

// withoutPermissions runs f with a umask that leaves new files to root only,
// until they get a mode. The umask belongs to the whole process: call it only
// while nothing else creates files.
func withoutPermissions(f func() error) error {
	old := syscall.Umask(0o777)
	defer syscall.Umask(old)
	return f()
}

// writable reports whether this process may make files in a directory.
func writable(dir string) bool { return syscall.Access(dir, 2|1) == nil } // W_OK, X_OK
