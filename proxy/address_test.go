package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/upstream"
)

// v2fields is a PROXY header with n bytes behind its first 16.
func v2fields(n int) string {
	const addresses = "\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x14\xa0"
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11")
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, addresses...)
	for n -= len(addresses); n > 0; { // a private type in pieces, as balancers add their own
		size := min(n, 300)
		if n-size > 0 && n-size < 3 {
			size -= 3
		}
		b = append(b, 0xea)
		b = binary.BigEndian.AppendUint16(b, uint16(size-3))
		b = append(b, strings.Repeat("a", size-3)...)
		n -= size
	}
	return string(b)
}

// The server, the log and the metrics get the client's true address, by
// whichever way it comes; nobody else's word about it counts.
//
// Behaviour: client-address. PROXY protocol, section 2; RFC 7239, section 8.1
func TestClientAddress(t *testing.T) {
	const (
		v2inet  = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x14\xa0"
		v2local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	)
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, c := range []struct {
		name             string
		policy           clientaddr.Policy
		ahead, headers   string
		client, listener string // "" is the socket's
		secure           bool
		refused          bool
	}{
		{name: "nobody is asked", headers: "X-Forwarded-For: 203.0.113.7\r\nForwarded: for=203.0.113.7\r\n"},
		{name: "v1", policy: clientaddr.Policy{Proxies: loopback}, ahead: "PROXY TCP4 203.0.113.7 198.51.100.1 54321 5280\r\n",
			client: "203.0.113.7:54321", listener: "198.51.100.1:5280"},
		{name: "v1, IPv6", policy: clientaddr.Policy{Proxies: loopback}, ahead: "PROXY TCP6 2001:db8::7 2001:db8::1 54321 5280\r\n",
			client: "[2001:db8::7]:54321", listener: "[2001:db8::1]:5280"},
		{name: "v2", policy: clientaddr.Policy{Proxies: loopback}, ahead: v2inet, client: "203.0.113.7:54321", listener: "198.51.100.1:5280"},
		{name: "v2, extra fields", policy: clientaddr.Policy{Proxies: loopback}, ahead: v2fields(612), client: "203.0.113.7:54321", listener: "198.51.100.1:5280"},
		{name: "v2, most extra fields", policy: clientaddr.Policy{Proxies: loopback}, ahead: v2fields(4096), client: "203.0.113.7:54321", listener: "198.51.100.1:5280"},
		{name: "v2, too many extra fields", policy: clientaddr.Policy{Proxies: loopback}, ahead: v2fields(4097), refused: true},
		{name: "v2, the proxy itself", policy: clientaddr.Policy{Proxies: loopback}, ahead: v2local},
		{name: "no header where one belongs", policy: clientaddr.Policy{Proxies: loopback}, refused: true},
		{name: "a header where none belongs", ahead: v2inet, refused: true},
		{name: "X-Forwarded-For", policy: clientaddr.Policy{Forwarders: loopback}, headers: "X-Forwarded-For: 192.0.2.1, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n",
			client: "203.0.113.7:0", secure: true},
		{name: "X-Forwarded-For, Forwarded beside it", policy: clientaddr.Policy{Forwarders: loopback},
			headers: "Forwarded: for=127.0.0.1\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: x\r\nX-Real-IP: 127.0.0.1\r\nx-forwarded-for: 203.0.113.7\r\n", client: "203.0.113.7:0"},
		{name: "Forwarded", policy: clientaddr.Policy{Forwarders: loopback, Header: "Forwarded"}, headers: "X-Forwarded-For: 127.0.0.1\r\nForwarded: for=\"[2001:db8::7]:4711\"\r\n", client: "[2001:db8::7]:4711"},
		{name: "not an address", policy: clientaddr.Policy{Forwarders: loopback}, headers: "X-Forwarded-For: 1.2.3.4 5.6.7.8\r\n", refused: true},
		{name: "unknown", policy: clientaddr.Policy{Forwarders: loopback, Header: "Forwarded"}, headers: "Forwarded: for=unknown\r\n", refused: true},
		{name: "a proxy that does not forward", policy: clientaddr.Policy{Forwarders: loopback}, headers: "Forwarded: for=203.0.113.7\r\n", refused: true},
		{name: "PROXY and field", policy: clientaddr.Policy{Proxies: loopback, Forwarders: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, ahead: v2inet,
			headers: "X-Forwarded-For: 192.0.2.1\r\n", client: "192.0.2.1:0", listener: "198.51.100.1:5280"},
		{name: "PROXY and no field", policy: clientaddr.Policy{Proxies: loopback, Forwarders: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, ahead: v2inet, refused: true},
		{name: "PROXY of a client that invents a field", policy: clientaddr.Policy{Proxies: loopback, Forwarders: loopback, Unix: true}, ahead: v2inet,
			headers: "X-Forwarded-For: 127.0.0.1\r\n", client: "203.0.113.7:54321", listener: "198.51.100.1:5280"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onLoops(t, func(t *testing.T, l string) {
				if strings.HasSuffix(l, overTLS) {
					return // the server's side does not matter
				}
				for name, chunking := range map[string]func([]byte) [][]byte{"whole": whole, "bytes": chunkings["bytes"].cut} {
					requests := make(chan *upstream.Request, 1)
					b := newBench(t, l, func(g *Gateway) {
						g.ClientAddress, g.Static = c.policy, nil
						g.Dial = func(_ context.Context, q *upstream.Request) (*upstream.Stream, error) {
							requests <- q
							return nil, errors.New("nothing is dialled for an address")
						}
					})
					conn, err := net.Dial("tcp", b.gate.Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(patience))
					for _, part := range chunking([]byte(c.ahead + goodRequest + c.headers + "\r\n")) {
						conn.Write(part)
					}
					if c.refused {
						if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
							t.Errorf("%s: got %q", name, got)
						}
						continue
					}
					readResponse(t, conn)
					b.send(conn, `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from="Juliet@example.org/x" to="Proto.TEST" version="1.0"/>`)
					q := <-requests
					client, listener := c.client, c.listener
					if client == "" {
						client = conn.LocalAddr().String()
					}
					if listener == "" {
						listener = conn.RemoteAddr().String()
					}
					if q.Client.String() != client || q.Listener.String() != listener || q.Secure != c.secure {
						t.Errorf("%s: got %v at %v, %v; want %v at %v, %v", name, q.Client, q.Listener, q.Secure, client, listener, c.secure)
					}
					if q.Domain != "proto.test" || q.JID != "Juliet@example.org" || string(q.Header.To) != `"Proto.TEST"` || q.ID == "" {
						t.Errorf("%s: got %+v", name, q)
					}
				}
			})
		})
	}
}
