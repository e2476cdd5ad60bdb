package proxy

import (
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Heads that come slowly hold memory in proportion to what has come of them.
//
// Behaviour: upgrade-limits. RFC 9112, section 2.3
func TestSlowHeadsAreCheap(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		if strings.HasSuffix(l, overTLS) {
			return
		}
		const conns = 100
		b := newBench(t, l, func(g *Gateway) { g.Dial = noServer; g.Static = nil })
		for _, c := range []struct{ sent, most int }{{200, 16 << 10}, {20 << 10, 128 << 10}} {
			part := goodRequest + "X: " + strings.Repeat("a", c.sent)
			var all []net.Conn
			before := heapInUse()
			for range conns {
				conn, err := net.Dial("tcp", b.gate.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				all = append(all, conn)
				for p := part; p != ""; {
					n := min(len(p), 1000)
					conn.Write([]byte(p[:n]))
					p = p[n:]
				}
			}
			for len(b.g.sessions()) < conns {
				time.Sleep(time.Millisecond)
			}
			each := (heapInUse() - before) / conns
			t.Logf("%d bytes sent: %d held", len(part), each)
			if each > c.most {
				t.Errorf("%d bytes of a head hold %d bytes", len(part), each)
			}
			for _, conn := range all {
				conn.Close()
			}
			for len(b.g.sessions()) > 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
}

func heapInUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse)
}
