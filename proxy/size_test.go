package proxy

import (
	"testing"
	"unsafe"
)

// What a quiet session costs beside the connection of its loop, with 28 bytes for the steps
// of its login, by which operators see where one hangs. The next size of the allocator would be
// a tenth more; a field that most sessions do not use most of the
// time belongs into session.extra.
func TestSessionsAreSmall(t *testing.T) {
	if n := unsafe.Sizeof(live{}); n > 352 {
		t.Errorf("a session has %d bytes", n)
	}
}
