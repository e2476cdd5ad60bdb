package http1

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const good = "GET /xmpp-websocket?a=b HTTP/1.1\r\nHost: gw\r\nUpgrade: h2c, WebSocket\r\n" +
	"Connection: keep-alive\r\nConnection:Upgrade\r\nX: \t a \t b\t \r\n\r\n"

// heads are heads of requests, and what is wrong with them.
var heads = []struct {
	name, in string
	want     string // the path, or the error in parentheses
}{
	{"good", good, "/xmpp-websocket"},
	{"no fields", "GET / HTTP/1.1\r\n\r\n", "/"},
	{"old", "GET / HTTP/1.0\r\n\r\n", "/"},
	{"other method", "M-SEARCH * HTTP/1.1\r\n\r\n", "*"},
	{"empty value", "GET / HTTP/1.1\r\nX:\r\nY: \r\n\r\n", "/"},
	{"obs-text", "GET / HTTP/1.1\r\nX: \xff\xc3\xa4\r\n\r\n", "/"},
	{"colons", "GET / HTTP/1.1\r\nX: a:b:c\r\nY::\r\n\r\n", "/"},
	{"names", "GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n", "/"},

	{"escapes", "GET /%78mpp%2Fws HTTP/1.1\r\n\r\n", "/%78mpp%2Fws"},
	{"two slashes", "GET //ws HTTP/1.1\r\n\r\n", "//ws"},
	{"dots", "GET /../ws HTTP/1.1\r\n\r\n", "/../ws"},
	{"odd query", "GET /ws?{\"a\":[1|2]}%zz HTTP/1.1\r\n\r\n", "/ws"},
	{"absolute", "GET http://gw:5290/ws?q HTTP/1.1\r\n\r\n", "/ws"},
	{"absolute, WebSocket", "GET WSS://[2001:db8::1]:443/ws HTTP/1.1\r\n\r\n", "/ws"},
	{"absolute, no path", "GET http://gw HTTP/1.1\r\n\r\n", "/"},
	{"absolute, query", "GET http://gw?/ws HTTP/1.1\r\n\r\n", "/"},
	{"absolute, user", "GET http://u@gw/ws HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"absolute, other scheme", "GET ftp://gw/ws HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"absolute, no host", "GET http:///ws HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"authority", "CONNECT gw:443 HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"fragment", "GET /ws#x HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"bytes beyond ASCII", "GET /\xc3\xa4 HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"no slash", "GET ws HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"empty target", "GET  HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},
	{"bad escape", "GET /%zz HTTP/1.1\r\n\r\n", "(line 1: invalid percent escape in the path)"},
	{"cut escape", "GET /ws%2 HTTP/1.1\r\n\r\n", "(line 1: invalid percent escape in the path)"},

	{"two spaces", "GET  / HTTP/1.1\r\n\r\n", "(line 1: invalid HTTP version)"},
	{"space at the end", "GET / HTTP/1.1 \r\n\r\n", "(line 1: invalid HTTP version)"},
	{"tab", "GET\t/\tHTTP/1.1\r\n\r\n", "(line 1: not a request line)"},
	{"no version", "GET /\r\n\r\n", "(line 1: not a request line)"},
	{"no such version", "GET / HTTP/11\r\n\r\n", "(line 1: invalid HTTP version)"},
	{"small letters", "GET / http/1.1\r\n\r\n", "(line 1: invalid HTTP version)"},
	{"method", "G(T / HTTP/1.1\r\n\r\n", "(line 1: invalid method)"},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\n\r\n", "(line 1: invalid request target)"},

	{"empty first line", "\r\nGET / HTTP/1.1\r\n\r\n", "(line 1: not an HTTP request)"},
	{"space first", " GET / HTTP/1.1\r\n\r\n", "(line 1: not an HTTP request)"},
	{"bytes", "\x00\x01\x02", "(line 1: not an HTTP request)"},
	{"bare LF", "GET / HTTP/1.1\nHost: gw\n\n", "(line 1: bare LF)"},
	{"bare LF in a field", "GET / HTTP/1.1\r\nHost: gw\nX: y\r\n\r\n", "(line 2: bare LF)"},
	{"bare LF at the end", "GET / HTTP/1.1\r\nHost: gw\r\n\n", "(line 3: bare LF)"},
	{"bare CR", "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", "(line 2: bare CR)"},
	{"bare CR in the first line", "GET / HTTP/1.1\r \r\n\r\n", "(line 1: bare CR)"},
	{"CR twice", "GET / HTTP/1.1\r\nX: a\r\r\n\r\n", "(line 2: bare CR)"},
	{"space before the colon", "GET / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", "(line 2: white space before the colon)"},
	{"tab before the colon", "GET / HTTP/1.1\r\nOrigin\t: https://evil.example\r\n\r\n", "(line 2: white space before the colon)"},
	{"space in the name", "GET / HTTP/1.1\r\nX Foo: bar\r\n\r\n", "(line 2: invalid field name)"},
	{"bytes in the name", "GET / HTTP/1.1\r\nX\xc3\xa4: bar\r\n\r\n", "(line 2: invalid field name)"},
	{"NUL in the name", "GET / HTTP/1.1\r\nX\x00: bar\r\n\r\n", "(line 2: invalid field name)"},
	{"quotes in the name", "GET / HTTP/1.1\r\n\"X\": bar\r\n\r\n", "(line 2: invalid field name)"},
	{"no name", "GET / HTTP/1.1\r\n: bar\r\n\r\n", "(line 2: no field name)"},
	{"no colon", "GET / HTTP/1.1\r\nX\r\n\r\n", "(line 2: no colon)"},
	{"fold", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", "(line 3: folded line)"},
	{"fold, tab", "GET / HTTP/1.1\r\nX: a\r\n\tb\r\n\r\n", "(line 3: folded line)"},
	{"fold, first", "GET / HTTP/1.1\r\n X: a\r\n\r\n", "(line 2: folded line)"},
	{"white space alone", "GET / HTTP/1.1\r\n \r\n\r\n", "(line 2: folded line)"},
	{"NUL", "GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", "(line 2: control character in a field value)"},
	{"escape", "GET / HTTP/1.1\r\nX: \x1b[31m\r\n\r\n", "(line 2: control character in a field value)"},
	{"DEL", "GET / HTTP/1.1\r\nX: \x7f\r\n\r\n", "(line 2: control character in a field value)"},
	{"vertical tab around the value", "GET / HTTP/1.1\r\nX: \va\r\n\r\n", "(line 2: control character in a field value)"},
	{"host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "(line 2: invalid host)"},
	{"host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "(line 2: invalid host)"},
	{"host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "(line 2: invalid host)"},
	{"two hosts in one", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "(line 2: invalid host)"},
	{"host with a bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "(line 2: invalid host)"},
	{"host with a zone", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", "(line 2: invalid host)"},
	{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: a\r\n\r\n", "(line 4: second host)"},
	{"two hosts, one empty", "GET / HTTP/1.1\r\nHost: \r\nHost: a\r\n\r\n", "(line 3: second host)"},
	{"hosts", "GET / HTTP/1.1\r\nHost: my_gw.example.org.:5290\r\nX: [::1]\r\n\r\n", "/"},
	{"host, IPv6", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:5290\r\n\r\n", "/"},

	{"most lines", "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", MaxLines-2) + "\r\n", "/"},
	{"too many lines", "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", MaxLines-1) + "\r\n", "(request head too large)"},
	{"longest", "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", MaxSize-23) + "\r\n\r\n", "/"},
	{"too long", "GET / HTTP/1.1\r\nX: " + strings.Repeat("y", MaxSize-22) + "\r\n\r\n", "(request head too large)"},
	{"endless", strings.Repeat("G", 2*MaxSize), "(request head too large)"},
	{"long target", "GET /" + strings.Repeat("a", 20000) + "?" + strings.Repeat("b", 12000) + " HTTP/1.1\r\n\r\n", "/" + strings.Repeat("a", 20000)},
}

// read takes a head as it would come from a connection: first cut bytes, then
// one more at a time or all the others.
func read(in string, cuts ...int) (h Head, err error) {
	b, seen := []byte(in), 0
	for _, n := range append(cuts, len(b)) {
		size, err := Size(b[:n:n], seen)
		if err != nil {
			return Head{}, err
		}
		if size > 0 {
			err = h.Parse(b[:size:size])
			return h, err
		}
		seen = n
	}
	return Head{}, errors.New("not complete")
}

// Every fault of a head, cut anywhere.
//
// Behaviour: upgrade-strict. RFC 9112, sections 2 to 5
func TestHead(t *testing.T) {
	for _, c := range heads {
		t.Run(c.name, func(t *testing.T) {
			check := func(cuts ...int) {
				t.Helper()
				h, err := read(c.in+"more", cuts...)
				got := string(h.Path)
				if err != nil {
					got = "(" + err.Error() + ")"
				}
				if got != c.want {
					t.Fatalf("cut at %v: got %s, want %s", cuts, got, c.want)
				}
			}
			check()
			step := 1 + len(c.in)/1000
			var bytewise []int
			for i := 0; i <= len(c.in); i += step {
				check(i)
				bytewise = append(bytewise, i)
			}
			check(bytewise...)
			checkOracle(t, []byte(c.in))
		})
	}
}

// No part of a head is a whole one.
func TestSizeOfPart(t *testing.T) {
	for i := range good {
		if n, err := Size([]byte(good[:i]), 0); n != 0 || err != nil {
			t.Errorf("%d bytes: %d, %v", i, n, err)
		}
	}
}

func TestFields(t *testing.T) {
	h, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, word, want string }{
		{"Upgrade", "websocket", "WebSocket"}, {"uPGRADE", "h2c", "h2c"}, {"Upgrade", "web", ""}, {"Connection", "upgrade", "Upgrade"},
		{"Connection", "keep-alive", "keep-alive"}, {"Connection", "", ""}, {"X", "a \t b", "a \t b"}, {"Y", "y", ""},
	} {
		if got := string(h.Token(c.name, c.word)); got != c.want {
			t.Errorf("%s: %q in %q", c.name, c.word, got)
		}
	}
	if v, ok := h.Value("host"); string(v) != "gw" || !ok {
		t.Errorf("host %q, %v", v, ok)
	}
	if _, ok := h.Value("Connection"); ok {
		t.Error("one value of two")
	}
	if got := h.Values("Connection"); !slices.Equal(got, []string{"keep-alive", "Upgrade"}) || h.Count("connection") != 2 {
		t.Errorf("got %q", got)
	}
	// What only looks like the letters is not them.
	h, _ = read("GET / HTTP/1.1\r\nUpgrade: web\xc5\xbfocket, \xe2\x84\xaaeep\r\n\r\n")
	if h.Token("Upgrade", "websocket") != nil || h.Token("Upgrade", "keep") != nil {
		t.Error("long s and kelvin sign count")
	}
}

func TestHasBody(t *testing.T) {
	for in, want := range map[string]bool{
		"":                         false,
		"Content-Length: 0\r\n":    false,
		"Content-Length: 1\r\n":    true,
		"Content-Length: 00\r\n":   true,
		"Content-Length: +0\r\n":   true,
		"Content-Length: 0, 0\r\n": true,
		"Content-Length:\r\n":      true,
		"Content-Length: 0\r\ncontent-length: 0\r\n":  true,
		"Transfer-Encoding: identity\r\n":             true,
		"transfer-encoding:\r\nContent-Length: 0\r\n": true,
	} {
		h, err := read("GET / HTTP/1.1\r\n" + in + "\r\n")
		if err != nil || h.HasBody() != want {
			t.Errorf("%q: %v, %v", in, !want, err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	b := []byte(good)
	var h Head
	if n := testing.AllocsPerRun(100, func() {
		size, _ := Size(b, 0)
		h.Parse(b[:size])
		h.Token("Upgrade", "websocket")
		h.Value("Host")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// checkOracle checks that net/http accepts what is accepted here, with the same
// values.
func checkOracle(t *testing.T, in []byte) {
	size, err := Size(in, 0)
	if size == 0 {
		return
	}
	for i := range in[:min(size, 1000)] {
		if n, e := Size(in[:i:i], 0); n != 0 || e != nil && err == nil {
			t.Fatalf("first %d bytes: %d, %v; all of them %d, %v", i, n, e, size, err)
		}
		if n, e := Size(in, i); (n != size || (e == nil) != (err == nil)) && err == nil && bytes.IndexByte(in[:i], '\n') < 0 {
			t.Fatalf("from %d on: %d, %v; in one go %d, %v", i, n, e, size, err)
		}
	}
	var h Head
	if err != nil || h.Parse(in[:size]) != nil {
		return
	}
	// The library answers for the body as well, which is not read here.
	if h.HasBody() {
		return
	}
	// It wants a path for everything; here * is one.
	if string(h.Path) == "*" {
		return
	}
	// It wants CONNECT to name a host alone, and no PRI.
	if m := string(h.Method); m == "CONNECT" || m == "PRI" {
		return
	}
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(in[:size]), size+16))
	if err != nil {
		t.Fatalf("accepted, but the library says %v", err)
	}
	if r.Method != string(h.Method) || r.ProtoMajor != h.Major || r.ProtoMinor != h.Minor {
		t.Fatalf("%s HTTP/%d.%d, the library says %s %s", h.Method, h.Major, h.Minor, r.Method, r.Proto)
	}
	if p := r.URL.EscapedPath(); p != string(h.Path) && !(p == "" && string(h.Path) == "/") {
		// It escapes what the client ought to have escaped.
		if q, err := decode(string(h.Path)); err != nil || q != r.URL.Path {
			t.Fatalf("path %q, the library says %q", h.Path, p)
		}
	}
	// It moves Host elsewhere, prefers that of an absolute target, and makes
	// Cache-Control of Pragma.
	if v, ok := h.Value("Host"); ok && r.URL.Host == "" && r.Host != string(v) {
		t.Fatalf("host %q, the library says %q", v, r.Host)
	}
	seen := map[string]bool{"Host": true}
	for i := range h.fields[:h.count] {
		name := string(h.b[h.fields[i].name:h.fields[i].nameEnd])
		key := http.CanonicalHeaderKey(name)
		if seen[key] {
			continue
		}
		seen[key] = true
		if got := h.Values(name); !slices.Equal(got, r.Header[key]) {
			t.Fatalf("%s: %q, the library says %q", key, got, r.Header[key])
		}
	}
	for key := range r.Header {
		if !seen[key] && key != "Cache-Control" {
			t.Fatalf("the library sees %s", key)
		}
	}
}

func decode(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		var n int
		for _, c := range []byte(strings.ToLower(s[i+1 : i+3])) {
			n = n<<4 | strings.IndexByte("0123456789abcdef", c)
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), nil
}

func FuzzHead(f *testing.F) {
	for _, c := range heads {
		f.Add([]byte(c.in))
	}
	f.Fuzz(checkOracle)
}
