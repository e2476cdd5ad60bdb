package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
)

// A prometheus is a real one that scrapes gateways.
type prometheus struct{ address string }

// startPrometheus runs one with the rules that the repository has.
func startPrometheus(t *testing.T, gateways ...*gateway) *prometheus {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	p, dir := &prometheus{fmt.Sprintf("127.0.0.1:%d", ports[0])}, t.TempDir()
	rules, err := filepath.Abs("../prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, g := range gateways {
		targets = append(targets, strconv.Quote(g.admin))
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs:\n  - job_name: gateways\n    static_configs: [{targets: [%s]}]\n", rules, strings.Join(targets, ", "))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	proc, err := startProcess("prometheus", exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--enable-feature=exemplar-storage"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("prometheus:\n%s", proc.log.tail(0))
		}
		proc.kill()
	})
	if err := proc.awaitReady(30*time.Second, func() error { return p.get("/-/ready", nil, nil) }); err != nil {
		t.Fatal(err)
	}
	return p
}

// get asks for a page, and decodes the data of the answer into data if that is not nil.
func (p *prometheus) get(path string, query url.Values, data any) error {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + p.address + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, body)
	}
	if err != nil || data == nil {
		return err
	}
	return json.Unmarshal(body, &struct{ Data any }{data})
}

// numbers returns the values of the samples that answer a query, without those that are none.
func (p *prometheus) numbers(expr string) (values []float64, err error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get("/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	for _, r := range data.Result {
		text, _ := r.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values, nil
}

// A dashboardQuery is what a panel asks, or a variable of the dashboard.
type dashboardQuery struct{ panel, expr string }

// dashboardQueries reads those of the repository's dashboard, for the gateways that startPrometheus knows.
func dashboardQueries(t *testing.T) (queries []dashboardQuery) {
	t.Helper()
	text, err := os.ReadFile("../grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "30s", "$job", "gateways", "$instance", ".*")
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			queries = append(queries, dashboardQuery{panel.Title, fill.Replace(target.Expr)})
		}
	}
	labelValues := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range dashboard.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Fatalf("variable %s: %q", v.Name, v.Definition)
		}
		queries = append(queries, dashboardQuery{"variable " + v.Name, fmt.Sprintf("count by (%s) (%s)", m[2], fill.Replace(m[1]))})
	}
	if strings.Contains(fmt.Sprint(queries), "$") {
		t.Fatalf("a variable that this test does not know: %v", queries)
	}
	return queries
}

// Every query of the dashboard is answered by a real Prometheus that scrapes a gateway with real sessions, and every rule
// can be evaluated there. What clients do here is what the panels are about: each kind of success and of failure.
func TestDashboard(t *testing.T) {
	s := servers[0]
	needGateway(t)
	dead, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	g := gatewayFor(t, fmt.Sprintf("tls://%s%s,tcp://127.0.0.1:%d", s.directTLS, s.ca(), dead[0]), "XMPPGATE_UPSTREAM_POLICY=round-robin",
		"XMPPGATE_MAX_SESSIONS=12", "XMPPGATE_COMPRESSION=on", "XMPPGATE_PING_INTERVAL=1s", "XMPPGATE_AUTH_TIMEOUT=10s")
	secure := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TLS_CERT="+s.dir+"/localhost.crt", "XMPPGATE_TLS_KEY="+s.dir+"/localhost.key")
	p := startPrometheus(t, g, secure)
	name := s.newUser(t, "watched")

	// One client stays, answers pings and is sent messages.
	idle, err := login(g.url(), domain, s.newUser(t, "idle"), "desk")
	if err != nil {
		t.Fatal(err)
	}
	defer idle.conn().Close()
	go func() {
		for {
			if _, err := idle.receive(); err != nil {
				return
			}
		}
	}()
	queries := dashboardQueries(t)
	err = poll(2*time.Minute, func() error {
		// One that never logs in, until the gateway ends it.
		silent, err := dial(g.url())
		if err != nil {
			return errStop{err}
		}
		defer silent.conn().Close()
		if _, err := silent.open(domain); err != nil {
			return errStop{err}
		}
		for range 4 {
			if err := errors.Join(dashboardLoad(g, name, idle.jid)...); err != nil {
				return errStop{err}
			}
			if err := g.awaitMetric("xmppgate_sessions", 2); err != nil {
				return errStop{err}
			}
			c, err := tls.Dial("tcp", secure.listen, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				return errStop{err}
			}
			c.Close()
		}
		silent.receive() // the end
		var missing []error
		for _, q := range queries {
			values, err := p.numbers(q.expr)
			switch {
			case err != nil:
				return errStop{err}
			case len(values) == 0:
				missing = append(missing, fmt.Errorf("no sample for %q: %s", q.panel, q.expr))
			}
		}
		return errors.Join(missing...)
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d queries", len(queries))

	// The numbers of sessions are exemplars.
	var exemplars []struct {
		Exemplars []struct{ Labels struct{ Session string } }
	}
	err = p.get("/api/v1/query_exemplars", url.Values{"query": {"xmppgate_login_duration_seconds_bucket"},
		"start": {fmt.Sprint(time.Now().Add(-10 * time.Minute).Unix())}, "end": {fmt.Sprint(time.Now().Unix())}}, &exemplars)
	if err != nil || len(exemplars) == 0 || len(exemplars[0].Exemplars) == 0 || exemplars[0].Exemplars[0].Labels.Session == "" {
		t.Errorf("exemplars: %v, %v", exemplars, err)
	}

	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.get("/api/v1/rules", nil, &rules); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, group := range rules.Groups {
		for _, r := range group.Rules {
			if n++; r.Health != "ok" {
				t.Errorf("rule %s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if n == 0 {
		t.Error("no rules")
	}
}

// dashboardLoad is a round of what clients do, well and badly.
func dashboardLoad(g *gateway, name, friend string) (errs []error) {
	try := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	// A login, messages, and a loss that is resumed.
	c, err := login(g.url(), domain, name, "phone")
	if err != nil {
		return []error{err}
	}
	defer func() { c.conn().Close() }()
	try("enable", c.enable())
	try("message", c.message(friend, "<body>to a friend</body>"))
	try("message", c.message(c.jid, "<body>to myself</body>"))
	_, err = c.await(func(e *element) bool { return e.is("message") })
	try("message", err)
	c.abort(lossFIN)
	if fresh, err := c.reattach(g.url()); err != nil {
		try("resume", err)
	} else {
		c = fresh
	}
	// A stream that the server does not know any more.
	c.sm.id = "unknown"
	c.conn().Close()
	var refused resumeFailed
	if fresh, err := c.reattach(g.url()); err == nil {
		fresh.conn().Close()
		errs = append(errs, errors.New("an unknown stream was resumed"))
	} else if !errors.As(err, &refused) {
		errs = append(errs, err)
	}
	// A wrong name, and a client that does not try.
	if other, err := login(g.url(), domain, "nobody", ""); err == nil {
		other.conn().Close()
		errs = append(errs, errors.New("nobody is logged in"))
	}
	if other, err := dial(g.url()); err == nil {
		_, err := other.open(domain)
		try("open", err)
		other.finish()
		other.conn().Close()
	}
	// A domain that the server has no certificate for.
	if other, err := dial(g.url()); err == nil {
		other.header("other.example")
		other.receive()
		other.conn().Close()
	}
	// One with compression.
	var offer ws.Dialer
	offer.Extensions = append(offer.Extensions, wsflate.Parameters{}.Option())
	if compressed, err := dialWebSocket(g.url(), offer); err != nil {
		try("compression", err)
	} else {
		other := &client{transport: compressed}
		try("compression", other.header(domain))
		_ = other.conn().SetReadDeadline(time.Now().Add(patience))
		_, err := other.conn().Read(make([]byte, 1)) // of the answer, which may be compressed
		try("compression", err)
		other.conn().Close()
	}
	// More than there is room for, until they have gone.
	for range 14 {
		if other, err := dial(g.url()); err == nil {
			defer other.conn().Close()
		}
	}
	return errs
}
