package main

import (
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// activate runs the program as systemd does, with sockets behind standard error. A shell
// in between knows the process that it becomes.
func activate(t *testing.T, g *gatewayProcess, listeners ...net.Listener) {
	t.Helper()
	for _, l := range listeners {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		g.ExtraFiles = append(g.ExtraFiles, f)
	}
	g.Args = []string{"sh", "-c", "LISTEN_PID=$$ exec -a xmppgate " + g.Path}
	g.Path = "/bin/bash"
	g.Env = append(g.Env, "LISTEN_FDS="+string(rune('0'+len(listeners))))
}

func TestSocketActivation(t *testing.T) {
	g := newGateway(t)
	// The directory of the sockets stays; who has opened them is systemd.
	ws, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.dir + "/ws"})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	g.Env = append(g.Env, "XMPPGATE_LISTEN=unix:"+g.dir+"/ws,"+tcp.Addr().String())
	activate(t, g, ws, tcp)
	g.serves()
	g.open()
	c, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	g.drains()
	if _, err := os.Stat(g.dir + "/ws"); err != nil {
		t.Errorf("the socket of systemd: %v", err)
	}
}

// An upgrade passes the sockets on, and leaves them to systemd all the same.
func TestSocketActivationAndUpgrade(t *testing.T) {
	r := newReplaceable(t)
	ws, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.dir + "/ws"})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	activate(t, r.gatewayProcess, ws)
	r.begin()
	for range 3 {
		if status, body := r.upgrade(); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		r.becomesSole()
		r.talks().Close()
	}
	syscall.Kill(r.becomesSole(), syscall.SIGTERM)
	r.eventually("it does not end", func() bool { return len(r.processes()) == 0 })
	if _, err := os.Stat(r.dir + "/ws"); err != nil {
		t.Errorf("the socket of systemd: %v", err)
	}
}

func TestSocketThatIsNotConfigured(t *testing.T) {
	g := newGateway(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	activate(t, g, l)
	var out strings.Builder
	g.Stderr = &out
	if err := g.Run(); err == nil || !strings.Contains(out.String(), "systemd listens on "+l.Addr().String()+", which is in neither") {
		t.Errorf("%v %s", err, out.String())
	}
}

func TestAddressIs(t *testing.T) {
	for _, c := range []struct {
		configured string
		is, not    []net.Addr
	}{
		{":5290", []net.Addr{tcpAddr("[::]:5290"), tcpAddr("0.0.0.0:5290")}, []net.Addr{tcpAddr("127.0.0.1:5290"), tcpAddr("[::]:5291")}},
		{"0.0.0.0:5290", []net.Addr{tcpAddr("[::]:5290")}, []net.Addr{&net.UnixAddr{Net: "unix", Name: "0.0.0.0:5290"}}},
		{"localhost:1", []net.Addr{tcpAddr("127.0.0.1:1")}, []net.Addr{tcpAddr("[::1]:1")}},
		{"[::1]:1", []net.Addr{tcpAddr("[::1]:1")}, []net.Addr{tcpAddr("[::]:1")}},
		{"unix:/run/s", []net.Addr{&net.UnixAddr{Net: "unix", Name: "/run/s"}}, []net.Addr{&net.UnixAddr{Net: "unix", Name: "/run/t"}}},
	} {
		a := parseAll(t, c.configured)[0]
		for _, l := range c.is {
			if !a.is(l) {
				t.Errorf("%s is not %s", c.configured, l)
			}
		}
		for _, l := range c.not {
			if a.is(l) {
				t.Errorf("%s is %s", c.configured, l)
			}
		}
	}
}

func tcpAddr(s string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", s)
	if err != nil {
		panic(err)
	}
	return a
}
