package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy"
	"xmppgate/proxy/clientaddr"
)

func TestDefaults(t *testing.T) {
	c, err := loadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	router, err := c.newRouter(&observer{})
	if err != nil {
		t.Fatal(err)
	}
	if all := router.Status(); len(all) != 1 || all[0].Name != "tcp://127.0.0.1:5222" {
		t.Errorf("the servers are %v", all)
	}
	c.parsed = parsed{}
	want := &config{
		Listen:                 list{":5290"},
		Path:                   proxy.DefaultPaths,
		Upstream:               list{"tcp://127.0.0.1:5222"},
		UpstreamPolicy:         "hash",
		ChannelBinding:         "auto",
		ACMEDirectory:          "https://acme-v02.api.letsencrypt.org/directory",
		ClientAddressHeader:    clientaddr.DefaultHeader,
		AdminListen:            list{"127.0.0.1:9280"},
		MaxStanzaBytes:         proxy.DefaultMaxStanza,
		MaxServerStanzaBytes:   proxy.DefaultMaxServerStanza,
		LimitsExempt:           list{"loopback", "private"},
		NetworkIPv4Bits:        32,
		NetworkIPv6Bits:        64,
		NetworkRequests:        rateText{proxy.Rate{PerSecond: 100, Burst: 1000}, "100/s:1000"},
		NetworkHandshakes:      rateText{proxy.Rate{PerSecond: 100, Burst: 1000}, "100/s:1000"},
		NetworkFailedLogins:    rateText{proxy.Rate{PerSecond: 10 / 60.0, Burst: 100}, "10/m:100"},
		StanzaRate:             100,
		ByteRate:               512 << 10,
		AuthTimeout:            5 * time.Minute,
		PingInterval:           proxy.DefaultPingInterval,
		Compression:            "off",
		CompressionMemory:      proxy.DefaultCompressionMemory,
		DrainTimeout:           25 * time.Second,
		ConnectionMetricsLimit: 1000,
		LogLevel:               slog.LevelInfo,
		LogFormat:              "auto",
		Loop:                   "auto",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if w := c.warnings(); w != nil {
		t.Errorf("warnings: %q", w)
	}
}

// Every field needs the three tags that the tables are made of.
func TestVariablesAreDescribed(t *testing.T) {
	for f := range reflect.TypeFor[config]().Fields() {
		if !f.IsExported() {
			continue
		}
		if f.Tag.Get("env") == "" || f.Tag.Get("help") == "" {
			t.Errorf("%s has no name or no help", f.Name)
		}
	}
}

// Every number has bounds, the default is within them, and the help says so.
func TestNumbersAreBounded(t *testing.T) {
	c, err := loadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	numbers := 0
	for _, v := range variables() {
		if _, ok := number(reflect.ValueOf(*c).Field(v.field)); !ok {
			continue
		}
		numbers++
		b, ok := bounds[strings.TrimPrefix(v.name, prefix)]
		if !ok || b.least >= b.most {
			t.Errorf("%s has no bounds: %+v", v.name, b)
		}
		if want := b.limits(reflect.TypeFor[config]().Field(v.field).Type); !strings.HasSuffix(v.help, "; "+want) {
			t.Errorf("%s: the help does not contain %q: %s", v.name, want, v.help)
		}
	}
	if numbers != len(bounds) {
		t.Errorf("%d numbers, %d bounds", numbers, len(bounds))
	}
}

// An empty value is what compose files write for "not set".
func TestEmptyIsUnset(t *testing.T) {
	environ := map[string]string{}
	for _, v := range variables() {
		environ[v.name] = ""
	}
	got, err := loadConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	want, err := loadConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	want.AdminListen = nil // the exception: empty means none
	got.parsed, want.parsed = parsed{}, parsed{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestAccepted(t *testing.T) {
	for _, environ := range []map[string]string{
		{"LISTEN": "unix:/run/xmppgate/ws.sock, 127.0.0.1:5290 ,[::1]:5290"},
		{"ADMIN_LISTEN": "unix:/run/xmppgate/admin.sock"},
		{"ADMIN_LISTEN": "[::1]:9280,localhost:9280"},
		{"ADMIN_LISTEN": "127.8.9.10:9280"},
		{"ADMIN_LISTEN": ":9280", "UNSAFE_ADMIN": "true"},
		{"UPSTREAM": "tcp://localhost:5222"},
		{"UPSTREAM": "tcp://[::1]:5222"},
		{"UPSTREAM": "unix:/run/prosody/c2s.sock"},
		{"UPSTREAM": "tcp://prosody:5222", "UNSAFE_UPSTREAM": "true"},
		{"DOMAINS": "example.org, 例え.jp,[2001:db8::1]"},
		{"ORIGINS": "https://Chat.example.org:443,https://*.example.org,http://localhost:8080,capacitor://localhost,null,file://"},
		{"PATH": "/*/xmpp-websocket,/ws/"},
		{"UPSTREAM": "srv:", "DOMAINS": "example.org"},
		{"UPSTREAM": "srv:example.org", "DNS": "127.0.0.53:53"},
		{"UPSTREAM": "tls://one.example, starttls://two.example?name=example.org", "UPSTREAM_POLICY": "first"},
		{"DOMAINS": "example.org = tls://a | tls://b, example.net", "DNS": "::1", "CHANNEL_BINDING": "end-point"},
		{"PROXY_PROTOCOL": "10.0.0.1,192.168.0.0/16,2001:db8::/32", "TRUSTED_PROXIES": "unix,127.0.0.1"},
		{"DOMAINS": "127.0.0.1,my_host,xn--bcher-kva.example,☃.example,example.org.", "ADMIN_HOSTS": "gate,bücher.example,10.0.0.1"},
		{"SEE_OTHER": "[2001:db8::1]:5222=WSS://node1.example.org:8443/ws,node1=ws://[::1]/"},
		{"SEE_OTHER": "node2.example.org:5222=wss://node2.example.org/ws?a=b"},
		{"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"},
		{"MAX_STANZA_BYTES": "10000", "PING_INTERVAL": "1s", "DRAIN_DELAY": "0s", "DRAIN_TIMEOUT": "1s", "CONNECTION_METRICS_LIMIT": "0"},
		// What Kubernetes adds when services are called xmppgate and
		// xmppgate-admin.
		{"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "5290", "SERVICE_PORT_XMPP_WS": "5290", "PORT": "tcp://10.0.0.1:5290", "PORT_5290_TCP": "tcp://10.0.0.1:5290",
			"PORT_5290_TCP_PROTO": "tcp", "PORT_5290_TCP_PORT": "5290", "PORT_5290_TCP_ADDR": "10.0.0.1", "ADMIN_SERVICE_HOST": "10.0.0.2", "ADMIN_PORT": "tcp://10.0.0.2:9280"},
		// What container links to xmppgate, xmppgate-db and, of compose,
		// xmppgate_1 add, environment of the other container included.
		{"NAME": "/app/xmppgate", "PORT": "tcp://172.17.0.2:5432", "ENV_PATH": "/bin", "ENV_lower": "x", "ENV_LISTN": "y"},
		{"DB_NAME": "/app/xmppgate-db", "DB_PORT": "udp://172.17.0.2:53", "DB_PORT_53_UDP_ADDR": "172.17.0.2", "DB_ENV_HOME": "/"},
		{"1_NAME": "/project_app_1/xmppgate_1", "1_PORT_6000_TCP_START": "tcp://172.17.0.2:6000", "1_PORT_6000_TCP_PORT_END": "6003", "1_PORT_6000_TCP_END": "x", "1_ENV_A": ""},
		// Other addresses and other sockets beside each other.
		{"LISTEN": "127.0.0.1:5290,[::1]:5290,127.0.0.2:5290,:0,:0,unix:/a,unix:/b", "ADMIN_LISTEN": "127.0.0.1:9280,unix:/c"},
		{"UPSTREAM": "tcp://127.0.0.1:5222", "LISTEN": "127.0.0.2:5222"},
		{"UPSTREAM": "tls://xmpp.example.org:5290"},
		{"LISTEN": "unix:/run/g.sock?mode=0660&group=0", "ADMIN_LISTEN": "unix:/run/a.sock?mode=600"},
	} {
		if _, err := loadConfig(prefixed(environ)); err != nil {
			t.Errorf("%v: %v", environ, err)
		}
	}
}

// Everything that would fail only when it is bound, or worse, work.
func TestListenersThatConflict(t *testing.T) {
	for _, c := range []struct {
		environ map[string]string
		want    string
	}{
		{map[string]string{"LISTEN": ":5290,:5290"}, `XMPPGATE_LISTEN=":5290,:5290": :5290 is taken by :5290 in XMPPGATE_LISTEN`},
		{map[string]string{"LISTEN": "127.0.0.1:9280"}, `127.0.0.1:9280 is taken by 127.0.0.1:9280 in XMPPGATE_LISTEN`},
		{map[string]string{"LISTEN": "0.0.0.0:9280"}, `is taken by 0.0.0.0:9280`},
		{map[string]string{"LISTEN": "[::]:9280"}, `is taken by [::]:9280`},
		{map[string]string{"LISTEN": ":9280"}, `is taken by :9280`},
		{map[string]string{"LISTEN": "localhost:9280"}, `is taken by localhost:9280`},
		{map[string]string{"LISTEN": "[::ffff:127.0.0.1]:9280"}, `is taken by`},
		{map[string]string{"LISTEN": "127.0.0.1:5290,0.0.0.0:05290"}, `is taken by`},
		{map[string]string{"LISTEN": "[::1]:5290,[0:0:0:0:0:0:0:1]:5290"}, `is taken by`},
		{map[string]string{"LISTEN": "0.0.0.0:5290,[::]:5290"}, `is taken by`},
		{map[string]string{"LISTEN": "gate.example:5290,Gate.Example:5290"}, `is taken by`},
		{map[string]string{"LISTEN": "unix:/run/a,unix:/run/../run//a"}, `unix:/run/../run//a is taken by unix:/run/a`},
		{map[string]string{"LISTEN": "unix:/run/a?mode=0600", "ADMIN_LISTEN": "unix:/run/a"}, `unix:/run/a is taken by unix:/run/a in XMPPGATE_LISTEN`},

		{map[string]string{"UPSTREAM": "tcp://127.0.0.1:5290"}, `XMPPGATE_LISTEN=":5290": :5290 is also a server, tcp://127.0.0.1:5290: the gateway would connect to itself`},
		{map[string]string{"UPSTREAM": "tcp://localhost:5222", "LISTEN": ":5222"}, `:5222 is also a server`},
		{map[string]string{"UPSTREAM": "tcp://localhost:5222", "LISTEN": "127.0.0.1:5222"}, `127.0.0.1:5222 is also a server`},
		{map[string]string{"UPSTREAM": "tcp://[::1]:5222", "LISTEN": "0.0.0.0:5222"}, `0.0.0.0:5222 is also a server`},
		{map[string]string{"UPSTREAM": "tls://127.0.0.1:9280"}, `XMPPGATE_ADMIN_LISTEN="127.0.0.1:9280": 127.0.0.1:9280 is also a server`},
		{map[string]string{"UPSTREAM": "starttls://127.0.0.9:5290"}, `is also a server`},
		{map[string]string{"UPSTREAM": "tls://a", "DOMAINS": "a.example=tls://b|tcp://127.0.0.1:5290"}, `is also a server`},
		{map[string]string{"UPSTREAM": "unix:/run/ws", "LISTEN": "unix:/run//ws"}, `unix:/run//ws is also a server`},
	} {
		_, err := loadConfig(prefixed(c.environ))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want %s", c.environ, err, c.want)
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		ip := a.(*net.IPNet).IP
		_, err := loadConfig(prefixed(map[string]string{"UPSTREAM": "tls://" + net.JoinHostPort(ip.String(), "5290")}))
		if err == nil || !strings.Contains(err.Error(), "connect to itself") {
			t.Errorf("own address %v: %v", ip, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"LISTEN", "127.0.0.1:5290?tls=on", `the only option of a TCP address is ?tls=off`},
		{"LISTEN", "127.0.0.1:5290?", `the only option of a TCP address is ?tls=off`},
		{"ADMIN_LISTEN", "127.0.0.1:9281?tls=off", `the admin address never speaks TLS`},
		{"ACME_DOMAINS", "a.example", `set XMPPGATE_ACME_CACHE to a directory`},
		{"ACME_DOMAINS", "localhost", `"localhost" is not a host name that an authority certifies`},
		{"ACME_DOMAINS", "192.0.2.1", `"192.0.2.1" is not a host name that an authority certifies`},
		{"ACME_DOMAINS", "*.a.example", `"*.a.example" is not a host name that an authority certifies`},
		{"ACME_DOMAINS", "bücher.example", `in its xn-- form`},
		{"TLS_KEY", "/k", `the certificates are missing: set XMPPGATE_TLS_CERT`},
		{"TLS_CERT", "/nowhere", `/nowhere: open /nowhere: no such file`},
		{"TLS_CERT", "/nowhere,/nowhere", `/nowhere is listed twice`},
		{"LISTEN", "5290", `"5290" is not an address: write host:port, :port or unix:/path`},
		{"LISTEN", "unix:/run/", `write unix:/path`},
		{"LISTEN", "unix:/" + strings.Repeat("x", maxSocketPath), `is too long: a Unix socket allows at most`},
		{"LISTEN", "unix:/a?mode=0888", `option mode: write permissions in octal, such as 0660`},
		{"LISTEN", "unix:/a?mode=01777", `option mode`},
		{"LISTEN", "unix:/a?mode=", `option mode`},
		{"LISTEN", "unix:/a?mode=0", `option mode`},
		{"LISTEN", "unix:/a?mode=-1", `option mode`},
		{"LISTEN", "unix:/a?mode=u+rw", `option mode`},
		{"LISTEN", "unix:/a?mode=0660&mode=0666", `option mode listed twice`},
		{"LISTEN", "unix:/a?group=no-such-group", `group "no-such-group" does not exist on this machine`},
		{"LISTEN", "unix:/a?group=", `group "" does not exist`},
		{"LISTEN", "unix:/a?owner=root", `unknown option "owner"; there are mode and group`},
		{"LISTEN", "unix:/a?mode=%zz", `options that are not a query`},
		{"ADMIN_LISTEN", "unix:/a?mod=0660", `unknown option "mod"`},
		{"LISTEN", ":http", `":http" is not an address`},
		{"LISTEN", ":70000", `":70000" is not an address`},
		{"LISTEN", ":1,,:2", `an item is empty`},
		{"LISTEN", "unix:ws.sock", `"unix:ws.sock" has no absolute path`},
		{"PATH", "ws", `"ws" is not a URL path`},
		{"PATH", "/ws?x=1", `"/ws?x=1" is not a URL path`},
		{"PATH", "/x*/ws", `as in /*/xmpp-websocket`},
		{"UPSTREAM", "gopher://x", `gopher`},
		{"UPSTREAM", "tcp://192.0.2.1:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"UPSTREAM", "tcp://prosody:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"UPSTREAM", "tcp://localhost.example.org:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"DOMAINS", "*", `"*" is not a domain`},
		{"DOMAINS", "example.org:5222", `is not a domain`},
		{"DOMAINS", "example.org;example.net", `is not a domain`},
		{"DOMAINS", "example..org", `is not a domain`},
		{"DOMAINS", ".", `is not a domain`},
		{"DOMAINS", "a\x01.org", `is not a domain`},
		{"DOMAINS", "a\xff.org", `is not a domain`},
		{"DOMAINS", strings.Repeat("a", 64) + ".org", `is not a domain`},
		{"DOMAINS", strings.Repeat("a.", 150) + "org", `is not a domain`},
		{"DOMAINS", "[192.0.2.1]", `is not a domain`},
		{"DOMAINS", "=tcp://127.0.0.1:5222", `"" is not a domain`},
		{"DOMAINS", "example.org=", `server "": write tcp://host:port`},
		{"DOMAINS", "example.org=gopher://x", `server "gopher://x": write tcp://host:port`},
		{"DOMAINS", "example.org=tcp://192.0.2.1", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"DOMAINS", "example.org=tls://a|tls://a", `server "tls://a" is listed twice`},
		{"DOMAINS", "Example.org.=tls://a,example.org=tls://b", `"example.org" is listed twice: write domain=URL|URL`},
		{"DOMAINS", "example.org=srv:|srv:example.org", `server srv:example.org is listed twice`},
		{"UPSTREAM", "tls://a,tls://a", `server "tls://a" is listed twice: remove one`},
		{"UPSTREAM", "srv:", `list yours in XMPPGATE_DOMAINS, or write srv:name`},
		{"UPSTREAM", "unix:/" + strings.Repeat("a", 107), `at most 107 bytes`},
		{"DOMAINS", "example.org=srv:,192.0.2.1=srv:", `no server for 192.0.2.1: it is an address`},
		{"UPSTREAM", "tls://a?ca=/nonexistent", `option ca: open /nonexistent`},
		{"UPSTREAM_POLICY", "random", `must be one of first, hash, least-sessions, round-robin`},
		{"CHANNEL_BINDING", "keep", `must be one of auto, end-point, pass, strip`},
		{"DNS", "127.0.0.53:dns", `write host:port, such as 127.0.0.53:53`},
		{"DNS", "*", `write host:port`},
		{"DNS", "a..b:53", `write host:port`},
		{"DNS", ":53", `write host:port`},
		{"DNS", "127.0.0.53:0", `write host:port`},
		{"PROXY_PROTOCOL", "10.0.0.0/33", `"10.0.0.0/33" is not a network: write one such as 10.0.0.0/8`},
		{"PROXY_PROTOCOL", "unix", `"unix" is not a network`},
		{"TRUSTED_PROXIES", "loadbalancer", `"loadbalancer" is not a network`},
		{"SEE_OTHER", "node2:5222", `"node2:5222" is not host=URL`},
		{"SEE_OTHER", "node2:5222=node3:5222", `is not host=URL`},
		{"SEE_OTHER", "a:99999=wss://a/ws", `is not host=URL`},
		{"SEE_OTHER", "a b=wss://a/ws", `is not host=URL`},
		{"SEE_OTHER", "tcp://a=wss://a/ws", `is not host=URL`},
		{"SEE_OTHER", "a=wss://u:p@a/ws", `is not host=URL`},
		{"SEE_OTHER", "a=wss://a/ws#x", `is not host=URL`},
		{"SEE_OTHER", "a=wss://a:99999/ws", `is not host=URL`},
		{"SEE_OTHER", "a=wss://:443/ws", `is not host=URL`},
		{"SEE_OTHER", "a=wss://a/ws,a=wss://b/ws", `"a" is listed twice`},
		{"DOMAINS", "user@example.org", `is not a domain`},
		{"ORIGINS", "*", `"*" is not an origin`},
		{"ORIGINS", "wss://chat.example.org", `write https://chat.example.org`},
		{"ORIGINS", "chat.example.org", `is not an origin`},
		{"ORIGINS", "https://chat.example.org/", `is not an origin`},
		{"ADMIN_LISTEN", ":9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "0.0.0.0:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "[::]:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "myhost:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "9280", `"9280" is not an address`},
		{"MAX_STANZA_BYTES", "9999", `at least 10000`},
		{"MAX_SERVER_STANZA_BYTES", "262143", `at least as much as XMPPGATE_MAX_STANZA_BYTES (262144)`},
		{"MAX_SERVER_STANZA_BYTES", "1073741825", `at most 1073741824`},
		{"MAX_STANZA_BYTES", "256k", `not a number, or too large: write digits only`},
		{"MAX_STANZA_BYTES", "99999999999", `too large`},
		{"MAX_STANZA_BYTES", "67108865", `at most 67108864`},
		{"MAX_SERVER_STANZA_BYTES", "-1", `at least 10000`},
		{"MAX_SESSIONS", "-1", `at least 0`},
		{"MAX_SESSIONS", "2147483647", `at most 500000000`},
		{"PING_INTERVAL", "2540400h", `at most 24h`},
		{"PING_INTERVAL", "-30s", `at least 1s`},
		{"DRAIN_DELAY", "1h1s", `at least 0s and at most 1h`},
		{"DRAIN_TIMEOUT", "24h0m1s", `at least 1s and at most 24h`},
		{"CONNECTION_METRICS_LIMIT", "2147483647", `at most 100000`},
		{"PING_INTERVAL", "30", `not a duration: write one with its unit, such as 30s or 2m`},
		{"PING_INTERVAL", "999ms", `at least 1s`},
		{"DRAIN_TIMEOUT", "0s", `at least 1s`},
		{"CONNECTION_METRICS_LIMIT", "-1", `at least 0`},
		{"PROFILE", "yes", `must be true or false`},
		{"ADMIN_HOSTS", "a..b", `is not a name`},
		{"ADMIN_HOSTS", "a'b", `is not a name`},
		{"ADMIN_HOSTS", "a;b", `is not a name`},
		{"ADMIN_HOSTS", "a.example:9280", `is not a name`},
		{"LOG_LEVEL", "debug+100", `must be one of debug, info, warn, error`},
		{"LOG_LEVEL", "error+1", `must be one of debug, info, warn, error`},
		{"LOG_LEVEL", "loud", `must be one of debug, info, warn, error`},
		{"CLIENT_ADDRESS_HEADER", "X-Client", `must be one of X-Forwarded-For, Forwarded, X-Real-IP, CF-Connecting-IP, True-Client-IP, Fly-Client-IP`},
		{"LOG_FORMAT", "xml", `must be one of auto, text, journal, json`},
		{"LOOP", "kqueue", `must be one of auto, goroutine`},
	} {
		_, err := loadConfig(prefixed(map[string]string{c.name: c.value}))
		if err == nil {
			t.Errorf("%s=%q was accepted", c.name, c.value)
			continue
		}
		got := err.Error()
		if !strings.HasPrefix(got, prefix+c.name+"=") || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s=%q: %s", c.name, c.value, got)
		}
	}
}

// Variables that need more parsing than a word or a number.
func TestParsed(t *testing.T) {
	c, err := loadConfig(prefixed(map[string]string{
		"DOMAINS":               "Example.ORG.=unix:/a|unix:/b, bücher.example=unix:/c",
		"PROXY_PROTOCOL":        "::ffff:10.0.0.1,192.168.7.7/16,::ffff:172.16.0.0/108",
		"TRUSTED_PROXIES":       "unix,2001:db8::1",
		"CLIENT_ADDRESS_HEADER": "cf-connecting-ip",
		"SEE_OTHER":             "a:5222=wss://a/ws?x=y",
	}))
	if err != nil {
		t.Fatal(err)
	}
	router, err := c.newRouter(&observer{})
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range []struct{ what, got, want string }{
		{"domains", fmt.Sprint(c.domains), "[example.org xn--bcher-kva.example]"},
		{"servers", serverNames(router), "unix:/a,unix:/b,unix:/c"}, // without the default, where no session gets
		{"client address", fmt.Sprint(c.clientAddress), "{[10.0.0.1/32 192.168.0.0/16 172.16.0.0/12] [2001:db8::1/128] true CF-Connecting-IP}"},
		{"see other", fmt.Sprint(c.seeOther), "map[a:5222:wss://a/ws?x=y]"},
		{"warnings", fmt.Sprint(c.warnings()), "[]"},
	} {
		if check.got != check.want {
			t.Errorf("%s: %s, want %s", check.what, check.got, check.want)
		}
	}
}

// A server that is shown a certificate may take clients for the gateway,
// wherever it is configured.
func TestHidesExternal(t *testing.T) {
	cert, key := writeCertificate(t)
	tls := "tls://a?cert=" + cert + "&key=" + key
	for _, test := range []struct {
		environ map[string]string
		want    bool
	}{
		{nil, false},
		{map[string]string{"UPSTREAM": "tls://b," + tls}, true},
		{map[string]string{"DOMAINS": "example.org,example.net=tls://b|" + tls}, true},
	} {
		c, err := loadConfig(prefixed(test.environ))
		if err != nil {
			t.Fatal(err)
		}
		if c.hidesExternal() != test.want {
			t.Errorf("%v: %v", test.environ, !test.want)
		}
	}
}

// writeCertificate returns the files of a certificate that signs itself.
func writeCertificate(t *testing.T, names ...string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}

func TestUnknownVariables(t *testing.T) {
	for name, want := range map[string]string{
		"LISTN":         "XMPPGATE_LISTN: no such variable: did you mean XMPPGATE_LISTEN?",
		"PATHS":         "XMPPGATE_PATHS: no such variable: did you mean XMPPGATE_PATH?",
		"PORT":          "XMPPGATE_PORT: no such variable: run xmppgate --help for all of them",
		"NAME":          "XMPPGATE_NAME: no such variable: run xmppgate --help for all of them", // a link's value is a path
		"ENV":           "XMPPGATE_ENV: no such variable: run xmppgate --help for all of them",
		"UPSTREAM_PORT": "XMPPGATE_UPSTREAM_PORT: no such variable: did you mean XMPPGATE_UPSTREAM_POLICY?",
		"COLOUR":        "XMPPGATE_COLOUR: no such variable: run xmppgate --help for all of them",
		"listen":        "XMPPGATE_listen: no such variable: run xmppgate --help for all of them",
	} {
		_, err := loadConfig(prefixed(map[string]string{name: "5290"}))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := loadConfig(map[string]string{"OTHER_LISTN": "x"}); err != nil {
		t.Error(err)
	}
}

func TestWarnsAboutSlowPings(t *testing.T) {
	c, err := loadConfig(prefixed(map[string]string{"PING_INTERVAL": "1m"}))
	if err != nil {
		t.Fatal(err)
	}
	if w := c.warnings(); len(w) != 1 || !strings.Contains(w[0], "XMPPGATE_PING_INTERVAL=1m0s") {
		t.Errorf("%q", w)
	}
}

func TestSessionLimit(t *testing.T) {
	for _, c := range []struct {
		configured  int
		descriptors uint64
		want        int
	}{{0, 0, 0}, {7, 0, 7}, {7, 20, 7}, {0, 20000, 9808}, {0, 1024, 320}, {0, 385, 1}, {0, 100, 1}} {
		if got := sessionLimit(c.configured, c.descriptors); got != c.want {
			t.Errorf("%d, %d files: %d, want %d", c.configured, c.descriptors, got, c.want)
		}
	}
}

func prefixed(environ map[string]string) map[string]string {
	named := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		named[prefix+name] = environ[name]
	}
	return named
}
