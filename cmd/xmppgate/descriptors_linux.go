package main

import "os"

// descriptorsInUse returns how many descriptors the process has open, zero if that is not
// known.
func descriptorsInUse() uint64 {
	const dir = "/proc/self/fd"
	info, err := os.Stat(dir)
	if err != nil {
		return 0
	}
	if n := info.Size(); n > 0 { // since Linux 6.2
		return uint64(n)
	}
	d, err := os.Open(dir)
	if err != nil {
		return 0
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // which has what was read in any case
	return uint64(len(names))
}
