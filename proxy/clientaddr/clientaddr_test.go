package clientaddr

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
)

func addr(s string) (a netip.AddrPort) {
	if s != "" {
		a = netip.MustParseAddrPort(s)
	}
	return a
}

// binaryHeader returns a header of version 2.
func binaryHeader(command, family byte, rest string) string {
	b := append([]byte(Signature2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(rest)))) + rest
}

// field returns an extra field.
func field(kind byte, value string) string {
	return string(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value)))) + value
}

// checked returns a header for an IPv4 client with a checksum between other
// fields.
func checked(before, after string) string {
	h := []byte(binaryHeader(0x21, 0x11, inet+before+field(typeChecksum, "\x00\x00\x00\x00")+after))
	sum := crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(h[16+len(inet)+len(before)+3:], sum)
	return string(h)
}

const (
	inet  = "\xcb\x00\x71\x07\x7f\x00\x00\x01\xd4\x31\x14\x66"
	inet6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xd4\x31\x14\x66"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x07" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01\xd4\x31\x14\x66"
	tls   = "\x01\x00\x00\x00\x00"
	plain = "\x00\x00\x00\x00\x00"
)

var (
	from4 = Header{Source: addr("203.0.113.7:54321"), Destination: addr("127.0.0.1:5222")}
	from6 = Header{Source: addr("[2001:db8::7]:54321"), Destination: addr("[::1]:5222")}
	local = Header{Local: true}
)

// withTLS is secure with a version.
func withTLS(h Header, version uint16) Header {
	h.Secure, h.TLS = true, version
	return h
}

func secure(h Header) Header {
	h.Secure = true
	return h
}

// headers are PROXY headers with what they say, or why they are refused.
var headers = []struct {
	name, in string
	want     Header
	err      error
}{
	{"TCP4", "PROXY TCP4 203.0.113.7 127.0.0.1 54321 5222\r\n", from4, nil},
	{"TCP6", "PROXY TCP6 2001:db8::7 ::1 54321 5222\r\n", from6, nil},
	{"TCP6, in full", "PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0007 0:0:0:0:0:0:0:1 54321 5222\r\n", from6, nil},
	{"TCP6, mapped", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:7f00:1 54321 5222\r\n", from4, nil},
	{"ports", "PROXY TCP4 203.0.113.7 127.0.0.1 65535 0\r\n", Header{Source: addr("203.0.113.7:65535"), Destination: addr("127.0.0.1:0")}, nil},
	{"UNKNOWN", "PROXY UNKNOWN\r\n", local, nil},
	{"UNKNOWN, more", "PROXY UNKNOWN ffff::1 \xff  1\r\n", local, nil},
	{"longest", "PROXY UNKNOWN " + strings.Repeat("f", maxLine-16) + "\r\n", local, nil},
	{"too long", "PROXY UNKNOWN " + strings.Repeat("f", maxLine-15) + "\r\n", Header{}, errLine},
	{"endless", "PROXY " + strings.Repeat(" ", 2*maxLine), Header{}, errLine},
	{"only LF", "PROXY TCP4 203.0.113.7 127.0.0.1 54321 5222\n", Header{}, errLine},
	{"CR elsewhere", "PROXY TCP4 203.0.113.7 127.0.0.1 54321\r 5222\r\n", Header{}, errLine},
	{"two spaces", "PROXY TCP4  203.0.113.7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"tab", "PROXY TCP4\t203.0.113.7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"space at the end", "PROXY TCP4 203.0.113.7 127.0.0.1 54321 5222 \r\n", Header{}, errLine},
	{"too few", "PROXY TCP4 203.0.113.7 127.0.0.1 54321\r\n", Header{}, errLine},
	{"nothing", "PROXY \r\n", Header{}, errLine},
	{"UDP4", "PROXY UDP4 203.0.113.7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"small letters", "PROXY tcp4 203.0.113.7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"UNKNOWN, longer", "PROXY UNKNOWNS\r\n", Header{}, errLine},
	{"wrong family", "PROXY TCP4 2001:db8::7 ::1 54321 5222\r\n", Header{}, errLine},
	{"wrong family, one end", "PROXY TCP6 2001:db8::7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"IPv4 in TCP6", "PROXY TCP6 203.0.113.7 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"zone", "PROXY TCP6 fe80::1%eth0 ::1 54321 5222\r\n", Header{}, errLine},
	{"zeros", "PROXY TCP4 203.0.113.007 127.0.0.1 54321 5222\r\n", Header{}, errLine},
	{"port with zero", "PROXY TCP4 203.0.113.7 127.0.0.1 054321 5222\r\n", Header{}, errLine},
	{"port with sign", "PROXY TCP4 203.0.113.7 127.0.0.1 +1 5222\r\n", Header{}, errLine},
	{"port too great", "PROXY TCP4 203.0.113.7 127.0.0.1 65536 5222\r\n", Header{}, errLine},
	{"name", "PROXY TCP4 localhost 127.0.0.1 1 5222\r\n", Header{}, errLine},

	{"v2 IPv4", binaryHeader(0x21, 0x11, inet), from4, nil},
	{"v2 IPv6", binaryHeader(0x21, 0x21, inet6), from6, nil},
	{"v2 IPv6, mapped", binaryHeader(0x21, 0x21, mapped), from4, nil},
	{"v2 Unix", binaryHeader(0x21, 0x31, strings.Repeat("/", 216)), Header{}, nil},
	{"v2 UNSPEC", binaryHeader(0x21, 0x00, ""), local, nil},
	{"v2 UNSPEC, TLS", binaryHeader(0x21, 0x00, field(typeTLS, tls)), secure(local), nil},
	{"v2 LOCAL", binaryHeader(0x20, 0x00, ""), local, nil},
	{"v2 LOCAL, more", binaryHeader(0x20, 0x11, "anything"), local, nil},
	{"v2 LOCAL, unknown family", binaryHeader(0x20, 0xff, inet), local, nil},
	{"v2 TLS", binaryHeader(0x21, 0x11, inet+field(typeTLS, tls)), secure(from4), nil},
	{"v2 TLS, IPv6", binaryHeader(0x21, 0x21, inet6+field(typeTLS, "\x07\x00\x00\x00\x00"+field(0x21, "TLSv1.3"))), withTLS(from6, 0x0304), nil},
	{"v2 TLS, version of the future", binaryHeader(0x21, 0x11, inet+field(typeTLS, "\x01\x00\x00\x00\x00"+field(0x22, "example.org")+field(0x21, "TLSv1.4"))), secure(from4), nil},
	{"v2 TLS, version behind others", binaryHeader(0x21, 0x11, inet+field(typeTLS, "\x01\x00\x00\x00\x00"+field(0x22, "example.org")+field(0x21, "TLSv1.2"))), withTLS(from4, 0x0303), nil},
	{"v2 TLS, fields cut short", binaryHeader(0x21, 0x11, inet+field(typeTLS, "\x01\x00\x00\x00\x00\x21\x00\x09TLSv1.2")), secure(from4), nil},
	{"v2 no TLS, version", binaryHeader(0x21, 0x11, inet+field(typeTLS, "\x00\x00\x00\x00\x00"+field(0x21, "TLSv1.2"))), from4, nil},
	{"v2 TLS, Unix", binaryHeader(0x21, 0x31, strings.Repeat("/", 216)+field(typeTLS, tls)), secure(Header{}), nil},
	{"v2 no TLS", binaryHeader(0x21, 0x11, inet+field(typeTLS, plain)), from4, nil},
	{"v2 TLS, short", binaryHeader(0x21, 0x11, inet+field(typeTLS, tls[1:])), Header{}, errExtra},
	{"v2 fields", binaryHeader(0x21, 0x11, inet+field(0x04, "\x00\x00")+field(0x02, "x.example")+field(0xee, "")), from4, nil},
	{"v2 checksum", checked("", ""), from4, nil},
	{"v2 checksum between", checked(field(typeTLS, tls), field(0x04, "abc")), secure(from4), nil},
	{"v2 bad checksum", binaryHeader(0x21, 0x11, inet+field(typeChecksum, "abcd")), Header{}, errChecksum},
	{"v2 odd checksum", binaryHeader(0x21, 0x11, inet+field(typeChecksum, "abc")), Header{}, errExtra},
	{"v2 two checksums", checked("", field(typeChecksum, "abcd")), Header{}, errExtra}, // the second is not even computed
	{"v2 longest", binaryHeader(0x21, 0x21, inet6+field(0x04, strings.Repeat("a", MaxHeader-16-36-3))), from6, nil},
	{"v2 too long", binaryHeader(0x21, 0x21, inet6+field(0x04, strings.Repeat("a", MaxHeader-16-36-2))), Header{}, errTooLong},
	{"v2 far too long", binaryHeader(0x20, 0x00, strings.Repeat("a", 0xffff)), Header{}, errTooLong},
	{"v2 field cut", binaryHeader(0x21, 0x11, inet+field(0x04, "abc")[:5]), Header{}, errExtra},
	{"v2 field head cut", binaryHeader(0x21, 0x11, inet+"\x04\x00"), Header{}, errExtra},
	{"v2 short", binaryHeader(0x21, 0x11, inet[1:]), Header{}, errShort},
	{"v2 short, IPv6", binaryHeader(0x21, 0x21, inet6[1:]), Header{}, errShort},
	{"v2 short, Unix", binaryHeader(0x21, 0x31, inet6), Header{}, errShort},
	{"v2 UDP", binaryHeader(0x21, 0x12, inet), Header{}, errFamily},
	{"v2 unknown family", binaryHeader(0x21, 0x41, inet), Header{}, errFamily},
	{"v2 unknown command", binaryHeader(0x22, 0x11, inet), Header{}, errCommand},
	{"v3", binaryHeader(0x31, 0x11, inet), Header{}, errCommand},

	{"HTTP", "GET / HTTP/1.1\r\n\r\n", Header{}, ErrNoHeader},
	{"HTTP that looks like it", "PROXYS / HTTP/1.1\r\n\r\n", Header{}, ErrNoHeader},
	{"TLS", "\x16\x03\x01", Header{}, ErrNoHeader},
	{"lines", "\r\n\r\nGET", Header{}, ErrNoHeader},
}

func TestParseHeader(t *testing.T) {
	for _, c := range headers {
		t.Run(c.name, func(t *testing.T) {
			got, n, err := ParseHeader([]byte(c.in + "GET / HTTP/1.1\r\n"))
			if got != c.want || !errors.Is(err, c.err) {
				t.Fatalf("got %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			if err == nil && n != len(c.in) || err != nil && n != 0 {
				t.Errorf("%d bytes of %d", n, len(c.in))
			}
			checkHeader(t, []byte(c.in))
		})
	}
}

// checkHeader checks what holds for all bytes.
func checkHeader(t *testing.T, in []byte) {
	in = in[:min(len(in), MaxHeader+10)]
	whole, length, wholeErr := ParseHeader(in)
	if wholeErr == nil && length == 0 && len(in) >= MaxHeader || length > len(in) || length > MaxHeader {
		t.Fatalf("%d bytes do for a header of %d", len(in), length)
	}
	for cut := range in {
		h, n, err := ParseHeader(in[:cut:cut])
		switch {
		case err != nil && err != wholeErr:
			t.Fatalf("first %d bytes: %v, all of them: %v", cut, err, wholeErr)
		case wholeErr == nil && cut >= length && length > 0 && (h != whole || n != length),
			(wholeErr != nil || cut < length) && n != 0:
			t.Fatalf("first %d bytes: %+v, %d; all of them: %+v, %d", cut, h, n, whole, length)
		}
	}
	if length == 0 && wholeErr == nil {
		return
	}

	// The library agrees, except where ParseHeader says it does not.
	l, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(in)))
	if wholeErr != nil {
		stricter := errors.Is(wholeErr, errChecksum) || errors.Is(wholeErr, errTooLong) ||
			errors.Is(wholeErr, errExtra) || errors.Is(wholeErr, errFamily)
		if err == nil && !stricter {
			t.Fatalf("%v, but the library takes it: %+v", wholeErr, l)
		}
		return
	}
	if err != nil {
		if !whole.Local {
			t.Fatalf("%+v, but the library says %v", whole, err)
		}
		return
	}
	if s, d, ok := l.TCPAddrs(); ok && !whole.Local {
		for _, c := range [][2]netip.AddrPort{{s.AddrPort(), whole.Source}, {d.AddrPort(), whole.Destination}} {
			if a := netip.AddrPortFrom(c[0].Addr().Unmap(), c[0].Port()); a != c[1] {
				t.Fatalf("%v, the library says %v", c[1], a)
			}
		}
	} else if whole.Source.IsValid() {
		t.Fatalf("%+v, the library says %+v", whole, l)
	}
}

func FuzzHeader(f *testing.F) {
	for _, c := range headers {
		f.Add([]byte(c.in))
	}
	f.Fuzz(checkHeader)
}

var trusted = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("fd00::/8"),
	netip.MustParsePrefix("fe80::/10"),
}

const (
	client = "203.0.113.7:0"
	six    = "[2001:db8::7]:0"
)

const none = "" // nobody knows the client

// forwarded are what the fields of requests from a trusted proxy say, each in
// the one field that is believed.
var forwarded = []struct {
	name   string
	header string
	lines  []string
	want   string
	secure bool
}{
	{"no field", "", nil, none, false},
	{"IPv4", "", []string{"203.0.113.7"}, client, false},
	{"IPv6", "", []string{"2001:db8::7"}, six, false},
	{"mapped", "", []string{"::ffff:203.0.113.7"}, client, false},
	{"mapped, in brackets", "", []string{"[::ffff:203.0.113.7]:4711"}, "203.0.113.7:4711", false},
	{"mapped proxy", "", []string{"203.0.113.7, ::ffff:10.0.0.2"}, client, false},
	{"brackets", "", []string{"[2001:db8::7]"}, six, false},
	{"ports", "", []string{"203.0.113.7:4711"}, "203.0.113.7:4711", false},
	{"ports, IPv6", "", []string{"[2001:db8::7]:4711"}, "[2001:db8::7]:4711", false},
	{"ports of proxies", "", []string{"203.0.113.7:4711, 10.0.0.2:80, [fd00::2]:80"}, "203.0.113.7:4711", false},
	{"white space", "", []string{"198.51.100.1 ,\t203.0.113.7\t "}, client, false},

	{"client invents", "", []string{"10.0.0.9, 198.51.100.1, 203.0.113.7"}, client, false},
	{"client invents, IPv6", "", []string{"fd00::9, 2001:db8::1, 2001:db8::7"}, six, false},
	{"client invents a line", "", []string{"198.51.100.1", "203.0.113.7"}, client, false},
	{"client invents lines", "", []string{"127.0.0.1", "", "x", "10.0.0.1", "203.0.113.7"}, client, false},
	{"proxies", "", []string{"198.51.100.1, 203.0.113.7, 10.0.0.3, fd00::2"}, client, false},
	{"proxies, lines", "", []string{"198.51.100.1, 203.0.113.7", "10.0.0.3", "10.0.0.2"}, client, false},
	{"all trusted", "", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3:0", false},

	{"two in one", "", []string{"1.2.3.4 5.6.7.8"}, none, false},
	{"line end", "", []string{"1.2.3.4\r\nPROXY TCP4"}, none, false},
	{"empty", "", []string{""}, none, false},
	{"empty, behind the client's", "", []string{"127.0.0.1", ""}, none, false},
	{"only commas", "", []string{" , ,"}, none, false},
	{"empty at the start", "", []string{", , 203.0.113.7"}, client, false},
	{"empty at the end", "", []string{"203.0.113.7,"}, none, false},
	{"empty between", "", []string{"203.0.113.7,,10.0.0.2"}, none, false},
	{"unknown", "", []string{"203.0.113.7, unknown"}, none, false},
	{"unknown, before the client", "", []string{"unknown, 203.0.113.7"}, client, false},
	{"Unix socket", "", []string{"203.0.113.7, unix:"}, none, false},
	{"zone", "", []string{"fe80::1%eth0"}, none, false},
	{"zone in brackets", "", []string{"[fe80::1%eth0]:1"}, none, false},
	{"name", "", []string{"203.0.113.7, localhost"}, none, false},
	{"zeros", "", []string{"203.0.113.007"}, none, false},
	{"number", "", []string{"3405803783"}, none, false},
	{"prefix", "", []string{"203.0.113.0/24"}, none, false},
	{"IPv4 in brackets", "", []string{"[203.0.113.7]"}, none, false},
	{"half a bracket", "", []string{"[2001:db8::7"}, none, false},
	{"the other half", "", []string{"2001:db8::7]"}, none, false},
	{"behind the bracket", "", []string{"[2001:db8::7]4711"}, none, false},
	{"no port", "", []string{"203.0.113.7:"}, none, false},
	{"port too great", "", []string{"203.0.113.7:65536"}, none, false},
	{"port with sign", "", []string{"203.0.113.7:+1"}, none, false},
	{"quotes", "", []string{`"203.0.113.7"`}, none, false},
	{"semicolons", "", []string{"203.0.113.7;proto=https"}, none, false},
	{"letters of other scripts", "", []string{"２０３.0.113.7"}, none, false},
	{"junk before", "", []string{`",\",;=` + "\xff" + `[", 203.0.113.7`}, client, false},
	{"junk behind a proxy", "", []string{"203.0.113.7, x, 10.0.0.2"}, none, false},

	{"most", "", []string{"203.0.113.7" + strings.Repeat(",10.0.0.2", maxElements-1)}, client, false},
	{"too many", "", []string{"203.0.113.7" + strings.Repeat(",10.0.0.2", maxElements)}, none, false},
	{"many before the client", "", []string{strings.Repeat("10.0.0.2,", 3000) + "203.0.113.7"}, client, false},
	{"many lines before the client", "", append(slices.Repeat([]string{"10.0.0.2"}, 90), "203.0.113.7"), client, false},
	{"long white space", "", []string{"203.0.113.7" + strings.Repeat(" ", 30000)}, client, false},

	{"standard", "Forwarded", []string{"for=203.0.113.7;proto=https;by=10.0.0.1"}, client, true},
	{"standard, IPv6", "Forwarded", []string{`proto=http;For="[2001:db8::7]:4711"`}, "[2001:db8::7]:4711", false},
	{"standard, no quotes", "Forwarded", []string{`for=[2001:db8::7]`}, six, false},
	{"standard, no brackets", "Forwarded", []string{`for="2001:db8::7"`}, six, false},
	{"standard, spaces", "Forwarded", []string{`for=198.51.100.1;; , `, `for=203.0.113.7; ;proto="wss"`}, client, true},
	{"standard, hidden port", "Forwarded", []string{`for="203.0.113.7:_x"`}, client, false},
	{"standard, hidden port, IPv6", "Forwarded", []string{`for="[2001:db8::7]:_x"`}, six, false},
	{"standard, hidden", "Forwarded", []string{"for=203.0.113.7, for=_x;proto=https"}, none, false},
	{"standard, hidden by the client", "Forwarded", []string{"for=_x, for=203.0.113.7"}, client, false},
	{"standard, unknown", "Forwarded", []string{"for=203.0.113.7, for=unknown"}, none, false},
	{"standard, hidden behind a proxy", "Forwarded", []string{"for=203.0.113.7, for=unknown", "for=10.0.0.2;proto=https"}, none, false},
	{"standard, without for", "Forwarded", []string{"for=203.0.113.7, proto=https"}, none, false},
	{"standard, not a pair", "Forwarded", []string{"x"}, none, false},
	{"standard, usual", "Forwarded", []string{"203.0.113.7"}, none, false},
	{"standard, empty", "Forwarded", []string{"for=203.0.113.7", ""}, none, false},
	{"standard, proxies", "Forwarded", []string{"for=198.51.100.1;proto=https, for=203.0.113.7;proto=https", `for="[fd00::2]:1";proto=http, for=10.0.0.2`}, client, true},
	{"standard, client without TLS", "Forwarded", []string{"for=203.0.113.7;proto=http, for=10.0.0.2;proto=https"}, client, false},
	{"standard, twice", "Forwarded", []string{"for=203.0.113.7;for=198.51.100.1"}, none, false},
	{"standard, twice the protocol", "Forwarded", []string{"for=203.0.113.7;proto=http;proto=https"}, none, false},
	{"standard, zone", "Forwarded", []string{`for="[fe80::1%eth0]"`}, none, false},
	{"standard, open quote", "Forwarded", []string{`for="203.0.113.7`}, none, false},
	{"standard, escapes", "Forwarded", []string{`for="203.0.113.\7"`}, none, false},
	{"standard, line end", "Forwarded", []string{"for=\"1.2.3.4\r\nPROXY TCP4\""}, none, false},
	{"standard, no value", "Forwarded", []string{"for"}, none, false},
	{"standard, separators in quotes", "Forwarded", []string{`for=203.0.113.7;x="a,for=198.51.100.1;for=1\";\\"`}, client, false},
	{"standard, client leaves a quote open", "Forwarded", []string{`for=198.51.100.1;x=", for=203.0.113.7`}, client, false},
	{"standard, client leaves a quote open, IPv6", "Forwarded", []string{`for=198.51.100.1;x="\, for="[2001:db8::7]"`}, six, false},

	{"single", "X-Real-IP", []string{"203.0.113.7"}, client, false},
	{"single, IPv6", "CF-Connecting-IP", []string{"2001:db8::7"}, six, false},
	{"single, trusted", "True-Client-IP", []string{"10.0.0.9"}, "10.0.0.9:0", false},
	{"single, port", "Fly-Client-IP", []string{"203.0.113.7:4711"}, "203.0.113.7:4711", false},
	{"single, list", "X-Real-IP", []string{"127.0.0.1, 203.0.113.7"}, none, false},
	{"single, comma", "X-Real-IP", []string{"203.0.113.7,"}, none, false},
	{"single, lines", "X-Real-IP", []string{"127.0.0.1", "203.0.113.7"}, none, false},
	{"single, lines alike", "X-Real-IP", []string{"203.0.113.7", "203.0.113.7"}, none, false},
	{"single, empty", "X-Real-IP", []string{""}, none, false},
	{"single, none", "X-Real-IP", nil, none, false},
	{"single, not an address", "X-Real-IP", []string{"x"}, none, false},
}

// Whom a request is for; what is not an address, or not a proxy's word, is not
// believed.
//
// Behaviour: client-address. RFC 7239, section 8.1.
func TestForwarded(t *testing.T) {
	for _, c := range forwarded {
		t.Run(c.name, func(t *testing.T) {
			p := Policy{Forwarders: trusted, Header: c.header}
			check := func(fields http.Header, secure bool) {
				t.Helper()
				got, s, err := p.Forwarded(fields.Values)
				if got != addr(c.want) || s != secure || (err == nil) != (c.want != none) {
					t.Errorf("%q: got %v, %v, %v", fields, got, s, err)
				}
			}
			fields := http.Header{}
			set := func(name string, lines []string) {
				if lines != nil {
					fields[http.CanonicalHeaderKey(name)] = lines
				}
			}
			set(p.HeaderName(), c.lines)
			check(fields, c.secure)

			// Whatever else stands beside it changes nothing.
			for _, name := range Headers() {
				if name == p.HeaderName() {
					continue
				}
				for _, line := range []string{"", "x", "127.0.0.1", "for=127.0.0.1;proto=https", "203.0.113.7", `"`} {
					set(name, []string{line})
					check(fields, c.secure)
				}
			}

			// Forwarded says itself which protocol; no other field does.
			secure := c.want != none
			if c.header == "Forwarded" {
				secure = c.secure
			}
			fields["X-Forwarded-Proto"] = []string{"http", "http, WSS"}
			check(fields, secure)
			fields["X-Forwarded-Proto"] = []string{"https", "https,http"}
			check(fields, c.header == "Forwarded" && c.secure)
			fields["X-Forwarded-Proto"] = []string{"https", ""}
			check(fields, c.header == "Forwarded" && c.secure)
		})
	}
}

// Who is believed. What comes over a socket is, where that is configured: who
// may open it is trusted. That does not go for all of this machine, where a
// client may be as well.
func TestTrusts(t *testing.T) {
	for _, unix := range []bool{true, false} {
		p := Policy{Forwarders: trusted, Unix: unix}
		for peer, want := range map[string]bool{
			"10.0.0.1": true, "::ffff:10.0.0.1": true, "fd00::1": true, "fe80::1%eth0": true,
			"127.0.0.1": false, "11.0.0.1": false, "2001:db8::1": false,
		} {
			if got := p.Trusts(netip.MustParseAddr(peer), false); got != want {
				t.Errorf("%s: %v", peer, got)
			}
			if new(Policy).Trusts(netip.MustParseAddr(peer), false) {
				t.Errorf("%s is trusted by nobody's word", peer)
			}
		}
		if got := p.Trusts(netip.Addr{}, true); got != unix {
			t.Errorf("our socket: %v, want %v", got, unix)
		}
		// A PROXY header may speak of a Unix socket elsewhere.
		if p.Trusts(netip.Addr{}, false) {
			t.Error("another machine's socket is trusted")
		}
	}
}

func TestSendsHeader(t *testing.T) {
	policy := Policy{Proxies: trusted}
	for in, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "fd00::7": true, "fe80::1%eth0": true,
		"11.1.2.3": false, "2001:db8::1": false, "::": false,
	} {
		if got := policy.SendsHeader(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	if policy.SendsHeader(netip.Addr{}) || new(Policy).SendsHeader(netip.MustParseAddr("10.1.2.3")) {
		t.Error("a header from nobody known")
	}
}

// What a client or a proxy sends costs no more than its length: four times as much
// takes at most four times the memory, and what does not count is not looked at.
func TestForwardedIsBounded(t *testing.T) {
	for _, format := range formats {
		p := Policy{Forwarders: trusted, Header: format.name}
		for _, what := range []string{",", "10.0.0.1,", "for=10.0.0.1,", "for=10.0.0.1;", "a=b;", `"`, `\"`, `\\\\"`, " ", "for=", ":", "[", "1.", "::1,", "%a", "for=\"[::1]:1\", "} {
			allocations := func(n int) float64 {
				line := strings.Repeat(what, n/len(what)) + "10.0.0.1"
				values := func(string) []string { return []string{line} }
				return testing.AllocsPerRun(5, func() { _, _, _ = p.Forwarded(values) })
			}
			small, big := allocations(4<<10), allocations(16<<10)
			if big > 5*small+10 {
				t.Errorf("%s: %q: %v allocations for 4 KiB, %v for 16", format.name, what, small, big)
			}
		}
		if !format.list {
			continue
		}
		// Behind 64 trusted proxies nothing is parsed.
		element := "10.0.0.1"
		if format.name == "Forwarded" {
			element = "for=10.0.0.1"
		}
		lines := slices.Repeat([]string{element}, 1000)
		if _, _, err := p.Forwarded(func(string) []string { return lines }); err != errTooMany {
			t.Errorf("%s: %v", format.name, err)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	for _, c := range forwarded {
		for i := range formats {
			f.Add(i, strings.Join(c.lines, "\n"), "for=127.0.0.1")
		}
	}
	f.Fuzz(func(t *testing.T, format int, value, other string) {
		if format < 0 || format >= len(formats) {
			return
		}
		p := Policy{Forwarders: trusted, Header: formats[format].name}
		name := http.CanonicalHeaderKey(p.Header)
		ask := func(lines []string) (netip.AddrPort, error) {
			fields := http.Header{name: lines}
			got, _, err := p.Forwarded(fields.Values)
			for _, h := range Headers() {
				if h != p.Header {
					fields.Set(h, other)
				}
			}
			if beside, _, e := p.Forwarded(fields.Values); beside != got || e != err {
				t.Fatalf("%v, but with other fields %v", got, beside)
			}
			return got, err
		}
		lines := strings.Split(value, "\n")
		if got, err := ask(lines); err == nil && !literally(got.Addr(), value) || err != nil && got.IsValid() {
			t.Fatalf("%v stands nowhere, %v", got, err)
		}

		// Whatever a client sends, what the proxy adds behind it holds.
		for _, c := range [][2]string{{"203.0.113.7", client}, {"[2001:db8::7]:1", "[2001:db8::7]:1"}} {
			added, want := c[0], addr(c[1])
			if p.Header == "Forwarded" {
				added = "for=\"" + added + "\";by=\"[fd00::1]:1\""
			}
			for _, lines := range [][]string{append(lines, added), {value + ", " + added}} {
				got, err := ask(lines)
				if formats[format].list && (err != nil || got != want) || !formats[format].list && err == nil {
					t.Fatalf("%v, %v, but the proxy says %v", got, err, want)
				}
			}
		}
	})
}

// literally reports whether text spells out the address a.
func literally(a netip.Addr, text string) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(",;=\"[] \t\n", r) }) {
		host, _, _ := strings.Cut(word, ":")
		for _, s := range []string{word, host} {
			if b, err := netip.ParseAddr(s); err == nil && b.Unmap() == a {
				return true
			}
		}
	}
	return false
}
