package limit

import (
	"encoding/json"
	"math"
	"net/netip"
	"testing"
	"time"
)

// moved returns a table that goes on with what the networks of t have spent, as if it
// were that of another process.
func moved(t *testing.T, from *Table, at time.Duration, most int, p Policy, now time.Duration) *Table {
	t.Helper()
	b, err := json.Marshal(from.Spent(at, most))
	if err != nil {
		t.Fatal(err)
	}
	var spent []Spent
	if err := json.Unmarshal(b, &spent); err != nil {
		t.Fatal(err)
	}
	to := NewTable(p)
	to.Spend(now, spent)
	return to
}

// Whoever was limited is so in the next process, and for as long.
func TestSpentMoves(t *testing.T) {
	const old, now = 5 * time.Hour, time.Second // epochs of their own
	p := Policy{Requests: Rate{10, 20}, Handshakes: Rate{1, 4}, FailedLogins: Rate{0.1, 3}}
	from := NewTable(p)
	guesser, hasty := a("192.0.2.1"), a("2001:db8::1")
	id := enters(t, from, old, guesser)
	for range 3 {
		from.LoginFailed(old, id)
	}
	refuses(t, from, old, guesser, FailedLogins)
	for range 20 {
		id = enters(t, from, old, hasty)
		from.Leave(old, id, false)
	}
	refuses(t, from, old, hasty, RequestRate)

	// Half of a token has come back.
	to := moved(t, from, old+5*time.Second, 10, p, now)
	refuses(t, to, now, guesser, FailedLogins)
	refuses(t, to, now+4900*time.Millisecond, guesser, FailedLogins)
	enters(t, to, now+5100*time.Millisecond, guesser)
	enters(t, to, now, hasty) // its bucket is full again

	to = moved(t, from, old, 10, p, now)
	refuses(t, to, now, a("2001:db8::2"), RequestRate)
	refuses(t, to, now+90*time.Millisecond, hasty, RequestRate)
	enters(t, to, now+110*time.Millisecond, hasty)
	enters(t, to, now, a("192.0.2.2"))

	// However often the program is replaced, nothing is won or lost.
	same := moved(t, from, old, 10, p, now)
	for range 50 {
		same = moved(t, same, now, 10, p, now)
	}
	refuses(t, same, now+9900*time.Millisecond, guesser, FailedLogins)
	enters(t, same, now+10100*time.Millisecond, guesser)
}

// The policy of the next process counts, whatever the other one had, and whatever it says.
func TestSpentOfAnotherPolicy(t *testing.T) {
	from := NewTable(Policy{FailedLogins: Rate{0.1, 5}, Requests: Rate{1, 5}})
	c := a("192.0.2.1")
	id := enters(t, from, 1, c)
	for range 5 {
		from.LoginFailed(1, id)
	}
	for _, test := range []struct {
		p    Policy
		at   string
		want Reason
	}{
		{Policy{FailedLogins: Rate{0.1, 2}}, "192.0.2.1", FailedLogins},
		{Policy{FailedLogins: Rate{0.1, 6}}, "192.0.2.1", None},
		{Policy{FailedLogins: Rate{0.1, 5}, IPv4Bits: 24}, "192.0.2.9", FailedLogins},
		{Policy{}, "192.0.2.1", None},
		{Policy{FailedLogins: Rate{0.1, 5}, Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, "192.0.2.1", None},
	} {
		if _, reason := moved(t, from, 1, 10, test.p, 1).Enter(1, a(test.at)); reason != test.want {
			t.Errorf("%+v: %v, want %v", test.p, reason, test.want)
		}
	}
	to := NewTable(Policy{FailedLogins: Rate{0.1, 5}})
	to.Spend(1, []Spent{{}, {Network: c, Tokens: [3]float64{-1, math.MaxFloat64, math.MaxFloat64}}, {Network: c}})
	refuses(t, to, 1, c, FailedLogins)
	if s := to.Stats(1); s.Networks != 1 || s.Idle != 1 {
		t.Errorf("%+v", s)
	}
}

// What moves is bounded, and those that are locked out move first.
func TestSpentIsBounded(t *testing.T) {
	p := Policy{Requests: Rate{1, 10}, FailedLogins: Rate{0.01, 1}, MaxIdle: 3000}
	from := NewTable(p)
	for i := range 2000 {
		id := enters(t, from, 1, at(i))
		if i%500 == 77 {
			from.LoginFailed(1, id)
		}
		from.Leave(1, id, false)
	}
	to := moved(t, from, 1, 100, p, 1)
	if s := to.Stats(1); s.Networks != 100 || s.LockedOut != 4 {
		t.Errorf("%+v", s)
	}
	few := moved(t, from, 1, 2000, Policy{Requests: p.Requests, FailedLogins: p.FailedLogins, MaxIdle: 50}, 1)
	if s := few.Stats(1); s.Networks > 50 {
		t.Errorf("%+v", s)
	}
}
