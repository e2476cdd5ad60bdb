package status

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy"
)

// A fakeGateway has the sessions that a test gives it.
type fakeGateway struct {
	mu       sync.Mutex
	sessions []proxy.SessionInfo
	walks    int // over the sessions
	ended    []uint64
}

func (f *fakeGateway) Sessions() iter.Seq[proxy.SessionInfo] {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.walks++
	return slices.Values(slices.Clone(f.sessions))
}

func (f *fakeGateway) Summary() (sessions int, up, down proxy.Traffic) {
	for i := range f.Sessions() {
		sessions++
		up.Add(i.Up)
		down.Add(i.Down)
	}
	return sessions, up, down
}

func (f *fakeGateway) End(match func(*proxy.SessionInfo) bool) (ended int) {
	for i := range f.sessions {
		if match(&f.sessions[i]) {
			f.ended = append(f.ended, f.sessions[i].ID)
			ended++
		}
	}
	return ended
}

// set changes what is there.
func (f *fakeGateway) set(sessions ...proxy.SessionInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = sessions
}

func newStatus(g Gateway) (*Status, *Ended) {
	ended := new(Ended)
	return New(Options{
		Gateway: g, Ended: ended, Limit: func() int { return 1000 }, NetworkBits: func() (int, int) { return 24, 64 }, Log: slog.New(slog.DiscardHandler),
		Events: new(Events), Samples: func() []Sample { return nil }, Facts: func() Facts { return Facts{Version: "v1", Started: began} },
	}), ended
}

// get asks for a list.
func get(t *testing.T, s *Status, query string) (list []Session, w *httptest.ResponseRecorder) {
	t.Helper()
	w = httptest.NewRecorder()
	s.List(w, httptest.NewRequest("GET", "/connections?"+query, nil))
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil {
			t.Fatalf("%s: %v\n%s", query, err, w.Body)
		}
	}
	return list, w
}

func ids(list []Session) (ids []uint64) {
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Four live sessions and two that have ended.
func fixture() (*fakeGateway, []*proxy.EndedSession) {
	at := netip.MustParseAddrPort
	live := []proxy.SessionInfo{
		{ID: 1, Remote: at("192.0.2.1:1000"), Domain: "example.org", Server: "tcp://one:5222", Phase: "established", Resumable: true, Since: began, Idle: 1500 * time.Millisecond, Ping: 20 * time.Millisecond, ClientTLS: true,
			ClientTLSInfo: proxy.TLSInfo{Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Curve: uint16(tls.X25519)}, Steps: proxy.Steps{0: 20, 1: 25, 2: 30, 3: 5, 4: 12000},
			Up: proxy.Traffic{Messages: 1, Presences: 2, IQs: 3, Nonzas: 4, Bytes: 10}, Down: proxy.Traffic{Messages: 5, Bytes: 20},
			DownQueue: proxy.Queue{Bytes: 70, Stalls: 2, Stalled: 2500 * time.Millisecond}},
		{ID: 2, Remote: at("192.0.2.200:1"), Domain: "EXAMPLE.org", Server: "tcp://two:5222", ServerTLS: true, Phase: "established", Since: began.Add(-time.Hour), Up: proxy.Traffic{Bytes: 500}, UpQueue: proxy.Queue{Bytes: 1}},
		{ID: 3, Remote: at("[2001:db8:0:1::7]:5"), Domain: "example.net", Phase: "opening", Since: began.Add(time.Hour), Idle: time.Hour, Down: proxy.Traffic{IQs: 99, Bytes: 1}},
		{ID: 4, Phase: "negotiating", Since: began.Add(time.Hour), Idle: time.Minute},
	}
	ended := []*proxy.EndedSession{
		{SessionInfo: proxy.SessionInfo{ID: 8, Remote: at("192.0.2.1:7"), Domain: "example.org", Phase: "established", Since: began}, Ended: began.Add(time.Minute), Ending: "client-lost", Cause: "read: connection reset by peer"},
		{SessionInfo: proxy.SessionInfo{ID: 9, Remote: at("198.51.100.1:7"), Phase: "opening", Since: began}, Ended: began.Add(2 * time.Minute), Ending: "too-large", Cause: "too large", Limit: 10000, Size: 20000},
	}
	return &fakeGateway{sessions: live}, ended
}

func TestFilters(t *testing.T) {
	for query, want := range map[string]string{
		"":                                   "[2 1 3 4]",
		"sort=bytes":                         "[2 1 3 4]",
		"sort=age":                           "[2 1 3 4]",
		"sort=idle":                          "[3 4 1 2]",
		"sort=messages":                      "[3 1 2 4]",
		"sort=queued":                        "[1 2 3 4]",
		"sort=stalled":                       "[1 2 3 4]",
		"sort=ping":                          "[1 2 3 4]",
		"sort=id&limit=2":                    "[1 2]",
		"sort=remote":                        "[4 1 2 3]",
		"limit=0":                            "[]",
		"limit=99999":                        "[2 1 3 4]",
		"network=192.0.2.0/24":               "[2 1]",
		"network=192.0.2.200":                "[2]",
		"network=192.0.2.7/24":               "[2 1]", // a network by one of its addresses
		"network=::ffff:192.0.2.0/120":       "[2 1]",
		"network=::ffff:192.0.2.1":           "[1]",
		"network=2001:db8::/32":              "[3]",
		"network=0.0.0.0/0":                  "[2 1]",
		"network=::/0":                       "[3]",
		"network=unix":                       "[4]",
		"domain=example.org":                 "[2 1]",
		"domain=Example.ORG.":                "[2 1]",
		"server=tcp://two:5222":              "[2]",
		"server=tcp%3A%2F%2Ftwo%3A5222":      "[2]",
		"phase=established":                  "[2 1]",
		"phase=established&domain=elsewhere": "[]",
		"id=3":                               "[3]",
		"id=33":                              "[]",
		"domain=&server=&phase=&id=&sort=":   "[2 1 3 4]", // a form that was not filled in
		"state=live":                         "[2 1 3 4]",
		"state=closed":                       "[9 8]",
		"state=closed&sort=id":               "[8 9]",
		"state=closed&ending=client-lost":    "[8]",
		"state=closed&network=198.51.100.1":  "[9]",
		"state=closed&id=8":                  "[8]",
		"state=closed&limit=1":               "[9]",
	} {
		synctest.Test(t, func(t *testing.T) {
			g, ended := fixture()
			s, ring := newStatus(g)
			for _, e := range ended {
				ring.Add(e)
			}
			list, w := get(t, s, query)
			if got := fmt.Sprint(ids(list)); w.Code != 200 || got != want {
				t.Errorf("%q: %d %s, want %s", query, w.Code, got, want)
			}
		})
	}
}

func TestBadQueries(t *testing.T) {
	for query, want := range map[string]string{
		"sort=colour":             "sort must be one of age, bytes, id, idle, messages, ping, queued, rate, remote, stalled",
		"limit=many":              "limit must be a number",
		"limit=-1":                "limit must be a number",
		"group=colour":            "group must be one of domain, network, phase, server",
		"state=dead":              "state must be one of live, closed",
		"network=192.0.2.0/33":    "is not a network: write one such as",
		"network=fe80::1%25eth0":  "is not a network",
		"network=example.org":     "or an address; or unix",
		"phase=open":              "phase must be one of opening, negotiating, established, closing",
		"ending=client-lost":      "add state=closed",
		"state=closed&ending=bad": `"bad" is not an ending`,
		"id=0":                    "id must be the number of a session",
		"id=-1":                   "id must be the number of a session",
		"colour=red":              `"colour" is not a parameter`,
		"sort=x&limit=y":          "limit must be a number\nsort must be",
	} {
		s, _ := newStatus(&fakeGateway{})
		if _, w := get(t, s, query); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q: %d %s", query, w.Code, w.Body)
		}
	}
}

func TestListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ended := fixture()
		s, ring := newStatus(g)
		ring.Add(ended[1])
		_, w := get(t, s, "id=1")
		const live = `[{"id":1,"remote":"192.0.2.1:1000","network":"192.0.2.0/24","domain":"example.org","server":"tcp://one:5222","phase":"established","resumable":true,"client_tls":true,"server_tls":false,"client_tls_info":{"version":"1.3","curve":"X25519","cipher":"TLS_AES_128_GCM_SHA256"},"since":"2026-01-02T03:04:05Z","idle_seconds":1.5,"ping_seconds":0.02,` +
			`"up":{"messages":1,"presences":2,"iqs":3,"nonzas":4,"bytes":10,"stanzas_per_second":0,"bytes_per_second":0,"queued_bytes":0,"stalls":0,"stalled_seconds":0},` +
			`"down":{"messages":5,"presences":0,"iqs":0,"nonzas":0,"bytes":20,"stanzas_per_second":0,"bytes_per_second":0,"queued_bytes":70,"stalls":2,"stalled_seconds":2.5},` +
			`"login":[{"step":"login","after_seconds":0.0005},{"step":"server connected","after_seconds":0.002},{"step":"stream open","after_seconds":0.0025},{"step":"features","after_seconds":0.003},{"step":"authenticated","after_seconds":1.2}]}` + "\n]\n"
		if got := w.Body.String(); got != live {
			t.Errorf("got  %s\nwant %s", got, live)
		}
		if n := w.Header().Get("X-Total-Count"); n != "1" {
			t.Errorf("%s in all", n)
		}
		_, w = get(t, s, "state=closed")
		const over = `"ended":"2026-01-02T03:06:05Z","age_seconds":120,"ending":"too-large","cause":"too large","limit_bytes":10000,"size_bytes":20000}`
		if got := w.Body.String(); !strings.Contains(got, over) {
			t.Errorf("got  %s\nwant %s", got, over)
		}
	})
}

func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ended := fixture()
		s, ring := newStatus(g)
		ring.Add(ended[0])
		for query, want := range map[string]string{
			"group=network":              "192.0.2.0/24=2 2001:db8:0:1::/64=1 unix=1",
			"group=domain":               "=1 EXAMPLE.org=1 example.net=1 example.org=1",
			"group=phase":                "established=2 negotiating=1 opening=1",
			"group=server&limit=1":       "=2",
			"group=network&id=3":         "2001:db8:0:1::/64=1",
			"group=network&state=closed": "192.0.2.0/24=1",
		} {
			w := httptest.NewRecorder()
			s.List(w, httptest.NewRequest("GET", "/connections?"+query, nil))
			var groups []Group
			if err := json.Unmarshal(w.Body.Bytes(), &groups); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range groups {
				got = append(got, fmt.Sprintf("%s=%d", g.Group, g.Sessions))
			}
			if text := strings.Join(got, " "); text != want {
				t.Errorf("%s: %s, want %s", query, text, want)
			}
			if query == "group=network" && (groups[0].Up.Bytes != 510 || groups[0].Down.QueuedBytes != 70) {
				t.Errorf("sums: %+v", groups[0])
			}
		}
	})
}

// A rate is that between two snapshots. The first who asks waits for it, the next do not.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{}
		s, _ := newStatus(g)
		sent := func(n uint64) proxy.Traffic { return proxy.Traffic{Messages: n, Bytes: 100 * n} }
		old := proxy.SessionInfo{ID: 1, Since: time.Now().Add(-time.Hour), Up: sent(1000)}
		g.set(old)
		go func() { // 50 messages in the second that the first one waits
			time.Sleep(minSpan / 2)
			old.Up = sent(1050)
			g.set(old)
		}()
		begun := time.Now()
		list, _ := get(t, s, "sort=rate")
		if took := time.Since(begun); took != minSpan || list[0].Up.StanzasPerSecond != 50 || list[0].Up.BytesPerSecond != 5000 || list[0].Down.BytesPerSecond != 0 {
			t.Errorf("after %v: %+v", took, list[0].Up)
		}

		// A session that has begun since, and one that is gone.
		time.Sleep(10 * time.Second)
		young := proxy.SessionInfo{ID: 2, Since: time.Now().Add(-2 * time.Second), Down: sent(8)}
		g.set(young)
		begun = time.Now()
		list, _ = get(t, s, "sort=rate")
		if took := time.Since(begun); took != 0 || len(list) != 1 || list[0].Down.StanzasPerSecond != 4 {
			t.Errorf("after %v: %+v", took, list)
		}

		// Whoever asks often gets a rate over a second at least.
		young.Down = sent(18)
		g.set(young)
		time.Sleep(time.Second)
		for range 20 {
			list, _ = get(t, s, "sort=rate")
			if got := list[0].Down.StanzasPerSecond; got > 10 || got < 4 {
				t.Errorf("%v a second", got)
			}
			time.Sleep(10 * time.Millisecond)
		}

		// What was counted is forgotten.
		time.Sleep(maxSpan + time.Second)
		s.sampler.mu.Lock()
		if s.sampler.counts[0].all != nil || s.sampler.counts[1].all != nil {
			t.Error("counts are kept although nobody asks")
		}
		s.sampler.mu.Unlock()
		begun = time.Now()
		get(t, s, "")
		if took := time.Since(begun); took != minSpan {
			t.Errorf("after %v", took)
		}
		time.Sleep(2 * maxSpan) // for the timer to end
	})
}

// Any number of requests costs the gateway a few walks, and each is answered with what
// was true after it came.
func TestManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := fixture()
		s, _ := newStatus(g)
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() { get(t, s, "") })
		}
		all.Wait()
		if g.walks > 3 {
			t.Errorf("%d walks for 500 requests", g.walks)
		}
		for n := range uint64(50) {
			g.set(proxy.SessionInfo{ID: n + 1})
			for range 3 {
				all.Go(func() {
					if list, _ := get(t, s, ""); fmt.Sprint(ids(list)) != fmt.Sprint([]uint64{n + 1}) {
						t.Errorf("%v after %d was there", ids(list), n+1)
					}
				})
			}
			all.Wait()
		}
		time.Sleep(2 * maxSpan)
	})
}

func TestEndedRing(t *testing.T) {
	e := new(Ended)
	for n := range uint64(2*maxEnded + 7) {
		e.Add(&proxy.EndedSession{SessionInfo: proxy.SessionInfo{ID: n + 1}})
		all := e.entries()
		if len(all) != min(int(n)+1, maxEnded) || all[0].ID != n+1 || all[len(all)-1].ID != n+1-uint64(len(all)-1) {
			t.Fatalf("after %d: %d, from %d to %d", n+1, len(all), all[0].ID, all[len(all)-1].ID)
		}
	}
}

func TestEndSessions(t *testing.T) {
	for parameters, want := range map[string]string{
		"id=3":                           "200 [3]",
		"network=192.0.2.0/24":           "200 [1 2]",
		"network=192.0.2.1":              "200 [1]",
		"network=unix":                   "200 [4]",
		"domain=example.org":             "200 [1 2]",
		"domain=example.org&id=2":        "200 [2]",
		"server=tcp://one:5222":          "200 [1]",
		"id=77":                          "404 []",
		"":                               "400 []",
		"id=":                            "400 []",
		"network=":                       "400 []",
		"phase=established":              "400 []",
		"id=1&colour=red":                "400 []",
		"id=all":                         "400 []",
		"network=192.0.2.0/24&network=x": "200 [1 2]", // the first counts
	} {
		for _, body := range []bool{false, true} {
			g, _ := fixture()
			var log bytes.Buffer
			s, _ := newStatus(g)
			s.Log = slog.New(slog.NewTextHandler(&log, nil))
			r := httptest.NewRequest("POST", "/connections/end?"+parameters, nil)
			if body {
				r = httptest.NewRequest("POST", "/connections/end", strings.NewReader(parameters))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			w := httptest.NewRecorder()
			s.End(w, r)
			if got := fmt.Sprint(w.Code, " ", g.ended); got != want {
				t.Errorf("%q: %s, want %s", parameters, got, want)
			}
			if w.Code == 200 && (!strings.Contains(log.String(), "by=192.0.2.1:1234") || !strings.Contains(log.String(), fmt.Sprintf("sessions=%d", len(g.ended)))) {
				t.Errorf("%q: %s", parameters, log.String())
			}
		}
	}
}

// What a list of 1,000 of 9,000 sessions costs.
func BenchmarkList(b *testing.B) {
	g := &fakeGateway{}
	for n := range uint64(9000) {
		ip := netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)})
		g.sessions = append(g.sessions, proxy.SessionInfo{ID: n + 1, Remote: netip.AddrPortFrom(ip, 1), Domain: "example.org", Up: proxy.Traffic{Bytes: rand.Uint64N(1 << 30)}})
	}
	s, _ := newStatus(g)
	s.sampler.counts[1] = s.sampler.count()
	b.ReportAllocs()
	for b.Loop() {
		s.List(httptest.NewRecorder(), httptest.NewRequest("GET", "/connections?limit=1000", nil))
	}
}
