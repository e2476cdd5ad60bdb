package proxy

import (
	"context"
	"time"
)

// started looks whether a Shutdown has missed s: it may have listed the
// sessions before this one was there.
func (g *Gateway) started(s *session) {
	g.mu.Lock()
	draining := g.draining
	g.mu.Unlock()
	if draining {
		s.link.post(func(s *session, w *workspace) { s.shutdown(w) })
	}
}

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
		l.close()
	}

	all := g.sessions()
	pause := drainPause(ctx, len(all))
	for _, s := range all {
		s.link.post(func(s *session, w *workspace) { s.shutdown(w) })
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
	g.loop.stop()
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

// awaitIdle waits until no connection is left.
func (g *Gateway) awaitIdle(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.idle.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.conns > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.idle.Wait()
	}
	return nil
}
