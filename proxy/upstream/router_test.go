package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// A fakeConn is a connection to nowhere.
type fakeConn struct {
	net.Conn
	mu      sync.Mutex
	written bytes.Buffer
	closed  int
	remote  net.Addr // nil is somewhere on the Internet
}

func (c *fakeConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return &net.TCPAddr{IP: net.IPv4(1, 0, 0, 1), Port: 5223}
}

func (c *fakeConn) SetDeadline(time.Time) error { return nil }

func (c *fakeConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written.Write(b)
}

func (c *fakeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return nil
}

func (c *fakeConn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed > 0
}

// A diary is an Observer that writes one line for each event.
type diary struct {
	mu     sync.Mutex
	events []string
}

func (r *diary) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

// take returns the events so far and forgets them.
func (r *diary) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *diary) Opened(server, phase, result string, _ time.Duration) {
	r.add("opened %s %s %s", server, phase, result)
}
func (r *diary) FailedOver(from string)                        { r.add("failed over from %s", from) }
func (r *diary) Redirected(server string)                      { r.add("redirected by %s", server) }
func (r *diary) Health(server string, down *Error)             { r.add("health %s %v", server, down == nil) }
func (r *diary) Encrypted(server string)                       { r.add("encrypted %s", server) }
func (r *diary) FilesRead(server string, err error)            { r.add("files of %s: %v", server, err) }
func (r *diary) CertificateExpires(server string, _ time.Time) { r.add("certificate %s", server) }
func (r *diary) Updated(servers []string)                      { r.add("updated %s", servers) }

// A world is what the endpoints of a test do: the answer of each, by address.
// An address without one answers with a stream.
type world struct {
	mu      sync.Mutex
	answers map[string]answerFunc
	tried   []string
	conns   []*fakeConn
	remote  net.Addr // of the conns
	last    endpoint
	request *Request
}

type answerFunc func(ctx context.Context, e *endpoint) (*Stream, error)

func (w *world) set(address string, f answerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answers == nil {
		w.answers = map[string]answerFunc{}
	}
	w.answers[address] = f
}

// take returns the addresses that were tried and forgets them.
func (w *world) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	tried := w.tried
	w.tried = nil
	return tried
}

func (w *world) open(ctx context.Context, e *endpoint, q *Request) (*Stream, error) {
	w.mu.Lock()
	w.tried = append(w.tried, e.address)
	w.last, w.request = *e, q
	f := w.answers[e.address]
	w.mu.Unlock()
	if f != nil {
		return f(ctx, e)
	}
	return w.stream(e), nil
}

func (w *world) stream(e *endpoint) *Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &fakeConn{remote: w.remote}
	w.conns = append(w.conns, c)
	return &Stream{Conn: c, Server: e.server}
}

// fails makes an endpoint fail at once.
func fails(phase, result string) answerFunc {
	return func(ctx context.Context, e *endpoint) (*Stream, error) {
		return nil, &Error{Server: e.server, Phase: phase, Result: result, Err: errors.New(result + " by the test")}
	}
}

// silent is an endpoint that swallows packets.
func silent(ctx context.Context, e *endpoint) (*Stream, error) {
	<-ctx.Done()
	result := ResultTimeout
	if errors.Is(ctx.Err(), context.Canceled) {
		result = ResultAbandoned
	}
	return nil, &Error{Server: e.server, Phase: PhaseTCP, Result: result, Err: ctx.Err()}
}

// complains is an endpoint that answers with a stream error: it cannot serve
// now.
func (w *world) complains(_ context.Context, e *endpoint) (*Stream, error) {
	s := w.stream(e)
	s.Early = []byte("<complaint/>")
	return nil, &Error{Server: e.server, Phase: PhaseHeader, Result: ResultStreamError, Err: errors.New("stream error system-shutdown"), stream: s}
}

func parse(t testing.TB, urls ...string) []*Server {
	t.Helper()
	var all []*Server
	for _, u := range urls {
		s, err := ParseServer(u)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func newTestRouter(t testing.TB, c Config, w *world) *Router {
	t.Helper()
	r, err := NewRouter(c)
	if err != nil {
		t.Fatal(err)
	}
	if w != nil {
		r.open = w.open
	}
	return r
}

// run starts r.Run. The function it returns ends it.
func run(r *Router) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func TestNewRouterRefuses(t *testing.T) {
	tcp, srv := parse(t, "tcp://a"), parse(t, "srv:")
	for _, test := range []struct {
		name   string
		config Config
		want   string
	}{
		{"nothing", Config{}, "no server configured"},
		{"policy", Config{Default: tcp, Policy: "x"}, `unknown policy "x"; there are first, hash, least-sessions, round-robin`},
		{"empty route", Config{Routes: map[string][]*Server{"d.example": nil}}, "the route of d.example has no server"},
		{"twice", Config{Default: parse(t, "tcp://a", "tcp://b", "tcp://a?proxy=v1")}, "server tcp://a is listed twice"},
		{"an address for srv:", Config{Default: srv, AllowList: []string{"a.example", "192.0.2.1"}}, "no server for 192.0.2.1: it is an address, which srv: cannot look up"},
		{"srv: for anybody", Config{Default: srv, Routes: map[string][]*Server{"d.example": tcp}}, "server srv:: needs a list of the domains that DNS may be asked about"},
	} {
		if _, err := NewRouter(test.config); err == nil || err.Error() != test.want {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
}

// Behaviour: open-domain. RFC 6120, section 4.9.3.6. Nobody is asked about a domain that the operator did not name.
func TestRoutes(t *testing.T) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("DNS was asked")
		return nil, errors.New("no DNS in this test")
	}}
	w := &world{}
	r := newTestRouter(t, Config{
		Default:   parse(t, "srv:", "tcp://fallback"),
		Routes:    map[string][]*Server{"a.example": parse(t, "tls://a"), "b.example": parse(t, "unix:/b")},
		AllowList: []string{"192.0.2.1", "[2001:db8::1]"},
		Policy:    PolicyFirst,
		Resolver:  resolver,
	}, w)
	for domain, want := range map[string]string{
		"a.example":     "a:5223",
		"b.example":     "/b",
		"c.example":     "fallback:5222",
		"":              "fallback:5222",
		"192.0.2.1":     "fallback:5222",
		"[2001:db8::1]": "fallback:5222",
	} {
		s, err := r.Connect(t.Context(), &Request{Domain: domain})
		if err != nil {
			t.Fatal(err)
		}
		s.Done()
		if tried := w.take(); !slices.Equal(tried, []string{want}) {
			t.Errorf("%q: went to %q, want %s", domain, tried, want)
		}
	}

	r = newTestRouter(t, Config{Routes: map[string][]*Server{"a.example": parse(t, "srv:")}, Resolver: resolver}, w)
	_, err := r.Connect(t.Context(), &Request{Domain: "secret.example"})
	var e *Error
	if !errors.As(err, &e) || e.Phase != PhaseResolve || e.Result != ResultNoServer || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestFailover(t *testing.T) {
	for _, test := range []struct {
		name    string
		servers int
		script  func(w *world)
		avoid   string
		want    string        // the server or the error
		tried   string        // hosts
		took    time.Duration // exactly
	}{
		{name: "the first answers", servers: 3, want: "tcp://1", tried: "1"},
		{name: "refused", servers: 3, want: "tcp://3", tried: "1 2 3", script: func(w *world) {
			w.set("1:5222", fails(PhaseTCP, ResultRefused))
			w.set("2:5222", fails(PhaseTLS, ResultCertExpired))
		}},
		{name: "a black hole gets its share", servers: 3, want: "tcp://2", tried: "1 2", took: TotalTimeout / 3,
			script: func(w *world) { w.set("1:5222", silent) }},
		{name: "the share of one that fails at once goes to the others", servers: 3, want: "tcp://3", tried: "1 2 3", took: TotalTimeout / 2,
			script: func(w *world) {
				w.set("1:5222", fails(PhaseTCP, ResultRefused))
				w.set("2:5222", silent)
			}},
		{name: "only black holes", servers: 2, tried: "1 2", took: TotalTimeout,
			want: "server tcp://1: tcp: context deadline exceeded; server tcp://2: tcp: context deadline exceeded",
			script: func(w *world) {
				w.set("1:5222", silent)
				w.set("2:5222", silent)
			}},
		{name: "each has a second", servers: 30, tried: "1 2 3 4 5 6 7 8 9 10", took: TotalTimeout,
			want: strings.TrimSuffix(strings.Repeat("server x: tcp: context deadline exceeded; ", 10), "; "),
			script: func(w *world) {
				for i := range 30 {
					w.set(fmt.Sprintf("%d:5222", i+1), silent)
				}
			}},
		{name: "one server has all the time", servers: 1, tried: "1", took: TotalTimeout,
			want:   "server tcp://1: tcp: context deadline exceeded",
			script: func(w *world) { w.set("1:5222", silent) }},
		{name: "to avoid", servers: 3, avoid: "tcp://1", want: "tcp://2", tried: "2"},
		{name: "better than nothing", servers: 2, avoid: "tcp://1", want: "tcp://1", tried: "2 1",
			script: func(w *world) { w.set("2:5222", fails(PhaseTCP, ResultRefused)) }},
		{name: "a stream error is not an answer", servers: 2, want: "tcp://2", tried: "1 2",
			script: func(w *world) { w.set("1:5222", w.complains) }},
		{name: "a stream error is better than nothing", servers: 3, want: "tcp://2 <complaint/>", tried: "1 2 3",
			script: func(w *world) {
				w.set("1:5222", fails(PhaseTCP, ResultRefused))
				w.set("2:5222", w.complains)
				w.set("3:5222", w.complains)
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, o := &world{}, &diary{}
				var urls []string
				for i := range test.servers {
					urls = append(urls, fmt.Sprintf("tcp://%d", i+1))
				}
				r := newTestRouter(t, Config{Default: parse(t, urls...), Policy: PolicyFirst, Observer: o}, w)
				o.take()
				if test.script != nil {
					test.script(w)
				}
				start := time.Now()
				s, err := r.Connect(t.Context(), &Request{Avoid: test.avoid})
				took := time.Since(start)

				var got string
				open := 0
				if err != nil {
					got = err.Error()
					if test.servers == 30 {
						for i := range 30 {
							got = strings.ReplaceAll(got, fmt.Sprintf("server tcp://%d:", i+1), "server x:")
						}
					}
					var first *Error
					if !errors.As(err, &first) || first.Server != "tcp://1" {
						t.Errorf("the first cause is %v", first)
					}
				} else {
					got = strings.TrimSpace(s.Server + " " + string(s.Early))
					open = 1
				}
				if got != test.want {
					t.Errorf("got  %s\nwant %s", got, test.want)
				}
				var tried, from []string
				for i, address := range w.take() {
					name, _, _ := strings.Cut(address, ":")
					if tried = append(tried, name); i > 0 {
						from = append(from, "failed over from tcp://"+tried[i-1])
					}
				}
				if got := strings.Join(tried, " "); got != test.tried {
					t.Errorf("tried %s, want %s", got, test.tried)
				}
				if took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if events := o.take(); !slices.Equal(events, from) {
					t.Errorf("observed %q, want %q", events, from)
				}
				for _, c := range w.conns {
					if !c.isClosed() {
						open--
					}
				}
				if open != 0 {
					t.Errorf("%d connections too many or too few", -open)
				}
			})
		})
	}
}

func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		w.set("1:5222", w.complains)
		w.set("2:5222", silent)
		r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2", "tcp://3"), Policy: PolicyFirst}, w)
		for range ejectAfter {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(1500*time.Millisecond, cancel)
			start := time.Now()
			_, err := r.Connect(ctx, &Request{})
			var e *Error
			if !errors.As(err, &e) || e.Result != ResultAbandoned || e.Server != "tcp://2" || e.Phase != PhaseTCP {
				t.Errorf("got %#v", err)
			}
			if took := time.Since(start); took != 1500*time.Millisecond {
				t.Errorf("took %v", took)
			}
			if tried := w.take(); len(tried) != 2 {
				t.Errorf("tried %q", tried)
			}
		}
		for _, c := range w.conns {
			if !c.isClosed() {
				t.Error("the stream with the error is still open")
			}
		}
		for _, s := range r.Status() {
			if !s.Up || s.Sessions != 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestSessionsAreCounted(t *testing.T) {
	w := &world{}
	r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2"), Policy: PolicyFirst}, w)
	w.set("1:5222", fails(PhaseTCP, ResultRefused))
	var streams []*Stream
	for range 3 {
		s, err := r.Connect(t.Context(), &Request{})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	status := r.Status()
	if status[0].Sessions != 0 || status[1].Sessions != 3 {
		t.Errorf("%+v", status)
	}
	if status[0].Err == nil || status[0].Err.Result != ResultRefused || status[1].Err != nil {
		t.Errorf("%+v", status)
	}
	for _, s := range streams {
		s.Done()
	}
	if n := r.Status()[1].Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// anyUp tells whether any server counts as up.
func anyUp(r *Router) bool {
	return slices.ContainsFunc(r.Status(), func(s ServerStatus) bool { return s.Up })
}

func TestReady(t *testing.T) {
	const refused, notYet = "server tcp://1: tcp: refused by the test", "server tcp://1: not checked yet; server tcp://2: not checked yet"
	w := &world{}
	r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2")}, w)
	if err := r.Ready(); err == nil || err.Error() != notYet {
		t.Errorf("at the start: %v", err)
	}
	w.set("1:5222", fails(PhaseTCP, ResultRefused))
	r.check(t.Context(), r.table().all[0])
	if err := r.Ready(); err == nil || err.Error() != refused+"; server tcp://2: not checked yet" {
		t.Errorf("one is down: %v", err)
	}
	if err := r.Check(t.Context()); err != nil {
		t.Errorf("one is up: %v", err)
	}
	w.set("2:5222", fails(PhaseTCP, ResultRefused))
	connect(r, &Request{})
	if err := r.Ready(); err != nil {
		t.Errorf("one failed session: %v", err)
	}
	if err := r.Check(t.Context()); err == nil || err.Error() != refused+"; server tcp://2: tcp: refused by the test" {
		t.Errorf("both are down: %v", err)
	}
}

func TestCheck(t *testing.T) {
	w := &world{}
	r := newTestRouter(t, Config{
		Default:   parse(t, "tcp://1"),
		Routes:    map[string][]*Server{"r.example": parse(t, "tcp://2")},
		AllowList: []string{"a.example"},
	}, w)
	if s := r.Status(); s[0].Checked || s[1].Checked {
		t.Errorf("%+v", s)
	}
	w.set("1:5222", fails(PhaseTCP, ResultRefused))
	for _, c := range r.table().all {
		r.check(t.Context(), c)
	}
	if s := r.Status(); s[0].Up || !s[1].Up || !s[0].Checked || !s[1].Checked {
		t.Errorf("%+v", s)
	}
	if q := w.request; q.Domain != "r.example" || string(q.Header.To) != `'r.example'` || q.Client.IsValid() {
		t.Errorf("asked for %+v", q)
	}
	for _, c := range w.conns {
		if !c.isClosed() || c.written.String() != "</stream:stream>" {
			t.Errorf("wrote %q", c.written.String())
		}
	}
	// A server that says it cannot serve is not one to be content with.
	w.set("2:5222", w.complains)
	for _, c := range r.table().all {
		r.check(t.Context(), c)
	}
	if s := r.Status(); s[1].Up || s[1].Err.Error() != "server tcp://2: header: stream error system-shutdown" {
		t.Errorf("%+v", s)
	}
}

// A check without a domain cannot succeed where TLS is about one. That the
// server has answered has to do, unless it is for a name of the operator's that
// the certificate is not.
func TestCheckWithoutDomain(t *testing.T) {
	for _, test := range []struct {
		url, domain, result string
		ready               bool
	}{
		{"tls://1:5222", "", ResultCertName, true},
		{"tls://1:5222", "", ResultStreamError, true},
		{"tls://1:5222", "", ResultCertExpired, false},
		{"tls://1:5222", "", ResultClosed, false},
		{"tls://1:5222?name=a.example", "", ResultCertName, false},
		{"tls://1:5222", "a.example", ResultCertName, false},
	} {
		w := &world{}
		w.set("1:5222", fails(PhaseTLS, test.result))
		c := Config{Default: parse(t, test.url)}
		if test.domain != "" {
			c.AllowList = []string{test.domain}
		}
		r := newTestRouter(t, c, w)
		r.Check(t.Context())
		if anyUp(r) != test.ready {
			t.Errorf("%+v: up: %v", test, anyUp(r))
		}
	}
}

// Sessions come and go while servers and their health change.
func TestConcurrently(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, policy := range Policies() {
		w := &world{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2", "tcp://3"), Policy: policy, Observer: &diary{}}, w)
		stop := run(r)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		var all sync.WaitGroup
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				address := fmt.Sprintf("%d:5222", i%2+1)
				w.set(address, fails(PhaseTCP, ResultRefused))
				r.Status()
				anyUp(r)
				time.Sleep(time.Millisecond)
				w.set(address, nil)
			}
		})
		for i := range 8 {
			all.Go(func() {
				q := &Request{Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)}
				for ctx.Err() == nil {
					// The third server always answers.
					s, err := r.Connect(context.Background(), q)
					if err != nil {
						t.Error(err)
						return
					}
					s.Done()
				}
			})
		}
		all.Wait()
		cancel()
		stop()
		for _, s := range r.Status() {
			if s.Sessions != 0 {
				t.Errorf("%s: %+v", policy, s)
			}
		}
	}
}
