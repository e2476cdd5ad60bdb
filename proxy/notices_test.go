package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"xmppgate/proxy/clientaddr"
)

// logged is one line of the log.
type logged struct {
	Msg, Result, Remote, Path, Origin, Cause, Remedy, Header string
	Count                                                    int
}

func parseLog(t *testing.T, b []byte) (lines []logged) {
	for line := range bytes.Lines(b) {
		var l logged
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines = append(lines, l)
	}
	return lines
}

// Each cause has a result and a line of its own, with what the operator needs
// to know and nothing that may be secret.
func TestRefusalsAreLogged(t *testing.T) {
	without := func(name string) string {
		var kept []string
		for line := range strings.SplitAfterSeq(goodRequest, "\r\n") {
			if !strings.HasPrefix(line, name+":") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	trusted := clientaddr.Policy{Unix: true} // a pipe has no address
	for _, c := range []struct {
		name, request string
		policy        clientaddr.Policy
		want          logged
		remedy        string
	}{
		{"path", strings.Replace(goodRequest, "/xmpp-websocket", "/other?token=secret", 1), clientaddr.Policy{}, logged{Result: "not-found", Path: "/other"}, "XMPPGATE_PATH"},
		{"origin", goodRequest + "Origin: https://evil.example\r\n", clientaddr.Policy{}, logged{Result: "bad-origin", Path: "/xmpp-websocket", Origin: "https://evil.example"}, "XMPPGATE_ORIGINS"},
		{"subprotocol", without("Sec-WebSocket-Protocol"), clientaddr.Policy{}, logged{Result: "no-subprotocol", Path: "/xmpp-websocket"}, "Sec-WebSocket-Protocol"},
		{"HTTP/1.0", strings.Replace(goodRequest, "HTTP/1.1", "HTTP/1.0", 1), clientaddr.Policy{}, logged{Result: "old-http", Path: "/xmpp-websocket"}, "proxy_http_version 1.1"},
		{"no Upgrade", without("Upgrade"), clientaddr.Policy{}, logged{Result: "upgrade-dropped", Path: "/xmpp-websocket"}, "proxy_set_header Upgrade"},
		{"no Connection", without("Connection"), clientaddr.Policy{}, logged{Result: "upgrade-dropped", Path: "/xmpp-websocket"}, "proxy_set_header Connection"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", clientaddr.Policy{}, logged{Result: "tls"}, "TLS"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n", clientaddr.Policy{}, logged{Result: "http2"}, "HTTP/1.1"},
		{"PROXY v1", "PROXY TCP4 203.0.113.7 198.51.100.1 54321 443\r\n" + goodRequest, clientaddr.Policy{}, logged{Result: "proxy-header"}, "XMPPGATE_PROXY_PROTOCOL"},
		{"PROXY v2", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + goodRequest, clientaddr.Policy{}, logged{Result: "proxy-header"}, "XMPPGATE_PROXY_PROTOCOL"},
		{"no address", goodRequest, trusted, logged{Result: "no-client-address", Path: "/xmpp-websocket", Cause: "X-Forwarded-For: missing"}, "XMPPGATE_TRUSTED_PROXIES"},
		{"bad address", goodRequest + "X-Forwarded-For: unknown\r\n", trusted, logged{Result: "no-client-address", Path: "/xmpp-websocket", Cause: "X-Forwarded-For: not an IP address"}, "XMPPGATE_CLIENT_ADDRESS_HEADER"},
		{"bare LF", "GET /ws HTTP/1.1\r\nHost: gw\n", clientaddr.Policy{}, logged{Result: "bad-request", Path: "/ws", Cause: "line 2: bare LF"}, ""},
		{"key", without("Sec-WebSocket-Key"), clientaddr.Policy{}, logged{Result: "bad-request", Path: "/xmpp-websocket", Cause: "Sec-WebSocket-Key is missing, twice or invalid"}, ""},
		{"long path", strings.Replace(goodRequest, "/xmpp", "/"+strings.Repeat("x", 5000), 1), clientaddr.Policy{}, logged{Result: "not-found", Path: "/" + strings.Repeat("x", 127) + "…"}, "XMPPGATE_PATH"},
		{"odd origin", goodRequest + "Origin: \xff\xe2\x80\xae\"\r\n", clientaddr.Policy{}, logged{Result: "bad-origin", Path: "/xmpp-websocket", Origin: `\xff\u202e\"`}, "XMPPGATE_ORIGINS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, ClientAddress: c.policy, Log: slog.New(slog.NewJSONHandler(&log, nil)),
					AllowedOrigins: []OriginPattern{{prefix: "https://chat.example.org"}}}}
				exchange(g, [][]byte{[]byte(c.request + "\r\n")})
				lines := parseLog(t, log.Bytes())
				if len(lines) != 1 {
					t.Fatalf("got %s", log.Bytes())
				}
				got := lines[0]
				if !strings.Contains(got.Remedy, c.remedy) {
					t.Errorf("the remedy is %q, want %q in it", got.Remedy, c.remedy)
				}
				got.Remedy = ""
				if c.want.Msg, c.want.Count = "upgrade refused", 1; got != c.want {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
				if strings.Contains(log.String(), "secret") {
					t.Error("the log has the query")
				}
			})
		})
	}
}

// However often something is refused, the log has a line for each cause and
// minute, and none is lost from the count.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Log: slog.New(slog.NewJSONHandler(&log, nil))}}
		bad := []byte("GET /other HTTP/1.1\r\nHost: gw\r\n\r\n")
		const seconds = 300
		for i := range seconds {
			for j := range 3 {
				exchange(g, [][]byte{[]byte(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: gw\r\nOrigin: https://%d\r\n\r\n", i, j))})
			}
			exchange(g, [][]byte{[]byte("\x16\x03\x01")})
			time.Sleep(time.Second)
		}
		time.Sleep(2 * noticePeriod)
		synctest.Wait()
		lines, counts := map[string]int{}, map[string]int{}
		for _, l := range parseLog(t, log.Bytes()) {
			lines[l.Result]++
			counts[l.Result] += l.Count
		}
		if lines["not-found"] != 6 || lines["tls"] != 6 || counts["not-found"] != 3*seconds || counts["tls"] != seconds || len(lines) != 2 {
			t.Errorf("lines %v, counts %v", lines, counts)
		}
		if n := len(g.notices.pending); n != 0 {
			t.Errorf("%d causes are remembered", n)
		}
		// After a silence the first one is logged at once.
		log.Reset()
		exchange(g, [][]byte{bad})
		if l := parseLog(t, log.Bytes()); len(l) != 1 || l[0].Count != 1 || l[0].Path != "/other" {
			t.Errorf("got %+v", l)
		}
		time.Sleep(2 * noticePeriod)
	})
}

// However many sessions end, the log has a number of lines for each ending that does not
// grow with them, and none is lost from the count.
func TestEndsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for level, lines := range map[slog.Level]int{slog.LevelInfo: endedBurst, slog.LevelDebug: 3 * endedBurst} {
			var log recording
			g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: level}))}}
			end := func(ending string) { g.logEnd(slog.LevelInfo, &EndedSession{Ending: ending, Ended: time.Now()}) }
			g.init()
			for range 3 * endedBurst {
				end("client-lost")
			}
			end("server-lost") // those of another ending are seen
			if got := len(log.ended(t)); got != lines+1 {
				t.Errorf("%v: %d lines", level, got)
			}
			time.Sleep(2 * noticePeriod)
			synctest.Wait()
			counted := 0
			for _, l := range parseLog(t, log.text.Bytes()) {
				if l.Msg == "more sessions ended" {
					counted += l.Count
				}
			}
			if counted != 3*endedBurst-lines {
				t.Errorf("%v: %d counted, want %d", level, counted, 3*endedBurst-lines)
			}
			end("client-lost")
			if got := len(log.ended(t)); got != lines+2 {
				t.Errorf("%v: %d lines after a while", level, got)
			}
		}
	})
}

// Logins that fail have one line for each outcome and minute, with the number of them.
func TestFailedLoginsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log recording
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Log: slog.New(slog.NewJSONHandler(&log, nil))}}
		g.init()
		l := g.admit()
		for range 1000 {
			l.logLogin("scram", "not-authorized")
			l.logLogin("plain", "unanswered")
			l.logLogin("scram", "success")
			l.logLogin("none", "abandoned")
		}
		time.Sleep(2 * noticePeriod)
		synctest.Wait()
		lines, counts := map[string]int{}, map[string]int{}
		for _, l := range parseLog(t, log.text.Bytes()) {
			lines[l.Msg+" "+l.Result]++
			counts[l.Result] += l.Count
		}
		if lines["login failed not-authorized"] != 2 || lines["login failed unanswered"] != 2 || len(lines) != 2 ||
			counts["not-authorized"] != 1000 || counts["unanswered"] != 1000 {
			t.Errorf("lines %v, counts %v", lines, counts)
		}
	})
}

// What is counted in the last minute is logged before the end.
func TestRefusalsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Log: slog.New(slog.NewJSONHandler(&log, nil))}}
		for range 3 {
			exchange(g, [][]byte{[]byte("GET /other HTTP/1.1\r\nHost: gw\r\n\r\n")})
		}
		exchange(g, [][]byte{[]byte("\x16\x03\x01")})
		if err := g.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if l := parseLog(t, log.Bytes()); len(l) != 3 || l[2].Result != "not-found" || l[2].Count != 2 {
			t.Errorf("got %+v", l)
		}
		time.Sleep(2 * noticePeriod)
		if l := parseLog(t, log.Bytes()); len(l) != 3 {
			t.Errorf("after a minute: %+v", l)
		}
	})
}

// A header field of somebody who is not trusted is ignored, and that is said.
func TestIgnoredHeaderIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			header, field string
			lines         int
		}{
			{"", "X-Forwarded-For", 1}, {"", "Forwarded", 0}, {"Forwarded", "forwarded", 1}, {"Forwarded", "X-Forwarded-For", 0},
		} {
			var log bytes.Buffer
			g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine, Log: slog.New(slog.NewJSONHandler(&log, nil)),
				ClientAddress: clientaddr.Policy{Header: c.header, Forwarders: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}}
			for range 10 {
				got := exchange(g, [][]byte{[]byte(goodRequest + c.field + ": x\r\n\r\n")})
				if !strings.HasPrefix(got, "HTTP/1.1 101 ") {
					t.Errorf("got %q", got)
				}
			}
			synctest.Wait() // a notice that is due is written by a goroutine of its own
			n := 0
			for _, l := range parseLog(t, log.Bytes()) {
				if l.Msg == "client address header ignored" && l.Header == g.ClientAddress.HeaderName() && strings.Contains(l.Remedy, "XMPPGATE_TRUSTED_PROXIES") {
					n++
				}
			}
			if n != c.lines {
				t.Errorf("%+v: %d lines:\n%s", c, n, log.Bytes())
			}
		}
		time.Sleep(2 * noticePeriod)
	})
}
