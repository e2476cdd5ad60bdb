package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"xmppgate/cmd/xmppgate/internal/status"

	"github.com/gobwas/ws"
)

// effects shows of every variable what it does to the running program: on the
// wire, at the admin listener, in the log. A variable that is parsed and goes
// nowhere fails here, and so does a new one without an entry.
var effects = map[string]func(*testing.T){
	"CONFIG": func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "xmppgate.env")
		if err := os.WriteFile(file, []byte("XMPPGATE_UPSTREAM=unix:/nowhere\nXMPPGATE_PATH=/from-file\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		newGateway(t, "XMPPGATE_CONFIG="+file).serves().upgrades(101, "/from-file", "")
	},
	"LISTEN": func(t *testing.T) {
		dir := t.TempDir()
		g := startGateway(t, "XMPPGATE_LISTEN=unix:"+dir+"/a,unix:"+dir+"/b,127.0.0.1:0")
		addresses := strings.Split(g.serving.Listen, ",")
		for _, a := range addresses {
			if got := opened(t, a, ""); !strings.Contains(got, "<open ") {
				t.Errorf("%s: %s", a, got)
			}
		}
		if len(addresses) != 3 {
			t.Errorf("%d listeners: %v", len(addresses), addresses)
		}
	},
	"ACME_DOMAINS":   acmeEffect,
	"ACME_CACHE":     acmeEffect,
	"ACME_LISTEN":    acmeEffect,
	"ACME_EMAIL":     acmeEffect,
	"ACME_DIRECTORY": acmeEffect,
	"ACME_CA":        acmeEffect,
	"TLS_CERT":       tlsCertEffect,
	"TLS_KEY":        tlsKeyEffect,
	"PATH": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_PATH=/chat")
		g.upgrades(101, "/chat", "")
		g.upgrades(404, "/ws", "")
	},
	"PUBLIC_URL": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_PUBLIC_URL=wss://chat.{domain}/ws", "XMPPGATE_DOMAINS=example.org")
		address, err := net.ResolveTCPAddr("tcp", g.serving.Listen)
		if err != nil {
			t.Fatal(err)
		}
		for host, status := range map[string]int{"example.org": 200, "example.net": 404} {
			if got := ask(t, address, "GET /.well-known/host-meta HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); got != status {
				t.Errorf("%s: %d", host, got)
			}
		}
	},
	"UPSTREAM": func(t *testing.T) {
		server := filepath.Join(t.TempDir(), "other")
		serveStreamsAs(t, "unix", server, "other", noFeatures)
		g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+server)
		if got := opened(t, g.serving.Listen, ""); !strings.Contains(got, `id='other'`) {
			t.Error(got)
		}
		g.signal(syscall.SIGTERM)

		// A gateway that shows a certificate hides EXTERNAL.
		cert, key := writeCertificate(t)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go acceptStreamsThat(l, "tls", offersAll)
		url := "tls://" + l.Addr().String() + "?pin=" + pinOf(t, pair)
		for options, hides := range map[string]bool{"": false, "&cert=" + cert + "&key=" + key: true} {
			g := startGateway(t, "XMPPGATE_UPSTREAM="+url+options)
			got := opened(t, g.serving.Listen, "")
			if !strings.Contains(got, "<mechanism>PLAIN<") || strings.Contains(got, "EXTERNAL") == hides {
				t.Errorf("options %q: %s", options, got)
			}
		}
	},
	"UPSTREAM_POLICY": func(t *testing.T) {
		dir := t.TempDir()
		serveStreamsAs(t, "unix", dir+"/a", "a", noFeatures)
		serveStreamsAs(t, "unix", dir+"/b", "b", noFeatures)
		for policy, want := range map[string]int{"first": 1, "round-robin": 2} {
			g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+dir+"/a,unix:"+dir+"/b", "XMPPGATE_UPSTREAM_POLICY="+policy)
			servers := map[bool]bool{}
			for range 4 {
				servers[strings.Contains(opened(t, g.serving.Listen, ""), "id='a'")] = true
			}
			if len(servers) != want {
				t.Errorf("%s leads to %d servers", policy, len(servers))
			}
		}
	},
	"DOMAINS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_DOMAINS=example.net")
		if got := opened(t, g.serving.Listen, ""); !strings.Contains(got, "host-unknown") {
			t.Error(got)
		}
	},
	"DNS": func(t *testing.T) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g := startGateway(t, "XMPPGATE_UPSTREAM=srv:xmpp.example", "XMPPGATE_DNS="+c.LocalAddr().String())
		go func() { // what makes the gateway ask
			if c, err := net.Dial("unix", strings.TrimPrefix(g.serving.Admin, "unix:")); err == nil {
				_, _ = io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 512)
		n, _, err := c.ReadFrom(b)
		if err != nil || !bytes.Contains(b[:n], []byte("\x04xmpp\x07example\x00")) {
			t.Errorf("the question is %q, %v", b[:n], err)
		}
	},
	"CHANNEL_BINDING": func(t *testing.T) {
		for value, offered := range map[string]bool{"pass": true, "strip": false} {
			server := filepath.Join(t.TempDir(), "s")
			serveStreamsAs(t, "unix", server, "x", offersAll)
			g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+server, "XMPPGATE_CHANNEL_BINDING="+value)
			if got := opened(t, g.serving.Listen, ""); strings.Contains(got, "-PLUS") != offered || !strings.Contains(got, "PLAIN") {
				t.Errorf("%s: %s", value, got)
			}
		}
	},
	"PROXY_PROTOCOL": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_PROXY_PROTOCOL=127.0.0.1")
		g.comesFrom("203.0.113.7:54321", "PROXY TCP4 203.0.113.7 198.51.100.1 54321 5290\r\n", "")
	},
	"TRUSTED_PROXIES": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_TRUSTED_PROXIES=unix")
		g.comesFrom("203.0.113.7:0", "", "X-Forwarded-For: 203.0.113.7\r\n")
		startGateway(t).comesFrom("", "", "X-Forwarded-For: 203.0.113.7\r\n")
	},
	"CLIENT_ADDRESS_HEADER": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_CLIENT_ADDRESS_HEADER=Forwarded")
		g.comesFrom("203.0.113.7:0", "", "Forwarded: for=203.0.113.7\r\nX-Forwarded-For: 192.0.2.1\r\n")
	},
	"SEE_OTHER": func(t *testing.T) {
		server := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		redirect := func(c net.Conn) {
			defer c.Close()
			r := bufio.NewReader(c)
			readUntil(r, "version=\"1.0\">")
			_, _ = io.WriteString(c, streamHeader("x")+"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>")
			readUntil(r, "</auth>")
			_, _ = io.WriteString(c, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
			readUntil(r, "version=\"1.0\">")
			_, _ = io.WriteString(c, streamHeader("y")+"<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>node2:5222</see-other-host></stream:error>")
			_, _ = io.Copy(io.Discard, r)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go redirect(c)
			}
		}()
		g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+server, "XMPPGATE_SEE_OTHER=node2:5222=wss://node2.example/ws")
		c := g.open()
		send(t, c, `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)
		expect(t, c, "<success")
		if err := sendOpen(c, "example.org"); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "<open ")
		expect(t, c, `see-other-uri="wss://node2.example/ws"`)
	},
	"ORIGINS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_ORIGINS=https://chat.example.org")
		g.upgrades(101, "/ws", "Origin: https://chat.example.org\r\n")
		g.upgrades(403, "/ws", "Origin: https://evil.example\r\n")
		startGateway(t).upgrades(101, "/ws", "Origin: https://evil.example\r\n")
	},
	"ADMIN_LISTEN": func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "a")
		g := startGateway(t, "XMPPGATE_ADMIN_LISTEN=127.0.0.1:0,unix:"+socket)
		if status, _, err := get(socket, "/healthz"); err != nil || status != 200 {
			t.Errorf("%d, %v", status, err)
		}
		// Who sends half a request does not stay. The 5 s are tested with a
		// fake clock.
		address, _, _ := strings.Cut(g.serving.Admin, ",")
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: local")
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("half a request: %v", err)
		}
	},
	"ADMIN_HOSTS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_ADMIN_LISTEN=127.0.0.1:0", "XMPPGATE_ADMIN_HOSTS=gate.example")
		address, err := net.ResolveTCPAddr("tcp", g.serving.Admin)
		if err != nil {
			t.Fatal(err)
		}
		for host, status := range map[string]int{"gate.example": 200, "evil.example": 403} {
			if got := ask(t, address, "GET /metrics HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); got != status {
				t.Errorf("%s: %d", host, got)
			}
		}
	},
	"ADMIN_TOKEN_FILE": func(t *testing.T) {
		token := writeToken(t, testToken)
		g := startGateway(t, "XMPPGATE_ADMIN_TOKEN_FILE="+token)
		admin := &net.UnixAddr{Net: "unix", Name: g.dir + "/admin"}
		if status := ask(t, admin, "POST /connections/end?id=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"); status != 401 {
			t.Errorf("without a token: %d", status)
		}
		for _, known := range []bool{true, false} { // by the commands
			environ := map[string]string{"ADMIN_LISTEN": g.serving.Admin}
			if known {
				environ["ADMIN_TOKEN_FILE"] = token
			}
			var out bytes.Buffer
			if code := run(t.Context(), []string{"reload"}, prefixed(environ), &out, &out); (code == exitOK) != known {
				t.Errorf("reload ends with %d: %s", code, &out)
			}
		}
	},
	"MAX_STANZA_BYTES": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_MAX_STANZA_BYTES=10000")
		c := g.open()
		send(t, c, "<iq>"+strings.Repeat("x", 10000-len("<iq></iq>"))+"</iq>")
		send(t, c, "<iq>"+strings.Repeat("x", 10001-len("<iq></iq>"))+"</iq>")
		expect(t, c, "policy-violation")
		g.eventually("the first one does not arrive", func() bool {
			_, body := g.get("/metrics")
			return strings.Contains(body, `xmppgate_bytes_total{direction="up"} 10000`)
		})
	},
	"MAX_SERVER_STANZA_BYTES": func(t *testing.T) {
		server := filepath.Join(t.TempDir(), "s")
		serveStreamsAs(t, "unix", server, "x", noFeatures+"<message>"+strings.Repeat("x", 20000)+"</message>")
		for value, passes := range map[string]bool{"15000": false, "30000": true} {
			g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+server, "XMPPGATE_MAX_STANZA_BYTES=10000", "XMPPGATE_MAX_SERVER_STANZA_BYTES="+value)
			c := g.open()
			if op, payload := readFrame(t, c); (op == ws.OpText) != passes {
				t.Errorf("%s: %v of %d bytes", value, op, len(payload))
			}
		}
	},
	"MAX_SESSIONS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_MAX_SESSIONS=1")
		g.open()
		g.upgrades(503, "/ws", "")
	},
	"MAX_UNAUTHENTICATED": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_MAX_UNAUTHENTICATED=1")
		g.open() // to a server that asks for no login
		waits, _ := upgrade(t, g.serving.Listen, "", "/ws", "")
		g.upgrades(503, "/ws", "")
		waits.Close()
		g.eventually("a client that left counts", func() bool {
			c, status := upgrade(t, g.serving.Listen, "", "/ws", "")
			c.Close()
			return status == 101
		})
	},
	"LIMITS_EXEMPT": func(t *testing.T) {
		for value, status := range map[string]int{"none": 429, "loopback": 429, "198.51.100.0/24": 101, "private,198.51.100.7": 101} {
			g := startGateway(t, "XMPPGATE_LIMITS_EXEMPT="+value, "XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_NETWORK_REQUESTS=1/h:1")
			g.upgradesFrom(101, "198.51.100.7")
			g.upgradesFrom(status, "198.51.100.7")
		}
		refuses(t, "XMPPGATE_LIMITS_EXEMPT=office")
	},
	"NETWORK_IPV4_BITS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_NETWORK_IPV4_BITS=24", "XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_NETWORK_REQUESTS=1/h:1")
		g.upgradesFrom(101, "198.51.100.7")
		g.upgradesFrom(429, "198.51.100.8")
		g.upgradesFrom(101, "198.51.101.7")
	},
	"NETWORK_IPV6_BITS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_NETWORK_IPV6_BITS=48", "XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_NETWORK_REQUESTS=1/h:1")
		g.upgradesFrom(101, "2001:db8:0:1::1")
		g.upgradesFrom(429, "2001:db8:0:2::1")
		g.upgradesFrom(101, "2001:db8:1::1")
	},
	"NETWORK_SESSIONS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_NETWORK_SESSIONS=1", "XMPPGATE_TRUSTED_PROXIES=unix")
		g.staysFrom("198.51.100.7")
		g.upgradesFrom(429, "198.51.100.7")
		g.upgradesFrom(101, "198.51.100.8")
	},
	"NETWORK_UNAUTHENTICATED": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_NETWORK_UNAUTHENTICATED=1", "XMPPGATE_TRUSTED_PROXIES=unix")
		c := g.staysFrom("198.51.100.7")
		g.upgradesFrom(429, "198.51.100.7")
		if err := sendOpen(c, "example.org"); err != nil { // to a server that asks for no login
			t.Fatal(err)
		}
		expect(t, c, "<open ")
		expect(t, c, "features")
		g.upgradesFrom(101, "198.51.100.7")
	},
	"NETWORK_REQUESTS": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_NETWORK_REQUESTS=1/h:2", "XMPPGATE_TRUSTED_PROXIES=unix")
		g.upgradesFrom(101, "198.51.100.7")
		g.upgradesFrom(101, "198.51.100.7")
		g.upgradesFrom(429, "198.51.100.7")
		refuses(t, "XMPPGATE_NETWORK_REQUESTS=100")
	},
	"NETWORK_HANDSHAKES": func(t *testing.T) {
		cert, key := writeCertificate(t)
		tls := []string{"XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_TLS_CERT=" + cert, "XMPPGATE_TLS_KEY=" + key, "XMPPGATE_LIMITS_EXEMPT=192.0.2.0/24"}
		for value, allowed := range map[string]int{"off": 4, "1/h:2": 2} {
			g := startGateway(t, append(tls, "XMPPGATE_NETWORK_HANDSHAKES="+value)...)
			if n := handshakesOf(t, g.serving.Listen, 4); n != allowed {
				t.Errorf("%s: %d handshakes", value, n)
			}
		}
		for _, value := range []string{"0/s:1", "1/s:0", "1/d:1", "-1/s:1", "NaN/s:1", "1/s", "1:1", "1e9/s:1"} {
			refuses(t, "XMPPGATE_NETWORK_HANDSHAKES="+value)
		}
	},
	"NETWORK_FAILED_LOGINS": func(t *testing.T) {
		server := filepath.Join(t.TempDir(), "s")
		serveStreamsAs(t, "unix", server, "x", offersAll+strings.Repeat("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>", 3))
		g := startGateway(t, "XMPPGATE_NETWORK_FAILED_LOGINS=1/h:2", "XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_UPSTREAM=unix:"+server)
		c := g.staysFrom("198.51.100.7")
		if err := sendOpen(c, "example.org"); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"<open ", "features", "<failure", "<failure", "<failure", "policy-violation"} {
			expect(t, c, want)
		}
		g.upgradesFrom(429, "198.51.100.7")
		g.upgradesFrom(101, "198.51.100.8")
		g.logs("client limited")
		if line := g.stderr.Text(); !strings.Contains(line, `"msg":"client limited","client":"198.51.100.7","network":"198.51.100.7/32","reason":"failed-logins"`) {
			t.Error(line)
		}
	},
	"DENY_FILE": func(t *testing.T) {
		list := filepath.Join(t.TempDir(), "deny")
		write := func(text string) {
			if err := os.WriteFile(list+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(list+".new", list); err != nil {
				t.Fatal(err)
			}
		}
		write("# nobody\n")
		g := startGateway(t, "XMPPGATE_DENY_FILE="+list, "XMPPGATE_TRUSTED_PROXIES=unix")
		g.upgradesFrom(101, "198.51.100.7")
		c := g.staysFrom("198.51.100.7")
		write("198.51.100.0/24 # somebody\n")
		g.logs("the deny list has changed and was read")
		g.upgradesFrom(403, "198.51.100.8")
		for {
			if op, _ := readFrame(t, c); op == ws.OpClose {
				break
			}
		}
		// What cannot be used changes nothing.
		for _, broken := range []string{"198.51.101.0/24\n198.51.101.0/33\n", "everybody"} {
			write(broken)
			g.logs("the deny list cannot be used; the old one stays in force")
			g.upgradesFrom(403, "198.51.100.8")
			g.upgradesFrom(101, "198.51.101.8")
		}
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
		g.logs("the deny list cannot be used; the old one stays in force")
		g.upgradesFrom(403, "198.51.100.8")
		if _, body := g.get("/metrics"); !strings.Contains(body, "xmppgate_deny_list_ok 0") || !strings.Contains(body, "xmppgate_denied_networks 1") {
			t.Error("the metrics do not say so")
		}
		write("")
		g.logs("the deny list has changed and was read")
		g.upgradesFrom(101, "198.51.100.8")

		refuses(t, "XMPPGATE_DENY_FILE="+list+".missing")
		refuses(t, "XMPPGATE_DENY_FILE="+filepath.Dir(list))
		write("everybody")
		refuses(t, "XMPPGATE_DENY_FILE="+list)
	},
	"STANZA_RATE": func(t *testing.T) { pauses(t, "XMPPGATE_STANZA_RATE=1", "XMPPGATE_BYTE_RATE=0") },
	"BYTE_RATE":   func(t *testing.T) { pauses(t, "XMPPGATE_STANZA_RATE=0", "XMPPGATE_BYTE_RATE=1") },
	"AUTH_TIMEOUT": func(t *testing.T) {
		// What happens then is tested with a fake clock.
		if log := wholeLog(t, "XMPPGATE_AUTH_TIMEOUT=10s"); strings.Contains(log, "error") {
			t.Error(log)
		}
		refuses(t, "XMPPGATE_AUTH_TIMEOUT=1s")
	},
	"MAX_SESSION_AGE": func(t *testing.T) {
		c := startGateway(t, "XMPPGATE_MAX_SESSION_AGE=1s").open()
		if op, payload := readFrame(t, c); op != ws.OpClose || !bytes.HasPrefix(payload, []byte{1001 >> 8, 1001 & 0xff}) {
			t.Errorf("%v %q", op, payload)
		}
	},
	"COMPRESSION": func(t *testing.T) {
		for value, accepted := range map[string]bool{"on": true, "off": false} {
			g := startGateway(t, "XMPPGATE_COMPRESSION="+value)
			if _, got := g.offersCompression(); got != accepted {
				t.Errorf("%s: accepted %t", value, got)
			}
			if _, body := g.get("/connections"); strings.Contains(body, `"compression"`) != accepted {
				t.Errorf("%s: %s", value, body)
			}
			if _, body := g.get("/metrics"); strings.Contains(body, "\nxmppgate_compression_sessions 1\n") != accepted {
				t.Errorf("%s: %s", value, body)
			}
		}
	},
	"COMPRESSION_MEMORY": func(t *testing.T) {
		// There is room for one session, which takes it when it compresses.
		server := filepath.Join(t.TempDir(), "s")
		serveStreamsAs(t, "unix", server, "x", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><message><body>"+strings.Repeat("wherefore ", 50)+"</body></message>")
		g := startGateway(t, "XMPPGATE_UPSTREAM=unix:"+server, "XMPPGATE_COMPRESSION=on", "XMPPGATE_COMPRESSION_MEMORY=8192")
		for _, want := range []bool{true, false} {
			c, got := g.offersCompression()
			if got != want {
				t.Fatalf("accepted %t, want %t", got, want)
			}
			if !want {
				break
			}
			if err := sendOpen(c, "example.org"); err != nil {
				t.Fatal(err)
			}
			g.eventually("no memory is used", func() bool {
				_, body := g.get("/metrics")
				return strings.Contains(body, "\nxmppgate_compression_memory_bytes 8192\n")
			})
		}
		if _, body := g.get("/metrics"); !strings.Contains(body, "\nxmppgate_compression_sessions_without_memory_total 1\n") ||
			!strings.Contains(body, "\nxmppgate_compression_memory_limit_bytes 8192\n") {
			t.Error(body)
		}
	},
	"PING_INTERVAL": func(t *testing.T) {
		c := startGateway(t, "XMPPGATE_PING_INTERVAL=1s").open() // who waits for 10 s, not for 30
		if op, payload := readFrame(t, c); op != ws.OpPing {
			t.Errorf("%v %q", op, payload)
		}
	},
	"DRAIN_DELAY": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_DRAIN_DELAY=1h")
		g.signal(syscall.SIGTERM)
		g.logs("draining")
		g.open()
	},
	"DRAIN_TIMEOUT": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_DRAIN_TIMEOUT=1s")
		g.open() // never answers; the gateway itself gives it 5 s
		g.signal(syscall.SIGTERM)
		g.logs("xmppgate failed")
		if !strings.Contains(g.stderr.Text(), "sessions did not end within 1s") {
			t.Error(g.stderr.Text())
		}
		g.ends(exitFailed)
	},
	"CONNECTION_METRICS_LIMIT": func(t *testing.T) {
		g := startGateway(t, "XMPPGATE_CONNECTION_METRICS_LIMIT=1")
		g.open()
		g.open()
		if _, body := g.get("/metrics/connections"); !strings.Contains(body, "xmppgate_connections_omitted 1") {
			t.Error(body)
		}
		if _, body := g.get("/connections"); strings.Count(body, `"domain"`) != 1 {
			t.Error(body)
		}
	},
	"LOOP": func(t *testing.T) {
		auto := "/loop/goroutine.go"
		if runtime.GOOS == "linux" {
			auto = "/loop/worker_linux.go"
		}
		for value, file := range map[string]string{"auto": auto, "goroutine": "/loop/goroutine.go"} {
			g := startGateway(t, "XMPPGATE_LOOP="+value, "XMPPGATE_PROFILE=true")
			g.open()
			if _, body := g.get("/debug/pprof/goroutine?debug=2"); !strings.Contains(body, file) {
				t.Errorf("%s: no goroutine is in %s", value, file)
			}
		}
	},
	"PROFILE": func(t *testing.T) {
		for value, want := range map[string]int{"false": 404, "true": 200} {
			if status, _ := startGateway(t, "XMPPGATE_PROFILE="+value).get("/debug/pprof/"); status != want {
				t.Errorf("%s: %d", value, status)
			}
		}
	},
	"LOG_JIDS": func(t *testing.T) {
		for value, logs := range map[string]bool{"true": true, "false": false} {
			g := startGateway(t, "XMPPGATE_LOG_JIDS="+value)
			c, err := dialGateway(t.Context(), g.dir+"/ws")
			if err != nil {
				t.Fatal(err)
			}
			open := `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from="alice@example.org/phone" to="example.org" version="1.0"/>`
			if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(open)))); err != nil {
				t.Fatal(err)
			}
			readFrame(t, c)
			c.Close()
			g.logs("session ended")
			if line := g.stderr.Text(); strings.Contains(line, `"jid":"alice@example.org"`) != logs || strings.Contains(line, "phone") {
				t.Errorf("%s: %s", value, line)
			}
		}
	},
	"LOG_LEVEL": func(t *testing.T) {
		for value, logs := range map[string]bool{"info": true, "warn": false} {
			if log := wholeLog(t, "XMPPGATE_LOG_LEVEL="+value); strings.Contains(log, `"serving"`) != logs {
				t.Errorf("%s: %s", value, log)
			}
		}
	},
	"LOG_FORMAT": func(t *testing.T) {
		for value, want := range map[string]string{"auto": `"msg":"serving"`, "text": "INF serving          version=", "journal": "<6>msg=serving", "json": `"msg":"serving"`} {
			if log := wholeLog(t, "XMPPGATE_LOG_FORMAT="+value); !strings.Contains(log, want) {
				t.Errorf("%s: %s", value, log)
			}
		}
	},
	"UNSAFE_ADMIN": func(t *testing.T) {
		refuses(t, "XMPPGATE_ADMIN_LISTEN=0.0.0.0:0")
		startGateway(t, "XMPPGATE_ADMIN_LISTEN=0.0.0.0:0", "XMPPGATE_UNSAFE_ADMIN=true")
	},
	"UNSAFE_UPSTREAM": func(t *testing.T) {
		refuses(t, "XMPPGATE_UPSTREAM=tcp://192.0.2.1:5222")
		startGateway(t, "XMPPGATE_UPSTREAM=tcp://192.0.2.1:5222", "XMPPGATE_UNSAFE_UPSTREAM=true")
	},
}

func TestEveryVariableHasAnEffect(t *testing.T) {
	known := map[string]bool{}
	for _, v := range variables() {
		name := strings.TrimPrefix(v.name, prefix)
		known[name] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effect, ok := effects[name]
			if !ok {
				t.Fatal("nothing shows what it does: add it to effects")
			}
			effect(t)
		})
	}
	for name := range effects {
		if !known[name] {
			t.Errorf("%s is not a variable", name)
		}
	}
}

// offersAll are mechanisms that may not cross.
const offersAll = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>EXTERNAL</mechanism><mechanism>PLAIN</mechanism></mechanisms></stream:features>"

const noFeatures = "<stream:features/>"

// pinOf is the pin of a certificate's key.
func pinOf(t *testing.T, pair tls.Certificate) string {
	t.Helper()
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(c.RawSubjectPublicKeyInfo))
}

func streamHeader(id string) string {
	return `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='` + id + `' version='1.0'>`
}

// serveStreamsAs is an XMPP server whose streams have an id and go on with what it
// says.
func serveStreamsAs(t *testing.T, network, address, id, says string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptStreamsThat(l, id, says)
}

func acceptStreamsThat(l net.Listener, id, says string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			readUntil(r, "<stream:stream")
			readUntil(r, ">")
			_, _ = io.WriteString(c, streamHeader(id)+says)
			_, _ = io.Copy(io.Discard, r)
		}()
	}
}

// readUntil reads up to the end of text, or of the connection.
func readUntil(r *bufio.Reader, text string) {
	for got := ""; !strings.HasSuffix(got, text); {
		b, err := r.ReadByte()
		if err != nil {
			return
		}
		got += string(b)
	}
}

// opened returns what a client at a listener gets for <open/>, up to the
// features or the end of the session.
func opened(t *testing.T, listener, headers string) (received string) {
	t.Helper()
	c, status := upgrade(t, listener, "", "/ws", headers)
	defer c.Close()
	if status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", status)
	}
	if err := sendOpen(c, "example.org"); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(received, "features") {
		op, payload := readFrame(t, c)
		if op == ws.OpClose {
			break
		}
		received += string(payload)
	}
	return received
}

// upgrade connects to a listener as it is logged, and asks for a WebSocket.
func upgrade(t *testing.T, listener, ahead, path, headers string) (c net.Conn, status int) {
	t.Helper()
	c, head := shakeHands(t, listener, ahead, path, headers)
	if _, err := fmt.Sscanf(head, "HTTP/1.1 %d", &status); err != nil {
		t.Fatal(err)
	}
	return c, status
}

// shakeHands is upgrade for those who want all of the answer.
func shakeHands(t *testing.T, listener, ahead, path, headers string) (c net.Conn, head string) {
	t.Helper()
	network, address := "tcp", listener
	if path, unix := strings.CutPrefix(listener, "unix:"); unix {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(c, "%sGET %s HTTP/1.1\r\nHost: gate\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n%s\r\n", ahead, path, headers)
	// Byte by byte, so that no frame is lost in a buffer.
	for b := make([]byte, 1); !strings.HasSuffix(head, "\r\n\r\n"); head += string(b) {
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("%q: %v", head, err)
		}
	}
	return c, head
}

// offersCompression opens a WebSocket and offers compression.
func (g *gatewayProcess) offersCompression() (c net.Conn, accepted bool) {
	g.t.Helper()
	c, head := shakeHands(g.t, g.serving.Listen, "", "/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
	return c, strings.Contains(head, "\r\nSec-WebSocket-Extensions: permessage-deflate; client_")
}

func (g *gatewayProcess) upgrades(status int, path, headers string) {
	g.t.Helper()
	c, got := upgrade(g.t, g.serving.Listen, "", path, headers)
	c.Close()
	if got != status {
		g.t.Errorf("%s with %q: %d, want %d", path, headers, got, status)
	}
}

// pauses checks that a client which sends more than it may is not read for a while.
func pauses(t *testing.T, environ ...string) {
	t.Helper()
	g := startGateway(t, append(environ, "XMPPGATE_TRUSTED_PROXIES=unix")...)
	c := g.staysFrom("198.51.100.7")
	if err := sendOpen(c, "example.org"); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "<open ")
	expect(t, c, "features")
	for range 20 {
		send(t, c, "<presence/>")
	}
	g.eventually("the client is not paused", func() bool {
		_, body := g.get("/metrics")
		return strings.Contains(body, "\nxmppgate_client_pauses_total 1\n")
	})
}

// staysFrom opens a WebSocket of a client at an address that a proxy tells.
func (g *gatewayProcess) staysFrom(client string) net.Conn {
	g.t.Helper()
	c, status := upgrade(g.t, g.serving.Listen, "", "/ws", "X-Forwarded-For: "+client+"\r\n")
	if status != http.StatusSwitchingProtocols {
		g.t.Fatalf("a client at %s: status %d", client, status)
	}
	return c
}

// upgradesFrom is upgrades for a client at an address that a proxy tells.
func (g *gatewayProcess) upgradesFrom(status int, client string) {
	g.t.Helper()
	g.upgrades(status, "/ws", "X-Forwarded-For: "+client+"\r\n")
}

// comesFrom compares the address of a client, as the gateway reports it.
func (g *gatewayProcess) comesFrom(remote, ahead, headers string) {
	g.t.Helper()
	if _, status := upgrade(g.t, g.serving.Listen, ahead, "/ws", headers); status != http.StatusSwitchingProtocols {
		g.t.Fatalf("status %d", status)
	}
	_, body := g.get("/connections")
	var list []status.Session
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != 1 {
		g.t.Fatalf("%s: %v", body, err)
	}
	if list[0].Remote != remote {
		g.t.Errorf("the client is %q, want %q", list[0].Remote, remote)
	}
}

func send(t *testing.T, c net.Conn, message string) {
	t.Helper()
	if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(message)))); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if _, payload := readFrame(t, c); !bytes.Contains(payload, []byte(want)) {
		t.Fatalf("got %q, want %s", payload, want)
	}
}

// wholeLog returns what the program logs from start to end.
func wholeLog(t *testing.T, environ ...string) string {
	t.Helper()
	g := newGateway(t, environ...)
	var log bytes.Buffer
	g.Stderr = &log
	g.begin()
	g.drains()
	return log.String()
}

// refuses checks that a configuration is wrong.
func refuses(t *testing.T, environ ...string) {
	t.Helper()
	if isReloadTest(t) {
		g := reloadedGateway(t, nil)
		g.configure(environ)
		if status, body := g.post("/reload"); status != http.StatusUnprocessableEntity {
			t.Errorf("%v: %d %s", environ, status, body)
		}
		return
	}
	g := newGateway(t, environ...)
	out, err := g.CombinedOutput()
	if exitCode(err) != exitConfig {
		t.Errorf("%v: %v\n%s", environ, err, out)
	}
}

// exitCode returns the code in an error of exec.Cmd.Run, zero if it has none.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}
