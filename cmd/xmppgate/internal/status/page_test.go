package status

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/metrics/share"
	"xmppgate/proxy"
)

// browse asks for the page as a browser does.
func browse(t *testing.T, s *Status, target string) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.Page)
	s.Handle(mux)
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// bubble runs f with a Status of the fixture, in virtual time.
func bubble(t *testing.T, f func(t *testing.T, s *Status, g *fakeGateway)) {
	synctest.Test(t, func(t *testing.T) {
		g, ended := fixture()
		s, ring := newStatus(g)
		for _, e := range ended {
			ring.Add(e)
		}
		f(t, s, g)
		time.Sleep(2 * maxSpan) // for timers to end
	})
}

func TestPage(t *testing.T) {
	for target, want := range map[string]string{
		"/":                                "200 ready|4 of 4 live sessions|192.0.2.1:1000|too-large",
		"/?network=192.0.2.0/24":           "200 2 of 2 live sessions",
		"/?phase=closing":                  "200 None.",
		"/?group=network":                  "200 4 live sessions in 3 groups|?network=192.0.2.0%2F24#connections",
		"/?group=phase&domain=example.org": "200 2 live sessions in 1 groups|?domain=example.org&amp;phase=established#connections",
		"/?state=closed":                   "200 2 of 2 ended sessions|connection reset by peer",
		"/?state=closed&limit=1":           "200 1 of 2 ended sessions",
		"/?sort=rate&domain=example.org":   `200 aria-sort="descending"|/?domain=example.org&amp;sort=idle#connections`,
		"/?id=1":                           "200 Session 1|Resumable|2 (2.5\u00a0s)|WebSocket opened after|TLS 1.3, X25519, TLS_AES_128_GCM_SHA256|Login: WebSocket opened after 0\u00a0s, login after 0.5\u00a0ms|authenticated after 1.2\u00a0s",
		"/?id=9":                           "200 too-large|10000 bytes, by 20000|ended after",
		"/?id=77":                          "404 There is no session 77",
		"/?sort=red":                       "400 sort must be one of",
		"/?colour=red":                     "400 is not a parameter",
		"/?id=%3Cscript%3E":                "400 id must be the number",
		"/status/page.css":                 "200 color-scheme",
		"/status/page.js":                  "200 use strict",
		"/status/icon.svg":                 "200 <svg",
		"/status/page.html":                "404 ",
		"/status/":                         "404 ",
	} {
		bubble(t, func(t *testing.T, s *Status, _ *fakeGateway) {
			w := browse(t, s, target)
			status, parts, _ := strings.Cut(want, " ")
			if fmt.Sprint(w.Code) != status {
				t.Errorf("%s: %d", target, w.Code)
			}
			for part := range strings.SplitSeq(parts, "|") {
				if !strings.Contains(w.Body.String(), part) {
					t.Errorf("%s: no %q in the page", target, part)
				}
			}
			if w.Code == 404 && parts == "" {
				return
			}
			for name, value := range map[string]string{
				"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "same-origin",
			} {
				if got := w.Header().Get(name); got != value {
					t.Errorf("%s: %s is %q", target, name, got)
				}
			}
		})
	}
	for _, forbidden := range []string{"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} {
		if strings.Contains(policy, forbidden) {
			t.Errorf("the policy has %s", forbidden)
		}
	}
	if !strings.Contains(policy, "frame-ancestors 'none'") || !strings.Contains(policy, "default-src 'none'") {
		t.Error(policy)
	}
}

// Whatever clients and servers name is text, in each place that shows it.
func TestPageEscapes(t *testing.T) {
	const evil = `"'><img src=x onerror=alert(1)>{{.}}</script><!--&lt;`
	info := proxy.SessionInfo{ID: 1, Domain: evil, Server: evil, Phase: "established", Since: began}
	for _, target := range []string{"/", "/?id=1", "/?id=2", "/?group=domain", "/?group=server", "/?state=closed", "/?state=closed&group=domain",
		"/?server=" + url.QueryEscape(evil), "/?domain=" + url.QueryEscape(evil), "/?sort=" + url.QueryEscape(evil), "/?" + url.QueryEscape(evil) + "=1", "/?ending=" + url.QueryEscape(evil)} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGateway{sessions: []proxy.SessionInfo{info}}
			s, ring := newStatus(g)
			over := info
			over.ID = 2
			ring.Add(&proxy.EndedSession{SessionInfo: over, Ended: began, Ending: evil, Cause: evil, Condition: evil, Mechanism: evil, Login: evil, JID: evil})
			s.Facts = func() Facts {
				return Facts{Version: evil, Ready: fmt.Errorf("%s", evil), Servers: []Server{{Name: evil, Problem: evil}}, Settings: []Fact{{evil, evil}}, Token: true}
			}
			s.Samples = func() []Sample {
				return []Sample{{"xmppgate_sessions_ended_total", map[string]string{"ending": evil}, 3}, {"xmppgate_limit", map[string]string{"limit": evil}, 3}, {"xmppgate_x_certificate_expiry_timestamp_seconds", map[string]string{"server": evil}, 3}}
			}
			s.samples = share.New(func(fresh func()) []Sample { fresh(); return s.Samples() })
			body := browse(t, s, target).Body.String()
			if strings.Contains(body, "<img") || strings.Contains(body, "<!--") || strings.Count(body, "</script>") != 1 || strings.Contains(body, "javascript:") {
				t.Errorf("%s:\n%s", target, body)
			}
			time.Sleep(2 * maxSpan)
		})
	}
}

var form = regexp.MustCompile(`(?s)<form class="action".*?</form>`)

// Actions are offered only where they need a token, and have it in no URL.
func TestPageActions(t *testing.T) {
	for target, want := range map[string][]string{
		"/":                                {`action="/drain"`},
		"/?network=192.0.2.0/24":           {`action="/connections/end"`, `action="/drain"`},
		"/?domain=example.org&sort=rate":   {`action="/connections/end"`, `action="/drain"`},
		"/?phase=opening&network=::/0":     {`action="/drain"`}, // the end would end others as well
		"/?state=closed&network=192.0.2.1": {`action="/drain"`},
		"/?id=1":                           {`action="/connections/end"`},
		"/?id=8":                           nil,
	} {
		bubble(t, func(t *testing.T, s *Status, _ *fakeGateway) {
			for _, token := range []bool{true, false} {
				s.Facts = func() Facts { return Facts{Token: token} }
				forms := form.FindAllString(browse(t, s, target).Body.String(), -1)
				if !token {
					if len(forms) != 0 {
						t.Errorf("%s: without a token there is %s", target, forms)
					}
					continue
				}
				if len(forms) != len(want) {
					t.Errorf("%s: %d forms, want %v", target, len(forms), want)
					continue
				}
				for i, f := range forms {
					if !strings.Contains(f, want[i]) || !strings.Contains(f, `method="post"`) || !strings.Contains(f, `type="password" name="token"`) {
						t.Errorf("%s: %s", target, f)
					}
				}
			}
		})
	}
}

// After an end a browser sees what has become of it, other programs get a number.
func TestEndInBrowser(t *testing.T) {
	for parameters, want := range map[string]string{
		"id=1":                           "/?id=1",
		"network=192.0.2.0/24":           "/?network=192.0.2.0%2F24&state=closed#connections",
		"domain=example.org&server=a%26": "/?domain=example.org&server=a%26&state=closed#connections",
	} {
		bubble(t, func(t *testing.T, s *Status, _ *fakeGateway) {
			r := httptest.NewRequest("POST", "/connections/end", strings.NewReader(parameters))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Accept", "text/html")
			w := httptest.NewRecorder()
			s.End(w, r)
			if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != want {
				t.Errorf("%s: %d %s, want %s", parameters, w.Code, got, want)
			}
		})
	}
}

// The history has a bounded size, rates between points, and leaves no garbage behind.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, events := &fakeGateway{}, new(Events)
		var shutdowns atomic.Int64
		h := &history{gateway: g, reading: reading{Events: events}, samples: func() []Sample {
			return []Sample{
				{"xmppgate_sessions_ended_total", map[string]string{"ending": "shutdown"}, float64(shutdowns.Load())},
				{"xmppgate_sessions_ended_total", map[string]string{"ending": "internal"}, 0},
			}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		go h.run(ctx)
		for n := range uint64(720) {
			time.Sleep(sampleInterval / 2)
			g.set(proxy.SessionInfo{ID: 1, Up: proxy.Traffic{Messages: n, Bytes: 10_000 * n}}, proxy.SessionInfo{ID: 2, Down: proxy.Traffic{IQs: n}})
			for range 3 {
				events.Upgraded("ok")
			}
			events.Upgraded("busy")
			events.LoginEnded("SCRAM", "success")
			events.LoginEnded("PLAIN", "not-authorized")
			events.LoginEnded("none", "abandoned")
			events.Ended()
			events.Ended()
			shutdowns.Add(1)
			time.Sleep(sampleInterval / 2)
		}
		cancel()
		synctest.Wait()
		if h.taken < 720 || len(h.marks) != maxMarks {
			t.Errorf("%d points, %d marks", h.taken, len(h.marks))
		}
		got := map[string]string{}
		for _, c := range h.charts() {
			got[c.Title] = c.Now
			if len(c.points) < maxPoints-1 || len(c.points) > maxPoints || c.Area() == "" {
				t.Errorf("%s has %d points", c.Title, len(c.points))
			}
		}
		want := map[string]string{
			"Live sessions": "2", "To server": bytesRate.format(1000), "To client": bytesRate.format(0), "Stanzas": "0.2/s",
			"New sessions": "18/min", "Refused": "6/min", "Logins": "6/min", "Failed logins": "6/min", "Ended": "12/min", "Stalls": "0/min",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q, want %q", got, want)
		}
		before := h.before()
		shown := tables[0].show(h.samples(), before, time.Now())
		if ago := time.Since(before.at); ago < 30*time.Minute || ago > 40*time.Minute || len(shown.Rows) != 1 || shown.Rows[0].Name != "shutdown" || shown.Rows[0].total != float64(shutdowns.Load()) || shown.Rows[0].recent > ago.Seconds()/10+1 || shown.Rows[0].recent < ago.Seconds()/10-1 {
			t.Errorf("%+v since %v", shown, time.Since(before.at))
		}
	})
	h := &history{gateway: quietGateway{}, reading: reading{Events: new(Events)}, samples: func() []Sample { return nil }}
	if n := testing.AllocsPerRun(1000, h.take); n > 0 {
		t.Errorf("a point allocates %v times", n)
	}
}

// A quietGateway has nothing.
type quietGateway struct{ Gateway }

func (quietGateway) Summary() (sessions int, up, down proxy.Traffic) { return }

// A limit that is nearly reached comes first and stands out.
func TestLimits(t *testing.T) {
	of := func(name string) map[string]string { return map[string]string{"limit": name} }
	got := limits([]Sample{
		{"xmppgate_limit", of("sessions"), 100}, {"xmppgate_limit_current", of("sessions"), 10},
		{"xmppgate_limit", of("memory_bytes"), 2 << 20}, {"xmppgate_limit_current", of("memory_bytes"), 2 << 20},
	})
	if want := "[{memory 2\u00a0MiB of 2\u00a0MiB bad} {sessions 10 of 100 }]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if s := (&Facts{}).state(true); s.Class != "bad" || !strings.Contains(s.Text, "overloaded") {
		t.Errorf("%+v", s)
	}
}

// A row says what happened, or what to do about it.
func TestRowsExplain(t *testing.T) {
	of := func(labels ...string) map[string]string {
		all := map[string]string{}
		for n := 0; n < len(labels); n += 2 {
			all[labels[n]] = labels[n+1]
		}
		return all
	}
	samples := []Sample{
		{"xmppgate_sessions_ended_total", of("ending", "server-lost"), 1},
		{"xmppgate_logins_total", of("mechanism", "scram", "result", "not-authorized"), 1},
		{"xmppgate_logins_total", of("mechanism", "scram", "result", "success"), 1},
		{"xmppgate_upgrades_total", of("result", "network-sessions"), 1},
		{"xmppgate_upgrades_total", of("result", "bad-origin"), 1},
	}
	got := map[string]string{}
	for n := range tables {
		for _, r := range tables[n].show(samples, mark{}, began).Rows {
			got[r.Name] = r.Meaning
		}
	}
	for name, want := range map[string]string{
		"server-lost": "the server", "scram not-authorized": "the password is wrong", "network-sessions": "XMPPGATE_NETWORK_SESSIONS", "bad-origin": "XMPPGATE_ORIGINS",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	if got["scram success"] != "" {
		t.Error(got["scram success"])
	}
}

// Compression shows what it saves, and nothing where it is off.
func TestCompressionShown(t *testing.T) {
	of := func(direction, form string) map[string]string {
		return map[string]string{"direction": direction, "form": form}
	}
	samples := []Sample{
		{"xmppgate_compression_sessions", nil, 2}, {"xmppgate_compression_memory_bytes", nil, 24 << 10}, {"xmppgate_compression_memory_limit_bytes", nil, 64 << 20},
		{"xmppgate_compression_sessions_without_memory_total", nil, 7},
		{"xmppgate_compression_bytes_total", of("down", "plain"), 5000}, {"xmppgate_compression_bytes_total", of("down", "wire"), 1000},
		{"xmppgate_compression_bytes_total", of("up", "plain"), 0}, {"xmppgate_compression_bytes_total", of("up", "wire"), 0},
	}
	want := "[{live sessions with it 2} {to client ratio 5, 4.88\u00a0KiB became 0.98\u00a0KiB} {to server nothing was sent yet} {memory 24\u00a0KiB of 64\u00a0MiB} {sessions without memory for it 7}]"
	if got := fmt.Sprint(compression(samples)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := compression([]Sample{{"xmppgate_compression_sessions", nil, 0}, {"xmppgate_compression_memory_limit_bytes", nil, 0}}); got != nil {
		t.Errorf("%v", got)
	}
}

// Few sessions are watched, those that somebody looks at.
func TestWatches(t *testing.T) {
	var w watches
	now := began
	for range 3 * maxLooks {
		for id := range uint64(3 * maxWatches) {
			now = now.Add(2 * time.Second)
			w.look(&entry{SessionInfo: proxy.SessionInfo{ID: id}}, now)
			c := w.look(&entry{SessionInfo: proxy.SessionInfo{ID: 99}, upRate: rate{bytes: 5}}, now)
			if c.Now != "5\u00a0B/s" {
				t.Fatal(c.Now)
			}
		}
	}
	if len(w.all) != maxWatches {
		t.Errorf("%d watches", len(w.all))
	}
	for _, o := range w.all {
		if len(o.points) > maxLooks || o.id == 99 && len(o.points) != maxLooks {
			t.Errorf("session %d has %d points", o.id, len(o.points))
		}
	}
}

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		formatNumber(0): "0", formatNumber(1.5): "1.5", formatNumber(0.254): "0.25", formatNumber(12.34): "12.3", formatNumber(1234567): "1\u202f234\u202f567", formatNumber(123.4): "123",
		formatBytes(999): "999\u00a0B", formatBytes(1000): "0.98\u00a0KiB", formatBytes(10 << 20): "10\u00a0MiB", formatBytes(5e15): "4\u202f547\u00a0TiB",
		formatAge(0): "0\u00a0s", formatAge(-time.Second): "0\u00a0s", formatAge(2300 * time.Microsecond): "2.3\u00a0ms", formatAge(45 * time.Millisecond): "45\u00a0ms", formatAge(999 * time.Millisecond): "999\u00a0ms", formatAge(1500 * time.Millisecond): "1.5\u00a0s", formatAge(90 * time.Second): "90\u00a0s", formatAge(5 * time.Minute): "5\u00a0min", formatAge(3*time.Hour + 4*time.Minute): "3\u00a0h 4\u00a0min", formatAge(49 * time.Hour): "2\u00a0d 1\u00a0h",
		bytesRate.format(2048): "2\u00a0KiB/s",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
