//go:build linux

package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/upstream"
)

// What the system or a bug makes fail ends one session, or one attempt, with a
// line in the log and a metric.

// A witness notes what an observer is told.
type witness struct {
	nopObserver
	mu     sync.Mutex
	ended  []string
	dialed []string
	faults int // of accept
}

func (o *witness) Ended(s *EndedSession) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = append(o.ended, s.Ending)
}

func (o *witness) Dialed(_ uint64, result string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dialed = append(o.dialed, result)
}

func (o *witness) AcceptFailed() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.faults++
}

func (o *witness) endings() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.ended, " ")
}

// A journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) has(s string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), s)
}

// watched is an option that installs a witness and a journal.
func watched() (o *witness, j *journal, option func(*Gateway)) {
	o, j = &witness{}, &journal{}
	return o, j, func(g *Gateway) { g.Observer, g.Log = o, slog.New(slog.NewTextHandler(j, nil)) }
}

// expectSoon fails the test if f does not come true.
func expectSoon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatalf("no %s", what)
		}
	}
}

// A kernel that watches no more descriptors ends the session that needs one.
func TestWatchFails(t *testing.T) {
	for _, c := range []struct {
		name string
		op   int
		fail int // which call with that op, from 1
		want string
	}{
		{"client", unix.EPOLL_CTL_ADD, 1, "internal"},
		{"server", unix.EPOLL_CTL_ADD, 2, "internal"},
		{"later", unix.EPOLL_CTL_MOD, 1, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			calls := 0
			o, j, option := watched()
			b := newBench(t, LoopAuto, option, func(g *Gateway) {
				g.init()
				g.loop.(interface {
					SetEpollCtl(func(ep, op, fd int, event unix.EpollEvent) error)
				}).SetEpollCtl(func(ep, op, fd int, event unix.EpollEvent) error {
					mu.Lock()
					defer mu.Unlock()
					if op == c.op {
						if calls++; calls == c.fail {
							return unix.ENOSPC
						}
					}
					return unix.EpollCtl(ep, op, fd, &event)
				})
			})
			conn, err := net.Dial("tcp", b.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() {
				io.WriteString(conn, goodRequest+"\r\n")
				if c.name == "client" {
					return
				}
				b.send(conn, testOpen)
				if c.op == unix.EPOLL_CTL_MOD { // a client that is not read any more
					b.send(conn, `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AA==</auth>`)
					b.send(conn, testOpen)
					for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
						_, err = conn.Write(maskedFrame(ws.OpPing, true, nil))
					}
				}
			}()
			if c.name != "client" {
				srv, err := b.upstream.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer srv.Close()
				io.WriteString(srv, testHeader)
			}
			expectSoon(t, "ending", func() bool { return o.endings() == c.want })
			expectSoon(t, "log line", func() bool { return j.has("no space left on device") })
			// It was this session only.
			b.relays(b.connect())
		})
	}
}

// A connection that takes nothing any more ends the session although its other
// direction stays silent; what was to be written was not relayed.
func TestWriteFails(t *testing.T) {
	for name, to := range map[string]relay.Side{"client": client, "server": server} {
		onLoops(t, func(t *testing.T, l string) {
			t.Parallel()
			o, j, option := watched()
			options := []func(*Gateway){option}
			w := &sockets{}
			if !strings.HasPrefix(l, LoopGoroutine) {
				options = append(options, w.gateway)
			}
			b := newBench(t, l, options...)
			cl, srv := b.connect()
			s := b.g.sessions()[0]
			s.control(to, func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
			if to == server {
				b.send(cl, "<presence/>")
			} else {
				io.WriteString(srv, "<presence/>")
			}
			if w.g != nil {
				expectSoon(t, "write", func() bool { return s.state().Unwritable[to] })
				w.pass(closeTimeout + time.Second)
			}
			want := [...]string{client: "client-lost", server: "server-lost"}[to]
			expectSoon(t, "ending", func() bool { return o.endings() == want || b.g.sessions() != nil && s.ended(want) })
			cl.Close()
			srv.Close()
			expectSoon(t, "end", func() bool {
				if w.g != nil {
					w.pass(time.Second)
				}
				return len(b.g.sessions()) == 0
			})
			expectSoon(t, "log line", func() bool { return j.has("write: ") })
			if up, down := b.g.Totals(); up.Elements()+down.Elements() != 0 {
				t.Errorf("%s: %d elements count as relayed", name, up.Elements()+down.Elements())
			}
		})
	}
}

// A sick listener fails a few times and then has a client.
type sickListener struct {
	net.Listener
	errs []error
}

func (l *sickListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

// What ails one client, the network or the machine does not end a listener.
func TestAcceptGoesOn(t *testing.T) {
	errs := []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO,
		syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.ETIMEDOUT,
	}
	for _, err := range errs {
		o, j, option := watched()
		g := &Gateway{Config: Config{Dial: neverDial}}
		option(g)
		gate, e := net.Listen("tcp", "127.0.0.1:0")
		if e != nil {
			t.Fatal(e)
		}
		served := make(chan error, 1)
		go func() { served <- g.Serve(&sickListener{gate, []error{err}}) }()
		conn, e := net.Dial("tcp", gate.Addr().String())
		if e != nil {
			t.Fatal(e)
		}
		io.WriteString(conn, goodRequest+"\r\n")
		conn.SetDeadline(time.Now().Add(patience))
		readResponse(t, conn)
		conn.Close()
		if o.mu.Lock(); o.faults != 1 {
			t.Errorf("%v: %d are counted", err, o.faults)
		}
		o.mu.Unlock()
		expectSoon(t, "log line", func() bool { return j.has(err.Error()) })
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	for _, err := range []error{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK} {
		gate, e := net.Listen("tcp", "127.0.0.1:0")
		if e != nil {
			t.Fatal(e)
		}
		g := &Gateway{Config: Config{Dial: neverDial}}
		if g.Serve(&sickListener{gate, []error{err}}) == nil {
			t.Errorf("%v: Serve goes on", err)
		}
		if err := g.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		gate.Close()
	}
}

// A panic of Dial ends the attempt.
func TestDialPanics(t *testing.T) {
	for _, l := range []string{LoopAuto, LoopGoroutine} {
		o, j, option := watched()
		b := newBench(t, l, option, func(g *Gateway) {
			g.Static = nil
			g.Dial = func(context.Context, *upstream.Request) (*upstream.Stream, error) { panic("a bug") }
		})
		conn, err := net.Dial("tcp", b.gate.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, goodRequest+"\r\n")
		readResponse(t, conn)
		b.send(conn, testOpen)
		for got := ""; got != "close 1000"; {
			got = b.message(conn)
		}
		conn.Close()
		expectSoon(t, "ending", func() bool { return o.endings() == "dial-failed" })
		expectSoon(t, "log line", func() bool { return j.has("panic: a bug") })
		if o.mu.Lock(); strings.Join(o.dialed, " ") != dialOther {
			t.Errorf("dials: %v", o.dialed)
		}
		o.mu.Unlock()
	}
}

// A panic during an event ends that session only.
func TestEventPanics(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		o, j, option := watched()
		b := newBench(t, l, option, func(g *Gateway) { g.Observer = &faulty{o} })
		cl, srv := b.connect()
		first := b.g.sessions()[0]
		first.handle.View(first.s.ExpectPong)
		other, otherServer := b.connect()
		cl.Write(maskedFrame(ws.OpPong, true, []byte("xmppgate")))
		expectSoon(t, "ending", func() bool { return o.endings() == "internal" })
		expectSoon(t, "log line", func() bool { return j.has("panic: a bug") })
		if _, err := endOf(srv); err != nil && !strings.HasSuffix(l, overTLS) {
			t.Errorf("the server's connection is not closed: %v", err)
		}
		b.send(other, "<iq/>")
		b.expect(otherServer, "<iq/>")
	})
}

// A faulty observer has a bug.
type faulty struct{ *witness }

func (faulty) Pinged(time.Duration) { panic("a bug") }

// Without a descriptor for the server a session ends, and without one for a client the
// next one has to wait. Both are told, and over when there are descriptors again. The test
// takes all that the process may have.
func TestNoDescriptors(t *testing.T) {
	for _, l := range []string{LoopAuto, LoopGoroutine} {
		t.Run(l, func(t *testing.T) {
			o, j, option := watched()
			b := newBench(t, l, option)
			conn, err := net.Dial("tcp", b.gate.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			io.WriteString(conn, goodRequest+"\r\n")
			readResponse(t, conn)

			give := takeDescriptors(t)
			defer give()
			b.send(conn, testOpen)
			for got := ""; got != "close 1000"; {
				got = b.message(conn)
			}
			conn.Close() // which leaves one, for the next client's own end
			expectSoon(t, "ending", func() bool { return o.endings() == "dial-failed" })
			expectSoon(t, "log line", func() bool { return j.has("too many open files") })
			give()

			next, err := net.Dial("tcp", b.gate.Addr().String()) // while there are some
			if err != nil {
				t.Fatal(err)
			}
			next.Close()
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			give = takeDescriptors(t)
			defer give()
			to := &unix.SockaddrInet4{Port: b.gate.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
			if err := unix.Connect(fd, to); err != nil {
				t.Fatal(err)
			}
			expectSoon(t, "failed accept", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.faults > 0 })
			expectSoon(t, "log line", func() bool { return j.has("msg=accept") && j.has("remedy=\"raise the limit of open files") })
			give()
			unix.Write(fd, []byte(goodRequest+"\r\n"))
			wait := unix.NsecToTimeval(int64(patience))
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
			answer := make([]byte, 32)
			if n, err := unix.Read(fd, answer); err != nil || !strings.HasPrefix(string(answer[:max(n, 0)]), "HTTP/1.1 101 ") {
				t.Errorf("a client that has waited gets %q, %v", answer[:max(n, 0)], err)
			}
			b.relays(b.connect())
		})
	}
}

// takeDescriptors takes all descriptors that the process may have.
func takeDescriptors(t *testing.T) (give func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	var taken []int
	less := old
	less.Cur = 512 // so that few have to be taken
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &less); err != nil {
		t.Fatal(err)
	}
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		taken = append(taken, fd)
	}
	return func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		taken = nil
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	}
}
