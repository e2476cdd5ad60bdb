package main

import (
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy"
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
	if a, ok := router.Direct().(*net.TCPAddr); !ok || a.String() != "127.0.0.1:5222" {
		t.Errorf("the address of the server is %v", router.Direct())
	}
	c.parsed = parsed{}
	want := &config{
		Listen:                 list{":5280"},
		Path:                   proxy.DefaultPaths,
		Upstream:               list{"tcp://127.0.0.1:5222"},
		UpstreamPolicy:         "hash",
		ChannelBinding:         "pass",
		AdminListen:            list{"127.0.0.1:9280"},
		MaxStanzaBytes:         proxy.DefaultMaxStanza,
		PingInterval:           proxy.DefaultPingInterval,
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
		{"LISTEN": "unix:/run/xmppgate/ws.sock, 127.0.0.1:5280 ,[::1]:5280"},
		{"ADMIN_LISTEN": "unix:/run/xmppgate/admin.sock"},
		{"ADMIN_LISTEN": "[::1]:9280,localhost:9280"},
		{"ADMIN_LISTEN": "127.8.9.10:9280"},
		{"ADMIN_LISTEN": ":9280", "UNSAFE_ADMIN": "true"},
		{"UPSTREAM": "tcp://localhost:5222"},
		{"UPSTREAM": "tcp://[::1]:5222"},
		{"UPSTREAM": "unix:/run/prosody/c2s.sock"},
		{"UPSTREAM": "tcp://prosody:5222", "UNSAFE_UPSTREAM": "true"},
		{"DOMAINS": "example.org, 例え.jp,[2001:db8::1]"},
		{"ORIGINS": "https://chat.example.org,http://localhost:8080,capacitor://localhost,null"},
		{"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"},
		{"MAX_STANZA_BYTES": "10000", "PING_INTERVAL": "1s", "DRAIN_TIMEOUT": "1s", "CONNECTION_METRICS_LIMIT": "0"},
		// What Kubernetes adds when services are called xmppgate and
		// xmppgate-admin.
		{"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "5280", "SERVICE_PORT_XMPP_WS": "5280", "PORT": "tcp://10.0.0.1:5280", "PORT_5280_TCP": "tcp://10.0.0.1:5280",
			"PORT_5280_TCP_PROTO": "tcp", "PORT_5280_TCP_PORT": "5280", "PORT_5280_TCP_ADDR": "10.0.0.1", "ADMIN_SERVICE_HOST": "10.0.0.2", "ADMIN_PORT": "tcp://10.0.0.2:9280"},
	} {
		if _, err := loadConfig(prefixed(environ)); err != nil {
			t.Errorf("%v: %v", environ, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"LISTEN", "5280", `"5280" is not an address: write host:port, :port or unix:/path`},
		{"LISTEN", ":http", `":http" is not an address`},
		{"LISTEN", ":70000", `":70000" is not an address`},
		{"LISTEN", ":1,,:2", `an item is empty`},
		{"LISTEN", "unix:ws.sock", `"unix:ws.sock" has no absolute path`},
		{"PATH", "ws", `"ws" is not a URL path`},
		{"PATH", "/ws?x=1", `"/ws?x=1" is not a URL path`},
		{"UPSTREAM", "gopher://x", `gopher`},
		{"UPSTREAM", "tcp://192.0.2.1:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"UPSTREAM", "tcp://prosody:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"UPSTREAM", "tcp://localhost.example.org:5222", `XMPPGATE_UNSAFE_UPSTREAM=true`},
		{"DOMAINS", "*", `"*" is not a domain`},
		{"DOMAINS", "example.org=tcp://127.0.0.1:5222", `is not a domain`},
		{"DOMAINS", "user@example.org", `is not a domain`},
		{"ORIGINS", "*", `"*" is not an origin`},
		{"ORIGINS", "chat.example.org", `is not an origin`},
		{"ORIGINS", "https://chat.example.org/", `is not an origin`},
		{"ADMIN_LISTEN", ":9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "0.0.0.0:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "[::]:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "myhost:9280", `XMPPGATE_UNSAFE_ADMIN=true`},
		{"ADMIN_LISTEN", "9280", `"9280" is not an address`},
		{"MAX_STANZA_BYTES", "9999", `at least 10000`},
		{"MAX_STANZA_BYTES", "256k", `not a number: write digits only`},
		{"MAX_SESSIONS", "-1", `negative`},
		{"PING_INTERVAL", "30", `not a duration: write one with its unit, such as 30s or 2m`},
		{"PING_INTERVAL", "999ms", `at least 1s`},
		{"DRAIN_TIMEOUT", "0s", `at least 1s`},
		{"CONNECTION_METRICS_LIMIT", "-1", `negative`},
		{"PROFILE", "yes", `neither true nor false`},
		{"LOG_LEVEL", "loud", `write debug, info, warn or error`},
		{"LOG_FORMAT", "xml", `write auto, text or json`},
		{"LOOP", "kqueue", `write auto or goroutine`},
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

func TestUnknownVariables(t *testing.T) {
	for name, want := range map[string]string{
		"LISTN":  "XMPPGATE_LISTN: no such variable: did you mean XMPPGATE_LISTEN?",
		"PATHS":  "XMPPGATE_PATHS: no such variable: did you mean XMPPGATE_PATH?",
		"PORT":   "XMPPGATE_PORT: no such variable: run xmppgate --help for all of them",
		"COLOUR": "XMPPGATE_COLOUR: no such variable: run xmppgate --help for all of them",
		"listen": "XMPPGATE_listen: no such variable: run xmppgate --help for all of them",
	} {
		_, err := loadConfig(prefixed(map[string]string{name: "5280"}))
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
