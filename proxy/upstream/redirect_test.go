package upstream

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// sends is an endpoint that sends the client elsewhere.
func (w *world) sends(to string) answerFunc {
	return func(_ context.Context, e *endpoint) (*Stream, error) {
		s := w.stream(e)
		s.Early = []byte("<" + to + "/>")
		return nil, &Error{Server: e.server, Phase: PhaseHeader, Result: ResultStreamError, Err: &redirect{to}, stream: s}
	}
}

// Behaviour: redirect. RFC 6120, section 4.9.3.19.
func TestRedirects(t *testing.T) {
	for _, test := range []struct {
		name   string
		server string
		sends  map[string]string // from, to
		want   string            // Stream.Early: of the server's error, when it is relayed
		tried  string
	}{
		{"one", "tls://a", map[string]string{"a:5223": "[::1]:9222"}, "", "a:5223 [::1]:9222"},
		{"three", "starttls://a", map[string]string{"a:5222": "b:1", "b:1": "c:1", "c:1": "d:1"}, "", "a:5222 b:1 c:1 d:1"},
		{"four", "tls://a", map[string]string{"a:5223": "b:1", "b:1": "c:1", "c:1": "d:1", "d:1": "e:1"}, "<e:1/>", "a:5223 b:1 c:1 d:1"},
		{"to itself", "tls://a", map[string]string{"a:5223": "a:5223"}, "<a:5223/>", "a:5223"},
		{"a loop", "tls://a", map[string]string{"a:5223": "b:1", "b:1": "a:5223"}, "<a:5223/>", "a:5223 b:1"},
		{"of a Unix socket", "unix:/a", map[string]string{"/a": "b:1"}, "<b:1/>", "/a"},
	} {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, test.server), Observer: o}, w)
		o.take()
		for from, to := range test.sends {
			w.set(from, w.sends(to))
		}
		s, err := r.Connect(t.Context(), &Request{})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if string(s.Early) != test.want || s.Server != test.server {
			t.Errorf("%s: got %s of %s, want %s", test.name, s.Early, s.Server, test.want)
		}
		tried := w.take()
		if got := strings.Join(tried, " "); got != test.tried {
			t.Errorf("%s: tried %s, want %s", test.name, got, test.tried)
		}
		if got, want := o.take(), slices.Repeat([]string{"redirected by " + test.server}, len(tried)-1); !slices.Equal(got, want) {
			t.Errorf("%s: observed %q", test.name, got)
		}
		for _, c := range w.conns {
			if c.isClosed() == (net.Conn(c) == s.Conn) {
				t.Errorf("%s: connections left open, or none", test.name)
			}
		}
	}
}

func TestRedirectKeepsTheRest(t *testing.T) {
	w := &world{}
	w.set("a:5223", w.sends("b:1"))
	r := newTestRouter(t, Config{Default: parse(t, "tls://a?name=n.example&proxy=v2")}, w)
	if err := connect(r, &Request{Domain: "d.example"}); err != nil {
		t.Fatal(err)
	}
	if e := w.last; e.address != "b:1" || e.security != directTLS || e.options.name != "n.example" || e.options.proxy != 2 || e.identity != "a" || e.allowed == nil {
		t.Errorf("went to %+v", e)
	}
	if w.request.Domain != "d.example" {
		t.Errorf("asked for %+v", w.request)
	}
}

// The next server may know better, and the redirects of one session are counted
// together.
func TestRedirectsAndFailover(t *testing.T) {
	w := &world{}
	w.set("a:5223", w.sends("gone:1"))
	w.set("gone:1", fails(PhaseTCP, ResultRefused))
	w.set("b:5223", w.sends("c:1"))
	w.set("c:1", w.sends("d:1"))
	w.set("d:1", w.sends("e:1"))
	r := newTestRouter(t, Config{Default: parse(t, "tls://a", "tls://b", "tls://f"), Policy: PolicyFirst}, w)
	s, err := r.Connect(t.Context(), &Request{})
	if err != nil || s.Server != "tls://f" {
		t.Errorf("got %+v, %v", s, err)
	}
	if got := strings.Join(w.take(), " "); got != "a:5223 gone:1 b:5223 c:1 d:1 f:5223" {
		t.Errorf("tried %s", got)
	}
	for _, c := range w.conns[:len(w.conns)-1] {
		if !c.isClosed() {
			t.Error("a connection is left open")
		}
	}
}

// What DNS must not lead to, a server that DNS has led to must not either. A
// stream in plain text does not leave the private network.
func TestRedirectsAreGuarded(t *testing.T) {
	const inside, outside, metadata = "10.0.0.1", "1.1.1.1", "169.254.169.254"
	for _, test := range []struct {
		server, to                string
		at                        string // the server; empty means on the Internet
		private, global, metadata bool
	}{
		{"tls://a", "b:1", "", false, true, false},
		{"tls://a", "a:1", "", true, true, true},
		{"starttls://a", "b:1", "", false, true, false},
		{"tls://a?private=true", "b:1", "", true, true, true},
		{"starttls://a?private=true", "b:1", "", true, true, true},
		{"tls://a", "b:1", "10.0.0.9", true, true, false},
		{"tls://a", "b:1", "127.0.0.1", true, true, false},
		{"starttls://a", "b:1", "fd00::9", true, true, false},
		{"tcp://a", "b:1", "", true, false, false},
		{"tcp://a", "a:1", "", true, true, true},
		{"srv:?private=true", "b:1", "", true, true, true},
		{"srv:", "b:1", "", false, true, false},
	} {
		for address, allowed := range map[string]bool{inside: test.private, outside: test.global, metadata: test.metadata} {
			_, resolver := newZone(t, map[string]string{})
			w := &world{}
			if test.at != "" {
				w.remote = &net.TCPAddr{IP: net.ParseIP(test.at)}
			}
			for _, from := range []string{"a:5222", "a:5223", "d.example.:5222"} {
				w.set(from, w.sends(test.to))
			}
			w.set(test.to, func(_ context.Context, e *endpoint) (*Stream, error) { // as open does
				if e.allowed != nil {
					if err := e.allowed(netip.MustParseAddr(address)); err != nil {
						return nil, &Error{Server: e.server, Phase: PhaseTCP, Result: ResultForbidden, Err: err}
					}
				}
				return w.stream(e), nil
			})
			r := newTestRouter(t, Config{Default: parse(t, test.server), AllowList: []string{"d.example"}, Resolver: resolver}, w)
			s, err := r.Connect(t.Context(), &Request{Domain: "d.example"})
			if err != nil {
				t.Errorf("%s to %s: %v", test.server, address, err)
				continue
			}
			if relayed := len(s.Early) > 0; relayed == allowed {
				t.Errorf("%s to %s at %s: relayed is %v", test.server, test.to, address, relayed)
			}
			if s.Conn.(*fakeConn).isClosed() {
				t.Errorf("%s to %s: the connection is closed", test.server, test.to)
			}
		}
	}
	for a, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.0.0.1": true, "172.16.0.1": true, "192.168.0.1": true, "fd00::1": true, "::ffff:10.0.0.1": true,
		"1.1.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "::": false, "fe80::1": false, "2a00::1": false,
	} {
		if err := private(netip.MustParseAddr(a)); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// Without its stream error, the failure is told.
func TestRedirectWithoutStream(t *testing.T) {
	w := &world{}
	w.set("a:5223", func(_ context.Context, e *endpoint) (*Stream, error) {
		return nil, &Error{Server: e.server, Phase: PhaseHeader, Result: ResultStreamError, Err: &redirect{"a:5223"}}
	})
	r := newTestRouter(t, Config{Default: parse(t, "tls://a")}, w)
	_, err := r.Connect(t.Context(), &Request{})
	if want := "server tls://a: header: see other host a:5223"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Behaviour: redirect. RFC 6120, section 4.9.3.19. The same over TCP.
func TestRedirectOverTCP(t *testing.T) {
	const head = `<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='i1' version='1.0' xmlns='jabber:client' from='d.example'>`
	serve := func(answer string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, head+answer)
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
		return l.Addr().String()
	}
	const features = "<stream:features/>"
	last := serve(features)
	first := serve("<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>" + last + "</see-other-host></stream:error></stream:stream>")
	r := newTestRouter(t, Config{Default: parse(t, "tcp://"+first)}, nil)
	s, err := r.Connect(t.Context(), r.table().all[0].probe())
	if err != nil {
		t.Fatal(err)
	}
	if s.Conn.RemoteAddr().String() != last || !strings.HasSuffix(string(s.Early), features) {
		t.Errorf("got %s from %s", s.Early, s.Conn.RemoteAddr())
	}
	s.Conn.Close()
	s.Done()
	if err := r.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
