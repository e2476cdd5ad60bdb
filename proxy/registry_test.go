package proxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// A heldHandle counts how often a session is held.
type heldHandle struct {
	loop.Handle
	views int

	mu    sync.Mutex
	posts []time.Time
}

// Post notes when an event was to run.
func (h *heldHandle) Post(func(*relay.Event)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.posts = append(h.posts, time.Now())
}

func (h *heldHandle) View(f func()) { h.views++; f() }

func (h *heldHandle) Queue(relay.Side) (int, time.Duration) { return 0, 0 }

// crowd returns a gateway with n sessions that have one handle in common.
func crowd(tb testing.TB, n int) (*Gateway, *heldHandle) {
	tb.Helper()
	g, h := &Gateway{Config: Config{Dial: neverDial}}, &heldHandle{}
	g.init()
	ev := &relay.Event{Now: 1}
	for range n {
		ev.Conns = new(relay.Conns)
		s := g.Admit(h, netip.AddrPort{}).(*session.Session)
		s.Start(ev)
		s.Receive(ev, client, []byte(goodRequest+"\r\n"))
		ev.Out[client].Reset()
	}
	return g, h
}

// A listing holds each session once, for a copy: nothing is allocated for it, so that no
// loop waits for the garbage collector.
func TestListingHoldsEachSessionOnce(t *testing.T) {
	const n = 1000
	g, h := crowd(t, n)
	count := 0
	for range g.Sessions() {
		count++
	}
	if count != n || h.views != n {
		t.Errorf("%d sessions, held %d times", count, h.views)
	}
	// The copy of the set and what the walk needs, however many there are.
	if all := testing.AllocsPerRun(5, func() {
		for range g.Sessions() {
		}
	}); all > 20 {
		t.Errorf("a listing of %d sessions allocates %v times", n, all)
	}
	if all := testing.AllocsPerRun(5, func() { g.Totals() }); all > 10 {
		t.Errorf("the totals of %d sessions allocate %v times", n, all)
	}
}

// Nobody is held while the caller of Sessions does what it likes, such as asking again.
func TestListingHoldsNobodyMeanwhile(t *testing.T) {
	b := newBench(t, LoopAuto)
	b.connect()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for range b.g.Sessions() {
			for range b.g.Sessions() {
				b.g.Totals()
			}
		}
	}()
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("a session waits for the caller")
	}
}

// End ends those that match, once.
func TestEnd(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		first, _ := b.connect()
		b.connect()
		ids := func() (ids []uint64) {
			for i := range b.g.Sessions() {
				if i.Phase != "closing" {
					ids = append(ids, i.ID)
				}
			}
			return ids
		}
		before := ids()
		one := func(i *SessionInfo) bool { return i.ID == 1 }
		if n := b.g.End(one); n != 1 {
			t.Errorf("%d sessions ended", n)
		}
		if n := b.g.End(one); n != 0 {
			t.Errorf("%d sessions ended again", n)
		}
		if after := ids(); len(before) != 2 || len(after) != 1 || after[0] != 2 {
			t.Errorf("%v became %v", before, after)
		}
		first.Close()
	})
}

// Those who end many sessions get the answer at once, and the clients come back one after
// another: 5,000 in half a minute, and never many at once.
func TestEndIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5000
		all := func(*SessionInfo) bool { return true }
		g, h := crowd(t, n)
		begun := time.Now()
		if got := g.End(all); got != n || time.Since(begun) != 0 {
			t.Errorf("%d of %d after %v", got, n, time.Since(begun))
		}
		if got := g.End(all); got != 0 {
			t.Errorf("%d end twice", got)
		}
		time.Sleep(2 * endsWithin)
		synctest.Wait()
		if len(h.posts) != n {
			t.Fatalf("%d of %d were ended", len(h.posts), n)
		}
		if took := h.posts[n-1].Sub(begun); took < endsWithin/2 || took > endsWithin*5/4 {
			t.Errorf("it took %v", took)
		}
		const most = n / 30 * 3 / 2
		for i := range n - most {
			if h.posts[i+most].Sub(h.posts[i]) < time.Second {
				t.Fatalf("%d end within a second", most)
			}
		}
	})
}

// A drain goes on with those that End has not ended.
func TestEndStopsAtTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		g, h := crowd(t, n)
		g.End(func(*SessionInfo) bool { return true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := g.Shutdown(ctx); err == nil {
			t.Error("the sessions have ended")
		}
		synctest.Wait()
		before := len(h.posts)
		time.Sleep(2 * endsWithin)
		synctest.Wait()
		if len(h.posts) != before {
			t.Errorf("%d posts, then %d", before, len(h.posts))
		}
	})
}

// What a listing of 9,000 sessions costs. Each of them is held for less than
// ns/session, and the registry for less than ns/registry, which is a median: now and
// then the system lets another process run meanwhile.
func BenchmarkListing(b *testing.B) {
	const n = 9000
	g, _ := crowd(b, n)
	var copies []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		for range g.Sessions() {
		}
		begun := time.Now()
		g.copyLive()
		copies = append(copies, time.Since(begun))
	}
	slices.Sort(copies)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/session")
	b.ReportMetric(float64(copies[len(copies)/2].Nanoseconds()), "ns/registry")
}
