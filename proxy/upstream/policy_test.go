package upstream

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// orderOf returns the names of the servers in the order for q.
func orderOf(r *Router, q *Request) string {
	var names []string
	for _, c := range r.newSearch(nil).order(r.table().fallback, q) {
		names = append(names, c.server.host)
	}
	return strings.Join(names, " ")
}

// knock takes a server down.
func knock(r *Router, name string) {
	for _, c := range r.table().all {
		if c.name == name {
			s := search{Router: r, probe: true}
			s.report(c.node, &Error{Server: name, Phase: PhaseTCP, Result: ResultRefused})
		}
	}
}

func TestPolicies(t *testing.T) {
	for _, test := range []struct {
		policy   string
		sessions [3]int64
		down     string
		avoid    string
		want     []string // the orders of one session after another
	}{
		{policy: PolicyFirst, want: []string{"a b c", "a b c"}},
		{policy: PolicyFirst, down: "a", want: []string{"b c a"}},
		{policy: PolicyFirst, down: "a", avoid: "b", want: []string{"c a b"}},
		{policy: PolicyFirst, down: "a", avoid: "a", want: []string{"b c a"}},
		{policy: PolicyFirst, down: "a b c", want: []string{"a b c"}},
		{policy: PolicyFirst, avoid: "elsewhere", want: []string{"a b c"}},
		{policy: PolicyRoundRobin, want: []string{"a b c", "b c a", "c a b", "a b c"}},
		{policy: PolicyRoundRobin, down: "b", want: []string{"a c b", "c a b", "a c b", "c a b"}},
		{policy: PolicyRoundRobin, down: "a b", want: []string{"c a b", "c b a"}},
		{policy: PolicyLeastSessions, want: []string{"a b c", "b c a", "c a b"}},
		{policy: PolicyLeastSessions, sessions: [3]int64{3, 1, 2}, want: []string{"b c a", "b c a"}},
		{policy: PolicyLeastSessions, sessions: [3]int64{1, 0, 0}, want: []string{"b c a", "b c a", "c b a"}},
		{policy: PolicyLeastSessions, sessions: [3]int64{3, 1, 2}, down: "b", want: []string{"c a b"}},
		{policy: PolicyHash, want: []string{"c b a", "c b a"}},
		{policy: PolicyHash, down: "c", want: []string{"b a c"}},
		{policy: "", want: []string{"c b a"}},
	} {
		r := newTestRouter(t, Config{Default: parse(t, "tcp://a", "tcp://b", "tcp://c"), Policy: test.policy}, nil)
		for i, n := range test.sessions {
			r.table().all[i].sessions.Store(n)
		}
		for _, host := range strings.Fields(test.down) {
			knock(r, "tcp://"+host)
		}
		q := &Request{JID: "romeo@montague.example"}
		if test.avoid != "" {
			q.Avoid = "tcp://" + test.avoid
		}
		for i, want := range test.want {
			if got := orderOf(r, q); got != want {
				t.Errorf("%+v: session %d has %s, want %s", test, i, got, want)
			}
		}
	}
}

// Replicas of the gateway agree, those of earlier releases among them: these
// values must never change.
func TestHashIsStable(t *testing.T) {
	urls := []string{"tls://xmpp-0.example:5223", "tls://xmpp-1.example:5223", "tls://xmpp-2.example:5223", "unix:/run/xmpp.sock"}
	if got, want := score(urls[0], "romeo@montague.example"), uint64(0x30ad60839235f79d); got != want {
		t.Errorf("score %#x, want %#x", got, want)
	}
	client := func(s string) *Request { return &Request{Client: netip.MustParseAddrPort(s), ID: "1"} }
	for _, test := range []struct {
		q    *Request
		want string
	}{
		{&Request{JID: "romeo@montague.example"}, "tls://xmpp-1.example:5223"},
		{&Request{JID: "nurse@capulet.example"}, "tls://xmpp-0.example:5223"},
		{&Request{JID: "nurse@capulet.example", Client: netip.MustParseAddrPort("192.0.2.1:1")}, "tls://xmpp-0.example:5223"},
		{client("192.0.2.1:1"), "tls://xmpp-1.example:5223"},
		{client("192.0.2.1:2"), "tls://xmpp-1.example:5223"},
		{client("[::ffff:192.0.2.1]:3"), "tls://xmpp-1.example:5223"},
		{client("[2001:db8::1]:3"), "tls://xmpp-0.example:5223"},
		{&Request{ID: "1"}, "tls://xmpp-0.example:5223"},
		{&Request{ID: "2"}, "tls://xmpp-1.example:5223"},
	} {
		for range 2 { // in any order of the servers
			r := newTestRouter(t, Config{Default: parse(t, urls...)}, nil)
			if got := r.newSearch(nil).order(r.table().fallback, test.q)[0].name; got != test.want {
				t.Errorf("%+v: got %s, want %s", test.q, got, test.want)
			}
			slices.Reverse(urls)
		}
	}
}

func TestHashMovesLittle(t *testing.T) {
	const users = 5000
	urls := []string{"tcp://10.0.0.1", "tcp://10.0.0.2", "tcp://10.0.0.3", "tcp://10.0.0.4", "tcp://10.0.0.5"}
	all := newTestRouter(t, Config{Default: parse(t, urls...)}, nil)
	fewer := newTestRouter(t, Config{Default: parse(t, urls[:4]...)}, nil)
	share := map[string]int{}
	for i := range users {
		q := &Request{JID: fmt.Sprintf("user%d@example.org", i)}
		before, after := all.newSearch(nil).order(all.table().fallback, q), fewer.newSearch(nil).order(fewer.table().fallback, q)
		share[before[0].name]++
		want := before[0].name
		if want == urls[4] {
			want = before[1].name // where failover went all along
		}
		if after[0].name != want {
			t.Fatalf("%s moved from %s to %s", q.JID, want, after[0].name)
		}
	}
	for _, u := range urls {
		if mean := users / len(urls); math.Abs(float64(share[u]-mean)) > 0.1*float64(mean) {
			t.Errorf("%s has %d users of %d", u, share[u], users)
		}
	}
}

// Inside srv: a user has one target among those of the same priority, in whatever
// order DNS tells them; shares are those of the weights, and when a target is lost
// only its users move.
func TestHashOfTargets(t *testing.T) {
	const users = 20000
	target := func(name string, priority, weight uint16) record {
		return record{SRV: net.SRV{Target: name, Port: 5222, Priority: priority, Weight: weight}}
	}
	user := func(i int) *Request { return &Request{JID: fmt.Sprintf("user%d@example.org", i)} }
	for _, test := range []struct {
		all    []record
		shares map[string]float64
	}{
		{[]record{target("a.", 0, 0), target("b.", 0, 0), target("c.", 0, 0), target("last.", 1, 100)}, map[string]float64{"a.": 1. / 3, "b.": 1. / 3, "c.": 1. / 3}},
		{[]record{target("a.", 5, 33), target("b.", 5, 33), target("c.", 5, 33)}, map[string]float64{"a.": 1. / 3, "b.": 1. / 3, "c.": 1. / 3}},
		{[]record{target("a.", 5, 10), target("b.", 5, 30), target("c.", 5, 60), target("d.", 5, 0)}, map[string]float64{"a.": .1, "b.": .3, "c.": .6}},
	} {
		first := map[string]int{}
		for i := range users {
			all := slices.Clone(test.all)
			byUser(all, user(i))
			first[all[0].Target]++
			if n := len(all) - 1; test.all[n].Priority == 1 && all[n].Target != "last." {
				t.Fatalf("a target of another priority comes before %s", all[n].Target)
			}
			again := slices.Clone(test.all)
			slices.Reverse(again)
			byUser(again, user(i))
			if !slices.Equal(all, again) {
				t.Fatalf("the order depends on that of DNS: %v, %v", all, again)
			}
			left := slices.DeleteFunc(slices.Clone(test.all), func(r record) bool { return r.Target == "c." })
			byUser(left, user(i))
			want := slices.DeleteFunc(all, func(r record) bool { return r.Target == "c." })
			if !slices.Equal(left, want) {
				t.Fatalf("without c. the order is %v, was %v", left, want)
			}
		}
		for name, share := range test.shares {
			if got := float64(first[name]) / users; math.Abs(got-share) > 0.02 {
				t.Errorf("%s has %.3f of the users, want %.3f", name, got, share)
			}
		}
	}
}

// Replicas of other releases agree.
func TestHashOfTargetsIsStable(t *testing.T) {
	all := []record{{SRV: net.SRV{Target: "xmpp-0.example.", Port: 5222}}, {SRV: net.SRV{Target: "xmpp-1.example.", Port: 5222}}, {SRV: net.SRV{Target: "xmpp-2.example.", Port: 5222}}}
	got := ""
	for _, jid := range []string{"romeo@montague.example", "juliet@capulet.example", "nurse@capulet.example", "tybalt@capulet.example"} {
		byUser(all, &Request{JID: jid})
		got += all[0].Target[5:6]
	}
	if got != "1201" {
		t.Errorf("got %s", got)
	}
}

// Only the policy hash asks who the user is.
func TestTargetsByPolicy(t *testing.T) {
	for policy, spread := range map[string]bool{PolicyHash: false, PolicyRoundRobin: true} {
		_, resolver := newZone(t, map[string]string{xmppSRV: "0 1 5222 a.example.\n0 1 5222 b.example.\n0 1 5222 c.example."})
		w := &world{}
		r := newTestRouter(t, Config{Default: parse(t, "srv:"), AllowList: []string{"d.example"}, Resolver: resolver, Policy: policy}, w)
		for range 50 {
			if err := connect(r, &Request{Domain: "d.example", JID: "romeo@d.example"}); err != nil {
				t.Fatal(err)
			}
		}
		tried := w.take()
		slices.Sort(tried)
		if n := len(slices.Compact(tried)); (n > 1) != spread {
			t.Errorf("%s: one user gets to %d targets", policy, n)
		}
	}
}
