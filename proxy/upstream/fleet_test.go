package upstream

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var million = flag.Bool("update", false, "send a million users to their servers and write the table in docs/scaling.md")

// fleetSizes are numbers of servers.
var fleetSizes = []int{3, 5, 10, 20, 50}

// A fleetResult is what happens to users when one server goes away, or comes.
type fleetResult struct {
	least, most  float64 // of all servers, in parts of the mean
	lost         float64 // share that moves when a server is lost
	needless     int     // of these, that were not on that server
	mostAfter    float64 // of the servers that are left, in parts of their mean
	added        float64 // share that moves when another server comes
	toOthers     int     // of these, that do not move to that server
	differentFor int     // users that another gateway, with the list in another order, sends elsewhere
}

// simulateFleet sends users to servers by PolicyHash, as sessions do it.
func simulateFleet(t *testing.T, users int) map[int]fleetResult {
	t.Helper()
	results := map[int]fleetResult{}
	for _, n := range fleetSizes {
		var urls, reversed []string
		for i := range n + 1 { // the last one is to come
			urls = append(urls, fmt.Sprintf("tls://xmpp%d.example.org", i))
		}
		for i := range n {
			reversed = append(reversed, urls[n-1-i])
		}
		router := func(urls ...string) *Router {
			return newTestRouter(t, Config{Default: parse(t, urls...)}, nil)
		}
		now, after, elsewhere := router(urls[:n]...), router(urls...), router(reversed...)
		failing := router(urls[:n]...)
		lost := urls[0]
		knock(failing, lost)

		first := func(r *Router, q *Request) string { return r.newSearch(nil).order(r.table().fallback, q)[0].name }
		has, hasAfter := map[string]int{}, map[string]int{}
		var moved, came int
		var res fleetResult
		for i := range users {
			q := &Request{JID: fmt.Sprintf("user%d@example.org", i)}
			at := first(now, q)
			has[at]++
			then := at
			if sample := i%20 == 0; at == lost || sample { // a twentieth of those who stay is asked, which saves half of the time
				then = first(failing, q)
				if first(elsewhere, q) != at {
					res.differentFor++
				}
			}
			hasAfter[then]++
			switch {
			case then == at:
			case at == lost:
				moved++
			default:
				res.needless++
			}
			if then := first(after, q); then != at {
				came++
				if then != urls[n] {
					res.toOthers++
				}
			}
		}
		mean := float64(users) / float64(n)
		res.least = float64(users)
		for _, k := range has {
			res.least, res.most = min(res.least, float64(k)/mean), max(res.most, float64(k)/mean)
		}
		if len(has) < n {
			res.least = 0
		}
		for _, k := range hasAfter {
			res.mostAfter = max(res.mostAfter, float64(k)/(float64(users)/float64(n-1)))
		}
		res.lost, res.added = float64(moved)/float64(users), float64(came)/float64(users)
		results[n] = res
	}
	return results
}

// fleetPage is the page that shows what a million users do.
const fleetPage = "../../docs/scaling.md"

// Users keep their servers, whichever gateway they come through and whoever else fails: only
// those of a server that is lost move, and they spread over all others. -update does it with
// a million users, which takes a minute, and writes the table.
func TestFleet(t *testing.T) {
	users, tolerance := 3000, 0.25
	if *million {
		users, tolerance = 1_000_000, 0.03
	}
	results := simulateFleet(t, users)
	var b strings.Builder
	fmt.Fprintf(&b, "| servers | users of one, to the mean | move when a server is lost | … then have at most, to the mean | move when one is added | move without need |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, n := range fleetSizes {
		r := results[n]
		fair := 1 / float64(n)
		atMost := tolerance * (1 + float64(n)/10)
		if r.needless != 0 || r.toOthers != 0 || r.differentFor != 0 {
			t.Errorf("%d servers: %d and %d users move without need, %d depend on the gateway", n, r.needless, r.toOthers, r.differentFor)
		}
		if r.most > 1+atMost || r.least < 1-atMost || r.mostAfter > 1+atMost || r.lost > fair*(1+atMost) || r.added > (1/float64(n+1))*(1+atMost) {
			t.Errorf("%d servers: %+v", n, r)
		}
		fmt.Fprintf(&b, "| %d | %.3f to %.3f | %.2f %% | %.3f | %.2f %% | %d |\n", n, r.least, r.most, 100*r.lost, r.mostAfter, 100*r.added, r.needless+r.toOthers)
	}
	const begin, end = "<!-- servers -->\n", "<!-- /servers -->"
	page, err := os.ReadFile(fleetPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	shown, after, ok2 := strings.Cut(rest, end)
	switch {
	case !ok || !ok2:
		t.Fatalf("%s has no %s … %s", fleetPage, begin, end)
	case *million:
		if err := os.WriteFile(fleetPage, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default: // the numbers are those of a million, the rows are the same
		rows, want := strings.Split(shown, "\n"), strings.Split(b.String(), "\n")
		for i := range want {
			if i >= len(rows) || firstColumn(rows[i]) != firstColumn(want[i]) {
				t.Fatalf("%s: the table of servers is old: go test ./proxy/upstream -run TestFleet -update", fleetPage)
			}
		}
	}
}

func firstColumn(row string) string {
	column, _, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
	return column
}
