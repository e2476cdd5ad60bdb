package loop

import (
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"xmppgate/proxy/internal/relay"
)

// This file runs events: run calls the session, hands it its input, and does what
// follows. How bytes are written to a side, and what happens when it does not take them,
// is in output.go; what is kept of input is in window.go.

// A conn is what a loop has to provide for one session. Its methods are called
// during events and do not block.
type conn interface {
	// now is the current moment, see New.
	now() time.Duration
	// write writes what sd takes now and returns how much that was. After an
	// error sd takes nothing any more; what it has sent may still be read.
	write(sd side, pieces [][]byte) (n int, err error)
	// unsentRecords is the number of bytes of TLS records that write has made and
	// not sent yet.
	unsentRecords(sd side) int
	// heldByTLS is how much memory TLS keeps for the bytes of both sides: records of
	// which a part has come, and those that are not sent yet.
	heldByTLS() int
	// unsent is the number of bytes written that the peer of sd has not
	// acknowledged, or -1 when that is not known.
	unsent(sd side) int
	// closeNotify tells the peer of sd that nothing more comes, if it speaks TLS. That
	// may leave unsentRecords. Only the first call has an effect.
	closeNotify(sd side)
	// finish sends FIN. It reports false when the connection cannot be
	// closed in one direction only.
	finish(sd side) bool
	// shut closes the connection and ends the reading of it.
	shut(sd side)
	// stopSecuring ends a handshake of TLS with the client, see Handle.Secure, if one
	// is under way.
	stopSecuring()
	// later makes the loop call run once more, after other sessions.
	later()
	// update is called at the end of each event. It starts or stops reading
	// (driver.mayRead) and writing (output.pending), and makes sure that expired is
	// called at due or soon after; zero means never. After an error the session
	// cannot go on.
	update(now, due time.Duration) error
}

// A driver is the part of a connection that all loops share. It runs the events
// of a session one at a time, and does what follows from each. It keeps these
// invariants between two events:
//
//   - Both outboxes are empty: what a side has not taken is in its backlog.
//   - conns.Blocked is set for a side while something waits to be written to
//     it, in the backlog or as TLS records. The other side is not read meanwhile,
//     unless it is closing.
//   - A window has a buffer only if the session wants what is in it again.
//   - inputWaits is set only if the window is not empty. That side is not read: the
//     window is given to the session first, by nextInput.
//   - A side that has not taken everything has a moment to check it (output.checkAt).
//   - After Session.Over nothing is called, and no buffer is in use.
type driver struct {
	mu sync.Mutex // guards all below; never held while something blocks

	// Set once.
	s    relay.Session
	conn conn // the struct that this driver is embedded in

	// Shared with the session, see relay.Conns.
	conns relay.Conns

	over      bool // Session.Over was called, or another process has the session
	suspended bool // between Movable.Suspend and what follows it, see suspensions
	sawFIN    bool // the client has sent FIN, found while it was not read

	// Writing.
	sides [2]output

	// Reading.
	win        [2]window // what the session wants again of its input
	inputWaits [2]bool   // the window is to be given to the session as it is
}

// An input is what a read has brought for the session.
type input struct {
	b        []byte // nil for nothing
	side     side
	borrowed bool // b is not in the window of side
}

// events are for goroutines that are not workers, which have an Event of their own.
var events = sync.Pool{New: func() any { return new(relay.Event) }}

// event runs f as an event. It must not be called during one.
func (d *driver) event(f func(*relay.Event) input) {
	ev := events.Get().(*relay.Event)
	ev.Now = d.conn.now()
	d.mu.Lock()
	switch {
	case !d.suspended:
		d.run(ev, f)
	case !d.over:
		suspensions.postpone(d, f)
	}
	d.mu.Unlock()
	events.Put(ev)
}

// Post implements Handle.
func (d *driver) Post(f func(*relay.Event)) {
	d.event(func(ev *relay.Event) input {
		f(ev)
		return input{}
	})
}

// View implements Handle.
func (d *driver) View(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// Held implements Handle.
func (d *driver) Held() (bytes int) {
	for sd := range d.sides {
		if b := d.sides[sd].backlog; b != nil && b.buf != nil {
			bytes += len(b.buf.b)
		}
		if b := d.win[sd].buf; b != nil {
			bytes += len(b.b)
		}
	}
	return bytes + d.conn.heldByTLS()
}

// Queue implements Handle.
func (d *driver) Queue(sd side) (bytes int, stalled time.Duration) {
	b := d.sides[sd].backlog
	if b == nil {
		return 0, 0
	}
	return len(b.pending) + max(0, b.lastUnsent), b.stalled()
}

// run is an event and all that follows from it. It calls f, gives the session the input
// that f returns, writes the outboxes and acts on the states. Then the session gets input
// that it left earlier, if that side may be read now. The caller holds mu. A session that
// panics ends; the others go on.
func (d *driver) run(ev *relay.Event, f func(*relay.Event) input) {
	defer func() {
		if r := recover(); r != nil {
			d.fail(ev, fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	ev.Conns, ev.AwaitsAnswer = &d.conns, false
	in := f(ev)
	for fed := [2]bool{}; ; fed[in.side] = true {
		if in.b == nil {
			d.settle(ev)
		} else {
			ev.Scarce = scarce()
			rest := d.s.Receive(ev, in.side, in.b)
			d.inputWaits[in.side] = len(rest) > 0 && d.s.Waits(&d.conns, in.side)
			d.settle(ev) // before keep: the outboxes alias in.b
			d.keep(in, rest)
		}
		in = d.nextInput(fed)
		if in.b == nil {
			if exceeded() && !d.over && d.Held() > LittleHeld {
				d.s.FreeMemory(ev)
				d.settle(ev)
			}
			return
		}
	}
}

// suspensions has the events that came from within this process for sessions that are
// suspended. There are few of both, so that a driver has no field for them.
var suspensions = postponed{events: make(map[*driver][]func(*relay.Event) input)}

type postponed struct {
	mu     sync.Mutex // taken after driver.mu
	events map[*driver][]func(*relay.Event) input
}

func (p *postponed) postpone(d *driver, f func(*relay.Event) input) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[d] = append(p.events[d], f)
}

// take returns what was postponed for d and forgets it.
func (p *postponed) take(d *driver) []func(*relay.Event) input {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.events[d]
	delete(p.events, d)
	return all
}

// nothing is for an event that only has run do what is due.
func nothing(*relay.Event) input { return input{} }

// nextInput returns input that had to wait and need not any more. fed are the sides whose
// input the session has had in this event. A side that was fed waits for the next event, so
// that other sessions come first, unless the session only finishes reading.
func (d *driver) nextInput(fed [2]bool) input {
	for sd := client; sd <= server; sd++ {
		switch {
		case !d.inputWaits[sd] || d.over || !d.mayRead(sd):
		case fed[sd] && d.s.Reads(&d.conns, sd):
			d.conn.later()
		default:
			return input{b: d.win[sd].bytes(), side: sd}
		}
	}
	return input{}
}

// keep keeps rest, the part of in that the session wants again.
func (d *driver) keep(in input, rest []byte) {
	switch win := &d.win[in.side]; {
	case d.over, d.sides[in.side].shut:
		win.release()
	case !in.borrowed:
		win.keep(rest)
	case len(rest) == 0:
	case d.inputWaits[in.side]:
		win.set(getBuffer(len(rest)), rest) // nothing is read behind it
	default:
		win.set(getGrowing(len(rest)), rest)
	}
}

// read calls f once to read from sd, into scratch or behind what is kept. f does not
// wait. all makes sure that f has all of scratch to read into, which a TLS record may need.
// Without bytes read returns an error, io.EOF at the end. more reports whether f has filled
// all the room it had.
func (d *driver) read(sd side, scratch []byte, all bool, f func([]byte) (int, error)) (in input, more bool, err error) {
	win := &d.win[sd]
	kept := 0
	if win.short() {
		kept = copy(scratch, win.bytes()) // which leaves more room to read into
	}
	behind := kept == 0 && !win.empty()
	if behind && !all {
		scratch = win.space(sd)
	}
	if sd == server && !all && halfHeld() {
		scratch = scratch[:min(len(scratch), kept+shortRead)]
	}
	n, err := f(scratch[kept:])
	more = n == len(scratch)-kept
	switch {
	case n <= 0 && err == nil:
		return input{}, false, io.EOF
	case n <= 0:
		return input{}, false, err
	case behind && all:
		return d.received(sd, scratch[:n]), more, nil
	case behind:
		return input{b: win.filled(n), side: sd}, more, nil
	}
	win.release()
	return input{b: scratch[:kept+n], side: sd, borrowed: true}, more, nil
}

// received makes input of bytes that were not read into the window.
func (d *driver) received(sd side, b []byte) input {
	win := &d.win[sd]
	if win.empty() {
		return input{b: b, side: sd, borrowed: true}
	}
	win.add(b)
	return input{b: win.bytes(), side: sd}
}

// fail ends a session after a panic or a failure of the loop.
func (d *driver) fail(ev *relay.Event, err error) {
	ev.Out[client].Reset()
	ev.Out[server].Reset()
	ev.Conns = &d.conns
	d.s.Failed(ev, err)
	d.settle(ev)
}

// settle writes the outboxes, acts on the states and sets the timer.
func (d *driver) settle(ev *relay.Event) {
	d.flush(ev, client)
	d.flush(ev, server)
	for sd := client; sd <= server; sd++ {
		d.applyState(ev, sd)
	}
	if d.conns.Over() {
		if !d.over {
			d.over = true
			d.conn.stopSecuring()
			for sd := range d.win {
				d.inputWaits[sd] = false
				d.win[sd].release()
			}
			d.conn.update(ev.Now, 0)
			d.s.Over(ev)
		}
		return
	}
	due := d.s.Deadline(&d.conns)
	for sd := range d.sides {
		due = relay.Earlier(due, d.sides[sd].checkDue())
	}
	if err := d.conn.update(ev.Now, due); err != nil {
		d.fail(ev, err)
	}
}

// applyState acts on the state of sd.
func (d *driver) applyState(ev *relay.Event, sd side) {
	o := &d.sides[sd]
	if !o.attached || o.shut {
		return
	}
	if d.conns.State[sd] == relay.StateNone { // the session wants another connection
		d.shut(sd)
		d.dropBacklog(sd)
		*o = output{}
		d.conns.Blocked[sd] = false
		return
	}
	if d.conns.State[sd] == relay.StateFinishing && !o.finished && len(o.pending()) == 0 && d.conn.unsentRecords(sd) == 0 {
		if !o.broken {
			d.conn.closeNotify(sd)
		}
		if d.conn.unsentRecords(sd) == 0 { // else FIN follows when they are sent
			o.finished = true
			if !d.conn.finish(sd) {
				d.conns.State[sd] = relay.StateClosed
			}
		}
	}
	if d.conns.State[sd] == relay.StateClosed {
		o.shut = true
		d.dropBacklog(sd)
		d.shut(sd)
	}
}

// shut closes the connection of sd and drops the input that was kept of it.
func (d *driver) shut(sd side) {
	d.conn.shut(sd)
	d.inputWaits[sd] = false
	d.win[sd].release()
}

// mayRead reports whether sd is to be read: the session wants its bytes, and the
// other side takes what becomes of them. A side that is closing is read in any case.
func (d *driver) mayRead(sd side) bool {
	return d.s.Reads(&d.conns, sd) && !(d.conns.State[sd] == relay.StateOpen && d.conns.Blocked[sd.Other()])
}

// eof tells the session that nothing more comes from sd.
func (d *driver) eof(ev *relay.Event, sd side, err error) {
	if d.conns.State[sd] != relay.StateClosed {
		d.s.EOF(ev, sd, err)
	}
}

// hungUp tells the session, once, that the client has sent FIN while it is not read. What
// the client sent before may still have to be read.
func (d *driver) hungUp(ev *relay.Event) {
	if !d.sawFIN {
		d.sawFIN = true
		d.s.HungUp(ev)
	}
}

// expired does what is due. It is called during an event.
func (d *driver) expired(ev *relay.Event) {
	for sd := client; sd <= server; sd++ {
		if d.stalled(ev, sd) {
			d.s.Stalled(ev, sd)
		}
	}
	if !d.conns.Over() {
		d.s.Expired(ev)
	}
}
