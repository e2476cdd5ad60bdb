package proxy

import (
	"context"
	"time"
)

// Shutdown stops accepting and ends every session with the WebSocket close
// code 1001 and without an end tag, so that clients resume their streams
// elsewhere (XEP-0198). The sessions are spread over part of the time that ctx
// leaves, so that their clients do not all come back in one moment. It returns
// when all sessions are over, or ctx's error when ctx was done before.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.init()
	defer g.flushNotices()
	g.mu.Lock()
	g.draining = true
	listeners := g.listeners
	g.listeners = nil
	g.mu.Unlock()
	// It waits for an accept that is under way, which needs mu.
	for l := range listeners {
		l.Close()
	}

	all := g.sessions()
	pause := drainPause(ctx, len(all))
	for _, s := range all {
		s.handle.Post(s.s.Shutdown)
		if pause > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
	}
	if err := g.awaitIdle(ctx); err != nil {
		return err
	}
	g.loop.Stop()
	return nil
}

// maxDrainPause keeps the drain of a few sessions short.
const maxDrainPause = 10 * time.Millisecond

// drainPause is the time between two sessions of a drain: half of what ctx
// leaves is for telling, the rest for the answers.
func drainPause(ctx context.Context, sessions int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok || sessions < 2 {
		return 0
	}
	return min(time.Until(deadline)/2/time.Duration(sessions), maxDrainPause)
}
