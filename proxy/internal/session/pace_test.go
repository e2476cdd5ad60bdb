package session

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/relay"
)

// newPaced returns a session whose client may send so many messages and bytes a second.
func newPaced(t *testing.T, messages, bytes int) (*Session, *relay.Event, *fakeHost) {
	t.Helper()
	set := testSettings()
	set.Limits = new(atomic.Pointer[Limits])
	set.Limits.Store(&Limits{Messages: messages, Bytes: bytes})
	s, ev := newTestSessionOf(t, set, &Server{Name: "tcp://127.0.0.1:5222", Static: true})
	s.paidUntil = paceClock(ev.Now)
	return s, ev, s.host.(*fakeHost)
}

// sends counts the events, of one message each, until the client is paused.
func sends(s *Session, ev *relay.Event, message string) (n int) {
	for n = 0; n < 1_000_000 && !s.paused(); n++ {
		s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(message)))
		ev.Out[server].Reset()
	}
	return n
}

// Of each rate a client may send that of ten seconds at once, and after a pause goes on
// at the rate.
func TestPace(t *testing.T) {
	const presence = "<presence/>"
	size := len(presence) + 6
	for name, c := range map[string]struct{ messages, bytes int }{
		"messages":              {50, 0},
		"bytes":                 {0, 50 * size},
		"both":                  {50, 1000 * size},
		"both, other way round": {1000, 50 * size},
	} {
		t.Run(name, func(t *testing.T) {
			s, ev, h := newPaced(t, c.messages, c.bytes)
			const burst = 500
			if n := sends(s, ev, presence); n < burst-20 || n > burst+1 {
				t.Errorf("%d messages at once, want about %d", n, burst)
			}
			if s.Reads(ev.Conns, client) || !s.Reads(ev.Conns, server) || s.Waits(ev.Conns, client) || h.pauses != 1 {
				t.Error("the client is read, or the server is not")
			}
			total, begun := 0, ev.Now
			for range 100 {
				ev.Now = s.Deadline(ev.Conns)
				if s.Expired(ev); s.paused() {
					t.Fatalf("it is not read at its deadline, %v", ev.Now)
				}
				total += sends(s, ev, presence)
			}
			if rate := float64(total) / (ev.Now - begun).Seconds(); rate < 45 || rate > 51 {
				t.Errorf("%g messages a second", rate)
			}
			ev.Now += time.Hour
			s.Expired(ev)
			if n := sends(s, ev, presence); n < burst-20 || n > burst+1 {
				t.Errorf("%d messages at once after an hour", n)
			}
		})
	}
}

// No message costs more than an hour, whatever the rate is: the clock could not tell it from
// the past.
func TestPaceIsBounded(t *testing.T) {
	s, ev, _ := newPaced(t, 0, 1)
	if n := sends(s, ev, "<iq>"+strings.Repeat("x", 9000)+"</iq>"); n != 1 { // worth two and a half hours
		t.Fatalf("%d messages at once", n)
	}
	if d := s.extra.resume - ev.Now; d > maxAhead || d < maxAhead-2*paceBurst {
		t.Errorf("it is not read for %v, want about %v", d, maxAhead)
	}
}

// The clock of the pace wraps. A client that is heard of now and then does not notice.
func TestPaceClockWraps(t *testing.T) {
	s, ev, _ := newPaced(t, 10, 0)
	for range 100 {
		ev.Now += 20 * time.Hour
		s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte("<presence/>")))
		ev.Out[server].Reset()
		if s.paused() {
			t.Fatalf("paused at %v for one message", ev.Now)
		}
	}
}

// Control frames count, and so does one message that costs more than anybody waits for.
func TestPaceCounts(t *testing.T) {
	s, ev, _ := newPaced(t, 1, 0)
	for range 11 {
		s.Receive(ev, client, maskedFrame(ws.OpPing, true, nil))
		ev.Out[client].Reset()
	}
	if !s.paused() {
		t.Error("pings cost nothing")
	}
	s, ev, _ = newPaced(t, 0, 1)
	s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte("<iq>"+strings.Repeat("x", 200_000)+"</iq>")))
	ev.Out[server].Reset()
	if wait := s.Deadline(ev.Conns) - ev.Now; !s.paused() || wait > maxAhead {
		t.Errorf("paused %v, for %v", s.paused(), wait)
	}
}

// What is counted costs no memory.
func TestPaceAllocates(t *testing.T) {
	s, ev, _ := newPaced(t, 5000, 1<<30)
	in := maskedFrame(ws.OpText, true, []byte("<presence/>"))
	read := make([]byte, len(in))
	if n := testing.AllocsPerRun(1000, func() {
		copy(read, in)
		s.Receive(ev, client, read)
		ev.Out[server].Reset()
	}); n != 0 {
		t.Errorf("%v allocations for a message", n)
	}
}
