package status

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"xmppgate/proxy"
)

// This file is the page for browsers. Its text comes from html/template, which escapes
// whatever a client or a server has named. It loads nothing but its own style and script,
// and works without the script, which only keeps it up to date.

//go:embed page
var files embed.FS

var page = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"age":     formatAge,
	"ago":     func(now, t time.Time) string { return formatAge(now.Sub(t)) },
	"time":    func(t time.Time) string { return t.UTC().Format("15:04:05") + " UTC" },
	"day":     func(t time.Time) string { return t.UTC().Format("2 January 2006") },
	"bytes":   formatBytes,
	"rate":    bytesRate.format,
	"number":  formatNumber,
	"seconds": func(s float64) string { return formatAge(seconds(s)) },
	"ping":    func(s float64) string { return formatPing(seconds(s)) },
	"add":     func(a, b float64) float64 { return a + b },
	"sum":     func(a, b uint64) float64 { return float64(a) + float64(b) },
	"plus":    func(a, b int) float64 { return float64(a) + float64(b) },
}).ParseFS(files, "page/page.html"))

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Facts are what the page shows beside sessions and metrics.
type Facts struct {
	Version  string
	Started  time.Time
	Ready    error  // why the gateway is not ready; nil if it is
	Draining string // how far a drain is; empty if none has begun
	Servers  []Server
	Settings []Fact // limits beside those that the metrics have
	Token    bool   // whether actions need a token; without one the page offers none
}

// A Server is the state of an XMPP server.
type Server struct {
	Name     string
	Up       bool // whether sessions are sent there
	Checked  bool // otherwise Up is an assumption
	Sessions int
	Problem  string // of the last attempt; empty if it succeeded
}

// A Fact is a name and what there is to say.
type Fact struct{ Name, Value string }

// policy is what the page may load and who may show it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secure sets the header fields of everything that a browser shows.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Not no-referrer: with that a browser sends "Origin: null" with a form.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// WantsPage reports whether r comes from the address bar, a link or a form of a browser.
func WantsPage(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// assets are what the page loads.
var assets = []string{"page.css", "page.js", "icon.svg"}

// Handle adds the page's files to mux, below /status/.
func (s *Status) Handle(mux *http.ServeMux) {
	for _, name := range assets {
		mux.HandleFunc("GET /status/"+name, func(w http.ResponseWriter, r *http.Request) {
			secure(w.Header())
			http.ServeFileFS(w, r, files, "page/"+name)
		})
	}
}

// A view is what the template shows.
type view struct {
	Title   string
	Version string
	Uptime  time.Duration
	Now     time.Time
	State   state
	Token   bool

	samples []Sample

	ProblemTitle, Problem string

	Query                 shownQuery
	Phases, Endings       []string
	GroupNames, SortNames []string
	Shown                 string // how many of how many
	Columns               []column
	Sessions              []Session
	Groups                []shownGroup
	Ended                 []Session
	EndForm               *endForm
	Charts                []chart
	HistorySpan           string
	Tables                []table
	Certificates          []certificate
	Servers               []Server
	Limits                []limit
	Compression           []Fact // none without compression
	Facts                 []Fact
	One                   *one
}

// A state is that of the gateway in a word.
type state struct{ Text, Class string }

func (f *Facts) state(overloaded bool) state {
	switch {
	case overloaded:
		return state{"overloaded: nobody is accepted", "bad"}
	case f.Draining != "":
		return state{"draining: " + f.Draining, "bad"}
	case f.Ready != nil:
		return state{"not ready: " + f.Ready.Error(), "bad"}
	}
	return state{"ready", "good"}
}

// newView returns what every page has.
func (s *Status) newView() *view {
	f, now := s.Facts(), time.Now()
	samples := s.samples.Do()
	overloaded := slices.ContainsFunc(samples, func(s Sample) bool { return s.Name == "xmppgate_overloaded" && s.Value != 0 })
	return &view{
		samples: samples,
		Title:   "xmppgate", Version: f.Version, Uptime: now.Sub(f.Started), Now: now, State: f.state(overloaded), Token: f.Token,
		Servers: f.Servers, Facts: f.Settings,
		Phases: proxy.Phases(), GroupNames: slices.Sorted(maps.Keys(groups)), SortNames: sortNames(),
	}
}

// send executes the template.
func (v *view) send(w http.ResponseWriter, status int) {
	var body bytes.Buffer
	if err := page.Execute(&body, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // fails only if the client has left
}

// Problem answers a browser with a page that says what is wrong.
func (s *Status) Problem(w http.ResponseWriter, status int, text string) {
	v := s.newView()
	v.Title = http.StatusText(status) + " – xmppgate"
	v.ProblemTitle, v.Problem = http.StatusText(status), text
	v.send(w, status)
}

// Page answers GET / of a browser.
func (s *Status) Page(w http.ResponseWriter, r *http.Request) {
	values := r.URL.Query()
	q, err := parseQuery(values)
	if err != nil {
		s.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	v := s.newView()
	v.Query = shownQuery{q.closed, values}
	if q.id != 0 {
		s.showOne(v, w, r, q.id)
		return
	}
	if !s.make(r.Context(), &q, func(entries []*entry) { s.showAll(v, &q, entries) }) {
		return
	}
	v.send(w, http.StatusOK)
}

// A shownQuery is what the form and the links of the page start from.
type shownQuery struct {
	Closed bool
	values url.Values
}

// Get returns a parameter.
func (q shownQuery) Get(name string) string { return q.values.Get(name) }

// with returns the link to the same list with another parameter.
func (q shownQuery) with(name, value string) string {
	values := url.Values{}
	for _, n := range slices.Concat(filterNames, []string{"sort", "group", "state", "limit"}) {
		if v := q.values.Get(n); v != "" {
			values.Set(n, v)
		}
	}
	if values.Set(name, value); value == "" {
		values.Del(name)
	}
	link := "/"
	if len(values) > 0 {
		link += "?" + values.Encode()
	}
	return link + "#connections"
}

// without returns q without a parameter.
func (q shownQuery) without(name string) shownQuery {
	values := maps.Clone(q.values)
	delete(values, name)
	return shownQuery{q.Closed, values}
}

// A column is one of the table of sessions.
type column struct {
	Title  string
	Link   string // sorts by it; empty if that is not possible
	Sorted string // how it is sorted now, for aria-sort
	Number bool
}

// columns returns the head of the table.
func (q *query) columns(shown shownQuery) (all []column) {
	type c struct {
		title, order string
		number       bool
	}
	columns := []c{{"Session", "id", false}, {"Client", "remote", false}, {"Domain", "", false}, {"Server", "", false}}
	if q.closed {
		columns = append(columns, c{"Ending", "", false}, c{"Cause", "", false}, c{"Lived", "", true}, c{"Ended", "", true})
	} else {
		columns = append(columns, c{"Phase", "", false}, c{"Age", "age", true}, c{"Idle", "idle", true}, c{"Rate", "rate", true},
			c{"Bytes", "bytes", true}, c{"Waiting", "queued", true}, c{"Stalled", "stalled", true})
	}
	for _, c := range columns {
		head := column{Title: c.title, Number: c.number}
		if c.order != "" {
			head.Link = shown.with("sort", c.order)
			if c.order == q.sort {
				head.Sorted = "descending"
				if c.order == "id" || c.order == "remote" {
					head.Sorted = "ascending"
				}
			}
		}
		all = append(all, head)
	}
	return all
}

// A shownGroup is a row of the table of groups.
type shownGroup struct {
	*Group
	Link string // to its sessions
}

func (g shownGroup) Name() string    { return g.Group.Group }
func (g shownGroup) Queued() float64 { return float64(g.Up.QueuedBytes) + float64(g.Down.QueuedBytes) }

// An endForm ends the sessions that are shown, if they are those of a filter that End
// takes.
type endForm struct {
	Of     string
	Fields []Fact
}

// maxShown is how many sessions the page shows if the query does not say.
const maxShown = 25

// showAll adds the overview to v.
func (s *Status) showAll(v *view, q *query, entries []*entry) {
	limit := min(q.limit, s.Limit())
	if v.Query.Get("limit") == "" {
		limit = min(limit, maxShown)
	}
	noun := "live"
	if q.closed {
		noun = "ended"
	}
	if q.group != "" {
		all := s.grouped(q.group, entries)
		for _, g := range all[:min(len(all), limit)] {
			shown := shownGroup{Group: g}
			if g.Group != "" {
				shown.Link = v.Query.without("group").with(q.group, g.Group)
			}
			v.Groups = append(v.Groups, shown)
		}
		v.Shown = fmt.Sprintf("%s %s sessions in %s groups", formatCount(len(entries)), noun, formatCount(len(all)))
	} else {
		for n, e := range entries[:min(len(entries), limit)] {
			v.Sessions = append(v.Sessions, s.listed(e))
			pause(n)
		}
		v.Shown = fmt.Sprintf("%s of %s %s sessions", formatCount(len(v.Sessions)), formatCount(len(entries)), noun)
		if len(entries) == 0 {
			v.Shown = "None."
		}
		v.Columns = q.columns(v.Query)
	}
	for _, e := range proxy.Endings() {
		v.Endings = append(v.Endings, e.Name)
	}
	if !q.closed {
		ended := s.Ended.entries()
		for n := range ended[:min(len(ended), 8)] {
			v.Ended = append(v.Ended, s.listed(&ended[n]))
		}
		v.EndForm = newEndForm(v.Query)
	}
	v.Charts = s.history.charts()
	v.HistorySpan = formatAge(maxPoints * sampleInterval)
	before := s.history.before()
	for n := range tables {
		if t := tables[n].show(v.samples, before, v.Now); len(t.Rows) > 0 {
			v.Tables = append(v.Tables, t)
		}
	}
	v.Certificates = certificates(v.samples, v.Now)
	v.Limits = limits(v.samples)
	v.Compression = compression(v.samples)
}

// A limit is one that is in force.
type limit struct {
	Name, Value, Class string
}

// limits returns what the metrics say of limits, those that are nearly reached first.
func limits(samples []Sample) (all []limit) {
	current, used := map[string]float64{}, map[string]float64{}
	for i := range samples {
		if s := &samples[i]; s.Name == "xmppgate_limit_current" {
			current[s.Labels["limit"]] = s.Value
		}
	}
	for i := range samples {
		s := &samples[i]
		if s.Name != "xmppgate_limit" {
			continue
		}
		name := s.Labels["limit"]
		format := formatNumber
		if strings.HasSuffix(name, "_bytes") {
			format = formatBytes
		}
		words := strings.ReplaceAll(strings.TrimSuffix(name, "_bytes"), "_", " ")
		l := limit{Name: strings.ReplaceAll(words, "-", " "), Value: format(current[name]) + " of " + format(s.Value)}
		if used[l.Name] = current[name] / s.Value; used[l.Name] >= nearly {
			l.Class = "bad"
		}
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b limit) int { return cmp.Compare(used[b.Name], used[a.Name]) })
	return all
}

// compression returns how it is used, and what it has saved.
func compression(samples []Sample) []Fact {
	value := map[string]float64{}
	for i := range samples {
		if s := &samples[i]; strings.HasPrefix(s.Name, "xmppgate_compression_") {
			value[strings.TrimPrefix(s.Name, "xmppgate_compression_")+s.Labels["direction"]+s.Labels["form"]] += s.Value
		}
	}
	if value["memory_limit_bytes"] == 0 && value["sessions"] == 0 {
		return nil // it is off
	}
	saved := func(direction string) string {
		plain, wire := value["bytes_total"+direction+"plain"], value["bytes_total"+direction+"wire"]
		if wire == 0 {
			return "nothing was sent yet"
		}
		return fmt.Sprintf("ratio %s, %s became %s", formatNumber(plain/wire), formatBytes(plain), formatBytes(wire))
	}
	return []Fact{
		{"live sessions with it", formatNumber(value["sessions"])},
		{"to client", saved("down")},
		{"to server", saved("up")},
		{"memory", formatBytes(value["memory_bytes"]) + " of " + formatBytes(value["memory_limit_bytes"])},
		{"sessions without memory for it", formatNumber(value["sessions_without_memory_total"])},
	}
}

// nearly is the part of a limit from which on an operator should know.
const nearly = 0.8

func formatCount(n int) string { return formatNumber(float64(n)) }

// newEndForm returns nil if what is shown cannot be ended as a whole.
func newEndForm(q shownQuery) *endForm {
	f := &endForm{}
	var of []string
	for _, name := range filterNames {
		value := q.Get(name)
		switch {
		case value == "":
		case !slices.Contains(endsBy, name):
			return nil
		default:
			f.Fields = append(f.Fields, Fact{name, value})
			of = append(of, name+" "+value)
		}
	}
	if f.Of = strings.Join(of, ", "); f.Of == "" {
		return nil
	}
	return f
}

// A tableOf describes a table of counters on the page.
type tableOf struct {
	title, head, id string
	metric          string
	labels          []string          // whose values name a row
	not             map[string]string // of what is no row
	meaning         func(name string) string
	link            func(name string) string
}

// tables are those of the page, in their order. One without rows is left out.
var tables = []tableOf{
	{title: "Endings", head: "ending", id: "endings", metric: "xmppgate_sessions_ended_total", labels: []string{"ending"}, meaning: meaningOf,
		link: func(name string) string { return "/?state=closed&ending=" + url.QueryEscape(name) + "#connections" }},
	{title: "Logins", head: "mechanism and outcome", id: "logins", metric: "xmppgate_logins_total", labels: []string{"mechanism", "result"}, meaning: proxy.LoginMeaning},
	{title: "Resumptions", head: "outcome", id: "resumptions", metric: "xmppgate_resumptions_total", labels: []string{"result"}},
	{title: "Stream errors", head: "side and condition", id: "stream-errors", metric: "xmppgate_stream_errors_total", labels: []string{"side", "condition"}},
	{title: "Requests refused", head: "result", id: "requests", metric: "xmppgate_upgrades_total", labels: []string{"result"}, not: map[string]string{"result": "ok"}, meaning: proxy.UpgradeRemedy},
	{title: "TLS handshakes", head: "result", id: "handshakes", metric: "xmppgate_tls_handshakes_total", labels: []string{"result"}},
	{title: "Servers not reached", head: "outcome", id: "dials", metric: "xmppgate_dials_total", labels: []string{"result"}, not: map[string]string{"result": "ok"}},
}

// meaningOf returns what an ending means.
func meaningOf(ending string) string {
	for _, e := range proxy.Endings() {
		if e.Name == ending {
			return e.Meaning
		}
	}
	return ""
}

// A table of counters, those that are not zero.
type table struct {
	Title, Head, ID string
	Span            string // what "lately" is
	Rows            []row
}

// A row is one counter.
type row struct {
	Name, Meaning, Link string
	Recent, Total       string
	recent, total       float64
}

// show returns the table. It has no rows if its metric does not exist.
func (t *tableOf) show(samples []Sample, before mark, at time.Time) (shown table) {
	shown = table{Title: t.title, Head: t.head, ID: t.id, Span: formatAge(at.Sub(before.at))}
	for i := range samples {
		s := &samples[i]
		if s.Name != t.metric || s.Value == 0 || t.leavesOut(s.Labels) {
			continue
		}
		var names []string
		for _, label := range t.labels {
			names = append(names, s.Labels[label])
		}
		r := row{Name: strings.Join(names, " "), total: s.Value, recent: max(0, s.Value-before.values[s.key()])}
		r.Recent, r.Total = formatNumber(r.recent), formatNumber(r.total)
		if t.meaning != nil {
			r.Meaning = t.meaning(names[len(names)-1]) // the last label says what happened
		}
		if t.link != nil {
			r.Link = t.link(names[0])
		}
		shown.Rows = append(shown.Rows, r)
	}
	slices.SortFunc(shown.Rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.recent, a.recent), cmp.Compare(b.total, a.total), cmp.Compare(a.Name, b.Name))
	})
	return shown
}

func (t *tableOf) leavesOut(labels map[string]string) bool {
	for name, value := range t.not {
		if labels[name] == value {
			return true
		}
	}
	return false
}

// A certificate is one that somebody presents.
type certificate struct {
	Name, Left, Class string
	Until             time.Time
}

// soon is when an operator should know that a certificate expires.
const soon = 14 * 24 * time.Hour

// certificates returns what the metrics say of certificates, the one that expires first
// first.
func certificates(samples []Sample, now time.Time) (all []certificate) {
	for i := range samples {
		s := &samples[i]
		if !strings.Contains(s.Name, "certificate") || !strings.HasSuffix(s.Name, "_timestamp_seconds") || !strings.Contains(s.Name, "expiry") {
			continue
		}
		c := certificate{Until: time.Unix(int64(s.Value), 0), Class: "good"}
		for _, label := range slices.Sorted(maps.Keys(s.Labels)) {
			c.Name += s.Labels[label] + " "
		}
		c.Name = cmp.Or(strings.TrimSpace(c.Name), "of the gateway")
		switch left := c.Until.Sub(now); {
		case left <= 0:
			c.Left, c.Class = "expired", "bad"
		default:
			if left < soon {
				c.Class = "bad"
			}
			c.Left = formatAge(left)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b certificate) int { return a.Until.Compare(b.Until) })
	return all
}

// The sizes of a chart, as in its viewBox.
const (
	chartWidth  = 120
	chartHeight = 32
	leastWidth  = 12 // in points
)

// Points are those of the line, for SVG.
func (c chart) Points() string {
	peak := 0.0
	if len(c.points) > 0 {
		peak = slices.Max(c.points)
	}
	// Only what is very short does not use the whole width: it is at the right edge.
	step := float64(chartWidth) / float64(max(leastWidth, len(c.points)-1))
	first := chartWidth - step*float64(len(c.points)-1)
	var b strings.Builder
	for n, v := range c.points {
		y := float64(chartHeight)
		if peak > 0 {
			y -= v / peak * chartHeight
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", first+step*float64(n), y)
	}
	return strings.TrimSpace(b.String())
}

// Area is the area below the line; empty without a line.
func (c chart) Area() string {
	points := strings.Fields(c.Points())
	if len(points) < 2 {
		return ""
	}
	first, _, _ := strings.Cut(points[0], ",")
	last, _, _ := strings.Cut(points[len(points)-1], ",")
	base := strconv.Itoa(chartHeight)
	return first + "," + base + " " + strings.Join(points, " ") + " " + last + "," + base
}
