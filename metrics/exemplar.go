package metrics

import (
	"sort"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Some counters and buckets name a session that has counted lately, as an exemplar: its
// number, by which the log and /connections know it. An exemplar costs ten times as much as
// the counting and replaces the one before, so it is renewed once a second at most.

// exemplarInterval is how long an exemplar stays at least.
const exemplarInterval = time.Second

// A renewal is when an exemplar was set, in nanoseconds. The zero value is due.
type renewal struct{ at atomic.Int64 }

// due reports whether the exemplar is to be renewed, once per exemplarInterval.
func (r *renewal) due() bool {
	now, at := time.Now().UnixNano(), r.at.Load()
	return (at == 0 || now-at >= int64(exemplarInterval) || now < at) && r.at.CompareAndSwap(at, now)
}

// sessionCounters are counters with exemplars.
type sessionCounters[K comparable] map[K]*sessionCounter

type sessionCounter struct {
	prometheus.Counter
	renewal
}

func withExemplars[K comparable](counters map[K]prometheus.Counter) sessionCounters[K] {
	all := make(sessionCounters[K], len(counters))
	for value, c := range counters {
		all[value] = &sessionCounter{Counter: c}
	}
	return all
}

// increment is the function increment for a session.
func (counters sessionCounters[K]) increment(value K, session uint64) {
	c, ok := counters[value]
	switch {
	case !ok:
	case c.due():
		c.Counter.(prometheus.ExemplarAdder).AddWithExemplar(1, exemplar(session))
	default:
		c.Inc()
	}
}

// A sessionHistogram is a histogram with an exemplar in each bucket.
type sessionHistogram struct {
	prometheus.Histogram
	bounds  []float64
	buckets []renewal // one more than bounds
}

func newSessionHistogram(r prometheus.Registerer, name, help string, bounds []float64) *sessionHistogram {
	return &sessionHistogram{histogram(r, name, help, bounds), bounds, make([]renewal, len(bounds)+1)}
}

// observe records a time of a session.
func (h *sessionHistogram) observe(took time.Duration, session uint64) {
	v := took.Seconds()
	if h.buckets[sort.SearchFloat64s(h.bounds, v)].due() {
		h.Histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(v, exemplar(session))
	} else {
		h.Observe(v)
	}
}

func exemplar(session uint64) prometheus.Labels {
	return prometheus.Labels{"session": strconv.FormatUint(session, 10)}
}
