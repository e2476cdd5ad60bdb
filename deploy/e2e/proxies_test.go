package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The proxies of docs/proxies.md, configured as it says. What differs are ports, the file of the certificate, and that
// Caddy gets none.
var proxies = []struct {
	program string
	begin   string // of the snippet, whose first line has a variable of the gateway
	http    bool   // it adds X-Forwarded-For, which has no port
	ends    bool   // TLS ends there
	passes  bool   // TLS is passed on
}{
	{program: "caddy", begin: "# Caddyfile", http: true},
	{program: "apache2", begin: "# apache2.conf", http: true},
	{program: "stunnel4", begin: "; stunnel.conf", ends: true},
	{program: "haproxy", begin: "# haproxy.cfg, TLS passed on", passes: true},
}

// Whatever stands in front, the server knows the client's address, and a client cannot claim another one.
//
// Behaviour: client-address. RFC 7239, section 8.1
func TestProxies(t *testing.T) {
	needGateway(t)
	t.Parallel()
	ca := newAuthority(t)
	certificate := writeBoth(t, ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	page, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if s.name != "ejabberd" { // Debian's Prosody knows no PROXY header
			continue
		}
		for _, p := range proxies {
			t.Run(p.program, func(t *testing.T) {
				with := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(p.begin) + `.* with (XMPPGATE_\S+)$`).FindSubmatch(page)
				if with == nil {
					t.Fatalf("docs/proxies.md has no snippet %q that names a variable", p.begin)
				}
				env := []string{string(with[1])}
				if p.passes {
					env = append(env, "XMPPGATE_TLS_CERT="+certificate)
				}
				g := gatewayFor(t, "tcp://"+s.proxy+"?proxy=v2", env...)
				front := &sites{t: t}
				_, port := front.port()
				f := &fronts{IPv4: front.addresses[0]}
				if p.ends || p.passes {
					f.TLS = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
				}
				text := snippet(t, "proxies.md", p.begin, "127.0.0.1:5290", g.listen)
				switch p.program {
				case "caddy":
					text = strings.Replace(text, "chat.example.org {", fmt.Sprintf("http://127.0.0.1:%d {\n\tbind 127.0.0.1", port), 1)
				case "apache2":
					text = fmt.Sprintf("Listen 127.0.0.1:%d\n", port) + text
				case "stunnel4":
					text = strings.NewReplacer("accept = 443", fmt.Sprintf("accept = 127.0.0.1:%d", port), "/etc/stunnel/chat.example.org.pem", certificate).Replace(text)
				case "haproxy":
					text = strings.Replace(text, "bind :443", fmt.Sprintf("bind 127.0.0.1:%d", port), 1)
				}
				front.config.WriteString(text + "\n")
				front.start(p.program)
				to := func(f *fronts) string { return f.IPv4 }
				for name, header := range map[string]http.Header{"plain": nil, "forged": forged("X-Forwarded-For: 198.51.100.9")} {
					t.Run(name, func(t *testing.T) {
						w := way{name: name, to: to, from: "127.0.0.5", header: header}
						if p.http {
							w.want = netip.MustParseAddrPort("127.0.0.5:0")
						}
						w.check(t, g, f, s.sessions)
					})
				}
			})
		}
	}
}
