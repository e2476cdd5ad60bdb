package framing

import (
	"os"
	"syscall"
	"testing"
)

// TestMarksWithin has nothing readable in front of the message and nothing
// behind it.
func TestMarksWithin(t *testing.T) {
	page := os.Getpagesize()
	m, err := syscall.Mmap(-1, 0, 4*page, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	b := m[page : 3*page]
	if err := syscall.Mprotect(b, syscall.PROT_READ|syscall.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = 'm'
	}
	for n := 1; n < 700; n++ {
		for _, b := range [][]byte{b[:n], b[len(b)-n:]} {
			checkMarks(t, b)
			checkSkip(t, b)
		}
	}
}
