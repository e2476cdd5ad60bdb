package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const prosodyConfig = `run_as_root = %[1]t
interfaces = { "127.0.0.1" }
c2s_ports = { %[2]d }
c2s_direct_tls_ports = { }
http_interfaces = { "127.0.0.1" }
http_ports = { %[3]d }
https_ports = { }
data_path = "%[4]s"
pidfile = "%[4]s/prosody.pid"
network_settings = { tcp_backlog = 4096, nagle = false }
modules_enabled = { "saslauth", "disco", "ping", "websocket", "posix" }
modules_disabled = { "s2s", "tls", "offline", "limits" }
default_storage = "memory"
authentication = "anonymous"
allow_unencrypted_plain_auth = true
c2s_require_encryption = false
consider_websocket_secure = true
c2s_stanza_size_limit = 1048576
log = { { levels = { min = "error" }, to = "console" } }
VirtualHost "localhost"
Component "muc.localhost" "muc"
  muc_room_locking = false
  restrict_room_creation = false
`

// startProsody returns the process and its ports for TCP and HTTP.
func startProsody(b *bench) (p *process, tcp, http int, err error) {
	if tcp, err = freePort(); err != nil {
		return
	}
	if http, err = freePort(); err != nil {
		return
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("prosody-%d", tcp))
	if err = os.Mkdir(dir, 0o700); err != nil {
		return
	}
	file := filepath.Join(dir, "prosody.cfg.lua")
	if err = os.WriteFile(file, fmt.Appendf(nil, prosodyConfig, os.Getuid() == 0, tcp, http, dir), 0o600); err != nil {
		return
	}
	if p, err = start(dir, "", nil, "prosody", "-F", "--config", file); err != nil {
		return
	}
	if err = p.ready(tcp); err == nil {
		err = p.ready(http)
	}
	return
}

const ejabberdConfig = `hosts: [localhost]
loglevel: error
host_config:
  localhost:
    auth_method: anonymous
    anonymous_protocol: sasl_anon
    allow_multiple_connections: true
websocket_ping_interval: 3600
websocket_timeout: 7200
listen:
  - port: %[1]d
    ip: 127.0.0.1
    module: ejabberd_c2s
    max_stanza_size: 1048576
    shaper: none
    access: all
    backlog: 4096
  - port: %[2]d
    ip: 127.0.0.1
    module: ejabberd_http
    request_handlers:
      /xmpp-websocket: ejabberd_http_ws
    backlog: 4096
shaper_rules:
  max_user_sessions: 100000
modules:
  mod_disco: {}
  mod_muc:
    host: muc.localhost
    max_users_presence: 10000
`

// startEjabberd returns the process and its ports for TCP and HTTP.
func startEjabberd(b *bench) (p *process, tcp, http int, err error) {
	if tcp, err = freePort(); err != nil {
		return
	}
	if http, err = freePort(); err != nil {
		return
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("ejabberd-%d", tcp))
	if err = os.Mkdir(dir, 0o700); err != nil {
		return
	}
	file := filepath.Join(dir, "ejabberd.yml")
	if err = os.WriteFile(file, fmt.Appendf(nil, ejabberdConfig, tcp, http), 0o600); err != nil {
		return
	}
	libs, _ := filepath.Glob("/usr/lib/*-linux-gnu/ejabberd-*")
	if len(libs) == 0 {
		return nil, 0, 0, fmt.Errorf("ejabberd is not installed")
	}
	env := []string{"HOME=" + dir, "ERL_LIBS=" + filepath.Dir(libs[0]), "EJABBERD_CONFIG_PATH=" + file,
		"EJABBERD_LOG_PATH=" + dir + "/ejabberd.log", "ERL_CRASH_DUMP_BYTES=0", "ERL_MAX_PORTS=20000"}
	if p, err = start(dir, "", env, "erl", "-noinput", "+K", "true", "+P", "250000", "-mnesia", "dir", strconv.Quote(dir+"/spool"), "-s", "ejabberd"); err != nil {
		return
	}
	if err = p.ready(tcp); err == nil {
		err = p.ready(http)
	}
	time.Sleep(2 * time.Second) // the modules start after the listeners
	return
}

// A serverKind is one of the XMPP servers.
type serverKind struct {
	own   string // its WebSocket module
	start func(*bench) (p *process, tcp, http int, err error)
}

var (
	prosody  = serverKind{ownProsody, startProsody}
	ejabberd = serverKind{ownEjabberd, startEjabberd}
)

// routes is how many there are to a server.
const routes = 5

// way starts the proxy of one of the ways to a server.
func (k serverKind) way(b *bench, i int, srv *process, tcp, http int) (*route, error) {
	r := &route{ws: true, proc: []*process{srv}}
	var p *process
	var err error
	switch i {
	case 0:
		r.name = gate
		p, r.port, err = startGateway(b.dir, "", b.gateway, tcp)
	case 1:
		r.name, r.port = k.own, http
	case 2:
		r.name = "nginx → " + k.own
		p, r.port, err = startNginx(b.dir, "", http)
	case 3:
		r.name, r.ws = "HAProxy → TCP", false
		p, r.port, err = startHAProxy(b.dir, "", haproxy{mode: "tcp"}, tcp)
	case 4:
		r.name, r.ws, r.port = "TCP", false, tcp
	}
	if p != nil {
		r.proc = append(r.proc, p)
	}
	return r, err
}

// A talk is a pair of sessions, the first of which sends to the second.
type talk struct {
	from, to  *session
	id        int
	sent, got int
	head      []byte
	since     []time.Time // when each message in flight was sent
	mu        sync.Mutex
}

func newTalks(r *route, n int) ([]*talk, error) {
	all := []*talk{}
	for i := range n {
		from, err := r.login()
		if err != nil {
			return nil, err
		}
		to, err := r.login()
		if err != nil {
			return nil, err
		}
		all = append(all, newTalk(from, to, i))
	}
	return all, nil
}

func newTalk(from, to *session, id int) *talk {
	head := fmt.Sprintf(`<message xmlns="jabber:client" to="%s" type="chat"><body>`, to.jid)
	if !from.ws {
		head = strings.Replace(head, ` xmlns="jabber:client"`, "", 1)
	}
	return &talk{from: from, to: to, id: id, head: []byte(head)}
}

// body is the text of the n-th message, whose stanza is of about size bytes.
func (t *talk) body(dst []byte, n, size int) []byte {
	begin := len(dst)
	dst = fmt.Appendf(dst, "%d %d ", t.id, n)
	const fill = "Wherefore art thou Romeo? Deny thy father and refuse thy name; "
	want := size - len("<message to=''></message><body></body>") - len(t.to.jid)
	for len(dst)-begin+len(fill) < want {
		dst = append(dst, fill...)
	}
	for len(dst)-begin < want {
		dst = append(dst, 'x')
	}
	return dst
}

// add puts the next message into the sender's buffer.
func (t *talk) add(size int) {
	b := append(make([]byte, 0, size+256), t.head...)
	b = t.body(b, t.sent, size)
	t.from.add(append(b, "</body></message>"...))
	t.mu.Lock()
	t.since = append(t.since, time.Now())
	t.mu.Unlock()
	t.sent++
}

// take receives one message, which must be the next one, and tells how long
// it took.
func (t *talk) take(on *session, size int) (time.Duration, error) {
	for {
		b, err := on.next()
		if err != nil {
			return 0, err
		}
		if !bytes.HasPrefix(b, []byte("<message")) {
			continue
		}
		_, rest, _ := bytes.Cut(b, []byte("<body>"))
		body, _, ok := bytes.Cut(rest, []byte("</body>"))
		if want := t.body(nil, t.got, size); !ok || !bytes.Equal(body, want) {
			return 0, fmt.Errorf("%w: message %d is %.300q", errDiffers, t.got, b)
		}
		t.got++
		t.mu.Lock()
		defer t.mu.Unlock()
		took := time.Since(t.since[0])
		t.since = t.since[1:]
		return took, nil
	}
}

// saturate keeps a window of messages in flight on each talk for a time.
func saturate(talks []*talk, size, window int, d time.Duration) (n int, err error) {
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	errs := make([]error, len(talks))
	begin := 0
	for _, t := range talks {
		begin += t.got
	}
	for i, t := range talks {
		wg.Go(func() {
			t.to.SetReadDeadline(end.Add(20 * time.Second))
			for range window {
				t.add(size)
			}
			errs[i] = t.from.flush()
			for errs[i] == nil && t.got < t.sent {
				if _, errs[i] = t.take(t.to, size); errs[i] != nil {
					return
				}
				if time.Now().Before(end) {
					t.add(size)
				}
				if t.to.in.Buffered() == 0 || t.got == t.sent {
					errs[i] = t.from.flush()
				}
			}
		})
	}
	wg.Wait()
	for i, t := range talks {
		if errs[i] != nil {
			return 0, errs[i]
		}
		n += t.got
	}
	return n - begin, nil
}

// pace sends 1,000 messages a second in all and returns how long each took.
func pace(talks []*talk, size int, d time.Duration) (took []time.Duration, err error) {
	total := int(d / time.Millisecond)
	each := total / len(talks)
	var wg sync.WaitGroup
	errs := make([]error, len(talks)+1)
	all := make([][]time.Duration, len(talks))
	for i, t := range talks {
		t.to.SetReadDeadline(time.Now().Add(d + 20*time.Second))
		wg.Go(func() {
			for range each {
				d, err := t.take(t.to, size)
				if err != nil {
					errs[i] = err
					return
				}
				all[i] = append(all[i], d)
			}
		})
	}
	begin := time.Now()
	for i := range each * len(talks) {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Millisecond)))
		t := talks[i%len(talks)]
		t.add(size)
		if err := t.from.flush(); err != nil {
			errs[len(talks)] = err
			break
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	took = slices.Concat(all...)
	slices.Sort(took)
	return took, nil
}

// A room is a MUC room with a talk to each occupant; the first one sends.
type room struct {
	talks []*talk
}

func newRoom(r *route, n int) (*room, error) {
	jid := fmt.Sprintf("room%d@muc.localhost", r.port)
	rm := &room{}
	for i := range n {
		s, err := r.login()
		if err != nil {
			return nil, err
		}
		s.SetReadDeadline(time.Now().Add(20 * time.Second))
		s.put(fmt.Sprintf(`<presence xmlns="jabber:client" to="%s/n%d"><x xmlns="http://jabber.org/protocol/muc"><history maxstanzas="0"/></x></presence>`, jid, i))
		if b, err := s.expect("<message"); err != nil || !bytes.Contains([]byte(b), []byte("<subject")) {
			return nil, fmt.Errorf("no subject: %s %w", b, err) // the end of a join
		}
		t := newTalk(s, s, 0)
		t.head = fmt.Appendf(nil, `<message xmlns="jabber:client" to="%s" type="groupchat"><body>`, jid)
		rm.talks = append(rm.talks, t)
	}
	return rm, nil
}

// shout lets the first occupant speak for a time, with a window of messages
// that not everybody has heard, and returns how many were delivered.
func (rm *room) shout(size, window int, d time.Duration) (int, error) {
	end := time.Now().Add(d)
	speaker := rm.talks[0]
	first := speaker.got
	heard := make(chan struct{}, 1<<16)
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, len(rm.talks))
	last := make(chan int)
	for i, t := range rm.talks {
		t.to.SetReadDeadline(end.Add(20 * time.Second))
		wg.Go(func() {
			// An occupant who is not the speaker knows from the speaker's last
			// message, an empty one, when to stop.
			for {
				n := t.got
				b, err := t.to.next()
				if err != nil {
					errs[i] = err
					stop.Store(true)
					heard <- struct{}{}
					return
				}
				if !bytes.HasPrefix(b, []byte("<message")) {
					continue
				}
				_, rest, _ := bytes.Cut(b, []byte("<body>"))
				body, _, _ := bytes.Cut(rest, []byte("</body>"))
				if string(body) == "over" {
					return
				}
				if !bytes.Equal(body, speaker.body(nil, n, size)) {
					errs[i] = fmt.Errorf("%w: message %d is %.300q", errDiffers, n, b)
					stop.Store(true)
				}
				t.got++
				heard <- struct{}{}
			}
		})
	}
	go func() {
		defer close(last)
		n := 0
		for range window {
			speaker.add(size)
			n++
		}
		speaker.from.flush()
		for waiting := n * len(rm.talks); waiting > 0 && !stop.Load(); waiting-- {
			<-heard
			if waiting%len(rm.talks) == 1 && time.Now().Before(end) {
				speaker.add(size)
				speaker.from.flush()
				waiting += len(rm.talks)
				n++
			}
		}
		speaker.since = nil
		speaker.from.add(append(slices.Clone(speaker.head), "over</body></message>"...))
		speaker.from.flush()
	}()
	<-last
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return (speaker.got - first + 1) * len(rm.talks), nil
}

// run measures a server by all ways, side by side.
func (k serverKind) run(b *bench, r *recorder) error {
	srv, tcp, http, err := k.start(b)
	if err != nil {
		return err
	}
	ways := []*route{}
	talks, large := map[*route][]*talk{}, map[*route][]*talk{}
	for i := range routes {
		w, err := k.way(b, i, srv, tcp, http)
		if err != nil {
			return err
		}
		ways = append(ways, w)
		if talks[w], err = newTalks(w, 20); err != nil {
			return err
		}
		if large[w], err = newTalks(w, 4); err != nil {
			return err
		}
	}
	// each runs a load by all ways for some rounds.
	each := func(rounds int, name, unit string, load func(*route, int) (int, error)) error {
		for round := -1; round < rounds; round++ { // the first one is not counted
			for _, w := range shuffled(ways) {
				before := cpu(w.proc...)
				n, err := load(w, round)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", name, w.name, err)
				}
				if used := cpu(w.proc...) - before; round >= 0 {
					r.add(name, unit, round, w.name, micros(used)/float64(n))
				}
			}
		}
		return nil
	}
	const perMessage = "CPU µs per message"
	if err := each(b.rounds(15, 4), "saturated", perMessage, func(w *route, _ int) (int, error) {
		return saturate(talks[w], 200, 16, 700*time.Millisecond)
	}); err != nil {
		return err
	}
	if err := each(b.rounds(12, 3), "1,000 messages/s", perMessage, func(w *route, round int) (int, error) {
		took, err := pace(talks[w], 200, 1500*time.Millisecond)
		if err == nil && round >= 0 {
			r.add("latency p50 at 1,000/s", "µs", round, w.name, micros(took[len(took)/2]))
			r.add("latency p99 at 1,000/s", "µs", round, w.name, micros(took[len(took)*99/100]))
		}
		return len(took), err
	}); err != nil {
		return err
	}
	for _, size := range []int{64, 256} {
		if err := each(b.rounds(8, 2), fmt.Sprintf("%d KiB stanzas", size), perMessage, func(w *route, _ int) (int, error) {
			return saturate(large[w], size<<10, 2, 700*time.Millisecond)
		}); err != nil {
			return err
		}
	}
	if err := each(b.rounds(8, 2), "login, then gone", "CPU µs", func(w *route, _ int) (int, error) {
		return storm(w, 8, 700*time.Millisecond)
	}); err != nil {
		return err
	}
	rooms := map[*route]*room{}
	for _, w := range ways {
		if rooms[w], err = newRoom(w, 100); err != nil {
			return fmt.Errorf("room, %s: %w", w.name, err)
		}
		// Those who came first were told of those who came later.
	}
	return each(b.rounds(8, 2), "MUC of 100", "CPU µs per delivery", func(w *route, _ int) (int, error) {
		return rooms[w].shout(200, 4, 700*time.Millisecond)
	})
}

// storm logs in again and again, some at a time.
func storm(w *route, workers int, d time.Duration) (int, error) {
	end := time.Now().Add(d)
	var n atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for i := range workers {
		wg.Go(func() {
			for failed := 0; time.Now().Before(end); {
				s, err := w.login()
				if err != nil { // ejabberd closes one of some thousand WebSockets right away
					fmt.Fprintln(os.Stderr, "login:", err)
					if failed++; failed == 3 {
						errs[i] = err
						return
					}
					continue
				}
				s.Close()
				n.Add(1)
			}
		})
	}
	wg.Wait()
	time.Sleep(100 * time.Millisecond) // the farewells
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return int(n.Load()), nil
}

// idle measures the memory of quiet sessions, in a server of its own each.
func (k serverKind) idle(b *bench, r *recorder) error {
	for round := range 1 { // servers that start afresh repeat themselves
		for i := range routes {
			srv, tcp, http, err := k.start(b)
			if err != nil {
				return err
			}
			w, err := k.way(b, i, srv, tcp, http)
			if err != nil {
				return err
			}
			all := []*session{}
			var at []float64
			for _, n := range []int{500, 2000} {
				for len(all) < n {
					s, err := w.login()
					if err != nil {
						return err
					}
					all = append(all, s)
				}
				time.Sleep(3 * time.Second)
				at = append(at, rss(w.proc...))
			}
			r.add("500 → 2,000 sessions", "KiB per session, server and proxy", round, w.name, (at[1]-at[0])/1500)
			for _, s := range all {
				s.Close()
			}
			for _, p := range slices.Backward(w.proc) {
				p.stop()
			}
		}
	}
	return nil
}
