//go:build !linux

package proxy

import "time"

// platformLoop is the loop that suits the platform best.
func platformLoop(func() time.Duration) loop { return goroutines{} }
