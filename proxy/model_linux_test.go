package proxy

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"xmppgate/proxy/internal/relay"
)

// modelSockets is the world of the epoll loop: a session may move from one gateway to the
// next.
type modelSockets struct {
	sockets
	all []*Gateway
}

func (w *modelSockets) gateway(g *Gateway) {
	w.sockets.gateway(g)
	w.all = []*Gateway{g}
}

func (w *modelSockets) gateways() []*Gateway { return w.all }

func (w *modelSockets) pass(d time.Duration) {
	const stride = 500 * time.Millisecond
	for end := w.now.Load() + int64(d); w.now.Load() < end; {
		w.now.Add(int64(min(stride, time.Duration(end-w.now.Load()))))
		w.settle(func() bool { return true })
	}
}

func (w *modelSockets) settle(arrived func() bool) {
	for _, w.g = range w.all {
		w.sockets.settle(arrived)
	}
}

func (w *modelSockets) handOver(t *testing.T) bool {
	from := w.all[len(w.all)-1]
	if w.tls || len(w.all) > 3 {
		return false
	}
	to := &Gateway{Config: from.Config, clock: from.clock, streamID: from.streamID}
	if err := to.Succeed(from.Succession()); err != nil {
		t.Fatal(err)
	}
	w.all = append(w.all, to)
	return handOver(t, from, to) > 0
}

func (w *modelSockets) finish(t *testing.T) { w.finishAt(t, &w.now) }

// finishAt is finish for a clock that may be another world's.
func (w *modelSockets) finishAt(t *testing.T, now *atomic.Int64) {
	for _, g := range w.all {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		stopped := make(chan error, 1)
		go func() { stopped <- g.Shutdown(ctx) }()
		for over := false; !over; {
			select {
			case err := <-stopped:
				if err != nil {
					t.Errorf("shutdown: %v", err)
				}
				over = true
			case <-time.After(20 * time.Millisecond): // it waits for a timeout
				now.Add(int64(relay.StallTimeout))
				w.settle(func() bool { return true })
			}
		}
		cancel()
	}
}

func TestModelOnSockets(t *testing.T) {
	tryModel(t, func(f func(w modelWorld)) { f(new(modelSockets)) })
}

func TestModelOverTLS(t *testing.T) {
	tryModel(t, func(f func(w modelWorld)) { f(&modelSockets{sockets: sockets{tls: true}}) })
}
