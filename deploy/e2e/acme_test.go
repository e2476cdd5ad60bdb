package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/net/dns/dnsmessage"
)

// writeBoth writes a certificate with its key into one file.
func writeBoth(t *testing.T, c tls.Certificate) (file string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, der := range c.Certificate {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	file = filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Behaviour: real-clients. RFC 7395, section 3.10. Strophe.js over TLS that ends in the gateway: login, chat, room, a cut and resumption.
func TestClientsOverTLS(t *testing.T) {
	needGateway(t)
	ca := newAuthority(t)
	file := writeBoth(t, ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }))
	t.Setenv("NODE_EXTRA_CA_CERTS", ca.file)
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_TLS_CERT="+file)
			url := "wss://" + g.listen + "/xmpp-websocket"
			runScriptAt(t, url, "strophe.mjs", mucDomain, s.newUser(t, "alice"), s.newUser(t, "bob"), "login", "chat", "room", "cut", "resumed", "replayed", "close", "close")
			metrics, err := g.get("/metrics")
			if err != nil || !strings.Contains(metrics, `xmppgate_tls_versions_total{version="1.3"} `) || strings.Contains(metrics, `xmppgate_tls_versions_total{version="1.3"} 0`) {
				t.Errorf("no session with TLS 1.3: %v", err)
			}
		})
	}
}

// startPebble runs the certificate authority that Let's Encrypt made for tests. It checks domains at the two ports, and certifies them for so long. It returns the environment of a gateway that asks it, and a function that fetches its root.
func startPebble(t *testing.T, dns string, tlsPort, httpPort int, validity time.Duration) (env []string, root func() *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "pebble")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ca := newAuthority(t)
	own := writeBoth(t, ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }))
	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", ports[0]), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", ports[1]),
		"certificate": own, "privateKey": own, "tlsPort": tlsPort, "httpPort": httpPort, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "-", "validityPeriod": int(validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-config", file, "-dnsserver", dns)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	p, err := startProcess("pebble", cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("pebble:\n%s", p.log.tail(0))
		}
		p.kill()
	})
	if err := p.awaitReady(10*time.Second, func() error { return accepts(fmt.Sprintf("127.0.0.1:%d", ports[0])) }); err != nil {
		t.Fatal(err)
	}
	trust := x509.NewCertPool()
	trust.AddCert(ca.cert)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}}
	return []string{
			fmt.Sprintf("XMPPGATE_ACME_DIRECTORY=https://127.0.0.1:%d/dir", ports[0]), "XMPPGATE_ACME_CA=" + ca.file,
		}, func() *x509.CertPool {
			resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", ports[1]))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var text bytes.Buffer
			text.ReadFrom(resp.Body)
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(text.Bytes()) {
				t.Fatalf("root: %s", text.Bytes())
			}
			return pool
		}
}

// startDNSOverTCP is startDNS for a client that uses TCP, as pebble does.
func startDNSOverTCP(t *testing.T, z zone) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		for {
			var size uint16
			if binary.Read(c, binary.BigEndian, &size) != nil {
				return
			}
			buf := make([]byte, size)
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf) != nil || len(m.Questions) != 1 {
				return
			}
			q := m.Questions[0]
			if z.answer(strings.ToLower(q.Name.String())+" "+strings.TrimPrefix(q.Type.String(), "Type"), &m) != nil {
				return
			}
			packed, err := m.Pack()
			if err != nil {
				return
			}
			c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// Behaviour: real-clients. RFC 8555; RFC 8737. A real authority checks the gateway in both ways and certifies it; what it has certified outlives the process.
func TestACME(t *testing.T) {
	needGateway(t)
	const name = "xmpp.example.org"
	for _, way := range []string{"tls-alpn-01", "http-01"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			ports, err := freePorts(4)
			if err != nil {
				t.Fatal(err)
			}
			listen, challenge, nobody := ports[0], ports[1], ports[2]
			dns := startDNSOverTCP(t, zone{name + ". A": "127.0.0.1"})
			cache := filepath.Join(t.TempDir(), "acme")
			tlsPort := listen
			env := []string{fmt.Sprintf("XMPPGATE_LISTEN=127.0.0.1:%d", listen), "XMPPGATE_ACME_DOMAINS=" + name, "XMPPGATE_ACME_CACHE=" + cache, "XMPPGATE_ACME_EMAIL=a@example.org"}
			if way == "http-01" {
				tlsPort = nobody
				env = append(env, fmt.Sprintf("XMPPGATE_ACME_LISTEN=127.0.0.1:%d", challenge))
			}
			more, root := startPebble(t, dns, tlsPort, challenge, 90*24*time.Hour)
			env = append(env, more...)
			g := gatewayFor(t, "tcp://"+servers[0].c2s, env...)
			roots := root()
			trusted := func() (*x509.Certificate, error) {
				c, err := tls.Dial("tcp", g.listen, &tls.Config{RootCAs: roots, ServerName: name, NextProtos: []string{"http/1.1"}})
				if err != nil {
					return nil, err
				}
				defer c.Close()
				return c.ConnectionState().PeerCertificates[0], nil
			}
			var first *x509.Certificate
			for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
				if first, err = trusted(); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("no certificate: %v", err)
				}
			}
			metrics, err := g.get("/metrics")
			if err != nil || !strings.Contains(metrics, `xmppgate_tls_certificate_expiry_timestamp_seconds{file="acme:`+name+`"} `) ||
				way == "tls-alpn-01" && !strings.Contains(metrics, `xmppgate_upgrades_total{result="acme-challenge"} `) {
				t.Errorf("%v\n%s", err, metrics)
			}
			if way == "http-01" {
				client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/xmpp-websocket", challenge))
				if err != nil || resp.StatusCode != http.StatusFound || !strings.HasPrefix(resp.Header.Get("Location"), "https://") {
					t.Errorf("a browser gets %v, %v", resp, err)
				}
			}
			if _, err := tls.Dial("tcp", g.listen, &tls.Config{InsecureSkipVerify: true, ServerName: "other.example.org", NextProtos: []string{"acme-tls/1"}}); err == nil {
				t.Error("a challenge for another domain is answered")
			}
			// The next process has it from the directory.
			g.proc.kill()
			if err := g.start(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				second, err := trusted()
				if err == nil {
					if !second.Equal(first) {
						t.Error("the next process asked for another certificate")
					}
					break
				}
				if time.Now().After(end) {
					t.Fatal(err)
				}
			}
		})
	}
}

// Behaviour: real-clients. RFC 8555. A certificate is renewed before it expires, while the gateway runs. Sessions that began
// with the old one go on, and at no time does a client get one that has expired.
func TestACMERenewal(t *testing.T) {
	needGateway(t)
	t.Parallel()
	const name, validity = "xmpp.example.org", time.Minute // of which the last third is for the renewal
	s := servers[0]
	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	env, root := startPebble(t, startDNSOverTCP(t, zone{name + ". A": "127.0.0.1"}), ports[0], ports[1], validity)
	g := gatewayFor(t, "tcp://"+s.c2s, append(env, fmt.Sprintf("XMPPGATE_LISTEN=127.0.0.1:%d", ports[0]), "XMPPGATE_ACME_DOMAINS="+name,
		"XMPPGATE_ACME_CACHE="+filepath.Join(t.TempDir(), "acme"))...)
	config := &tls.Config{RootCAs: root(), ServerName: name, NextProtos: []string{"http/1.1"}}
	presented := func() (*x509.Certificate, error) {
		c, err := tls.Dial("tcp", g.listen, config)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0], nil
	}
	var first *x509.Certificate
	if err := poll(30*time.Second, func() (err error) { first, err = presented(); return err }); err != nil {
		t.Fatalf("no certificate: %v", err)
	}
	w, err := dialWebSocket("wss://"+g.listen+"/xmpp-websocket", ws.Dialer{TLSConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{transport: w}
	if err := c.login(domain, s.newUser(t, "juliet"), "balcony"); err != nil {
		t.Fatal(err)
	}
	u := &user{c, t}
	u.appear()
	echo := func(id string) {
		t.Helper()
		u.say(fmt.Sprintf("<message to='%s' id='%s'><body>x</body></message>", u.jid, id))
		u.hear("own message "+id, func(e *element) bool { return e.is("message") && e.attr("id") == id })
	}
	second := first
	for n := 0; second.Equal(first); n++ {
		time.Sleep(time.Second)
		echo(fmt.Sprint("old-", n))
		if second, err = presented(); err != nil {
			t.Fatalf("%v after it was issued a client is refused: %v", time.Since(first.NotBefore), err)
		}
	}
	t.Logf("of %v, %v were left", validity, time.Until(first.NotAfter))
	if !second.NotAfter.After(first.NotAfter) || second.DNSNames[0] != name {
		t.Errorf("the new one is for %q until %v", second.DNSNames, second.NotAfter)
	}
	time.Sleep(time.Until(first.NotAfter) + time.Second) // the old one is worth nothing any more
	echo("new")
	if n, err := g.metric(`xmppgate_tls_certificate_expiry_timestamp_seconds{file="acme:` + name + `"}`); err != nil || n < float64(second.NotAfter.Unix()) {
		t.Errorf("the metric is %v, %v; want %d or later", n, err, second.NotAfter.Unix())
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}
