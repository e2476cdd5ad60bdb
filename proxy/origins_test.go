package proxy

import (
	"strings"
	"testing"
)

// What an operator may write, in which spelling it is kept, what it lets pass
// and what it does not.
//
// Behaviour: upgrade-origin. RFC 6454, section 6; RFC 6455, section 10.2
func TestOrigins(t *testing.T) {
	for _, c := range []struct{ in, want, allowed, refused string }{
		{"https://chat.example.org", "https://chat.example.org",
			"https://chat.example.org HTTPS://Chat.Example.ORG https://chat.example.org:443",
			"http://chat.example.org https://chat.example.org:80 https://chat.example.org:8443 https://chat.example.org. https://chat.example.org/ " +
				"https://u@chat.example.org https://example.org https://a.chat.example.org https://chat.example.org.evil.example null https:// chat.example.org"},
		{"https://Chat.Example.org:443", "https://chat.example.org", "https://chat.example.org", "http://chat.example.org:443"},
		{"http://localhost:80", "http://localhost", "http://localhost http://localhost:80", "http://localhost:8080 https://localhost"},
		{"http://localhost:08080", "http://localhost:8080", "http://localhost:8080", "http://localhost"},
		{"https://bücher.example", "https://xn--bcher-kva.example", "https://xn--bcher-kva.example https://BÜCHER.example", "https://bucher.example"},
		{"https://faß.example", "https://xn--fa-hia.example", "https://xn--fa-hia.example", "https://fass.example"},
		{"https://my_app.example.org", "https://my_app.example.org", "https://my_app.example.org", ""},
		{"https://r3---sn.example.org", "https://r3---sn.example.org", "https://r3---sn.example.org", ""},
		{"http://[2001:DB8:0::1]:8080", "http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080", "http://[2001:db8::1] http://2001:db8::1:8080"},
		{"http://192.0.2.1", "http://192.0.2.1", "http://192.0.2.1", "http://192.0.2.10"},
		{"https://*.example.org", "https://*.example.org",
			"https://a.example.org https://a.b.example.org https://A.Example.org:443 https://xn--bcher-kva.example.org https://bücher.example.org",
			"https://example.org https://.example.org http://a.example.org https://a.example.org:8443 https://a.example.org.evil.example " +
				"https://evilexample.org https://evil.example/.example.org https://evil.example?.example.org https://evil.example#.example.org " +
				"https://evil.example:443.example.org https://u@a.example.org https://evil.example@a.example.org https://[::1].example.org " +
				"https://a..example.org https://\xe4.example.org https://evil.example\\.example.org https://evil.example%2f.example.org https://a\x00.example.org"},
		{"https://*.Bücher.example:8443", "https://*.xn--bcher-kva.example:8443", "https://a.xn--bcher-kva.example:8443", "https://a.xn--bcher-kva.example"},
		{"https://*.example.org:443", "https://*.example.org", "https://a.example.org", ""},
		{"null", "null", "null", "NULL https://null Null file://"},
		{"file://", "file://", "file://", "null file:/// file"},
		{"capacitor://localhost", "capacitor://localhost", "capacitor://localhost", "capacitor://localhost:80 http://localhost"},
		{"ionic://localhost", "ionic://localhost", "ionic://localhost Ionic://localhost", ""},
		{"tauri://localhost", "tauri://localhost", "tauri://localhost", ""},
		{"app://.", "app://.", "app://.", "app://"},
		{"app://obsidian.md", "app://obsidian.md", "app://obsidian.md", "https://obsidian.md"},
		{"capacitor-electron://-", "capacitor-electron://-", "capacitor-electron://-", ""},
		{"chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop", ""},
		{"moz-extension://d4a1c0c8-0b0c-4b0e-9a3e-0123456789ab", "moz-extension://d4a1c0c8-0b0c-4b0e-9a3e-0123456789ab", "moz-extension://d4a1c0c8-0b0c-4b0e-9a3e-0123456789ab", ""},
	} {
		p, err := ParseOriginPattern(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if p.String() != c.want {
			t.Errorf("%s is %s, want %s", c.in, p, c.want)
		}
		g := &Gateway{Config: Config{AllowedOrigins: []OriginPattern{p}}}
		for _, o := range strings.Fields(c.allowed) {
			if !g.originAllowed([]byte(o)) {
				t.Errorf("%s: %s is refused", c.in, o)
			}
		}
		for _, o := range append(strings.Fields(c.refused), "", " ", "https://evil.example", c.in+" https://evil.example", "https://"+strings.Repeat("é.", 10000)+"example.org") {
			if g.originAllowed([]byte(o)) {
				t.Errorf("%s: %q may connect", c.in, o)
			}
		}
	}
	if (&Gateway{Config: Config{AllowedOrigins: []OriginPattern{{}}}}).originAllowed(nil) {
		t.Error("nothing is an origin")
	}
}

// What no browser sends is refused, with what to write instead.
func TestOriginHints(t *testing.T) {
	for in, want := range map[string]string{
		"*":                            "write nothing to accept any",
		"https://*":                    "* stands for subdomains",
		"https://chat.*.org":           "* stands for subdomains",
		"https://*chat.example.org":    "* stands for subdomains",
		"https://*.*.example.org":      "* stands for subdomains",
		"https://x.org:*":              "* stands for subdomains",
		"*://x.org":                    "invalid scheme",
		"app://*.x":                    "* stands for subdomains of a domain",
		"https://*.192.0.2.1":          "an address has no subdomains",
		"https://*.[::1]":              "an address has no subdomains",
		"https://*.":                   "invalid host",
		"chat.example.org":             "such as https://chat.example.org",
		"chat.example.org:8443":        "such as https://chat.example.org:8443",
		"//chat.example.org":           "such as https://chat.example.org",
		"https:chat.example.org":       "such as https://chat.example.org",
		"https//chat.example.org":      "such as https://chat.example.org",
		"https:///chat.example.org":    "write https://chat.example.org",
		"null null":                    "such as https://chat.example.org",
		"blob:https://x.org":           "the origin of the page itself",
		"View-Source:https://x.org":    "the origin of the page itself",
		"x:https://x.org":              "invalid scheme",
		"x!://x.org":                   "invalid scheme",
		"https:/chat.example.org":      "write scheme://host",
		"https://chat.example.org/":    "write https://chat.example.org",
		"https://chat.example.org/c":   "write https://chat.example.org",
		"https://chat.example.org?x":   "write https://chat.example.org",
		"https://chat.example.org#x":   "write https://chat.example.org",
		"https://u:p@chat.example.org": "write https://chat.example.org",
		"https://":                     "invalid host",
		"https://:443":                 "invalid host",
		"https://a b":                  "invalid host",
		"https://a..b":                 "invalid host",
		"https://a%2eb":                "invalid host",
		"https://127.1":                "invalid host",
		"https://0x7f.1":               "invalid host",
		"https://[::1":                 "invalid host",
		"https://[fe80::1%25eth0]":     "invalid host",
		"https://x.org:":               "invalid port",
		"https://x.org:0":              "invalid port",
		"https://x.org:65536":          "invalid port",
		"https://x.org:https":          "invalid port",
		"wss://chat.example.org":       "write https://chat.example.org",
		"ws://localhost:8080":          "write http://localhost:8080",
		"NULL":                         "null in small letters",
		"data:":                        "write null",
		"about:blank":                  "write null",
		"data://x":                     "write null",
		"file:///":                     "write file://, or null",
		"file:///android_asset":        "write file://, or null",
		"file:":                        "scheme and host",
		"1x://y":                       "invalid scheme",
		"app://:80":                    "invalid host",
	} {
		_, err := ParseOriginPattern(in)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, c := range []struct{ pattern, matched, others string }{
		{"/xmpp-websocket", "/xmpp-websocket /%78mpp-websocket", "/xmpp-websocket/ /XMPP-websocket //xmpp-websocket / /a/xmpp-websocket /./xmpp-websocket * /xmpp-websocket%2F"},
		{"/*/xmpp-websocket", "/a/xmpp-websocket /a%20b/xmpp-websocket /*/xmpp-websocket /.../xmpp-websocket",
			"/xmpp-websocket //xmpp-websocket /a/b/xmpp-websocket /a/xmpp-websocket/ /a/ /a /../xmpp-websocket /%2e./xmpp-websocket /a%2Fb/xmpp-websocket /a%5Cb/xmpp-websocket /a%00/xmpp-websocket"},
		{"/*/*/ws", "/a/b/ws", "/a/ws /a//ws /a/b/c/ws"},
		{"/*", "/a", "/ /a/ /a/b"},
		{"/ws/", "/ws/", "/ws /ws//"},
		{"/", "/", "/a //"},
		{"/caf%C3%A9", "/caf%c3%a9 /caf%C3%A9", "/cafe"},
	} {
		p, err := parsePath(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		}
		for path := range strings.FieldsSeq(c.matched) {
			if !p.matches([]byte(path)) {
				t.Errorf("%s: %s is another path", c.pattern, path)
			}
		}
		for path := range strings.FieldsSeq(c.others) {
			if p.matches([]byte(path)) {
				t.Errorf("%s: %s is the same path", c.pattern, path)
			}
		}
	}
	for in, want := range map[string]string{
		"ws": "such as /xmpp-websocket", "": "such as", "/a?b": "such as", "/a#b": "such as", "/a b": "such as",
		"/*x/ws": "one segment", "/**/ws": "one segment", "/x*": "one segment", "/%2A/ws": "one segment",
		"//ws": "remove empty segments", "/a/../ws": "remove empty segments", "/./ws": "remove empty segments", "/%2e%2e/ws": "remove empty segments", "/%zz": "%25",
	} {
		if err := CheckPath(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}
