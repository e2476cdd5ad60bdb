package proxy

import (
	"cmp"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/loop"
)

// limitBuffers is LimitBuffers for a test: n more bytes than are in use now.
func limitBuffers(t *testing.T, n int64) (limit int64) {
	before, _ := Buffers()
	limit = before + n
	LimitBuffers(limit)
	t.Cleanup(func() { LimitBuffers(math.MaxInt64) })
	return limit
}

// What clients fill that do not finish their messages is bounded while they do it, not at
// the next look at memory. A client of short messages goes on.
func TestUnfinishedMessagesAreBounded(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		before, _ := Buffers()
		const clients = 12
		limit := limitBuffers(t, 1<<20)
		good, goodServer := b.connect()
		io.WriteString(goodServer, "<stream:features/>")
		b.message(good)
		part := maskedFrame(ws.OpText, true, []byte("<iq>"+strings.Repeat("x", 200_000)+"</iq>"))[:150_000]
		var most int64
		ended := 0
		var all []io.Closer
		for range clients {
			cl, srv := b.connect()
			all = append(all, cl, srv)
			io.WriteString(srv, "<stream:features/>")
			b.message(cl)
			go io.Copy(io.Discard, cl)
			newest := slices.MaxFunc(b.g.sessions(), func(x, y *live) int { return cmp.Compare(x.s.ID(), y.s.ID()) })
			cl.Write(part)
			await(func() bool {
				n, _ := Buffers()
				most = max(most, n)
				if newest.ended("memory-short") {
					ended++
					return true
				}
				return newest.probe().Kept[client] >= 150_000-14
			})
		}
		// What takes it beyond the limit is a buffer of one session.
		if most > limit+loop.LargeBuffer {
			t.Errorf("buffers had %d KiB, limit %d KiB", (most-before)>>10, (limit-before)>>10)
		}
		if ended == 0 || ended == clients {
			t.Errorf("%d of %d sessions have ended", ended, clients)
		}
		b.relays(good, goodServer)
		for _, c := range all {
			c.Close()
		}
		await(func() bool { n, _ := Buffers(); return n == before }) // nothing is counted twice
	})
}

// While buffers are short less is read of servers, except with TLS, whose records are whole, so that clients that read slowly cost a
// little each, and go on.
func TestSlowClientsGoOnWhileBuffersAreShort(t *testing.T) {
	for _, l := range []string{LoopAuto, LoopGoroutine} {
		t.Run(l, func(t *testing.T) {
			// Nobody is given up, however long it takes to fill the buffers of the kernel.
			b := newBench(t, l, func(g *Gateway) { g.clock = newHandClock().now })
			holder, holderServer := b.connect()
			holder.Write([]byte{0x81}) // an unfinished frame
			await(func() bool { n, _ := Buffers(); return n > 0 && b.g.sessions()[0].probe().Kept[client] == 1 })
			limitBuffers(t, 0)
			LimitBuffers(1) // of which more than half is in use
			cl, srv := b.connect()
			var slow *live
			for _, s := range b.g.sessions() {
				if s.probe().Kept[client] == 0 {
					slow = s
				}
			}
			stanza := "<message><body>" + strings.Repeat("x", 200) + "</body></message>"
			sent, rest := 0, ""
			for !slow.probe().Blocked[client] {
				if rest == "" {
					rest = strings.Repeat(stanza, 100)
					sent += 100
				}
				srv.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // nobody reads when the client is blocked
				n, err := io.WriteString(srv, rest)
				if rest = rest[n:]; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				if p := slow.probe(); p.Memory[client] > loop.LittleHeld {
					t.Fatalf("%d bytes are held", p.Memory[client])
				}
			}
			srv.SetWriteDeadline(time.Now().Add(patience))
			p := slow.probe()
			if p.Memory[client] == 0 || p.Memory[client] > loop.LittleHeld {
				t.Errorf("%d bytes are held", p.Memory[client])
			}
			go io.WriteString(srv, rest)
			for range sent {
				b.message(cl)
			}
			b.relays(cl, srv)
			holder.Close()
			holderServer.Close()
		})
	}
}
