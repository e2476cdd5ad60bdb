package proxy

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy/internal/limit"
)

// A fleet is what simulateLoss needs to know of some gateways with the same sessions each.
type fleet struct {
	sessions, gateways int
	// A gateway has room for its part of the sessions of one that is lost, and for this many
	// times as much.
	room float64
	// How many logins there are a second: in one gateway, and in all servers.
	gatewayLogins, serverLogins float64
}

// A returning is a kind of client: how long it waits before it connects for the nth time after
// it has lost its connection.
type returning struct {
	name string
	wait func(n int, r *rand.Rand) time.Duration
}

var returningClients = []returning{
	{"xmpp.js: after 1 s", func(int, *rand.Rand) time.Duration { return time.Second }},
	{"Converse.js: after 3 s", func(int, *rand.Rand) time.Duration { return 3 * time.Second }},
	{"stanza: 1 to 2 s, doubled up to 32 s", func(n int, r *rand.Rand) time.Duration {
		return time.Duration(min(math.Exp2(float64(n))+r.Float64(), 32) * float64(time.Second))
	}},
}

// A lossResult is what happened until all were back.
type lossResult struct {
	lost          int           // clients
	half, all     time.Duration // until so many were back
	refused       int           // HTTP requests of theirs, with status 429 or 503
	disconnected  int           // connections that got no answer
	byNetwork     int           // of both, because of their network
	most          float64       // sessions of a gateway in the end, to the mean
	mostUnsettled float64       // logins under way in a gateway, to its limit
}

// A visit is a connection of a client: its beginning or, if it is at a gateway, the end of its
// login.
type visit struct {
	at      time.Duration
	client  int32
	gateway int16 // -1 while it has none
	network limit.Network
	tries   int16
}

type visits []visit

func (v visits) Len() int           { return len(v) }
func (v visits) Less(i, j int) bool { return v[i].at < v[j].at }
func (v visits) Swap(i, j int)      { v[i], v[j] = v[j], v[i] }
func (v *visits) Push(x any)        { *v = append(*v, x.(visit)) }
func (v *visits) Pop() any {
	last := (*v)[len(*v)-1]
	*v = (*v)[:len(*v)-1]
	return last
}

// addressOf is where a client is: half of them have an IPv4 address of their own, three in ten
// share one with a hundred, and two in ten with two thousand, as behind a large NAT.
func addressOf(client int) netip.Addr {
	n, group := client/10, uint32(client%10)
	switch {
	case group < 5:
		n = n*5 + int(group)
	case group < 8:
		n, group = (n*3+int(group)-5)/100, 5
	default:
		n, group = (n*2+int(group)-8)/2000, 6
	}
	base := uint32(20+min(group, 5)/5*20+group/6*20) << 24
	a := base + uint32(n)
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// simulateLoss kills one of the gateways of f, and lets its clients come back to the others,
// any of which takes each. What lets them in or refuses them is the code that the product
// has, with its default limits; time is simulated.
func simulateLoss(tb testing.TB, f fleet, kind returning) (res lossResult) {
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Second
	each := f.sessions / f.gateways
	left := f.gateways - 1
	most := int(math.Ceil(f.room * float64(f.sessions) / float64(left)))
	gateways := make([]*Gateway, left)
	for i := range gateways {
		g := &Gateway{Config: Config{
			Dial: noServer, Loop: LoopGoroutine, MaxSessions: most, MaxUnauthenticated: most * 3 / 4,
			NetworkLimits: NetworkLimits{
				Sessions: most / 2, Unauthenticated: most / 4,
				Requests: Rate{PerSecond: 100, Burst: 1000}, Handshakes: Rate{PerSecond: 100, Burst: 1000},
			},
		}}
		g.clock = func() time.Duration { return now }
		g.init()
		gateways[i] = g
	}
	loggedIn := func(g *Gateway, network limit.Network) {
		g.networks.Authenticated(network)
		g.mu.Lock()
		g.unauthenticated--
		g.mu.Unlock()
	}
	// Those of the others are there already; they came during the last hour.
	for i := each; i < f.sessions; i++ {
		g := gateways[i%left]
		now += time.Hour / time.Duration(f.sessions)
		network, reason, _ := g.enter(addressOf(i))
		if reason != limit.None {
			tb.Fatalf("%d of %d sessions: refused because of %d", i, f.sessions, reason)
		}
		loggedIn(g, network)
	}
	now += time.Minute
	start := now
	// Each client notices after 5 to 150 ms.
	notice := func() time.Duration { return 5*time.Millisecond + time.Duration(r.Int64N(int64(145*time.Millisecond))) }
	q := make(visits, each)
	for i := range q {
		q[i] = visit{at: start + notice() + kind.wait(0, r), client: int32(i), gateway: -1}
	}
	heap.Init(&q)
	busy := make([]time.Duration, left) // until when a gateway has logins to do
	var serversBusy time.Duration
	var back []time.Duration
	for len(q) > 0 {
		v := heap.Pop(&q).(visit)
		now = v.at
		if v.gateway >= 0 {
			loggedIn(gateways[v.gateway], v.network)
			back = append(back, now-start)
			continue
		}
		if now-start > time.Hour {
			tb.Fatalf("%d clients are not back after an hour", len(q)+1)
		}
		i := r.IntN(left)
		g := gateways[i]
		network, reason, answered := g.enter(addressOf(int(v.client)))
		if reason == limit.None && !g.networks.Handshake(now, network) {
			reason = limit.HandshakeRate
			g.networks.Leave(now, network, false)
			g.mu.Lock()
			g.unauthenticated--
			g.conns--
			g.mu.Unlock()
		}
		if reason != limit.None {
			switch {
			case answered && reason != limit.HandshakeRate:
				res.refused++
				g.mu.Lock() // it gets its answer at once
				g.refused--
				g.conns--
				g.mu.Unlock()
			default:
				res.disconnected++
			}
			if ofNetwork(reason) {
				res.byNetwork++
			}
			v.tries++
			v.at = now + notice() + kind.wait(int(v.tries), r)
			heap.Push(&q, v)
			continue
		}
		g.mu.Lock()
		res.mostUnsettled = max(res.mostUnsettled, float64(g.unauthenticated)/float64(g.maxUnauthenticated))
		g.mu.Unlock()
		// Its share of the gateway's processors, then of the servers', and five round trips.
		busy[i] = max(busy[i], now) + time.Duration(float64(time.Second)/f.gatewayLogins)
		serversBusy = max(serversBusy, busy[i]) + time.Duration(float64(time.Second)/f.serverLogins)
		heap.Push(&q, visit{at: serversBusy + 5*notice(), client: v.client, gateway: int16(i), network: network})
	}
	res.lost = each
	res.half, res.all = back[len(back)/2], back[len(back)-1]
	for _, g := range gateways {
		if g.conns > most || g.unauthenticated != 0 {
			tb.Errorf("a gateway has %d sessions of %d, %d of which log in", g.conns, most, g.unauthenticated)
		}
		res.most = max(res.most, float64(g.conns)/(float64(f.sessions)/float64(left)))
	}
	return res
}

// The fleets of docs/scaling.md. What a gateway does in a second is what four processors do
// that need a millisecond and a half for a login with its TLS handshake.
var (
	fleetGateways = []int{2, 3, 5, 10, 20, 40}
	fleetOf       = func(gateways int) fleet {
		return fleet{sessions: 1_000_000, gateways: gateways, room: 1.1, gatewayLogins: 2600, serverLogins: 10_000}
	}
)

// When a gateway is lost, all of its clients come back to the others, with the limits that are
// on by default, and no limit is exceeded meanwhile. -update does it with a million clients,
// which takes a minute, and writes the table in docs/scaling.md.
func TestFleetLosesGateway(t *testing.T) {
	var b strings.Builder
	b.WriteString("| gateways | clients | lost | half are back | all are back | refusals of each | … because of its network | fullest gateway, to the mean |\n| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, n := range fleetGateways {
		for _, kind := range returningClients {
			f := fleetOf(n)
			if !*update { // a hundredth of everything
				f.sessions, f.gatewayLogins, f.serverLogins = f.sessions/100, f.gatewayLogins/100, f.serverLogins/100
			}
			res := simulateLoss(t, f, kind)
			// With no limit it would take as long as the logins take.
			least := float64(res.lost) / min(f.serverLogins, f.gatewayLogins*float64(n-1))
			if most := 3*least + 150; res.all.Seconds() > most {
				t.Errorf("%d gateways, %s: all are back after %v, which is more than %.0f s", n, kind.name, res.all, most)
			}
			refusals := res.refused + res.disconnected
			fmt.Fprintf(&b, "| %d | %s | %d | %.1f s | %.1f s | %.2f | %.2f | %.2f |\n", n, kind.name, res.lost, res.half.Seconds(), res.all.Seconds(),
				float64(refusals)/float64(res.lost), float64(res.byNetwork)/float64(res.lost), res.most)
		}
	}
	const pageFile = "../docs/scaling.md"
	shown, write := pageBlock(t, pageFile, "gateways")
	rows := func(table string) (keys []string) {
		for row := range strings.Lines(table) {
			columns := strings.SplitN(row, "|", 4)
			keys = append(keys, strings.Join(columns[:len(columns)-1], "|"))
		}
		return keys
	}
	switch {
	case *update:
		write(b.String())
	case !slices.Equal(rows(shown), rows(b.String())): // the numbers are those of a million
		t.Errorf("%s: the table of gateways is old: go test ./proxy -run TestFleetLosesGateway -update", pageFile)
	}
}
