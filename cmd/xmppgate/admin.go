package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/proxy"
)

// servers is what they ask about servers, see upstream.Router.
type servers interface {
	Ready() error
}

// An admin serves the endpoints for operators. They show who is connected and
// can stop the service, so they have listeners of their own.
type admin struct {
	gateway              status.Gateway
	status               *status.Status
	drain                *drain
	access               *access
	metrics, connections http.Handler
	servers              servers
	overload             func() (short string) // see proxy.Gateway.Overload
	config               func() *config
	reload               func() (notes []string, err error)
	tap                  func(proxy.TapQuery) (*proxy.Tap, error)
	upgrade              func(context.Context) error // starts the program anew; nil when it cannot be
}

const adminIndex = `xmppgate

/metrics              for Prometheus
/metrics/connections  for Prometheus, single sessions
/connections          sessions as JSON: ?sort=rate&network=192.0.2.0/24&limit=100, ?group=network,
                      ?state=closed for those that ended lately
/connections/end      POST: end sessions: ?id=1 or ?network=192.0.2.0/24
/tap                  POST: what passes through a session, without content: ?id=1, or ?network= and ?domain=
                      for sessions to come
/healthz              200 while the process lives
/readyz               200 while an XMPP server answers and no drain has begun
/reload               POST: read the configuration again
/drain                POST: accept no clients, close sessions
/upgrade              POST: replace the program, keep the sessions
`

// handler serves all endpoints. access refuses requests that a web page may have
// caused.
func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if status.WantsPage(r) {
			a.status.Page(w, r)
			return
		}
		answer(w, http.StatusOK, adminIndex) // for curl
	})
	a.status.Handle(mux)
	mux.Handle("GET /metrics", a.metrics)
	mux.Handle("GET /metrics/connections", a.connections)
	mux.HandleFunc("GET /connections", a.status.List)
	mux.Handle("POST /connections/end", a.access.action(a.status.End))
	// It must not depend on the XMPP server: a server that starts only after
	// its healthy sidecar would wait forever.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", a.readyz)
	// Not GET: it changes state, and browsers fetch links and images with
	// GET. A preStop hook runs "xmppgate drain".
	mux.Handle("POST /drain", a.access.action(a.beginDrain))
	mux.Handle("POST /reload", a.access.action(a.handleReload))
	mux.Handle("POST /tap", a.access.action(a.trace))
	mux.Handle("POST /upgrade", a.access.action(a.upgradeProgram))
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
	return a.access.guard(boundAnswers(mux))
}

// newAdminServer limits time and memory for each client of the admin endpoints.
// WriteTimeout leaves room for a profile; answers have less, see boundAnswers.
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

// shutDown stops accepting requests and lets those under way come to their end.
func shutDown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.Shutdown(ctx) // what is left is cut by Close
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
	if short := a.overload(); short != "" {
		answer(w, http.StatusServiceUnavailable, "overloaded: "+short+"\n")
		return
	}
	answer(w, http.StatusOK, "ok\n")
}
