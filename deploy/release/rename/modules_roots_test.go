//go:build roots

package main

import "testing"

// The modules below deploy build, and the tests pass that know the path.
func testModules(t *testing.T, root string) {
	for _, module := range []string{"bench", "check", "e2e", "release"} {
		run(t, root+"/deploy/"+module, `go vet ./... && go mod tidy -diff`)
	}
	run(t, root, `go mod tidy -diff && go test -short ./framing ./metrics ./deploy ./proxy/clientaddr ./proxy/internal/session`)
}
