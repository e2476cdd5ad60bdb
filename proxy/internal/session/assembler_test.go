package session

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// assembleAll feeds in to an assembler, in two pieces, and tells what comes out.
func assembleAll(in []byte, cut, limit int) (got []string, err error) {
	var u unfinished
	var window []byte
	for _, piece := range [][]byte{in[:cut], in[cut:]} {
		var a assembler
		a.begin(append(bytes.Clone(window), piece...), u, false)
		for {
			op, payload, ok, err := a.next(limit)
			if err != nil {
				return got, err
			}
			if !ok {
				break
			}
			got = append(got, fmt.Sprintf("%d %s", op, payload))
		}
		window, u = a.rest(), a.kept()
	}
	if len(window) > 0 || u != (unfinished{}) {
		got = append(got, fmt.Sprintf("%d bytes, %d of %d frames", len(window), u.size, u.frames))
	}
	return got, nil
}

// Frames become messages and control frames, wherever the stream is cut.
func TestAssembler(t *testing.T) {
	frames := func(all ...[]byte) []byte { return slices.Concat(all...) }
	frame := func(op ws.OpCode, fin bool, payload string) []byte { return maskedFrame(op, fin, []byte(payload)) }
	long := strings.Repeat("x", 10)
	for name, c := range map[string]struct {
		in   []byte
		want []string
		err  error
	}{
		"one frame":   {frame(ws.OpText, true, "<a/>"), []string{"1 <a/>"}, nil},
		"two":         {frames(frame(ws.OpText, true, "<a/>"), frame(ws.OpText, true, "<b/>")), []string{"1 <a/>", "1 <b/>"}, nil},
		"empty":       {frame(ws.OpText, true, ""), []string{"1 "}, nil},
		"fragments":   {frames(frame(ws.OpText, false, "<a"), frame(ws.OpContinuation, false, ""), frame(ws.OpContinuation, true, "/>"), frame(ws.OpText, true, "<b/>")), []string{"1 <a/>", "1 <b/>"}, nil},
		"control":     {frames(frame(ws.OpText, false, "<a"), frame(ws.OpPing, true, "p"), frame(ws.OpContinuation, true, "/>"), frame(ws.OpClose, true, "")), []string{"9 p", "1 <a/>", "8 "}, nil},
		"empty parts": {frames(frame(ws.OpText, false, ""), frame(ws.OpPing, true, ""), frame(ws.OpContinuation, true, "")), []string{"9 ", "1 "}, nil},
		"unfinished":  {frames(frame(ws.OpText, true, "<a/>"), frame(ws.OpText, false, "<b"), frame(ws.OpPong, true, "q")), []string{"1 <a/>", "10 q", "2 bytes, 2 of 1 frames"}, nil},
		"limit":       {frame(ws.OpText, true, long), []string{"1 " + long}, nil},
		"too large":   {frame(ws.OpText, true, long+"y"), nil, sizeError(11)},
		"in all":      {frames(frame(ws.OpText, false, long), frame(ws.OpContinuation, true, "y")), nil, sizeError(11)},
		"binary":      {frame(ws.OpBinary, true, "<a/>"), nil, errBinary},
		"unmasked":    {[]byte{0x81, 0}, nil, ws.ErrProtocolMaskRequired},
		"text inside": {frames(frame(ws.OpText, false, "<a"), frame(ws.OpText, true, "/>")), nil, ws.ErrProtocolContinuationExpected},
		"behind none": {frame(ws.OpContinuation, true, "/>"), nil, ws.ErrProtocolContinuationUnexpected},
	} {
		for cut := range len(c.in) + 1 {
			got, err := assembleAll(c.in, cut, len(long))
			if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
				t.Errorf("%s, cut at %d: got %q, %v, want %q, %v", name, cut, got, err, c.want, c.err)
			}
		}
	}
}

// What is too large is refused on the header of its frame, whatever the limit, and
// no length overflows.
func TestAssemblerDoesNotWait(t *testing.T) {
	for _, limit := range []int{0, 4, math.MaxInt32, math.MaxInt} {
		var a assembler
		a.begin([]byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, unfinished{size: min(3, int32(limit)), frames: 0}, false)
		a.pos = 0
		if _, _, _, err := a.next(limit); err != sizeError(math.MaxInt) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// A message has at most maxFragments frames.
func TestAssemblerCountsFragments(t *testing.T) {
	in := maskedFrame(ws.OpText, false, nil)
	for range maxFragments - 2 {
		in = append(in, maskedFrame(ws.OpContinuation, false, nil)...)
	}
	if got, err := assembleAll(append(bytes.Clone(in), maskedFrame(ws.OpContinuation, true, []byte("a"))...), 0, 9); err != nil || !slices.Equal(got, []string{"1 a"}) {
		t.Errorf("%d fragments: got %q, %v", maxFragments, got, err)
	}
	in = append(in, maskedFrame(ws.OpContinuation, false, nil)...)
	if _, err := assembleAll(append(in, maskedFrame(ws.OpContinuation, true, []byte("a"))...), 0, 9); err != errFragments {
		t.Errorf("one more: %v", err)
	}
}
