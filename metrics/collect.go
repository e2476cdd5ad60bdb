package metrics

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// The collectors of this file keep no state: they read the source and emit
// constants. The series of a session end with the session.

const (
	up   = "up"   // towards the XMPP server
	down = "down" // towards the client
)

var (
	stanzasDesc = prometheus.NewDesc("xmppgate_stanzas_total",
		"First-level elements relayed. A nonza is any element but message, presence and iq.", []string{"direction", "kind"}, nil)
	bytesDesc = prometheus.NewDesc("xmppgate_bytes_total",
		"Bytes of XML relayed, without WebSocket framing.", []string{"direction"}, nil)
	sessionsDesc = prometheus.NewDesc("xmppgate_sessions",
		"Live sessions.", []string{"phase"}, nil)
)

// A trafficCollector reports the totals of a gateway.
type trafficCollector struct{ source Source }

func (c *trafficCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- stanzasDesc
	ch <- bytesDesc
}

func (c *trafficCollector) Collect(ch chan<- prometheus.Metric) {
	emit := func(direction string, t Traffic) {
		ch <- counter(stanzasDesc, t.Messages, direction, "message")
		ch <- counter(stanzasDesc, t.Presences, direction, "presence")
		ch <- counter(stanzasDesc, t.IQs, direction, "iq")
		ch <- counter(stanzasDesc, t.Nonzas, direction, "nonza")
		ch <- counter(bytesDesc, t.Bytes, direction)
	}
	u, d := c.source.Totals()
	emit(up, u)
	emit(down, d)
}

var (
	compressionBytesDesc = prometheus.NewDesc("xmppgate_compression_bytes_total",
		"Bytes of message payloads in sessions with compression: as plain text, and as they were sent on the wire. Their quotient is the ratio.", []string{"direction", "form"}, nil)
	compressionSessionsDesc = prometheus.NewDesc("xmppgate_compression_sessions",
		"Live sessions with compression.", nil, nil)
	compressionMemoryDesc = prometheus.NewDesc("xmppgate_compression_memory_bytes",
		"Memory that live sessions keep to compress.", nil, nil)
	compressionLimitDesc = prometheus.NewDesc("xmppgate_compression_memory_limit_bytes",
		"Most memory that sessions may keep to compress; 0 without compression.", nil, nil)
	compressionWithoutDesc = prometheus.NewDesc("xmppgate_compression_sessions_without_memory_total",
		"Sessions that went without compression because its memory was in use.", nil, nil)
)

// A compressionCollector reports how compression is used.
type compressionCollector struct{ source Source }

func (c *compressionCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- compressionBytesDesc
	ch <- compressionSessionsDesc
	ch <- compressionMemoryDesc
	ch <- compressionLimitDesc
	ch <- compressionWithoutDesc
}

func (c *compressionCollector) Collect(ch chan<- prometheus.Metric) {
	i := c.source.Compression()
	ch <- counter(compressionBytesDesc, i.Up.Plain, up, "plain")
	ch <- counter(compressionBytesDesc, i.Up.Wire, up, "wire")
	ch <- counter(compressionBytesDesc, i.Down.Plain, down, "plain")
	ch <- counter(compressionBytesDesc, i.Down.Wire, down, "wire")
	ch <- value(compressionSessionsDesc, float64(i.Sessions))
	ch <- value(compressionMemoryDesc, float64(i.Memory))
	ch <- value(compressionLimitDesc, float64(i.MemoryLimit))
	ch <- counter(compressionWithoutDesc, i.WithoutMemory)
}

// A phaseCollector counts live sessions by phase.
type phaseCollector struct {
	source Source
	phases []string
}

func (c *phaseCollector) Describe(ch chan<- *prometheus.Desc) { ch <- sessionsDesc }

func (c *phaseCollector) Collect(ch chan<- prometheus.Metric) {
	count := c.source.Sessions()
	for _, phase := range c.phases {
		ch <- value(sessionsDesc, float64(count[phase]), phase)
	}
}

var (
	serverUpDesc = prometheus.NewDesc("xmppgate_upstream_up",
		"1 while sessions are sent to an XMPP server, 0 while it is considered down.", []string{"server"}, nil)
	serverSessionsDesc = prometheus.NewDesc("xmppgate_upstream_sessions",
		"Live sessions at an XMPP server, including those that connect.", []string{"server"}, nil)
)

// A serverCollector reports the state of the servers.
type serverCollector struct{ source Source }

func (c *serverCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- serverUpDesc
	ch <- serverSessionsDesc
}

func (c *serverCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.source.Servers() {
		isUp := 0.0
		if s.Up {
			isUp = 1
		}
		ch <- value(serverUpDesc, isUp, s.Name)
		ch <- value(serverSessionsDesc, float64(s.Sessions), s.Name)
	}
}

// connectionLabels are those of every series of a session.
var connectionLabels = []string{"id", "remote", "server"}

var (
	connectionBytesDesc = prometheus.NewDesc("xmppgate_connection_bytes_total",
		"Bytes of XML relayed by one live session.", append(slices.Clip(connectionLabels), "direction"), nil)
	connectionStanzasDesc = prometheus.NewDesc("xmppgate_connection_stanzas_total",
		"First-level elements relayed by one live session.", append(slices.Clip(connectionLabels), "direction"), nil)
	connectionQueuedDesc = prometheus.NewDesc("xmppgate_connection_queued_bytes",
		"Bytes that wait for one side of one live session: in the gateway, and in the kernel as of the last check; absent while there are none.", append(slices.Clip(connectionLabels), "direction"), nil)
	connectionStalledDesc = prometheus.NewDesc("xmppgate_connection_stalled_seconds_total",
		"How long one side of one live session has taken nothing although bytes waited for it; absent while it always did.", append(slices.Clip(connectionLabels), "direction"), nil)
	connectionStartDesc = prometheus.NewDesc("xmppgate_connection_start_time_seconds",
		"Start of one live session, in seconds since 1970.", connectionLabels, nil)
	connectionIdleDesc = prometheus.NewDesc("xmppgate_connection_idle_seconds",
		"Time since the last byte of one live session.", connectionLabels, nil)
	connectionPingDesc = prometheus.NewDesc("xmppgate_connection_ping_seconds",
		"Last WebSocket ping round trip of one live session; absent before the first.", connectionLabels, nil)
	connectionMessageBytesDesc = prometheus.NewDesc("xmppgate_connection_message_bytes_total",
		"Bytes of message payloads of one live session with compression: as plain text, and as they were sent on the wire.", append(slices.Clip(connectionLabels), "direction", "form"), nil)
	connectionsOmittedDesc = prometheus.NewDesc("xmppgate_connections_omitted",
		"Live sessions that are not shown because others have relayed more bytes.", nil, nil)
)

// A connectionCollector reports the limit sessions with the most bytes.
type connectionCollector struct {
	source Source
	limit  func() int // nil means none
}

func (c *connectionCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionBytesDesc
	ch <- connectionStanzasDesc
	ch <- connectionQueuedDesc
	ch <- connectionStalledDesc
	ch <- connectionStartDesc
	ch <- connectionIdleDesc
	ch <- connectionPingDesc
	ch <- connectionMessageBytesDesc
	ch <- connectionsOmittedDesc
}

func (c *connectionCollector) Collect(ch chan<- prometheus.Metric) {
	limit := 0
	if c.limit != nil {
		limit = c.limit()
	}
	shown, all := busiest(c.source.Connections(), limit)
	for i := range shown {
		pause(i)
		s := &shown[i]
		ch <- counter(connectionBytesDesc, s.Up.Bytes, s.ID, s.Remote, s.Server, up)
		ch <- counter(connectionBytesDesc, s.Down.Bytes, s.ID, s.Remote, s.Server, down)
		ch <- counter(connectionStanzasDesc, s.Up.stanzas(), s.ID, s.Remote, s.Server, up)
		ch <- counter(connectionStanzasDesc, s.Down.stanzas(), s.ID, s.Remote, s.Server, down)
		s.UpQueue.collect(ch, s, up)
		s.DownQueue.collect(ch, s, down)
		ch <- value(connectionStartDesc, float64(s.Since.UnixMilli())/1e3, s.ID, s.Remote, s.Server)
		ch <- value(connectionIdleDesc, s.Idle.Seconds(), s.ID, s.Remote, s.Server)
		if s.Ping > 0 {
			ch <- value(connectionPingDesc, s.Ping.Seconds(), s.ID, s.Remote, s.Server)
		}
		if s.Compressed {
			ch <- counter(connectionMessageBytesDesc, s.UpMessages.Plain, s.ID, s.Remote, s.Server, up, "plain")
			ch <- counter(connectionMessageBytesDesc, s.UpMessages.Wire, s.ID, s.Remote, s.Server, up, "wire")
			ch <- counter(connectionMessageBytesDesc, s.DownMessages.Plain, s.ID, s.Remote, s.Server, down, "plain")
			ch <- counter(connectionMessageBytesDesc, s.DownMessages.Wire, s.ID, s.Remote, s.Server, down, "wire")
		}
	}
	ch <- value(connectionsOmittedDesc, float64(all-len(shown)))
}

// busiest returns the limit connections with the most bytes, in any order, and how many
// there are. It keeps no others.
func busiest(connections iter.Seq[Connection], limit int) (kept quietest, all int) {
	for c := range connections {
		all++
		switch {
		case len(kept) < limit:
			if kept = append(kept, c); len(kept) == limit {
				heap.Init(&kept)
			}
		case limit > 0 && kept.less(&kept[0], &c):
			kept[0] = c
			heap.Fix(&kept, 0)
		}
	}
	return kept, all
}

// A quietest is a heap with the connection that is to go first at its top.
type quietest []Connection

func (q quietest) less(a, b *Connection) bool {
	return cmp.Or(cmp.Compare(a.bytes(), b.bytes()), cmp.Compare(b.ID, a.ID)) < 0
}
func (q quietest) Len() int           { return len(q) }
func (q quietest) Less(i, j int) bool { return q.less(&q[i], &q[j]) }
func (q quietest) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q quietest) Push(any)           { panic("not used") }
func (q quietest) Pop() any           { panic("not used") }

// collect emits what q has of s. Most have nothing, and a series costs more than to look.
func (q *Queue) collect(ch chan<- prometheus.Metric, s *Connection, direction string) {
	if q.Bytes > 0 {
		ch <- value(connectionQueuedDesc, float64(q.Bytes), s.ID, s.Remote, s.Server, direction)
	}
	if q.Stalled > 0 {
		ch <- prometheus.MustNewConstMetric(connectionStalledDesc, prometheus.CounterValue, q.Stalled.Seconds(), s.ID, s.Remote, s.Server, direction)
	}
}

func counter(d *prometheus.Desc, n uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func value(d *prometheus.Desc, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}
