package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// appendFrame appends one WebSocket frame, masked as clients must.
func appendFrame(dst []byte, opcode byte, masked bool, payload []byte) []byte {
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, bit|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, bit|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, bit|127), uint64(n))
	}
	if !masked {
		return append(dst, payload...)
	}
	dst = append(dst, maskKey[:]...)
	for i, c := range payload {
		dst = append(dst, c^maskKey[i&3])
	}
	return dst
}

// A deframer takes unmasked frames apart as they arrive.
type deframer struct {
	header [10]byte
	have   int // bytes of the header
	remain int // bytes of the payload still to come
}

// next returns the part of the current frame's payload that b begins with,
// how much of b is used, and whether the frame ends here.
func (d *deframer) next(b []byte) (payload []byte, used int, end bool) {
	for need := d.need(); d.have < need; need = d.need() {
		if used == len(b) {
			return nil, used, false
		}
		d.header[d.have] = b[used]
		d.have++
		used++
		if d.have == d.need() {
			switch n := d.header[1]; n {
			case 126:
				d.remain = int(binary.BigEndian.Uint16(d.header[2:]))
			case 127:
				d.remain = int(binary.BigEndian.Uint64(d.header[2:]))
			default:
				d.remain = int(n)
			}
		}
	}
	n := min(d.remain, len(b)-used)
	payload = b[used : used+n]
	d.remain -= n
	if d.remain > 0 {
		return payload, used + n, false
	}
	d.have = 0
	return payload, used + n, true
}

func (d *deframer) need() int {
	switch {
	case d.have < 2:
		return 2
	case d.header[1] == 126:
		return 4
	case d.header[1] == 127:
		return 10
	}
	return 2
}

func (d *deframer) fin() bool    { return d.header[0]&0x80 != 0 }
func (d *deframer) opcode() byte { return d.header[0] & 0xf }

// check fails for a frame from a server that is masked or reserved.
func (d *deframer) check() error {
	if d.header[0]&0x70 != 0 || d.header[1]&0x80 != 0 {
		return fmt.Errorf("frame header % x", d.header[:2])
	}
	return nil
}

var errDiffers = errors.New("what arrived is not what was sent")
