// Package status shows operators what a gateway does: its live sessions with their
// current rates, those that ended lately, and a page for browsers.
//
// The page (page.go, one.go) shows the same to people, with the totals of the last half
// hour (history.go) and tables of the metrics.
//
// Nothing here costs a session anything while nobody looks: rates come from two
// snapshots (sampler.go), which are taken when somebody asks, once for all who ask at the
// same time. What ended is kept in a ring (ended.go). A query (query.go) says which
// sessions are wanted and in which order; list.go answers with JSON.
package status

import (
	"iter"

	"xmppgate/proxy"
)

// A Gateway is what is shown.
type Gateway interface {
	// Sessions yields the live sessions, in any order.
	Sessions() iter.Seq[proxy.SessionInfo]
	// Summary returns the number of live sessions and what all have relayed so far.
	Summary() (sessions int, toServer, toClient proxy.Traffic)
	// End ends the live sessions that match, and returns how many.
	End(match func(*proxy.SessionInfo) bool) (ended int)
}
