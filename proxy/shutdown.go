package proxy

import (
	"context"
	"math/rand/v2"
	"time"
)

// Shutdown stops accepting and ends every session with the WebSocket close code 1001
// and without an end tag, so that clients can resume their streams elsewhere
// (XEP-0198). It closes the sessions one after another during half of the time until
// the deadline of ctx, so that the clients do not all reconnect at once. It returns
// nil when all sessions have ended, or the error of ctx if that is done before;
// sessions that have not ended then go on closing. After nil nothing of the gateway is
// open any more either, unless ctx has become done meanwhile: then its last descriptors
// are closed a moment later. A Gateway cannot be used again.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.init()
	defer g.flushNotices()
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	g.StopAccepting()

	all := g.sessions()
	pause := drainPause(ctx, len(all))
	for _, s := range all {
		s.handle.Post(s.s.Shutdown)
		if pause > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(jittered(pause)):
			}
		}
	}
	if err := g.awaitEmpty(ctx); err != nil {
		return err
	}
	g.loop.Stop(ctx)
	return nil
}

// maxDrainPause keeps the drain of a few sessions short.
const maxDrainPause = 10 * time.Millisecond

// jittered returns a random time that is d on average, from half of it on. Gateways
// that are drained together do not send their clients elsewhere in step.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// drainPause returns the time between the closing of two sessions: half of the time
// that ctx leaves is for closing, the rest for the answers.
func drainPause(ctx context.Context, sessions int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok || sessions < 2 {
		return 0
	}
	return min(time.Until(deadline)/2/time.Duration(sessions), maxDrainPause)
}
