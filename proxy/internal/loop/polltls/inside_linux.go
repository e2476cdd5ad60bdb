package polltls

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"sync"
	"unsafe"
)

// Sizes in bytes.
const (
	headerSize = 5 // of a record
	// maxRecord is what crypto/tls takes for a record at most.
	maxRecord = headerSize + maxPlaintext + 2<<10
)

// A lentBuffer is lent to crypto/tls for as long as one Read takes: it has room
// for what is received and for crypto/tls to ask for the rest of a record. For
// a Write it holds the contents of one record and four records.
type lentBuffer [maxReceive + maxRecord + 4<<10]byte

// A keptBuffer holds what one Read leaves to the next: part of a record.
type keptBuffer [maxRecord]byte

var (
	lentBuffers = sync.Pool{New: func() any { return new(lentBuffer) }}
	keptBuffers = sync.Pool{New: func() any { return new(keptBuffer) }}
)

// internals are the buffers inside a tls.Conn. It would never give them back,
// which is most of what an idle connection holds, and receive into as few bytes
// as it can, which makes many system calls of one.
type internals struct {
	raw     *bytes.Buffer // received, not decrypted
	input   *bytes.Reader // decrypted, not read; the memory is that of raw
	hand    *bytes.Buffer // an incomplete handshake message
	sendBuf *[]byte       // records of the handshake
}

// layout is where a tls.Conn has its buffers.
type layout struct{ raw, input, hand, sendBuf uintptr }

// tlsLayout is the layout of the crypto/tls that this program is built with,
// or nil when that has changed from what is known here. Then connections work
// all the same, and take more memory and time.
var tlsLayout = findLayout(reflect.TypeFor[tls.Conn]())

func findLayout(conn reflect.Type) *layout {
	var l layout
	for _, f := range []struct {
		name   string
		want   reflect.Type
		offset *uintptr
	}{
		{"rawInput", reflect.TypeFor[bytes.Buffer](), &l.raw},
		{"input", reflect.TypeFor[bytes.Reader](), &l.input},
		{"hand", reflect.TypeFor[bytes.Buffer](), &l.hand},
		{"sendBuf", reflect.TypeFor[[]byte](), &l.sendBuf},
	} {
		field, ok := conn.FieldByName(f.name)
		if !ok || len(field.Index) != 1 || field.Type != f.want {
			return nil
		}
		*f.offset = field.Offset
	}
	return &l
}

// inside returns the buffers of t.
func (l *layout) inside(t *tls.Conn) internals {
	p := unsafe.Pointer(t)
	return internals{
		raw:     (*bytes.Buffer)(unsafe.Add(p, l.raw)),
		input:   (*bytes.Reader)(unsafe.Add(p, l.input)),
		hand:    (*bytes.Buffer)(unsafe.Add(p, l.hand)),
		sendBuf: (*[]byte)(unsafe.Add(p, l.sendBuf)),
	}
}

// held is how many bytes were received and not read.
func (in internals) held() int { return in.raw.Len() + in.input.Len() }

// lend makes b the memory of what is received and returns the room for more.
// What is decrypted must have been read, and b have room for the rest.
func (in internals) lend(b []byte) []byte {
	n := copy(b, in.raw.Bytes())
	*in.raw = *bytes.NewBuffer(b[:n])
	return b[n:]
}

// extend adds n bytes that were received into what lend has returned.
func (in internals) extend(n int) {
	b := in.raw.Bytes()
	*in.raw = *bytes.NewBuffer(b[:len(b)+n])
}

// move makes b, which must have room for it, the memory of all that is held.
func (in internals) move(b []byte) {
	k, _ := in.input.Read(b[:in.input.Len()])
	in.input.Reset(b[:k])
	b = b[k:]
	*in.raw = *bytes.NewBuffer(b[:copy(b, in.raw.Bytes())])
}

// trim drops the buffers that hold nothing.
func (in internals) trim() {
	if in.held() == 0 {
		// A reader at its end still has the memory of raw.
		*in.raw, *in.input = bytes.Buffer{}, bytes.Reader{}
	}
	if in.hand.Len() == 0 {
		*in.hand = bytes.Buffer{}
	}
	if len(*in.sendBuf) == 0 {
		*in.sendBuf = nil
	}
}
