package metrics

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var update = flag.Bool("update", false, "rewrite testdata")

// A fakeSource is a gateway whose numbers the test sets.
type fakeSource struct {
	up, down    Traffic
	connections []Connection
	servers     []Server
	compression Compression
}

func (f *fakeSource) Compression() Compression   { return f.compression }
func (f *fakeSource) Totals() (up, down Traffic) { return f.up, f.down }
func (f *fakeSource) Servers() []Server          { return f.servers }
func (f *fakeSource) Sessions() map[string]int {
	count := map[string]int{}
	for _, c := range f.connections {
		count[c.Phase]++
	}
	return count
}
func (f *fakeSource) Connections() iter.Seq[Connection] { return slices.Values(f.connections) }

func always(n int) func() int { return func() int { return n } }

var options = Options{
	Version: "v1.2.3", Revision: "abc",
	Endings:        []string{"client-closed", "shutdown"},
	UpgradeResults: []string{"ok", "refused"},
	DialResults:    []string{"ok", "timeout"},
	Phases:         []string{"negotiating", "open"},
	Sides:          []string{"client", "server"},
	Servers:        []string{"tcp://a:5222", "srv:example.org"},
	OpenPhases:     []string{"tcp", "tls"},
	OpenResults:    []string{"ok", "refused"},
	Mechanisms:     []string{"none", "scram"},
	LoginResults:   []string{"success", "not-authorized"},
	ResumeResults:  []string{"resumed", "item-not-found"},
	ErrorSides:     []string{"client", "server"},
	StreamErrors:   []string{"conflict"},
	SessionsLimit:  always(500), ConnectionsLimit: always(2),
	TLS: TLSOptions{
		Results: []string{"ok", "timeout"}, Versions: []string{"1.2", "1.3"}, Curves: []string{"X25519"},
		Certificates: func() []Certificate { return []Certificate{{"/etc/tls/a.pem", time.Unix(1900000000, 0)}} },
	},
}

// gateway returns a source with three sessions that have relayed something.
func gateway() *fakeSource {
	started := time.Unix(1700000000, 250e6)
	return &fakeSource{
		up:          Traffic{Messages: 1, Presences: 2, IQs: 3, Nonzas: 4, Bytes: 1000},
		down:        Traffic{Messages: 5, Presences: 6, IQs: 7, Nonzas: 8, Bytes: 9000},
		servers:     []Server{{Name: "tcp://a:5222", Up: true, Sessions: 2}, {Name: "srv:example.org"}},
		compression: Compression{Sessions: 3, WithoutMemory: 4, Memory: 24576, MemoryLimit: 1 << 20, Up: MessageSize{500, 400}, Down: MessageSize{9000, 2000}},
		connections: []Connection{
			{ID: "1", Remote: "192.0.2.1:5000", Server: "tcp://a:5222", Phase: "open", Since: started, Idle: 1500 * time.Millisecond, Up: Traffic{IQs: 1, Bytes: 10}, Down: Traffic{IQs: 1, Bytes: 20}},
			{ID: "2", Remote: "[2001:db8::2]:5001", Phase: "open", Since: started, Ping: 25 * time.Millisecond, Up: Traffic{Messages: 9, Bytes: 100}, Down: Traffic{Messages: 4, Presences: 1, Bytes: 200},
				DownQueue: Queue{Bytes: 70, Stalled: 2500 * time.Millisecond}, Compressed: true, UpMessages: MessageSize{110, 70}, DownMessages: MessageSize{220, 50}},
			{ID: "3", Remote: "192.0.2.3:5002", Phase: "negotiating", Since: started},
		},
	}
}

// compare fails when what r says of the gateway differs from testdata/name.
func compare(t *testing.T, r *prometheus.Registry, name string) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		// The Go version is not ours to pin.
		if n := f.GetName(); strings.HasPrefix(n, "xmppgate_") && n != "xmppgate_build_info" {
			names = append(names, n)
		}
	}
	file := filepath.Join("testdata", name)
	if *update {
		var text bytes.Buffer
		for line := range strings.Lines(scrape(promhttp.HandlerFor(r, promhttp.HandlerOpts{}))) {
			if strings.Contains(line, "xmppgate_") && !strings.Contains(line, "xmppgate_build_info") {
				text.WriteString(line)
			}
		}
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(r, bytes.NewReader(want), names...); err != nil {
		t.Errorf("%s: %v\nIf that is right: go test ./metrics -run %s -update", file, err, t.Name())
	}
}

// scrape asks h as Prometheus does.
func scrape(h http.Handler) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestStart(t *testing.T) {
	m := New(&fakeSource{}, options)
	compare(t, m.totals, "start.prom")
	compare(t, m.connections, "start-connections.prom")
}

func TestRunning(t *testing.T) {
	o := options
	o.Draining = func() bool { return true }
	m := New(gateway(), o)
	m.Upgraded("ok", 2*time.Millisecond)
	m.Upgraded("refused", time.Millisecond)
	m.Dialed(7, "ok", 3*time.Millisecond)
	m.Dialed(7, "timeout", 10*time.Second)
	m.Opened("tcp://a:5222", "tcp", "ok", 3*time.Millisecond)
	m.Opened("srv:example.org", "tcp", "ok", time.Millisecond)
	m.Opened("srv:example.org", "tls", "refused", time.Second)
	m.FailedOver("srv:example.org")
	m.Redirected("tcp://a:5222")
	m.CertificateExpires("srv:example.org", time.Unix(1800000000, 0))
	m.FeaturesSent(7, 20*time.Millisecond)
	m.LoginEnded(7, "scram", "not-authorized", time.Second)
	m.LoginEnded(7, "scram", "success", 2*time.Second)
	m.Restarted()
	m.Resumable()
	m.ResumeEnded("item-not-found")
	m.StreamError("server", "conflict")
	m.AcceptFailed()
	m.Pinged(25 * time.Millisecond)
	m.StallOver("client", 1500*time.Millisecond)
	m.Ended(7, "client-closed", time.Hour)
	m.Ended(7, "client-closed", 48*time.Hour)
	compare(t, m.totals, "running.prom")
	compare(t, m.connections, "running-connections.prom")
}

func TestBuildInfo(t *testing.T) {
	got := scrape(New(&fakeSource{}, options).Handler())
	for _, want := range []string{`xmppgate_build_info{goversion="go1.`, `,revision="abc",version="v1.2.3"} 1`, "go_goroutines ", "process_start_time_seconds "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// What a session has caused names it, in the format that can. A bucket and a counter keep
// one name each, so that their number is bounded, for a second at least.
func TestExemplars(t *testing.T) { synctest.Test(t, testExemplars) }

func testExemplars(t *testing.T) {
	m := New(&fakeSource{}, options)
	for id := range uint64(100) {
		if id%10 == 0 {
			time.Sleep(exemplarInterval)
		}
		m.Dialed(id, "ok", 3*time.Millisecond)
		m.FeaturesSent(id, 20*time.Millisecond)
		m.LoginEnded(id, "scram", "success", time.Second)
		m.LoginEnded(id, "scram", "not-authorized", time.Second)
		m.Ended(id, "shutdown", time.Hour)
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	m.Handler().ServeHTTP(w, r)
	got := w.Body.String()
	for _, want := range []string{
		`xmppgate_dials_total{result="ok"} 100.0 # {session="90"} 1.0`,
		`xmppgate_logins_total{mechanism="scram",result="not-authorized"} 100.0 # {session="90"} 1.0`,
		`xmppgate_sessions_ended_total{ending="shutdown"} 100.0 # {session="90"} 1.0`,
		`xmppgate_features_duration_seconds_bucket{le="0.064"} 100 # {session="90"} 0.02`,
		`xmppgate_login_duration_seconds_bucket{le="1.024"} 100 # {session="90"} 1.0`,
		`xmppgate_session_duration_seconds_bucket{le="3600.0"} 100 # {session="90"} 3600.0`,
		`xmppgate_dial_duration_seconds_bucket{le="0.008"} 100 # {session="90"} 0.003`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "session="); n != 8 {
		t.Errorf("%d exemplars", n)
	}
	if got := scrape(m.Handler()); strings.Contains(got, "session=") {
		t.Error("the text format has exemplars")
	}
}

func TestLint(t *testing.T) {
	m := New(gateway(), options)
	m.Opened("tcp://a:5222", "tcp", "ok", 0)
	m.FilesRead("tcp://a:5222", "ok")
	m.CertificateExpires("tcp://a:5222", time.Now())
	for _, r := range []*prometheus.Registry{m.totals, m.connections} {
		problems, err := testutil.GatherAndLint(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// The number of series must not follow what clients do.
func TestClosedSets(t *testing.T) {
	source := &fakeSource{}
	m := New(source, options)
	before, err := testutil.GatherAndCount(m.totals)
	if err != nil {
		t.Fatal(err)
	}
	m.Upgraded("made up", 0)
	m.Dialed(7, "made up", 0)
	m.Opened("made up", "tcp", "ok", 0)
	m.Opened("tcp://a:5222", "made up", "ok", 0)
	m.Opened("tcp://a:5222", "tcp", "made up", 0)
	m.FailedOver("made up")
	m.Redirected("made up")
	m.FilesRead("made up", "ok")
	m.FilesRead("tcp://a:5222", "made up")
	m.CertificateExpires("made up", time.Now())
	m.StallOver("made up", time.Second)
	m.LoginEnded(7, "made up", "success", 0)
	m.LoginEnded(7, "scram", "made up", 0)
	m.ResumeEnded("made up")
	m.StreamError("made up", "conflict")
	m.StreamError("server", "made up")
	m.Ended(7, "made up", 0)
	source.connections = append(gateway().connections, Connection{Phase: "made up"})
	after, err := testutil.GatherAndCount(m.totals)
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("%d series became %d", before, after)
	}
}

// The series of a server end when it goes; those of the others go on counting.
func TestSetServers(t *testing.T) {
	m := New(&fakeSource{}, options)
	happens := func(server string) {
		m.Opened(server, "tcp", "ok", time.Millisecond)
		m.FailedOver(server)
		m.Redirected(server)
		m.FilesRead(server, "ok")
		m.CertificateExpires(server, time.Unix(1800000000, 0))
	}
	lines := func(server string) int {
		return strings.Count(scrape(m.Handler()), `server="`+server+`"`)
	}
	happens("tcp://a:5222")
	happens("srv:example.org")
	all := lines("srv:example.org")
	m.SetServers([]string{"tcp://a:5222", "tcp://new:5222"})
	happens("tcp://a:5222")
	happens("srv:example.org")
	happens("tcp://new:5222")
	for server, want := range map[string]int{"tcp://a:5222": all, "tcp://new:5222": all, "srv:example.org": 0} {
		if got := lines(server); got != want || all == 0 {
			t.Errorf("%s: %d lines, want %d", server, got, want)
		}
	}
	if want := `xmppgate_upstream_opens_total{phase="tcp",result="ok",server="tcp://a:5222"} 2`; !strings.Contains(scrape(m.Handler()), want) {
		t.Errorf("no %s", want)
	}
}

// All who scrape at the same time cost the gateway one walk over its sessions, and one
// more for those who came too late for it.
func TestScrapesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowSource{fakeSource: gateway()}
		h := New(source, options).Handler()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if text := scrape(h); !strings.Contains(text, `xmppgate_bytes_total{direction="up"} 1000`) {
					t.Error(text)
				}
			})
		}
		all.Wait()
		if n := source.walks.Load(); n > 2 {
			t.Errorf("%d walks for 100 scrapes", n)
		}
	})
}

// A slowSource counts how often it is asked.
type slowSource struct {
	*fakeSource
	walks atomic.Int32
}

func (s *slowSource) Totals() (up, down Traffic) {
	s.walks.Add(1)
	time.Sleep(time.Millisecond)
	return s.fakeSource.Totals()
}

// Samples are what a scrape has.
func TestSamples(t *testing.T) {
	m := New(gateway(), options)
	m.Ended(0, "shutdown", 2*time.Second)
	m.Ended(0, "shutdown", 3*time.Second)
	got := map[string]float64{}
	for _, s := range m.Samples() {
		if !strings.HasPrefix(s.Name, "xmppgate_") {
			t.Errorf("%s is not of the gateway", s.Name)
		}
		key := s.Name
		for _, label := range []string{"ending", "direction", "kind", "phase", "server"} {
			key += " " + s.Labels[label]
		}
		got[strings.Join(strings.Fields(key), " ")] = s.Value
	}
	for key, want := range map[string]float64{
		"xmppgate_sessions_ended_total shutdown": 2, "xmppgate_session_duration_seconds_count": 2, "xmppgate_session_duration_seconds_sum": 5,
		"xmppgate_stanzas_total up iq": 3, "xmppgate_sessions open": 2, "xmppgate_upstream_sessions tcp://a:5222": 2,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

// Those with the most bytes are kept, whatever their order.
func TestBusiest(t *testing.T) {
	for _, n := range []int{0, 1, 5, 100} {
		var all []Connection
		for _, i := range rand.Perm(n) {
			all = append(all, Connection{ID: fmt.Sprintf("%03d", i), Up: Traffic{Bytes: uint64(i / 2)}}) // pairs have as many
		}
		for _, limit := range []int{0, 1, 3, 5, 50, 200} {
			kept, count := busiest(slices.Values(all), limit)
			var got, want []string
			for _, c := range kept {
				got = append(got, c.ID)
			}
			for _, c := range slices.SortedFunc(slices.Values(all), func(a, b Connection) int {
				return cmp.Or(cmp.Compare(b.bytes(), a.bytes()), cmp.Compare(a.ID, b.ID))
			})[:min(n, limit)] {
				want = append(want, c.ID)
			}
			slices.Sort(got)
			slices.Sort(want)
			if count != n || !slices.Equal(got, want) {
				t.Errorf("%d of %d: %v of %d, want %v", limit, n, got, count, want)
			}
		}
	}
}

func TestConnectionsLimit(t *testing.T) {
	source := &fakeSource{}
	for i := range 5000 {
		source.connections = append(source.connections, Connection{ID: fmt.Sprint(i), Up: Traffic{Bytes: uint64(i)}})
	}
	for _, limit := range []int{0, 1, 1000, 4999, 5000, 9999} {
		o := options
		o.ConnectionsLimit = always(limit)
		m := New(source, o)
		shown := min(limit, 5000)
		got, err := testutil.GatherAndCount(m.connections, "xmppgate_connection_idle_seconds")
		if err != nil {
			t.Fatal(err)
		}
		if got != shown {
			t.Errorf("limit %d: %d sessions shown", limit, got)
		}
		want := fmt.Sprintf("# HELP xmppgate_connections_omitted Live sessions that are not shown because others have relayed more bytes.\n"+
			"# TYPE xmppgate_connections_omitted gauge\nxmppgate_connections_omitted %d\n", 5000-shown)
		if err := testutil.GatherAndCompare(m.connections, strings.NewReader(want), "xmppgate_connections_omitted"); err != nil {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// The counters of a session that ended must stay in the totals; the source
// promises it, and nothing here may hide a step back or cache an old value.
func TestFollowsSource(t *testing.T) {
	source := gateway()
	m := New(source, options)
	for range 3 {
		source.up.Bytes += 500
		want := fmt.Sprintf("# HELP xmppgate_bytes_total Bytes of XML relayed, without WebSocket framing.\n# TYPE xmppgate_bytes_total counter\n"+
			"xmppgate_bytes_total{direction=\"down\"} 9000\nxmppgate_bytes_total{direction=\"up\"} %d\n", source.up.Bytes)
		if err := testutil.GatherAndCompare(m.totals, strings.NewReader(want), "xmppgate_bytes_total"); err != nil {
			t.Error(err)
		}
	}
	source.connections = nil
	if n, err := testutil.GatherAndCount(m.connections, "xmppgate_connection_bytes_total"); err != nil || n != 0 {
		t.Errorf("%d series of sessions that are gone, error %v", n, err)
	}
}

func TestObserverAllocatesNothing(t *testing.T) {
	m := New(&fakeSource{}, options)
	n := testing.AllocsPerRun(100, func() {
		m.Upgraded("ok", time.Millisecond)
		m.Opened("tcp://a:5222", "tcp", "ok", time.Millisecond)
		m.FailedOver("tcp://a:5222")
		m.Pinged(time.Millisecond)
		m.StallOver("client", time.Second)
		m.StreamError("server", "conflict")
		m.ResumeEnded("resumed")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
