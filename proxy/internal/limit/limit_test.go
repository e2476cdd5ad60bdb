package limit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var a = netip.MustParseAddr

// at returns an address of its own network for each number.
func at(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(11 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
}

// enters lets a session of the client in.
func enters(t *testing.T, table *Table, now time.Duration, client netip.Addr) Network {
	t.Helper()
	id, reason := table.Enter(now, client)
	if reason != None {
		t.Fatalf("%v is refused: %v", client, reason)
	}
	return id
}

func refuses(t *testing.T, table *Table, now time.Duration, client netip.Addr, want Reason) {
	t.Helper()
	if _, reason := table.Enter(now, client); reason != want {
		t.Fatalf("%v gets %v, want %v", client, reason, want)
	}
}

// What makes a network: addresses of one share its limits, those of two do not.
func TestNetworks(t *testing.T) {
	for _, c := range []struct {
		v4, v6    int
		one, more string
		same      bool
	}{
		{0, 0, "192.0.2.1", "192.0.2.1", true},
		{0, 0, "192.0.2.1", "192.0.2.2", false},
		{0, 0, "192.0.2.1", "::ffff:192.0.2.1", true},
		{0, 0, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{0, 0, "2001:db8::1", "2001:db8:0:1::1", false},
		{0, 0, "fe80::1%eth0", "fe80::1%eth1", true},
		{24, 0, "192.0.2.1", "192.0.2.255", true},
		{24, 0, "::ffff:192.0.2.1", "192.0.3.1", false},
		{0, 48, "2001:db8::1", "2001:db8:0:ffff::1", true},
		{0, 128, "2001:db8::1", "2001:db8::2", false},
		{24, 48, "0.0.0.0", "::", false},
	} {
		table := NewTable(Policy{IPv4Bits: c.v4, IPv6Bits: c.v6, Sessions: 1})
		enters(t, table, 1, a(c.one))
		_, reason := table.Enter(1, a(c.more))
		if got := reason != None; got != c.same {
			t.Errorf("/%d /%d: %s and %s share limits: %v", c.v4, c.v6, c.one, c.more, got)
		}
	}
}

func TestSessions(t *testing.T) {
	table := NewTable(Policy{Sessions: 3, Unauthenticated: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	c, other := a("192.0.2.1"), a("192.0.2.2")
	first := enters(t, table, 1, c)
	enters(t, table, 1, c)
	refuses(t, table, 1, c, NetworkUnauthenticated)
	enters(t, table, 1, other)
	table.Authenticated(first)
	enters(t, table, 1, c)
	refuses(t, table, 1, c, NetworkSessions)
	table.Leave(1, first, true)
	refuses(t, table, 1, c, NetworkUnauthenticated)
	table.Leave(1, first, false)
	enters(t, table, 1, c)
	for range 100 {
		enters(t, table, 1, a("127.0.0.9"))
		enters(t, table, 1, a("::ffff:127.0.0.9"))
		enters(t, table, 1, netip.Addr{})
	}
	if s := table.Stats(1); s.Networks != 2 || s.Sessions != 2 || s.Unauthenticated != 2 {
		t.Errorf("%+v", s)
	}
}

// Each bucket lets a burst pass, then its rate, and no other network pays for that.
func TestRates(t *testing.T) {
	r := Rate{PerSecond: 2, Burst: 3}
	table := NewTable(Policy{Requests: r, Handshakes: r, FailedLogins: r})
	c := a("2001:db8::1")
	for range 2 { // sessions end, and what they have used is remembered
		now := time.Hour
		for range 3 {
			table.Leave(now, enters(t, table, now, c), false)
		}
		refuses(t, table, now, a("2001:db8::2"), RequestRate)
		refuses(t, table, now+499*time.Millisecond, c, RequestRate)
		table.Leave(now, enters(t, table, now+500*time.Millisecond, c), false)
		refuses(t, table, now+500*time.Millisecond, c, RequestRate)
		enters(t, table, now, a("2001:db8:1::"))
		table.SetPolicy(now, Policy{Requests: r, Handshakes: r, FailedLogins: r})
		c = a("2001:db8:2::1")
	}
	now := 2 * time.Hour
	id := enters(t, table, now, c)
	for _, count := range []func() bool{
		func() bool { return table.Handshake(now, id) },
		func() bool { return table.LoginFailed(now, id) },
	} {
		if got := []bool{count(), count(), count(), count()}; !slices.Equal(got, []bool{true, true, true, false}) {
			t.Error(got)
		}
	}
	refuses(t, table, now, c, FailedLogins)
	if s := table.Stats(now); s.LockedOut != 1 {
		t.Errorf("%+v", s)
	}
	enters(t, table, now+time.Second/2, c)
}

// However many networks an attacker has, the table is bounded, those with sessions and
// those that are locked out are kept, and a newcomer is let in.
func TestTableIsBounded(t *testing.T) {
	const idle = 100
	table := NewTable(Policy{MaxIdle: idle, Sessions: 1, FailedLogins: Rate{PerSecond: 0.001, Burst: 1}})
	now := time.Hour
	live, locked := a("192.0.2.1"), a("192.0.2.2")
	session := enters(t, table, now, live)
	id := enters(t, table, now, locked)
	table.LoginFailed(now, id)
	table.Leave(now, id, false)
	for i := range 10000 {
		table.Leave(now, enters(t, table, now, at(i)), false)
	}
	if s := table.Stats(now); s.Networks > idle+1 || len(table.networks) > idle+3 {
		t.Errorf("%d networks are known, in room for %d", s.Networks, len(table.networks))
	}
	refuses(t, table, now, live, NetworkSessions)
	refuses(t, table, now, locked, FailedLogins)

	// Only networks that are locked out as well displace one that is, the oldest one
	// first. They do not keep others out.
	lockOut := func(i int) {
		id := enters(t, table, now, at(i))
		table.LoginFailed(now, id)
		table.Leave(now, id, false)
	}
	for i := range idle / 2 {
		lockOut(i)
	}
	refuses(t, table, now, at(0), FailedLogins)
	for i := range 3 * idle {
		lockOut(1000 + i)
	}
	enters(t, table, now, at(1))
	refuses(t, table, now, at(1000+3*idle-1), FailedLogins)
	refuses(t, table, now, live, NetworkSessions)
	table.Leave(now, session, false)

	// What makes no difference any more is forgotten.
	if s := table.Stats(now + time.Hour); s.Networks != 1 {
		t.Errorf("%d networks are known an hour later", s.Networks)
	}
}

// Whatever there is to look at or to forget, nobody waits for more than a portion of it.
func TestWorkIsBounded(t *testing.T) {
	const many = 10000
	p := Policy{FailedLogins: Rate{PerSecond: 1, Burst: 1}}
	for name, forget := range map[string]func(*Table) time.Duration{
		"all are forgotten together": func(*Table) time.Duration { return time.Hour },
		"fewer may be remembered": func(table *Table) time.Duration {
			table.SetPolicy(0, Policy{MaxIdle: 1})
			return time.Second
		},
	} {
		table := NewTable(p)
		for i := range many {
			table.Leave(1, enters(t, table, 1, at(i)), false)
		}
		now := forget(table)
		for calls := 0; len(table.index) > calls+1; calls++ {
			before := len(table.index)
			enters(t, table, now, at(many+calls))
			if n := before + 1 - len(table.index); n < 2 || n > 16 {
				t.Fatalf("%s: for a new one %d are forgotten", name, n)
			}
		}
	}

	table := NewTable(p)
	for i := range many {
		id := enters(t, table, 1, at(i))
		table.LoginFailed(1, id)
		table.Leave(1, id, false)
	}
	for calls, first, more := 1, 0, true; more; calls, first = calls+1, first+portion {
		var s Stats
		if more = table.look(&s, 1, first); s.LockedOut > 1000 {
			t.Fatalf("%d are looked at together", s.LockedOut)
		}
	}
	if n := table.Stats(1).LockedOut; n != many {
		t.Errorf("%d are locked out, want %d", n, many)
	}
	before := len(table.index)
	var s Stats
	table.look(&s, time.Hour, 0)
	if n := before - len(table.index); n > 1000 {
		t.Errorf("%d are forgotten together", n)
	}
	if n := table.Stats(time.Hour).Networks; n != 0 {
		t.Errorf("%d are left", n)
	}
}

// A bucket goes by a new policy from its moment on, whether or not somebody asks for it.
func TestPolicyChanges(t *testing.T) {
	const empty, change = time.Hour, time.Hour + 10*time.Second // with a token a minute it has a sixth of one by then
	for _, c := range []struct {
		name  string
		to    Rate
		until time.Duration // from change on; then there is a token
	}{
		{"same", Rate{PerSecond: 1. / 60, Burst: 1}, 50 * time.Second},
		{"faster", Rate{PerSecond: 1, Burst: 1}, 834 * time.Millisecond},
		{"slower", Rate{PerSecond: 1. / 600, Burst: 1}, 500 * time.Second},
		{"larger", Rate{PerSecond: 1. / 60, Burst: 9}, 50 * time.Second},
		{"none", Rate{}, 0},
	} {
		for _, asked := range []bool{false, true} {
			table := NewTable(Policy{FailedLogins: Rate{PerSecond: 1. / 60, Burst: 1}})
			client := a("192.0.2.1")
			id := enters(t, table, empty, client)
			table.LoginFailed(empty, id)
			table.SetPolicy(change, Policy{FailedLogins: c.to})
			if asked && c.until > 0 {
				refuses(t, table, change, client, FailedLogins)
			}
			if c.until > 0 {
				refuses(t, table, change+c.until-10*time.Millisecond, client, FailedLogins)
			}
			enters(t, table, change+c.until+10*time.Millisecond, client)
		}
	}
}

// Fewer lines than refusals: one for each network and minute, and not too many in all.
func TestLogs(t *testing.T) {
	table := NewTable(Policy{})
	now := time.Hour
	c := a("192.0.2.1")
	if n := table.Logs(now, c); n != 1 {
		t.Errorf("the first refusal: %d", n)
	}
	for range 5 {
		if n := table.Logs(now+time.Second, c); n != 0 {
			t.Errorf("a second one: %d", n)
		}
	}
	if n := table.Logs(now+LogPeriod, c); n != 6 {
		t.Errorf("a minute later: %d, want 6", n)
	}
	lines := 0
	for i := range 100000 {
		if table.Logs(now+LogPeriod, at(i)) > 0 {
			lines++
		}
	}
	if lines > logBurst {
		t.Errorf("%d lines at once", lines)
	}
}

func TestList(t *testing.T) {
	l, err := ParseList([]byte("# comment\n\n192.0.2.0/24 # offices\r\n 10.1.2.3\n10.0.0.0/8\n2001:db8::/32\n::ffff:198.51.100.0/120\n203.0.113.255/32\n"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Len() != 6 {
		t.Errorf("%d networks", l.Len())
	}
	for address, want := range map[string]bool{
		"192.0.2.0": true, "192.0.2.255": true, "192.0.3.0": false, "192.0.1.255": false, "10.1.2.3": true, "10.255.255.255": true,
		"11.0.0.0": false, "9.255.255.255": false, "2001:db8:ffff::1": true, "2001:db9::": false, "::1": false, "0.0.0.0": false,
		"198.51.100.7": true, "::ffff:198.51.100.7": true, "::ffff:192.0.2.1": true, "203.0.113.255": true, "203.0.113.254": false,
		"255.255.255.255": false, "fe80::1%x": false,
	} {
		if got := l.Contains(a(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	var none *List
	if none.Contains(a("192.0.2.1")) || none.Len() != 0 || l.Contains(netip.Addr{}) {
		t.Error("an empty list contains something, or a list nothing")
	}
	for text, want := range map[string]string{
		"192.0.2.0/24\nevil.example\n": `line 2: "evil.example" is not a network`,
		"192.0.2.0/33":                 "line 1: ",
		"192.0.2.0 192.0.2.1":          "line 1: ",
		"fe80::1%eth0":                 "line 1: ",
		strings.Repeat("x", 1<<17):     "line 1: ",
		strings.Repeat("x\n", 1000):    "line 5: ",
		strings.Repeat(" ", 17<<20):    "larger",
	} {
		if _, err := ParseList([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 2000 {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// The binary search finds what a comparison with each network finds.
func TestListAgrees(t *testing.T) {
	var text strings.Builder
	var all []netip.Prefix
	for i := range 300 {
		p := netip.PrefixFrom(at(i*7919), 16+i%17).Masked()
		all = append(all, p)
		fmt.Fprintln(&text, p)
	}
	l, err := ParseList([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		c := at(i * 997)
		want := slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(c) })
		if got := l.Contains(c); got != want {
			t.Fatalf("%v: %v", c, got)
		}
	}
}
