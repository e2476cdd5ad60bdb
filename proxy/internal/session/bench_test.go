package session

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func BenchmarkUnmask(b *testing.B) {
	for name, n := range map[string]int{"223": 223, "64k": 64 << 10} {
		b.Run(name, func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				unmask(p, [4]byte{1, 2, 3, 4})
			}
		})
	}
}

// BenchmarkBatch is what a read of many stanzas costs a session, sockets
// excepted.
func BenchmarkBatch(b *testing.B) {
	const batch = 16
	stanza := "<message to='juliet@example.org/balcony' id='00000000' type='chat'><body>" +
		strings.Repeat("wherefore art thou? ", 6)[:110] + "</body></message>"
	for _, from := range []side{client, server} {
		in := []byte(stanza)
		if from == client {
			in = maskedFrame(ws.OpText, true, in)
		}
		in = bytes.Repeat(in, batch)
		b.Run([...]string{client: "up", server: "down"}[from], func(b *testing.B) {
			s, ev := newTestSession(b)
			read := make([]byte, len(in))
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				copy(read, in) // it is unmasked where it lies
				if rest := s.Receive(ev, from, read); len(rest) > 0 {
					b.Fatalf("%d bytes are left", len(rest))
				}
				o := &ev.Out[from.Other()]
				o.Take()
				o.Reset()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/stanza")
		})
	}
}
