package metrics

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"xmppgate/metrics/share"
)

// This file keeps scrapes, of which there may be many, from delaying sessions: all who
// scrape at the same time share what was gathered, and while it is written others run.

// serve serves a registry.
func serve(r *prometheus.Registry, o promhttp.HandlerOpts) http.Handler {
	h := promhttp.HandlerFor(prometheus.GathererFunc(shared(r.Gather)), o)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(pausing{w}, r) })
}

// shared lets all who gather at the same time have one result, which they only read.
// F is the type of a list of families, which has a package of its own.
func shared[F any](gather func() (F, error)) func() (F, error) {
	type result struct {
		families F
		err      error
	}
	flight := share.New(func(fresh func()) (r result) {
		fresh()
		r.families, r.err = gather()
		return r
	})
	return func() (F, error) {
		r := flight.Do()
		return r.families, r.err
	}
}

// A pausing lets other goroutines run after each write, of which a large answer has
// many: a loop that has become ready would otherwise wait until the runtime preempts the
// writer, for up to 10 ms.
type pausing struct{ http.ResponseWriter }

func (p pausing) Write(b []byte) (int, error) {
	n, err := p.ResponseWriter.Write(b)
	runtime.Gosched()
	return n, err
}

// collectPause is after how many sessions a collector lets others run.
const collectPause = 16

func pause(n int) {
	if n%collectPause == collectPause-1 {
		runtime.Gosched()
	}
}
