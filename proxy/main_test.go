package proxy

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"xmppgate/proxy/internal/loop"
)

// No test leaves a goroutine behind, or a buffer in use.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if n := loop.LargeInUse(); n != 0 {
			fmt.Fprintf(os.Stderr, "%d large buffers are in use though no session is left\n", n)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}
