package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"time"

	"xmppgate/proxy"
)

// A gateway is what the admin endpoints ask about sessions.
type gateway interface {
	// Sessions walks over the live sessions in any order.
	Sessions() iter.Seq[proxy.SessionInfo]
}

// servers is what they ask about servers, see upstream.Router.
type servers interface {
	Ready() error
}

// An admin serves the endpoints for operators. They show who is connected and
// can stop the service, so they have listeners of their own.
type admin struct {
	gateway              gateway
	drain                *drain
	access               *access
	metrics, connections http.Handler
	servers              servers
	config               func() *config
	reload               func() (notes []string, err error)
}

const adminIndex = `xmppgate

/metrics              for Prometheus
/metrics/connections  for Prometheus, single sessions
/connections          sessions as JSON: ?sort=bytes|age|idle|messages&limit=100
/healthz              200 while the process lives
/readyz               200 while an XMPP server answers and no drain has begun
/reload               POST: read the configuration again
/drain                POST: accept no clients, close sessions
`

// handler serves all endpoints. access refuses requests that a web page may have
// caused.
func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, adminIndex) })
	mux.Handle("GET /metrics", a.metrics)
	mux.Handle("GET /metrics/connections", a.connections)
	mux.HandleFunc("GET /connections", a.listConnections)
	// It must not depend on the XMPP server: a server that starts only after
	// its healthy sidecar would wait forever.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	// Not GET: it changes state, and browsers fetch links and images with
	// GET. A preStop hook runs "xmppgate drain".
	mux.HandleFunc("POST /drain", a.beginDrain)
	mux.HandleFunc("POST /reload", a.handleReload)
	// Without cmdline, which may show more than a profile needs.
	for path, show := range map[string]http.HandlerFunc{"": pprof.Index, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
		mux.HandleFunc("GET /debug/pprof/"+path, func(w http.ResponseWriter, r *http.Request) {
			if a.config().Profile {
				show(w, r)
			} else {
				http.NotFound(w, r)
			}
		})
	}
	return a.access.guard(mux)
}

// newAdminServer limits time and memory for each client of the admin endpoints.
// WriteTimeout leaves room for a profile.
func newAdminServer(a *admin, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: a.handler(),
		// "OPTIONS *" goes through the handler.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  10 * time.Second,
		WriteTimeout:                 2 * time.Minute,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               16 << 10,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // fails only if the client has left
}

func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	if a.drain.begun() {
		answer(w, http.StatusServiceUnavailable, "draining\n")
		return
	}
	if err := a.servers.Ready(); err != nil {
		answer(w, http.StatusServiceUnavailable, fmt.Sprintf("no XMPP server answers: %v\n", err))
		return
	}
	answer(w, http.StatusOK, "ok\n")
}

// A listedTraffic is one direction of a listed session.
type listedTraffic struct {
	Messages  uint64 `json:"messages"`
	Presences uint64 `json:"presences"`
	IQs       uint64 `json:"iqs"`
	Nonzas    uint64 `json:"nonzas"`
	Bytes     uint64 `json:"bytes"`
}

// A listedSession is one item of /connections.
type listedSession struct {
	ID          uint64        `json:"id"`
	Remote      string        `json:"remote"`
	Domain      string        `json:"domain"`
	Server      string        `json:"server"`
	Phase       string        `json:"phase"`
	Resumable   bool          `json:"resumable"`
	Since       time.Time     `json:"since"`
	IdleSeconds float64       `json:"idle_seconds"`
	PingSeconds float64       `json:"ping_seconds,omitzero"`
	Up          listedTraffic `json:"up"`
	Down        listedTraffic `json:"down"`
}

// orders are the values of ?sort=.
var orders = map[string]func(a, b proxy.SessionInfo) int{
	"bytes":    func(a, b proxy.SessionInfo) int { return cmp.Compare(b.Up.Bytes+b.Down.Bytes, a.Up.Bytes+a.Down.Bytes) },
	"age":      func(a, b proxy.SessionInfo) int { return a.Since.Compare(b.Since) },
	"idle":     func(a, b proxy.SessionInfo) int { return cmp.Compare(b.Idle, a.Idle) },
	"messages": func(a, b proxy.SessionInfo) int { return cmp.Compare(messages(b), messages(a)) },
}

// messages is the number of WebSocket messages that carried an element.
func messages(i proxy.SessionInfo) uint64 {
	return i.Up.Messages + i.Up.Presences + i.Up.IQs + i.Up.Nonzas +
		i.Down.Messages + i.Down.Presences + i.Down.IQs + i.Down.Nonzas
}

// listConnections answers with the sessions that come first in the wanted
// order.
func (a *admin) listConnections(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	order, ok := orders[cmp.Or(query.Get("sort"), "bytes")]
	if !ok {
		answer(w, http.StatusBadRequest, "sort must be one of bytes, age, idle, messages\n")
		return
	}
	limit, err := strconv.Atoi(cmp.Or(query.Get("limit"), "100"))
	if err != nil || limit < 0 {
		answer(w, http.StatusBadRequest, "limit must be a number\n")
		return
	}
	all := slices.SortedFunc(a.gateway.Sessions(), func(x, y proxy.SessionInfo) int {
		return cmp.Or(order(x, y), cmp.Compare(x.ID, y.ID))
	})
	list := []listedSession{}
	for _, i := range all[:min(len(all), limit, a.config().ConnectionMetricsLimit)] {
		list = append(list, listedSession{
			ID:          i.ID,
			Remote:      remote(i),
			Domain:      i.Domain,
			Server:      i.Server,
			Phase:       i.Phase,
			Resumable:   i.Resumable,
			Since:       i.Since,
			IdleSeconds: i.Idle.Seconds(),
			PingSeconds: i.Ping.Seconds(),
			Up:          listedTraffic(i.Up),
			Down:        listedTraffic(i.Down),
		})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Total-Count", strconv.Itoa(len(all)))
	_ = json.NewEncoder(w).Encode(list) // fails only if the client has left
}
