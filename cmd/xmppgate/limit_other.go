//go:build !unix

package main

// descriptorLimit returns zero: this system has no limit to read.
func descriptorLimit() uint64 { return 0 }
