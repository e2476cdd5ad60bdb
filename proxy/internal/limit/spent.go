package limit

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// This file takes what networks have spent from one process to another, so that an
// upgrade does not fill their buckets.

// A Spent is what a network has taken from its buckets and has not got back yet.
type Spent struct {
	Network netip.Addr           // its first address
	Tokens  [bucketKinds]float64 // of requests, TLS handshakes and failed logins
}

// Spent returns what networks have spent, at most so many of them: those first whose
// buckets are nearest to empty.
func (t *Table) Spent(now time.Duration, most int) []Spent {
	type entry struct {
		Spent
		part float64 // of the bucket that is nearest to empty
	}
	var all []entry
	for first, more := 0, true; more; first += portion {
		t.mu.Lock()
		for i := first; i < min(first+portion, len(t.networks)); i++ {
			n := &t.networks[i]
			e := entry{Spent: Spent{Network: n.first}}
			for kind := range n.buckets {
				if b := t.bucket(n, kind); b != nil {
					burst := float64(b.Burst())
					spent := burst - b.TokensAt(moment(now))
					e.Tokens[kind] = math.Round(spent*1000) / 1000
					e.part = max(e.part, spent/burst)
				}
			}
			if e.Tokens != [bucketKinds]float64{} {
				all = append(all, e)
			}
		}
		more = first+portion < len(t.networks)
		t.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(b.part, a.part) })
	var spent []Spent
	for _, e := range all[:min(most, len(all))] {
		spent = append(spent, e.Spent)
	}
	return spent
}

// Spend takes from the buckets of networks what these have spent elsewhere, as far as the
// policy has limits.
func (t *Table) Spend(now time.Duration, all []Spent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range all {
		if !s.Network.IsValid() || t.exempt(s.Network) {
			continue
		}
		id := t.find(now, t.Prefix(s.Network).Addr())
		n := &t.networks[id]
		for kind, tokens := range s.Tokens {
			if r := t.rate(kind); !r.unlimited() && tokens > 0 && n.buckets[kind] == nil {
				n.buckets[kind] = r.bucket(now, tokens)
			}
		}
		if n.sessions == 0 {
			t.rest(id, now)
		}
	}
}

// bucket returns a bucket from which so many tokens are missing.
func (r Rate) bucket(now time.Duration, missing float64) *rate.Limiter {
	burst := max(1, r.Burst)
	b := rate.NewLimiter(rate.Limit(r.PerSecond), burst)
	// A bucket gives whole tokens. It gets back what is too much since it gave them.
	missing = min(missing, float64(burst))
	whole := math.Ceil(missing)
	since := time.Duration((whole - missing) / r.PerSecond * float64(time.Second))
	b.AllowN(moment(now-since), int(whole))
	return b
}
