package upstream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func update(t *testing.T, r *Router, c Config) {
	t.Helper()
	if err := r.Update(c); err != nil {
		t.Fatal(err)
	}
}

// names of the servers, and with a minus sign those that are down.
func names(r *Router) string {
	var all []string
	for _, s := range r.Status() {
		if s.Up {
			all = append(all, s.Name)
		} else {
			all = append(all, "-"+s.Name)
		}
	}
	return strings.Join(all, " ")
}

// What is known of a server that stays is kept, however the others change.
func TestUpdateKeeps(t *testing.T) {
	w, o := &world{}, &diary{}
	r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tls://2?proxy=v1&private=true", "tls://3"), Policy: PolicyFirst, Observer: o}, w)
	for _, address := range []string{"1:5222", "2:5223", "3:5223"} {
		w.set(address, fails(PhaseTCP, ResultRefused))
	}
	for range ejectAfter {
		connect(r, &Request{})
	}
	w.set("1:5222", nil)
	w.set("2:5223", nil)
	w.set("3:5223", nil)
	var streams []*Stream
	for range 4 { // down is only preferred last, so the first answers
		s, err := r.Connect(t.Context(), &Request{Avoid: "tcp://1"})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	if got := names(r); got != "-tcp://1 tls://2 -tls://3" {
		t.Fatalf("before: %s", got)
	}
	before := r.table()
	o.take()

	// The options come in another order, those of tls://3 change, tcp://1 moves to
	// a route, tcp://4 is new.
	update(t, r, Config{
		Default: parse(t, "tls://3?private=true", "tls://2?private=true&proxy=v1", "tcp://4"),
		Routes:  map[string][]*Server{"a.example": parse(t, "tcp://1")},
		Policy:  PolicyRoundRobin,
	})
	if got := names(r); got != "-tcp://1 tls://3 tls://2 tcp://4" {
		t.Errorf("after: %s", got)
	}
	if got := o.take(); !slices.Equal(got, []string{"updated [tcp://1 tls://3 tls://2 tcp://4]"}) {
		t.Errorf("observed %q", got)
	}
	after := r.table()
	for name, kept := range map[string]bool{"tcp://1": true, "tls://2": true, "tls://3": false} {
		a, b := before.byName[name], after.byName[name]
		if (a.node == b.node) != kept || (a.server == b.server) != kept {
			t.Errorf("%s: node %p and %p, server %p and %p", name, a.node, b.node, a.server, b.server)
		}
	}
	if n := after.byName["tls://2"].sessions.Load(); n != 4 {
		t.Errorf("%d sessions", n)
	}

	// With other options the sessions still count, without the server they live on.
	update(t, r, Config{Default: parse(t, "tls://2")})
	if got := r.Status(); len(got) != 1 || got[0].Sessions != 4 {
		t.Errorf("%+v", got)
	}
	streams[0].Done()
	if got := r.Status()[0].Sessions; got != 3 {
		t.Errorf("%d sessions after one has ended", got)
	}
	update(t, r, Config{Default: parse(t, "tcp://5")})
	for _, s := range streams[1:] {
		if s.Conn.(*fakeConn).isClosed() {
			t.Error("a session at a removed server was cut")
		}
		s.Done()
	}
	if got := r.Status(); len(got) != 1 || got[0].Sessions != 0 {
		t.Errorf("%+v", got)
	}
}

// An Update that is refused says everything that is wrong, and changes nothing.
func TestUpdateRefused(t *testing.T) {
	o := &diary{}
	r := newTestRouter(t, Config{Default: parse(t, "tcp://1"), Observer: o}, nil)
	before := r.table()
	err := r.Update(Config{
		Default:   parse(t, "tcp://2", "tcp://2", "srv:"),
		Routes:    map[string][]*Server{"a.example": nil, "b.example": parse(t, "tcp://3", "tcp://3")},
		AllowList: []string{"c.example"},
		Policy:    "x",
	})
	want := []string{
		`unknown policy "x"; there are first, hash, least-sessions, round-robin`,
		"server tcp://2 is listed twice",
		"the route of a.example has no server",
		"server tcp://3 is listed twice",
	}
	if err == nil || !slices.Equal(strings.Split(err.Error(), "\n"), want) {
		t.Errorf("got %v", err)
	}
	if r.table() != before || o.take() != nil {
		t.Error("something has changed")
	}
}

// The only server stays the Static one while it is the same, with what is known about
// domains; if it is another, that has to be found out again.
func TestUpdateStatic(t *testing.T) {
	w := &world{}
	w.set("192.0.2.1:5222", func(_ context.Context, e *endpoint) (*Stream, error) {
		s := w.stream(e)
		s.features, s.plain = true, true
		return s, nil
	})
	r := newTestRouter(t, Config{Default: parse(t, "tcp://192.0.2.1")}, w)
	connect(r, &Request{Domain: "a.example"})
	first := r.Static("a.example")
	if first == nil {
		t.Fatal("no Static")
	}
	first.Begin()
	update(t, r, Config{Default: parse(t, "tcp://192.0.2.1"), AllowList: []string{"a.example"}})
	if r.Static("a.example") != first {
		t.Error("the server stays, and is not known any more")
	}
	for _, url := range []string{"tcp://192.0.2.1?proxy=v1", "tls://192.0.2.1", "tcp://192.0.2.2"} {
		update(t, r, Config{Default: parse(t, url)})
		if r.Static("a.example") != nil {
			t.Errorf("%s: sessions go to the old server", url)
		}
	}
	first.Opened(PhaseTCP, ResultRefused, 0)
	first.Done()
	if s := r.Status()[0]; s.Sessions != 0 || !s.Up || s.Checked {
		t.Errorf("the old server's session counts for the new one: %+v", s)
	}
}

// Answers of DNS are kept for the domains that stay.
func TestUpdateService(t *testing.T) {
	resolver := NewResolver("192.0.2.53")
	if resolver != NewResolver("192.0.2.53:53") {
		t.Error("two resolvers for one address")
	}
	config := func(domains ...string) Config {
		return Config{Default: parse(t, "srv:"), AllowList: domains, Resolver: resolver}
	}
	r := newTestRouter(t, config("a.example", "b.example"), nil)
	before := r.table().byName
	update(t, r, config("b.example", "c.example"))
	after := r.table().byName
	if len(after) != 2 || after["srv:b.example"] != before["srv:b.example"] {
		t.Errorf("%+v, before %+v", after, before)
	}
	resolver = NewResolver("192.0.2.54")
	update(t, r, config("b.example"))
	if c := r.table().byName["srv:b.example"]; c.node != before["srv:b.example"].node || c.service == before["srv:b.example"].service || c.service.resolver != resolver {
		t.Error("another DNS server has other answers about the same server")
	}
}

// A server that is down and stays is checked no sooner than without an Update, and no
// later. One that is new is checked at once, for the domain that is configured now.
func TestUpdateWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		config := Config{Default: parse(t, "tcp://1"), Observer: o}
		r := newTestRouter(t, config, w)
		var checks []time.Time
		w.set("1:5222", func(ctx context.Context, e *endpoint) (*Stream, error) {
			checks = append(checks, time.Now())
			return fails(PhaseTCP, ResultRefused)(ctx, e)
		})
		defer run(r)()
		synctest.Wait()
		w.take()
		for i := range 300 {
			time.Sleep(100 * time.Millisecond)
			config.Default = parse(t, "tcp://1", fmt.Sprintf("tcp://new%d", i))
			config.AllowList = []string{fmt.Sprintf("d%d.example", i)}
			update(t, r, config)
			synctest.Wait()
			tried := slices.DeleteFunc(w.take(), func(address string) bool { return address == "1:5222" })
			if want := []string{fmt.Sprintf("new%d:5222", i)}; !slices.Equal(tried, want) {
				t.Fatalf("checked %q, want %q", tried, want)
			}
		}
		for i, want := range []time.Duration{1, 2, 4, 5, 5} {
			within(t, fmt.Sprintf("check %d", i+1), checks[i+1].Sub(checks[i]), want*time.Second)
		}
		w.set("1:5222", nil)
		time.Sleep(2 * probeInterval)
		synctest.Wait()
		if q := w.request; q.Domain != "d299.example" {
			t.Errorf("checked for %q", q.Domain)
		}
	})
}

// A server that goes while it is checked is not waited for, and nothing more is told
// of it.
func TestUpdateDuringCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		var urls []string
		for i := range 3 * maxProbes { // so many that no other can be checked
			urls = append(urls, fmt.Sprintf("tcp://%d", i))
			w.set(fmt.Sprintf("%d:5222", i), silent)
		}
		r := newTestRouter(t, Config{Default: parse(t, urls...), Observer: o}, w)
		stop := run(r)
		synctest.Wait()
		old := r.table().all[0]
		o.take()
		w.take()
		start := time.Now()
		update(t, r, Config{Default: parse(t, "tcp://new")})
		synctest.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("checks of removed servers held up that of the new one for %v", took)
		}
		if tried := w.take(); !slices.Equal(tried, []string{"new:5222"}) {
			t.Errorf("checked %q", tried)
		}
		// An attempt that has begun before may still report.
		w.set("0:5222", fails(PhaseTCP, ResultRefused))
		r.newSearch(candidate.probe).report(old.node, &Error{Server: old.name, Phase: PhaseTCP, Result: ResultRefused})
		s := &search{Router: r, table: r.table(), probe: true}
		s.report(old.node, &Error{Server: old.name, Phase: PhaseTCP, Result: ResultRefused})
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, address := range w.take() {
			if address != "new:5222" {
				t.Fatalf("%s was checked after it had gone", address)
			}
		}
		if got := o.take(); !slices.Equal(got, []string{"updated [tcp://new]"}) {
			t.Errorf("observed %q", got)
		}
		stop()
	})
}

// Sessions that connect during updates get to a server of the configuration that they
// have begun with, and those that begin afterwards to none that has gone.
func TestUpdateUnderConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		slow := func(_ context.Context, e *endpoint) (*Stream, error) {
			time.Sleep(time.Millisecond)
			return w.stream(e), nil
		}
		w.set("stays:5222", slow)
		config := func(i int) Config {
			address := fmt.Sprintf("%d:5222", i)
			w.set(address, slow)
			return Config{
				Default: parse(t, "tcp://stays", "tcp://"+address), Policy: PolicyLeastSessions,
				Routes: map[string][]*Server{"a.example": parse(t, "tcp://"+address)},
			}
		}
		r := newTestRouter(t, config(0), w)
		defer run(r)()
		done := make(chan struct{})
		var clients sync.WaitGroup
		for i := range 20 {
			domain := []string{"", "a.example"}[i%2]
			clients.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					s, err := r.Connect(context.Background(), &Request{Domain: domain})
					if err != nil {
						t.Error(err)
						return
					}
					r.Static(domain)
					s.Done()
				}
			})
		}
		for i := range 100 {
			time.Sleep(500 * time.Microsecond)
			update(t, r, config(i+1))
			s, err := r.Connect(context.Background(), &Request{Domain: "a.example"})
			if want := fmt.Sprintf("tcp://%d:5222", i+1); err != nil || s.Server != want {
				t.Fatalf("%+v, %v: want %s", s, err, want)
			}
			s.Done()
		}
		close(done)
		clients.Wait()
		for _, s := range r.Status() {
			if s.Sessions != 0 {
				t.Errorf("%s: %d sessions are left", s.Name, s.Sessions)
			}
		}
	})
}
