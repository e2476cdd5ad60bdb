package status

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xmppgate/proxy"
)

// A Sample is one value of the metrics.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

const (
	// sampleInterval is how often the history takes a point.
	sampleInterval = 10 * time.Second
	// maxPoints is how many of them are kept: half an hour.
	maxPoints = 180
	// markInterval is how often all counters are kept, for tables, and maxMarks how many
	// times.
	markInterval = 5 * time.Minute
	maxMarks     = 7
)

// A unit says how a number is written.
type unit string

const (
	plain     unit = ""
	perSecond unit = "/s"
	perMinute unit = "/min"
	bytesRate unit = "B/s"
)

// lines are those of the page, in their order: what is drawn over time. With a unit they
// are rates of counters.
var lines = [...]struct {
	title string
	unit  unit
	value func(*reading) float64
}{
	{"Live sessions", plain, func(r *reading) float64 { return float64(r.sessions) }},
	{"To server", bytesRate, func(r *reading) float64 { return float64(r.up.Bytes) }},
	{"To client", bytesRate, func(r *reading) float64 { return float64(r.down.Bytes) }},
	{"Stanzas", perSecond, func(r *reading) float64 { return float64(r.up.Elements() + r.down.Elements()) }},
	{"New sessions", perMinute, func(r *reading) float64 { return float64(r.upgraded.Load()) }},
	{"Refused", perMinute, func(r *reading) float64 { return float64(r.refused.Load()) }},
	{"Logins", perMinute, func(r *reading) float64 { return float64(r.logins.Load()) }},
	{"Failed logins", perMinute, func(r *reading) float64 { return float64(r.failedLogins.Load()) }},
	{"Ended", perMinute, func(r *reading) float64 { return float64(r.ended.Load()) }},
	{"Stalls", perMinute, func(r *reading) float64 { return float64(r.stalls.Load()) }},
}

// A reading is what the lines are made of, at one moment.
type reading struct {
	sessions int
	up, down proxy.Traffic
	*Events
}

// Events count what the lines show of single events. The zero value has none. The methods
// are those of proxy.Observer.
type Events struct{ upgraded, refused, logins, failedLogins, ended, stalls atomic.Uint64 }

// Upgraded counts an HTTP request by its result.
func (e *Events) Upgraded(result string) { count1(result == "ok", &e.upgraded, &e.refused) }

// LoginEnded counts a login. Clients that leave without a try have not failed.
func (e *Events) LoginEnded(mechanism, result string) {
	if mechanism != "none" {
		count1(result == "success", &e.logins, &e.failedLogins)
	}
}

// Ended counts a session that has ended.
func (e *Events) Ended() { e.ended.Add(1) }

// StallOver counts a stall.
func (e *Events) StallOver() { e.stalls.Add(1) }

func count1(good bool, yes, no *atomic.Uint64) {
	if good {
		yes.Add(1)
	} else {
		no.Add(1)
	}
}

// A history keeps the lines of the last half hour, and all counters at a few moments of
// it. Its size does not depend on the number of sessions, and a point leaves no garbage
// behind: an idle gateway has little memory, which garbage would double.
type history struct {
	gateway Gateway
	samples func() []Sample

	reading reading // of take only

	mu     sync.Mutex
	points [maxPoints]point // a ring
	taken  int              // points so far
	marks  []mark           // the latest last; at most maxMarks
}

// A point has the value of each of lines.
type point struct {
	at     time.Time
	values [len(lines)]float64
}

// A mark has the counters that are not zero.
type mark struct {
	at     time.Time
	values map[string]float64 // by key
}

// run takes points until ctx is done.
func (h *history) run(ctx context.Context) {
	tick := time.NewTicker(sampleInterval)
	defer tick.Stop()
	for {
		h.take()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// take takes one point, and a mark if that is due.
func (h *history) take() {
	r := &h.reading
	r.sessions, r.up, r.down = h.gateway.Summary()
	p := point{at: time.Now()}
	for n := range lines {
		p.values[n] = lines[n].value(r)
	}
	h.mu.Lock()
	h.points[h.taken%maxPoints] = p
	h.taken++
	due := len(h.marks) == 0 || p.at.Sub(h.marks[len(h.marks)-1].at) >= markInterval
	h.mu.Unlock()
	if !due {
		return
	}
	m := mark{p.at, map[string]float64{}}
	for _, s := range h.samples() {
		if s.Value != 0 && strings.HasSuffix(s.Name, "_total") {
			m.values[s.key()] = s.Value
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = append(h.marks, m)
	h.marks = h.marks[max(0, len(h.marks)-maxMarks):]
}

// key is name and labels in one.
func (s *Sample) key() string {
	key := s.Name
	for _, label := range slices.Sorted(maps.Keys(s.Labels)) {
		key += "\x00" + label + "\x00" + s.Labels[label]
	}
	return key
}

// A chart is a line with its points, the latest last.
type chart struct {
	Title  string
	Now    string // the last value
	Peak   string // the greatest one
	points []float64
}

// charts returns the lines.
func (h *history) charts() (all []chart) {
	h.mu.Lock()
	points := make([]point, 0, maxPoints)
	for n := max(0, h.taken-maxPoints); n < h.taken; n++ {
		points = append(points, h.points[n%maxPoints])
	}
	h.mu.Unlock()
	for n := range lines {
		l := &lines[n]
		c := chart{Title: l.title, Now: "–", Peak: "–"}
		for i, p := range points {
			v := p.values[n]
			if l.unit != plain {
				if i == 0 {
					continue
				}
				v = max(0, v-points[i-1].values[n]) / p.at.Sub(points[i-1].at).Seconds()
				if l.unit == perMinute {
					v *= 60
				}
			}
			c.points = append(c.points, v)
		}
		if k := len(c.points); k > 0 {
			c.Now, c.Peak = l.unit.format(c.points[k-1]), l.unit.format(slices.Max(c.points))
		}
		all = append(all, c)
	}
	return all
}

// before returns the counters of half an hour ago, or of the start.
func (h *history) before() (m mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.marks) > 0 {
		m = h.marks[0]
	}
	return m
}
