package proxy

import (
	"io"
	"net"
	"runtime"
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
		{"down", srv, cl, []byte(stanza), make([]byte, len(restored)+4)},
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

// A stanza costs no allocation on its way from socket to socket (what TLS costs
// is a test of polltls, for here the other end is crypto/tls). The goroutine
// loop pays for its closures.
func TestWakeUpAllocatesNothing(t *testing.T) {
	b := newBench(t, LoopAuto)
	hops := b.hops()
	if runtime.GOOS != "linux" {
		return // there is no other loop
	}
	for _, h := range hops {
		if n := testing.AllocsPerRun(200, func() { h.pass(t) }); n != 0 {
			t.Errorf("%s: %v allocations for each stanza", h.name, n)
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

// BenchmarkSession is what a session costs that opens and ends, with its client
// and its server.
func BenchmarkSession(b *testing.B) {
	g := newBench(b, LoopAuto)
	for b.Loop() {
		cl, srv := g.connect()
		cl.SetLinger(0)
		cl.Close()
		io.Copy(io.Discard, srv)
		srv.Close()
	}
}
