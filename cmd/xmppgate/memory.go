package main

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// calm is how long a storm has to be over.
	calm = time.Second
	// storm is how many new sessions leave enough garbage to be worth a
	// collection.
	storm = 256
)

// returnMemory gives memory back to the system when a storm of new sessions is
// over. The runtime would keep what the handshakes needed, several times what
// the sessions need once they idle: it expects the next storm to be near.
// begun counts all sessions.
func returnMemory(ctx context.Context, begun func() uint64) {
	tick := time.NewTicker(calm)
	defer tick.Stop()
	var seen, returned uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := begun()
		if n-seen < storm/8 && n-returned >= storm {
			debug.FreeOSMemory()
			returned = n
		}
		seen = n
	}
}
