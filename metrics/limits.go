package metrics

import "github.com/prometheus/client_golang/prometheus"

// A Limit is one of the gateway beside what it is compared with.
type Limit struct {
	Name           string // one of LimitOptions.Names
	Limit, Current float64
}

// LimitOptions describe what keeps clients out. The zero value is nothing. The functions
// are called at every scrape; nil means none.
type LimitOptions struct {
	// Limits returns those that there are.
	Limits func() []Limit
	// Names are those that a Limit may have.
	Names []string
	// Overloaded reports whether memory or descriptors are short.
	Overloaded func() bool
	// Networks returns the numbers of client networks that are known, that are locked
	// out because too many logins have failed, and that are on the deny list.
	Networks func() (known, lockedOut, denied int)
}

// A limitMetrics counts what limits have done.
type limitMetrics struct {
	pauses   prometheus.Counter
	denyRead map[string]prometheus.Counter
	denyOK   prometheus.Gauge
}

func newLimitMetrics(r prometheus.Registerer, o LimitOptions) *limitMetrics {
	m := &limitMetrics{
		pauses:   newCounter(r, "xmppgate_client_pauses_total", "Times that a client was not read for a while because it had sent more than its rate."),
		denyRead: counters(r, "xmppgate_deny_list_reads_total", "How often the deny list was read, at the start and because it had changed, by outcome.", "result", []string{"ok", "error"}),
		denyOK:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "xmppgate_deny_list_ok", Help: "0 while the file of the deny list cannot be used and an older list is in force."}),
	}
	m.denyOK.Set(1)
	r.MustRegister(
		m.denyOK,
		gauge("xmppgate_overloaded", "1 while memory or descriptors are short and no client is accepted.", func() float64 {
			if o.Overloaded != nil && o.Overloaded() {
				return 1
			}
			return 0
		}),
		&networkCollector{o.Networks},
		&limitCollector{o.Limits, newSet(o.Names)},
	)
	return m
}

// Paused counts a client that is not read for a while because it has sent too much.
func (m *Metrics) Paused() { m.limits.pauses.Inc() }

// DenyListRead counts that the deny list was read.
func (m *Metrics) DenyListRead(ok bool) {
	result, value := "ok", 1.0
	if !ok {
		result, value = "error", 0
	}
	increment(m.limits.denyRead, result)
	m.limits.denyOK.Set(value)
}

var (
	limitDesc = prometheus.NewDesc("xmppgate_limit",
		"A limit that is in force. For those of networks xmppgate_limit_current is that of the network which has most.", []string{"limit"}, nil)
	limitCurrentDesc = prometheus.NewDesc("xmppgate_limit_current",
		"What a limit is compared with, now.", []string{"limit"}, nil)
)

var (
	networksDesc = prometheus.NewDesc("xmppgate_networks",
		"Client networks that are known: those with sessions, and those whose past still counts.", nil, nil)
	lockedOutDesc = prometheus.NewDesc("xmppgate_networks_locked_out",
		"Client networks that get no session because too many logins have failed.", nil, nil)
	deniedDesc = prometheus.NewDesc("xmppgate_denied_networks",
		"Networks on the deny list.", nil, nil)
)

// A networkCollector reports how many client networks there are.
type networkCollector struct {
	networks func() (known, lockedOut, denied int)
}

func (c *networkCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- networksDesc
	ch <- lockedOutDesc
	ch <- deniedDesc
}

func (c *networkCollector) Collect(ch chan<- prometheus.Metric) {
	var known, lockedOut, denied int
	if c.networks != nil {
		known, lockedOut, denied = c.networks()
	}
	ch <- value(networksDesc, float64(known))
	ch <- value(lockedOutDesc, float64(lockedOut))
	ch <- value(deniedDesc, float64(denied))
}

// A limitCollector reports limits side by side with what they are compared with.
type limitCollector struct {
	limits func() []Limit
	names  set
}

func (c *limitCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- limitDesc
	ch <- limitCurrentDesc
}

func (c *limitCollector) Collect(ch chan<- prometheus.Metric) {
	if c.limits == nil {
		return
	}
	for _, l := range c.limits() {
		if c.names.has(l.Name) {
			ch <- value(limitDesc, l.Limit, l.Name)
			ch <- value(limitCurrentDesc, l.Current, l.Name)
		}
	}
}
