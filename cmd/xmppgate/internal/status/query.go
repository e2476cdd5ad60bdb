package status

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"xmppgate/proxy"
)

// A query says which sessions are wanted.
type query struct {
	closed bool   // those that ended lately, not the live ones
	sort   string // a key of orders; empty for those that ended last first
	group  string // a key of groups, or empty
	limit  int

	filter
}

// A filter selects sessions. Its zero value selects all.
type filter struct {
	id      uint64       // of one; zero for any
	network netip.Prefix // of the client; invalid for any
	unix    bool         // clients on Unix sockets
	domain  string
	server  string
	phase   string
	ending  string // of sessions that have ended
}

// defaultLimit is how many sessions a listing has if the query does not say.
const defaultLimit = 100

// parseQuery returns what the parameters ask for, or everything that is wrong with them.
// Empty ones mean nothing, as forms send them.
func parseQuery(values url.Values) (q query, err error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(name, value string, known []string) {
		if !slices.Contains(known, value) {
			bad("%s must be one of %s", name, strings.Join(known, ", "))
		}
	}
	q = query{limit: defaultLimit}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values.Get(name)
		if value == "" && name != "domain" && name != "server" {
			continue
		}
		switch name {
		case "sort":
			q.sort = value
			oneOf(name, value, sortNames())
		case "group":
			q.group = value
			oneOf(name, value, slices.Sorted(maps.Keys(groups)))
		case "state":
			q.closed = value == "closed"
			oneOf(name, value, []string{"live", "closed"})
		case "limit":
			if q.limit, err = strconv.Atoi(value); err != nil || q.limit < 0 {
				bad("limit must be a number")
			}
		default:
			if known, err := q.filter.set(name, value); err != nil {
				errs = append(errs, err)
			} else if !known {
				bad("%q is not a parameter: there are sort, group, state, limit, %s", name, strings.Join(filterNames, ", "))
			}
		}
	}
	if q.sort == "" && !q.closed {
		q.sort = "bytes"
	}
	if q.ending != "" && !q.closed {
		bad("live sessions have no ending: add state=closed")
	}
	return q, errors.Join(errs...)
}

var filterNames = []string{"id", "network", "domain", "server", "phase", "ending"}

// set sets one part of a filter. It reports false for a name that is not one.
func (f *filter) set(name, value string) (known bool, err error) {
	switch name {
	case "id":
		if f.id, err = strconv.ParseUint(value, 10, 64); err != nil || f.id == 0 {
			return true, errors.New("id must be the number of a session")
		}
	case "network":
		if f.unix = value == unixNetwork; f.unix {
			break
		}
		if f.network, err = proxy.ParseNetwork(value); err != nil {
			return true, fmt.Errorf("network: %w; or %s", err, unixNetwork)
		}
	case "domain":
		if f.domain = value; value != "" {
			f.domain = proxy.NormalDomain(value)
		}
	case "server":
		f.server = value
	case "phase":
		f.phase = value
		if !slices.Contains(proxy.Phases(), value) {
			return true, fmt.Errorf("phase must be one of %s", strings.Join(proxy.Phases(), ", "))
		}
	case "ending":
		f.ending = value
		if !slices.ContainsFunc(proxy.Endings(), func(e proxy.EndingInfo) bool { return e.Name == value }) {
			return true, fmt.Errorf("%q is not an ending: docs/endings.md has all of them", value)
		}
	default:
		return false, nil
	}
	return true, nil
}

// matches reports whether f selects the session.
func (f *filter) matches(i *proxy.SessionInfo) bool {
	switch {
	case f.id != 0 && i.ID != f.id,
		f.unix && i.Remote.IsValid(),
		f.network.IsValid() && !f.network.Contains(i.Remote.Addr().WithZone("")),
		f.domain != "" && proxy.NormalDomain(i.Domain) != f.domain,
		f.server != "" && i.Server != f.server,
		f.phase != "" && i.Phase != f.phase:
		return false
	}
	return true
}

// orders are the values of sort: which of two sessions comes first.
var orders = map[string]func(a, b *entry) int{
	"bytes": func(a, b *entry) int { return cmp.Compare(b.Up.Bytes+b.Down.Bytes, a.Up.Bytes+a.Down.Bytes) },
	"messages": func(a, b *entry) int {
		return cmp.Compare(b.Up.Elements()+b.Down.Elements(), a.Up.Elements()+a.Down.Elements())
	},
	"rate": func(a, b *entry) int {
		return cmp.Compare(b.upRate.bytes+b.downRate.bytes, a.upRate.bytes+a.downRate.bytes)
	},
	"age":  func(a, b *entry) int { return a.Since.Compare(b.Since) },
	"idle": func(a, b *entry) int { return cmp.Compare(b.Idle, a.Idle) },
	"queued": func(a, b *entry) int {
		return cmp.Compare(b.UpQueue.Bytes+b.DownQueue.Bytes, a.UpQueue.Bytes+a.DownQueue.Bytes)
	},
	"stalled": func(a, b *entry) int {
		return cmp.Compare(b.UpQueue.Stalled+b.DownQueue.Stalled, a.UpQueue.Stalled+a.DownQueue.Stalled)
	},
	"ping":   func(a, b *entry) int { return cmp.Compare(b.Ping, a.Ping) },
	"remote": func(a, b *entry) int { return a.Remote.Compare(b.Remote) },
	"id":     func(a, b *entry) int { return cmp.Compare(a.ID, b.ID) },
}

func sortNames() []string { return slices.Sorted(maps.Keys(orders)) }

// sortPause is after how many comparisons a sort lets others run, see proxy.
const sortPause = 1024

// choose returns the sessions of all that q asks for, in its order.
func (q *query) choose(all []entry) (chosen []*entry) {
	for n := range all {
		if e := &all[n]; q.matches(&e.SessionInfo) && (q.ending == "" || e.over.Ending == q.ending) {
			chosen = append(chosen, e)
		}
	}
	if q.sort == "" {
		return chosen
	}
	order, compared := orders[q.sort], 0
	slices.SortFunc(chosen, func(a, b *entry) int {
		if compared++; compared%sortPause == 0 {
			runtime.Gosched()
		}
		return cmp.Or(order(a, b), cmp.Compare(a.ID, b.ID))
	})
	return chosen
}

// groups are the values of group: what sessions have in common.
var groups = map[string]func(*Status, *proxy.SessionInfo) string{
	"network": func(s *Status, i *proxy.SessionInfo) string { return s.networkOf(i.Remote.Addr()) },
	"domain":  func(_ *Status, i *proxy.SessionInfo) string { return i.Domain },
	"server":  func(_ *Status, i *proxy.SessionInfo) string { return i.Server },
	"phase":   func(_ *Status, i *proxy.SessionInfo) string { return i.Phase },
}

// unixNetwork is the network of clients on Unix sockets.
const unixNetwork = "unix"

// networkOf returns the network of a client, as limits count them.
func (s *Status) networkOf(a netip.Addr) string {
	if !a.IsValid() {
		return unixNetwork
	}
	ip4, bits := s.NetworkBits()
	if a.Is4() {
		bits = ip4
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil || p.IsSingleIP() {
		return a.WithZone("").String()
	}
	return p.String()
}
