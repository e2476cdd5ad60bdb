package proxy

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// A client that sends more than its rate is not read for a while. Nothing is kept for it
// meanwhile, the other direction goes on, and its end is noticed: then all that it has sent
// before is relayed. The pause is ten minutes long, so that no machine is too slow.
//
// Behaviour: pace. RFC 6120, section 4.9.3.14.
func TestPausedClients(t *testing.T) {
	const many = 600
	presences := strings.Repeat("<presence/>", many)
	frames := bytes.Repeat(maskedFrame(ws.OpText, true, []byte("<presence/>")), many)
	for name, limit := range map[string]func(*Gateway){
		"messages": func(g *Gateway) { g.StanzaRate = 1 },
		"bytes":    func(g *Gateway) { g.ByteRate = len(frames) / many },
	} {
		t.Run(name, func(t *testing.T) {
			onLoops(t, func(t *testing.T, l string) {
				t.Parallel()
				b := newAged(t, l, limit)
				cl, srv := b.connect()
				srv.SetDeadline(time.Time{})
				s := b.session()
				cl.Write(frames)
				b.expect(srv, presences)
				b.until(patience, func() bool { return s.state().Paused })

				b.send(cl, "<iq/>")
				b.pass(time.Second)
				if p := s.probe(); !s.state().Paused || p.Memory != [2]int{} || p.Kept != [2]int{} {
					t.Errorf("while it is not read: paused %v, %+v", s.state().Paused, p)
				}
				io.WriteString(srv, "<message/>")
				if m := b.message(cl); !strings.HasPrefix(m, "<message") {
					t.Errorf("the client got %q", m)
				}
				cl.CloseWrite()
				if b.sockets != nil { // whose clock may be faster than the kernel
					await(func() bool { return s.probe().SawFIN || b.session() == nil })
				}
				b.until(20*time.Second, func() bool { return b.ended("client-lost") })
				if got, err := io.ReadAll(srv); string(got) != "<iq/>" {
					t.Errorf("the server got %q, %v", got, err)
				}
				cl.Close()
				srv.Close()
			})
		})
	}
}

// A limit that is set while a client is connected concerns it at once.
func TestPaceOfLiveSessions(t *testing.T) {
	onLoops(t, func(t *testing.T, l string) {
		t.Parallel()
		b := newAged(t, l)
		cl, srv := b.connect()
		s := b.session()
		c := b.g.Config
		c.StanzaRate = 1
		if err := b.g.Update(c); err != nil {
			t.Fatal(err)
		}
		const many = 600
		cl.Write(bytes.Repeat(maskedFrame(ws.OpText, true, []byte("<presence/>")), many))
		b.expect(srv, strings.Repeat("<presence/>", many))
		b.until(patience, func() bool { return s.state().Paused })
		cl.Close()
		srv.Close()
	})
}

// Without a limit, and where the network is exempt, a client may send as much as it likes.
func TestPaceExempts(t *testing.T) {
	for name, option := range map[string]func(*Gateway){
		"off": func(*Gateway) {},
		"exempt": func(g *Gateway) {
			g.StanzaRate, g.NetworkLimits.Exempt = 1, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newAged(t, LoopAuto, option)
			cl, srv := b.connect()
			cl.Write(bytes.Repeat(maskedFrame(ws.OpText, true, []byte("<presence/>")), 600))
			b.expect(srv, strings.Repeat("<presence/>", 600))
			b.relays(cl, srv)
		})
	}
}
