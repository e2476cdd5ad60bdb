package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The churn scenario: whatever sessions leave behind when they go adds up over
// an hour.

const (
	churnRate = 150 // sessions a second
	churnStay = 500 // sessions that do not go
	churnFile = "churn.csv"
)

// answers are what the server says to what it knows; the rest it sends back.
var answers = []struct{ mark, answer string }{
	{"<stream:stream", streamHeader + features},
	{"<auth", login[1].down},
	{"<iq", login[3].down},
	{"<presence", login[4].down},
	{"<body>end</body>", "</stream:stream>"},
}

// echo is the server of one session.
func echo(c net.Conn) {
	defer c.Close()
	b := make([]byte, 32<<10)
	ended := false // the server has said its end tag
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		came := func(mark string) bool { return bytes.Contains(b[:n], []byte(mark)) }
		answer := b[:n]
		for _, a := range answers {
			if came(a.mark) {
				answer = []byte(a.answer)
			}
		}
		switch {
		case came("</stream:stream>"):
			if !ended {
				io.WriteString(c, "</stream:stream>")
			}
			return
		case came("<body>leave</body>"):
			return
		case came("<body>reset</body>"):
			c.(*net.TCPConn).SetLinger(0)
			return
		}
		ended = came("<body>end</body>")
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// startEcho runs a server that answers logins and sends stanzas back.
func startEcho() (port int, err error) {
	if port, err = freePort(); err != nil {
		return 0, err
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return 0, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				fmt.Fprintln(os.Stderr, "accept:", err)
				time.Sleep(time.Second)
				continue
			}
			go echo(c)
		}
	}()
	return port, nil
}

// tell sends a stanza that comes back.
func (s *session) tell(size int) error {
	sent := stanza(nsAttr, size)
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
	if err := s.put(string(sent)); err != nil {
		return err
	}
	if got, err := s.next(); err != nil {
		return err
	} else if !bytes.Equal(got, sent) {
		return fmt.Errorf("%w: %.300q", errDiffers, got)
	}
	return s.SetReadDeadline(time.Time{})
}

// gone waits until the other end closes the connection, without an answer to
// whatever it says.
func gone(c net.Conn) error {
	c.SetReadDeadline(time.Now().Add(3 * time.Minute)) // more than any time-out of the gateway
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: still open", err)
	}
	return nil
}

// closed waits for the Close frame, answers it and waits for the end.
func (s *session) closed() error {
	s.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		if _, err := s.next(); err == nil {
			continue
		} else if s.d.opcode() != opClose {
			return fmt.Errorf("no Close frame: %w", err)
		}
		s.Write(appendFrame(nil, opClose, true, s.text))
		return gone(s)
	}
}

const closeElement = `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`

func say(body string) string {
	return `<message xmlns="jabber:client"><body>` + body + `</body></message>`
}

// A way is how a session goes. It closes nothing: that comes behind it.
type way struct {
	name   string
	weight int // of 100 sessions
	leave  func(s *session) error
}

var ways = []way{
	{"RST", 15, func(s *session) error { return s.Conn.(*net.TCPConn).SetLinger(0) }},
	{"FIN", 15, func(s *session) error { return nil }},
	{"WebSocket close", 15, func(s *session) error {
		s.Write(appendFrame(nil, opClose, true, []byte{1000 >> 8, 1000 & 0xff}))
		return s.closed()
	}},
	{"<close/>", 15, func(s *session) error {
		s.put(closeElement)
		return s.closed()
	}},
	{"half a frame", 10, func(s *session) error {
		frame := appendFrame(nil, opText, true, stanza(nsAttr, 20000))
		_, err := s.Write(frame[:1+rand.IntN(len(frame)-1)])
		return err
	}},
	{"silence", 1, func(s *session) error { return gone(s) }},
	{"server's end tag", 7, func(s *session) error {
		s.put(say("end"))
		if _, err := s.expect("<close"); err != nil {
			return err
		}
		s.put(closeElement)
		return s.closed()
	}},
	{"server's FIN", 6, func(s *session) error {
		s.put(say("leave"))
		return s.closed()
	}},
	{"server's RST", 6, func(s *session) error {
		s.put(say("reset"))
		return s.closed()
	}},
	{"half a request", 10, nil}, // no session yet
}

// visit is one session from its beginning to its end.
func (w *way) visit(r *route) error {
	if w.leave == nil {
		c, err := net.Dial("tcp", loopback(r.port))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.WriteString(c, request[:1+rand.IntN(len(request)-1)])
		return err
	}
	s, err := r.login()
	if err != nil {
		return err
	}
	defer s.Close()
	for _, size := range []int{200, 200, 2000, 20000} {
		if err := s.tell(size); err != nil {
			return err
		}
		time.Sleep(rand.N(200 * time.Millisecond))
	}
	return w.leave(s)
}

// A churn is the crowd of an hour.
type churn struct {
	route        *route
	came, failed atomic.Int64
	lost         atomic.Int64 // of those that stay
	stop         chan struct{}
	staying      sync.WaitGroup
}

func (c *churn) over() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// stay keeps sessions that do not go: every other one talks, the rest
// only answer pings.
func (c *churn) stay(n int, every time.Duration) error {
	for i := range n {
		s, err := c.route.login()
		if err != nil {
			return err
		}
		c.staying.Go(func() {
			err := error(nil)
			if i%2 == 0 {
				go func() { <-c.stop; s.Close() }()
				_, err = s.next()
			}
			for i%2 == 1 && err == nil {
				select {
				case <-c.stop:
					s.Close()
					return
				case <-time.After(every):
					err = s.tell(200)
				}
			}
			if !c.over() {
				fmt.Fprintln(os.Stderr, "lost:", err)
				c.lost.Add(1)
			}
		})
	}
	return nil
}

// pass lets sessions come and go until stop.
func (c *churn) pass() {
	var deck []*way
	for i := range ways {
		deck = append(deck, slices.Repeat([]*way{&ways[i]}, ways[i].weight)...)
	}
	tick := time.NewTicker(time.Second / churnRate)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		w := deck[rand.IntN(len(deck))]
		go func() {
			if err := w.visit(c.route); err != nil && !c.over() {
				fmt.Fprintf(os.Stderr, "%s: %v\n", w.name, err)
				c.failed.Add(1)
			}
			c.came.Add(1)
		}()
	}
}

// A sample is the state of the gateway after a minute of the hour.
type sample struct {
	minute                       int
	rss, descriptors, goroutines float64
}

// quantities of a sample, and how much more the last quarter may have than
// the second one.
var quantities = []struct {
	name, unit string
	of         func(sample) float64
}{
	{"RSS", "MiB", func(s sample) float64 { return s.rss / 1024 }},
	{"descriptors", "open", func(s sample) float64 { return s.descriptors }},
	{"goroutines", "alive", func(s sample) float64 { return s.goroutines }},
}

func runChurn(b *bench, r *recorder) error {
	minute := time.Minute
	file := churnFile
	if *short {
		minute, file = 250*time.Millisecond, os.DevNull
	}
	raw, err := os.Create(file)
	if err != nil {
		return err
	}
	defer raw.Close()
	upstream, err := startEcho()
	if err != nil {
		return err
	}
	p, port, err := startGateway(b.dir, "", b.gateway, upstream, production...)
	if err != nil {
		return err
	}
	c := &churn{route: &route{name: gate, port: port, ws: true}, stop: make(chan struct{})}
	if err := c.stay(churnStay, 10*time.Second); err != nil {
		return err
	}
	go c.pass()
	samples := []sample{}
	before := cpu(p)
	begin := time.Now()
	fmt.Fprintln(raw, "minute,rss_kib,descriptors,goroutines,sessions_gone,failed,lost,cpu_seconds")
	for n := 1; n <= 60; n++ {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * minute)))
		s := sample{minute: n, rss: rss(p), descriptors: float64(p.descriptors())}
		if s.goroutines, err = p.metric("go_goroutines"); err != nil {
			return err
		}
		samples = append(samples, s)
		fmt.Fprintf(raw, "%d,%.0f,%.0f,%.0f,%d,%d,%d,%.2f\n", n, s.rss, s.descriptors, s.goroutines,
			c.came.Load(), c.failed.Load(), c.lost.Load(), (cpu(p) - before).Seconds())
	}
	used := cpu(p) - before
	came := c.came.Load()
	close(c.stop)
	c.staying.Wait()

	for _, q := range quantities {
		for _, n := range []int{5, 15, 30, 60} {
			r.add(fmt.Sprintf("%s, minute %d", q.name, n), q.unit, 0, gate, q.of(samples[n-1]))
		}
		r.add(q.name+", last quarter to second", "ratio of medians", 0, gate, quarter(samples, 3, q.of)/quarter(samples, 1, q.of))
	}
	r.add("sessions that came and went", "", 0, gate, float64(came))
	r.add("… and did not go as they should", "", 0, gate, float64(c.failed.Load()))
	r.add("sessions that stayed and were lost", "", 0, gate, float64(c.lost.Load()))
	r.add("CPU of the gateway", "µs a session", 0, gate, micros(used)/float64(came))
	return nil
}

// quarter is the median of a quantity in a quarter of the hour, from 0 on.
func quarter(samples []sample, n int, of func(sample) float64) float64 {
	values := []float64{}
	for _, s := range samples[n*len(samples)/4 : (n+1)*len(samples)/4] {
		values = append(values, of(s))
	}
	return spreadOf(values)[1]
}
