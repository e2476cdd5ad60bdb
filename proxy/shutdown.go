package proxy

import (
	"context"
	"math/rand/v2"
	"time"

	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// This file ends sessions that their clients resume or begin anew, so that these do not
// all reconnect at once.

// Shutdown stops accepting and ends every session with the WebSocket close code 1001
// and without an end tag, so that clients can resume their streams elsewhere
// (XEP-0198). It closes the sessions one after another during half of the time until
// the deadline of ctx. It returns nil when all sessions have ended, or the error of ctx
// if that is done before; sessions that have not ended then go on closing. After nil
// nothing of the gateway is open any more either, unless ctx has become done meanwhile:
// then its last descriptors are closed a moment later. A Gateway cannot be used again.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.init()
	defer g.flushNotices()
	g.mu.Lock()
	if !g.draining {
		g.draining = true
		close(g.drains)
	}
	g.mu.Unlock()
	g.StopAccepting()

	within := time.Duration(0)
	if deadline, ok := ctx.Deadline(); ok {
		within = time.Until(deadline) / 2 // the rest is for the answers
	}
	if !paced(g.sessions(), within, ctx.Done(), (*session.Session).Shutdown) {
		return ctx.Err()
	}
	if err := g.awaitEmpty(ctx); err != nil {
		return err
	}
	g.loop.Stop(ctx)
	return nil
}

// endsWithin is how long End takes at most to end its sessions.
const endsWithin = 30 * time.Second

// End ends the live sessions that match, as [Gateway.Shutdown] does: with the WebSocket
// close code 1001 and without an end tag, so that their clients can resume the streams.
// It returns how many these are, without those that end already. It does not wait for
// them: one ends at once, many one after another within half a minute. match must not
// keep its argument.
func (g *Gateway) End(match func(*SessionInfo) bool) int {
	var all []*live
	for l, i := range g.infos() {
		if match(i) {
			l.handle.View(func() {
				if l.s.EndSoon() {
					all = append(all, l)
				}
			})
		}
	}
	if len(all) > 0 {
		all[0].handle.Post(all[0].s.EndByOperator)
		go paced(all[1:], endsWithin, g.drains, (*session.Session).EndByOperator)
	}
	return len(all)
}

// maxEndPause keeps the end of a few sessions short.
const maxEndPause = 10 * time.Millisecond

// paced ends sessions one after another within a time, all at once if that is zero. It
// reports false if stop was closed before.
func paced(all []*live, within time.Duration, stop <-chan struct{}, end func(*session.Session, *relay.Event)) bool {
	for i, l := range all {
		if pause := min(within/time.Duration(len(all)), maxEndPause); pause > 0 && i > 0 {
			select {
			case <-stop:
				return false
			case <-time.After(randomPause(pause)):
			}
		}
		l.handle.Post(func(ev *relay.Event) { end(&l.s, ev) })
	}
	return true
}

// randomPause returns a random time that is d on average, from half of it on. Gateways
// that are drained together do not send their clients elsewhere in step.
func randomPause(d time.Duration) time.Duration { return d/2 + rand.N(d) }
