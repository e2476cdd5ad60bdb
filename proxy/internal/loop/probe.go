package loop

import "xmppgate/proxy/internal/relay"

// A Probe is what tests see of a connection. The program does not use it.
type Probe struct {
	relay.Conns
	Pending [2]int // bytes that wait to be written
	Kept    [2]int // bytes that the session has left of its input
	Memory  [2]int // what the buffers of both have, by where the bytes go to and come from
	Unsent  [2]int // bytes written and not taken
	SawFIN  bool   // the client's FIN was seen while it was not read
}

// Probe describes the connection. The caller views it, see Handle.View.
func (d *driver) Probe() Probe {
	p := Probe{Conns: d.conns, SawFIN: d.sawFIN}
	for sd := client; sd <= server; sd++ {
		o, win := &d.sides[sd], &d.win[sd]
		p.Pending[sd], p.Kept[sd] = len(o.pending()), len(win.bytes())
		if o.backlog != nil && o.backlog.buf != nil {
			p.Memory[sd] += len(o.backlog.buf.b)
		}
		if win.buf != nil {
			p.Memory[sd.Other()] += len(win.buf.b)
		}
		if o.attached && !o.shut {
			p.Unsent[sd] = d.conn.unsent(sd)
		}
	}
	return p
}

// LargeInUse is how many large buffers are in use.
func LargeInUse() int { return int(largeInUse.Load()) }

// AllowLarge makes n stand in for ManyLargeBuffers. The caller sets that again.
func AllowLarge(n int) { largeAllowed.Store(int64(n)) }
