package relay

// copyBelow is the size in bytes below which a piece is copied instead of
// referenced: a short copy is cheaper than one more element of a gathered
// write.
const copyBelow = 4 << 10

// An Outbox collects what one event writes to one side, so that all of it
// leaves in one gathered write. Small pieces are copied next to each other,
// large ones are referenced where they are: an Outbox must be written, or
// copied, before the buffer that was read into is used again. The zero value is
// empty.
type Outbox struct {
	pieces [][]byte // in order; alias flat or the read buffer
	flat   []byte   // what was copied
	mark   int      // flat[mark:] is not in pieces yet
	size   int      // bytes in all
}

// Grow returns bytes to append to; give the result to Keep.
func (o *Outbox) Grow() []byte { return o.flat }

// Keep takes back what Grow returned, after something was appended to it.
func (o *Outbox) Keep(flat []byte) {
	o.size += len(flat) - len(o.flat)
	o.flat = flat
}

// Size is the number of bytes in o.
func (o *Outbox) Size() int { return o.size }

// Add appends p, by reference when it is large.
func (o *Outbox) Add(p []byte) {
	if len(p) < copyBelow {
		o.Keep(append(o.flat, p...))
		return
	}
	o.cut()
	o.pieces = append(o.pieces, p)
	o.size += len(p)
}

// AddString appends p.
func (o *Outbox) AddString(p string) { o.Keep(append(o.flat, p...)) }

// cut ends the run of copied bytes. An earlier piece keeps its bytes even when
// flat moves to a larger array: nobody changes them any more.
func (o *Outbox) cut() {
	if o.mark < len(o.flat) {
		o.pieces = append(o.pieces, o.flat[o.mark:])
		o.mark = len(o.flat)
	}
}

// Take returns all pieces in order; they are valid until Reset.
func (o *Outbox) Take() [][]byte {
	o.cut()
	return o.pieces
}

// maxFlat bounds what an empty Outbox keeps.
const maxFlat = 256 << 10

// Reset empties o.
func (o *Outbox) Reset() {
	clear(o.pieces)
	o.pieces = o.pieces[:0]
	o.flat = o.flat[:0]
	if cap(o.flat) > maxFlat {
		o.flat = nil
	}
	o.mark, o.size = 0, 0
}
