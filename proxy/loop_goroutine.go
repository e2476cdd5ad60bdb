package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// goroutines is the loop that leaves waiting to the Go runtime: a goroutine
// reads each side, and one more writes to a side only while that side does not
// take everything at once. It works on any net.Conn.
type goroutines struct{}

func (goroutines) start(s *session, conn net.Conn, early []byte) {
	p := &pair{s: s}
	p.wake.L = &p.mu
	p.ends[client].use(conn)
	s.link = p
	s.g.sessionBegun(s)
	p.event(func(s *session, w *workspace) { s.begin(w) })
	if len(early) > 0 {
		// The read buffer is larger than any request head.
		p.feed(client, copy(p.ends[client].win.space(), early))
	}
	go p.pumpClient()
}

// writeChunk is how much a slow side has to take per stallTimeout, in bytes.
const writeChunk = 64 << 10

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// past is a deadline that wakes whoever waits.
var past = time.Unix(1, 0)

// A pair is the link of the goroutine loop.
type pair struct {
	mu    sync.Mutex // guards all below; never held while something blocks
	wake  sync.Cond  // a pump may have reason to go on
	s     *session
	ends  [2]endpoint
	timer *time.Timer
	armed time.Duration // when timer fires; zero when it does not
	gone  bool          // the gateway was told that the session is over
}

// An endpoint is one connection of a pair.
type endpoint struct {
	conn    net.Conn
	raw     syscall.RawConn // nil when conn is no socket
	win     window          // belongs to the pump
	refeed  bool            // win holds bytes that the session would not take yet
	pending []byte          // accepted for writing, not written
	writing bool            // writePending runs
	broken  bool            // writes fail; what there is to read is still read
	finSent bool
	closing bool // the pump was told to close conn
}

func (e *endpoint) use(conn net.Conn) {
	e.conn = conn
	if c, ok := conn.(syscall.Conn); ok && directSockets {
		e.raw, _ = c.SyscallConn()
	}
}

// event runs f on the session and does what follows from it.
func (p *pair) event(f func(*session, *workspace)) {
	w := workspaces.Get().(*workspace)
	w.now = p.s.g.now()
	p.mu.Lock()
	p.run(w, f)
	p.mu.Unlock()
	workspaces.Put(w)
}

// run is event for a caller that holds mu.
func (p *pair) run(w *workspace, f func(*session, *workspace)) {
	defer func() {
		// One session must not take the others with it.
		if r := recover(); r != nil {
			w.out[client].reset()
			w.out[server].reset()
			p.s.panicked(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
			p.settle(w)
		}
	}()
	f(p.s, w)
	p.settle(w)
}

func (p *pair) post(f func(*session, *workspace)) { p.event(f) }

func (p *pair) view(f func(*session)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p.s)
}

func (p *pair) attach(conn net.Conn) {
	attached := false
	p.event(func(s *session, w *workspace) {
		if s.ending != endNone {
			return
		}
		attached = true
		p.ends[server].use(conn)
		s.attached(w)
	})
	if !attached {
		conn.Close()
		return
	}
	go p.pumpServer()
}

// settle writes what the event has produced and acts on the legs.
func (p *pair) settle(w *workspace) {
	for sd := client; sd <= server; sd++ {
		p.flush(w, sd)
	}
	for sd := client; sd <= server; sd++ {
		e := &p.ends[sd]
		if e.conn == nil || e.closing {
			continue
		}
		l := p.s.leg[sd]
		if l == legFinishing && !e.finSent && len(e.pending) == 0 {
			e.finSent = true
			if c, ok := e.conn.(interface{ CloseWrite() error }); ok {
				c.CloseWrite()
			} else {
				p.s.setLeg(w, sd, legClosed, 0)
				l = legClosed
			}
		}
		if l == legClosed {
			e.closing = true
			e.pending = nil
			e.conn.SetDeadline(past)
		}
	}
	if p.s.over() {
		if p.timer != nil {
			p.timer.Stop()
		}
		if !p.gone {
			p.gone = true
			p.s.g.sessionOver(p.s, w.now)
		}
	} else {
		p.arm(w.now)
	}
	p.wake.Broadcast()
}

// flush writes the outbox of sd, and what the session adds when all of it is
// gone.
func (p *pair) flush(w *workspace, sd side) {
	o, e := &w.out[sd], &p.ends[sd]
	for o.size > 0 {
		pieces, size := o.take(), o.size
		n := size
		if e.conn != nil && !e.broken && !e.closing {
			n = 0
			if !e.writing {
				n = e.tryWrite(pieces)
			}
		}
		if n < size {
			for _, b := range pieces {
				skip := min(n, len(b))
				n -= skip
				e.pending = append(e.pending, b[skip:]...)
			}
			p.s.blocked[sd] = true
			if !e.writing {
				e.writing = true
				go p.writePending(sd)
			}
			o.reset()
			return
		}
		o.reset()
		if !p.s.blocked[sd] {
			p.s.drained(w, sd)
		}
	}
}

// tryWrite writes what fits now and returns how much that was.
func (e *endpoint) tryWrite(pieces [][]byte) (n int) {
	if e.raw == nil {
		return 0
	}
	err := e.raw.Write(func(fd uintptr) bool {
		var err error
		if n, err = writeNow(fd, pieces); err != nil {
			e.broken = true
		}
		return true
	})
	if err != nil {
		e.broken = true
	}
	if e.broken {
		// Nobody takes it any more; the pump learns why.
		for _, b := range pieces {
			n += len(b)
		}
	}
	return n
}

// writePending writes what sd did not take at once. It lives until all is
// written or the connection fails.
func (p *pair) writePending(sd side) {
	e := &p.ends[sd]
	for {
		p.mu.Lock()
		chunk := e.pending[:min(len(e.pending), writeChunk)]
		conn := e.conn
		if e.broken {
			chunk, e.pending = nil, nil
		}
		if len(chunk) == 0 {
			e.pending, e.writing = nil, false
			w := workspaces.Get().(*workspace)
			w.now = p.s.g.now()
			p.run(w, func(s *session, w *workspace) {
				s.blocked[sd] = false
				s.drained(w, sd)
			})
			p.mu.Unlock()
			workspaces.Put(w)
			return
		}
		if !e.closing {
			conn.SetWriteDeadline(time.Now().Add(stallTimeout))
		}
		p.mu.Unlock()

		n, err := conn.Write(chunk)

		p.mu.Lock()
		// pending is nil when the leg was closed meanwhile.
		e.pending = e.pending[min(n, len(e.pending)):]
		if err != nil {
			e.broken = true
		}
		stalled := errors.Is(err, os.ErrDeadlineExceeded) && !e.closing
		p.mu.Unlock()
		if stalled {
			p.event(func(s *session, w *workspace) { s.stalled(w, sd, err) })
		}
	}
}

func (p *pair) pumpClient() { p.pump(client) }
func (p *pair) pumpServer() { p.pump(server) }

// pump reads sd until its leg is closed.
func (p *pair) pump(sd side) {
	e := &p.ends[sd]
	for p.awaitTurn(sd) {
		var err error
		switch {
		case e.refeed:
			p.feed(sd, 0)
		case e.raw != nil:
			err = p.readSocket(sd)
		default:
			var n int
			n, err = e.conn.Read(e.win.space())
			if n > 0 {
				p.feed(sd, n)
			}
		}
		if err != nil {
			p.event(func(s *session, w *workspace) {
				if s.leg[sd] != legClosed {
					s.eof(w, sd, err)
				}
			})
		}
	}
	e.win.release()
	e.conn.Close()
}

// awaitTurn waits until the session wants bytes of sd and the other side takes
// what comes of them. It returns false when the leg is closed.
func (p *pair) awaitTurn(sd side) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.s.leg[sd] == legClosed {
			return false
		}
		if p.turn(sd) {
			return true
		}
		p.wake.Wait()
	}
}

func (p *pair) turn(sd side) bool {
	return p.s.reads(sd) && !(p.s.leg[sd] == legOpen && p.s.blocked[sd.other()])
}

// readSocket reads until it is no longer the turn of sd. All reading happens
// in one callback: a second call of Read could lose a wake-up of the first.
// While it waits it holds no buffer.
func (p *pair) readSocket(sd side) error {
	e := &p.ends[sd]
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		for {
			p.mu.Lock()
			turn := p.turn(sd)
			p.mu.Unlock()
			if !turn {
				return true
			}
			space := e.win.space()
			n, err := readNow(fd, space)
			if err != nil || n == 0 {
				if e.win.n == 0 {
					e.win.release()
				}
				if err == nil {
					err = io.EOF
				}
				failed = err
				if errors.Is(err, syscall.EAGAIN) {
					failed = nil
					return false
				}
				return true
			}
			// A short read does not mean that there is nothing more: the
			// runtime tells of data and of the FIN behind it once, not
			// twice. A test that writes and closes a moment later would
			// not notice.
			p.feed(sd, n)
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
func (p *pair) feed(sd side, n int) {
	e := &p.ends[sd]
	b := e.win.filled(n)
	var rest []byte
	p.event(func(s *session, w *workspace) {
		rest = s.receive(w, sd, b)
		e.refeed = len(rest) > 0 && !s.reads(sd)
	})
	if e.win.buf != nil {
		e.win.keep(rest)
	}
}

// arm sets the timer to the session's deadline. A deadline that has moved away
// is left to the tick that finds nothing due.
func (p *pair) arm(now time.Duration) {
	d := p.s.deadline()
	if d == 0 || p.armed != 0 && p.armed <= d {
		return
	}
	p.armed = d
	if p.timer == nil {
		p.timer = time.AfterFunc(d-now, p.tick)
		return
	}
	p.timer.Reset(d - now)
}

func (p *pair) tick() {
	p.event(func(s *session, w *workspace) {
		p.armed = 0
		if !s.over() {
			s.expire(w)
		}
	})
}
