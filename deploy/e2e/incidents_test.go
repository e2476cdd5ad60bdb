package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// This file walks through docs/incidents.md: what goes wrong is made to go wrong, with real
// servers and proxies, and what the page says that an operator sees is looked for where he
// looks.

// An incident is what happens to a gateway. It returns the gateway, and what else there is
// to see, such as what doctor says.
type incident func(t *testing.T, prosody *server) (g *gateway, more string)

var incidents = map[string]incident{
	"nobody can log in: the server's certificate has expired": func(t *testing.T, _ *server) (*gateway, string) {
		ca := newAuthority(t)
		toy := startToy(t, &toyServer{direct: withCertificate(ca.issue(t, nil))})
		g := gatewayFor(t, "tls://"+toy.address+"?ca="+ca.file)
		toy.kill()
		toy.direct = withCertificate(ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }))
		if err := toy.start(); err != nil {
			t.Fatal(err)
		}
		leave(g, func(c *client) error { return c.header(domain) })
		return g, ""
	},
	"nobody can log in: the server is not running": func(t *testing.T, _ *server) (*gateway, string) {
		toy := startToy(t, &toyServer{})
		g := gatewayFor(t, "tcp://"+toy.address)
		toy.kill()
		leave(g, func(c *client) error { return c.header(domain) })
		leave(g, func(c *client) error { return c.header(domain) })
		return g, ""
	},
	"nobody can log in: the server accepts and says nothing": func(t *testing.T, _ *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+startMute(t, "").address())
		leave(g, func(c *client) error { return c.header(domain) })
		return g, ""
	},
	"nobody can log in: the server's user database hangs": func(t *testing.T, _ *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+startMute(t, mechanisms).address())
		patient(t, g, func(c *client) error {
			if _, err := c.open(domain); err != nil {
				return err
			}
			return c.transport.send(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)
		}, 11*time.Second)
		return g, ""
	},
	"everybody was cut off: the server restarted": func(t *testing.T, _ *server) (*gateway, string) {
		toy := startToy(t, &toyServer{})
		g := gatewayFor(t, "tcp://"+toy.address)
		c, err := login(g.url(), domain, "romeo", "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.conn().Close()
		toy.kill()
		c.receive()
		return g, ""
	},
	"one user cannot log in: the password": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_LOG_JIDS=true")
		leave(g, func(c *client) error { return c.authenticate(domain, "nobody") })
		return g, ""
	},
	"one user cannot log in: his client's mechanism": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s)
		leave(g, func(c *client) error {
			if _, err := c.open(domain); err != nil {
				return err
			}
			if err := c.transport.send(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="GSSAPI">YQ==</auth>`); err != nil {
				return err
			}
			_, err := c.receive()
			return err
		})
		return g, ""
	},
	"one domain does not work": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_DOMAINS="+domain)
		leave(g, func(c *client) error { return c.header("chat.example.org") })
		return g, ""
	},
	"one office gets nothing: too many sessions of its network": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_LIMITS_EXEMPT=none", "XMPPGATE_NETWORK_SESSIONS=2", "XMPPGATE_TRUSTED_PROXIES=127.0.0.1")
		crowd(t, g, 3, "203.0.113.7")
		return g, ""
	},
	"one office gets nothing: its logins have failed": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_LIMITS_EXEMPT=none", "XMPPGATE_NETWORK_FAILED_LOGINS=1/h:1")
		for range 3 {
			leave(g, func(c *client) error { return c.authenticate(domain, "nobody") })
		}
		return g, ""
	},
	"everybody counts as one network: the proxy is not trusted": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s)
		crowd(t, g, 1, "203.0.113.7")
		return g, ""
	},
	"nobody gets in: the limit of sessions": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_MAX_SESSIONS=2")
		crowd(t, g, 3, "")
		return g, ""
	},
	"messages stop: the server does not read": func(t *testing.T, _ *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+startMute(t, "<stream:features/>").address(), "XMPPGATE_STANZA_RATE=0", "XMPPGATE_BYTE_RATE=0")
		c, err := dial(g.url())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.conn().Close() })
		if _, err := c.open(domain); err != nil {
			t.Fatal(err)
		}
		_ = c.conn().SetWriteDeadline(time.Now().Add(4 * time.Second))
		for c.transport.send("<message><body>"+strings.Repeat("x", 100_000)+"</body></message>") == nil {
		}
		return g, ""
	},
	"a client is cut off whenever it sends a picture": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_MAX_STANZA_BYTES=20000")
		c, err := login(g.url(), domain, s.newUser(t, "picture"), "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.conn().Close()
		c.message(c.jid, "<body>"+strings.Repeat("x", 30_000)+"</body>")
		for err == nil {
			_, err = c.receive()
		}
		return g, ""
	},
	"clients get no WebSocket: nginx removes the subprotocol": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s)
		return g, behindNginx(t, strings.Replace(toWebSocket(g.listen), "location / {", "location / { proxy_set_header Sec-WebSocket-Protocol '';", 1), "--idle", "0")
	},
	"clients get no WebSocket: nginx does not pass Upgrade": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s)
		return g, behindNginx(t, "location / { proxy_pass http://"+g.listen+"; proxy_http_version 1.1; }", "--idle", "0")
	},
	"every minute of silence ends a session: the proxy's timeout": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s)
		return g, behindNginx(t, "proxy_read_timeout 2s;"+toWebSocket(g.listen), "--idle", "5s")
	},
	"one site's page cannot connect": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_ORIGINS=https://chat.example.org")
		_, err := dialWebSocket(g.url(), ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Origin": {"https://www.example.org"}}})
		if err == nil {
			t.Error("it can")
		}
		return g, ""
	},
	"clients do not trust the gateway's certificate": func(t *testing.T, s *server) (*gateway, string) {
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TLS_CERT="+s.dir+"/localhost.crt", "XMPPGATE_TLS_KEY="+s.dir+"/localhost.key")
		if c, err := tls.Dial("tcp", g.listen, &tls.Config{ServerName: "localhost"}); err == nil {
			c.Close()
			t.Error("one trusts it")
		}
		return g, ""
	},
	"a renewed certificate does not arrive": func(t *testing.T, s *server) (*gateway, string) {
		ca := newAuthority(t)
		file := writeBoth(t, ca.issue(t, nil))
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TLS_CERT="+file)
		if err := os.WriteFile(file, []byte(read(t, ca.file)), 0o600); err != nil {
			t.Fatal(err)
		}
		return g, ""
	},
	"a reload does nothing": func(t *testing.T, s *server) (*gateway, string) {
		file := filepath.Join(t.TempDir(), "xmppgate.env")
		write := func(text string) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("XMPPGATE_MAX_SESSIONS=100\n")
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_CONFIG="+file)
		write("XMPPGATE_MAX_SESSIONS=100\nXMPPGATE_PING_INTERVAL=fast\n")
		resp, err := http.Post("http://"+g.admin+"/reload", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return g, string(body)
	},
	"the deny list does nothing": func(t *testing.T, s *server) (*gateway, string) {
		file := filepath.Join(t.TempDir(), "deny")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_DENY_FILE="+file)
		if err := os.WriteFile(file, []byte("203.0.113.0/33\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return g, ""
	},
}

// mechanisms are features with SASL.
const mechanisms = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"

// A mute server sends a header and its features, and then neither says nor reads anything.
// For the health check, which comes before clients, it is one with features.
type mute struct{ net.Listener }

func (m mute) address() string { return m.Addr().String() }

func startMute(t *testing.T, features string) mute {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for first := true; ; first = false {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			if features == "" && !first {
				continue
			}
			go func() {
				in := &tcp{c: c, in: newSplitter(c)}
				if _, err := in.next(); err == nil {
					in.send("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams + "' id='1' from='" + domain + "' version='1.0'>" + features)
				}
			}()
		}
	}()
	return mute{l}
}

// leave is a client that does something, sees what comes of it, and is gone.
func leave(g *gateway, do func(*client) error) {
	c, err := dial(g.url())
	if err != nil {
		return
	}
	defer c.conn().Close()
	for err := do(c); err == nil; {
		_, err = c.next()
	}
}

// patient is one that waits before it goes.
func patient(t *testing.T, g *gateway, do func(*client) error, d time.Duration) {
	c, err := dial(g.url())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn().Close()
	if err := do(c); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
}

// crowd are n clients that stay, as far as they may. With an address they come through a
// proxy.
func crowd(t *testing.T, g *gateway, n int, address string) {
	for range n {
		var dialer ws.Dialer
		if address != "" {
			dialer.Header = ws.HandshakeHeaderHTTP{"X-Forwarded-For": {address}}
		}
		c, err := dialWebSocket(g.url(), dialer)
		if err != nil {
			continue
		}
		t.Cleanup(func() { c.conn().Close() })
	}
}

// behindNginx is what doctor says of a gateway behind nginx.
func behindNginx(t *testing.T, body string, args ...string) string {
	s := &sites{t: t}
	address := s.nginx("", body)
	s.start("nginx")
	return "doctor: " + examine(t, append([]string{"ws://" + address + "/xmpp-websocket", "--domain", domain}, args...)...).text
}

var tags = regexp.MustCompile(`<[^>]*>`)

// seen is all that an operator can look at.
func seen(t *testing.T, g *gateway) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(g.proc.log.all()) {
		var r map[string]any
		if json.Unmarshal([]byte(line), &r) != nil {
			continue
		}
		fmt.Fprintf(&b, "log: %v %v", r["level"], r["msg"])
		for key, value := range r {
			fmt.Fprintf(&b, " %s=%v", key, value)
		}
		b.WriteString("\n")
	}
	for _, path := range []string{"/readyz", "/metrics", "/connections?sort=stalled", "/connections?state=closed", "/"} {
		r, err := http.NewRequest("GET", "http://"+g.admin+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/" {
			r.Header.Set("Accept", "text/html")
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		text := string(body)
		if path == "/" {
			text = html.UnescapeString(strings.Join(strings.Fields(tags.ReplaceAllString(text, " ")), " "))
		}
		for line := range strings.Lines(text) {
			if path != "/metrics" || strings.HasPrefix(line, "xmppgate_") {
				b.WriteString(path + ": " + line)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

var quoted = regexp.MustCompile("`([^`]+)`")

// Each row of docs/incidents.md is true, and each incident has one.
func TestIncidents(t *testing.T) {
	needGateway(t)
	t.Parallel()
	text, err := os.ReadFile("../../docs/incidents.md")
	if err != nil {
		t.Fatal(err)
	}
	var prosody *server
	for _, s := range servers {
		if s.name == "prosody" {
			prosody = s
		}
	}
	rows := map[string]string{} // what it says, by incident
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) == 3 && !strings.HasPrefix(cells[0], " ---") && strings.TrimSpace(cells[0]) != "what happens" {
			rows[strings.TrimSpace(cells[0])] = cells[1]
		}
	}
	for name := range rows {
		if incidents[name] == nil {
			t.Errorf("docs/incidents.md has %q, which is not tried", name)
		}
	}
	for name, happens := range incidents {
		says, ok := rows[name]
		if !ok {
			t.Errorf("docs/incidents.md does not have %q", name)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, more := happens(t, prosody)
			var missing []string
			var all string
			err := poll(20*time.Second, func() error {
				all = seen(t, g) + more
				missing = nil
				for _, m := range quoted.FindAllStringSubmatch(says, -1) {
					if !strings.Contains(all, m[1]) && !slices.Contains(missing, m[1]) {
						missing = append(missing, m[1])
					}
				}
				if len(missing) > 0 || !ok {
					return fmt.Errorf("nothing says %q", missing)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%v\n%s", err, interesting(all))
			}
			if os.Getenv("E2E_KEEP") != "" {
				t.Log(interesting(all))
			}
		})
	}
}

// interesting leaves out what is always there.
func interesting(all string) string {
	var b strings.Builder
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "/metrics") && (strings.HasSuffix(line, " 0\n") || strings.Contains(line, "_bucket") || strings.Contains(line, "_seconds_")) {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
