package proxy

// copyBelow is the size in bytes below which a piece is copied instead of
// referenced: a short copy is cheaper than one more element of a gathered
// write.
const copyBelow = 4 << 10

// An outbox collects what one event writes to one side, so that all of it
// leaves in one gathered write. Small pieces are copied next to each other,
// large ones are referenced where they are: an outbox must be written, or
// copied, before the buffer that was read into is used again.
type outbox struct {
	pieces [][]byte // in order; alias flat or the read buffer
	flat   []byte   // what was copied
	mark   int      // flat[mark:] is not in pieces yet
	size   int      // bytes in all
}

// grow returns flat for appending; give it back with keep.
func (o *outbox) grow() []byte { return o.flat }

// keep takes flat back after something was appended to it.
func (o *outbox) keep(flat []byte) {
	o.size += len(flat) - len(o.flat)
	o.flat = flat
}

// add appends p, by reference when it is large.
func (o *outbox) add(p []byte) {
	if len(p) < copyBelow {
		o.keep(append(o.flat, p...))
		return
	}
	o.cut()
	o.pieces = append(o.pieces, p)
	o.size += len(p)
}

func (o *outbox) addString(p string) { o.keep(append(o.flat, p...)) }

// cut ends the run of copied bytes. An earlier piece keeps its bytes even when
// flat moves to a larger array: nobody changes them any more.
func (o *outbox) cut() {
	if o.mark < len(o.flat) {
		o.pieces = append(o.pieces, o.flat[o.mark:])
		o.mark = len(o.flat)
	}
}

// take returns all pieces in order; they are valid until reset.
func (o *outbox) take() [][]byte {
	o.cut()
	return o.pieces
}

// maxFlat bounds what an empty outbox keeps.
const maxFlat = 2 * maxOutput

func (o *outbox) reset() {
	clear(o.pieces)
	o.pieces = o.pieces[:0]
	o.flat = o.flat[:0]
	if cap(o.flat) > maxFlat {
		o.flat = nil
	}
	o.mark, o.size = 0, 0
}
