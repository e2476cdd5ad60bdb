package loop

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/internal/relay"
)

// goroutines is the loop that leaves waiting to the Go runtime: a goroutine
// reads each side, and one more writes to a side only while that side does not
// take everything at once. It works on any net.Conn.
type goroutines struct{ clock func() time.Duration }

// Start implements Loop.
func (g goroutines) Start(c net.Conn, a Acceptor) {
	p := &goConn{clock: g.clock}
	p.c = p
	p.wake.L = &p.mu
	if p.s = a.Admit(p, AddrPort(c.RemoteAddr())); p.s == nil {
		c.Close()
		return
	}
	e := p.use(client, c)
	p.Post(p.s.Start)
	go p.pump(client, e)
}

// Listen implements Loop.
func (g goroutines) Listen(l net.Listener, a Acceptor) Listener { return &anyListener{l, g, a} }

// Stop implements Loop.
func (goroutines) Stop() {}

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

// aLongTimeAgo is a deadline that wakes whoever waits.
var aLongTimeAgo = time.Unix(1, 0)

// A goConn is a session's connections in the goroutine loop.
type goConn struct {
	driver
	clock func() time.Duration
	wake  sync.Cond    // on driver.mu: a pump may have reason to go on
	ends  [2]*endpoint // nil before there is a connection
	timer *time.Timer
	armed time.Duration // when timer fires; zero when it does not
}

// An endpoint is one connection of a goConn. It belongs to its pump, which ends
// when another one takes its place.
type endpoint struct {
	conn    net.Conn
	raw     syscall.RawConn // nil when conn is no socket
	below   syscall.RawConn // of the socket below conn, raw where that is one itself; nil when there is none
	writing bool            // writePending runs
}

func (p *goConn) use(sd side, c net.Conn) *endpoint {
	e := &endpoint{conn: c}
	if c, ok := c.(syscall.Conn); ok && socket.Direct {
		e.raw, _ = c.SyscallConn()
		e.below = e.raw
	} else if t, ok := e.conn.(*tls.Conn); ok {
		if c, ok := t.NetConn().(syscall.Conn); ok {
			e.below, _ = c.SyscallConn()
		}
	}
	p.ends[sd] = e
	p.sides[sd].attached = true
	return e
}

func (p *goConn) now() time.Duration { return p.clock() }

// later needs not do anything: the pump looks whether it may go on.
func (p *goConn) later() {}

// Connect implements Handle.
func (p *goConn) Connect(*relay.Event, net.Addr) bool { return false }

// Abandon implements Handle.
func (p *goConn) Abandon(*relay.Event) {}

// LocalAddr implements Handle.
func (p *goConn) LocalAddr() netip.AddrPort { return AddrPort(p.ends[client].conn.LocalAddr()) }

// Attach implements Handle.
func (p *goConn) Attach(c net.Conn, early []byte, attached func(*relay.Event, error) bool) {
	var e *endpoint
	p.event(func(ev *relay.Event) input {
		if !attached(ev, nil) {
			return input{}
		}
		e = p.use(server, c)
		return input{b: early, side: server, borrowed: true}
	})
	if e == nil {
		c.Close()
		return
	}
	go p.pump(server, e)
}

// write tries once, without waiting.
func (p *goConn) write(sd side, pieces [][]byte) (n int, err error) {
	raw := p.ends[sd].raw
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

func (p *goConn) unsentRecords(side) int { return 0 }

func (p *goConn) unsent(sd side) int {
	n := -1
	if below := p.ends[sd].below; below != nil {
		below.Control(func(fd uintptr) { n = socket.Unsent(fd) })
	}
	return n
}

// hangUpLook is how often a client that is not read is looked at: it may have hung
// up, which nothing tells.
const hangUpLook = 500 * time.Millisecond

// unheard reports whether the client is connected, and not read now.
func (p *goConn) unheard() bool {
	o := &p.sides[client]
	return o.attached && !o.shut && !p.left && p.ends[client].below != nil && !p.mayRead(client)
}

// lookForHangUp is the part of an expiry that the epoll loop does not need.
func (p *goConn) lookForHangUp(ev *relay.Event) {
	if !p.unheard() {
		return
	}
	var err error
	p.ends[client].below.Control(func(fd uintptr) { err = socket.Ended(fd) })
	switch err {
	case nil:
	case io.EOF:
		p.hungUp(ev)
	default:
		p.eof(ev, client, err)
	}
}

func (p *goConn) finish(sd side) bool {
	c, ok := p.ends[sd].conn.(interface{ CloseWrite() error })
	if ok {
		c.CloseWrite()
	}
	return ok
}

// shut wakes the pump, which closes the connection when it has left it.
func (p *goConn) shut(sd side) { p.ends[sd].conn.SetDeadline(aLongTimeAgo) }

func (p *goConn) update(now, due time.Duration) error {
	for sd, e := range p.ends {
		if e != nil && len(p.sides[sd].pending()) > 0 && !e.writing {
			e.writing = true
			go p.writePending(side(sd), e)
		}
	}
	if p.unheard() {
		due = relay.Earlier(due, now+hangUpLook)
	}
	p.arm(now, due)
	p.wake.Broadcast()
	return nil
}

// arm sets the timer. A deadline that has moved away is left to the event that
// finds nothing due.
func (p *goConn) arm(now, due time.Duration) {
	switch {
	case due == 0:
		if p.timer != nil {
			p.timer.Stop()
			p.armed = 0
		}
		return
	case p.armed != 0 && p.armed <= due:
		return
	}
	p.armed = due
	if p.timer == nil {
		p.timer = time.AfterFunc(due-now, p.fired)
		return
	}
	p.timer.Reset(due - now)
}

func (p *goConn) fired() {
	p.Post(func(ev *relay.Event) {
		p.armed = 0
		p.lookForHangUp(ev)
		p.expired(ev)
	})
}

// writeChunk is how much a slow side has to take per relay.StallTimeout, in bytes.
const writeChunk = 64 << 10

// writePending writes what sd did not take at once. It lives until all is
// written or the connection fails.
func (p *goConn) writePending(sd side, e *endpoint) {
	o := &p.sides[sd]
	for more := true; more; {
		p.mu.Lock()
		chunk := o.pending()
		chunk = chunk[:min(len(chunk), writeChunk)]
		current := p.ends[sd] == e
		p.mu.Unlock()
		if !current {
			return
		}
		n, err := e.conn.Write(chunk)
		p.Post(func(ev *relay.Event) {
			if p.ends[sd] != e {
				more = false
				return
			}
			p.wrote(ev, sd, n, err)
			more = len(o.pending()) > 0
			e.writing = more
		})
	}
}

// pump reads e, which is or was the connection of sd, until that is to be closed.
func (p *goConn) pump(sd side, e *endpoint) {
	for {
		refeed, ok := p.awaitTurn(sd, e)
		if !ok {
			break
		}
		var err error
		switch {
		case refeed:
			p.event(nothing) // which feeds what is kept
		case e.raw != nil:
			err = p.readSocket(sd, e)
		default:
			err = p.readConn(sd, e)
		}
		if err != nil {
			p.Post(func(ev *relay.Event) {
				if p.ends[sd] == e {
					p.eof(ev, sd, err)
				}
			})
		}
	}
	e.conn.Close()
}

// awaitTurn waits until e may be read, or what is kept of it may be fed. It reports
// false when e is to be closed or another connection has taken its place.
func (p *goConn) awaitTurn(sd side, e *endpoint) (refeed, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if s := p.conns.State[sd]; s == relay.StateClosed || s == relay.StateNone || p.ends[sd] != e {
			return false, false
		}
		if p.mayRead(sd) {
			return p.refeed[sd], true
		}
		p.wake.Wait()
	}
}

// readConn reads e once, which may take long.
func (p *goConn) readConn(sd side, e *endpoint) error {
	buf := getBuffer(relay.ReadSize)
	defer putBuffer(buf)
	space := buf.b[:relay.ReadSize]
	p.mu.Lock()
	if win := &p.win[sd]; p.ends[sd] == e && !win.empty() {
		space = space[:min(len(space), len(win.space(sd)))]
	}
	p.mu.Unlock()
	n, err := e.conn.Read(space)
	if n > 0 {
		p.event(func(*relay.Event) input {
			if p.ends[sd] != e {
				return input{}
			}
			return p.received(sd, space[:n])
		})
	}
	return err
}

// readSocket reads as long as e may be read. All reading happens in one callback:
// a second call of Read could lose a wake-up of the first. While it waits it holds
// no buffer.
//
// A short read does not mean that there is nothing more: the runtime tells of data
// and of the FIN behind it once, not twice. A test that writes and closes a moment
// later would not notice.
func (p *goConn) readSocket(sd side, e *endpoint) error {
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		for {
			var again bool
			if again, failed = p.readOnce(sd, e, fd); !again {
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
func (p *goConn) readOnce(sd side, e *endpoint, fd uintptr) (again bool, err error) {
	buf := getBuffer(relay.ReadSize)
	defer putBuffer(buf)
	p.event(func(*relay.Event) (in input) {
		if p.ends[sd] != e || !p.mayRead(sd) || p.refeed[sd] {
			return input{}
		}
		in, _, err = p.read(sd, buf.b, false, func(b []byte) (int, error) { return socket.Read(fd, b) })
		again = err == nil
		return in
	})
	return again, err
}

// Control calls f with the descriptor of a side, in tests.
func (p *goConn) Control(sd side, f func(fd uintptr)) { p.ends[sd].below.Control(f) }
