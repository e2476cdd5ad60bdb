package upstream

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	hash := [32]byte{0: 0xFB, 31: 0xEF}
	inHex := "sha256:" + hex.EncodeToString(hash[:])
	inBase64 := "sha256:" + base64.StdEncoding.EncodeToString(hash[:])
	for _, test := range []struct {
		url, network, address string
		security              security
		check                 func(*options) bool
	}{
		{"tcp://127.0.0.1:5222", "tcp", "127.0.0.1:5222", plain, nil},
		{"tcp://xmpp", "tcp", "xmpp:5222", plain, nil},
		{"tcp://[::1]:5223", "tcp", "[::1]:5223", plain, nil},
		{"tcp://[fe80::1%eth0]", "tcp", "[fe80::1%eth0]:5222", plain, nil},
		{"unix:/run/xmpp.sock", "unix", "/run/xmpp.sock", plain, nil},
		{"unix:/run/xmpp.sock?proxy=v2", "unix", "/run/xmpp.sock", plain, func(o *options) bool { return o.proxy == 2 }},
		{"starttls://Xmpp.Example", "tcp", "xmpp.example:5222", startTLS, nil},
		{"starttls://[2001:db8::1]", "tcp", "[2001:db8::1]:5222", startTLS, nil},
		{"tls://xmpp.example", "tcp", "xmpp.example:5223", directTLS, nil},
		{"tls://xmpp.example:443?proxy=v1&name=Other.Example.", "tcp", "xmpp.example:443", directTLS,
			func(o *options) bool { return o.proxy == 1 && o.name == "other.example" }},
		{"tls://h?pin=" + inHex, "tcp", "h:5223", directTLS, func(o *options) bool { return o.pins[0] == hash }},
		{"tls://h?pin=" + inBase64 + "&pin=" + inHex, "tcp", "h:5223", directTLS,
			func(o *options) bool { return len(o.pins) == 2 && o.pins[0] == hash }},
		{"srv:", "tcp", ":", startTLS, func(o *options) bool { return !o.private }},
		{"tls://h?private=true", "tcp", "h:5223", directTLS, func(o *options) bool { return o.private }},
		{"srv:xmpp.example?private=true", "tcp", "xmpp.example:", startTLS, func(o *options) bool { return o.private }},
	} {
		s, err := ParseServer(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		if want, _, _ := strings.Cut(test.url, "?"); s.Name != want || s.String() != want {
			t.Errorf("%s: Name = %q", test.url, s.Name)
		}
		e := s.endpoint(nil)
		if e.network != test.network || e.address != test.address || e.security != test.security || e.server != s.Name {
			t.Errorf("%s: endpoint %s %s %d", test.url, e.network, e.address, e.security)
		}
		plainly := ""
		if test.security == plain {
			plainly = test.address
		}
		if address, ok := s.Plain(); address != plainly || ok != (plainly != "") {
			t.Errorf("%s: Plain = %q, %t", test.url, address, ok)
		}
		if s.Scheme() != test.url[:strings.IndexByte(test.url, ':')] || test.network == "unix" != (s.Host() == "" && s.Scheme() != "srv") {
			t.Errorf("%s: Scheme = %q, Host = %q", test.url, s.Scheme(), s.Host())
		}
		if test.check != nil && !test.check(e.options) {
			t.Errorf("%s: options %+v", test.url, e.options)
		}
	}
}

func TestParseServerErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pin := "sha256:" + strings.Repeat("00", 32)
	for _, test := range []struct {
		url  string
		want []string // one for each line of the error
	}{
		{"", []string{"write tcp://host:port, unix:/path, starttls://host:port, tls://host:port, srv: or srv:name"}},
		{"xmpp.example:5222", []string{"write tcp://"}},
		{"tcp:xmpp.example", []string{"write tcp://host:port"}},
		{"tcp://", []string{"the host is missing"}},
		{"tcp://:5222", []string{"the host is missing"}},
		{"tcp://::1", []string{"in brackets"}},
		{"tcp://h:0", []string{`"0" is not a port; write a number from 1 to 65535`}},
		{"tcp://h:65536", []string{"is not a port"}},
		{"tcp://h:", []string{"is not a port"}},
		{"tcp://h:5222/", []string{`"5222/" is not a port`}},
		{"tcp://user@h", []string{"neither a host name nor an address"}},
		{"tcp://[::1", []string{"in brackets"}},
		{"tcp://bücher.example", []string{"write its xn-- form"}},
		{"tcp://a..b", []string{"neither"}},
		{"tcp://" + strings.Repeat("a", 64), []string{"neither"}},
		{"unix:run/xmpp.sock", []string{"write unix:/path, an absolute path"}},
		{"unix://run/xmpp.sock", []string{"write unix:/path, an absolute path"}},
		{"srv:192.0.2.1", []string{"SRV records belong to names"}},
		{"srv:a b", []string{"neither"}},
		{"tcp://h?ca=x", []string{"option ca has no meaning for tcp:; remove it"}},
		{"tcp://h?private=true", []string{"option private has no meaning for tcp:; remove it"}},
		{"srv:?private=yes", []string{"write true or false"}},
		{"tls://h?ca=/nowhere.pem", []string{"/nowhere.pem: no such file"}},
		{"tls://h?ca=" + empty, []string{"empty.pem holds no PEM certificate"}},
		{"tls://h?name=a%20b", []string{"option name: "}},
		{"tls://h?name=a&name=b", []string{"option name is given 2 times; give it once"}},
		{"tls://h?name=", []string{"option name is empty"}},
		{"tls://h?pin=sha1:00", []string{"option pin: write sha256:"}},
		{"tls://h?pin=" + strings.Repeat("00", 32), []string{"option pin: write sha256:"}},
		{"tls://h?pin=sha256:00&pin=sha256:01", []string{"option pin", "option pin"}},
		{"tls://h?cert=x", []string{"option cert needs key"}},
		{"tls://h?key=x", []string{"option key needs cert"}},
		{"tls://h?key=/x&cert=/y", []string{"options cert and key: "}},
		{"tcp://h?proxy=2", []string{"option proxy: write v1 or v2"}},
		{"tls://h?verify=off", []string{`unknown option "verify"; there are ca, name, pin, cert, key, proxy, private`}},
		{"tls://h?%zz", []string{"query: "}},
		{"tls://h:x?colour=red&proxy=3&pin=" + pin + "&pin=1", []string{"is not a port", "option pin", "option proxy", "unknown option"}},
	} {
		_, err := ParseServer(test.url)
		if err == nil {
			t.Errorf("%s: no error", test.url)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(test.want) {
			t.Errorf("%s: %d errors, want %d:\n%v", test.url, len(lines), len(test.want), err)
			continue
		}
		for i, line := range lines {
			if !strings.Contains(line, test.want[i]) || !strings.HasPrefix(line, "server ") {
				t.Errorf("%s: %s\nwant %s", test.url, line, test.want[i])
			}
		}
	}
}
