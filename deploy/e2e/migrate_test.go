package e2e

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The pages of docs that lead from a server's own endpoint to the gateway. Each server has the packaged configuration, its
// own endpoint as operators turn it on, and the snippet for the gateway; nginx has the snippet of the page.

// migration returns the nginx snippet of a page, out of the list that it stands in, with what is at other addresses here.
func migration(t *testing.T, name string, addresses ...string) string {
	t.Helper()
	page := read(t, filepath.Join("..", "..", "docs", name))
	m := regexp.MustCompile("(?ms)^ *```nginx\n(.*?)^ *```$").FindAllStringSubmatch(page, -1)
	if len(m) != 1 {
		t.Fatalf("docs/%s has %d snippets for nginx", name, len(m))
	}
	text := m[0][1]
	for i := 0; i < len(addresses); i += 2 {
		text = change(t, text, addresses[i], addresses[i+1])
	}
	return text
}

func startNginx(t *testing.T, locations string) (addr string) {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	startFront(t, "nginx", `
daemon off;
worker_processes 1;
pid nginx.pid;
events { }
http {
	access_log off;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	server {
		listen `+addr+`;
		`+locations+`
	}
}
`, addr)
	return addr
}

// oldProsody is the packaged configuration with the endpoints for browsers turned on, and the snippet for the gateway.
func oldProsody(t *testing.T) (s *server, endpoint string) {
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	s = stockServer(t, "prosody", func(config string) string {
		config = mergeProsody(t, config)
		config = change(t, config, `--"websocket";`, `"websocket";`)
		config = change(t, config, `--"bosh";`, `"bosh";`)
		return fmt.Sprintf("http_ports = { %d }\nhttps_ports = { }\nconsider_websocket_secure = true\nconsider_bosh_secure = true\n%s", ports[0], config)
	})
	return s, fmt.Sprintf("127.0.0.1:%d", ports[0])
}

// logsIn checks that a real client does, at each path, chats and closes. A server's own endpoint may fail that: mod_websocket ends
// without a Close frame.
func logsIn(t *testing.T, s *server, front string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		c := cell{path, "ws://" + front + path, domain, s.newUser(t, "mover"), password}
		if err, ran := runCells(t, "strophe", []cell{c})[c.Name]; !ran || err != "" {
			t.Errorf("%s: ran: %v; %s", path, ran, err)
		}
	}
}

// served counts the sessions that the gateway has had.
func served(t *testing.T, s *server) int {
	t.Helper()
	page, err := s.gw.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^xmppgate_upgrades_total\{result="ok"\} (\d+)`).FindStringSubmatch(page)
	if m == nil {
		return 0
	}
	var n int
	fmt.Sscan(m[1], &n)
	return n
}

// Clients log in at the server's own endpoint and at the gateway. When the page's next step is taken, both paths are the
// gateway's.
func TestMigration(t *testing.T) {
	t.Parallel()
	t.Run("mod_websocket", func(t *testing.T) {
		s, old := oldProsody(t)
		s.gw = gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TRUSTED_PROXIES=127.0.0.1")
		const page = "from-mod_websocket.md"
		front := startNginx(t, migration(t, page, "127.0.0.1:5280", old, "127.0.0.1:5290", s.gw.listen))
		as(t, "ws://"+front+"/xmpp-websocket", s.newUser(t, "mover"), "old")
		if n := served(t, s); n != 0 {
			t.Errorf("%d sessions of the gateway on the path of mod_websocket", n)
		}
		logsIn(t, s, front, "/ws")
		if n := served(t, s); n == 0 {
			t.Error("no session of the gateway on its own path")
		}
		over := startNginx(t, migration(t, page, "127.0.0.1:5280", "127.0.0.1:5290", "127.0.0.1:5290", s.gw.listen))
		before := served(t, s)
		logsIn(t, s, over, "/xmpp-websocket")
		if served(t, s) == before {
			t.Error("no session of the gateway after the last step")
		}
	})
	t.Run("ejabberd_http_ws", func(t *testing.T) {
		s := stockServer(t, "ejabberd", func(config string) string { return mergeEjabberd(t, config) })
		s.gw = gatewayFor(t, snippetUpstream(t, s), "XMPPGATE_TRUSTED_PROXIES=127.0.0.1")
		const page = "from-ejabberd_http_ws.md"
		front := startNginx(t, migration(t, page, "127.0.0.1:5443", s.http, "127.0.0.1:5290", s.gw.listen))
		as(t, "ws://"+front+"/ws", s.newUser(t, "mover"), "old")
		if n := served(t, s); n != 0 {
			t.Errorf("%d sessions of the gateway on the path of ejabberd_http_ws", n)
		}
		logsIn(t, s, front, "/xmpp-websocket")
		if n := served(t, s); n == 0 {
			t.Error("no session of the gateway on its own path")
		}
		over := startNginx(t, migration(t, page, "https://127.0.0.1:5443", "http://127.0.0.1:5290", "127.0.0.1:5290", s.gw.listen))
		before := served(t, s)
		logsIn(t, s, over, "/ws")
		if served(t, s) == before {
			t.Error("no session of the gateway after the last step")
		}
	})
	t.Run("BOSH", func(t *testing.T) {
		s, old := oldProsody(t)
		s.gw = gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TRUSTED_PROXIES=127.0.0.1")
		front := startNginx(t, migration(t, "from-nginx-bosh.md", "127.0.0.1:5280", old, "127.0.0.1:5290", s.gw.listen))
		boshLogin(t, "http://"+front+"/http-bind", s.newUser(t, "bosh"))
		logsIn(t, s, front, "/xmpp-websocket")
		if n := served(t, s); n == 0 {
			t.Error("no session of the gateway")
		}
	})
}

// boshLogin authenticates with XEP-0206.
func boshLogin(t *testing.T, url, localpart string) {
	t.Helper()
	client := &http.Client{Timeout: patience}
	rid := 1 + rand.IntN(1<<30)
	post := func(attrs, content string) (sid, text string) {
		rid++
		r, err := client.Post(url, "text/xml", strings.NewReader(fmt.Sprintf(
			`<body xmlns="http://jabber.org/protocol/httpbind" rid="%d"%s>%s</body>`, rid, attrs, content)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		var body struct {
			SID string `xml:"sid,attr"`
		}
		if err := xml.Unmarshal(b, &body); err != nil {
			t.Fatalf("%s: %v: %s", r.Status, err, b)
		}
		return body.SID, string(b)
	}
	sid, text := post(` to="`+domain+`" hold="1" wait="5" ver="1.6" xmpp:version="1.0" xmlns:xmpp="urn:xmpp:xbosh"`, "")
	if sid == "" {
		t.Fatalf("no session: %s", text)
	}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + localpart + "\x00" + password))
	answer := `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">` + plain + `</auth>`
	for deadline := time.Now().Add(patience); ; answer = "" {
		_, text := post(` sid="`+sid+`"`, answer)
		if strings.Contains(text, "<success") {
			return
		}
		if strings.Contains(text, "<failure") || time.Now().After(deadline) {
			t.Fatalf("%s cannot log in: %s", localpart, text)
		}
	}
}
