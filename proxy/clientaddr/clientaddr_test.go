package clientaddr

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/http"
	"net/netip"
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
	b := append([]byte(signature2), command, family)
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
	{"v2 TLS, IPv6", binaryHeader(0x21, 0x21, inet6+field(typeTLS, "\x07\x00\x00\x00\x00"+field(0x21, "TLSv1.3"))), secure(from6), nil},
	{"v2 TLS, Unix", binaryHeader(0x21, 0x31, strings.Repeat("/", 216)+field(typeTLS, tls)), secure(Header{}), nil},
	{"v2 no TLS", binaryHeader(0x21, 0x11, inet+field(typeTLS, plain)), from4, nil},
	{"v2 TLS, short", binaryHeader(0x21, 0x11, inet+field(typeTLS, tls[1:])), Header{}, errExtra},
	{"v2 fields", binaryHeader(0x21, 0x11, inet+field(0x04, "\x00\x00")+field(0x02, "x.example")+field(0xee, "")), from4, nil},
	{"v2 checksum", checked("", ""), from4, nil},
	{"v2 checksum between", checked(field(typeTLS, tls), field(0x04, "abc")), secure(from4), nil},
	{"v2 bad checksum", binaryHeader(0x21, 0x11, inet+field(typeChecksum, "abcd")), Header{}, errChecksum},
	{"v2 odd checksum", binaryHeader(0x21, 0x11, inet+field(typeChecksum, "abc")), Header{}, errExtra},
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
	proxy4 = "10.0.0.1:1234"
	proxy6 = "[fd00::1]:1234"
	client = "203.0.113.7:0"
	six    = "[2001:db8::7]:0"
)

type lines map[string][]string

// forwarded are requests and who they are believed to be for.
var forwarded = []struct {
	name    string
	peer    string
	headers lines
	want    string
	secure  bool
}{
	{"no header", proxy4, nil, proxy4, false},
	{"peer not trusted", "192.0.2.1:1", lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}}, "192.0.2.1:1", false},
	{"peer not trusted, IPv6", "[2001:db8::1]:1", lines{"Forwarded": {"for=203.0.113.7;proto=https"}}, "[2001:db8::1]:1", false},
	{"protocol alone", proxy4, lines{"X-Forwarded-Proto": {"https"}}, proxy4, true},

	{"IPv4", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}}, client, false},
	{"IPv6", proxy6, lines{"X-Forwarded-For": {"2001:db8::7"}}, six, false},
	{"IPv4 behind IPv6", proxy6, lines{"X-Forwarded-For": {"203.0.113.7"}}, client, false},
	{"mapped peer", "[::ffff:10.0.0.1]:1234", lines{"X-Forwarded-For": {"2001:db8::7"}}, six, false},
	{"peer with zone", "[fe80::1%eth0]:1234", lines{"X-Forwarded-For": {"2001:db8::7"}}, six, false},
	{"mapped", proxy4, lines{"X-Forwarded-For": {"::ffff:203.0.113.7"}}, client, false},
	{"mapped proxy", proxy4, lines{"X-Forwarded-For": {"203.0.113.7, ::ffff:10.0.0.2"}}, client, false},
	{"brackets", proxy4, lines{"X-Forwarded-For": {"[2001:db8::7]"}}, six, false},
	{"ports", proxy4, lines{"X-Forwarded-For": {"203.0.113.7:4711"}}, "203.0.113.7:4711", false},
	{"ports, IPv6", proxy4, lines{"X-Forwarded-For": {"[2001:db8::7]:4711"}}, "[2001:db8::7]:4711", false},
	{"white space", proxy4, lines{"X-Forwarded-For": {"198.51.100.1 ,\t203.0.113.7\t "}}, client, false},
	{"https", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}}, client, true},
	{"wss", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"WSS"}}, client, true},
	{"last protocol", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https", "https, http"}}, client, false},
	{"last protocol, with TLS", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"http,https"}}, client, true},

	{"client invents", proxy4, lines{"X-Forwarded-For": {"10.0.0.9, 198.51.100.1, 203.0.113.7"}}, client, false},
	{"client invents, IPv6", proxy6, lines{"X-Forwarded-For": {"fd00::9, 2001:db8::1, 2001:db8::7"}}, six, false},
	{"client invents a line", proxy4, lines{"X-Forwarded-For": {"198.51.100.1", "203.0.113.7"}}, client, false},
	{"proxies", proxy4, lines{"X-Forwarded-For": {"198.51.100.1, 203.0.113.7, 10.0.0.3, fd00::2"}}, client, false},
	{"proxies, lines", proxy4, lines{"X-Forwarded-For": {"198.51.100.1, 203.0.113.7", "10.0.0.3", "10.0.0.2"}}, client, false},
	{"all trusted", proxy4, lines{"X-Forwarded-For": {"10.0.0.3, 10.0.0.2"}}, "10.0.0.3:0", false},

	{"two in one", proxy4, lines{"X-Forwarded-For": {"1.2.3.4 5.6.7.8"}}, proxy4, false},
	{"line end", proxy4, lines{"X-Forwarded-For": {"1.2.3.4\r\nPROXY TCP4"}}, proxy4, false},
	{"empty", proxy4, lines{"X-Forwarded-For": {""}}, proxy4, false},
	{"empty at the end", proxy4, lines{"X-Forwarded-For": {"203.0.113.7,"}}, proxy4, false},
	{"empty between", proxy4, lines{"X-Forwarded-For": {"203.0.113.7,,10.0.0.2"}}, "10.0.0.2:0", false},
	{"zone", proxy4, lines{"X-Forwarded-For": {"fe80::1%eth0"}}, proxy4, false},
	{"zone in brackets", proxy4, lines{"X-Forwarded-For": {"[fe80::1%eth0]:1"}}, proxy4, false},
	{"name", proxy4, lines{"X-Forwarded-For": {"203.0.113.7, localhost"}}, proxy4, false},
	{"zeros", proxy4, lines{"X-Forwarded-For": {"203.0.113.007"}}, proxy4, false},
	{"number", proxy4, lines{"X-Forwarded-For": {"3405803783"}}, proxy4, false},
	{"prefix", proxy4, lines{"X-Forwarded-For": {"203.0.113.0/24"}}, proxy4, false},
	{"IPv4 in brackets", proxy4, lines{"X-Forwarded-For": {"[203.0.113.7]"}}, proxy4, false},
	{"half a bracket", proxy4, lines{"X-Forwarded-For": {"[2001:db8::7"}}, proxy4, false},
	{"behind the bracket", proxy4, lines{"X-Forwarded-For": {"[2001:db8::7]4711"}}, proxy4, false},
	{"no port", proxy4, lines{"X-Forwarded-For": {"203.0.113.7:"}}, proxy4, false},
	{"port too great", proxy4, lines{"X-Forwarded-For": {"203.0.113.7:65536"}}, proxy4, false},
	{"port with sign", proxy4, lines{"X-Forwarded-For": {"203.0.113.7:+1"}}, proxy4, false},
	{"quotes", proxy4, lines{"X-Forwarded-For": {`"203.0.113.7"`}}, proxy4, false},
	{"junk before", proxy4, lines{"X-Forwarded-For": {`",\",;=` + "\xff" + `[", 203.0.113.7`}}, client, false},
	{"junk behind a proxy", proxy4, lines{"X-Forwarded-For": {"203.0.113.7, x, 10.0.0.2"}}, "10.0.0.2:0", false},

	{"most", proxy4, lines{"X-Forwarded-For": {"203.0.113.7" + strings.Repeat(",10.0.0.2", maxElements-1)}}, client, false},
	{"too many", proxy4, lines{"X-Forwarded-For": {"203.0.113.7" + strings.Repeat(",10.0.0.2", maxElements)}}, "10.0.0.2:0", false},
	{"longest", proxy4, lines{"X-Forwarded-For": {"203.0.113.7" + strings.Repeat(" ", maxBytes-len("203.0.113.7"))}}, client, false},
	{"too long", proxy4, lines{"X-Forwarded-For": {"203.0.113.7" + strings.Repeat(" ", maxBytes-len("203.0.113.7")+1)}}, proxy4, false},

	{"standard", proxy4, lines{"Forwarded": {"for=203.0.113.7;proto=https;by=10.0.0.1"}}, client, true},
	{"standard, IPv6", proxy6, lines{"Forwarded": {`proto=http;For="[2001:db8::7]:4711"`}}, "[2001:db8::7]:4711", false},
	{"standard, no quotes", proxy4, lines{"Forwarded": {`for=[2001:db8::7]`}}, six, false},
	{"standard, spaces", proxy4, lines{"Forwarded": {`for=203.0.113.7 ; Proto="HTTPS" ;; , `, `for=203.0.113.7; ;proto="wss"`}}, client, true},
	{"standard, hidden port", proxy4, lines{"Forwarded": {`for="203.0.113.7:_x"`}}, client, false},
	{"standard, hidden port, IPv6", proxy4, lines{"Forwarded": {`for="[2001:db8::7]:_x"`}}, six, false},
	{"standard, hidden", proxy4, lines{"Forwarded": {"for=203.0.113.7, for=_x;proto=https"}}, proxy4, false},
	{"standard, unknown", proxy4, lines{"Forwarded": {"for=203.0.113.7, for=unknown"}}, proxy4, false},
	{"standard, hidden behind a proxy", proxy4, lines{"Forwarded": {"for=203.0.113.7, for=unknown", "for=10.0.0.2;proto=https"}}, "10.0.0.2:0", true},
	{"standard, without for", proxy4, lines{"Forwarded": {"for=203.0.113.7, proto=https"}}, proxy4, false},
	{"standard, proxies", proxy4, lines{"Forwarded": {"for=198.51.100.1;proto=https, for=203.0.113.7;proto=https", `for="[fd00::2]:1";proto=http, for=10.0.0.2`}}, client, true},
	{"standard, client without TLS", proxy4, lines{"Forwarded": {"for=203.0.113.7;proto=http, for=10.0.0.2;proto=https"}}, client, false},
	{"standard, twice", proxy4, lines{"Forwarded": {"for=203.0.113.7;for=198.51.100.1"}}, proxy4, false},
	{"standard, twice the protocol", proxy4, lines{"Forwarded": {"for=203.0.113.7;proto=http;proto=https"}}, proxy4, false},
	{"standard, zone", proxy4, lines{"Forwarded": {`for="[fe80::1%eth0]"`}}, proxy4, false},
	{"standard, open quote", proxy4, lines{"Forwarded": {`for="203.0.113.7`}}, proxy4, false},
	{"standard, escapes", proxy4, lines{"Forwarded": {`for="203.0.113.\7"`}}, proxy4, false},
	{"standard, line end", proxy4, lines{"Forwarded": {"for=\"1.2.3.4\r\nPROXY TCP4\""}}, proxy4, false},
	{"standard, no value", proxy4, lines{"Forwarded": {"for"}}, proxy4, false},
	{"standard, separators in quotes", proxy4, lines{"Forwarded": {`for=203.0.113.7;x="a,for=198.51.100.1;for=1\";\\"`}}, client, false},
	{"standard, client leaves a quote open", proxy4, lines{"Forwarded": {`for=198.51.100.1;x=", for=203.0.113.7`}}, client, false},
	{"standard, client leaves a quote open, IPv6", proxy4, lines{"Forwarded": {`for=198.51.100.1;x="\, for="[2001:db8::7]"`}}, six, false},
	{"standard, protocol of the other", proxy4, lines{"Forwarded": {"for=203.0.113.7"}, "X-Forwarded-Proto": {"https"}}, client, false},

	{"both agree", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {"for=203.0.113.7;proto=https"}}, client, true},
	{"both agree, IPv6", proxy4, lines{"X-Forwarded-For": {"2001:db8::7"}, "Forwarded": {`for="[2001:db8:0::7]:1"`}}, six, false},
	{"both agree, not on TLS", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "Forwarded": {"for=203.0.113.7;proto=https"}}, client, false},
	{"client invents Forwarded", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "Forwarded": {"for=198.51.100.1;proto=https"}}, proxy4, false},
	{"client invents X-Forwarded-For", proxy4, lines{"X-Forwarded-For": {"198.51.100.1"}, "Forwarded": {"for=203.0.113.7"}}, proxy4, false},
	{"client empties Forwarded", proxy4, lines{"X-Forwarded-For": {"203.0.113.7"}, "Forwarded": {""}}, proxy4, false},
}

// Whom a request is for; what is not an address, or not a proxy's word, is not
// believed.
//
// Cases: 95, S22. RFC 7239, section 8.1.
func TestForwarded(t *testing.T) {
	for _, c := range forwarded {
		t.Run(c.name, func(t *testing.T) {
			policy := Policy{Forwarders: trusted}
			got, secure := policy.Client(addr(c.peer), http.Header(c.headers))
			if got != addr(c.want) || secure != c.secure {
				t.Errorf("got %v, %v", got, secure)
			}
			if got, secure := new(Policy).Client(addr(c.peer), http.Header(c.headers)); got != addr(c.peer) || secure {
				t.Errorf("nobody is trusted: %v, %v", got, secure)
			}
		})
	}
}

// What comes over a socket is believed, for who may open it is trusted. That does not go for all of this machine: a
// client may be on it, too.
func TestUnix(t *testing.T) {
	for _, c := range []struct {
		usual, standard, want string
	}{
		{"203.0.113.7", "", "203.0.113.7:0"},
		{"127.0.0.1", "", "127.0.0.1:0"},
		{"198.51.100.9, 127.0.0.1", "", "127.0.0.1:0"},
		{"198.51.100.9, ::1", "", "[::1]:0"},
		{"198.51.100.9, 10.1.2.3", "", "198.51.100.9:0"},
		{"", `for="[2001:db8::7]:1"`, "[2001:db8::7]:1"},
		{"203.0.113.7", "for=198.51.100.9", ""},
		{"unknown", "", ""},
		{"", "", ""},
	} {
		headers := http.Header{}
		if c.usual != "" {
			headers.Set("X-Forwarded-For", c.usual)
		}
		if c.standard != "" {
			headers.Set("Forwarded", c.standard)
		}
		var want netip.AddrPort
		if c.want != "" {
			want = netip.MustParseAddrPort(c.want)
		}
		for _, unix := range []bool{true, false} {
			policy := Policy{Forwarders: trusted, Unix: unix}
			got, _ := policy.Client(netip.AddrPort{}, headers)
			if unix && got != want || !unix && got.IsValid() {
				t.Errorf("%q, socket trusted: %v: got %v, want %v", headers, unix, got, want)
			}
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

func FuzzForwarded(f *testing.F) {
	for _, c := range forwarded {
		f.Add(strings.Join(c.headers["X-Forwarded-For"], "\n"), strings.Join(c.headers["Forwarded"], "\n"))
	}
	f.Fuzz(func(t *testing.T, usual, standard string) {
		peer := addr(proxy4)
		ask := func(usual, standard []string) netip.AddrPort {
			got, _ := Forwarded(peer, http.Header{"X-Forwarded-For": usual, "Forwarded": standard}, trusted)
			return got
		}
		a, b := strings.Split(usual, "\n"), strings.Split(standard, "\n")
		for _, got := range []netip.AddrPort{ask(a, b), ask(a, nil), ask(nil, b)} {
			if got != peer && !literally(got.Addr(), usual+","+standard) {
				t.Fatalf("%v stands nowhere", got)
			}
		}

		// Whatever a client sends, what the proxy adds behind it holds.
		for _, c := range [][2]string{{"203.0.113.7", client}, {"[2001:db8::7]:1", "[2001:db8::7]:1"}} {
			added, want := c[0], c[1]
			node := "for=\"" + added + "\";by=\"[fd00::1]:1\""
			for _, got := range []netip.AddrPort{
				ask([]string{usual + ", " + added}, nil), ask([]string{usual, added}, nil),
				ask(nil, []string{standard + "," + node}), ask(nil, []string{standard, node}),
			} {
				if got != addr(want) {
					t.Fatalf("%v, but the proxy says %s", got, want)
				}
			}
			if got := ask([]string{usual + "," + added}, b); got != peer && got.Addr() != addr(want).Addr() {
				t.Fatalf("%v by way of the other header", got)
			}
			if got := ask(a, []string{standard + "," + node}); got != peer && got.Addr() != addr(want).Addr() {
				t.Fatalf("%v by way of the other header", got)
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
