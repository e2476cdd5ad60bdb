package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"xmppgate/proxy/upstream"
)

// A loop drives sessions: it reads and writes their connections, keeps their
// deadlines and applies back-pressure. Loops know sockets and no XMPP,
// sessions know XMPP and no sockets; what both need of each other is hold.
type loop interface {
	// start begins to drive s over the connection of its client; it takes
	// conn over.
	start(s *session, conn net.Conn)
	// listen takes l over, whose clients become sessions of g.
	listen(l net.Listener, g *Gateway) listener
	// launch gets ready; it may be called more than once.
	launch()
	// stop ends the loop when no session is left.
	stop()
}

// A listener is where clients connect.
type listener interface {
	// accept waits for clients and starts their sessions. It returns from
	// time to time with nil, and with net.ErrClosed after close.
	accept() error
	close()
}

// Names of loops, see Gateway.Loop.
const (
	LoopAuto      = "auto"      // what suits the platform: epoll on Linux
	LoopGoroutine = "goroutine" // a few goroutines for each session, on any platform
)

func newLoop(name string, clock func() time.Duration) loop {
	if name == LoopGoroutine {
		return goroutines{}
	}
	return platformLoop(clock)
}

// A link is the way to a session from outside of its loop.
type link interface {
	// connect begins to connect to the server, during an event; the outcome
	// is the event connected. It reports false if the loop cannot do that.
	connect(w *workspace, to net.Addr) bool
	// attach gives the session its connection to the server. It closes that
	// when the session has ended.
	attach(stream *upstream.Stream)
	// local is the address that the client has connected to, invalid for a
	// Unix socket. It is called during an event.
	local() netip.AddrPort
	// post runs f as an event of the session.
	post(f func(*session, *workspace))
	// view runs f while no event of the session runs.
	view(f func(*session))
}

// A transport is what a loop has to provide for one session. Its methods are
// called during events and do not block.
type transport interface {
	// write writes what sd takes now and returns how much that was. An error
	// means that sd will never take anything again; what it has sent may
	// still be read.
	write(sd side, pieces [][]byte) (n int, err error)
	// sealed is how many bytes that write has taken it has yet to send.
	sealed(sd side) int
	// unsent is how many bytes the peer of sd has yet to take of what was
	// written, or -1 when that is not known.
	unsent(sd side) int
	// finish sends FIN. It reports false when the connection cannot be
	// closed in one direction only.
	finish(sd side) bool
	// shut closes the connection and ends the reading of it.
	shut(sd side)
	// update is called at the end of each event: it starts or stops reading
	// (see hold.turn) and writing (see output.pending), and makes sure that
	// tick is called at due or soon after, zero meaning never. After an error
	// the session cannot go on.
	update(now, due time.Duration) error
}

// A hold is the part of a link that all loops share: it runs the events of a
// session one at a time, writes what they leave in the outboxes, acts on the
// legs and keeps the back-pressure.
//
// What an event leaves for a side is written at once, in one gathered write,
// the client's first. What the side does not take is copied to its backlog; until
// that is written the session sees blocked, and the other side is not read.
type hold struct {
	mu    sync.Mutex // guards all below; never held while something blocks
	s     *session
	t     transport
	sides [2]output
	gone  bool // the gateway was told that the session is over
	left  bool // the client has sent FIN, which was seen while it was not read
}

// An output is what hold knows of the writing to one side.
type output struct {
	backlog  *backlog // nil while the side is not known to have left anything
	look     uint32   // the second at which to look what it has left; zero when it has taken everything
	broken   bool
	attached bool
	finished bool // FIN was sent
	shut     bool
}

// A backlog is what a side has not taken: of what was written, too, for the
// kernel takes a good deal for a peer that does not read.
type backlog struct {
	pending []byte        // accepted, not written; in buf
	buf     *buffer       // nil when nothing is pending
	counted tally         // the elements of which some is pending, which count as relayed
	owed    int           // what transport.unsent said last, and what was written since
	taken   time.Duration // when the side was last seen to have taken something
	looked  time.Duration // when that was last looked at
}

// stallLook is how often a side that has not taken everything is looked at. What
// is written is nearly always taken before it is due.
const stallLook = time.Second

// lookLater has tick look at o. Whole seconds save space.
func (o *output) lookLater(now time.Duration) {
	due := now + stallLook
	if b := o.backlog; b != nil {
		due = min(due, b.taken+stallTimeout)
	}
	o.look = uint32((due + time.Second - 1) / time.Second)
}

func (o *output) lookDue() time.Duration { return time.Duration(o.look) * time.Second }

// room makes room for n more pending bytes. A buffer that they do not fit in is
// left to the garbage collector: somebody may be about to write it.
func (b *backlog) room(n int) {
	if cap(b.pending)-len(b.pending) < n {
		b.buf = getBuffer(len(b.pending) + n)
		b.pending = append(b.buf.b[:0], b.pending...)
	}
}

// release gives the buffer back; nothing of it is to be written any more.
func (b *backlog) release() {
	if b.buf != nil {
		putBuffer(b.buf)
	}
	b.pending, b.buf = nil, nil
}

func (o *output) pending() []byte {
	if o.backlog == nil {
		return nil
	}
	return o.backlog.pending
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

// event runs f on the session, from any goroutine.
func (h *hold) event(f func(*session, *workspace)) {
	w := workspaces.Get().(*workspace)
	w.now = h.s.g.clock()
	h.mu.Lock()
	h.run(w, f)
	h.mu.Unlock()
	workspaces.Put(w)
}

func (h *hold) post(f func(*session, *workspace)) { h.event(f) }

func (h *hold) view(f func(*session)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.s)
}

// run is event for a caller that holds mu and has a workspace.
func (h *hold) run(w *workspace, f func(*session, *workspace)) {
	defer h.recover(w)
	f(h.s, w)
	h.settle(w)
}

// recover ends a session that has panicked: it must not take the others with
// it.
func (h *hold) recover(w *workspace) {
	if r := recover(); r != nil {
		h.fail(w, fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
	}
}

// fail ends a session that the gateway has failed.
func (h *hold) fail(w *workspace, err error) {
	w.out[client].reset()
	w.out[server].reset()
	h.s.failed(err)
	h.settle(w)
}

// settle writes what the event has left and acts on the legs.
func (h *hold) settle(w *workspace) {
	h.flush(w, client)
	h.flush(w, server)
	w.counted = nil
	for sd := client; sd <= server; sd++ {
		h.follow(w, sd)
	}
	if h.s.over() {
		if !h.gone {
			h.gone = true
			h.t.update(w.now, 0)
			h.s.g.sessionOver(h.s, w.now)
		}
		return
	}
	due := h.s.deadline()
	for sd := range h.sides {
		due = earlier(due, h.sides[sd].lookDue())
	}
	if err := h.t.update(w.now, due); err != nil {
		h.fail(w, err)
	}
}

// flush writes the outbox of sd, and what the session adds when all of it is
// gone.
func (h *hold) flush(w *workspace, sd side) {
	out, o := &w.out[sd], &h.sides[sd]
	for out.size > 0 {
		n := out.size
		if o.attached && !o.broken && !o.shut {
			n = 0
			if len(o.pending()) == 0 && h.t.sealed(sd) == 0 {
				var err error
				if n, err = h.t.write(sd, out.take()); err != nil {
					n = out.size
					h.breaks(w, sd, err)
				}
			}
		}
		if n < out.size {
			h.account(w, sd, n)
			o.backlog.counted.add(h.s.countedNow(w, sd.feeds()))
			o.backlog.room(out.size - n)
			for _, b := range out.take() {
				skip := min(n, len(b))
				n -= skip
				o.backlog.pending = append(o.backlog.pending, b[skip:]...)
			}
			h.s.blocked[sd] = true
			out.reset()
			return
		}
		out.reset()
		h.s.countedNow(w, sd.feeds()) // is relayed
		switch {
		case o.broken:
		case o.backlog != nil:
			o.backlog.owed += n
		case o.look == 0:
			o.lookLater(w.now)
		}
		if h.sealed(w, sd) {
			return
		}
		h.s.drained(w, sd)
	}
}

// sealed blocks a side that has not taken all of what was written, if so.
func (h *hold) sealed(w *workspace, sd side) bool {
	o := &h.sides[sd]
	if !o.attached || o.shut || o.broken || h.t.sealed(sd) == 0 {
		return false
	}
	h.s.blocked[sd] = true
	h.account(w, sd, 0)
	return true
}

// wrote notes that n pending bytes of sd were written. The caller settles.
func (h *hold) wrote(w *workspace, sd side, n int, err error) {
	o := &h.sides[sd]
	if err != nil {
		h.breaks(w, sd, err)
	}
	if b := o.backlog; b != nil {
		b.pending = b.pending[min(n, len(b.pending)):]
		h.account(w, sd, n)
	}
	if !o.broken && len(o.pending()) > 0 {
		return
	}
	if o.backlog != nil {
		o.backlog.release()
		o.backlog.counted = tally{}
	}
	if h.sealed(w, sd) {
		return
	}
	h.s.blocked[sd] = false
	h.s.drained(w, sd)
}

// sent notes that n sealed bytes of sd were sent. The caller settles.
func (h *hold) sent(w *workspace, sd side, n int, err error) {
	switch {
	case err != nil || h.t.sealed(sd) == 0 && len(h.sides[sd].pending()) == 0:
		h.wrote(w, sd, 0, err)
	case n > 0:
		h.account(w, sd, 0)
	}
}

// breaks notes that nothing can be written to sd any more. What was to be written
// now, or has waited, was not relayed.
func (h *hold) breaks(w *workspace, sd side, err error) {
	o := &h.sides[sd]
	if o.broken {
		return
	}
	o.broken = true
	lost := h.s.countedNow(w, sd.feeds())
	if o.backlog != nil {
		lost.add(o.backlog.counted)
	}
	h.s.uncount(sd.feeds(), lost)
	o.backlog, o.look = nil, 0
	h.s.writeFailed(w, sd, err)
}

// account notes that n more bytes were written to sd, which has a backlog or gets
// one now, and whether sd has taken something. That the kernel accepts bytes does
// not say so.
func (h *hold) account(w *workspace, sd side, n int) {
	o := &h.sides[sd]
	unsent := h.t.unsent(sd)
	if o.backlog == nil {
		o.backlog = &backlog{taken: w.now}
	} else if unsent < 0 && n > 0 || unsent >= 0 && unsent < o.backlog.owed+n {
		o.backlog.taken = w.now
		h.s.took(sd, o.backlog.looked)
	}
	o.backlog.owed, o.backlog.looked = unsent, w.now
	if o.look == 0 {
		o.lookLater(w.now)
	}
}

// stalls looks at what sd has left. It reports whether sd has taken nothing for
// stallTimeout.
func (h *hold) stalls(w *workspace, sd side) bool {
	o := &h.sides[sd]
	if o.look == 0 || o.lookDue() > w.now {
		return false
	}
	o.look = 0
	if !o.attached || o.shut || o.broken {
		return false
	}
	if len(o.pending()) == 0 && h.t.sealed(sd) == 0 && h.t.unsent(sd) <= 0 {
		o.backlog = nil
		return false
	}
	h.account(w, sd, 0)
	return w.now-o.backlog.taken >= stallTimeout
}

// follow acts on the leg of sd.
func (h *hold) follow(w *workspace, sd side) {
	o := &h.sides[sd]
	if !o.attached || o.shut {
		return
	}
	if h.s.leg[sd] == legNone { // the session wants another one
		h.t.shut(sd)
		*o = output{}
		h.s.blocked[sd] = false
		return
	}
	if h.s.leg[sd] == legFinishing && !o.finished && len(o.pending()) == 0 && h.t.sealed(sd) == 0 {
		o.finished = true
		if !h.t.finish(sd) {
			h.s.setLeg(w, sd, legClosed, 0)
		}
	}
	if h.s.leg[sd] == legClosed {
		o.shut = true
		o.backlog, o.look = nil, 0
		h.t.shut(sd)
	}
}

// turn reports whether sd is to be read: the session wants its bytes, and the
// other side takes what comes of them.
func (h *hold) turn(sd side) bool {
	return h.s.reads(sd) && !(h.s.leg[sd] == legOpen && h.s.blocked[sd.other()])
}

// eof tells the session that nothing more comes from sd.
func (h *hold) eof(w *workspace, sd side, err error) {
	if h.s.leg[sd] != legClosed {
		h.s.eof(w, sd, err)
	}
}

// leave tells the session that the client has sent FIN although nobody reads it.
// What the client has sent before may wait in front of that.
func (h *hold) leave(w *workspace) {
	if !h.left {
		h.left = true
		h.s.hungUp(w)
	}
}

// tick does what is due.
func (h *hold) tick(s *session, w *workspace) {
	for sd := client; sd <= server; sd++ {
		if h.stalls(w, sd) {
			s.stalled(w, sd)
		}
	}
	if !s.over() {
		s.expire(w)
	}
}
