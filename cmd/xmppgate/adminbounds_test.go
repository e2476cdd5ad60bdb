package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// So many requests are answered at once, and no more: the others come again. Health checks
// are answered all the same.
func TestAnswersAreBounded(t *testing.T) {
	for path, most := range map[string]int{"/metrics": maxAnswers, "/connections": maxAnswers, "/": maxAnswers, "/metrics/connections": maxExports, "/debug/pprof/heap": maxProfiles} {
		entered, leave, left := make(chan bool), make(chan bool), make(chan bool)
		h := boundAnswers(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				entered <- true
				<-leave
			}
		}))
		ask := func(path string) *http.Response {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			return w.Result()
		}
		for range most {
			go func() {
				ask(path)
				left <- true
			}()
			<-entered
		}
		if r := ask(path); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: one more than %d gets %d", path, most, r.StatusCode)
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if r := ask(path); r.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", path, r.StatusCode)
			}
		}
		leave <- true
		<-left
		go func() {
			ask(path)
			left <- true
		}()
		<-entered
		close(leave)
		for range most {
			<-left
		}
	}
}

// So many connections are served at once. More are told so, whether they have asked or not.
func TestAdminConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := boundListener(inner)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		return c
	}
	var served []net.Conn
	for range maxAdminConns {
		dial()
		served = append(served, <-accepted)
	}
	for _, request := range []string{"", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c := dial()
		_, _ = io.WriteString(c, request)
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 503 ") || !strings.Contains(string(got), "\r\nRetry-After: ") {
			t.Errorf("got %q, %v", got, err)
		}
		c.Close()
	}
	served[0].Close()
	served[0].Close() // makes room once
	dial()
	<-accepted
	if got, err := io.ReadAll(dial()); err != nil || len(got) == 0 {
		t.Errorf("got %q, %v", got, err)
	}
	told := l.(*boundedListener).told
	for range maxAdminTold {
		told <- struct{}{} // as if so many were told just now
	}
	if got, err := io.ReadAll(dial()); err == nil && len(got) > 0 {
		t.Errorf("one more than can be told gets %q", got)
	}
	l.Close()
	for range accepted {
		t.Error("one more")
	}
	for _, c := range served {
		c.Close()
	}
}
