//go:build linux

package proxy

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

func heldBySlot(l link) (n int) {
	s := l.(*slot)
	s.view(func(*session) { n = len(s.sides[client].pending) + s.win[server].n })
	return n
}

// sockets is the world of the epoll loop: real sockets, and a clock that moves
// only when the script says so.
type sockets struct {
	g   *Gateway
	now atomic.Int64
}

func (w *sockets) gateway(g *Gateway) {
	w.now.Store(1)
	w.g = g
	g.Loop = LoopAuto
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
	for _, k := range w.g.loop.(*epoll).workers {
		before := k.rests.Load()
		k.wakeUp()
		await(func() bool { return k.rests.Load() > before || k.stopping.Load() })
	}
	await(arrived)
}

func await(f func() bool) {
	for begun := time.Now(); !f() && time.Since(begun) < 2*time.Second; {
		time.Sleep(50 * time.Microsecond)
	}
}

// The transcripts hold on real sockets too, with the epoll loop.
func TestTranscriptsOnSockets(t *testing.T) {
	eachTranscript(t, func(t *testing.T, file string, ar *txtar.Archive, c chunking, _ bool) {
		if section(ar, "pipes") != nil {
			return // what is played needs a connection without buffers
		}
		t.Parallel()
		w := &sockets{}
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
				w.pass(stallTimeout)
			}
		}
	})
}
