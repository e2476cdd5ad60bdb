package session

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// maxControl is the largest payload of a control frame in bytes (RFC 6455,
// section 5.5).
const maxControl = ws.MaxControlFramePayloadSize

// rsv1 is the bit that marks a compressed message in the first byte of a frame (RFC
// 7692, section 6).
const rsv1 = 0x40

var (
	errCompressedBit = errors.New("the bit of compression is set, and not in the first frame of a message")
	errFrameLength   = errors.New("payload length is not minimal or has its top bit set")
	errCloseCode     = errors.New("close code may not be sent")
	errCloseBody     = errors.New("close payload has one byte")
	errCloseReason   = errors.New("close reason is not UTF-8")
)

// A frame is what the header of a client's frame says. The key that masks the
// payload is the last four bytes of the header.
type frame struct {
	op  ws.OpCode
	fin bool
	// compressed is set for the first frame of a compressed message (RFC 7692,
	// section 6).
	compressed bool
	length     int64 // of the payload, in bytes
}

// parseFrame reads the header of the frame that b starts with; size is its
// length in bytes, zero while it is incomplete. The header alone decides about
// most violations, so they are found before any payload has arrived (RFC 6455,
// section 5.2).
//
// It is ws.ReadHeader without the reader and its allocation.
// compression tells that it was agreed on.
func parseFrame(b []byte, fragmented, compression bool) (f frame, size int, err error) {
	if len(b) < 2 {
		return f, 0, nil
	}
	first, length := b[0], b[1]&0x7f
	f.op, f.fin = ws.OpCode(first&0x0f), first&0x80 != 0

	// A frame that is wrong in its first two bytes is refused on them. Nearly
	// all are whole messages of masked text, of which these say nothing wrong.
	if masked := b[1]&0x80 != 0; first != 0x80|byte(ws.OpText) || !masked || fragmented {
		state := ws.StateServerSide
		if fragmented {
			state = state.Set(ws.StateFragmented)
		}
		if compression && first&rsv1 != 0 {
			if f.op != ws.OpText && f.op != ws.OpBinary {
				return f, 0, errCompressedBit
			}
			f.compressed = true
			first &^= rsv1
		}
		h := ws.Header{Fin: f.fin, Rsv: first & 0x70 >> 4, OpCode: f.op, Masked: masked, Length: int64(length)}
		if err := ws.CheckHeader(h, state); err != nil {
			return f, 0, err
		}
	}

	f.length = int64(length)
	size = 2
	switch length {
	case 126:
		size += 2
		if len(b) < size {
			return f, 0, nil
		}
		f.length = int64(binary.BigEndian.Uint16(b[2:]))
		if f.length < 126 {
			return f, 0, errFrameLength
		}
	case 127:
		size += 8
		if len(b) < size {
			return f, 0, nil
		}
		n := binary.BigEndian.Uint64(b[2:])
		if n < 1<<16 || n >= 1<<63 {
			return f, 0, errFrameLength
		}
		f.length = int64(n)
	}
	if size += 4; len(b) < size {
		return f, 0, nil
	}
	return f, size, nil
}

// unmask unmasks a payload where it lies (RFC 6455, section 5.3). The
// last bytes, up to 15, do not go through ws.Cipher, which takes them one by one.
func unmask(p []byte, key [4]byte) {
	whole := len(p) &^ 15
	if whole > 0 {
		ws.Cipher(p[:whole], key, 0)
		p = p[whole:]
	}
	k := binary.LittleEndian.Uint32(key[:])
	if len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^(uint64(k)<<32|uint64(k)))
		p = p[8:]
	}
	if len(p) >= 4 {
		binary.LittleEndian.PutUint32(p, binary.LittleEndian.Uint32(p)^k)
		p = p[4:]
	}
	for i := range p {
		p[i] ^= key[i]
	}
}

// appendFrameHeader appends the header of an unfragmented, unmasked frame
// whose payload has n bytes (RFC 6455, section 5.2).
func appendFrameHeader(dst []byte, op ws.OpCode, n int) []byte {
	return appendHeader(dst, 0x80|byte(op), n)
}

// appendFragmentHeader is the same for a fragment of a message (section 5.4).
func appendFragmentHeader(dst []byte, op ws.OpCode, last bool, n int) []byte {
	if last {
		return appendHeader(dst, 0x80|byte(op), n)
	}
	return appendHeader(dst, byte(op), n)
}

// appendCompressedHeader appends the header of the frame of a compressed message, or of
// a part of one: only the first has RSV1 (RFC 7692, section 6.1).
func appendCompressedHeader(dst []byte, first, last bool, n int) []byte {
	b := byte(ws.OpContinuation)
	if first {
		b = byte(ws.OpText) | rsv1
	}
	if last {
		b |= 0x80
	}
	return appendHeader(dst, b, n)
}

func appendHeader(dst []byte, first byte, n int) []byte {
	dst = append(dst, first)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}

// parseClose checks the payload of a Close frame and returns the code to
// answer with, zero for a frame without one (RFC 6455, sections 5.5.1 and
// 7.4).
func parseClose(p []byte) (ws.StatusCode, error) {
	switch len(p) {
	case 0:
		return 0, nil
	case 1:
		return 0, errCloseBody
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(p))
	switch {
	case code >= 3000 && code <= 4999:
	case code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006:
	default:
		return 0, errCloseCode
	}
	if !utf8.Valid(p[2:]) {
		return 0, errCloseReason
	}
	return code, nil
}

// appendClose appends a Close frame; code zero sends one without payload.
func appendClose(dst []byte, code ws.StatusCode, reason string) []byte {
	if code == 0 {
		return appendFrameHeader(dst, ws.OpClose, 0)
	}
	reason = clip(reason, maxControl-2)
	dst = appendFrameHeader(dst, ws.OpClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// clip shortens s to at most n bytes without splitting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
