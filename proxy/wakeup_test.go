package proxy

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// A hop is one stanza on its way through a live gateway.
type hop struct {
	name     string
	from, to net.Conn
	out      []byte // written to from
	in       []byte // read from to
}

// hops opens a session and returns its two directions.
func (b *bench) hops() []hop {
	cl, srv := b.connect()
	stanza := "<message to='a@b' type='chat' id='1'><body>" + strings.Repeat("x", 140) + "</body></message>"
	frame := maskedFrame(ws.OpText, true, []byte(stanza))
	restored := strings.Replace(stanza, "<message", `<message xmlns="jabber:client"`, 1)
	return []hop{
		{"up", cl, srv, frame, make([]byte, len(stanza))},
		{"down", srv, cl, []byte(stanza), make([]byte, len(restored)+frameHeaderSize(len(restored)))},
	}
}

func (h hop) pass(tb testing.TB) {
	if _, err := h.from.Write(h.out); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(h.to, h.in); err != nil {
		tb.Fatal(err)
	}
}

// A stanza costs no allocation on its way from socket to socket. The goroutine
// loop pays for its closures.
func TestWakeUpAllocatesNothing(t *testing.T) {
	for _, name := range []string{LoopAuto, LoopAuto + overTLS} {
		b := newBench(t, name)
		hops := b.hops()
		if _, ok := b.g.loop.(goroutines); ok {
			return // this platform has no other loop
		}
		for _, h := range hops {
			most := 0.0
			if strings.HasSuffix(name, overTLS) {
				// In the test's own end, which is crypto/tls as usual. What
				// the gateway's costs is a test of polltls.
				most = 1
			}
			if n := testing.AllocsPerRun(200, func() { h.pass(t) }); n > most {
				t.Errorf("%s, %s: %v allocations for each stanza", name, h.name, n)
			}
		}
	}
}

func BenchmarkWakeUp(b *testing.B) {
	for _, loop := range loops {
		b.Run(loop, func(b *testing.B) {
			for _, h := range newBench(b, loop).hops() {
				b.Run(h.name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						h.pass(b)
					}
				})
			}
		})
	}
}

func BenchmarkUnmask(b *testing.B) {
	for name, n := range map[string]int{"200": 200, "64k": 64 << 10} {
		b.Run(name, func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				ws.Cipher(p, [4]byte{1, 2, 3, 4}, 0)
			}
		})
	}
}
