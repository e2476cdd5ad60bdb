package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"xmppgate/framing"
)

// eachWay runs a test with servers that send all at once and byte by byte.
func eachWay(t *testing.T, f func(t *testing.T, bytewise bool)) {
	for _, bytewise := range []bool{false, true} {
		t.Run(map[bool]string{false: "whole", true: "bytes"}[bytewise], func(t *testing.T) {
			t.Parallel()
			f(t, bytewise)
		})
	}
}

// RFC 6120, section 4.2.
func TestOpenPlain(t *testing.T) {
	unix := filepath.Join(t.TempDir(), "s")
	for _, on := range []struct{ network, address, url string }{
		{"tcp", "127.0.0.1:0", "tcp://%s"},
		{"unix", unix, "unix:%s"},
	} {
		address := serveOn(t, on.network, on.address, func(p *peer) {
			p.expect(t, chatHeader)
			p.send(reply + noFeatures + `<iq id='early'/>`)
			p.expect(t, `<iq id='up'/>`)
			p.send(`<iq id='down'/>`)
			p.drain()
		})
		e, seen := endpointAt(t, on.url, address)
		s, err := open(t, &e, chatRequest())
		if err != nil {
			t.Fatal(err)
		}
		if want := reply + noFeatures + `<iq id='early'/>`; string(s.Early) != want {
			t.Errorf("early %q, want %q", s.Early, want)
		}
		if s.Server != e.server {
			t.Errorf("server %q", s.Server)
		}
		// The connection has no deadline left.
		p := &peer{Conn: s.Conn}
		p.send(`<iq id='up'/>`)
		p.expect(t, `<iq id='down'/>`)
		if got := seen.String(); got != "tcp ok, header ok" {
			t.Errorf("observed %s", got)
		}
		s.Done()
	}
}

// RFC 6120, sections 4.7 and 4.9.
func TestHeader(t *testing.T) {
	end := framing.EndTag
	streamError := func(c string) string {
		return `<stream:error><` + c + ` xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>` + end
	}
	type want struct {
		result string // "ok" or of PhaseHeader
		text   string // in the error
		relay  bool   // the error has a stream
	}
	tests := []struct {
		name, reply string
		stays       bool // connected
		want        want
	}{
		{"features", reply + noFeatures, true, want{result: "ok"}},
		{"features, hung up", reply + noFeatures, false, want{result: "ok"}},
		{"header only", reply, true, want{result: "ok"}},
		{"half of the features", reply + `<stream:features><a>`, true, want{result: "ok"}},
		{"another element", reply + `<a xmlns='b'/>`, true, want{result: "ok"}},
		{"long features", reply + `<stream:features><a>` + strings.Repeat("x", maxEarly) + `</a></stream:features>`, true, want{result: "ok"}},
		{"nothing", "", false, want{"closed", "the server closed the connection: EOF", false}},
		{"half a header", reply[:50], false, want{"closed", "closed the connection", false}},
		{"header, hung up", reply, false, want{"closed", "closed the connection", false}},
		{"header and end", reply + end, false, want{"closed", "ended the stream", false}},
		{"two headers", reply + reply[len("<?xml version='1.0'?>"):], true, want{"bad-stream", "two stream headers", false}},
		{"no header", noFeatures, true, want{"bad-stream", "does not start with a stream header", false}},
		{"long header", reply[:len(reply)-1] + ` a='` + strings.Repeat("x", maxEarly) + `'>`, true, want{"bad-stream", "too large", false}},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", true, want{"bad-stream", "the server answers HTTP", false}},
		{"HTML", "<html>\r\n<head><title>400 Bad Request</title></head>", true, want{"bad-stream", "the server answers HTTP", false}},
		{"TLS", "\x15\x03\x01\x00\x02\x02\x0A", true, want{"bad-stream", "write tls://", false}},
		{"comment", reply + `<!-- x -->`, true, want{"bad-stream", "restricted-xml", false}},
		{"instruction", reply + `<?a b?>`, true, want{"bad-stream", "restricted-xml", false}},
		{"document type", `<!DOCTYPE a>` + reply, true, want{"bad-stream", "restricted-xml", false}},
		{"no condition", reply + `<stream:error/>` + end, false, want{result: "ok"}},
		{"nonsense redirect", reply + `<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>a b</see-other-host></stream:error>`, true, want{result: "ok"}},
		{"redirect", reply + `<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[2001:DB8::1]</see-other-host></stream:error>` + end, false,
			want{"stream-error", "see other host [2001:db8::1]:5222", true}},
	}
	for c, relay := range map[string]bool{
		// The server cannot.
		"connection-timeout": true, "internal-server-error": true, "remote-connection-failed": true,
		"reset": true, "resource-constraint": true, "system-shutdown": true, "undefined-condition": true,
		"new-condition": true,
		// The server will not.
		"bad-format": false, "bad-namespace-prefix": false, "conflict": false, "host-gone": false,
		"host-unknown": false, "improper-addressing": false, "invalid-from": false, "invalid-namespace": false,
		"invalid-xml": false, "not-authorized": false, "not-well-formed": false, "policy-violation": false,
		"restricted-xml": false, "unsupported-encoding": false, "unsupported-feature": false,
		"unsupported-stanza-type": false, "unsupported-version": false,
	} {
		w := want{result: "ok"}
		if relay {
			w = want{"stream-error", "stream error ", true}
		}
		tests = append(tests, struct {
			name, reply string
			stays       bool
			want        want
		}{c, reply + streamError(c), false, w})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, bytewise bool) {
				if bytewise && len(test.reply) > maxEarly {
					t.Skip("takes long")
				}
				address := serve(t, func(p *peer) {
					p.bytewise = bytewise
					p.expect(t, chatHeader)
					p.send(test.reply)
					if test.stays {
						p.drain()
					}
				})
				e, _ := endpointAt(t, "tcp://%s", address)
				s, err := open(t, &e, chatRequest())
				if got := strings.TrimPrefix(resultOf(err), "header "); got != test.want.result {
					t.Fatalf("result %s, want %s: %v", got, test.want.result, err)
				}
				if err != nil {
					if !strings.Contains(err.Error(), test.want.text) {
						t.Errorf("error %q, want %q", err, test.want.text)
					}
					if (err.stream != nil) != test.want.relay {
						t.Errorf("stream %v", err.stream)
					}
					s = err.stream
				}
				if s != nil {
					// What was not read early is still to come, in order.
					rest, _ := io.ReadAll(io.LimitReader(s.Conn, int64(len(test.reply)-len(s.Early))))
					if got := string(s.Early) + string(rest); got != test.reply {
						t.Errorf("%d bytes early, %d later, of %d", len(s.Early), len(rest), len(test.reply))
					}
				}
			})
		})
	}
}

// RFC 6120, section 4.9.3.19.
func TestNormalHost(t *testing.T) {
	for in, want := range map[string]string{
		"xmpp.example":             "xmpp.example:5222",
		"XMPP.example:443":         "xmpp.example:443",
		"192.0.2.1":                "192.0.2.1:5222",
		"192.0.2.1:1":              "192.0.2.1:1",
		"[2001:db8::1]":            "[2001:db8::1]:5222",
		"[2001:db8::1]:5269":       "[2001:db8::1]:5269",
		"2001:db8::1":              "[2001:db8::1]:5222",
		"":                         "",
		":5222":                    "",
		"a:":                       "",
		"a:0":                      "",
		"a:65536":                  "",
		"a:xmpp":                   "",
		"a:1:2":                    "",
		"[::1":                     "",
		"[::1]x":                   "",
		"[::1]:":                   "",
		"[a.example]":              "",
		"[a.example]:1":            "",
		"[fe80::1%eth0]:5222":      "",
		"a b":                      "",
		"a/b":                      "",
		"a\nb":                     "",
		"user@a":                   "",
		"-":                        "-:5222",
		"bücher.example":           "",
		strings.Repeat("a", 64):    "",
		strings.Repeat("a.a", 100): "",
	} {
		if got, ok := normalHost(in); got != want || ok != (want != "") {
			t.Errorf("normalHost(%q) = %q, %t; want %q", in, got, ok, want)
		}
	}
}

func TestDial(t *testing.T) {
	closed := serve(t, func(*peer) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().String()
	l.Close()
	failing := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no network")
	}}
	forbid := func(a netip.Addr) error {
		if a != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("asked about %v", a)
		}
		return errors.New("not there")
	}
	for _, test := range []struct {
		name, url string
		edit      func(*endpoint)
		want      string
	}{
		{"closed", "tcp://" + closed, nil, "header closed"},
		{"refused", "tcp://" + refusing, nil, "tcp refused"},
		{"no socket", "unix:" + filepath.Join(t.TempDir(), "none"), nil, "tcp refused"},
		{"forbidden", "tcp://" + closed, func(e *endpoint) { e.allowed = forbid }, "tcp forbidden-address"},
		{"no DNS", "tcp://xmpp.example", func(e *endpoint) { e.resolver = failing }, "resolve error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, seen := endpointAt(t, test.url, "")
			if test.edit != nil {
				test.edit(&e)
			}
			_, err := open(t, &e, chatRequest())
			if got := resultOf(err); got != test.want {
				t.Errorf("%s, want %s: %v", got, test.want, err)
			}
			if !strings.HasSuffix(seen.String(), test.want) {
				t.Errorf("observed %s", seen)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	now := context.Background()
	for _, test := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{now, &net.DNSError{IsNotFound: true}, "resolve no-server"},
		{now, &net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}, "resolve timeout"},
		{now, &net.DNSError{}, "resolve error"},
		{now, os.ErrDeadlineExceeded, "tls timeout"},
		{now, context.DeadlineExceeded, "tls timeout"},
		{now, syscall.ECONNREFUSED, "tls refused"},
		{now, fmt.Errorf("read: %w", syscall.ECONNRESET), "tls closed"},
		{now, syscall.EHOSTUNREACH, "tls error"},
		{now, badStream(io.EOF), "tls bad-stream"},
		{canceled, badStream(io.EOF), "tls abandoned"},
		{canceled, &net.DNSError{}, "resolve abandoned"},
		{late, net.ErrClosed, "tls timeout"},
	} {
		e := endpoint{server: "tcp://a"}
		if got := e.explain(test.ctx, PhaseTLS, test.err); resultOf(got) != test.want {
			t.Errorf("%v: %s, want %s", test.err, resultOf(got), test.want)
		}
	}
}

// Whatever the server leaves unsaid, the end of the context ends it.
func TestCancel(t *testing.T) {
	ca, cert := chatServer(t)
	for _, test := range []struct {
		name, url string
		script    func(p *peer)
		phase     string
	}{
		{"header", "tcp://%s", func(p *peer) { p.expect(t, chatHeader) }, PhaseHeader},
		{"features", "tcp://%s", func(p *peer) { p.receive(1); p.send(reply) }, PhaseHeader},
		{"STARTTLS", "starttls://%s", func(p *peer) { p.expect(t, clearHeader) }, PhaseTLS},
		{"proceed", "starttls://%s", func(p *peer) { p.receive(1); p.send(reply + tlsFeatures) }, PhaseTLS},
		{"handshake", "starttls://%s", func(p *peer) { p.receive(1); p.send(reply + tlsFeatures + proceed) }, PhaseTLS},
		{"direct TLS", "tls://%s", func(p *peer) { p.receive(1) }, PhaseTLS},
		{"header in TLS", "tls://%s?ca=" + ca.file, func(p *peer) { p.secure(serverConfig(cert)); p.expect(t, chatHeader) }, PhaseHeader},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			waiting, gone := make(chan struct{}, 1), make(chan struct{}, 1)
			address := serve(t, func(p *peer) {
				defer func() { gone <- struct{}{} }()
				test.script(p)
				waiting <- struct{}{}
				p.drain()
			})
			ctx, cancel := context.WithCancel(t.Context())
			canceled := make(chan time.Time, 1)
			go func() {
				<-waiting
				canceled <- time.Now()
				cancel()
			}()
			e, _ := endpointAt(t, test.url, address)
			_, err := closeLaterCtx(t, ctx, &e)
			if got := resultOf(err); got != test.phase+" "+ResultAbandoned {
				t.Errorf("%s, want %s %s: %v", got, test.phase, ResultAbandoned, err)
			}
			if took := time.Since(<-canceled); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			<-gone // the connection is closed
		})
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		e, _ := endpointAt(t, "starttls://%s", serve(t, (*peer).drain))
		if _, err := closeLaterCtx(t, ctx, &e); err == nil || err.Result != ResultTimeout {
			t.Errorf("%s: %v", resultOf(err), err)
		}
	})
	t.Run("resolve", func(t *testing.T) {
		t.Parallel()
		e, _ := endpointAt(t, "tcp://xmpp.example", "")
		e.resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		_, err := closeLaterCtx(t, cancelAfter(t, 50*time.Millisecond), &e)
		if got := resultOf(err); got != "resolve abandoned" && got != "tcp abandoned" {
			t.Errorf("%s: %v", got, err)
		}
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		e, _ := endpointAt(t, "tcp://127.0.0.1:9", "")
		if _, err := closeLaterCtx(t, ctx, &e); resultOf(err) != "tcp abandoned" {
			t.Errorf("%s: %v", resultOf(err), err)
		}
	})
}

func closeLaterCtx(t *testing.T, ctx context.Context, e *endpoint) (*Stream, *Error) {
	t.Helper()
	s, err := e.open(ctx, chatRequest())
	return closeLater(t, s, err)
}

// A server that says nothing is given up.
func TestTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 seconds")
	}
	t.Parallel()
	e, _ := endpointAt(t, "starttls://%s", serve(t, (*peer).drain))
	if _, err := open(t, &e, chatRequest()); resultOf(err) != "tls timeout" {
		t.Errorf("%s: %v", resultOf(err), err)
	}
}
