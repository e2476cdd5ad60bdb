package main

import (
	"iter"
	"strconv"

	"xmppgate/metrics"
	"xmppgate/proxy"
)

// This file brings proxy and metrics together, which do not know each other.

var _ proxy.Observer = (*metrics.Metrics)(nil)

// newMetrics makes the metrics of a gateway, with the label values that proxy
// declares.
func newMetrics(g *proxy.Gateway, b build, sessions, connections int, draining func() bool) *metrics.Metrics {
	var endings []string
	for _, e := range proxy.Endings() {
		endings = append(endings, e.Name)
	}
	return metrics.New(source{g}, metrics.Options{
		Version:          b.version,
		Revision:         b.revision,
		Endings:          endings,
		UpgradeResults:   proxy.UpgradeResults(),
		DialResults:      proxy.DialResults(),
		Phases:           proxy.Phases(),
		SessionsLimit:    sessions,
		ConnectionsLimit: connections,
		Draining:         draining,
	})
}

// A source presents a gateway to metrics.
type source struct{ gateway *proxy.Gateway }

func (s source) Totals() (up, down metrics.Traffic) {
	u, d := s.gateway.Totals()
	return metrics.Traffic(u), metrics.Traffic(d)
}

func (s source) Connections() iter.Seq[metrics.Connection] {
	return func(yield func(metrics.Connection) bool) {
		for i := range s.gateway.Sessions() {
			if !yield(connection(i)) {
				return
			}
		}
	}
}

func connection(i proxy.SessionInfo) metrics.Connection {
	return metrics.Connection{
		ID:     strconv.FormatUint(i.ID, 10),
		Remote: remote(i),
		Phase:  i.Phase,
		Since:  i.Since,
		Idle:   i.Idle,
		Ping:   i.Ping,
		Up:     metrics.Traffic(i.Up),
		Down:   metrics.Traffic(i.Down),
	}
}

// remote is empty for a client on a Unix socket.
func remote(i proxy.SessionInfo) string {
	if !i.Remote.IsValid() {
		return ""
	}
	return i.Remote.String()
}
