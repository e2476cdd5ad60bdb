package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// This file holds xmppgate doctor against real set-ups, right and broken.

// A diagnosis is the JSON of xmppgate doctor.
type diagnosis struct {
	Lines []struct {
		Check, Level, Finding, Text string
		Remedies                    []struct{ Product, Change string }
	}
	Exit int
	text string
}

// examine runs xmppgate doctor. The password is always that of the accounts.
func examine(t *testing.T, args ...string) (d diagnosis) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, gatewayBinary, append([]string{"doctor", "--json", "--timeout", "10s"}, args...)...)
	cmd.Stdin = strings.NewReader(password)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if jsonErr := json.Unmarshal(out, &d); jsonErr != nil {
		t.Fatalf("%v, %v\n%s%s", err, jsonErr, out, &stderr)
	}
	if code := cmd.ProcessState.ExitCode(); code != d.Exit {
		t.Errorf("exit code %d, the report says %d", code, d.Exit)
	}
	if bytes.Contains(out, []byte(`"`+password+`"`)) || strings.Contains(stderr.String(), password) {
		t.Error("the password is in the output")
	}
	for _, l := range d.Lines {
		d.text += fmt.Sprintf("%s %s %s: %s\n", l.Level, l.Check, l.Finding, l.Text)
		for _, r := range l.Remedies {
			d.text += fmt.Sprintf("\t%s: %s\n", r.Product, r.Change)
		}
	}
	return d
}

// findings lists what is not ok.
func (d diagnosis) findings() (ids []string) {
	for _, l := range d.Lines {
		if l.Level != "ok" && !slices.Contains(ids, l.Finding) {
			ids = append(ids, l.Finding)
		}
	}
	return ids
}

// tells reports whether a finding comes with a remedy for a product.
func (d diagnosis) tells(product string) bool {
	for _, l := range d.Lines {
		for _, r := range l.Remedies {
			if r.Product == product {
				return true
			}
		}
	}
	return false
}

// A pki has an authority and makes certificates for localhost.
type pki struct {
	dir     string
	ca      string // file
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	between *pki // signed by this one
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{dir: t.TempDir()}
	p.cert, p.key = p.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	p.between = &pki{dir: p.dir}
	p.between.cert, p.between.key = p.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	p.ca = p.write(t, "ca.pem", p.cert)
	return p
}

func (p *pki) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	}
	parent, parentKey := p.cert, p.key
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (p *pki) write(t *testing.T, name string, certs ...*x509.Certificate) string {
	t.Helper()
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	file := filepath.Join(p.dir, name)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// server writes a certificate with its chain and key into one file.
func (p *pki) server(t *testing.T, name string, edit func(*x509.Certificate), chain ...*x509.Certificate) string {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if edit != nil {
		edit(template)
	}
	cert, key := p.sign(t, template)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := p.write(t, name+".pem", append([]*x509.Certificate{cert}, chain...)...)
	text := append([]byte(read(t, file)), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sites collects the places of one proxy's configuration. Each has a port of its own.
type sites struct {
	t         *testing.T
	config    strings.Builder
	addresses []string
}

// port returns an address that is free, by the name that a client uses for it.
func (s *sites) port() (address string, number int) {
	ports, err := freePorts(1)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addresses = append(s.addresses, fmt.Sprintf("127.0.0.1:%d", ports[0]))
	return fmt.Sprintf("localhost:%d", ports[0]), ports[0]
}

// nginx adds a server block. listen is what follows the address there.
func (s *sites) nginx(listen, body string) string {
	address, port := s.port()
	fmt.Fprintf(&s.config, "server { listen 127.0.0.1:%d%s; server_name localhost;\n%s\n}\n", port, listen, body)
	return address
}

// haproxy adds a frontend with its backend. bind is what follows the address there.
func (s *sites) haproxy(bind, front, back string) string {
	address, port := s.port()
	fmt.Fprintf(&s.config, "frontend f%[1]d\n\tmode http\n\tbind 127.0.0.1:%[1]d%[2]s\n\t%[3]s\n\tdefault_backend b%[1]d\nbackend b%[1]d\n\tmode http\n\t%[4]s\n", port, bind, front, back)
	return address
}

func (s *sites) caddy(body string) string {
	address, port := s.port()
	fmt.Fprintf(&s.config, "http://localhost:%d {\n\tbind 127.0.0.1\n%s\n}\n", port, body)
	return address
}

func (s *sites) apache(body string) string {
	address, port := s.port()
	fmt.Fprintf(&s.config, "Listen 127.0.0.1:%[1]d\n<VirtualHost 127.0.0.1:%[1]d>\n%[2]s\n</VirtualHost>\n", port, body)
	return address
}

// closedPort is an address where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0])
}

// toWebSocket is how nginx has to relay.
func toWebSocket(address string) string {
	return "location / { proxy_pass http://" + address + "; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header Host $host; }"
}

const nginxFrame = `
daemon off;
worker_processes 1;
pid nginx.pid;
events { }
http {
	access_log off;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	%s
}
`

const apacheFrame = `
ServerName localhost
ServerRoot %[1]s
PidFile %[1]s/apache.pid
ErrorLog /dev/stderr
DefaultRuntimeDir %[1]s
Mutex pthread
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule proxy_wstunnel_module /usr/lib/apache2/modules/mod_proxy_wstunnel.so
User daemon
Group daemon
%[2]s
`

// start runs the proxy of these sites.
func (s *sites) start(program string) {
	s.t.Helper()
	switch config := s.config.String(); program {
	case "nginx":
		startFront(s.t, program, fmt.Sprintf(nginxFrame, config), s.addresses...)
	case "haproxy":
		startFront(s.t, program, haproxyGlobal+config, s.addresses...)
	default:
		dir := s.t.TempDir()
		file := filepath.Join(dir, "config")
		cmd := exec.Command("caddy", "run", "--config", file, "--adapter", "caddyfile")
		if program == "stunnel4" {
			cmd = exec.Command(program, file)
			config = "foreground = yes\nsyslog = no\npid =\n" + config
		} else if program == "apache2" {
			config = fmt.Sprintf(apacheFrame, dir, config)
			cmd = exec.Command("apache2", "-D", "FOREGROUND", "-f", file)
			if os.Getuid() != 0 {
				config = strings.Replace(config, "User daemon\nGroup daemon\n", "", 1)
			}
		} else {
			config = "{\n\tadmin off\n\tauto_https off\n}\n" + config
			cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		}
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			s.t.Fatal(err)
		}
		p, err := startProcess(program, cmd)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() {
			p.kill()
			if s.t.Failed() {
				s.t.Logf("%s:\n%s", program, p.log.tail(0))
			}
		})
		if err := p.awaitReady(patience, func() error {
			var errs []error
			for _, a := range s.addresses {
				errs = append(errs, accepts(a))
			}
			return errors.Join(errs...)
		}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// A setUp is a path to a server, and what the doctor has to find there: exactly these,
// comma separated, or nothing.
type setUp struct {
	name string
	args []string
	want string
	whom string // a product that must be told what to change
}

func (s setUp) run(t *testing.T) {
	d := examine(t, s.args...)
	if got := strings.Join(d.findings(), ","); got != s.want {
		t.Errorf("found %q, want %q\n%s", got, s.want, d.text)
	}
	if s.whom != "" && !d.tells(s.whom) {
		t.Errorf("%s is not told what to change\n%s", s.whom, d.text)
	}
}

// A right set-up gets no warning, with all checks made.
func TestDoctorRight(t *testing.T) {
	needGateway(t)
	p := newPKI(t)
	good := p.server(t, "good", nil)
	chained := p.between.server(t, "chained", nil, p.between.cert)
	eachServer(t, func(t *testing.T, s *server) {
		front := map[string]*sites{"nginx": {t: t}, "haproxy": {t: t}, "caddy": {t: t}, "apache2": {t: t}}
		public, publicPort := front["nginx"].port()
		g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_PING_INTERVAL=1s", "XMPPGATE_PUBLIC_URL=wss://"+public+"/xmpp-websocket")
		encrypted := gatewayFor(t, "tls://"+s.directTLS+s.ca())
		user := []string{"--jid", s.newUser(t, "doctor") + "@" + domain, "--password-file", "-", "--ca", p.ca, "--idle", "2500ms"}
		certified := "ssl_certificate " + chained + "; ssl_certificate_key " + chained + ";\n"
		fmt.Fprintf(&front["nginx"].config, "server { listen 127.0.0.1:%d ssl; %s %s }\n", publicPort, certified, toWebSocket(g.listen))
		const tunnel = "timeout tunnel 2s\n\t"
		targets := map[string]string{
			"the domain":          public,
			"compression":         gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_COMPRESSION=on").url(),
			"xmppgate, wss":       strings.Replace(gatewayFor(t, "tls://"+s.directTLS+s.ca(), "XMPPGATE_TLS_CERT="+chained).url(), "ws://127.0.0.1", "wss://localhost", 1),
			"xmppgate":            "ws://" + g.listen + "/xmpp-websocket",
			"xmppgate, second":    "ws://" + g.listen + "/ws?room=1",
			"xmppgate, TLS":       "ws://" + encrypted.listen + "/xmpp-websocket",
			"nginx":               "ws://" + front["nginx"].nginx("", "proxy_read_timeout 2s;"+toWebSocket(g.listen)) + "/xmpp-websocket",
			"nginx, TLS":          "wss://" + front["nginx"].nginx(" ssl", certified+toWebSocket(g.listen)) + "/xmpp-websocket",
			"nginx, TLS twice":    "wss://" + front["nginx"].nginx(" ssl", certified+toWebSocket(encrypted.listen)) + "/xmpp-websocket",
			"haproxy":             "ws://" + front["haproxy"].haproxy("", "", tunnel+"server g "+g.listen) + "/xmpp-websocket",
			"haproxy, TLS":        "wss://" + front["haproxy"].haproxy(" ssl crt "+good, "", "server g "+g.listen) + "/xmpp-websocket",
			"haproxy, TLS and h2": "wss://" + front["haproxy"].haproxy(" ssl crt "+good+" alpn h2,http/1.1", "", "server g "+g.listen) + "/xmpp-websocket",
			"caddy":               "ws://" + front["caddy"].caddy("\treverse_proxy "+g.listen) + "/xmpp-websocket",
			"apache":              "ws://" + front["apache2"].apache("ProxyPass / ws://"+g.listen+"/") + "/xmpp-websocket",
			"the server's own":    "ws://" + s.http + "/xmpp-websocket",
			"nginx, own":          "wss://" + front["nginx"].nginx(" ssl", certified+toWebSocket(s.http)) + "/xmpp-websocket",
		}
		for program, sites := range front {
			sites.start(program)
		}
		for name, url := range targets {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				setUp{args: append([]string{url}, user...)}.run(t)
			})
			if name == "xmppgate" || name == "the domain" || name == "nginx, TLS" || name == "the server's own" {
				t.Run(name+", no account", func(t *testing.T) {
					t.Parallel()
					setUp{args: []string{url, "--domain", domain, "--ca", p.ca, "--idle", "2500ms"}}.run(t)
				})
			}
		}
	})
}

// What Debian configures needs no change, and no account has to be special.
func TestDoctorStock(t *testing.T) {
	t.Parallel()
	eachStock(t, func(t *testing.T, name string) {
		ports, err := freePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		s := stockServer(t, name, func(c string) string {
			if name == "ejabberd" {
				return c
			}
			// The one that has no WebSocket, as packaged, gets it.
			c = change(t, c, `--"websocket";`, `"websocket";`)
			return fmt.Sprintf("http_ports = {}\nhttps_ports = { %d }\nhttps_interfaces = { \"127.0.0.1\" }\n%s", ports[0], c)
		})
		own := map[string]string{"prosody": fmt.Sprintf("wss://localhost:%d/xmpp-websocket", ports[0]),
			"ejabberd": "wss://" + strings.Replace(s.http, "127.0.0.1", "localhost", 1) + "/ws"}[name]
		g := gatewayFor(t, "tcp://"+s.c2s)
		user := []string{"--jid", s.newUser(t, "doctor") + "@" + domain, "--password-file", "-", "--idle", "1s", "--ca", filepath.Join(s.dir, "localhost.crt")}
		setUp{args: append(user, g.url())}.run(t)
		setUp{args: append(user, own)}.run(t)
	})
}

// Broken set-ups.
func TestDoctorBroken(t *testing.T) {
	needGateway(t)
	var mu sync.Mutex
	var all []setUp
	broken := func(name, want, whom, target string, args ...string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, setUp{name, append([]string{target, "--idle", "0", "--domain", domain}, args...), want, whom})
	}
	var prosody, ejabberd *server
	for _, s := range servers {
		switch s.name {
		case "prosody":
			prosody = s
		case "ejabberd":
			ejabberd = s
		}
	}
	const path = "/xmpp-websocket"
	account := func(s *server) []string {
		return []string{"--jid", s.newUser(t, "ill") + "@" + domain, "--password-file", "-"}
	}
	p := newPKI(t)
	trusted := []string{"--ca", p.ca}
	g := prosody.gw.listen
	nowhere := closedPort(t)

	// nginx
	n := &sites{t: t}
	nginx := func(name, want, body string, args ...string) {
		broken("nginx: "+name, want, "nginx", "ws://"+n.nginx("", body)+path, args...)
	}
	old := "location / { proxy_pass http://%s; }"
	nginx("HTTP/1.0, xmppgate", "old-http", fmt.Sprintf(old, g))
	nginx("HTTP/1.0, Prosody", "upgrade-dropped", fmt.Sprintf(old, prosody.http))
	nginx("HTTP/1.0, ejabberd", "upgrade-dropped", fmt.Sprintf(old, ejabberd.http))
	noUpgrade := "location / { proxy_http_version 1.1; proxy_pass http://%s; }"
	nginx("no Upgrade, xmppgate", "upgrade-dropped", fmt.Sprintf(noUpgrade, g))
	nginx("no Upgrade, Prosody", "upgrade-dropped", fmt.Sprintf(noUpgrade, prosody.http))
	nginx("no Upgrade, ejabberd", "upgrade-dropped", fmt.Sprintf(noUpgrade, ejabberd.http))
	noConnection := "location / { proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $host; proxy_pass http://%s; }"
	nginx("no Connection, xmppgate", "upgrade-dropped", fmt.Sprintf(noConnection, g))
	nginx("no Connection, Prosody", "upgrade-dropped", fmt.Sprintf(noConnection, prosody.http))
	noProtocol := `proxy_set_header Sec-WebSocket-Protocol ""; proxy_hide_header Sec-WebSocket-Protocol;`
	inLocation := func(address, more string) string {
		return strings.Replace(toWebSocket(address), "{ ", "{ "+more+" ", 1)
	}
	nginx("no subprotocol, xmppgate", "subprotocol-dropped", inLocation(g, noProtocol))
	nginx("no subprotocol, Prosody", "subprotocol-dropped", inLocation(prosody.http, noProtocol))
	nginx("no subprotocol, ejabberd", "subprotocol-missing", inLocation(ejabberd.http, noProtocol))
	nginx("subprotocol hidden", "subprotocol-missing", inLocation(g, "proxy_hide_header Sec-WebSocket-Protocol;"))
	nginx("502", "proxy-no-server", toWebSocket(nowhere))
	nginx("redirect", "redirect", "return 301 https://$host$request_uri;")
	nginx("a slash too much", "redirect", "location /xmpp-websocket/ { proxy_pass http://"+g+"; }")
	nginx("no location", "path-unknown", "root /nonexistent;")
	nginx("another path behind", "path-unknown", strings.Replace(toWebSocket(g), g+";", g+"/chat/;", 1))
	nginx("the page of an application", "web-page", `location / { default_type text/html; return 200 "<!doctype html><title>Chat</title>"; }`)
	nginx("a password for the site", "authentication-required", `auth_basic "closed"; auth_basic_user_file /dev/null;`+toWebSocket(g))
	nginx("deny", "forbidden", "deny all;"+toWebSocket(g))
	nginx("no answer", "no-answer", "return 444;")
	nginx("no PROXY header", "proxy-header-missing", toWebSocket(gatewayFor(t, "tcp://"+prosody.c2s, "XMPPGATE_PROXY_PROTOCOL=127.0.0.1").listen))
	nginx("no address of the client", "client-address-missing", inLocation(gatewayFor(t, "tcp://"+prosody.c2s, "XMPPGATE_TRUSTED_PROXIES=127.0.0.1").listen, `proxy_set_header X-Forwarded-For "";`))
	nginx("too short a timeout", "idle-cut", inLocation(g, "proxy_read_timeout 1s;"), append(account(prosody), "--idle", "3s")...)
	nginx("too short a timeout, no account", "idle-cut", inLocation(g, "proxy_read_timeout 1s;"), "--idle", "3s")
	secure := func(name, want, cert, body string, args ...string) {
		address := n.nginx(" ssl", "ssl_certificate "+cert+"; ssl_certificate_key "+cert+";"+body)
		broken("nginx: "+name, want, "nginx", "wss://"+address+path, append(trusted, args...)...)
	}
	day := 24 * time.Hour
	life := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	secure("certificate expired", "cert-expired", p.server(t, "expired", life(-90*day, -day)), toWebSocket(g))
	secure("certificate expires soon", "cert-expires-soon", p.server(t, "soon", life(-80*day, 5*day)), toWebSocket(g))
	secure("another host", "cert-name", p.server(t, "other", func(c *x509.Certificate) { c.DNSNames = []string{"www.example.org"} }), toWebSocket(g))
	secure("self-signed", "cert-self-signed", (&pki{dir: p.dir}).server(t, "self", nil), toWebSocket(g))
	secure("chain incomplete", "cert-incomplete", p.between.server(t, "incomplete", nil), toWebSocket(g))
	stranger := newPKI(t)
	secure("unknown authority", "cert-unknown-ca", stranger.between.server(t, "stranger", nil, stranger.between.cert), toWebSocket(g))
	good := p.server(t, "good", nil)
	secure("certificates of clients", "client-certificate", good, "ssl_verify_client on; ssl_client_certificate "+p.ca+";"+toWebSocket(g))
	secure("old TLS", "tls-version", good, "ssl_protocols TLSv1 TLSv1.1; ssl_ciphers DEFAULT:@SECLEVEL=0;"+toWebSocket(g))
	broken("nginx: ws to the port of wss", "plain-to-tls", "client", "ws://"+n.nginx(" ssl", "ssl_certificate "+good+"; ssl_certificate_key "+good+";")+path)
	broken("nginx: wss to the port of ws", "tls-not-spoken", "nginx", "wss://"+n.nginx("", toWebSocket(g))+path)
	broken("nginx: host-meta without CORS", "host-meta-cors", "nginx", "http://"+n.nginx("", `location /.well-known/ { default_type application/xml; return 200
		"<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'><Link rel='urn:xmpp:alt-connections:websocket' href='ws://`+g+path+`'/></XRD>"; }
		location /.well-known/host-meta.json { return 404; }`))
	broken("nginx: a page instead of host-meta", "host-meta-malformed", "", "http://"+n.nginx("", `location / { default_type text/html; return 200 "<!doctype html><br>"; }`))
	n.start("nginx")

	// HAProxy
	h := &sites{t: t}
	haproxy := func(name, want, front, back string, args ...string) {
		broken("HAProxy: "+name, want, "HAProxy", "ws://"+h.haproxy("", front, back)+path, args...)
	}
	haproxy("no server", "proxy-no-server", "", "server g "+nowhere)
	haproxy("no Upgrade", "upgrade-dropped", "http-request del-header Upgrade", "server g "+g)
	haproxy("redirect", "redirect", "redirect scheme https", "server g "+g)
	haproxy("forbidden", "forbidden", "http-request deny", "server g "+g)
	haproxy("PROXY header", "proxy-header-unexpected", "", "server g "+g+" send-proxy-v2")
	haproxy("HTTP/2 behind", "proxy-no-server", "", "server g "+g+" proto h2")
	haproxy("too short a timeout", "idle-cut", "", "timeout tunnel 1s\n\tserver g "+g, append(account(prosody), "--idle", "3s")...)
	haproxy("too short a timeout of clients", "idle-cut", "timeout client 1s", "timeout tunnel 0\n\tserver g "+g, "--idle", "3s")
	haproxy("no subprotocol", "subprotocol-missing", "http-response del-header Sec-WebSocket-Protocol", "server g "+g)
	broken("HAProxy: wss to the port of ws", "tls-not-spoken", "HAProxy", "wss://"+h.haproxy("", "", "server g "+g)+path)
	broken("HAProxy: certificates of clients", "client-certificate", "HAProxy", "wss://"+h.haproxy(" ssl crt "+good+" verify required ca-file "+p.ca, "", "server g "+g)+path, trusted...)
	h.start("haproxy")

	// Caddy and Apache
	c := &sites{t: t}
	broken("Caddy: no server", "proxy-no-server", "Caddy", "ws://"+c.caddy("\treverse_proxy "+nowhere)+path)
	broken("Caddy: no route", "web-page", "Caddy", "ws://"+c.caddy("\treverse_proxy /other "+g)+path)
	broken("Caddy: the path is removed", "path-unknown", "Caddy", "ws://"+c.caddy("\thandle_path /xmpp-websocket* {\n\t\trewrite * /chat{uri}\n\t\treverse_proxy "+g+"\n\t}")+path)
	broken("Caddy: redirect", "redirect", "Caddy", "ws://"+c.caddy("\tredir https://chat.example.org{uri}")+path)
	c.start("caddy")
	a := &sites{t: t}
	broken("Apache: no Upgrade", "upgrade-dropped", "Apache", "ws://"+a.apache("ProxyPass / http://"+g+"/")+path)
	broken("Apache: no server", "proxy-no-server", "Apache", "ws://"+a.apache("ProxyPass / ws://"+nowhere+"/")+path)
	broken("Apache: forbidden", "forbidden", "Apache", "ws://"+a.apache("<Location />\nRequire all denied\n</Location>")+path)
	a.start("apache2")

	// xmppgate
	gateway := func(name, want, upstream string, env []string, args ...string) {
		broken("xmppgate: "+name, want, "xmppgate", gatewayFor(t, upstream, env...).url(), args...)
	}
	to := "tcp://" + prosody.c2s
	gateway("origin", "origin-refused", to, []string{"XMPPGATE_ORIGINS=https://chat.example.org"}, "--origin", "https://other.example.org")
	gateway("domain", "host-unknown", to, []string{"XMPPGATE_DOMAINS=example.org"})
	gateway("large messages", "large-refused", to, []string{"XMPPGATE_MAX_STANZA_BYTES=20000"}, account(prosody)...)
	gateway("channel binding", "plus-through-gateway", "tls://"+ejabberd.directTLS+ejabberd.ca(), []string{"XMPPGATE_CHANNEL_BINDING=pass"}, account(ejabberd)...)
	wss := func(name, want, whom, scheme, cert string) {
		url := gatewayFor(t, to, "XMPPGATE_TLS_CERT="+cert).url()
		broken("xmppgate: "+name, want, whom, scheme+strings.TrimPrefix(strings.Replace(url, "127.0.0.1", "localhost", 1), "ws"), trusted...)
	}
	wss("chain incomplete", "cert-incomplete", "xmppgate", "wss", p.between.server(t, "incomplete2", nil))
	wss("another host", "cert-name", "xmppgate", "wss", p.server(t, "other2", func(c *x509.Certificate) { c.DNSNames = []string{"www.example.org"} }))
	wss("ws to the port of wss", "plain-to-tls", "xmppgate", "ws", good)
	gateway("too many requests", "rate-limited", to, []string{"XMPPGATE_LIMITS_EXEMPT=none", "XMPPGATE_NETWORK_REQUESTS=1/m:4"})
	broken("xmppgate: path", "path-unknown", "xmppgate", "ws://"+g+"/websocket")
	broken("xmppgate: wss", "tls-not-spoken", "xmppgate", "wss://"+g+path)
	broken("xmppgate: no host-meta", "host-meta-missing", "xmppgate", "http://"+g)
	full := gatewayFor(t, to, "XMPPGATE_MAX_SESSIONS=1")
	if err := poll(patience, func() error { // what asked whether it is ready may still be there
		c, err := dialWebSocket(full.url(), ws.Dialer{})
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.conn().Close() })
		return c.header(domain)
	}); err != nil {
		t.Fatal(err)
	}
	broken("xmppgate: full", "busy", "xmppgate", full.url())
	dead, err := startDeadGateway(t, nowhere)
	if err != nil {
		t.Fatal(err)
	}
	broken("xmppgate: no server", "remote-connection-failed", "xmppgate", dead)

	// Addresses
	broken("nobody listens", "refused", "client", "ws://"+nowhere+path)
	broken("no such host", "dns-no-address", "DNS", "ws://chat.doctor.invalid"+path)
	broken("the port for TCP", "xmpp-port", "client", "ws://"+prosody.c2s+path)
	broken("the port for TLS over TCP, wss", "xmpp-port", "client", "wss://"+strings.Replace(ejabberd.directTLS, "127.0.0.1", "localhost", 1)+path, "--ca", filepath.Join(ejabberd.dir, "localhost.crt"))
	broken("the port for TLS over TCP", "plain-to-tls", "client", "ws://"+ejabberd.directTLS+path)

	// Servers
	wrong := func(s *server) []string { return []string{"--jid", "nobody@" + domain, "--password-file", "-"} }
	broken("Prosody: no such account", "not-authorized", "account", prosody.gw.url(), wrong(prosody)...)
	broken("ejabberd: no such account", "not-authorized", "account", ejabberd.gw.url(), wrong(ejabberd)...)
	broken("Prosody: path", "path-unknown", "Prosody", "ws://"+prosody.http+"/ws")
	broken("ejabberd: path", "path-unknown", "ejabberd", "ws://"+ejabberd.http+"/ws")
	broken("Prosody: domain", "host-unknown", "Prosody", "ws://"+prosody.http+path, "--domain", "example.org")
	broken("ejabberd: domain", "host-unknown", "ejabberd", "ws://"+ejabberd.http+path, "--domain", "example.org")
	variants(t, broken)

	if len(all) < 25 {
		t.Fatalf("there are only %d set-ups", len(all))
	}
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

// variants starts servers that are configured otherwise.
func variants(t *testing.T, broken func(name, want, whom, target string, args ...string)) {
	stock := func(name string, edit func(string) string) (*server, []string) {
		s := stockServer(t, name, edit)
		return s, []string{"--jid", s.newUser(t, "ill") + "@" + domain, "--password-file", "-"}
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	// Debian's Prosody with its WebSocket module switched on, and nothing else.
	s, account := stock("prosody", func(c string) string {
		c = change(t, c, `--"websocket";`, `"websocket";`)
		c = change(t, c, `"smacks";`, "")
		return fmt.Sprintf("http_ports = { %d }\nhttp_interfaces = { \"127.0.0.1\" }\nhttps_ports = {}\nc2s_stanza_size_limit = 20000\n%s", ports[0], c)
	})
	broken("Prosody: TLS required", "tls-required", "Prosody", fmt.Sprintf("ws://127.0.0.1:%d/xmpp-websocket", ports[0]))
	g := gatewayFor(t, "tcp://"+s.c2s)
	broken("Prosody: no smacks, and a limit", "resume-not-offered,large-refused", "Prosody", g.url(), account...)

	s, account = stock("ejabberd", func(c string) string {
		c = change(t, c, "    resend_on_timeout: if_offline\n", "    resume_timeout: 0\n")
		c = change(t, c, "max_stanza_size: 262144", "max_stanza_size: 30000")
		return c + "\ndisable_sasl_mechanisms: [digest-md5, X-OAUTH2, SCRAM-SHA-1, SCRAM-SHA-256, SCRAM-SHA-512, SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS]\nwebsocket_timeout: 2 seconds\nwebsocket_ping_interval: 1 hour\nwebsocket_origin: [\"https://chat.example.org\"]\n"
	})
	g = gatewayFor(t, "tcp://"+s.c2s)
	native := "wss://" + strings.Replace(s.http, "127.0.0.1", "localhost", 1) + "/ws"
	own := append([]string{"--ca", filepath.Join(s.dir, "localhost.crt"), "--origin", "https://chat.example.org"}, account...)
	broken("ejabberd: a short timeout", "resume-disabled,idle-closed", "ejabberd", native, append(own, "--idle", "5s", "--large", "0")...)
	broken("ejabberd: PLAIN only", "plain-without-tls,no-usable-mechanism", "client", g.url(), account...)
	broken("ejabberd: no resumption, and a limit", "plain-without-tls,resume-disabled,large-refused", "ejabberd", g.url(), append(account, "--allow-plain")...)
	broken("ejabberd: origin", "origin-refused", "ejabberd", native, "--origin", "https://other.example.org", "--ca", filepath.Join(s.dir, "localhost.crt"))
}

// startDeadGateway is a gateway whose server is not there; /readyz never succeeds.
func startDeadGateway(t *testing.T, upstream string) (url string, err error) {
	l, err := net.Listen("tcp", upstream) // until the gateway is ready
	if err != nil {
		return "", err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := &tcp{c: c, in: newSplitter(c)}
				if _, err := in.next(); err == nil {
					in.send("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams + "' id='1' from='" + domain + "' version='1.0'><stream:features/>")
					in.next()
				}
			}()
		}
	}()
	return gatewayFor(t, "tcp://"+upstream).url(), nil
}
