//go:build linux

package framing

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// expat is the parser of Prosody, ejabberd and most clients that are not browsers. What
// Parse accepts expat must take as exactly one element that ends with the message, or not
// at all; what StreamSplitter makes of a stream that expat takes it must take as
// documents, as many as the stream has elements.

// An expatHelper is testdata/expat.c as it runs.
type expatHelper struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

// An expatAnswer says what expat makes of a text.
type expatAnswer struct{ err, elements, end, other uint32 }

var expat = sync.OnceValues(func() (*expatHelper, error) {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		return nil, err
	}
	program := filepath.Join(expatDir, "expat")
	if out, err := exec.Command("cc", "-O2", "-o", program, filepath.Join(dir, "expat.c"), "-lexpat").CombinedOutput(); err != nil {
		return nil, errors.New("cc: " + err.Error() + "\n" + string(out) + "apt-get install gcc libc6-dev libexpat1-dev")
	}
	c := exec.Command(program)
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &expatHelper{in: in, out: bufio.NewReader(out)}, c.Start()
})

// expatDir is where the helper is built. It is set once, before expat is called.
var expatDir string

// parse returns what expat makes of text behind prefix.
func (h *expatHelper) parse(t testing.TB, prefix string, text []byte) (a expatAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := binary.BigEndian.AppendUint32(nil, uint32(len(prefix)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = append(append(b, prefix...), text...)
	if _, err := h.in.Write(b); err != nil {
		t.Fatal(err)
	}
	var numbers [16]byte
	if _, err := io.ReadFull(h.out, numbers[:]); err != nil {
		t.Fatal(err)
	}
	n := func(i int) uint32 { return binary.BigEndian.Uint32(numbers[4*i:]) }
	return expatAnswer{n(0), n(1), n(2), n(3)}
}

func newExpat(tb testing.TB) *expatHelper {
	tb.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		tb.Skip("there is no C compiler")
	}
	if expatDir == "" {
		expatDir = tb.TempDir()
	}
	h, err := expat()
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

const streamHeader = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`

// checkExpat compares with expat what becomes of b in both directions.
func checkExpat(t *testing.T, h *expatHelper, b []byte) (accepted, units int) {
	if m, err := parse(new(MessageParser), b); err == nil && m.Kind == KindElement {
		accepted++
		a := h.parse(t, streamHeader, m.Raw)
		if a.err == 0 && (a.elements != 1 || int(a.end) != len(m.Raw) || a.other != 0) {
			t.Fatalf("%q is accepted, but expat finds %+v in it", m.Raw, a)
		}
		// By the fourth edition of XML 1.0 fewer characters are those of names.
		if a.err != 0 && isASCII(m.Raw) {
			t.Fatalf("%q is accepted, but expat says error %d", m.Raw, a.err)
		}
	} else if e := (*Error)(nil); errors.As(err, &e) && e.Condition == CondNotWellFormed {
		if _, ok := lenient[e.Err]; !ok {
			body := bytes.TrimRight(b, " \t\r\n")
			if a := h.parse(t, streamHeader, body); a.err == 0 && a.elements == 1 && int(a.end) == len(body) && a.other == 0 {
				t.Fatalf("%q: %v, but expat takes it", b, err)
			}
		}
	}

	var d StreamSplitter
	var u StreamUnit
	if n, err := d.Next([]byte(streamHeader), &u); err != nil || n != len(streamHeader) {
		t.Fatal(err)
	}
	var messages []string
	rest := b
	for {
		n, err := d.Next(rest, &u)
		if err != nil || u.Kind != KindElement {
			break
		}
		messages = append(messages, message(&u, nil))
		rest = rest[n:]
	}
	units = len(messages)
	if units == 0 {
		return accepted, 0
	}
	if a := h.parse(t, streamHeader, b[:len(b)-len(rest)]); a.err != 0 || a.other != 0 && int(a.elements) != units {
		return accepted, units // no duty to make good of bad
	} else if int(a.elements) != units {
		t.Fatalf("%q has %d elements, but expat finds %d", b, units, a.elements)
	}
	for _, m := range messages {
		if a := h.parse(t, "", []byte(m)); a.err != 0 || a.elements != 1 || int(a.end) != len(m) {
			t.Fatalf("%q becomes the message %q, in which expat finds %+v", b, m, a)
		}
	}
	return accepted, units
}

func FuzzExpat(f *testing.F) {
	h := newExpat(f)
	for _, dir := range []string{"up", "down", "features"} {
		for _, v := range vectors(f, dir) {
			f.Add(v.in)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkExpat(t, h, b) })
}

func TestExpatSoup(t *testing.T) {
	h := newExpat(t)
	r := rand.New(rand.NewPCG(3, 4))
	n := 40_000
	if testing.Short() {
		n /= 10
	}
	accepted, units := 0, 0
	for range n {
		var b []byte
		for range 1 + r.IntN(12) {
			b = append(b, soup[r.IntN(len(soup))]...)
		}
		a, u := checkExpat(t, h, b)
		accepted, units = accepted+a, units+u
	}
	if accepted < n/1000 || units < n/100 {
		t.Errorf("of %d inputs only %d accepted and %d elements found: the soup is too thin", n, accepted, units)
	}
}
