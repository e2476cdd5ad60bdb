package status

import (
	"cmp"
	"iter"
	"slices"
	"sync"
	"time"

	"xmppgate/metrics/share"
	"xmppgate/proxy"
)

// An entry is a session at one moment.
type entry struct {
	proxy.SessionInfo
	upRate, downRate rate                // to the server and to the client
	over             *proxy.EndedSession // nil while it is live
}

// A rate is how much a session relays in a second.
type rate struct{ bytes, stanzas float64 }

const (
	// minSpan is the least time over which a rate is measured.
	minSpan = time.Second
	// maxSpan is how long a sampler remembers what sessions had relayed, when nobody
	// asks.
	maxSpan = 30 * time.Second
)

// A sampler describes the live sessions. Between two calls it remembers what they had
// relayed, for the rates, and forgets that when nobody has asked for maxSpan.
type sampler struct {
	sessions func() iter.Seq[proxy.SessionInfo]
	flight   *share.Flight[[]entry] // of take

	mu     sync.Mutex // guards all below
	counts [2]counts  // an earlier and a later moment; zero for none
	forget *time.Timer
}

func newSampler(sessions func() iter.Seq[proxy.SessionInfo]) *sampler {
	s := &sampler{sessions: sessions}
	s.flight = share.New(s.take)
	return s
}

// counts are what sessions had relayed at a moment, in the order of their numbers.
type counts struct {
	at  time.Time
	all []count
}

// A count is what one session had relayed.
type count struct{ id, upBytes, upStanzas, downBytes, downStanzas uint64 }

func countOf(i *proxy.SessionInfo) count {
	return count{i.ID, i.Up.Bytes, i.Up.Elements(), i.Down.Bytes, i.Down.Elements()}
}

// snapshot describes the sessions that were live at some moment after the call. The
// result is shared and must not be changed. If nobody has asked lately it takes minSpan to
// know the rates.
func (s *sampler) snapshot() []entry { return s.flight.Do() }

// take takes a snapshot. There is one call at a time.
func (s *sampler) take(fresh func()) []entry {
	s.mu.Lock()
	known := s.counts
	s.mu.Unlock()
	if known[1].at.IsZero() {
		known[1] = s.count()
		time.Sleep(minSpan)
	}
	fresh()
	now := time.Now()
	all := make([]entry, 0, len(known[1].all)+64)
	for i := range s.sessions() {
		all = append(all, entry{SessionInfo: i})
	}
	if now.Sub(known[1].at) < minSpan {
		known[0].setRates(all, now)
	} else {
		known[1].setRates(all, now)
		later := counts{now, make([]count, 0, len(all))}
		for n := range all {
			later.all = append(later.all, countOf(&all[n].SessionInfo))
		}
		later.sort()
		known = [2]counts{known[1], later}
	}
	s.remember(known)
	return all
}

// count counts without describing.
func (s *sampler) count() counts {
	c := counts{at: time.Now()}
	for i := range s.sessions() {
		c.all = append(c.all, countOf(&i))
	}
	c.sort()
	return c
}

func (c *counts) sort() {
	slices.SortFunc(c.all, func(a, b count) int { return cmp.Compare(a.id, b.id) })
}

// setRates sets the rates of sessions since c.
func (c *counts) setRates(all []entry, now time.Time) {
	for n := range all {
		e := &all[n]
		before, since := count{}, c.at
		if i, ok := slices.BinarySearchFunc(c.all, e.ID, func(c count, id uint64) int { return cmp.Compare(c.id, id) }); ok {
			before = c.all[i]
		} else if e.Since.After(since) {
			since = e.Since // it is younger
		}
		seconds := max(now.Sub(since), minSpan).Seconds()
		per := func(now, before uint64) float64 { return float64(now-min(now, before)) / seconds }
		after := countOf(&e.SessionInfo)
		e.upRate = rate{per(after.upBytes, before.upBytes), per(after.upStanzas, before.upStanzas)}
		e.downRate = rate{per(after.downBytes, before.downBytes), per(after.downStanzas, before.downStanzas)}
		pause(n)
	}
}

// remember keeps counts until nobody has asked for maxSpan.
func (s *sampler) remember(known [2]counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = known
	if s.forget != nil {
		s.forget.Reset(maxSpan)
		return
	}
	s.forget = time.AfterFunc(maxSpan, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counts = [2]counts{}
	})
}
