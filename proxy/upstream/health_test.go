package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// within fails the test when d is not what it should be, give or take jitter.
func within(t *testing.T, what string, d, want time.Duration) {
	t.Helper()
	// Each step is one wake-up of Run, so nothing but jitter adds to it.
	if d < time.Duration(float64(want)*(1-jitter)) || d > time.Duration(float64(want)*(1+jitter)) {
		t.Errorf("%s after %v, want %v ±20 %%", what, d, want)
	}
}

func connect(r *Router, q *Request) error {
	s, err := r.Connect(context.Background(), q)
	if err == nil {
		s.Done()
	}
	return err
}

func TestEjection(t *testing.T) {
	w, o := &world{}, &diary{}
	r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2"), Policy: PolicyFirst, Observer: o}, w)
	expect := func(step string, tried, events []string) {
		t.Helper()
		if got := w.take(); !slices.Equal(got, tried) {
			t.Errorf("%s: tried %q, want %q", step, got, tried)
		}
		if got := o.take(); !slices.Equal(got, events) {
			t.Errorf("%s: observed %q, want %q", step, got, events)
		}
	}
	session := func() {
		t.Helper()
		if err := connect(r, &Request{}); err != nil {
			t.Error(err)
		}
	}
	w.set("1:5222", fails(PhaseTCP, ResultRefused))
	for range ejectAfter - 1 {
		session()
		expect("not yet", []string{"1:5222", "2:5222"}, []string{"failed over from tcp://1"})
	}
	w.set("1:5222", nil)
	session()
	expect("a success is all it takes", []string{"1:5222"}, nil)
	w.set("1:5222", fails(PhaseTCP, ResultClosed))
	for range ejectAfter - 1 {
		session()
		expect("the count starts again", []string{"1:5222", "2:5222"}, []string{"failed over from tcp://1"})
	}
	session()
	expect("ejected", []string{"1:5222", "2:5222"}, []string{"health tcp://1 false", "failed over from tcp://1"})
	session()
	expect("last", []string{"2:5222"}, nil)
	if !anyUp(r) {
		t.Error("one server is up")
	}
	w.set("2:5222", fails(PhaseTCP, ResultTimeout))
	if err := connect(r, &Request{}); err == nil {
		t.Error("no server should answer")
	}
	expect("better than nothing", []string{"2:5222", "1:5222"}, []string{"failed over from tcp://2"})
	w.set("1:5222", nil)
	session()
	expect("up again", []string{"2:5222", "1:5222"}, []string{"failed over from tcp://2", "health tcp://1 true"})
}

// A failure that a client can cause must not eject a server.
func TestClientsEjectNoServer(t *testing.T) {
	for _, test := range []struct {
		domain, phase, result string
		down                  bool
	}{
		{"", PhaseTCP, ResultRefused, true},
		{"", PhaseTCP, ResultForbidden, true},
		{"", PhaseHeader, ResultBadStream, false},
		{"any.example", PhaseHeader, ResultClosed, false},
		{"ours.example", PhaseHeader, ResultClosed, true},
		{"", PhaseHeader, ResultStreamError, false},
		{"", PhaseTLS, ResultClosed, false},
		{"ours.example", PhaseTLS, ResultClosed, true},
		{"", PhaseTLS, ResultTimeout, false}, // at once: it was the client's time that ended
		{"", PhaseTLS, ResultCertName, false},
		{"", PhaseTLS, ResultCertSelfSigned, false},
		{"", PhaseTLS, ResultError, false},
		{"", PhaseTLS, ResultNoSTARTTLS, false},
		{"any.example", PhaseTLS, ResultCertSelfSigned, false},
		{"ours.example", PhaseTLS, ResultCertSelfSigned, true},
		{"ours.example", PhaseTLS, ResultCertName, false},
		{"ours.example", PhaseTLS, ResultNoSTARTTLS, true},
		{"ours.example", PhaseTCP, ResultAbandoned, false},
	} {
		w := &world{}
		r := newTestRouter(t, Config{Default: parse(t, "tls://1"), AllowList: []string{"ours.example"}}, w)
		w.set("1:5223", fails(test.phase, test.result))
		for range ejectAfter {
			connect(r, &Request{Domain: test.domain})
		}
		if anyUp(r) == test.down {
			t.Errorf("%+v: down is %v", test, !anyUp(r))
		}
	}
}

// A server that is healthy and used is left alone; one that is not used is
// looked at.
func TestProbesWhileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2"), Policy: PolicyFirst, Observer: o, AllowList: []string{"a.example", "b.example"}}, w)
		defer run(r)()
		synctest.Wait()
		if tried := w.take(); len(tried) != 2 {
			t.Errorf("at the start: %q", tried)
		}
		if q := w.request; q.Domain != "a.example" || q.Client.IsValid() || q.JID != "" {
			t.Errorf("probed with %+v", q)
		}
		const minutes = 10
		for range minutes * 60 {
			time.Sleep(time.Second)
			if err := connect(r, &Request{}); err != nil {
				t.Error(err)
			}
		}
		probes := map[string]int{"1:5222": -minutes * 60}
		for _, address := range w.take() {
			probes[address]++
		}
		if n := probes["1:5222"]; n != 0 {
			t.Errorf("the busy server was probed %d times", n)
		}
		if n := probes["2:5222"]; n < minutes*10 || n > minutes*15 {
			t.Errorf("the idle server was probed %d times in %d minutes", n, minutes)
		}
		for _, c := range w.conns[:2] {
			if !c.isClosed() {
				t.Error("the stream of a probe is open")
			}
		}
	})
}

func TestProbesWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2"), Policy: PolicyFirst, Observer: o}, w)
		o.take()
		var probes []time.Time
		w.set("1:5222", func(ctx context.Context, e *endpoint) (*Stream, error) {
			probes = append(probes, time.Now())
			return nil, &Error{Server: e.server, Phase: PhaseTCP, Result: ResultRefused, Err: errors.New("refused")}
		})
		defer run(r)()
		synctest.Wait()
		if got := o.take(); !slices.Equal(got, []string{"health tcp://1 false"}) {
			t.Errorf("after one probe: %q", got)
		}
		w.take()
		if err := connect(r, &Request{}); err != nil || len(w.take()) != 1 {
			t.Error("the server that is down was tried first")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for i, want := range []time.Duration{1, 2, 4, 5, 5, 5} {
			within(t, fmt.Sprintf("probe %d", i+1), probes[i+1].Sub(probes[i]), want*time.Second)
		}
		if len(probes) > 150 {
			t.Errorf("%d probes in ten minutes", len(probes))
		}
		w.set("1:5222", nil)
		time.Sleep(time.Duration(float64(probeInterval) * (1 + jitter)))
		synctest.Wait()
		if got := o.take(); !slices.Equal(got, []string{"health tcp://1 true"}) {
			t.Errorf("after it came back: %q", got)
		}
		if status := r.Status(); !status[0].Up || status[0].Err != nil {
			t.Errorf("%+v", status)
		}
	})
}

// An ejected server is looked at after the shortest back-off, though Run had
// gone to sleep for longer. Sessions that fail there prolong nothing.
func TestProbesAfterEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://1", "tcp://2"), Observer: o}, w)
		defer run(r)()
		synctest.Wait()
		w.set("1:5222", fails(PhaseTCP, ResultRefused))
		w.set("2:5222", fails(PhaseTCP, ResultRefused))
		for range 50 {
			connect(r, &Request{})
		}
		if anyUp(r) {
			t.Error("ready without a server")
		}
		w.set("1:5222", nil)
		o.take()
		start := time.Now()
		for !anyUp(r) {
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		within(t, "up", time.Since(start), minBackoff)
	})
}

// A health check that hangs neither holds up the others nor the end.
func TestProbesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		var urls []string
		for i := range 3 * maxProbes {
			urls = append(urls, fmt.Sprintf("tcp://%d", i))
			w.set(fmt.Sprintf("%d:5222", i), silent)
		}
		w.set("40:5222", nil)
		r := newTestRouter(t, Config{Default: parse(t, urls...)}, w)
		stop := run(r)
		synctest.Wait()
		if n := len(w.take()); n != maxProbes {
			t.Errorf("%d probes at once", n)
		}
		time.Sleep(3*probeTimeout + time.Second)
		synctest.Wait()
		up := 0
		for _, s := range r.Status() {
			if s.Up {
				up++
			} else if s.Err.Result != ResultTimeout {
				t.Errorf("%+v", s)
			}
		}
		if up != 1 {
			t.Errorf("%d servers are up", up)
		}
		start := time.Now()
		stop()
		if took := time.Since(start); took != 0 {
			t.Errorf("the end took %v", took)
		}
	})
}

// Without a domain to ask for, a certificate for another name is an answer.
func TestProbeWithoutDomain(t *testing.T) {
	for domain, up := range map[string]bool{"": true, "ours.example": false} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{}
			w.set("1:5223", fails(PhaseTLS, ResultCertName))
			w.set("2:5223", fails(PhaseTLS, ResultCertName))
			c := Config{Default: parse(t, "tls://1", "tls://2")}
			if domain != "" {
				c.AllowList = []string{domain}
			}
			r := newTestRouter(t, c, w)
			defer run(r)()
			synctest.Wait()
			if anyUp(r) != up {
				t.Errorf("domain %q: ready is %v", domain, anyUp(r))
			}
			w.take()
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(w.take()); n < 16 || n > 32 {
				t.Errorf("domain %q: %d probes in a minute", domain, n)
			}
		})
	}
}

// One server is checked like any other, though it gets all sessions anyway: the
// gateway has to know whether it works. Sessions that connect without the Router
// count as well.
func TestOneServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://192.0.2.1"), Observer: o}, w)
		if r.table().static.target == nil {
			t.Error("a server at a fixed address needs no Connect")
		}
		if r.Status()[0].Checked {
			t.Error("checked before Run")
		}
		defer run(r)()
		synctest.Wait()
		if s := r.Status()[0]; !s.Checked || !s.Up {
			t.Errorf("%+v", s)
		}
		w.take()
		for range 3600 {
			time.Sleep(time.Second)
			r.table().static.target.noteOpened(PhaseTCP, ResultOK)
			r.table().static.target.noteOpened(PhaseHeader, ResultOK)
		}
		if tried := w.take(); tried != nil {
			t.Errorf("the busy server was probed %d times", len(tried))
		}
		for i, step := range []struct {
			phase, result string
			up            bool
		}{
			{PhaseTCP, ResultRefused, true}, {PhaseHeader, ResultTimeout, true}, {PhaseTCP, ResultAbandoned, true},
			{PhaseTCP, ResultOK, true}, {PhaseTCP, ResultRefused, false}, {PhaseTCP, ResultOK, false}, {PhaseHeader, ResultOK, true},
		} {
			if r.table().static.target.noteOpened(step.phase, step.result); anyUp(r) != step.up {
				t.Errorf("%d: up is %v after %s %s", i, anyUp(r), step.phase, step.result)
			}
		}
	})
}

// Whatever happens to a server, in whatever state it is noticed within 10 s, be
// it busy until then or idle, refusing or silent.
func TestNoticedInTime(t *testing.T) {
	const bound = 10 * time.Second
	for _, server := range []string{"tcp://192.0.2.1:1", "tls://192.0.2.1:1", "tcp://192.0.2.1:1,tcp://192.0.2.2:1"} {
		for name, broken := range map[string]answerFunc{"refuses": fails(PhaseTCP, ResultRefused), "is silent": silent} {
			for _, idle := range []time.Duration{0, 3 * time.Second, time.Minute} {
				synctest.Test(t, func(t *testing.T) {
					w, o := &world{}, &diary{}
					r := newTestRouter(t, Config{Default: parse(t, strings.Split(server, ",")...), Policy: PolicyFirst, Observer: o}, w)
					o.take()
					defer run(r)()
					synctest.Wait()
					if err := connect(r, &Request{}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(idle)
					first, _, _ := strings.Cut(server, ",")
					address := "192.0.2.1:1"
					for _, step := range []struct {
						answer answerFunc
						event  string
					}{{broken, "false"}, {nil, "true"}, {broken, "false"}} {
						w.set(address, step.answer)
						time.Sleep(bound)
						synctest.Wait()
						if got, want := o.take(), []string{"health " + first + " " + step.event}; !slices.Equal(got, want) {
							t.Fatalf("%s %s after %v: %q, want %q", server, name, idle, got, want)
						}
						if up := r.Status()[0].Up; fmt.Sprint(up) != step.event {
							t.Errorf("%s %s: up is %v", server, name, up)
						}
						time.Sleep(idle)
						synctest.Wait()
						o.take()
					}
				})
			}
		}
	}
}

// What may be the client's doing is looked into at once, and not too often.
func TestSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := &world{}, &diary{}
		r := newTestRouter(t, Config{Default: parse(t, "tcp://192.0.2.1"), Observer: o}, w)
		o.take()
		defer run(r)()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.set("192.0.2.1:5222", fails(PhaseHeader, ResultClosed))
		w.take()
		r.table().static.target.noteOpened(PhaseHeader, ResultClosed)
		synctest.Wait()
		if tried := w.take(); len(tried) != 1 {
			t.Errorf("%d probes", len(tried))
		}
		if got := o.take(); !slices.Equal(got, []string{"health tcp://192.0.2.1 false"}) {
			t.Errorf("observed %q", got)
		}
		w.set("192.0.2.1:5222", nil)
		for range 1000 {
			connect(r, &Request{Domain: "any.example"})
			r.table().static.target.noteOpened(PhaseHeader, ResultClosed)
			time.Sleep(time.Millisecond)
		}
		w.take()
		w.set("192.0.2.1:5222", fails(PhaseHeader, ResultClosed))
		for range 1000 {
			connect(r, &Request{Domain: "any.example"})
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if tried := w.take(); len(tried) > 1000+3 {
			t.Errorf("%d probes in a second", len(tried)-1000)
		}
	})
}
