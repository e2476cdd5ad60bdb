//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"xmppgate/proxy/internal/relay"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

// sockets is the world of the epoll loop: real sockets, and a clock that moves
// only when the script says so.
type sockets struct {
	tls bool // the client speaks TLS
	g   *Gateway
	now atomic.Int64
}

func (w *sockets) gateway(g *Gateway) {
	w.now.Store(1)
	w.g = g
	g.Loop = LoopAuto
	g.Certificate = oneCertificate
	g.clock = func() time.Duration { return time.Duration(w.now.Load()) }
}

func (w *sockets) pipe(t *testing.T) (near, far net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

func (w *sockets) connect(t *testing.T, g *Gateway) net.Conn {
	conn, far := w.pipe(t)
	if !w.tls {
		g.serveConn(far)
		return conn
	}
	g.init()
	g.loop.Start(far, tlsAcceptor{g})
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
}

// pass moves the clock in steps: one timeout may set the next.
func (w *sockets) pass(d time.Duration) {
	const stride = 500 * time.Millisecond
	for end := w.now.Load() + int64(d); w.now.Load() < end; {
		w.now.Add(int64(min(stride, time.Duration(end-w.now.Load()))))
		w.settle(func() bool { return true })
	}
}

// settle waits for what is expected, and then until the workers have nothing to
// do. What comes too late to be seen here is found by the next step.
func (w *sockets) settle(arrived func() bool) {
	await(arrived)
	w.g.loop.(interface{ AwaitIdle(func(func() bool)) }).AwaitIdle(await)
	await(arrived)
}

// The transcripts hold on real sockets too, with the epoll loop.
func TestTranscriptsOnSockets(t *testing.T) { testTranscriptsOnSockets(t, false) }

// They hold with TLS at the client, too.
func TestTranscriptsOverTLS(t *testing.T) { testTranscriptsOnSockets(t, true) }

func testTranscriptsOnSockets(t *testing.T, overTLS bool) {
	eachTranscript(t, func(t *testing.T, file string, ar *txtar.Archive, c chunking, _ bool) {
		if section(ar, "pipes") != nil {
			return // what is played needs a connection without buffers
		}
		t.Parallel()
		w := &sockets{tls: overTLS}
		if happened, ok := play(t, ar, c, w); !ok {
			t.Errorf("%s, as it happened:\n%s", file, happened)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		stopped := make(chan error, 1)
		go func() { stopped <- w.g.Shutdown(ctx) }()
		for {
			select {
			case err := <-stopped:
				if err != nil {
					t.Errorf("shutdown: %v", err)
				}
				return
			case <-time.After(time.Millisecond):
				w.pass(relay.StallTimeout)
			}
		}
	})
}

// A client that resets its connection is noticed although nobody reads it,
// because the server does not.
func TestResetWhileServerIsBlocked(t *testing.T) {
	b := newBench(t, LoopAuto)
	cl, srv := b.connect()
	s := b.g.sessions()[0]
	written := make(chan struct{})
	go func() {
		defer close(written)
		frame := maskedFrame(0x1, true, []byte("<message><body>x</body></message>"))
		for {
			if _, err := cl.Write(frame); err != nil {
				return
			}
		}
	}()
	if await(func() bool { return s.probe().Blocked[server] }); !s.probe().Blocked[server] {
		t.Fatal("the server takes everything")
	}
	cl.SetLinger(0)
	cl.Close()
	<-written
	if await(func() bool { return s.ended("client-lost") }); !s.ended("client-lost") {
		t.Error("the session has not ended")
	}
	srv.Close()
}

// A client that reads slowly is not one that does not read, although its socket
// has room for more only now and then.
func TestSlowButSteadyReader(t *testing.T) {
	w := &sockets{}
	b := newBench(t, LoopAuto, w.gateway)
	cl, srv := b.connect()
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		stanza := []byte("<message><body>" + string(bytesOf('x', 1000)) + "</body></message>")
		for {
			if _, err := srv.Write(stanza); err != nil {
				return
			}
		}
	}()
	s := b.g.sessions()[0]
	blocked := func() bool { return s.probe().Blocked[client] }
	await(blocked)
	if !blocked() {
		t.Fatal("the client takes everything")
	}
	buf := make([]byte, 20<<10)
	for range 12 {
		if _, err := io.ReadFull(cl, buf); err != nil {
			t.Fatalf("cut off while reading: %v", err)
		}
		w.pass(10 * time.Second)
	}
	// The buffers of the kernel may still take some.
	gaveUp := func() bool { return len(b.g.sessions()) == 0 || b.g.sessions()[0].ended("client-stalled") }
	for range 5 {
		if w.pass(relay.StallTimeout + time.Second); gaveUp() {
			break
		}
	}
	await(gaveUp)
	if !gaveUp() {
		t.Error("a client that has stopped reading is not given up")
	}
	srv.Close()
	<-flooded
	cl.Close()
	w.pass(closeTimeout)
}

func bytesOf(c byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c
	}
	return b
}
