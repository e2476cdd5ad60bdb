package framing

import (
	"encoding/binary"
	"errors"
)

// stateVersion is the first byte of the state of a StreamSplitter.
const stateVersion = 1

var (
	errBusy         = errors.New("framing: the state of a StreamSplitter within a unit")
	errStateVersion = errors.New("framing: unknown version of the state of a StreamSplitter")
	errState        = errors.New("framing: broken state of a StreamSplitter")
)

// AppendBinary appends the state of d to b, for another process that goes on with the
// stream (encoding.BinaryAppender). It fails when d is in the middle of a unit: when the
// last call of Next has consumed all of its bytes, d is not.
func (d *StreamSplitter) AppendBinary(b []byte) ([]byte, error) {
	if d.phase != betweenUnits || d.xmlDeclSize != 0 {
		return b, errBusy
	}
	b = append(b, stateVersion)
	b = binary.AppendUvarint(b, uint64(d.consumed))
	if d.scope == nil {
		return binary.AppendUvarint(b, 0), nil
	}
	b = binary.AppendUvarint(b, uint64(len(d.scope.decls))+1)
	for _, decl := range d.scope.decls {
		for _, s := range []string{decl.prefix, decl.space, decl.text} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return b, nil
}

// UnmarshalBinary gives d the state that AppendBinary has written
// (encoding.BinaryUnmarshaler). It does not keep data.
func (d *StreamSplitter) UnmarshalBinary(data []byte) error {
	if len(data) == 0 || data[0] != stateVersion {
		return errStateVersion
	}
	r := stateReader{data[1:], true}
	restored := StreamSplitter{consumed: int(r.number())}
	if n := r.number(); n > 0 && n <= DefaultMaxAttributes+1 {
		decls := make([]inheritedDecl, n-1)
		for i := range decls {
			decls[i] = inheritedDecl{r.text(), r.text(), r.text()}
		}
		restored.scope = newScope(decls)
	} else if n > 0 {
		return errState
	}
	if !r.ok || len(r.b) > 0 || restored.consumed < 0 {
		return errState
	}
	*d = restored
	return nil
}

// A stateReader reads numbers and strings; ok becomes false when there are none.
type stateReader struct {
	b  []byte
	ok bool
}

func (r *stateReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.b, r.ok = nil, false
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *stateReader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.b, r.ok = nil, false
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
