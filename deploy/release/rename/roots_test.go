//go:build roots

package main

import "testing"

// The tests of a renamed copy pass, with those that know the arrows between packages.
func TestRenamed(t *testing.T) {
	root := copied(t)
	if err := rename(root, "example.org/gateway"); err != nil {
		t.Fatal(err)
	}
	run(t, root, `go test -short ./framing ./metrics/... ./deploy ./proxy/clientaddr ./proxy/internal/session`)
}
