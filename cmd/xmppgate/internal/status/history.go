package status

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Sample is one value of the metrics.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

const (
	// sampleInterval is how often the history gets the metrics. Each time costs as much
	// as a scrape of Prometheus.
	sampleInterval = 5 * time.Second
	// maxPoints is how many samples of each line are kept: half an hour.
	maxPoints = 360
	// markInterval is how often all counters are kept, for tables, and maxMarks how many
	// times.
	markInterval = 5 * time.Minute
	maxMarks     = 7
)

// A line is drawn on the page: a sum of metrics over time.
type line struct {
	title string
	unit  unit
	// metric is added up, over all labels but those that are not as given in labels, or
	// are as given in not.
	metric      string
	labels, not map[string]string
}

// A unit says how a number is written.
type unit string

const (
	plain     unit = ""
	perSecond unit = "/s"
	perMinute unit = "/min"
	bytesRate unit = "B/s"
)

// lines are those of the page, in their order. A metric that does not exist leaves its
// line out.
var lines = []line{
	{title: "Live sessions", metric: "xmppgate_sessions"},
	{title: "To servers", unit: bytesRate, metric: "xmppgate_bytes_total", labels: map[string]string{"direction": "up"}},
	{title: "To clients", unit: bytesRate, metric: "xmppgate_bytes_total", labels: map[string]string{"direction": "down"}},
	{title: "Stanzas", unit: perSecond, metric: "xmppgate_stanzas_total"},
	{title: "New sessions", unit: perMinute, metric: "xmppgate_upgrades_total", labels: map[string]string{"result": "ok"}},
	{title: "Refused", unit: perMinute, metric: "xmppgate_upgrades_total", not: map[string]string{"result": "ok"}},
	{title: "Logins", unit: perMinute, metric: "xmppgate_logins_total", labels: map[string]string{"result": "success"}},
	{title: "Failed logins", unit: perMinute, metric: "xmppgate_logins_total", not: map[string]string{"result": "success", "mechanism": "none"}},
	{title: "Ended sessions", unit: perMinute, metric: "xmppgate_sessions_ended_total"},
	{title: "Stalls", unit: perMinute, metric: "xmppgate_stalls_total"},
}

// value adds up what belongs to l. It reports false if nothing does.
func (l *line) value(samples []Sample) (sum float64, ok bool) {
	for i := range samples {
		if s := &samples[i]; s.Name == l.metric && l.matches(s.Labels) {
			sum, ok = sum+s.Value, true
		}
	}
	return sum, ok
}

func (l *line) matches(labels map[string]string) bool {
	for name, value := range l.labels {
		if labels[name] != value {
			return false
		}
	}
	for name, value := range l.not {
		if labels[name] == value {
			return false
		}
	}
	return true
}

// A history keeps the metrics of the last half hour. Its goroutine is run; its size does
// not depend on the number of sessions.
type history struct {
	samples func() []Sample

	mu     sync.Mutex
	last   []Sample
	lastAt time.Time
	points []point // the latest last; at most maxPoints
	marks  []mark  // the latest last; at most maxMarks
}

// A point has the value of each of lines, NaN where there is none.
type point struct {
	at     time.Time
	values []float64
}

// A mark has the counters that are not zero.
type mark struct {
	at     time.Time
	values map[string]float64 // by key
}

// run takes samples until ctx is done.
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

// take takes one sample.
func (h *history) take() {
	samples, now := h.samples(), time.Now()
	p := point{now, make([]float64, len(lines))}
	for n := range lines {
		var ok bool
		if p.values[n], ok = lines[n].value(samples); !ok {
			p.values[n] = missing
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.lastAt = samples, now
	h.points = append(h.points, p)
	h.points = h.points[max(0, len(h.points)-maxPoints):]
	if n := len(h.marks); n == 0 || now.Sub(h.marks[n-1].at) >= markInterval {
		m := mark{now, map[string]float64{}}
		for i := range samples {
			if s := &samples[i]; s.Value != 0 && strings.HasSuffix(s.Name, "_total") {
				m.values[s.key()] = s.Value
			}
		}
		h.marks = append(h.marks, m)
		h.marks = h.marks[max(0, len(h.marks)-maxMarks):]
	}
}

// missing is the value of a line whose metric does not exist: no counter is negative.
const missing = -1

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
	Now    string    // the last value
	Peak   string    // the greatest one
	points []float64 // missing where there is none
}

// charts returns the lines that have values.
func (h *history) charts() (all []chart) {
	h.mu.Lock()
	points := slices.Clone(h.points)
	h.mu.Unlock()
	for n := range lines {
		l := &lines[n]
		c := chart{Title: l.title}
		for i, p := range points {
			v := p.values[n]
			if l.unit != plain { // a counter
				if i == 0 {
					continue
				}
				before := points[i-1]
				if v == missing || before.values[n] == missing {
					v = missing
				} else {
					v = max(0, v-before.values[n]) / p.at.Sub(before.at).Seconds()
					if l.unit == perMinute {
						v *= 60
					}
				}
			}
			c.points = append(c.points, v)
		}
		if len(points) == 0 || points[len(points)-1].values[n] == missing {
			continue
		}
		c.Now, c.Peak = "–", "–"
		if k := len(c.points); k > 0 {
			c.Now, c.Peak = l.unit.format(c.points[k-1]), l.unit.format(slices.Max(c.points))
		}
		all = append(all, c)
	}
	return all
}

// current returns the last sample, and what is known of half an hour ago.
func (h *history) current() (samples []Sample, before mark, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.marks) > 0 {
		before = h.marks[0]
	}
	return h.last, before, h.lastAt
}
