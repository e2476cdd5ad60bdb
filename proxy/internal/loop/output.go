package loop

import (
	"time"

	"xmppgate/proxy/internal/relay"
)

// This file writes to a side. What an event leaves for it is written at once. What it does
// not take is copied to its backlog, which the loop writes when the side takes more; until
// then the side is blocked. A side that takes nothing for long is found by its checks.

// An output is what a driver knows of the writing to one side.
type output struct {
	backlog  *backlog // nil unless the side was seen not to have taken everything
	checkAt  uint32   // when to check what it has not taken, in seconds; zero for not at all
	broken   bool     // nothing can be written any more
	attached bool     // there is a connection
	finished bool     // FIN was sent
	shut     bool     // the connection is closed
}

// A backlog is what a side has not taken. That includes bytes that were written: the
// kernel accepts a good deal for a peer that does not read.
type backlog struct {
	pending    []byte        // still to be written; in buf
	buf        *buffer       // nil when nothing is pending
	counted    relay.Count   // what the session counts as relayed, of elements that are pending in part or in whole
	lastUnsent int           // what conn.unsent returned last, and what was written since
	takenAt    time.Duration // when the side was last seen to have taken something
	checkedAt  time.Duration // when that was last checked
}

// stallCheck is how often a side is checked that has not taken everything. Nearly always
// it has taken everything before the first check is due.
const stallCheck = relay.StallNoted

// checkLater sets checkAt, in whole seconds to save space.
func (o *output) checkLater(now time.Duration) {
	due := now + stallCheck
	if b := o.backlog; b != nil {
		due = min(due, b.takenAt+relay.StallTimeout)
	}
	o.checkAt = uint32((due + time.Second - 1) / time.Second)
}

func (o *output) checkDue() time.Duration { return time.Duration(o.checkAt) * time.Second }

// room makes room for n more pending bytes. A buffer that is too small is left to the
// garbage collector: another goroutine may be writing it (goConn.writePending).
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

// stalled returns how long the side is known to have taken nothing, between two checks at
// least; zero if that is less than relay.StallNoted.
func (b *backlog) stalled() time.Duration {
	if d := b.checkedAt - b.takenAt; d >= relay.StallNoted {
		return d
	}
	return 0
}

// stallOver tells the session of a stall of sd that is over.
func (d *driver) stallOver(sd side) {
	if b := d.sides[sd].backlog; b != nil && b.stalled() > 0 {
		d.s.StallOver(sd, b.stalled())
	}
}

// dropBacklog forgets what sd has not taken. The buffer is left to the garbage
// collector, as in room.
func (d *driver) dropBacklog(sd side) {
	d.stallOver(sd)
	o := &d.sides[sd]
	if b := o.backlog; b != nil && b.buf != nil {
		leaveBuffer(b.buf)
	}
	o.backlog, o.checkAt = nil, 0
}

// release gives the buffer back when everything is written.
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

// flush writes the outbox of sd in one gathered write, and what Session.Flushed adds to
// it. What sd does not take is copied to its backlog.
func (d *driver) flush(ev *relay.Event, sd side) {
	out, o := &ev.Out[sd], &d.sides[sd]
	for out.Size() > 0 {
		n := out.Size()
		if o.attached && !o.broken && !o.shut {
			n = 0
			if len(o.pending()) == 0 && d.conn.unsentRecords(sd) == 0 {
				var err error
				if n, err = d.conn.write(sd, out.Take()); err != nil {
					n = out.Size()
					d.failWrites(ev, sd, err)
				}
			}
		}
		if n < out.Size() {
			d.noteProgress(ev, sd, n)
			o.backlog.counted.Add(d.s.Counted(ev, sd))
			o.backlog.room(out.Size() - n)
			for _, b := range out.Take() {
				skip := min(n, len(b))
				n -= skip
				o.backlog.pending = append(o.backlog.pending, b[skip:]...)
			}
			d.conns.Blocked[sd] = true
			out.Reset()
			return
		}
		out.Reset()
		d.s.Counted(ev, sd) // everything was relayed
		switch {
		case o.broken:
		case o.backlog != nil:
			o.backlog.lastUnsent += n
		case o.checkAt == 0 && !ev.AwaitsAnswer:
			o.checkLater(ev.Now)
		}
		if d.blockedByRecords(ev, sd) {
			return
		}
		d.s.Flushed(ev, sd)
	}
}

// blockedByRecords blocks sd if TLS records of what was written are not sent yet. It
// reports whether it did.
func (d *driver) blockedByRecords(ev *relay.Event, sd side) bool {
	o := &d.sides[sd]
	if !o.attached || o.shut || o.broken || d.conn.unsentRecords(sd) == 0 {
		return false
	}
	d.conns.Blocked[sd] = true
	d.noteProgress(ev, sd, 0)
	return true
}

// wrote notes that n pending bytes of sd were written. It is called during an event.
func (d *driver) wrote(ev *relay.Event, sd side, n int, err error) {
	o := &d.sides[sd]
	if err != nil {
		d.failWrites(ev, sd, err)
	}
	if b := o.backlog; b != nil {
		b.pending = b.pending[min(n, len(b.pending)):]
		d.noteProgress(ev, sd, n)
	}
	if !o.broken && len(o.pending()) > 0 {
		return
	}
	if o.backlog != nil {
		o.backlog.release()
		o.backlog.counted = relay.Count{}
	}
	if d.blockedByRecords(ev, sd) {
		return
	}
	d.conns.Blocked[sd] = false
	d.s.Flushed(ev, sd)
}

// sent notes that n bytes of TLS records of sd were sent. It is called during an event.
func (d *driver) sent(ev *relay.Event, sd side, n int, err error) {
	switch {
	case err != nil || d.conn.unsentRecords(sd) == 0 && len(d.sides[sd].pending()) == 0:
		d.wrote(ev, sd, 0, err)
	case n > 0:
		d.noteProgress(ev, sd, 0)
	}
}

// failWrites notes that nothing can be written to sd any more. What is in the outbox or in
// the backlog does not count as relayed.
func (d *driver) failWrites(ev *relay.Event, sd side, err error) {
	o := &d.sides[sd]
	if o.broken {
		return
	}
	o.broken = true
	lost := d.s.Counted(ev, sd)
	if o.backlog != nil {
		lost.Add(o.backlog.counted)
	}
	d.s.Uncount(sd, lost)
	d.dropBacklog(sd)
	d.s.WriteFailed(ev, sd, err)
}

// noteProgress notes that n more bytes were written to sd, which has a backlog or gets one
// now, and whether its peer has taken something since the last call. The kernel accepting
// bytes does not mean that.
func (d *driver) noteProgress(ev *relay.Event, sd side, n int) {
	o := &d.sides[sd]
	unsent := d.conn.unsent(sd)
	if o.backlog == nil {
		o.backlog = &backlog{takenAt: ev.Now}
	} else if unsent < 0 && n > 0 || unsent >= 0 && unsent < o.backlog.lastUnsent+n {
		d.stallOver(sd)
		o.backlog.takenAt = ev.Now
		d.s.Taken(ev, sd, o.backlog.checkedAt)
	}
	o.backlog.lastUnsent, o.backlog.checkedAt = unsent, ev.Now
	if o.checkAt == 0 {
		o.checkLater(ev.Now)
	}
}

// stalled checks what sd has not taken, if that is due. It reports whether sd has taken
// nothing for relay.StallTimeout.
func (d *driver) stalled(ev *relay.Event, sd side) bool {
	o := &d.sides[sd]
	if o.checkAt == 0 || o.checkDue() > ev.Now {
		return false
	}
	o.checkAt = 0
	if !o.attached || o.shut || o.broken {
		return false
	}
	if len(o.pending()) == 0 && d.conn.unsentRecords(sd) == 0 && d.conn.unsent(sd) <= 0 {
		d.dropBacklog(sd)
		return false
	}
	d.noteProgress(ev, sd, 0)
	return ev.Now-o.backlog.takenAt >= relay.StallTimeout
}
