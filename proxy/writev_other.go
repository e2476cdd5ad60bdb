//go:build unix && !linux

package proxy

// unsentNow is not known here.
func unsentNow(uintptr) int { return -1 }

// writeGathered writes pieces one after the other.
func writeGathered(fd uintptr, pieces [][]byte) (n int, err error) {
	for _, b := range pieces {
		k, err := write(fd, b)
		n += k
		if err != nil || k < len(b) {
			return n, err
		}
	}
	return n, nil
}
