package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What the admin listeners do at once. A scrape costs a megabyte while it is under way,
// and a connection 20 kB, so that somebody who asks a thousand times at once would cost more
// than the sessions. Whoever is refused is told to come back.
const (
	maxAnswers    = 4    // of those that look at all sessions
	maxExports    = 1    // of single sessions to Prometheus, each of which costs megabytes
	maxProfiles   = 2    // which take as long as they are asked to
	maxAdminConns = 64   // that may ask something
	maxAdminTold  = 2048 // more that are told that there are too many; others are disconnected

	answerTimeout = 10 * time.Second // for the client to take an answer
	toldTimeout   = time.Second      // to take that there are too many
)

// boundAnswers limits how many requests h answers at once. Health checks are always answered:
// whoever cannot make one restarts the gateway.
func boundAnswers(h http.Handler) http.Handler {
	answers, exports, profiles := make(chan struct{}, maxAnswers), make(chan struct{}, maxExports), make(chan struct{}, maxProfiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots := answers
		switch {
		case r.Method != http.MethodGet, r.URL.Path == "/healthz", r.URL.Path == "/readyz":
			h.ServeHTTP(w, r)
			return
		case r.URL.Path == "/metrics/connections":
			slots = exports
		case strings.HasPrefix(r.URL.Path, "/debug/pprof/"):
			slots = profiles
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, "too many requests at once\n")
			return
		}
		if slots != profiles {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout)) // tests have no connection
		}
		h.ServeHTTP(w, r)
	})
}

// tooManyConns is what clients get for which there is no room. They may not have sent their
// request yet, and nothing is allocated to read it.
const tooManyConns = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 28\r\n\r\ntoo many connections at once"

// A boundedListener accepts maxAdminConns connections at once. More are told so.
type boundedListener struct {
	net.Listener
	open, told chan struct{}
}

func boundListener(l net.Listener) net.Listener {
	return &boundedListener{l, make(chan struct{}, maxAdminConns), make(chan struct{}, maxAdminTold)}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.open <- struct{}{}:
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.open })}, nil
		default:
		}
		select {
		case l.told <- struct{}{}:
			go func() {
				defer func() { <-l.told }()
				tellTooMany(c)
			}()
		default:
			_ = c.Close()
		}
	}
}

// tellTooMany answers a client and waits for its end: to close a connection with unread
// bytes resets it, and could take the answer with it.
func tellTooMany(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(toldTimeout)) // fails only on a closed connection
	if _, err := io.WriteString(c, tooManyConns); err != nil {
		return
	}
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	var b [64]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
	}
}

// A boundedConn makes room when it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
