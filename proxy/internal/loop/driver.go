package loop

import (
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"xmppgate/proxy/internal/relay"
)

// A conn is what a loop has to provide for one session. Its methods are called
// during events and do not block.
type conn interface {
	// now is the moment, see New.
	now() time.Duration
	// write writes what sd takes now and returns how much that was. An error
	// means that sd will never take anything again; what it has sent may
	// still be read.
	write(sd side, pieces [][]byte) (n int, err error)
	// unsentRecords is how many bytes that write has taken it has yet to send.
	unsentRecords(sd side) int
	// unsent is how many bytes the peer of sd has yet to take of what was
	// written, or -1 when that is not known.
	unsent(sd side) int
	// finish sends FIN. It reports false when the connection cannot be
	// closed in one direction only.
	finish(sd side) bool
	// shut closes the connection and ends the reading of it.
	shut(sd side)
	// later makes the loop call run once more, after other sessions.
	later()
	// update is called at the end of each event: it starts or stops reading
	// (see driver.mayRead) and writing (see output.pending), and makes sure
	// that expired is called at due or soon after, zero meaning never. After an
	// error the session cannot go on.
	update(now, due time.Duration) error
}

// A driver is the part of a connection that all loops share. It runs the events
// of a session one at a time, and does what follows from each: run.
//
// What an event leaves for a side is written at once, in one gathered write,
// the client's first. What the side does not take is copied to its backlog; until
// that is written the session sees Blocked, and the other side is not read.
type driver struct {
	mu    sync.Mutex // guards all below; never held while something blocks
	s     relay.Session
	c     conn // the outer part of this one
	conns relay.Conns
	over  bool // the session was told that it is over
	left  bool // the client has sent FIN, which was seen while it was not read

	sides  [2]output
	win    [2]window // what the session has left of its input
	refeed [2]bool   // the window holds bytes that the session would not take yet
	large  [2]bool   // what comes is larger than usual
}

// An input is what a read has brought for the session.
type input struct {
	b        []byte // nil for nothing
	side     side
	borrowed bool // b is not the window of side
}

// events are for those that run outside of a worker.
var events = sync.Pool{New: func() any { return new(relay.Event) }}

// event runs f as an event, from any goroutine that does not run one.
func (h *driver) event(f func(*relay.Event) input) {
	ev := events.Get().(*relay.Event)
	ev.Now = h.c.now()
	h.mu.Lock()
	h.run(ev, f)
	h.mu.Unlock()
	events.Put(ev)
}

// Post implements Handle.
func (h *driver) Post(f func(*relay.Event)) {
	h.event(func(ev *relay.Event) input {
		f(ev)
		return input{}
	})
}

// View implements Handle.
func (h *driver) View(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// run is an event, and all that follows from it: f is called, the session gets
// the input that f returns, the outboxes are written, the states acted on; then the
// session gets what it had left of earlier input, if it takes that now. The caller
// holds mu. A session that panics ends, and takes no other with it.
func (h *driver) run(ev *relay.Event, f func(*relay.Event) input) {
	defer func() {
		if r := recover(); r != nil {
			h.fail(ev, fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	ev.Conns = &h.conns
	in := f(ev)
	for fed := [2]bool{}; ; fed[in.side] = true {
		if in.b == nil {
			h.settle(ev)
		} else {
			ev.Scarce = scarce()
			rest := h.s.Receive(ev, in.side, in.b)
			// Where one read takes no whole element, larger reads save
			// copies. It would not be fair to others where it takes hundreds.
			h.large[in.side] = len(rest) > relay.ReadSize/4 || h.large[in.side] && len(in.b) > relay.ReadSize
			h.refeed[in.side] = len(rest) > 0 && h.s.Waits(&h.conns, in.side)
			h.settle(ev) // what is to be written aliases in.b
			h.keep(in, rest)
		}
		in = h.waiting(fed)
		if in.b == nil {
			return
		}
	}
}

// nothing is an event of which only the consequences count.
func nothing(*relay.Event) input { return input{} }

// waiting returns input that had to wait for another event and does so no longer.
// What has to wait once more in this event, for no other reason than that it
// becomes so much, lets the other sessions go first.
func (h *driver) waiting(fed [2]bool) input {
	for sd := client; sd <= server; sd++ {
		switch {
		case !h.refeed[sd] || h.over || !h.mayRead(sd):
		case fed[sd] && h.s.Reads(&h.conns, sd):
			h.c.later()
		default:
			return input{b: h.win[sd].bytes(), side: sd}
		}
	}
	return input{}
}

// keep keeps what the session wants again of in.
func (h *driver) keep(in input, rest []byte) {
	switch win := &h.win[in.side]; {
	case h.over, h.sides[in.side].shut:
		win.release()
	case !in.borrowed:
		win.keep(rest)
	case len(rest) == 0:
	case h.refeed[in.side]:
		win.set(getBuffer(len(rest)), rest) // it only becomes less
	default:
		win.set(getGrowing(len(rest)), rest)
	}
}

// read reads sd once by f, which does not wait, into scratch or behind what is
// kept; all makes sure that f has all of scratch. It returns nothing with an error
// or at the end, which is io.EOF. more reports whether f has filled all the room
// there was.
func (h *driver) read(sd side, scratch []byte, all bool, f func([]byte) (int, error)) (in input, more bool, err error) {
	win := &h.win[sd]
	kept := 0
	if win.short() {
		kept = copy(scratch, win.bytes()) // and more can be read at once
	}
	behind := kept == 0 && !win.empty()
	if behind && !all {
		scratch = win.space(sd)
	}
	n, err := f(scratch[kept:])
	more = n == len(scratch)-kept
	switch {
	case n <= 0 && err == nil:
		return input{}, false, io.EOF
	case n <= 0:
		return input{}, false, err
	case behind && all:
		return h.received(sd, scratch[:n]), more, nil
	case behind:
		return input{b: win.filled(n), side: sd}, more, nil
	}
	win.release()
	return input{b: scratch[:kept+n], side: sd, borrowed: true}, more, nil
}

// received returns n bytes that were read elsewhere as input.
func (h *driver) received(sd side, b []byte) input {
	win := &h.win[sd]
	if win.empty() {
		return input{b: b, side: sd, borrowed: true}
	}
	win.add(b)
	return input{b: win.bytes(), side: sd}
}

// fail ends a session that the loop has failed, or that has panicked.
func (h *driver) fail(ev *relay.Event, err error) {
	ev.Out[client].Reset()
	ev.Out[server].Reset()
	ev.Conns = &h.conns
	h.s.Failed(ev, err)
	h.settle(ev)
}

// settle writes what the event has left and acts on the states.
func (h *driver) settle(ev *relay.Event) {
	h.flush(ev, client)
	h.flush(ev, server)
	for sd := client; sd <= server; sd++ {
		h.follow(ev, sd)
	}
	if h.conns.Over() {
		if !h.over {
			h.over = true
			for sd := range h.win {
				h.refeed[sd] = false
				h.win[sd].release()
			}
			h.c.update(ev.Now, 0)
			h.s.Over(ev)
		}
		return
	}
	due := h.s.Deadline(&h.conns)
	for sd := range h.sides {
		due = relay.Earlier(due, h.sides[sd].lookDue())
	}
	if err := h.c.update(ev.Now, due); err != nil {
		h.fail(ev, err)
	}
}

// An output is what driver knows of the writing to one side.
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
	counted relay.Count   // the elements of which some is pending, which count as relayed
	owed    int           // what conn.unsent said last, and what was written since
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
		due = min(due, b.taken+relay.StallTimeout)
	}
	o.look = uint32((due + time.Second - 1) / time.Second)
}

func (o *output) lookDue() time.Duration { return time.Duration(o.look) * time.Second }

// room makes room for n more pending bytes. A buffer that they do not fit in is
// left to the garbage collector: somebody may be about to write it.
func (b *backlog) room(n int) {
	if cap(b.pending)-len(b.pending) < n {
		old := b.buf
		b.buf = getBuffer(len(b.pending) + n)
		b.pending = append(b.buf.b[:0], b.pending...)
		if old != nil {
			leaveBuffer(old)
		}
	}
}

// dropBacklog forgets what o has not taken. The buffer is left to the garbage
// collector: somebody may be writing it.
func (o *output) dropBacklog() {
	if b := o.backlog; b != nil && b.buf != nil {
		leaveBuffer(b.buf)
	}
	o.backlog, o.look = nil, 0
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

// flush writes the outbox of sd, and what the session adds when all of it is
// gone.
func (h *driver) flush(ev *relay.Event, sd side) {
	out, o := &ev.Out[sd], &h.sides[sd]
	for out.Size() > 0 {
		n := out.Size()
		if o.attached && !o.broken && !o.shut {
			n = 0
			if len(o.pending()) == 0 && h.c.unsentRecords(sd) == 0 {
				var err error
				if n, err = h.c.write(sd, out.Take()); err != nil {
					n = out.Size()
					h.breaks(ev, sd, err)
				}
			}
		}
		if n < out.Size() {
			h.account(ev, sd, n)
			o.backlog.counted.Add(h.s.Counted(ev, sd))
			o.backlog.room(out.Size() - n)
			for _, b := range out.Take() {
				skip := min(n, len(b))
				n -= skip
				o.backlog.pending = append(o.backlog.pending, b[skip:]...)
			}
			h.conns.Blocked[sd] = true
			out.Reset()
			return
		}
		out.Reset()
		h.s.Counted(ev, sd) // is relayed
		switch {
		case o.broken:
		case o.backlog != nil:
			o.backlog.owed += n
		case o.look == 0:
			o.lookLater(ev.Now)
		}
		if h.holdsRecords(ev, sd) {
			return
		}
		h.s.Flushed(ev, sd)
	}
}

// holdsRecords blocks a side that has not taken all of what was written, if so.
func (h *driver) holdsRecords(ev *relay.Event, sd side) bool {
	o := &h.sides[sd]
	if !o.attached || o.shut || o.broken || h.c.unsentRecords(sd) == 0 {
		return false
	}
	h.conns.Blocked[sd] = true
	h.account(ev, sd, 0)
	return true
}

// wrote notes that n pending bytes of sd were written. The caller settles.
func (h *driver) wrote(ev *relay.Event, sd side, n int, err error) {
	o := &h.sides[sd]
	if err != nil {
		h.breaks(ev, sd, err)
	}
	if b := o.backlog; b != nil {
		b.pending = b.pending[min(n, len(b.pending)):]
		h.account(ev, sd, n)
	}
	if !o.broken && len(o.pending()) > 0 {
		return
	}
	if o.backlog != nil {
		o.backlog.release()
		o.backlog.counted = relay.Count{}
	}
	if h.holdsRecords(ev, sd) {
		return
	}
	h.conns.Blocked[sd] = false
	h.s.Flushed(ev, sd)
}

// sent notes that n bytes of records of sd were sent. The caller settles.
func (h *driver) sent(ev *relay.Event, sd side, n int, err error) {
	switch {
	case err != nil || h.c.unsentRecords(sd) == 0 && len(h.sides[sd].pending()) == 0:
		h.wrote(ev, sd, 0, err)
	case n > 0:
		h.account(ev, sd, 0)
	}
}

// breaks notes that nothing can be written to sd any more. What was to be written
// now, or has waited, was not relayed.
func (h *driver) breaks(ev *relay.Event, sd side, err error) {
	o := &h.sides[sd]
	if o.broken {
		return
	}
	o.broken = true
	lost := h.s.Counted(ev, sd)
	if o.backlog != nil {
		lost.Add(o.backlog.counted)
	}
	h.s.Uncount(sd, lost)
	o.dropBacklog()
	h.s.WriteFailed(ev, sd, err)
}

// account notes that n more bytes were written to sd, which has a backlog or gets
// one now, and whether sd has taken something. That the kernel accepts bytes does
// not say so.
func (h *driver) account(ev *relay.Event, sd side, n int) {
	o := &h.sides[sd]
	unsent := h.c.unsent(sd)
	if o.backlog == nil {
		o.backlog = &backlog{taken: ev.Now}
	} else if unsent < 0 && n > 0 || unsent >= 0 && unsent < o.backlog.owed+n {
		o.backlog.taken = ev.Now
		h.s.Taken(ev, sd, o.backlog.looked)
	}
	o.backlog.owed, o.backlog.looked = unsent, ev.Now
	if o.look == 0 {
		o.lookLater(ev.Now)
	}
}

// stalls looks at what sd has left. It reports whether sd has taken nothing for
// relay.StallTimeout.
func (h *driver) stalls(ev *relay.Event, sd side) bool {
	o := &h.sides[sd]
	if o.look == 0 || o.lookDue() > ev.Now {
		return false
	}
	o.look = 0
	if !o.attached || o.shut || o.broken {
		return false
	}
	if len(o.pending()) == 0 && h.c.unsentRecords(sd) == 0 && h.c.unsent(sd) <= 0 {
		o.dropBacklog()
		return false
	}
	h.account(ev, sd, 0)
	return ev.Now-o.backlog.taken >= relay.StallTimeout
}

// follow acts on the state of sd.
func (h *driver) follow(ev *relay.Event, sd side) {
	o := &h.sides[sd]
	if !o.attached || o.shut {
		return
	}
	if h.conns.State[sd] == relay.StateNone { // the session wants another one
		h.shut(sd)
		o.dropBacklog()
		*o = output{}
		h.conns.Blocked[sd] = false
		return
	}
	if h.conns.State[sd] == relay.StateFinishing && !o.finished && len(o.pending()) == 0 && h.c.unsentRecords(sd) == 0 {
		o.finished = true
		if !h.c.finish(sd) {
			h.conns.State[sd] = relay.StateClosed
		}
	}
	if h.conns.State[sd] == relay.StateClosed {
		o.shut = true
		o.dropBacklog()
		h.shut(sd)
	}
}

// shut closes the connection of sd, and forgets what the session has left of its
// input.
func (h *driver) shut(sd side) {
	h.c.shut(sd)
	h.refeed[sd], h.large[sd] = false, false
	h.win[sd].release()
}

// mayRead reports whether sd is to be read: the session wants its bytes, and the
// other side takes what comes of them.
func (h *driver) mayRead(sd side) bool {
	return h.s.Reads(&h.conns, sd) && !(h.conns.State[sd] == relay.StateOpen && h.conns.Blocked[sd.Other()])
}

// eof tells the session that nothing more comes from sd.
func (h *driver) eof(ev *relay.Event, sd side, err error) {
	if h.conns.State[sd] != relay.StateClosed {
		h.s.EOF(ev, sd, err)
	}
}

// hungUp tells the session that the client has sent FIN although nobody reads it.
// What the client has sent before may wait in front of that.
func (h *driver) hungUp(ev *relay.Event) {
	if !h.left {
		h.left = true
		h.s.HungUp(ev)
	}
}

// expired does what is due, as part of an event.
func (h *driver) expired(ev *relay.Event) {
	for sd := client; sd <= server; sd++ {
		if h.stalls(ev, sd) {
			h.s.Stalled(ev, sd)
		}
	}
	if !h.conns.Over() {
		h.s.Expired(ev)
	}
}
