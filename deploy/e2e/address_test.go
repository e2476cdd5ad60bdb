package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// Where clients connect from, on this machine: a load balancer that sends PROXY headers, an HTTP proxy that is believed,
// and anybody else.
const (
	fromBalancer = "127.0.0.2"
	fromProxy    = "127.0.0.3"
	fromAnybody  = "127.0.0.1"
)

// The networks of clients who are far away.
var (
	far4 = netip.MustParseAddrPort("203.0.113.7:51234")
	far6 = netip.MustParseAddrPort("[2001:db8::7]:51235")
	via4 = netip.MustParseAddrPort("192.0.2.1:443")
	via6 = netip.MustParseAddrPort("[2001:db8:1::1]:443")
)

// proxyV1 and proxyV2 are PROXY headers from src to dst, of the same family. haproxy, doc/proxy-protocol.txt.
func proxyV1(src, dst netip.AddrPort) string {
	family := map[bool]string{true: "TCP4", false: "TCP6"}[src.Addr().Is4()]
	return fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, src.Addr(), dst.Addr(), src.Port(), dst.Port())
}

func proxyV2(src, dst netip.AddrPort) string {
	addresses := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	addresses = binary.BigEndian.AppendUint16(addresses, src.Port())
	addresses = binary.BigEndian.AppendUint16(addresses, dst.Port())
	family := map[bool]byte{true: 0x11, false: 0x21}[src.Addr().Is4()]
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{0x21, family, 0, byte(len(addresses))}) + string(addresses)
}

// fronts are the addresses of a gateway and of what stands before it.
type fronts struct {
	IPv4, IPv6   string // the gateway itself
	Socket       string // the same, on a Unix socket
	HAProxy      string // HTTP, adds X-Forwarded-For, on to the socket
	HAProxy6     string // the same, on IPv6
	HAProxyAhead string // the same, behind a load balancer that sends PROXY headers
	HAProxyTCP   string // the same, on to IPv4 with a PROXY header
	NginX        string // HTTP, adds to X-Forwarded-For, on to the socket
	NginX6       string // the same, on IPv6
	NginXAhead   string // HTTP behind a load balancer that sends PROXY headers; X-Forwarded-For is from there

	TLS *tls.Config // of clients; nil where they speak plain text
}

// way is how a client reaches the gateway, and who it is then. An invalid address is the client's own one, port 0 any.
type way struct {
	name   string
	to     func(*fronts) string
	from   string // the client's own address; empty leaves it to the system
	ahead  string // sent before the request
	header http.Header
	want   netip.AddrPort
}

func direct(f *fronts) string { return f.IPv4 }

func header(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func anyPort(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

var own netip.AddrPort

var ways = []way{
	{"IPv4", direct, fromAnybody, "", nil, own},
	{"IPv6", func(f *fronts) string { return f.IPv6 }, "", "", nil, own},
	{"PROXY v1, IPv4", direct, fromBalancer, proxyV1(far4, via4), nil, far4},
	{"PROXY v1, IPv6", direct, fromBalancer, proxyV1(far6, via6), nil, far6},
	{"PROXY v2, IPv4", direct, fromBalancer, proxyV2(far4, via4), nil, far4},
	{"PROXY v2, IPv6", direct, fromBalancer, proxyV2(far6, via6), nil, far6},
	{"X-Forwarded-For, IPv4", direct, fromProxy, "", header("X-Forwarded-For: 203.0.113.7"), anyPort(far4)},
	{"X-Forwarded-For, IPv6", direct, fromProxy, "", header("X-Forwarded-For: 198.51.100.9, 2001:db8::7"), anyPort(far6)},
	{"X-Forwarded-For, other fields beside it", direct, fromProxy, "", forged("X-Forwarded-For: 127.0.0.1, 203.0.113.7"), anyPort(far4)},
	{"PROXY from a balancer, X-Forwarded-For from the client", direct, fromBalancer, proxyV2(far4, via4), header("X-Forwarded-For: 198.51.100.9"), far4},
	{"HAProxy, Unix socket", func(f *fronts) string { return f.HAProxy }, fromAnybody, "", nil, own},
	{"HAProxy, IPv6, Unix socket", func(f *fronts) string { return f.HAProxy6 }, "", "", nil, own},
	{"HAProxy, Unix socket, spoofed", func(f *fronts) string { return f.HAProxy }, fromAnybody, "", header("X-Forwarded-For: 198.51.100.9"), own},
	{"balancer, HAProxy, Unix socket, IPv4", func(f *fronts) string { return f.HAProxyAhead }, "", proxyV1(far4, via4), nil, anyPort(far4)},
	{"balancer, HAProxy, Unix socket, IPv6", func(f *fronts) string { return f.HAProxyAhead }, "", proxyV2(far6, via6), nil, anyPort(far6)},
	{"balancer, HAProxy, PROXY v2, IPv4", func(f *fronts) string { return f.HAProxyTCP }, "", proxyV1(far4, via4), nil, far4},
	{"balancer, HAProxy, PROXY v2, IPv6", func(f *fronts) string { return f.HAProxyTCP }, "", proxyV2(far6, via6), nil, far6},
	{"nginx, Unix socket", func(f *fronts) string { return f.NginX }, fromAnybody, "", nil, own},
	{"nginx, IPv6, Unix socket", func(f *fronts) string { return f.NginX6 }, "", "", nil, own},
	{"nginx, Unix socket, spoofed", func(f *fronts) string { return f.NginX }, fromAnybody, "", header("X-Forwarded-For: 198.51.100.9"), own},
	{"balancer, nginx, Unix socket, IPv4", func(f *fronts) string { return f.NginXAhead }, "", proxyV1(far4, via4), nil, anyPort(far4)},
	{"balancer, nginx, Unix socket, IPv6", func(f *fronts) string { return f.NginXAhead }, "", proxyV2(far6, via6), nil, anyPort(far6)},
	{"spoofed X-Forwarded-For", direct, fromAnybody, "", header("X-Forwarded-For: 198.51.100.9"), own},
	{"spoofed Forwarded", direct, fromAnybody, "", header("Forwarded: for=198.51.100.9"), own},
	{"HAProxy, forged", func(f *fronts) string { return f.HAProxyAhead }, "", proxyV1(far4, via4), forged("X-Forwarded-For: 127.0.0.1"), anyPort(far4)},
	{"nginx, forged", func(f *fronts) string { return f.NginXAhead }, "", proxyV1(far4, via4), forged("X-Forwarded-For: 127.0.0.1"), anyPort(far4)},
	{"nginx, forged, added to", func(f *fronts) string { return f.NginX }, fromAnybody, "", forged("X-Forwarded-For: 198.51.100.9"), own},
	{"balancer, HAProxy, PROXY v2, forged", func(f *fronts) string { return f.HAProxyTCP }, "", proxyV1(far4, via4), forged("X-Forwarded-For: 127.0.0.1"), far4},
}

// forged are the fields with which a client may claim to be on this machine, and more.
func forged(more ...string) http.Header {
	return header(append(more, "Forwarded: for=127.0.0.1;proto=https", "X-Real-IP: 127.0.0.1", "CF-Connecting-IP: 127.0.0.1", "True-Client-IP: 127.0.0.1",
		"Fly-Client-IP: 127.0.0.1", "X-Client-IP: 127.0.0.1", "Via: 1.1 127.0.0.1")...)
}

// refusals are connections that do not get as far as a session.
var refusals = []way{
	{"a PROXY header from anybody", direct, fromAnybody, proxyV1(far4, via4), nil, own},
	{"a PROXY header of version 2 from anybody", direct, fromAnybody, proxyV2(far4, via4), nil, own},
	{"a PROXY header from an HTTP proxy", direct, fromProxy, proxyV1(far4, via4), nil, own},
	{"a balancer without a PROXY header", direct, fromBalancer, "", nil, own},
	{"an HTTP proxy that does not forward", direct, fromProxy, "", nil, own},
	{"an HTTP proxy that forwards something else", direct, fromProxy, "", forged(), own},
	{"an HTTP proxy that does not know", direct, fromProxy, "", header("X-Forwarded-For: 203.0.113.7, unknown"), own},
}

// dial opens a WebSocket in this way and returns the address that the other end sees, too.
func (w *way) dial(f *fronts) (*client, netip.AddrPort, error) {
	var local netip.AddrPort
	d := ws.Dialer{Header: ws.HandshakeHeaderHTTP(w.header)}
	d.NetDial = func(ctx context.Context, network, address string) (net.Conn, error) {
		d := net.Dialer{}
		if w.from != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(w.from)}
		}
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		local = c.LocalAddr().(*net.TCPAddr).AddrPort()
		_, err = c.Write([]byte(w.ahead))
		if f.TLS != nil {
			c = tls.Client(c, f.TLS)
		}
		return c, err
	}
	t, err := dialWebSocket("ws://"+w.to(f)+"/xmpp-websocket", d)
	return &client{transport: t}, local, err
}

// The client's address is the same everywhere: in the gateway's log, in /connections, and at the server.
func TestClientAddress(t *testing.T) {
	needGateway(t)
	t.Parallel()
	for _, s := range servers {
		at, watch := s.proxy, s.sessions
		if s.name == "prosody" { // version 0.12 knows no PROXY protocol; HAProxy before it does
			at, watch = behindHAProxy(t, s)
		}
		upstreams := []string{"tcp://" + at + "?proxy=v1", "tcp://" + at + "?proxy=v2", "starttls://" + at + s.ca() + "&proxy=v2"}
		if s.name == "ejabberd" {
			upstreams = append(upstreams, "tls://"+s.proxyTLS+s.ca()+"&proxy=v1")
		}
		for i, upstream := range upstreams {
			t.Run(fmt.Sprintf("%s/%d", s.name, i), func(t *testing.T) {
				g, f := startFronts(t, upstream)
				for _, w := range ways {
					t.Run(w.name, func(t *testing.T) { w.check(t, g, f, watch) })
				}
				for _, w := range refusals {
					t.Run(w.name, func(t *testing.T) {
						c, _, err := w.dial(f)
						if err == nil {
							c.conn().Close()
							t.Fatal("a WebSocket was opened, want a refusal")
						}
						var status ws.StatusError
						if !errors.As(err, &status) || int(status) != http.StatusBadRequest {
							t.Errorf("refused by %v, want status 400", err)
						}
					})
				}
			})
		}
	}
}

// A server lets clients of its own machine register, and nobody else. A client elsewhere cannot pass for one, whatever
// it sends through HAProxy or nginx as docs/client-address.md configures them.
//
// Behaviour: client-address. RFC 7239, section 8.1
func TestRegistrationByAddress(t *testing.T) {
	needGateway(t)
	t.Parallel()
	for _, s := range servers {
		if s.name != "ejabberd" {
			continue
		}
		_, f := startFronts(t, "tcp://"+s.proxy+"?proxy=v2")
		for _, c := range []struct {
			way   way
			local bool // the client is on this machine
		}{
			{way{name: "direct", to: direct, from: fromAnybody}, true},
			{way{name: "HAProxy", to: func(f *fronts) string { return f.HAProxy }, from: fromAnybody}, true},
			{way{name: "nginx", to: func(f *fronts) string { return f.NginX }, from: fromAnybody}, true},
			{way{name: "HAProxy, far", to: func(f *fronts) string { return f.HAProxyAhead }, ahead: proxyV1(far4, via4)}, false},
			{way{name: "HAProxy, forged", to: func(f *fronts) string { return f.HAProxyAhead }, ahead: proxyV1(far4, via4), header: forged("X-Forwarded-For: 127.0.0.1")}, false},
			{way{name: "HAProxy, forged, IPv6", to: func(f *fronts) string { return f.HAProxyAhead }, ahead: proxyV2(far6, via6), header: forged("X-Forwarded-For: ::1")}, false},
			{way{name: "nginx, far", to: func(f *fronts) string { return f.NginXAhead }, ahead: proxyV1(far4, via4)}, false},
			{way{name: "nginx, forged", to: func(f *fronts) string { return f.NginXAhead }, ahead: proxyV1(far4, via4), header: forged("X-Forwarded-For: 127.0.0.1")}, false},
			{way{name: "nginx, forged, junk", to: func(f *fronts) string { return f.NginXAhead }, ahead: proxyV1(far4, via4), header: header(`Forwarded: for="`, "X-Forwarded-For: ,")}, false},
			{way{name: "PROXY, forged", to: func(f *fronts) string { return f.HAProxyTCP }, ahead: proxyV2(far4, via4), header: forged("X-Forwarded-For: 127.0.0.1")}, false},
			{way{name: "HTTP proxy, forged", to: direct, from: fromProxy, header: forged("X-Forwarded-For: 127.0.0.1, 203.0.113.7")}, false},
		} {
			t.Run(c.way.name, func(t *testing.T) {
				cl, _, err := c.way.dial(f)
				if err != nil {
					t.Fatal(err)
				}
				defer cl.conn().Close()
				if _, err := cl.open(domain); err != nil {
					t.Fatal(err)
				}
				user := fmt.Sprintf("registered%d", userCount.Add(1))
				answer, err := cl.request("", "set", `<query xmlns="jabber:iq:register"><username>`+user+`</username><password>`+password+`</password></query>`)
				if got := err == nil && !strings.Contains(answer.raw, "<error"); got != c.local {
					t.Errorf("registered: %v, want %v: %v, %v", got, c.local, answer, err)
				}
			})
		}
	}
}

// watch begins to look where a server thinks that sessions come from: the function tells it of the session of c, which
// has logged in since, and perhaps of others.
type watch func() func(c *client) ([]netip.AddrPort, error)

func (w *way) check(t *testing.T, g *gateway, f *fronts, watch watch) {
	from, seen := g.proc.log.len(), watch()
	c, want, err := w.dial(f)
	if err == nil {
		err = c.login(anonDomain, "", "")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn().Close()
	if w.want != own {
		want = w.want
	} else if w.to(f) != f.IPv4 && w.to(f) != f.IPv6 {
		want = anyPort(want) // X-Forwarded-For does not say it
	}
	page, err := g.get("/connections")
	var connections []struct{ Remote netip.AddrPort }
	if err == nil {
		err = json.Unmarshal([]byte(page), &connections)
	}
	if err != nil || len(connections) != 1 {
		t.Fatalf("/connections: %v, %s; want one connection", err, page)
	}
	if got := connections[0].Remote; got != want {
		t.Errorf("/connections: the client is %v, want %v", got, want)
	}

	err = poll(patience, func() error {
		got, err := seen(c)
		if err != nil {
			return errStop{err}
		}
		if !slices.ContainsFunc(got, func(a netip.AddrPort) bool {
			return a.Addr().Unmap() == want.Addr() && (want.Port() == 0 || a.Port() == want.Port()) // no server can be told of port 0
		}) {
			return fmt.Errorf("the server has sessions from %v, want %v", got, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	if err := c.close(); err != nil {
		t.Error(err)
	}
	r, err := g.awaitEnd(from)
	if err != nil {
		t.Fatal(err)
	}
	if r.Remote != want.String() {
		t.Errorf("the log has remote=%q, want %q", r.Remote, want)
	}
}

// sessions is a [watch] that asks ejabberd's API.
func (s *server) sessions() func(c *client) ([]netip.AddrPort, error) {
	return func(c *client) (found []netip.AddrPort, err error) {
		var sessions []struct {
			IP   netip.Addr
			Port uint16
		}
		user, host, _ := strings.Cut(c.bare(), "@")
		err = s.call("user_sessions_info", map[string]string{"user": user, "host": host}, &sessions)
		for _, x := range sessions {
			found = append(found, netip.AddrPortFrom(x.IP, x.Port))
		}
		return found, err
	}
}

// behindHAProxy starts an HAProxy that takes PROXY headers off for a server, and logs each client as it connects.
func behindHAProxy(t *testing.T, s *server) (address string, _ watch) {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address = fmt.Sprintf("127.0.0.1:%d", ports[0])
	p := startFront(t, "haproxy", haproxyGlobal+`
listen xmpp
	mode tcp
	bind `+address+` accept-proxy
	option logasap
	log-format "client %ci %cp"
	server s `+s.c2s+`
`, address)
	return address, func() func(*client) ([]netip.AddrPort, error) {
		from := p.log.len()
		return func(*client) (found []netip.AddrPort, err error) {
			for line := range strings.Lines(p.log.all()[from:]) {
				var host string
				var port uint16
				if n, _ := fmt.Sscanf(line, "client %s %d\n", &host, &port); n < 2 {
					continue
				}
				ip, err := netip.ParseAddr(host)
				if err != nil {
					return nil, err
				}
				found = append(found, netip.AddrPortFrom(ip, port))
			}
			return found, nil
		}
	}
}

const haproxyGlobal = `
global
	log stdout format raw local0
defaults
	log global
	timeout connect 5s
	timeout client 60s
	timeout server 60s
	timeout tunnel 60s
`

// startFront runs haproxy or nginx with a configuration until the test ends, and waits for its addresses.
func startFront(t *testing.T, program, config string, addresses ...string) *process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, program+".conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-f", file)
	if program == "nginx" {
		cmd = exec.Command(program, "-p", dir, "-c", file, "-e", "stderr")
	}
	p, err := startProcess(program, cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", program, p.log.tail(0))
		}
	})
	err = p.awaitReady(patience, func() error {
		var errs []error
		for _, a := range addresses {
			errs = append(errs, accepts(a))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// snippet returns the block of a page of docs that begins with a line, with another address of the gateway.
func snippet(t *testing.T, name, begin, address, instead string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(page), "\n"+begin)
	block, _, ok2 := strings.Cut(block, "\n```")
	if !ok || !ok2 || strings.Count(block, address) != 1 {
		t.Fatalf("docs/%s has no snippet %q with %s", name, begin, address)
	}
	_, block, _ = strings.Cut(block, "\n")
	return strings.Replace(block, address, instead, 1)
}

// startFronts starts a gateway, HAProxy and nginx.
func startFronts(t *testing.T, upstream string) (*gateway, *fronts) {
	t.Helper()
	ports, err := freePorts(9)
	if err != nil {
		t.Fatal(err)
	}
	at := func(host string, i int) string { return fmt.Sprintf("%s:%d", host, ports[i]) }
	dir := t.TempDir()
	f := &fronts{
		IPv6: at("[::1]", 0), Socket: filepath.Join(dir, "ws.sock"),
		HAProxy: at("127.0.0.1", 1), HAProxy6: at("[::1]", 2), HAProxyAhead: at("127.0.0.1", 3), HAProxyTCP: at("127.0.0.1", 4),
		NginX: at("127.0.0.1", 5), NginX6: at("[::1]", 6), NginXAhead: at("127.0.0.1", 7),
	}
	f.IPv4 = at("127.0.0.1", 8)
	g := gatewayFor(t, upstream,
		"XMPPGATE_LISTEN="+f.IPv4+","+f.IPv6+",unix:"+f.Socket,
		"XMPPGATE_PROXY_PROTOCOL="+fromBalancer,
		"XMPPGATE_TRUSTED_PROXIES="+fromProxy+",unix")
	haproxySnippet := snippet(t, "client-address.md", "# haproxy.cfg, over HTTP", "10.0.0.7:5290", f.Socket)
	startFront(t, "haproxy", haproxyGlobal+`
frontend http
	mode http
	bind `+f.HAProxy+`
	bind `+f.HAProxy6+`
	bind `+f.HAProxyAhead+` accept-proxy
	default_backend xmppgate
`+haproxySnippet+`
listen tcp
	mode tcp
	bind `+f.HAProxyTCP+` accept-proxy
	server gateway `+f.IPv4+` source `+fromBalancer+` send-proxy-v2
`, f.HAProxy, f.HAProxy6, f.HAProxyAhead, f.HAProxyTCP)
	relay := snippet(t, "client-address.md", "# nginx.conf", "http://127.0.0.1:5290", "http://gateway")
	user := ""
	if os.Getuid() == 0 { // else its workers may not open the socket
		user = "user root;"
	}
	startFront(t, "nginx", user+`
daemon off;
worker_processes 1;
pid nginx.pid;
events { }
http {
	access_log off;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	upstream gateway { server unix:`+f.Socket+`; }
	server {
		listen `+f.NginX+`;
		listen `+f.NginX6+`;
		`+relay+`
	}
	server {
		listen `+f.NginXAhead+` proxy_protocol;
		set_real_ip_from 127.0.0.1;
		real_ip_header proxy_protocol;
		`+relay+`
	}
}
`, f.NginX, f.NginX6, f.NginXAhead)
	return g, f
}
