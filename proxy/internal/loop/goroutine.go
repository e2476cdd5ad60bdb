package loop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/internal/relay"
)

// goroutines is the loop that leaves waiting to the Go runtime. A goroutine reads each
// side (readLoop). One more writes to a side (writePending), but only while that side does not
// take everything at once. This loop works on any net.Conn.
type goroutines struct{ clock func() time.Duration }

// Start implements Loop.
func (g goroutines) Start(c net.Conn, a Acceptor) {
	gc := &goConn{clock: g.clock}
	gc.conn = gc
	gc.wake.L = &gc.mu
	if gc.s = a.Admit(gc, AddrPort(c.RemoteAddr())); gc.s == nil {
		c.Close()
		return
	}
	e := gc.use(client, c)
	gc.Post(gc.s.Start)
	go gc.readLoop(client, e)
}

// Listen implements Loop.
func (g goroutines) Listen(l net.Listener, a Acceptor) Listener { return &anyListener{l, g, a} }

// LetRun implements Loop.
func (goroutines) LetRun() { runtime.Gosched() }

// Stop implements Loop.
func (goroutines) Stop(context.Context) {}

// An anyListener makes sessions of any connections.
type anyListener struct {
	l net.Listener
	g goroutines
	a Acceptor
}

// Accept implements Listener.
func (l *anyListener) Accept() error {
	c, err := l.l.Accept()
	if err == nil {
		l.g.Start(c, l.a)
	}
	return err
}

// Close implements Listener.
func (l *anyListener) Close() { l.l.Close() }

// aLongTimeAgo is a deadline that ends reads and writes at once.
var aLongTimeAgo = time.Unix(1, 0)

// A goConn is a session's connections in the goroutine loop.
type goConn struct {
	driver
	clock func() time.Duration
	wake  sync.Cond    // on driver.mu: a readLoop may have reason to go on
	ends  [2]*endpoint // nil before there is a connection
	timer *time.Timer
	armed time.Duration // when timer fires; zero when it does not
}

// An endpoint is one connection of a goConn. Its readLoop closes it, and ends when another
// endpoint takes its place.
type endpoint struct {
	conn    net.Conn
	raw     syscall.RawConn // nil when conn is not a socket
	below   syscall.RawConn // of the socket below TLS, or raw; nil when there is none
	writing bool            // writePending runs
	secure  func()          // starts TLS, see Secure; nil when that is not due
}

func (gc *goConn) use(sd side, c net.Conn) *endpoint {
	e := &endpoint{}
	e.use(c)
	gc.ends[sd] = e
	gc.sides[sd].attached = true
	return e
}

// use makes c the connection of e.
func (e *endpoint) use(c net.Conn) {
	e.conn, e.raw, e.below = c, nil, nil
	if c, ok := c.(syscall.Conn); ok && socket.Direct {
		e.raw, _ = c.SyscallConn()
		e.below = e.raw
	} else if t, ok := e.conn.(*tls.Conn); ok {
		if c, ok := t.NetConn().(syscall.Conn); ok {
			e.below, _ = c.SyscallConn()
		}
	}
}

func (gc *goConn) now() time.Duration { return gc.clock() }

// later does nothing: readLoop runs once more whenever input waits.
func (gc *goConn) later() {}

// Connect implements Handle.
func (gc *goConn) Connect(*relay.Event, net.Addr) bool { return false }

// Abandon implements Handle.
func (gc *goConn) Abandon(*relay.Event) {}

// Secure implements Handle. The readLoop of the client does the handshake.
func (gc *goConn) Secure(_ *relay.Event, early []byte, negotiate Negotiate, done func(*relay.Event, error)) {
	e := gc.ends[client]
	gc.sides[client].attached = false
	c := &handshakeConn{Conn: e.conn, early: bytes.Clone(early)}
	e.secure = func() {
		t, err := c.negotiate(negotiate)
		gc.Post(func(ev *relay.Event) {
			e.secure = nil
			if gc.over {
				return
			}
			if err == nil {
				e.use(t)
			}
			gc.sides[client].attached = true
			done(ev, err)
		})
	}
}

// LocalAddr implements Handle.
func (gc *goConn) LocalAddr() netip.AddrPort { return AddrPort(gc.ends[client].conn.LocalAddr()) }

// Attach implements Handle.
func (gc *goConn) Attach(c net.Conn, early []byte, attached func(*relay.Event, error) bool) {
	var e *endpoint
	gc.event(func(ev *relay.Event) input {
		if !attached(ev, nil) {
			return input{}
		}
		e = gc.use(server, c)
		return input{b: early, side: server, borrowed: true}
	})
	if e == nil {
		c.Close()
		return
	}
	go gc.readLoop(server, e)
}

// write tries once, without waiting.
func (gc *goConn) write(sd side, pieces [][]byte) (n int, err error) {
	raw := gc.ends[sd].raw
	if raw == nil {
		return 0, nil
	}
	if e := raw.Write(func(fd uintptr) bool {
		n, err = socket.Gather(fd, pieces)
		return true
	}); e != nil {
		err = e
	}
	return n, err
}

func (gc *goConn) unsentRecords(side) int { return 0 }

func (gc *goConn) heldByTLS() int { return 0 } // crypto/tls does not tell

func (gc *goConn) unsent(sd side) int {
	n := -1
	if below := gc.ends[sd].below; below != nil {
		below.Control(func(fd uintptr) { n = socket.Unsent(fd) })
	}
	return n
}

// hangUpCheck is how often a client that is not read is checked for FIN, of which the
// runtime does not tell.
const hangUpCheck = 500 * time.Millisecond

// clientUnread reports whether the client is connected and not read, so that nothing else
// would find its FIN.
func (gc *goConn) clientUnread() bool {
	o := &gc.sides[client]
	return o.attached && !o.shut && !gc.sawFIN && gc.ends[client].below != nil && !gc.mayRead(client)
}

// checkHangUp tells the session of the FIN of a client that is not read. The epoll loop is
// told by the kernel.
func (gc *goConn) checkHangUp(ev *relay.Event) {
	if !gc.clientUnread() {
		return
	}
	var err error
	gc.ends[client].below.Control(func(fd uintptr) { err = socket.Ended(fd) })
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		gc.hungUp(ev)
	default:
		gc.eof(ev, client, err)
	}
}

// closeNotify does nothing: finish sends it.
func (gc *goConn) closeNotify(side) {}

func (gc *goConn) finish(sd side) bool {
	t, secure := gc.ends[sd].conn.(*tls.Conn)
	if secure {
		go func() { // it may wait
			t.CloseWrite()
			closeWrite(t.NetConn())
		}()
		return true
	}
	return closeWrite(gc.ends[sd].conn) != errors.ErrUnsupported
}

// shut makes the calls on the connection return; readLoop closes it.
func (gc *goConn) stopSecuring() {
	if gc.ends[client].secure != nil {
		gc.shut(client)
	}
}

func (gc *goConn) shut(sd side) { gc.ends[sd].conn.SetDeadline(aLongTimeAgo) }

func (gc *goConn) update(now, due time.Duration) error {
	for sd, e := range gc.ends {
		if e != nil && len(gc.sides[sd].pending()) > 0 && !e.writing {
			e.writing = true
			go gc.writePending(side(sd), e)
		}
	}
	if gc.clientUnread() {
		due = relay.Earlier(due, now+hangUpCheck)
	}
	gc.arm(now, due)
	gc.wake.Broadcast()
	return nil
}

// arm sets the timer. A deadline that was postponed does not: the timer fires early, and
// is set again.
func (gc *goConn) arm(now, due time.Duration) {
	switch {
	case due == 0:
		if gc.timer != nil {
			gc.timer.Stop()
			gc.armed = 0
		}
		return
	case gc.armed != 0 && gc.armed <= due:
		return
	}
	gc.armed = due
	if gc.timer == nil {
		gc.timer = time.AfterFunc(due-now, gc.fired)
		return
	}
	gc.timer.Reset(due - now)
}

func (gc *goConn) fired() {
	gc.Post(func(ev *relay.Event) {
		gc.armed = 0
		gc.checkHangUp(ev)
		gc.expired(ev)
	})
}

// writeChunk is how much a slow side has to take per relay.StallTimeout, in bytes.
const writeChunk = 64 << 10

// writePending writes what sd did not take at once. It returns when everything is written
// or the connection has failed.
func (gc *goConn) writePending(sd side, e *endpoint) {
	o := &gc.sides[sd]
	for more := true; more; {
		gc.mu.Lock()
		chunk := o.pending()
		chunk = chunk[:min(len(chunk), writeChunk)]
		current := gc.ends[sd] == e
		gc.mu.Unlock()
		if !current {
			return
		}
		n, err := e.conn.Write(chunk)
		gc.Post(func(ev *relay.Event) {
			if gc.ends[sd] != e {
				more = false
				return
			}
			gc.wrote(ev, sd, n, err)
			more = len(o.pending()) > 0
			e.writing = more
		})
	}
}

// readLoop reads e, which is or was the connection of sd, and closes it in the end.
func (gc *goConn) readLoop(sd side, e *endpoint) {
	for {
		waits, ok := gc.awaitInput(sd, e)
		if !ok {
			break
		}
		var err error
		switch {
		case e.secure != nil:
			e.secure()
		case waits:
			gc.event(nothing) // which gives the session what is kept
		case e.raw != nil:
			err = gc.readSocket(sd, e)
		default:
			err = gc.readConn(sd, e)
		}
		if err != nil {
			gc.Post(func(ev *relay.Event) {
				if gc.ends[sd] == e {
					gc.eof(ev, sd, err)
				}
			})
		}
	}
	e.conn.Close()
}

// awaitInput waits until e may be read, or the session may have what is kept of it (waits).
// It reports false when e is to be closed or another connection has taken its place.
func (gc *goConn) awaitInput(sd side, e *endpoint) (waits, ok bool) {
	gc.mu.Lock()
	defer gc.mu.Unlock()
	for {
		if s := gc.conns.State[sd]; s == relay.StateClosed || s == relay.StateNone || gc.ends[sd] != e {
			return false, false
		}
		if e.secure != nil {
			return false, true
		}
		if gc.mayRead(sd) {
			return gc.inputWaits[sd], true
		}
		gc.wake.Wait()
	}
}

// readConn reads e once, which may take long.
func (gc *goConn) readConn(sd side, e *endpoint) error {
	buf := getBuffer(relay.ReadSize)
	defer putBuffer(buf)
	// It is there also while nothing comes: no session can give it back.
	held.Add(-relay.ReadSize)
	defer held.Add(relay.ReadSize)
	space := buf.b[:relay.ReadSize]
	gc.mu.Lock()
	if win := &gc.win[sd]; gc.ends[sd] == e && !win.empty() {
		space = space[:min(len(space), len(win.space(sd)))]
	}
	gc.mu.Unlock()
	n, err := e.conn.Read(space)
	if n > 0 {
		gc.event(func(*relay.Event) input {
			if gc.ends[sd] != e {
				return input{}
			}
			return gc.received(sd, space[:n])
		})
	}
	return err
}

// readSocket reads as long as e may be read. All reads happen in one callback, because a
// second call of Read could lose a wake-up of the first. While it waits it has no buffer.
//
// A short read does not mean that there is nothing more: the runtime reports data and the
// FIN behind them once, not twice.
func (gc *goConn) readSocket(sd side, e *endpoint) error {
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		for {
			var again bool
			if again, failed = gc.readOnce(sd, e, fd); !again {
				return !errors.Is(failed, syscall.EAGAIN)
			}
		}
	})
	if failed != nil && !errors.Is(failed, syscall.EAGAIN) {
		return failed
	}
	return err
}

// readOnce reads e once, if it may be read. It reports whether to try again.
func (gc *goConn) readOnce(sd side, e *endpoint, fd uintptr) (again bool, err error) {
	buf := getBuffer(relay.ReadSize)
	defer putBuffer(buf)
	gc.event(func(*relay.Event) (in input) {
		if gc.ends[sd] != e || !gc.mayRead(sd) || gc.inputWaits[sd] {
			return input{}
		}
		in, _, err = gc.read(sd, buf.b, false, func(b []byte) (int, error) { return socket.Read(fd, b) })
		again = err == nil
		return in
	})
	return again, err
}

// Control calls f with the descriptor of a side, in tests.
func (gc *goConn) Control(sd side, f func(fd uintptr)) { gc.ends[sd].below.Control(f) }
