package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/upstream"
)

// An idleLink lets a session be driven without a loop.
type idleLink struct{}

func (idleLink) attach(*upstream.Stream)           {}
func (idleLink) post(func(*session, *workspace))   {}
func (idleLink) connect(*workspace, net.Addr) bool { return false }
func (idleLink) local() netip.AddrPort             { return netip.AddrPort{} }
func (idleLink) view(func(*session))               {}
func neverDial(context.Context, *upstream.Request) (*upstream.Stream, error) {
	return nil, context.Canceled
}

// newTestSession returns a session whose stream is open both ways.
func newTestSession(t testing.TB) (*session, *workspace) {
	t.Helper()
	g := &Gateway{Dial: neverDial}
	g.init()
	return newTestSessionOf(t, g)
}

func newTestSessionOf(t testing.TB, g *Gateway) (*session, *workspace) {
	t.Helper()
	s := &session{g: g, link: idleLink{}}
	w := &workspace{now: 1}
	s.begin(w)
	s.receive(w, client, []byte(goodRequest+"\r\n"))
	rest := s.receive(w, client, maskedFrame(ws.OpText, true, []byte(testOpen)))
	s.rare.cancelDial(nil)
	s.attached(w, nil)
	if rest := s.receive(w, server, []byte(testHeader)); len(rest) != 0 {
		t.Fatalf("%d bytes of the header are left", len(rest))
	}
	if len(rest) != 0 || !s.openSent || s.phase != [2]phase{open, open} {
		t.Fatalf("the session is not open: %+v", s.phase)
	}
	w.out[client].reset()
	w.out[server].reset()
	return s, w
}

// Every cell of the table is filled, closed streams stay closed, and what is
// illegal has an ending that tells the guilty side.
func TestPhases(t *testing.T) {
	for d := range steps {
		for p := range steps[d] {
			for e, st := range steps[d][p] {
				name := fmt.Sprintf("direction %d, phase %d, event %d", d, p, e)
				if (st.ending != endNone) == (st.next != idle) {
					t.Errorf("%s: %+v is neither a phase nor an ending", name, st)
				}
				if phase(p) == closed && st.next != closed {
					t.Errorf("%s: a closed stream became %d", name, st.next)
				}
				if st.ending != endNone && direction(d) == down && endings[st.ending].Condition != "" {
					t.Errorf("%s: the client is told of a stream error for what the server did", name)
				}
			}
		}
	}
}

// Elements leave an open stream open.
func TestElementsLeaveOpen(t *testing.T) {
	if st := steps[down][open][element]; st != (step{next: open}) {
		t.Errorf("%+v", st)
	}
}

// The table is complete, and what it says of both wires is consistent.
func TestEndings(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range Endings() {
		if e.Name == "" || e.Meaning == "" || seen[e.Name] {
			t.Errorf("%+v: no name, no meaning or not unique", e)
		}
		seen[e.Name] = true
		if e.Close && e.Code != 1000 {
			t.Errorf("%s: <close/> goes with 1000", e.Name)
		}
		if e.Condition != "" && !e.Close {
			t.Errorf("%s: a stream error ends the stream", e.Name)
		}
		if strings.HasPrefix(e.Name, "client-l") && e.EndTag || e.Name == "client-silent" && e.EndTag {
			t.Errorf("%s: the end tag would make the stream unresumable", e.Name)
		}
	}
	for e := endNone + 1; int(e) < len(endings); e++ {
		if r := e.reason(nil); len(r) > maxControl-2 {
			t.Errorf("%s: reason has %d bytes", e.info().Name, len(r))
		}
	}
}

// Gateway.Dial ends by itself, and tells what has failed; a session that gave up
// at the same moment would say that the client did.
func TestDialGivesUpFirst(t *testing.T) {
	g := &Gateway{Dial: neverDial}
	g.init()
	s, w := &session{g: g, link: idleLink{}}, &workspace{now: 1}
	s.begin(w)
	s.receive(w, client, []byte(goodRequest+"\r\n"))
	s.receive(w, client, maskedFrame(ws.OpText, true, []byte(testOpen)))
	if w.now += upstream.TotalTimeout; s.rare.due <= w.now {
		t.Errorf("the session gives up %v before Dial does", w.now-s.rare.due)
	}
}

// A held header leaves in a write of its own: servers refuse one that comes
// together with what precedes it.
//
// Behaviour: restart-held. RFC 7395, section 3.7.
func TestHeaderIsAWriteOfItsOwn(t *testing.T) {
	s, w := newTestSession(t)
	frame := func(m string) []byte { return maskedFrame(ws.OpText, true, []byte(m)) }
	auth := `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`

	rest := s.receive(w, client, slices.Concat(frame(auth), frame(testOpen), frame("<iq/>")))
	if got := join(w.out[server].take()); got != auth {
		t.Fatalf("before success: %q", got)
	}
	w.out[server].reset()
	s.drained(w, server)
	if w.out[server].size != 0 {
		t.Fatalf("before success: %q", join(w.out[server].take()))
	}
	s.receive(w, server, []byte("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	header := string(framing.AppendStreamHeader(nil, framing.Header{To: []byte(`"proto.test"`), Version: []byte(`"1.0"`)}))
	if got := join(w.out[server].take()); got != header {
		t.Fatalf("on success: %q", got)
	}
	w.out[server].reset()
	if !s.reads(client) {
		t.Fatal("the client is not read after the header has left")
	}
	s.receive(w, client, rest)
	if got := join(w.out[server].take()); got != "<iq/>" {
		t.Fatalf("after the header: %q", got)
	}
}

// A restart that comes behind other elements in one read waits until they have
// left.
//
// Behaviour: restart-held. RFC 7395, section 3.7.
func TestHeaderWaitsForEarlierBytes(t *testing.T) {
	s, w := newTestSession(t)
	s.phase[up], s.authenticated = restart, true
	rest := s.receive(w, client, slices.Concat(maskedFrame(ws.OpText, true, []byte("<r/>")), maskedFrame(ws.OpText, true, []byte(testOpen)), maskedFrame(ws.OpText, true, []byte("<iq/>"))))
	if got := join(w.out[server].take()); got != "<r/>" {
		t.Fatalf("first write: %q", got)
	}
	w.out[server].reset()
	s.drained(w, server)
	if got := join(w.out[server].take()); !strings.HasPrefix(got, "<?xml ") {
		t.Fatalf("second write: %q", got)
	}
	w.out[server].reset()
	s.receive(w, client, rest)
	if got := join(w.out[server].take()); got != "<iq/>" {
		t.Fatalf("third write: %q", got)
	}
}

func join(pieces [][]byte) string { return string(bytes.Join(pieces, nil)) }

// Relaying a stanza costs no allocation, and a large payload is not copied.
func TestRelayAllocatesNothing(t *testing.T) {
	for _, size := range []int{200, 64 << 10} {
		body := strings.Repeat("x", size)
		s, w := newTestSession(t)
		frame := maskedFrame(ws.OpText, true, []byte("<message to='a@b' type='chat' id='1'><body>"+body+"</body></message>"))
		stanza := []byte("<message from='a@b' type='chat' id='1'><body>" + body + "</body></message>")
		buf := make([]byte, len(frame))
		if n := testing.AllocsPerRun(100, func() {
			copy(buf, frame)
			s.receive(w, client, buf)
			w.out[server].take()
			w.out[server].reset()
		}); n != 0 {
			t.Errorf("%d bytes up: %v allocations", size, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			s.receive(w, server, stanza)
			w.out[client].take()
			w.out[client].reset()
		}); n != 0 {
			t.Errorf("%d bytes down: %v allocations", size, n)
		}
		if s.ending != endNone {
			t.Fatalf("ended: %s", s.ending.info().Name)
		}
		if size < copyBelow {
			continue
		}
		copy(buf, frame)
		s.receive(w, client, buf)
		s.receive(w, server, stanza)
		if p := w.out[server].take(); len(p) != 1 || &p[0][0] != &buf[len(frame)-len(p[0])] {
			t.Error("a large message was copied on its way up")
		}
		if p := w.out[client].take(); len(p) != 2 || &p[1][len(p[1])-1] != &stanza[len(stanza)-1] {
			t.Error("a large element was copied on its way down")
		}
	}
}

// A message is put together from at most maxFragments frames.
func TestFragmentsAreBounded(t *testing.T) {
	s, w := newTestSession(t)
	window := s.receive(w, client, maskedFrame(ws.OpText, false, []byte("<a>")))
	for range maxFragments - 1 {
		window = s.receive(w, client, append(window, maskedFrame(ws.OpContinuation, false, nil)...))
	}
	if s.ending != endNone {
		t.Fatalf("ended too early: %s", s.ending.info().Name)
	}
	s.receive(w, client, append(window, maskedFrame(ws.OpContinuation, false, nil)...))
	if s.ending != endTooLarge {
		t.Errorf("ending %d, want too-large", s.ending)
	}
}

// A client that sends pings and does not read costs the memory of one.
func TestPingsWhileBlocked(t *testing.T) {
	s, w := newTestSession(t)
	s.blocked[client] = true
	for i := range 100 {
		s.receive(w, client, maskedFrame(ws.OpPing, true, fmt.Append(nil, i)))
	}
	if w.out[client].size != 0 {
		t.Fatalf("%d bytes are queued", w.out[client].size)
	}
	s.blocked[client] = false
	s.drained(w, client)
	if got := join(w.out[client].take()); got != "\x8a\x0299" {
		t.Errorf("got %q, want one pong for the last ping", got)
	}
}

// An empty ping wants a pong as well.
func TestEmptyPingWhileBlocked(t *testing.T) {
	s, w := newTestSession(t)
	s.blocked[client] = true
	s.receive(w, client, maskedFrame(ws.OpPing, true, nil))
	s.blocked[client] = false
	s.drained(w, client)
	if got := join(w.out[client].take()); got != "\x8a\x00" {
		t.Errorf("got %q, want an empty pong", got)
	}
}

// A client that provokes answers of the gateway and does not read them is cut
// off before they pile up.
func TestRepliesWhileBlocked(t *testing.T) {
	for _, m := range []string{
		"<compress xmlns='http://jabber.org/protocol/compress'/>",
		"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'/>",
	} {
		s, w := newTestSession(t)
		s.blocked[client] = true
		for range 10 * maxUnread {
			s.receive(w, client, maskedFrame(ws.OpText, true, []byte(m)))
		}
		if s.ending != endClientStalled || w.out[client].size > maxUnread*200 {
			t.Errorf("%s: ending %d, %d bytes are queued", m, s.ending, w.out[client].size)
		}
	}
}

// A client that cannot get our ping yet is not silent.
func TestPingWaitsForARead(t *testing.T) {
	s, w := newTestSession(t)
	s.blocked[client] = true
	for range 10 {
		w.now = s.deadline()
		s.expire(w)
	}
	if s.ending != endNone || w.out[client].size != 0 {
		t.Fatalf("ending %d, %d bytes queued for a client that does not read", s.ending, w.out[client].size)
	}
	s.blocked[client] = false
	w.now = s.deadline()
	s.expire(w)
	if got := join(w.out[client].take()); got != "\x89\x08"+pingPayload {
		t.Fatalf("got %q, want a ping", got)
	}
	ping := w.now
	w.now = s.deadline()
	s.expire(w)
	if s.ending != endClientSilent || w.now-ping < s.g.pingInterval {
		t.Errorf("ending %d, %v after the ping", s.ending, w.now-ping)
	}
}

// Bytes that wait for a side do not get lost because a close takes long.
func TestCloseWaitsForPendingBytes(t *testing.T) {
	s, w := newTestSession(t)
	s.blocked[client] = true
	s.receive(w, server, []byte("<presence/></stream:stream>"))
	s.eof(w, server, nil)
	for range 3 {
		w.now = s.deadline()
		s.expire(w)
	}
	if s.leg[client] != legClosing {
		t.Errorf("leg %d: the client is cut off while it reads", s.leg[client])
	}
}

// Names that are too long are not looked at: comparing them takes time that
// grows with the square.
func TestLongDomains(t *testing.T) {
	var long strings.Builder
	for i := range 1300 {
		long.WriteRune(rune(0x4e00 + i*7%20000))
	}
	to := framing.Quote(long.String())
	g := &Gateway{Domains: []string{"proto.test"}}
	g.init()
	if _, c := g.domain(to); c != framing.CondHostUnknown {
		t.Errorf("got %q", c)
	}
	if n := testing.AllocsPerRun(10, func() { NormalDomain(long.String()) }); n > 0 {
		t.Errorf("%v allocations: the name was looked at", n)
	}
	for _, d := range []string{"proto.test", "PROTO.test.", "Proto.Test"} {
		if _, c := g.domain(framing.Quote(d)); c != "" {
			t.Errorf("%s: %s", d, c)
		}
	}
}

// A round trip is measured from the ping to its pong; other pongs are none.
func TestPingRoundTrip(t *testing.T) {
	s, w := newTestSession(t)
	w.now = s.deadline()
	s.expire(w)
	w.now += 70 * time.Millisecond
	s.receive(w, client, maskedFrame(ws.OpPong, true, nil))
	if s.ping != 0 {
		t.Errorf("an unsolicited pong was measured: %v", s.ping)
	}
	s.receive(w, client, maskedFrame(ws.OpPong, true, []byte(pingPayload)))
	if s.ping != 70*time.Millisecond {
		t.Errorf("got %v, want 70ms", s.ping)
	}
}

// Pings come at intervals that differ, so that clients which connected
// together drift apart.
func TestPingsAreJittered(t *testing.T) {
	s, w := newTestSession(t)
	seen := map[time.Duration]bool{}
	for range 100 {
		s.id++
		s.heard(w)
		d := s.pingAt() - w.now
		if d > s.g.pingInterval || d < s.g.pingInterval*9/10 {
			t.Fatalf("ping after %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d different intervals", len(seen))
	}
}

func TestUnmask(t *testing.T) {
	for n := range 200 {
		want := []byte(strings.Repeat("wherefore art thou? ", 10)[:n])
		got := bytes.Clone(want)
		ws.Cipher(want, [4]byte{1, 2, 3, 4}, 0)
		unmask(got, [4]byte{1, 2, 3, 4})
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: % x, want % x", n, got, want)
		}
	}
}

func TestParseFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		h := ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(n)}
		var b bytes.Buffer
		if err := ws.WriteHeader(&b, h); err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			if _, size, err := parseFrame(b.Bytes()[:i], false); size != 0 || err != nil {
				t.Errorf("%d bytes, cut at %d: size %d, %v", n, i, size, err)
			}
		}
		if got, size, err := parseFrame(b.Bytes(), false); got != (frame{h.OpCode, true, h.Length}) || size != b.Len() ||
			[4]byte(b.Bytes()[size-4:]) != h.Mask || err != nil {
			t.Errorf("%d bytes: got %+v, %d, %v", n, got, size, err)
		}
		ours := appendFrameHeader(nil, ws.OpText, n)
		if got, err := ws.ReadHeader(bytes.NewReader(ours)); err != nil || got.Length != int64(n) || got.Masked || !got.Fin || len(ours) != frameHeaderSize(n) {
			t.Errorf("%d bytes: wrote % x, read as %+v, %v", n, ours, got, err)
		}
	}
}

// frameHeaderSize is the number of bytes in front of a payload of n bytes in
// a frame of ours.
func frameHeaderSize(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	}
	return 10
}

func TestClip(t *testing.T) {
	if got := clip("aü", 2); got != "a" {
		t.Errorf("got %q", got)
	}
	b := appendClose(nil, 1011, strings.Repeat("ü", 100))
	if len(b) != 2+2+122 || binary.BigEndian.Uint16(b[2:]) != 1011 {
		t.Errorf("close frame of %d bytes", len(b))
	}
}

// FuzzSession feeds both sides with anything, once whole and once in pieces.
// It must not panic, and what both sides are told must not depend on the cuts.
func FuzzSession(f *testing.F) {
	frame := func(m string) []byte { return maskedFrame(ws.OpText, true, []byte(m)) }
	f.Add(slices.Concat(frame("<iq/>"), frame("<a>b</a>"), maskedFrame(ws.OpPing, true, []byte("x"))), []byte("<iq/> <a xmlns='x'>b</a></stream:stream>"), uint64(1))
	f.Add(slices.Concat(maskedFrame(ws.OpText, false, []byte("<a>")), maskedFrame(ws.OpPing, true, nil), maskedFrame(ws.OpContinuation, true, []byte("</a>"))), []byte(testHeader), uint64(2))
	f.Add(slices.Concat(frame(framing.CloseMessage), maskedFrame(ws.OpClose, true, []byte{3, 232})), []byte("<stream:error/>"), uint64(3))
	f.Add([]byte{0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte("<a"), uint64(4))
	f.Add(frame("<a><b></a>"), []byte("<!-- -->"), uint64(5))
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, seed uint64) {
		if len(fromClient)+len(fromServer) > 4<<10 {
			return // the cuts make it slow, not interesting
		}
		run := func(cut func() int) (got [2]string, e ending) {
			s, w := newTestSession(t)
			s.g.streamID = func() string { return "gw1" }
			feed := func(sd side, b []byte) {
				var window []byte
				for len(b) > 0 {
					n := min(cut(), len(b))
					window = append(slices.Clone(window), b[:n]...)
					b = b[n:]
					for s.reads(sd) {
						before := len(window)
						window = s.receive(w, sd, window)
						for _, o := range []side{client, server} {
							for w.out[o].size > 0 {
								got[o] += join(w.out[o].take())
								w.out[o].reset()
								s.drained(w, o)
							}
						}
						if len(window) == before || len(window) == 0 {
							break
						}
					}
				}
			}
			feed(client, slices.Clone(fromClient))
			feed(server, slices.Clone(fromServer))
			return got, s.ending
		}
		whole, e := run(func() int { return 1 << 30 })
		r := rand.New(rand.NewPCG(seed, 0))
		pieces, e2 := run(func() int { return 1 + r.IntN(9) })
		if whole != pieces || e != e2 {
			t.Errorf("whole: %q, ending %d\nin pieces: %q, ending %d", whole, e, pieces, e2)
		}
	})
}

func BenchmarkRelayUp(b *testing.B) {
	s, w := newTestSession(b)
	frame := maskedFrame(ws.OpText, true, []byte("<message to='a@b' type='chat' id='1'><body>"+strings.Repeat("x", 140)+"</body></message>"))
	buf := make([]byte, len(frame))
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		copy(buf, frame)
		s.receive(w, client, buf)
		w.out[server].take()
		w.out[server].reset()
	}
}

func BenchmarkRelayDown(b *testing.B) {
	s, w := newTestSession(b)
	stanza := []byte("<message from='a@b' type='chat' id='1'><body>" + strings.Repeat("x", 140) + "</body></message>")
	b.SetBytes(int64(len(stanza)))
	for b.Loop() {
		s.receive(w, server, stanza)
		w.out[client].take()
		w.out[client].reset()
	}
}

// A server that offers what cannot work is worth one line, not one for each
// client.
func TestBindingIsWarnedOfOnce(t *testing.T) {
	var log strings.Builder
	for _, binding := range []framing.ChannelBinding{framing.ChannelBindingPass, framing.ChannelBindingStrip} {
		log.Reset()
		g := &Gateway{Dial: neverDial, ChannelBinding: binding, Log: slog.New(slog.NewTextHandler(&log, nil))}
		g.init()
		for range 3 {
			s, w := newTestSessionOf(t, g)
			s.receive(w, server, []byte(`<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism></mechanisms></stream:features>`))
		}
		want := 1
		if binding == framing.ChannelBindingStrip {
			want = 0
		}
		if n := strings.Count(log.String(), "channel binding"); n != want {
			t.Errorf("%d warnings, want %d:\n%s", n, want, &log)
		}
	}
}

// An answers observes the answers to headers.
type answers struct {
	nobody
	got []string
}

func (a *answers) Answered(result string, took time.Duration) {
	a.got = append(a.got, fmt.Sprintf("%s %v", result, took))
}

// Of a server that Gateway.Dial has nothing to do with, the session tells how
// it answers its header: once, not again after SASL.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		then func(s *session, w *workspace)
		want string
	}{
		"header":  {func(s *session, w *workspace) { s.receive(w, server, []byte(testHeader)) }, "ok 3s"},
		"silence": {func(s *session, w *workspace) { w.now += headerTimeout; s.expire(w) }, "timeout 10s"},
		"end":     {func(s *session, w *workspace) { s.eof(w, server, io.EOF) }, "closed 3s"},
		"other":   {func(s *session, w *workspace) { s.receive(w, server, []byte("220 mail.example.org ESMTP\r\n")) }, "bad-stream 3s"},
		"client":  {func(s *session, w *workspace) { s.eof(w, client, io.EOF) }, "abandoned 3s"},
		"close": {func(s *session, w *workspace) {
			s.receive(w, client, maskedFrame(ws.OpText, true, []byte(framing.CloseMessage)))
			s.eof(w, client, io.EOF)
		}, "abandoned 3s"},
		"close, then header": {func(s *session, w *workspace) {
			s.receive(w, client, maskedFrame(ws.OpText, true, []byte(framing.CloseMessage)))
			s.receive(w, server, []byte(testHeader))
		}, "ok 3s"},
	} {
		a := &answers{}
		g := &Gateway{Dial: neverDial, Observer: a}
		g.init()
		s, w := &session{g: g, link: idleLink{}}, &workspace{now: time.Second}
		s.begin(w)
		s.receive(w, client, []byte(goodRequest+"\r\n"))
		s.receive(w, client, maskedFrame(ws.OpText, true, []byte(testOpen)))
		s.rare.cancelDial(nil)
		s.attached(w, nil)
		if name != "silence" {
			w.now += 3 * time.Second
		}
		c.then(s, w)
		s.expire(w)
		if got := strings.Join(a.got, ", "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// What was relayed is counted on where a tally has no room for it.
func TestTallyIsCarried(t *testing.T) {
	s, _ := newTestSession(t)
	// A tally ends at 1<<32 - 1, which is more than an int of 32 bits can hold.
	const half = math.MaxInt32
	want := Traffic{}
	for i, n := range []int{half, half - 9, 10, 1, half, half, 22, 5} {
		s.count(down, framing.ClassMessage, n)
		want.Messages++
		want.Bytes += uint64(n)
		if got := s.traffic(down); got != want {
			t.Fatalf("after element %d: got %+v, want %+v", i, got, want)
		}
	}
	if s.spare(); s.traffic(down) != want {
		t.Error("what was carried is gone")
	}
}

// A session that has logged in and is quiet needs nothing rare.
func TestQuietSessionHasNothingRare(t *testing.T) {
	s, w := newTestSession(t)
	say := func(m string) { s.receive(w, client, maskedFrame(ws.OpText, true, []byte(m))) }
	say(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)
	s.receive(w, server, []byte("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	w.out[server].reset()
	say(testOpen)
	s.receive(w, server, []byte(testHeader))
	say("<presence/>")
	if !s.authenticated || s.await != endNone {
		t.Fatal("the session has not logged in")
	}
	if s.rare != nil {
		t.Errorf("it has %+v", *s.rare)
	}
}

// A Gateway whose numbers are out of bounds works with the bounds.
func TestNumbersAreBounded(t *testing.T) {
	for _, n := range []int{math.MaxInt, math.MaxInt - 1, math.MinInt, -1, 0} {
		g := &Gateway{Dial: neverDial, MaxStanza: n, MaxServerStanza: n, MaxSessions: n, PingInterval: time.Duration(n)}
		g.init()
		s, w := newTestSessionOf(t, g)
		if g.admit(netip.AddrPort{}) == nil {
			t.Errorf("%d: no client is admitted", n)
		}
		fragment := maskedFrame(ws.OpText, false, []byte("<iq>"))
		window := s.receive(w, client, fragment)
		// The length of this frame and of what came before overflow together.
		s.receive(w, client, append(window, 0x80, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
		if s.ending != endTooLarge {
			t.Errorf("%d: ending %d", n, s.ending)
		}
		s, w = newTestSessionOf(t, g)
		s.receive(w, server, []byte("<iq><a/>"))
		if at := s.pingAt(); s.ending != endNone || at <= w.now || at > w.now+LongestPingInterval {
			t.Errorf("%d: ending %d, ping at %v", n, s.ending, at)
		}
		s.asked = true
		if at := s.pingAt(); at <= w.now {
			t.Errorf("%d: given up at %v", n, at)
		}
	}
}

// An element of maxWhole, with what it inherits, is one frame. One byte more makes
// two, even where all of it has come, and they do not divide a character.
//
// Behaviour: server-large. RFC 6455, section 5.4.
func TestFramesOfLargeElements(t *testing.T) {
	const inherited = len(` xmlns="jabber:client"`)
	for _, test := range []struct {
		text   string
		size   int
		frames int
	}{
		{"a", maxWhole, 1}, {"a", maxWhole + 1, 2}, {"é", maxWhole, 1}, {"é", maxWhole + 2, 2}, {"€", maxWhole + 9, 2}, {"😀", maxWhole + 40, 2},
	} {
		s, w := newTestSession(t)
		in := "<iq><b>" + strings.Repeat(test.text, (test.size-inherited-len("<iq><b></b></iq>"))/len(test.text)) + "</b></iq>"
		if rest := s.receive(w, server, []byte(in)); len(rest) > 0 || s.ending != endNone || s.rare != nil && s.rare.divided > 0 {
			t.Fatalf("%s, %d bytes: %d are left, ending %d", test.text, test.size, len(rest), s.ending)
		}
		out := bytes.NewReader([]byte(join(w.out[client].take())))
		var got []byte
		frames := 0
		for ; out.Len() > 0; frames++ {
			h, err := ws.ReadHeader(out)
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, h.Length)
			if _, err := io.ReadFull(out, p); err != nil {
				t.Fatal(err)
			}
			want := ws.OpText
			if frames > 0 {
				want = ws.OpContinuation
			}
			if h.OpCode != want || h.Fin != (out.Len() == 0) || !utf8.Valid(p) {
				t.Errorf("%s, %d bytes: frame %d: %+v", test.text, test.size, frames, h)
			}
			got = append(got, p...)
		}
		if frames != test.frames || string(got) != strings.Replace(in, "<iq", `<iq xmlns="jabber:client"`, 1) {
			t.Errorf("%s, %d bytes: %d frames, want %d", test.text, test.size, frames, test.frames)
		}
		if n := s.traffic(down); n.IQs != 1 || n.Bytes != uint64(len(in)) {
			t.Errorf("%s, %d bytes: counted %+v", test.text, test.size, n)
		}
	}
}

// The parts of an element are counted as one element of all their bytes.
func TestPartsAreCounted(t *testing.T) {
	s, w := newTestSession(t)
	in := []byte("<message>" + strings.Repeat("a", 3*maxWhole) + "</message>")
	var rest []byte
	for piece := range slices.Chunk(in, readSize) {
		rest = bytes.Clone(s.receive(w, server, append(rest, piece...)))
		w.out[client].reset()
	}
	if n := s.traffic(down); n != (Traffic{Messages: 1, Bytes: uint64(len(in))}) || len(rest) > 0 {
		t.Errorf("counted %+v, %d bytes are left", n, len(rest))
	}
}

// What a client has said to a server is lost with it, even when it did not arrive:
// no other server is dialled in its place.
func TestNoRedialAfterLostElement(t *testing.T) {
	g := &Gateway{Dial: neverDial}
	g.init()
	s, w := newTestSessionOf(t, g)
	s.stream = &upstream.Stream{Server: "tcp://a"}
	dials := s.rare.dials
	s.receive(w, client, maskedFrame(ws.OpText, true, []byte(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)))
	s.uncount(up, s.countedNow(w, up))
	s.need().pinged = true // which keeps what is rare
	s.eof(w, server, io.EOF)
	if s.traffic(up) != (Traffic{}) || s.ending != endServerLost || s.rare.dials > dials {
		t.Errorf("ending %d, %d dials", s.ending, s.rare.dials)
	}
}

// What a server has sent is not passed on while the client takes nothing, however
// it got here; it is given again when the client has taken what there was.
//
// Behaviour: back-pressure. RFC 6120, section 4.9.3.16.
func TestInputWaitsForTheClient(t *testing.T) {
	s, w := newTestSession(t)
	s.blocked[client] = true
	in := []byte("<r/><message><body>")
	rest := s.receive(w, server, in)
	if len(rest) != len(in) || w.out[client].size > 0 || !s.waits(server) {
		t.Fatalf("%d bytes are left, %d go to the client", len(rest), w.out[client].size)
	}
	s.blocked[client] = false
	if rest = s.receive(w, server, rest); string(rest) != "<message><body>" || w.out[client].size == 0 || s.waits(server) {
		t.Fatalf("%q is left, %d go to the client", rest, w.out[client].size)
	}
}
