package proxy

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
	"xmppgate/proxy/upstream"
)

// goroutines is the loop that leaves waiting to the Go runtime: a goroutine
// reads each side, and one more writes to a side only while that side does not
// take everything at once. It works on any net.Conn.
type goroutines struct{}

func (goroutines) start(s *session, conn net.Conn) {
	p := &pair{}
	p.s, p.t = s, p
	p.wake.L = &p.mu
	s.link = p
	e := p.use(client, conn)
	p.event(func(s *session, w *workspace) { s.begin(w) })
	go p.pump(client, e)
}

func (goroutines) listen(l net.Listener, g *Gateway) listener { return &anyListener{l, g} }

func (goroutines) launch() {}
func (goroutines) stop()   {}

// An anyListener makes sessions of any connections.
type anyListener struct {
	l net.Listener
	g *Gateway
}

func (a *anyListener) accept() error {
	conn, err := a.l.Accept()
	if err == nil {
		a.g.serveConn(conn)
	}
	return err
}

func (a *anyListener) close() { a.l.Close() }

// past is a deadline that wakes whoever waits.
var past = time.Unix(1, 0)

// A pair is a link of the goroutine loop.
type pair struct {
	hold
	wake  sync.Cond    // on hold.mu: a pump may have reason to go on
	ends  [2]*endpoint // nil before there is a connection
	timer *time.Timer
	armed time.Duration // when timer fires; zero when it does not
}

// An endpoint is one connection of a pair. It belongs to its pump, which ends
// when another one takes its place.
type endpoint struct {
	conn    net.Conn
	raw     syscall.RawConn // nil when conn is no socket
	below   syscall.RawConn // of the socket below conn, raw where that is one itself; nil when there is none
	win     window
	refeed  bool // win holds bytes that the session would not take yet
	writing bool // writePending runs
}

func (p *pair) use(sd side, conn net.Conn) *endpoint {
	e := &endpoint{conn: conn}
	if c, ok := conn.(syscall.Conn); ok && socket.Direct {
		e.raw, _ = c.SyscallConn()
		e.below = e.raw
	} else if t, ok := conn.(*tls.Conn); ok {
		if c, ok := t.NetConn().(syscall.Conn); ok {
			e.below, _ = c.SyscallConn()
		}
	}
	p.ends[sd] = e
	p.sides[sd].attached = true
	return e
}

func (p *pair) connect(*workspace, net.Addr) bool { return false }

func (p *pair) local() netip.AddrPort { return addrPort(p.ends[client].conn.LocalAddr()) }

func (p *pair) attach(stream *upstream.Stream) {
	var e *endpoint
	p.event(func(s *session, w *workspace) {
		if s.ending != endNone {
			return
		}
		e = p.use(server, stream.Conn)
		s.attached(w, stream)
	})
	if e == nil {
		stream.Conn.Close()
		stream.Done()
		return
	}
	for early := stream.Early; len(early) > 0; {
		n := copy(e.win.space(server), early)
		early = early[n:]
		p.feed(server, e, n)
	}
	stream.Conn, stream.Early = nil, nil
	go p.pump(server, e)
}

// write tries once, without waiting.
func (p *pair) write(sd side, pieces [][]byte) (n int, err error) {
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

func (p *pair) sealed(side) int { return 0 }

func (p *pair) unsent(sd side) int {
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
func (p *pair) unheard() bool {
	o := &p.sides[client]
	return o.attached && !o.shut && !p.left && p.ends[client].below != nil && !p.turn(client)
}

// lookForHangUp is the part of tick that the epoll loop does not need.
func (p *pair) lookForHangUp(w *workspace) {
	if !p.unheard() {
		return
	}
	var err error
	p.ends[client].below.Control(func(fd uintptr) { err = socket.Ended(fd) })
	switch err {
	case nil:
	case io.EOF:
		p.leave(w)
	default:
		p.eof(w, client, err)
	}
}

func (p *pair) finish(sd side) bool {
	c, ok := p.ends[sd].conn.(interface{ CloseWrite() error })
	if ok {
		c.CloseWrite()
	}
	return ok
}

// shut wakes the pump, which closes the connection when it has left it.
func (p *pair) shut(sd side) { p.ends[sd].conn.SetDeadline(past) }

func (p *pair) update(now, due time.Duration) error {
	for sd, e := range p.ends {
		if e != nil && len(p.sides[sd].pending()) > 0 && !e.writing {
			e.writing = true
			go p.writePending(side(sd), e)
		}
	}
	if p.unheard() {
		due = earlier(due, now+hangUpLook)
	}
	p.arm(now, due)
	p.wake.Broadcast()
	return nil
}

// arm sets the timer. A deadline that has moved away is left to the tick that
// finds nothing due.
func (p *pair) arm(now, due time.Duration) {
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
		p.timer = time.AfterFunc(due-now, p.expired)
		return
	}
	p.timer.Reset(due - now)
}

func (p *pair) expired() {
	p.event(func(s *session, w *workspace) {
		p.armed = 0
		p.lookForHangUp(w)
		p.tick(s, w)
	})
}

// writeChunk is how much a slow side has to take per stallTimeout, in bytes.
const writeChunk = 64 << 10

// writePending writes what sd did not take at once. It lives until all is
// written or the connection fails.
func (p *pair) writePending(sd side, e *endpoint) {
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
		p.event(func(s *session, w *workspace) {
			if p.ends[sd] != e {
				more = false
				return
			}
			p.wrote(w, sd, n, err)
			more = len(o.pending()) > 0
			e.writing = more
		})
	}
}

// pump reads e, which is or was the connection of sd, until its leg is closed.
func (p *pair) pump(sd side, e *endpoint) {
	for p.awaitTurn(sd, e) {
		var err error
		switch {
		case e.refeed:
			p.feed(sd, e, 0)
		case e.raw != nil:
			err = p.readSocket(sd, e)
		default:
			var n int
			n, err = e.conn.Read(e.win.space(sd))
			if n > 0 {
				p.feed(sd, e, n)
			}
		}
		if err != nil {
			p.event(func(s *session, w *workspace) {
				if p.ends[sd] == e {
					p.eof(w, sd, err)
				}
			})
		}
	}
	e.win.release()
	e.conn.Close()
}

// awaitTurn waits until it is the turn of e. It returns false when its leg is
// closed or another connection has taken its place.
func (p *pair) awaitTurn(sd side, e *endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.s.leg[sd] == legClosed || p.s.leg[sd] == legNone || p.ends[sd] != e {
			return false
		}
		if p.turn(sd) {
			return true
		}
		p.wake.Wait()
	}
}

// readSocket reads until it is no longer the turn of e. All reading happens
// in one callback: a second call of Read could lose a wake-up of the first.
// While it waits it holds no buffer.
func (p *pair) readSocket(sd side, e *endpoint) error {
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		for {
			p.mu.Lock()
			turn := p.ends[sd] == e && p.turn(sd)
			p.mu.Unlock()
			if !turn {
				return true
			}
			n, err := socket.Read(fd, e.win.space(sd))
			if err != nil || n == 0 {
				if e.win.empty() {
					e.win.release()
				}
				if errors.Is(err, syscall.EAGAIN) {
					return false
				}
				if failed = err; err == nil {
					failed = io.EOF
				}
				return true
			}
			// A short read does not mean that there is nothing more: the
			// runtime tells of data and of the FIN behind it once, not
			// twice. A test that writes and closes a moment later would
			// not notice.
			p.feed(sd, e, n)
			if e.refeed {
				return true
			}
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

// feed hands n new bytes of the window to the session.
func (p *pair) feed(sd side, e *endpoint, n int) {
	b := e.win.filled(n)
	var rest []byte
	p.event(func(s *session, w *workspace) {
		if p.ends[sd] != e {
			return
		}
		rest = s.receive(w, sd, b)
		e.refeed = len(rest) > 0 && s.waits(sd)
	})
	if e.win.buf != nil {
		e.win.keep(rest)
	}
}
