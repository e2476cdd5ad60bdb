package demo

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"time"
)

//go:embed page
var pageFiles embed.FS

// chatPage fills in page/index.html.
type chatPage struct {
	Endpoint string // WebSocket URL of the gateway
	Domain   string
	Password string // filled in for both accounts; may be empty
}

// handler serves the page and its files. The page may load nothing from
// elsewhere, and connect to the gateway only.
func (p chatPage) handler() (http.Handler, error) {
	endpoint, err := url.Parse(p.Endpoint)
	if err != nil || endpoint.Host == "" || (endpoint.Scheme != "ws" && endpoint.Scheme != "wss") {
		return nil, fmt.Errorf("gateway %q is not a ws:// or wss:// URL", p.Endpoint)
	}
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return nil, err
	}
	index, err := template.ParseFS(files, "index.html")
	if err != nil {
		return nil, err
	}
	var html bytes.Buffer
	if err := index.Execute(&html, p); err != nil {
		return nil, err
	}

	policy := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
		"connect-src " + endpoint.Scheme + "://" + endpoint.Host + "; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(html.Bytes())
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store") // the next demo may sit on the same port
		mux.ServeHTTP(w, r)
	}), nil
}

func newPageServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}
