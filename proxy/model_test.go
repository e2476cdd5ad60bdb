package proxy

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy/internal/model"
)

// Both loops do what package model says, whatever both ends do, with TLS at the client or
// without, compression or not, while the configuration changes and sessions move to
// another process. The session alone is tested with many more actions in
// internal/session.

var modelTime = flag.Duration("model", 0, "how long to try each loop against the model at random; zero for a few sessions")

// A modelWorld is where the model is tried.
type modelWorld interface {
	world
	// gateways are those that may have the session.
	gateways() []*Gateway
	// handOver moves the session to another gateway, if that can be and it is at
	// rest.
	handOver(*testing.T) (moved bool)
	// finish lets the gateways come to their ends.
	finish(*testing.T)
}

// A modelBubble is the world of the goroutine loop.
type modelBubble struct {
	bubble
	g *Gateway
}

func (w *modelBubble) gateway(g *Gateway) {
	w.bubble.gateway(g)
	w.g = g
}
func (w *modelBubble) gateways() []*Gateway     { return []*Gateway{w.g} }
func (w *modelBubble) handOver(*testing.T) bool { return false }
func (w *modelBubble) finish(t *testing.T) {
	if err := w.g.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestModelInBubble(t *testing.T) {
	tryModel(t, func(f func(w modelWorld)) {
		synctest.Test(t, func(*testing.T) { f(new(modelBubble)) })
	})
}

// A modelWitness notes how sessions end.
type modelWitness struct {
	nopObserver
	mu    sync.Mutex
	ended []string
}

func (o *modelWitness) Ended(s *EndedSession) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = append(o.ended, s.Ending)
}

func (o *modelWitness) endings() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended
}

type modelStats struct {
	sessions, actions, moved, updates int
	endings                           map[string]int
}

// tryModel compares sessions with the model; in makes a world for each.
func tryModel(t *testing.T, in func(f func(w modelWorld))) {
	random := uint64(time.Now().UnixNano())
	t.Logf("random seed %d", random)
	stats := &modelStats{endings: make(map[string]int)}
	run := func(seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := []model.Config{
			{MaxStanza: 12_000, MaxServerStanza: 10_000},
			{MaxStanza: 12_000, MaxServerStanza: 400_000},
			{MaxStanza: 12_000, MaxServerStanza: 10_000, Compression: true},
		}[r.IntN(3)]
		actions := model.Generate(r, cfg, 5+r.IntN(40))
		try := func(actions []model.Action, stats *modelStats) (why string) {
			in(func(w modelWorld) { why = playModel(t, w, cfg, actions, seed, stats) })
			return why
		}
		if why := try(actions, stats); why != "" {
			actions = model.Shrink(actions, func(fewer []model.Action) bool { return try(fewer, nil) != "" })
			t.Fatalf("seed %d, %+v:\n%s\nbefore it was made shorter:\n%s", seed, cfg, try(actions, nil), why)
		}
	}
	begun := time.Now()
	n := uint64(20)
	if testing.Short() {
		n = 6
	}
	for i := range n {
		run(i)
	}
	for i := uint64(0); i < 4 || time.Since(begun) < *modelTime; i++ {
		run(random + i)
	}
	t.Logf("%d sessions, %d actions in %v, %d moved to another process, %d new configurations; endings %v",
		stats.sessions, stats.actions, time.Since(begun).Round(time.Millisecond), stats.moved, stats.updates, stats.endings)
}

// playModel returns what a session does otherwise than the model, as a transcript, or "".
func playModel(t *testing.T, w modelWorld, cfg model.Config, actions []model.Action, seed uint64, stats *modelStats) (why string) {
	r := rand.New(rand.NewPCG(seed, 2))
	m := model.New(cfg)
	o := new(modelWitness)
	g := &Gateway{Config: Config{
		MaxStanza: cfg.MaxStanza, MaxServerStanza: cfg.MaxServerStanza, Compression: cfg.Compression,
		Domains: []string{model.Domain}, Observer: o,
	}}
	st := newStage(t, w, g, chunkings["whole"])
	st.connect(nil)
	var page strings.Builder
	moved, updates := 0, 0
	for _, a := range actions {
		if _, pipes := w.(*modelBubble); pipes && a.Actor+" "+a.Verb == "client drops" && m.Waits() {
			break // a pipe tells nobody of its end who does not read it
		}
		want := m.Do(a)
		if m.Unsure {
			break
		}
		if r.IntN(10) == 0 {
			c := g.Config
			c.MaxStanza = 5000 + r.IntN(10_000)
			c.Compression = r.IntN(2) == 0
			for _, g := range w.gateways() {
				if err := g.Update(c); err != nil {
					t.Fatal(err)
				}
			}
			updates++
			fmt.Fprintln(&page, "# the configuration changes")
		}
		if r.IntN(3) == 0 && m.AtRest() && w.handOver(t) {
			moved++
			fmt.Fprintln(&page, "# the session moves to another process")
		}
		fmt.Fprintln(&page, a)
		switch {
		case a.Actor == "gateway" || a.Actor == "operator":
			for _, st.g = range w.gateways() {
				st.perform([]line{{actor: a.Actor, verb: a.Verb}})
			}
			st.g = g
		case a.Actor+" "+a.Verb == "client sends":
			st.performModel(a, fmt.Sprintf("frame %x", a.Bytes))
		case a.Verb == "pass":
			st.performModel(a, a.Pass.String())
		case a.Actor == "server" && a.Verb != "refuses" && st.serverEnd() == nil:
		default:
			st.performModel(a, string(a.Bytes))
		}
		// Effects that do not come at all are waited for some time only.
		deadline := time.Now().Add(10 * time.Second)
		w.settle(func() bool {
			return st.writing.Load() == 0 && seen(m, want, st.modelSeen()) || time.Now().After(deadline)
		})
		got := st.modelSeen()
		st.take()
		if !seen(m, want, got) {
			why = page.String() + fmt.Sprintf("# ^^^ expected:\n%q\n# but these are the effects:\n%.2000q", want, got)
			break
		}
		fmt.Fprintf(&page, "%.300q\n", got)
	}
	st.close()
	w.settle(func() bool { return true })
	w.finish(t)
	ended := o.endings()
	switch {
	case why != "":
	case len(ended) != 1, m.Ended != "" && !m.Unsure && ended[0] != m.Ended:
		why = page.String() + fmt.Sprintf("# ^^^ the endings are %q, not %q", ended, m.Ended)
	case stats != nil:
		stats.sessions++
		stats.actions += len(actions)
		stats.moved += moved
		stats.updates += updates
		stats.endings[ended[0]]++
	}
	return why
}

// seen is want.Matches(got) for a client that may be slow to take what it gets: of several
// pings the last one is answered (RFC 6455, section 5.5.3).
func seen(m *model.Model, want, got model.Seen) bool {
	var pongs [2][]string
	for i, s := range []*model.Seen{&want, &got} {
		s[model.Client] = slices.DeleteFunc(slices.Clone(s[model.Client]), func(e string) bool {
			pong := strings.HasPrefix(e, "receives pong ")
			if pong {
				pongs[i] = append(pongs[i], e)
			}
			return pong
		})
	}
	rest := pongs[0]
	if m.Ended == "" && len(rest) > 0 && (len(pongs[1]) == 0 || pongs[1][len(pongs[1])-1] != rest[len(rest)-1]) {
		return false
	}
	for _, e := range pongs[1] {
		i := slices.Index(rest, e)
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
	}
	return want.Matches(got)
}

func (st *stage) performModel(a model.Action, payload string) {
	st.perform([]line{{actor: a.Actor, verb: a.Verb, payload: payload}})
}

// modelSeen is what has arrived, as the model tells it: it knows nothing of compression.
func (st *stage) modelSeen() (seen model.Seen) {
	st.mu.Lock()
	defer st.mu.Unlock()
	all := maps.Clone(st.received)
	seen[model.Server] = slices.Clone(all["server"])
	for _, s := range all["client"] {
		seen[model.Client] = append(seen[model.Client], strings.Replace(s, "receives compressed ", "receives ", 1))
	}
	return seen
}
