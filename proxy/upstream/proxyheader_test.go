package upstream

import (
	"encoding/hex"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// A pairConn is a connection with the ends given.
type pairConn struct {
	net.Conn
	local, remote net.Addr
}

func (c pairConn) LocalAddr() net.Addr  { return c.local }
func (c pairConn) RemoteAddr() net.Addr { return c.remote }

// The server learns the client's address, of whatever family.
//
// Behaviour: proxy-header. PROXY protocol, section 2.2.
func TestProxyHeader(t *testing.T) {
	const signature = "0d0a0d0a000d0a515549540a"
	tcp := pairConn{
		local:  &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 4000},
		remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 5222},
	}
	unix := pairConn{local: &net.UnixAddr{Net: "unix"}, remote: &net.UnixAddr{Net: "unix", Name: "/run/xmpp"}}
	long := strings.Repeat("a", 256)
	for _, test := range []struct {
		name             string
		conn             net.Conn
		client, listener string
		request          Request
		v1, v2           string // v2 in hex behind the signature; neither given is not tested
	}{
		{"IPv4", tcp, "203.0.113.7:54321", "192.0.2.1:443", Request{},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 000c cb007107 c0000201 d431 01bb"},
		{"IPv6", tcp, "[2001:db8::7]:54321", "[2001:db8::1]:443", Request{},
			"PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n",
			"21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 d431 01bb"},
		{"IPv4 to IPv6", tcp, "203.0.113.7:54321", "[2001:db8::1]:443", Request{},
			"PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 54321 443\r\n",
			"21 21 0024 00000000000000000000ffffcb007107 20010db8000000000000000000000001 d431 01bb"},
		{"IPv6 to IPv4", tcp, "[2001:db8::7]:54321", "192.0.2.1:443", Request{},
			"PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 54321 443\r\n",
			"21 21 0024 20010db8000000000000000000000007 00000000000000000000ffffc0000201 d431 01bb"},
		{"mapped IPv4", tcp, "[::ffff:203.0.113.7]:54321", "192.0.2.1:443", Request{},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 000c cb007107 c0000201 d431 01bb"},
		{"zone", tcp, "[fe80::7%eth0]:54321", "[fe80::1%eth0]:443", Request{},
			"PROXY TCP6 fe80::7 fe80::1 54321 443\r\n",
			"21 21 0024 fe800000000000000000000000000007 fe800000000000000000000000000001 d431 01bb"},
		{"ports", tcp, "203.0.113.7:65535", "192.0.2.1:0", Request{},
			"PROXY TCP4 203.0.113.7 192.0.2.1 65534 1\r\n",
			"21 11 000c cb007107 c0000201 fffe 0001"},
		{"no client", tcp, "", "", Request{},
			"PROXY TCP4 10.0.0.1 10.0.0.2 4000 5222\r\n",
			"21 11 000c 0a000001 0a000002 0fa0 1466"},
		{"no client, Unix socket", unix, "", "", Request{},
			"PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n",
			"21 11 000c 7f000001 7f000001 0001 0001"},
		{"no listener", tcp, "203.0.113.7:54321", "", Request{},
			"PROXY TCP4 203.0.113.7 10.0.0.2 54321 5222\r\n",
			"21 11 000c cb007107 0a000002 d431 1466"},
		{"all that there is to say", tcp, "203.0.113.7:54321", "192.0.2.1:443",
			Request{Domain: "a.b", ID: "s1", Secure: true},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 001f cb007107 c0000201 d431 01bb 02 0003 612e62 05 0002 7331 20 0005 01 00000001"},
		{"TLS 1.3", tcp, "203.0.113.7:54321", "192.0.2.1:443", Request{Secure: true, TLS: 0x0304},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 001e cb007107 c0000201 d431 01bb 20 000f 01 00000001 21 0007 544c5376312e33"},
		{"TLS of the future", tcp, "203.0.113.7:54321", "192.0.2.1:443", Request{Secure: true, TLS: 0x0305},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 0014 cb007107 c0000201 d431 01bb 20 0005 01 00000001"},
		{"too long", tcp, "203.0.113.7:54321", "192.0.2.1:443",
			Request{Domain: long, ID: long[:129]},
			"PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n",
			"21 11 000c cb007107 c0000201 d431 01bb"},
	} {
		r := test.request
		if test.client != "" {
			r.Client = netip.MustParseAddrPort(test.client)
		}
		if test.listener != "" {
			r.Listener = netip.MustParseAddrPort(test.listener)
		}
		if b, err := proxyHeader(1, &r, test.conn); err != nil || string(b) != test.v1 {
			t.Errorf("%s: v1 %q, %v\nwant %q", test.name, b, err, test.v1)
		}
		want := signature + strings.ReplaceAll(test.v2, " ", "")
		if b, err := proxyHeader(2, &r, test.conn); err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: v2 %x, %v\nwant %s", test.name, b, err, want)
		}
	}
}

// The header is the first thing that a server receives, in one segment with
// what follows if that is not TLS.
//
// Behaviour: proxy-header. PROXY protocol, section 2.
func TestProxyHeaderFirst(t *testing.T) {
	ca, cert := chatServer(t)
	request := chatRequest()
	request.Client = netip.MustParseAddrPort("203.0.113.7:54321")
	request.Listener = netip.MustParseAddrPort("192.0.2.1:443")
	const line = "PROXY TCP4 203.0.113.7 192.0.2.1 54321 443\r\n"
	answered := func(p *peer) {
		p.expect(t, chatHeader)
		p.send(reply + noFeatures)
		p.drain()
	}
	// at once reads what is there in one go.
	atOnce := func(p *peer, want string) {
		b := make([]byte, 4096)
		n, err := p.Read(b)
		p.must(err)
		if got := string(b[:n]); got != want {
			t.Errorf("received %q\nwant %q", got, want)
		}
	}
	unix := filepath.Join(t.TempDir(), "s")
	for _, test := range []struct {
		name, url, network, address string
		script                      func(p *peer)
	}{
		{"plain", "tcp://%s?proxy=v1", "tcp", "127.0.0.1:0", func(p *peer) {
			atOnce(p, line+chatHeader)
			p.send(reply + noFeatures)
			p.drain()
		}},
		{"unix", "unix:%s?proxy=v1", "unix", unix, func(p *peer) {
			atOnce(p, line+chatHeader)
			p.send(reply + noFeatures)
			p.drain()
		}},
		{"STARTTLS", "starttls://%s?proxy=v1&ca=" + ca.file, "tcp", "127.0.0.1:0", func(p *peer) {
			atOnce(p, line+clearHeader+startTLSElement)
			p.send(reply + tlsFeatures + proceed)
			p.secure(serverConfig(cert))
			answered(p)
		}},
		{"TLS", "tls://%s?proxy=v1&ca=" + ca.file, "tcp", "127.0.0.1:0", func(p *peer) {
			p.expect(t, line)
			p.secure(serverConfig(cert))
			answered(p)
		}},
		{"none", "tcp://%s", "tcp", "127.0.0.1:0", answered},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, _ := endpointAt(t, test.url, serveOn(t, test.network, test.address, test.script))
			if _, err := open(t, &e, request); err != nil {
				t.Error(err)
			}
		})
	}
}
