package main

import (
	"fmt"
	"reflect"
	"time"

	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/proxy/upstream"
)

// This file tells the status page what package status cannot know.

// newStatus returns the list of sessions and the page.
func (s *service) newStatus(b build) *status.Status {
	started := time.Now()
	return status.New(status.Options{
		Gateway:     s.gateway,
		Ended:       &s.observer.ended,
		Limit:       func() int { return s.config().ConnectionMetricsLimit },
		NetworkBits: func() (ip4, ip6 int) { c := s.config(); return c.NetworkIPv4Bits, c.NetworkIPv6Bits },
		Events:      &s.observer.events,
		Samples: func() (all []status.Sample) {
			for _, sample := range s.metrics.Samples() {
				all = append(all, status.Sample(sample))
			}
			return all
		},
		Facts: func() status.Facts {
			c := s.config()
			f := status.Facts{Version: b.version, Started: started, Ready: s.router.Ready(), Settings: settingsShown(c), Token: c.AdminTokenFile != ""}
			if s.drain.begun() {
				p := s.drain.progress(s.gateway.Sessions())
				f.Draining = fmt.Sprintf("%s, %d sessions live", p.State, p.Sessions)
			}
			for _, server := range s.router.Status() {
				f.Servers = append(f.Servers, status.Server{Name: server.Name, Up: server.Up, Checked: server.Checked, Sessions: server.Sessions, Problem: problem(server.Err)})
			}
			return f
		},
		Log: s.log,
	})
}

// problem is the text of an error, empty for nil.
func problem(err *upstream.Error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// settingsShown are limits that no metric has.
func settingsShown(c *config) (all []status.Fact) {
	for _, name := range []string{"NETWORK_REQUESTS", "NETWORK_HANDSHAKES", "NETWORK_FAILED_LOGINS", "AUTH_TIMEOUT", "MAX_STANZA_BYTES", "MAX_SERVER_STANZA_BYTES", "PING_INTERVAL"} {
		v := variableCalled(prefix + name)
		all = append(all, status.Fact{Name: v.name, Value: fmt.Sprint(reflect.ValueOf(*c).Field(v.field))})
	}
	return all
}
