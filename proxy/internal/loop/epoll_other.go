//go:build !linux

package loop

import "time"

// platformLoop is the loop that suits the platform best.
func platformLoop(clock func() time.Duration, _ time.Duration) Loop { return goroutines{clock} }
