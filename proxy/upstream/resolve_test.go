package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A zone is a DNS server with scripted answers.
type zone struct {
	conn    net.PacketConn
	mu      sync.Mutex
	answers map[string]string // by name and type; see reply
	asked   []string
}

// newZone starts a DNS server. An answer is that of a zone file, "priority weight
// port target", one a line, or an address; "servfail"; or "none" for a name that
// exists. A name without an answer does not exist.
func newZone(t *testing.T, answers map[string]string) (*zone, *net.Resolver) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{conn: conn, answers: answers}
	done := make(chan struct{})
	go func() { z.serve(t); close(done) }()
	t.Cleanup(func() { conn.Close(); <-done })
	return z, NewResolver(conn.LocalAddr().String())
}

func (z *zone) serve(t *testing.T) {
	buf := make([]byte, 4096)
	for {
		n, from, err := z.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil {
			t.Errorf("DNS query: %v", err)
			continue
		}
		z.reply(&m)
		packed, err := m.Pack()
		if err != nil {
			t.Errorf("DNS answer: %v", err)
			continue
		}
		z.conn.WriteTo(packed, from)
	}
}

func (z *zone) reply(m *dnsmessage.Message) {
	q := m.Questions[0]
	key := q.Name.String() + " " + strings.TrimPrefix(q.Type.String(), "Type")
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, key)
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	answer, ok := z.answers[key]
	switch {
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	case answer == "servfail":
		m.RCode = dnsmessage.RCodeServerFailure
	case answer == "none":
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 3600},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(answer).As4()},
		}}
	default:
		for line := range strings.SplitSeq(answer, "\n") {
			var r dnsmessage.SRVResource
			var target string
			if _, err := fmt.Sscan(line, &r.Priority, &r.Weight, &r.Port, &target); err != nil {
				panic(err)
			}
			r.Target = dnsmessage.MustNewName(target)
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 3600},
				Body:   &r,
			})
		}
	}
}

func (z *zone) set(key, answer string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.answers[key] = answer
}

// take returns what was asked and forgets it.
func (z *zone) take() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	asked := z.asked
	z.asked = nil
	slices.Sort(asked)
	return asked
}

const (
	xmppsSRV = "_xmpps-client._tcp.d.example. SRV"
	xmppSRV  = "_xmpp-client._tcp.d.example. SRV"
)

// srvRouter returns a Router for srv: and the domain d.example.
func srvRouter(t *testing.T, w *world, o Observer, resolver *net.Resolver, options string) *Router {
	return newTestRouter(t, Config{Default: parse(t, "srv:"+options), AllowList: []string{"d.example"}, Resolver: resolver, Observer: o}, w)
}

// What DNS says of a domain becomes endpoints in one order; "." is a no.
//
// Behaviour: upstream-srv. XEP-0368, section 3; RFC 6120, section 3.2.
func TestResolve(t *testing.T) {
	const (
		fallback = "starttls d.example.:5222"
		nowhere  = ResultNoServer
		failed   = ResultError
	)
	for _, test := range []struct {
		name        string
		xmpps, xmpp string // empty: the name does not exist
		want        string
	}{
		{"direct TLS first", "5 0 5223 x.example.", "10 0 5222 y.example.", "tls x.example.:5223, starttls y.example.:5222"},
		{"STARTTLS first", "20 0 443 x.example.", "10 0 5222 y.example.", "starttls y.example.:5222, tls x.example.:443"},
		{"one ordering for both", "1 0 1 a.example.\n3 0 3 c.example.", "2 0 2 b.example.\n4 0 4 d.example.",
			"tls a.example.:1, starttls b.example.:2, tls c.example.:3, starttls d.example.:4"},
		{"only direct TLS", "5 0 5223 x.example.", "", "tls x.example.:5223"},
		{"only STARTTLS", "", "5 0 5222 y.example.", "starttls y.example.:5222"},
		{"no direct TLS", "0 0 0 .", "5 0 5222 y.example.", "starttls y.example.:5222"},
		{"no STARTTLS", "5 0 5223 x.example.", "0 0 0 .", "tls x.example.:5223"},
		{"neither", "0 0 0 .", "0 0 0 .", nowhere},
		{"no XMPP", "", "0 0 0 .", nowhere},
		{"no XMPP, the name exists", "none", "0 0 0 .", nowhere},
		{"no direct TLS, nothing about STARTTLS", "0 0 0 .", "", fallback},
		{"nothing", "", "", fallback},
		{"nothing, the names exist", "none", "none", fallback},
		{"failure", "servfail", "servfail", failed},
		{"failure of one, nothing of the other", "servfail", "", failed},
		{"nothing of one, failure of the other", "", "servfail", failed},
		{"failure of one, the other not offered", "servfail", "0 0 0 .", failed},
		{"failure of one, records of the other", "servfail", "5 0 5222 y.example.", "starttls y.example.:5222"},
		{"records of one, failure of the other", "5 0 5223 x.example.", "servfail", "tls x.example.:5223"},
		{"port 0", "5 0 0 x.example.", "", nowhere},
		{"port 0 beside another", "5 0 0 x.example.\n6 0 1 x.example.", "", "tls x.example.:1"},
		{"invalid names", "5 0 1 -_&.example.\n6 0 2 x.example.", "", "tls x.example.:2"},
		{"only invalid names", "5 0 1 a&b.example.", "", failed},
		{"an address", "5 0 1 127.0.0.1.", "", failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			answers := map[string]string{}
			for key, answer := range map[string]string{xmppsSRV: test.xmpps, xmppSRV: test.xmpp} {
				if answer != "" {
					answers[key] = answer
				}
			}
			z, resolver := newZone(t, answers)
			o := &diary{}
			r := srvRouter(t, nil, o, resolver, "")
			o.take()
			c := r.table().routes["d.example"][0]
			endpoints, err := c.endpoints(t.Context(), o, func(all []record) { inOrder(all, rand.IntN) })
			var got []string
			word := map[security]string{startTLS: "starttls ", directTLS: "tls "}
			for _, e := range endpoints {
				got = append(got, word[e.security]+e.address)
				if e.allowed == nil || e.network != "tcp" || e.identity != "d.example" {
					t.Errorf("endpoint %+v", e)
				}
			}
			result := ResultOK
			if err != nil {
				var e *Error
				if !errors.As(err, &e) || e.Phase != PhaseResolve || e.Server != "srv:d.example" {
					t.Fatalf("got %v", err)
				}
				got = append(got, e.Result)
				result = e.Result
			}
			if got := strings.Join(got, ", "); got != test.want {
				t.Errorf("got  %s\nwant %s (%v)", got, test.want, err)
			}
			if events := o.take(); !slices.Equal(events, []string{"opened srv:d.example resolve " + result}) {
				t.Errorf("observed %q", events)
			}
			if asked := slices.Compact(z.take()); !slices.Equal(asked, []string{xmppSRV, xmppsSRV}) {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

func TestResolveTimesOut(t *testing.T) {
	// The resolver gives up...
	r := srvRouter(t, nil, nil, &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, os.ErrDeadlineExceeded
	}}, "")
	var e *Error
	if err := connect(r, &Request{Domain: "d.example"}); !errors.As(err, &e) || e.Result != ResultTimeout || e.Phase != PhaseResolve {
		t.Errorf("got %v", err)
	}
	// ...or the client does.
	release := make(chan struct{})
	r = srvRouter(t, nil, nil, &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		<-release
		return nil, os.ErrDeadlineExceeded
	}}, "")
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := r.Connect(ctx, &Request{Domain: "d.example"}); !errors.As(err, &e) || e.Result != ResultAbandoned || e.Phase != PhaseResolve {
		t.Errorf("got %v", err)
	}
}

// All endpoints of a domain are tried; many records are not.
func TestResolvedEndpointsAreTried(t *testing.T) {
	var lines []string
	for i := range 20 {
		lines = append(lines, fmt.Sprintf("%d 0 %d a.example.", i, i+1))
	}
	_, resolver := newZone(t, map[string]string{xmppSRV: strings.Join(lines, "\n")})
	w, o := &world{}, &diary{}
	for i := range 20 {
		w.set(fmt.Sprintf("a.example.:%d", i+1), fails(PhaseTCP, ResultRefused))
	}
	r := srvRouter(t, w, o, resolver, "")
	o.take()
	for range ejectAfter {
		if err := connect(r, &Request{Domain: "d.example"}); err == nil || strings.Count(err.Error(), "refused by the test") != maxTargets {
			t.Errorf("got %v", err)
		}
	}
	if tried := w.take(); len(tried) != ejectAfter*maxTargets || tried[0] != "a.example.:1" || tried[maxTargets-1] != fmt.Sprintf("a.example.:%d", maxTargets) {
		t.Errorf("tried %q", tried)
	}
	if events := o.take(); !slices.Contains(events, "health srv:d.example false") {
		t.Errorf("observed %q", events)
	}
	w.set("a.example.:16", nil)
	s, err := r.Connect(t.Context(), &Request{Domain: "d.example"})
	if err != nil || s.Server != "srv:d.example" || !anyUp(r) {
		t.Errorf("got %+v, %v", s, err)
	}
}

// A storm of sessions asks once; failures are asked about again sooner.
func TestAnswersAreShared(t *testing.T) {
	z, resolver := newZone(t, map[string]string{xmppSRV: "5 0 5222 y.example."})
	w := &world{}
	r := srvRouter(t, w, nil, resolver, "")
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := connect(r, &Request{Domain: "d.example"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if asked := z.take(); len(asked) != 2 {
		t.Errorf("asked %q", asked)
	}
	s := r.table().all[0].service
	ttl := func() time.Duration { return time.Until(s.last.expires).Round(time.Second) }
	if ttl() != answerTTL {
		t.Errorf("kept for %v", ttl())
	}
	s.last.expires = time.Now()
	z.set(xmppSRV, "0 0 0 .")
	if err := connect(r, &Request{Domain: "d.example"}); err == nil || len(z.take()) != 2 || ttl() != failureTTL {
		t.Errorf("got %v, kept for %v", err, ttl())
	}
	s.last.expires = time.Now()
	z.set(xmppSRV, "5 0 5222 y.example.")
	z.set(xmppsSRV, "servfail")
	if err := connect(r, &Request{Domain: "d.example"}); err != nil || ttl() != failureTTL {
		t.Errorf("got %v, kept for %v", err, ttl())
	}
}

// RFC 2782, "Usage rules" of "Weight".
func TestWeights(t *testing.T) {
	const rounds = 20000
	random := rand.New(rand.NewPCG(1, 2))
	for _, test := range []struct {
		weights []uint16
		first   []float64 // how often each comes first
	}{
		{[]uint16{1}, []float64{1}},
		{[]uint16{0, 0}, []float64{0.5, 0.5}},
		{[]uint16{0, 0, 0, 0}, []float64{0.25, 0.25, 0.25, 0.25}},
		{[]uint16{10, 30, 60}, []float64{11. / 101, 30. / 101, 60. / 101}}, // the pick 0 goes to whichever is first
		{[]uint16{0, 100}, []float64{1. / 101, 100. / 101}},
		{[]uint16{65535, 65535}, []float64{0.5, 0.5}},
	} {
		first := make([]int, len(test.weights))
		for range rounds {
			var all []record
			for i, weight := range test.weights {
				all = append(all, record{net.SRV{Priority: 7, Weight: weight, Port: uint16(i)}, startTLS})
			}
			// Others never come between.
			all = append(all, record{net.SRV{Priority: 8, Weight: 65535, Port: 100}, directTLS}, record{net.SRV{Priority: 6, Port: 101}, directTLS})
			sorted := inOrder(all, random.IntN)
			if sorted[0].Port != 101 || sorted[len(sorted)-1].Port != 100 {
				t.Fatalf("%v: order %v", test.weights, sorted)
			}
			seen := map[uint16]bool{}
			for _, r := range sorted {
				seen[r.Port] = true
			}
			if len(seen) != len(test.weights)+2 {
				t.Fatalf("%v: order %v", test.weights, sorted)
			}
			first[sorted[1].Port]++
		}
		for i, want := range test.first {
			if got := float64(first[i]) / rounds; got < want-0.02 || got > want+0.02 {
				t.Errorf("%v: number %d comes first in %.3f of all cases, want %.3f", test.weights, i, got, want)
			}
		}
	}
}

func TestPublic(t *testing.T) {
	for _, test := range []struct {
		public    bool
		addresses string
	}{
		{true, "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.167.0.1 198.17.0.1 223.255.255.255"},
		{true, "2606:4700::1111 2a00::1 ::ffff:1.1.1.1 64:ff9b::1.1.1.1 2002:0101:0101::1 2001:4860::1"},
		{false, "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255 169.254.169.254"},
		{false, "172.16.0.0 172.31.255.255 192.0.0.8 192.0.2.1 192.168.0.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1"},
		{false, "224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255"},
		{false, ":: ::1 ::127.0.0.1 fc00::1 fdff::1 fe80::1 fe80::1%eth0 febf::1 fec0::1 ff02::1 2001:db8::1 2001:0:1::1 100::1 64:ff9b:1::1"},
		{false, "::ffff:0:127.0.0.1 ::ffff:0:1.1.1.1 2001:2::1 2001:10::1 2001:1f:ffff::1 2001:20::1 2001:3::1 2001:4:112::1 5f00::1 2620:4f:8000::1 3fff::1 4000::1 64:ff9b:0:1::1.1.1.1"},
		{false, "192.31.196.1 192.52.193.1 192.88.99.1 192.175.48.1"},
		{false, "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0.0.0.0"},
		{false, "64:ff9b::127.0.0.1 64:ff9b::10.1.2.3 64:ff9b::169.254.169.254 64:ff9b::100.64.0.1 64:ff9b::0.0.0.0"},
		{false, "2002:7f00:1::1 2002:a00:1:: 2002:a9fe:a9fe::1 2002:6440:1::1 2002:c0a8:1::1"},
	} {
		for a := range strings.FieldsSeq(test.addresses) {
			if err := PublicAddress(netip.MustParseAddr(a)); (err == nil) != test.public {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
	if PublicAddress(netip.Addr{}) == nil {
		t.Error("no address at all is public")
	}
}

// The guard is asked by what connects: a name that leads to this machine is
// found out, and nothing is sent there.
func TestSRVStaysOutside(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var e *Error
	for options, want := range map[string]string{"": ResultForbidden, "?private=true": ResultClosed} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := l.Accept(); err == nil {
				if options == "" {
					t.Error("somebody came")
				}
				conn.Close()
			}
		}()
		_, resolver := newZone(t, map[string]string{xmppSRV: "5 0 " + port + " inside.example.", "inside.example. A": "127.0.0.1"})
		r := newTestRouter(t, Config{Default: parse(t, "srv:"+options), AllowList: []string{"d.example"}, Resolver: resolver}, nil)
		if err := connect(r, &Request{Domain: "d.example"}); !errors.As(err, &e) || e.Result != want {
			t.Errorf("%q: got %v, want %s", options, err, want)
		}
		l.(*net.TCPListener).SetDeadline(time.Now())
		<-done
		l.(*net.TCPListener).SetDeadline(time.Time{})
	}
}

// srv:name is asked about for every domain, and is one server.
func TestSRVOfName(t *testing.T) {
	z, resolver := newZone(t, map[string]string{xmppSRV: "5 0 5222 y.example."})
	w := &world{}
	r := newTestRouter(t, Config{Default: parse(t, "srv:d.example"), AllowList: []string{"a.example", "b.example"}, Resolver: resolver}, w)
	for _, domain := range []string{"a.example", "b.example", ""} {
		if err := connect(r, &Request{Domain: domain}); err != nil {
			t.Error(err)
		}
	}
	if asked := z.take(); !slices.Equal(asked, []string{xmppSRV, xmppsSRV}) {
		t.Errorf("asked %q", asked)
	}
	if status := r.Status(); len(status) != 1 || status[0].Name != "srv:d.example" {
		t.Errorf("%+v", status)
	}
}

func TestNewResolver(t *testing.T) {
	z, _ := newZone(t, map[string]string{xmppSRV: "5 0 5222 y.example."})
	r := NewResolver(z.conn.LocalAddr().String())
	if _, srvs, err := r.LookupSRV(t.Context(), "xmpp-client", "tcp", "d.example."); err != nil || len(srvs) != 1 {
		t.Errorf("got %v, %v", srvs, err)
	}
}

// An error does not name a DNS server that was not asked: package net takes it
// from the system's configuration.
func TestErrorsNameNoOtherResolver(t *testing.T) {
	for _, answers := range []map[string]string{
		{xmppSRV: "servfail"},
		{xmppSRV: "5 0 5222 missing.example."},
	} {
		_, resolver := newZone(t, answers)
		r := newTestRouter(t, Config{Default: parse(t, "srv:d.example"), AllowList: []string{"d.example"}, Resolver: resolver}, nil)
		err := connect(r, &Request{Domain: "d.example"})
		if _, ok := errors.AsType[*net.DNSError](err); !ok || strings.Contains(err.Error(), " on ") {
			t.Errorf("%v: %v", answers, err)
		}
	}
}

// An answer with more records than anybody has is cut, to the same records whatever
// their order, and what a session does with them grows with their number only.
func TestManyRecords(t *testing.T) {
	const most = 1500 // of 64 KiB and 40 bytes
	var all []record
	for i := range most {
		all = append(all, record{SRV: net.SRV{Target: fmt.Sprintf("t%d.example.", i), Port: 5222, Priority: uint16(i % 3), Weight: uint16(i)}})
	}
	s := &service{domain: "d.example"}
	var want []string
	for range 5 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		kept, err := s.merge(found{records: slices.Clone(all[:500])}, found{records: slices.Clone(all[500:])})
		if err != nil || len(kept) != maxRecords {
			t.Fatalf("%d records, %v", len(kept), err)
		}
		var names []string
		for _, r := range kept {
			if r.Priority != 0 {
				t.Errorf("%s of priority %d is kept", r.Target, r.Priority)
			}
			names = append(names, r.Target)
		}
		slices.Sort(names)
		if want == nil {
			want = names
		}
		if !slices.Equal(names, want) {
			t.Error("another order leaves other records")
		}
	}
	few := all[:maxRecords]
	if kept := mostPreferred(slices.Clone(few)); !slices.EqualFunc(kept, few, func(a, b record) bool { return a == b }) {
		t.Error("records that are few change")
	}
	hashes := func(n int) float64 {
		return testing.AllocsPerRun(5, func() { byUser(all[:n], &Request{JID: "a@b"}) })
	}
	if a, b := hashes(16), hashes(64); b > 5*a {
		t.Errorf("%v allocations to order 16 records, %v for 64", a, b)
	}
}
