// Package metrics exports the state of a gateway to Prometheus.
//
// It keeps two registries. The first has a bounded number of series: every label
// value comes from [Options]. Its series exist from the start, so that rate sees
// their zero. Only the outcomes of opening streams appear when they first occur,
// because most combinations of their labels never do. The second registry has a
// few series for each of the busiest sessions. They end with the session, and have
// a path of their own, so that a scrape of the first does not pay for them.
//
// Rare events are reported by calling the methods of [Metrics], which implements
// proxy.Observer and parts of upstream.Observer. Sessions count stanzas and bytes
// themselves, and each scrape reads them from a [Source]: sessions share no
// counter.
package metrics

import (
	"iter"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A Source is the gateway in the view of a scrape. Its methods are called at every
// scrape, by several goroutines at once.
type Source interface {
	// Totals returns what was relayed since the start, by ended and by live
	// sessions. Its numbers never decrease.
	Totals() (up, down Traffic)
	// Sessions returns the number of live sessions by phase, one of Options.Phases.
	Sessions() map[string]int
	// Connections yields the live sessions, in any order.
	Connections() iter.Seq[Connection]
	// Compression tells how compression is used. Its counters never decrease.
	Compression() Compression
	// Servers returns the state of each of Options.Servers.
	Servers() []Server
}

// A Server is the state of one XMPP server.
type Server struct {
	Name     string // one of Options.Servers
	Up       bool   // whether sessions are sent there
	Sessions int    // live ones, including those that connect
}

// Traffic counts what was relayed in one direction. The zero value is no traffic.
type Traffic struct {
	Messages, Presences, IQs uint64 // stanzas
	Nonzas                   uint64 // all other first-level elements
	Bytes                    uint64 // of XML, without WebSocket framing
}

// A MessageSize counts the payloads of WebSocket messages in one direction, in bytes.
type MessageSize struct {
	Plain uint64 // as text
	Wire  uint64 // as they were sent
}

// Compression tells how compression is used.
type Compression struct {
	Sessions            int64       // live ones that have agreed on it
	WithoutMemory       uint64      // sessions so far that went without because MemoryLimit was reached
	Memory, MemoryLimit int64       // bytes that live sessions keep, and may keep
	Up, Down            MessageSize // of sessions that have agreed on it
}

// stanzas is the number of first-level elements of any kind.
func (t Traffic) stanzas() uint64 { return t.Messages + t.Presences + t.IQs + t.Nonzas }

// A Connection is one live session.
type Connection struct {
	ID     string // unique for the process
	Remote string // address of the client; empty on a Unix socket
	Server string // one of Options.Servers; empty before it is chosen
	Phase  string // one of Options.Phases
	Since  time.Time
	Idle   time.Duration // since the last byte from either side
	Ping   time.Duration // last round trip; zero before the first
	Up     Traffic       // client to server
	Down   Traffic       // server to client

	UpQueue, DownQueue Queue // to the server and to the client

	Compressed               bool // compression was agreed on
	UpMessages, DownMessages MessageSize
}

// A Queue is what one side of a session does not take.
type Queue struct {
	Bytes   int           // that wait
	Stalled time.Duration // how long the side has taken nothing, in all
}

// bytes is what connections are ranked by.
func (c *Connection) bytes() uint64 { return c.Up.Bytes + c.Down.Bytes }

// Options do not change while the gateway runs, except by SetServers. The lists are all values that a
// label may have: an event with another value is not counted, so that no mistake
// elsewhere can add series.
type Options struct {
	Version, Revision string // of the program, for xmppgate_build_info

	Endings        []string // of sessions, see Ended
	UpgradeResults []string // see Upgraded
	DialResults    []string // see Dialed
	Phases         []string // of sessions, see Connection.Phase
	Sides          []string // of sessions, see StallOver
	Servers        []string // names of servers
	OpenPhases     []string // of opening a stream, see Opened
	OpenResults    []string // of these phases, and of FilesRead
	Mechanisms     []string // families of SASL mechanisms, see LoginEnded
	LoginResults   []string // see LoginEnded
	ResumeResults  []string // see ResumeEnded
	ErrorSides     []string // who has sent a stream error, see StreamError
	StreamErrors   []string // their conditions

	TLS TLSOptions

	// SessionsLimit returns the number of sessions that may live at once. Zero
	// means no limit, and so does nil. It is called at every scrape.
	SessionsLimit func() int
	// ConnectionsLimit returns the number of sessions that ConnectionsHandler
	// shows at most. Zero means none, and so does nil. It is called at every
	// scrape.
	ConnectionsLimit func() int
	// Limits describe what keeps clients out.
	Limits LimitOptions
	// Draining reports whether the gateway is stopping. Nil means never. It
	// is called at every scrape.
	Draining func() bool
	// LogLinesLost returns how many lines the log has lost so far. Nil means
	// none. It is called at every scrape.
	LogLinesLost func() uint64
}

// Metrics holds both registries; [New] makes one. Its methods may be called by
// several goroutines at once. Those without the number of a session do not allocate.
type Metrics struct {
	totals, connections *prometheus.Registry

	upgrades map[string]prometheus.Counter
	dials    sessionCounters[string]
	ended    sessionCounters[string]
	stalls   map[string]prometheus.Counter
	stalled  map[string]prometheus.Counter
	resumes  map[string]prometheus.Counter
	logins   sessionCounters[pair]       // by mechanism and result
	errors   map[pair]prometheus.Counter // stream errors by side and condition

	featuresDuration *sessionHistogram
	loginDuration    *sessionHistogram
	restarts         prometheus.Counter
	resumable        prometheus.Counter

	upgradeDuration prometheus.Histogram
	dialDuration    *sessionHistogram
	acceptErrors    prometheus.Counter
	pingRoundTrip   prometheus.Histogram
	sessionDuration *sessionHistogram

	tls         *tlsMetrics
	limits      *limitMetrics
	reloads     map[string]prometheus.Counter
	reloaded    prometheus.Gauge
	opens       *prometheus.CounterVec
	filesRead   *prometheus.CounterVec
	openTimes   *prometheus.HistogramVec
	failovers   *prometheus.CounterVec
	redirects   *prometheus.CounterVec
	certificate *prometheus.GaugeVec
	openPhases  set
	openResults set

	mu      sync.RWMutex
	servers set // guarded by mu, which also keeps series from being made for a server that goes
}

// A set holds the values that a label may have.
type set map[string]struct{}

func newSet(values []string) set {
	s := make(set, len(values))
	for _, v := range values {
		s[v] = struct{}{}
	}
	return s
}

func (s set) has(value string) bool {
	_, ok := s[value]
	return ok
}

// New returns the metrics of the gateway that source describes.
func New(source Source, o Options) *Metrics {
	totals, connections := prometheus.NewRegistry(), prometheus.NewRegistry()
	m := &Metrics{
		totals:      totals,
		connections: connections,
		tls:         newTLSMetrics(totals, o.TLS),
		limits:      newLimitMetrics(totals, o.Limits),

		upgrades: counters(totals, "xmppgate_upgrades_total", "HTTP requests to the WebSocket listeners, by outcome.", "result", o.UpgradeResults),
		dials:    withExemplars(counters(totals, "xmppgate_dials_total", "Attempts to connect to the XMPP server, by outcome.", "result", o.DialResults)),
		ended:    withExemplars(counters(totals, "xmppgate_sessions_ended_total", "Sessions that have ended, by reason.", "ending", o.Endings)),
		resumes:  counters(totals, "xmppgate_resumptions_total", "Clients that have asked the XMPP server to resume a stream, by outcome.", "result", o.ResumeResults),
		logins:   withExemplars(pairs(totals, "xmppgate_logins_total", "Logins by family of SASL mechanisms and outcome. With the mechanism none, clients that left without a try.", "mechanism", "result", o.Mechanisms, o.LoginResults)),
		errors:   pairs(totals, "xmppgate_stream_errors_total", "Stream errors by condition and by who has sent them.", "side", "condition", o.ErrorSides, o.StreamErrors),

		// Milliseconds to minutes.
		featuresDuration: newSessionHistogram(totals, "xmppgate_features_duration_seconds", "Time from the opening of a WebSocket to the first features of the XMPP server.", prometheus.ExponentialBuckets(0.001, 4, 9)),
		loginDuration:    newSessionHistogram(totals, "xmppgate_login_duration_seconds", "Time from the opening of a WebSocket to the success of the login.", prometheus.ExponentialBuckets(0.001, 4, 9)),
		restarts:         newCounter(totals, "xmppgate_stream_restarts_total", "Streams that have started again after a login with SASL."),
		resumable:        newCounter(totals, "xmppgate_streams_resumable_total", "Streams that the XMPP server lets the client resume later."),

		stalls:  counters(totals, "xmppgate_stalls_total", "Times that a side of a session took nothing for a second or longer although bytes waited for it; counted when it is over.", "side", o.Sides),
		stalled: counters(totals, "xmppgate_stalled_seconds_total", "How long these stalls lasted.", "side", o.Sides),

		// Half a millisecond to half a minute.
		upgradeDuration: histogram(totals, "xmppgate_upgrade_duration_seconds", "Time from a new connection to the answer to its HTTP request.", prometheus.ExponentialBuckets(0.0005, 4, 9)),
		acceptErrors:    newCounter(totals, "xmppgate_accept_errors_total", "Attempts to accept a connection that have failed; the log has the cause."),
		dialDuration:    newSessionHistogram(totals, "xmppgate_dial_duration_seconds", "Time to connect to the XMPP server or to give up.", prometheus.ExponentialBuckets(0.0005, 4, 9)),
		pingRoundTrip:   histogram(totals, "xmppgate_ping_round_trip_seconds", "Time from a WebSocket ping to its pong.", prometheus.ExponentialBuckets(0.001, 2, 15)),
		// About a factor of four, at the boundaries that people ask about.
		sessionDuration: newSessionHistogram(totals, "xmppgate_session_duration_seconds", "Age of sessions at their end.", []float64{0.1, 0.5, 2, 10, 60, 300, 1200, 3600, 14400, 43200, 86400}),

		reloads: counters(totals, "xmppgate_config_reloads_total", "How often the configuration was read again, by outcome.", "result", []string{reloadOK, reloadError}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "xmppgate_config_last_reload_successful",
			Help: "0 if the configuration was wrong when it was read last, so that an older one is in force.",
		}),
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "xmppgate_upstream_opens_total",
			Help: "Completed phases of opening a stream to an XMPP server, by outcome; health checks included.",
		}, []string{"server", "phase", "result"}),
		openTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "xmppgate_upstream_open_duration_seconds",
			Help:    "Time that a phase of opening a stream to an XMPP server took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"server", "phase"}),
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "xmppgate_upstream_failovers_total",
			Help: "Sessions that went on to another XMPP server, by the server that failed.",
		}, []string{"server"}),
		redirects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "xmppgate_upstream_redirects_total",
			Help: "Redirects of XMPP servers that the gateway followed.",
		}, []string{"server"}),
		filesRead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "xmppgate_upstream_files_read_total",
			Help: "How often the files that the URL of an XMPP server names were read again because they had changed, by outcome.",
		}, []string{"server", "result"}),
		certificate: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "xmppgate_upstream_certificate_expiry_timestamp_seconds",
			Help: "Expiry of the last certificate that an XMPP server presented, in seconds since 1970.",
		}, []string{"server"}),
		openPhases:  newSet(o.OpenPhases),
		openResults: newSet(o.OpenResults),
	}

	prometheus.WrapRegistererWith(prometheus.Labels{
		"version":   o.Version,
		"revision":  o.Revision,
		"goversion": runtime.Version(),
	}, totals).MustRegister(gauge("xmppgate_build_info", "Always 1; the labels identify the build.", func() float64 { return 1 }))
	totals.MustRegister(
		gauge("xmppgate_sessions_limit", "Sessions that may live at once; 0 means no limit.", func() float64 {
			if o.SessionsLimit == nil {
				return 0
			}
			return float64(o.SessionsLimit())
		}),
		gauge("xmppgate_draining", "1 while the gateway accepts no clients and closes its sessions.", func() float64 {
			if o.Draining != nil && o.Draining() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "xmppgate_log_lines_lost_total",
			Help: "Log lines that were lost because whatever reads the log was too slow or gone, or the disk was full.",
		}, func() float64 {
			if o.LogLinesLost == nil {
				return 0
			}
			return float64(o.LogLinesLost())
		}),
		&trafficCollector{source},
		&compressionCollector{source},
		&phaseCollector{source, o.Phases},
		&serverCollector{source},
		m.reloaded, m.opens, m.openTimes, m.failovers, m.redirects, m.filesRead, m.certificate,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	connections.MustRegister(&connectionCollector{source, o.ConnectionsLimit})
	m.reloaded.Set(1)
	m.SetServers(o.Servers)
	return m
}

// SetServers replaces Options.Servers. The series of servers that are gone end, and
// later events of theirs are not counted.
func (m *Metrics) SetServers(names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := newSet(names)
	for name := range m.servers {
		if !now.has(name) {
			gone := prometheus.Labels{"server": name}
			for _, v := range []*prometheus.MetricVec{m.opens.MetricVec, m.openTimes.MetricVec, m.failovers.MetricVec, m.redirects.MetricVec, m.filesRead.MetricVec, m.certificate.MetricVec} {
				v.DeletePartialMatch(gone)
			}
		}
	}
	m.servers = now
	for _, name := range names {
		m.failovers.WithLabelValues(name)
		m.redirects.WithLabelValues(name)
	}
}

// Handler serves the first registry, for /metrics. Like ConnectionsHandler it does not
// compress: that would take a megabyte for each request at the same time.
func (m *Metrics) Handler() http.Handler {
	// Exemplars exist in OpenMetrics only.
	return serve(m.totals, promhttp.HandlerOpts{EnableOpenMetrics: true, DisableCompression: true})
}

// ConnectionsHandler serves the metrics of single sessions. A scrape copies and sorts all
// of them: the caller has to bound how many there are at a time.
func (m *Metrics) ConnectionsHandler() http.Handler {
	return serve(m.connections, promhttp.HandlerOpts{DisableCompression: true})
}

// Upgraded counts an HTTP request by its result, one of Options.UpgradeResults,
// and the time from the connection to the answer.
func (m *Metrics) Upgraded(result string, took time.Duration) {
	increment(m.upgrades, result)
	m.upgradeDuration.Observe(took.Seconds())
}

// Dialed counts a session's attempt to get a server, by its result, one of
// Options.DialResults, and the time it took.
func (m *Metrics) Dialed(session uint64, result string, took time.Duration) {
	m.dials.increment(result, session)
	m.dialDuration.observe(took, session)
}

// FeaturesSent records the time until a client got its first features.
func (m *Metrics) FeaturesSent(session uint64, took time.Duration) {
	m.featuresDuration.observe(took, session)
}

// LoginEnded counts a login by its mechanism and result, of Options.Mechanisms and
// LoginResults, and records the time until one has succeeded.
func (m *Metrics) LoginEnded(session uint64, mechanism, result string, took time.Duration) {
	m.logins.increment(pair{mechanism, result}, session)
	if result == loginSuccess {
		m.loginDuration.observe(took, session)
	}
}

// loginSuccess is the one of Options.LoginResults that is no failure.
const loginSuccess = "success"

// Restarted counts a stream that has started again.
func (m *Metrics) Restarted() { m.restarts.Inc() }

// Resumable counts a stream that may be resumed.
func (m *Metrics) Resumable() { m.resumable.Inc() }

// ResumeEnded counts a client's wish to resume a stream by its result, one of
// Options.ResumeResults.
func (m *Metrics) ResumeEnded(result string) { increment(m.resumes, result) }

// StreamError counts a stream error by who has sent it and its condition, of
// Options.ErrorSides and StreamErrors.
func (m *Metrics) StreamError(side, condition string) { increment(m.errors, pair{side, condition}) }

// AcceptFailed counts a connection that could not be accepted.
func (m *Metrics) AcceptFailed() { m.acceptErrors.Inc() }

// Pinged records the round trip of a WebSocket ping.
func (m *Metrics) Pinged(roundTrip time.Duration) {
	m.pingRoundTrip.Observe(roundTrip.Seconds())
}

// StallOver counts a stall of a side, one of Options.Sides, that lasted d.
func (m *Metrics) StallOver(side string, d time.Duration) {
	increment(m.stalls, side)
	if c, ok := m.stalled[side]; ok {
		c.Add(d.Seconds())
	}
}

// Ended counts a session that has ended, by its ending, one of Options.Endings,
// and its age.
func (m *Metrics) Ended(session uint64, ending string, age time.Duration) {
	m.ended.increment(ending, session)
	m.sessionDuration.observe(age, session)
}

// Results of Reloaded.
const (
	reloadOK    = "ok"
	reloadError = "error"
)

// Reloaded counts that the configuration was read again: it is in force if ok is true,
// and was wrong otherwise.
func (m *Metrics) Reloaded(ok bool) {
	if ok {
		m.reloaded.Set(1)
		increment(m.reloads, reloadOK)
	} else {
		m.reloaded.Set(0)
		increment(m.reloads, reloadError)
	}
}

// Opened counts a phase of opening a stream to an XMPP server: server, phase and
// result are of Options.Servers, OpenPhases and OpenResults.
func (m *Metrics) Opened(server, phase, result string, took time.Duration) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.servers.has(server) && m.openPhases.has(phase) && m.openResults.has(result) {
		m.opens.WithLabelValues(server, phase, result).Inc()
		m.openTimes.WithLabelValues(server, phase).Observe(took.Seconds())
	}
}

// FailedOver counts a session that went on to another server after the server
// from had failed.
func (m *Metrics) FailedOver(from string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.servers.has(from) {
		m.failovers.WithLabelValues(from).Inc()
	}
}

// Redirected counts a redirect that the gateway followed.
func (m *Metrics) Redirected(server string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.servers.has(server) {
		m.redirects.WithLabelValues(server).Inc()
	}
}

// FilesRead counts that the files of a server were read again, by outcome, one of
// Options.OpenResults.
func (m *Metrics) FilesRead(server, result string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.servers.has(server) && m.openResults.has(result) {
		m.filesRead.WithLabelValues(server, result).Inc()
	}
}

// CertificateExpires records until when the certificate of a server is valid.
func (m *Metrics) CertificateExpires(server string, at time.Time) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.servers.has(server) {
		m.certificate.WithLabelValues(server).Set(float64(at.Unix()))
	}
}

func increment[K comparable](counters map[K]prometheus.Counter, value K) {
	if c, ok := counters[value]; ok {
		c.Inc()
	}
}

// A pair is the values of two labels.
type pair [2]string

// pairs registers one counter for each pair of values of two labels.
func pairs(r prometheus.Registerer, name, help, label, label2 string, values, values2 []string) map[pair]prometheus.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label, label2})
	r.MustRegister(vec)
	handles := make(map[pair]prometheus.Counter, len(values)*len(values2))
	for _, v := range values {
		for _, v2 := range values2 {
			handles[pair{v, v2}] = vec.WithLabelValues(v, v2)
		}
	}
	return handles
}

// counters registers one counter for each value of a label, resolved once so
// that an event costs a lookup and an addition.
func counters(r prometheus.Registerer, name, help, label string, values []string) map[string]prometheus.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	r.MustRegister(vec)
	handles := make(map[string]prometheus.Counter, len(values))
	for _, v := range values {
		handles[v] = vec.WithLabelValues(v)
	}
	return handles
}

func newCounter(r prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	r.MustRegister(c)
	return c
}

// histogram registers a histogram with classic buckets only: a Prometheus
// that negotiates native ones would store no others, and queries over _bucket
// would come back empty.
func histogram(r prometheus.Registerer, name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	r.MustRegister(h)
	return h
}

func gauge(name, help string, value func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// A Sample is one value of the registry that Handler serves.
type Sample struct {
	Name   string            // of the metric; for a histogram with _count or _sum
	Labels map[string]string // must not be changed
	Value  float64
}

// Samples returns what Handler serves of the gateway itself. It costs as much as a scrape.
func (m *Metrics) Samples() (all []Sample) {
	// What a collector reports wrongly is missing, as it is for Prometheus.
	families, _ := m.totals.Gather()
	for _, f := range families {
		name := f.GetName()
		if !strings.HasPrefix(name, "xmppgate_") {
			continue
		}
		for _, metric := range f.GetMetric() {
			labels := make(map[string]string, len(metric.GetLabel()))
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			switch {
			case metric.GetCounter() != nil:
				all = append(all, Sample{name, labels, metric.GetCounter().GetValue()})
			case metric.GetGauge() != nil:
				all = append(all, Sample{name, labels, metric.GetGauge().GetValue()})
			case metric.GetHistogram() != nil:
				h := metric.GetHistogram()
				all = append(all, Sample{name + "_count", labels, float64(h.GetSampleCount())}, Sample{name + "_sum", labels, h.GetSampleSum()})
			}
		}
	}
	return all
}
