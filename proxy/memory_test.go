package proxy

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
)

// hostile are streams of servers that try to make the gateway keep more than they
// send, or more than it should. start follows <stream:stream without its
// declarations and '>'; more is repeated without end.
var hostile = map[string]struct{ header, start, more string }{
	"tiny elements": {"", "", "<a/>"},
	"tiny elements, a large header": {
		" xmlns:x='" + strings.Repeat("u", 3500) + "'", "", "<a x:b=''/>"},
	"many prefixes":        {prefixes(58), "", "<a" + mentions(58) + "/>"},
	"features":             {"", "", "<stream:features/>"},
	"features without end": {"", "<stream:features>", strings.Repeat("<a/>", 100)},
	"endless text":         {"", "<iq><a>", strings.Repeat("é", 1000)},
	"endless section":      {"", "<iq><![CDATA[", strings.Repeat("]", 1000)},
	"endless value":        {"", "<iq><a b='", strings.Repeat(">", 1000)},
	"endless start tag":    {"", "<iq id='", strings.Repeat("x", 1000)},
	"endless end tag":      {"", "<iq><a></", strings.Repeat("x", 1000)},
	"endless depth":        {"", "", strings.Repeat("<a>", 1000)},
	"white space":          {"", "", strings.Repeat(" \n", 1000)},
	"elements of 250 kB":   {"", "", "<a>" + strings.Repeat("x", 250_000) + "</a>"},
	"elements of 100 kB":   {"", "", "<a>" + strings.Repeat("x", 100_000) + "</a>"},
	"elements of 1 MB":     {"", "", "<a>" + strings.Repeat("x", 1_000_000) + "</a>"},
	"100 kB, then tiny":    {"", "", "<a>" + strings.Repeat("x", 100_000) + "</a>" + strings.Repeat("<a/>", 100_000)},
}

func prefixes(n int) (s string) {
	for i := range n {
		s += fmt.Sprintf(" xmlns:p%d='urn:x:%d'", i, i)
	}
	return s
}

func mentions(n int) (s string) {
	for i := range n {
		s += fmt.Sprintf(" p%d:a=''", i)
	}
	return s
}

// keptBytes is how much memory the loop keeps of what the server has sent.
func keptBytes(l *live) int { return l.probe().Memory[client] }

// Whatever a server sends, and whether the client reads or not, a session keeps
// little of it.
//
// Behaviour: back-pressure, server-too-large. RFC 6455, section 10.4.
func TestServersAreBounded(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		if testing.Short() && l != LoopAuto {
			t.Skip("takes long")
		}
		for name, stream := range hostile {
			for _, reads := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, reads %t", name, reads), func(t *testing.T) {
					t.Parallel()
					b := newBench(t, l)
					cl, srv := b.connectWith(strings.TrimSuffix(testHeader, ">") + stream.header + ">")
					if reads {
						go io.Copy(io.Discard, cl)
					} else {
						cl.SetReadBuffer(4096)
					}
					most := 0
					look := func() {
						for _, s := range b.g.sessions() {
							most = max(most, keptBytes(s))
						}
					}
					srv.SetWriteDeadline(time.Now().Add(patience))
					io.WriteString(srv, stream.start)
					more := bytes.Repeat([]byte(stream.more), 1+100_000/len(stream.more))
					for sent := 0; sent < 12<<20; {
						srv.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
						n, err := srv.Write(more)
						sent += n
						look()
						if err != nil {
							break
						}
					}
					look()
					t.Logf("at most %d bytes", most)
					if limit := loop.LargeBuffer + relay.ReadSize; most > limit {
						t.Errorf("a session keeps %d bytes, want at most %d", most, limit)
					}
				})
			}
		}
	})
}

// The whole process does not grow either. What is counted is the heap in use, with
// what was let go of since the last collection.
func TestServersDoNotBlowUp(t *testing.T) {
	b := newBench(t, LoopAuto)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse
	}
	names := []string{"tiny elements, a large header", "many prefixes", "elements of 1 MB", "endless text"}
	var all [][]byte
	for _, name := range names {
		all = append(all, bytes.Repeat([]byte(hostile[name].more), 1+100_000/len(hostile[name].more)))
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	for i, name := range names {
		stream := hostile[name]
		cl, srv := b.connectWith(strings.TrimSuffix(testHeader, ">") + stream.header + ">")
		cl.SetReadBuffer(4096)
		io.WriteString(srv, stream.start)
		for range 200 {
			srv.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err := srv.Write(all[i])
			most = max(most, heap())
			if err != nil {
				break
			}
		}
		cl.Close()
		srv.Close()
	}
	if most > before+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, most)
	}
	t.Logf("from %d to %d bytes", before, most)
}

// A server that leaves an element unfinished in each of its sessions fills a large buffer
// in a few of them. Then the others get what there is of it as fragments, and all clients
// get the whole of it in the end.
//
// Behaviour: server-large. RFC 6455, section 10.4.
func TestLargeBuffersAreFew(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		const allowed, sessions, size = 3, 12, 200_000
		loop.AllowLarge(allowed)
		defer loop.AllowLarge(loop.ManyLargeBuffers)
		b := newBench(t, l)
		start, end := "<iq><a>"+strings.Repeat("x", size), "</a></iq>"
		type one struct {
			srv       serverConn
			got       atomic.Int64 // bytes of fragments
			fragments int
			done      chan error
		}
		var all []*one
		for range sessions {
			cl, srv := b.connect()
			c := &one{srv: srv, done: make(chan error, 1)}
			all = append(all, c)
			go func() {
				for {
					h, err := ws.ReadHeader(cl)
					if err == nil {
						_, err = io.CopyN(io.Discard, cl, h.Length)
					}
					c.got.Add(h.Length)
					c.fragments++
					if err != nil || h.Fin {
						c.done <- err
						return
					}
				}
			}()
			io.WriteString(srv, start)
			await(func() bool {
				arrived := 0
				for _, c := range all {
					arrived += int(c.got.Load())
				}
				for _, s := range b.g.sessions() {
					arrived += s.probe().Kept[server]
				}
				return arrived >= len(all)*len(start)
			})
			if n := loop.LargeInUse(); n > allowed {
				t.Fatalf("%d large buffers are in use by %d sessions, want at most %d", n, len(all), allowed)
			}
		}
		for i, c := range all {
			io.WriteString(c.srv, end)
			if err := <-c.done; err != nil || int(c.got.Load()) < size {
				t.Errorf("session %d: got %d bytes, %v", i, c.got.Load(), err)
			}
			if i >= allowed && c.fragments < 2 {
				t.Errorf("session %d: one message that was kept whole", i)
			}
		}
	})
}

// A client that reads in the end gets everything in order, whatever had to wait.
func TestNothingIsLostWhenTheClientIsSlow(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		b := newBench(t, l)
		cl, srv := b.connectWith(strings.TrimSuffix(testHeader, ">") + " xmlns:x='" + strings.Repeat("u", 3000) + "'>")
		const count, every = 20_000, 5000
		go func() {
			var out bytes.Buffer
			for i := range count {
				fmt.Fprintf(&out, "<a x:n='%d'/>", i)
				if i%every == 0 {
					fmt.Fprintf(&out, "<iq id='%d'>%s</iq>", i, strings.Repeat("é", 300_000))
				}
			}
			out.WriteString("</stream:stream>")
			srv.Write(out.Bytes())
			srv.Close()
		}()
		time.Sleep(100 * time.Millisecond)
		for i := range count {
			if m := b.message(cl); !strings.HasSuffix(m, fmt.Sprintf(" x:n='%d'/>", i)) || len(m) > 3200 {
				t.Fatalf("element %d: got %d bytes, %.100q", i, len(m), m)
			}
			if i%every == 0 {
				if m := b.message(cl); len(m) < 600_000 || !strings.Contains(m[:4000], fmt.Sprintf(" id='%d'>é", i)) || !strings.HasSuffix(m, "é</iq>") {
					t.Fatalf("iq %d: got %d bytes, %.100q", i, len(m), m)
				}
			}
		}
		if m := b.message(cl); !strings.HasPrefix(m, "<close ") {
			t.Errorf("got %.100q", m)
		}
	})
}
