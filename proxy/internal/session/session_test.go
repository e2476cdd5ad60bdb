package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"xmppgate/framing"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/wstest"
)

const (
	goodRequest = wstest.Request
	testOpen    = wstest.Open
	testHeader  = wstest.Header
)

func maskedFrame(op ws.OpCode, fin bool, payload []byte) []byte {
	return wstest.Frame(op, fin, payload)
}

// A fakeHost lets a session be driven without a loop and a gateway.
type fakeHost struct {
	requests  []*Request
	bindings  int      // offers of channel binding
	abandoned int      // attempts to connect
	outcomes  []string // of logins and the like, in order
	over      bool
	limited   bool
	pauses    int      // calls of Paused
	loggedIn  int      // calls of LoggedIn
	failures  []string // conditions that LoginFailed got
}

func (h *fakeHost) ClientFound(*relay.Event, netip.Addr) limit.Reason { return limit.None }
func (h *fakeHost) RefusedMayLinger() bool                            { return true }
func (h *fakeHost) Limited() bool                                     { return h.limited }
func (h *fakeHost) Paused()                                           { h.pauses++ }
func (h *fakeHost) HandshakeAllowed(*relay.Event) bool                { return true }
func (h *fakeHost) LoggedIn(*relay.Event)                             { h.loggedIn++ }
func (h *fakeHost) LoginFailed(_ *relay.Event, condition string) bool {
	h.failures = append(h.failures, condition)
	return false
}
func (h *fakeHost) Started() bool                               { return false }
func (h *fakeHost) StartTLS(*relay.Event, []byte)               {}
func (h *fakeHost) HandshakeRefused(*relay.Event, string)       {}
func (h *fakeHost) Upgraded(*relay.Event, time.Duration) uint64 { return 1 }
func (h *fakeHost) Connect(_ *relay.Event, a *Attempt) {
	h.requests = append(h.requests, &a.Request)
	a.Patience = 10 * time.Second
}
func (h *fakeHost) Connected(*relay.Event, *Attempt, error) {}
func (h *fakeHost) Abandon(*relay.Event, *Attempt, error) string {
	h.abandoned++
	return ""
}
func (h *fakeHost) Pinged(time.Duration)                                  {}
func (h *fakeHost) StallOver(relay.Side, time.Duration)                   {}
func (h *fakeHost) ChannelBindingOffered()                                { h.bindings++ }
func (h *fakeHost) Notice(string, slog.Level, string, func() []slog.Attr) {}
func (h *fakeHost) Over(*relay.Event)                                     { h.over = true }
func (h *fakeHost) FeaturesSent(time.Duration)                            { h.outcomes = append(h.outcomes, "features") }
func (h *fakeHost) LoginEnded(_ *relay.Event, mechanism, result string, _ time.Duration) {
	h.outcomes = append(h.outcomes, "login "+mechanism+" "+result)
}
func (h *fakeHost) Restarted()                { h.outcomes = append(h.outcomes, "restarted") }
func (h *fakeHost) Resumable()                { h.outcomes = append(h.outcomes, "resumable") }
func (h *fakeHost) ResumeEnded(result string) { h.outcomes = append(h.outcomes, "resume "+result) }
func (h *fakeHost) StreamError(side, condition string) {
	h.outcomes = append(h.outcomes, side+" "+condition)
}
func (h *fakeHost) Debug() bool               { return false }
func (h *fakeHost) Step(string, ...slog.Attr) {}

// testSettings are those of a gateway that was not told anything.
func testSettings() *Settings {
	return &Settings{
		PathServed: func(path []byte) bool { return string(path) == "/xmpp-websocket" },
		Domain: func(to []byte) (string, framing.Condition) {
			name, _ := framing.Unquote(to)
			return name, ""
		},
		MaxStanza: 256 << 10, MaxServerStanza: 16 << 20,
		PingInterval: 30 * time.Second,
		StreamID:     func() string { return "gw1" },
	}
}

// newTestSession returns a session whose stream is open both ways.
func newTestSession(t testing.TB) (*Session, *relay.Event) {
	t.Helper()
	return newTestSessionOf(t, testSettings(), &Server{Name: "tcp://127.0.0.1:5222", Static: true})
}

func newTestSessionOf(t testing.TB, set *Settings, to *Server) (*Session, *relay.Event) {
	t.Helper()
	s, ev := newOpening(set)
	s.Attached(ev, to, false)
	if rest := s.Receive(ev, server, []byte(testHeader)); len(rest) != 0 {
		t.Fatalf("%d bytes of the header are left", len(rest))
	}
	if !s.openSent || s.phase != [2]streamPhase{phaseOpen, phaseOpen} {
		t.Fatalf("the session is not open: %+v", s.phase)
	}
	ev.Out[client].Reset()
	ev.Out[server].Reset()
	return s, ev
}

// newOpening returns a session that waits for a server.
func newOpening(set *Settings) (*Session, *relay.Event) { return openingWith(set, "") }

// openingWith is newOpening for a request with more header lines.
func openingWith(set *Settings, headers string) (*Session, *relay.Event) {
	s, ev := new(Session), &relay.Event{Now: 1, Conns: new(relay.Conns)}
	s.Init(set, new(fakeHost), netip.AddrPort{}, false, limit.None)
	s.Start(ev)
	s.Receive(ev, client, []byte(goodRequest+headers+"\r\n"))
	s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(testOpen)))
	return s, ev
}

// The table of phases, cell by cell, written once more, and the endings of what is
// illegal: they tell the guilty side.
func TestPhases(t *testing.T) {
	want := [2][4]string{
		//         header   element     end         restart  replaced
		toServer: {
			phaseNoHeader: "open bad-open closed noHeader noHeader",
			phaseOpen:     "reopened open closed restart open",
			phaseRestart:  "open restart closed restart restart",
			phaseClosed:   "closed closed closed closed closed",
		},
		toClient: {
			phaseNoHeader: "open server-broken server-broken noHeader noHeader",
			phaseOpen:     "server-broken open closed restart noHeader",
			phaseRestart:  "open restart closed restart noHeader",
			phaseClosed:   "closed closed closed closed noHeader",
		},
	}
	for d := range streamSteps {
		for p := range streamSteps[d] {
			var got []string
			for _, st := range streamSteps[d][p] {
				if st.ending != endNone {
					got = append(got, st.ending.info().Name)
				} else {
					got = append(got, [...]string{phaseNoHeader: "noHeader", phaseOpen: "open", phaseRestart: "restart", phaseClosed: "closed"}[st.next])
				}
				if st.ending != endNone && direction(d) == toClient && endings[st.ending].Condition != "" {
					t.Errorf("direction %d, phase %d: the client is told of a stream error for what the server did", d, p)
				}
			}
			if got := strings.Join(got, " "); got != want[d][p] {
				t.Errorf("direction %d, phase %d: got %s, want %s", d, p, got, want[d][p])
			}
		}
	}
}

// Elements leave an open stream open.
func TestElementsLeaveOpen(t *testing.T) {
	if st := streamSteps[toClient][phaseOpen][streamElement]; st != (streamStep{next: phaseOpen}) {
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
	for end := endNone + 1; int(end) < len(endings); end++ {
		if r := end.reason(nil); len(r) > maxControl-2 {
			t.Errorf("%s: reason has %d bytes", end.info().Name, len(r))
		}
	}
}

// A queued header leaves in a write of its own: servers refuse one that comes
// together with what precedes it.
//
// Behaviour: restart-held. RFC 7395, section 3.7.
func TestHeaderIsAWriteOfItsOwn(t *testing.T) {
	s, ev := newTestSession(t)
	frame := func(m string) []byte { return maskedFrame(ws.OpText, true, []byte(m)) }
	auth := `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`

	rest := s.Receive(ev, client, slices.Concat(frame(auth), frame(testOpen), frame("<iq/>")))
	if got := join(ev.Out[server].Take()); got != auth {
		t.Fatalf("before success: %q", got)
	}
	ev.Out[server].Reset()
	s.Flushed(ev, server)
	if ev.Out[server].Size() != 0 {
		t.Fatalf("before success: %q", join(ev.Out[server].Take()))
	}
	s.Receive(ev, server, []byte("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	header := string(framing.AppendStreamHeader(nil, framing.Header{To: []byte(`"proto.test"`), Version: []byte(`"1.0"`)}))
	if got := join(ev.Out[server].Take()); got != header {
		t.Fatalf("on success: %q", got)
	}
	ev.Out[server].Reset()
	if !s.Reads(ev.Conns, client) {
		t.Fatal("the client is not read after the header has left")
	}
	s.Receive(ev, client, rest)
	if got := join(ev.Out[server].Take()); got != "<iq/>" {
		t.Fatalf("after the header: %q", got)
	}
}

// A restart that comes behind other elements in one read waits until they have
// left.
//
// Behaviour: restart-held. RFC 7395, section 3.7.
func TestHeaderWaitsForEarlierBytes(t *testing.T) {
	s, ev := newTestSession(t)
	s.phase[toServer], s.sasl = phaseRestart, saslDone
	rest := s.Receive(ev, client, slices.Concat(maskedFrame(ws.OpText, true, []byte("<r/>")), maskedFrame(ws.OpText, true, []byte(testOpen)), maskedFrame(ws.OpText, true, []byte("<iq/>"))))
	if got := join(ev.Out[server].Take()); got != "<r/>" {
		t.Fatalf("first write: %q", got)
	}
	ev.Out[server].Reset()
	s.Flushed(ev, server)
	if got := join(ev.Out[server].Take()); !strings.HasPrefix(got, "<?xml ") {
		t.Fatalf("second write: %q", got)
	}
	ev.Out[server].Reset()
	s.Receive(ev, client, rest)
	if got := join(ev.Out[server].Take()); got != "<iq/>" {
		t.Fatalf("third write: %q", got)
	}
}

func join(pieces [][]byte) string { return string(bytes.Join(pieces, nil)) }

// Relaying a stanza costs no allocation, and a large payload is not copied.
func TestRelayAllocatesNothing(t *testing.T) {
	for _, size := range []int{200, 64 << 10} {
		body := strings.Repeat("x", size)
		s, ev := newTestSession(t)
		frame := maskedFrame(ws.OpText, true, []byte("<message to='a@b' type='chat' id='1'><body>"+body+"</body></message>"))
		stanza := []byte("<message from='a@b' type='chat' id='1'><body>" + body + "</body></message>")
		buf := make([]byte, len(frame))
		if n := testing.AllocsPerRun(100, func() {
			copy(buf, frame)
			s.Receive(ev, client, buf)
			ev.Out[server].Take()
			ev.Out[server].Reset()
		}); n != 0 {
			t.Errorf("%d bytes up: %v allocations", size, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			s.Receive(ev, server, stanza)
			ev.Out[client].Take()
			ev.Out[client].Reset()
		}); n != 0 {
			t.Errorf("%d bytes down: %v allocations", size, n)
		}
		if s.ending != endNone {
			t.Fatalf("ended: %s", s.ending.info().Name)
		}
		if size < 4<<10 {
			continue
		}
		copy(buf, frame)
		s.Receive(ev, client, buf)
		s.Receive(ev, server, stanza)
		if p := ev.Out[server].Take(); len(p) != 1 || &p[0][0] != &buf[len(frame)-len(p[0])] {
			t.Error("a large message was copied on its way up")
		}
		if p := ev.Out[client].Take(); len(p) != 2 || &p[1][len(p[1])-1] != &stanza[len(stanza)-1] {
			t.Error("a large element was copied on its way down")
		}
	}
}

// A message is put together from at most maxFragments frames.
func TestFragmentsAreBounded(t *testing.T) {
	s, ev := newTestSession(t)
	window := s.Receive(ev, client, maskedFrame(ws.OpText, false, []byte("<a>")))
	for range maxFragments - 1 {
		window = s.Receive(ev, client, append(window, maskedFrame(ws.OpContinuation, false, nil)...))
	}
	if s.ending != endNone {
		t.Fatalf("ended too early: %s", s.ending.info().Name)
	}
	s.Receive(ev, client, append(window, maskedFrame(ws.OpContinuation, false, nil)...))
	if s.ending != endTooLarge {
		t.Errorf("ending %d, want too-large", s.ending)
	}
}

// A client that sends pings and does not read costs the memory of one.
func TestPingsWhileBlocked(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Blocked[client] = true
	for i := range 100 {
		s.Receive(ev, client, maskedFrame(ws.OpPing, true, fmt.Append(nil, i)))
	}
	if ev.Out[client].Size() != 0 {
		t.Fatalf("%d bytes are queued", ev.Out[client].Size())
	}
	ev.Blocked[client] = false
	s.Flushed(ev, client)
	if got := join(ev.Out[client].Take()); got != "\x8a\x0299" {
		t.Errorf("got %q, want one pong for the last ping", got)
	}
}

// An empty ping wants a pong as well.
func TestEmptyPingWhileBlocked(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Blocked[client] = true
	s.Receive(ev, client, maskedFrame(ws.OpPing, true, nil))
	ev.Blocked[client] = false
	s.Flushed(ev, client)
	if got := join(ev.Out[client].Take()); got != "\x8a\x00" {
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
		s, ev := newTestSession(t)
		ev.Blocked[client] = true
		for range 10 * maxUnread {
			s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(m)))
		}
		if s.ending != endClientStalled || ev.Out[client].Size() > maxUnread*200 {
			t.Errorf("%s: ending %d, %d bytes are queued", m, s.ending, ev.Out[client].Size())
		}
	}
}

// A client that cannot get our ping yet is not silent.
func TestPingWaitsForARead(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Blocked[client] = true
	for range 10 {
		ev.Now = s.Deadline(ev.Conns)
		s.Expired(ev)
	}
	if s.ending != endNone || ev.Out[client].Size() != 0 {
		t.Fatalf("ending %d, %d bytes queued for a client that does not read", s.ending, ev.Out[client].Size())
	}
	ev.Blocked[client] = false
	ev.Now = s.Deadline(ev.Conns)
	s.Expired(ev)
	if got := join(ev.Out[client].Take()); got != "\x89\x08"+pingPayload {
		t.Fatalf("got %q, want a ping", got)
	}
	ping := ev.Now
	ev.Now = s.Deadline(ev.Conns)
	s.Expired(ev)
	if s.ending != endClientSilent || ev.Now-ping < s.set.PingInterval {
		t.Errorf("ending %d, %v after the ping", s.ending, ev.Now-ping)
	}
}

// Bytes that wait for a side do not get lost because a close takes long.
func TestCloseWaitsForPendingBytes(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Blocked[client] = true
	s.Receive(ev, server, []byte("<presence/></stream:stream>"))
	s.EOF(ev, server, nil)
	for range 3 {
		ev.Now = s.Deadline(ev.Conns)
		s.Expired(ev)
	}
	if ev.State[client] != relay.StateClosing {
		t.Errorf("state %d: the client is cut off while it reads", ev.State[client])
	}
}

// A round trip is measured from the ping to its pong; other pongs are none.
func TestPingRoundTrip(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Now = s.Deadline(ev.Conns)
	s.Expired(ev)
	ev.Now += 70 * time.Millisecond
	s.Receive(ev, client, maskedFrame(ws.OpPong, true, nil))
	if s.ping != 0 {
		t.Errorf("an unsolicited pong was measured: %v", s.ping)
	}
	s.Receive(ev, client, maskedFrame(ws.OpPong, true, []byte(pingPayload)))
	if s.roundTrip() != 70*time.Millisecond {
		t.Errorf("got %v, want 70ms", s.ping)
	}
}

// Pings go out at few moments, and clients that connected together drift apart.
func TestPingMoments(t *testing.T) {
	s, ev := newTestSession(t)
	const sessions, intervals = 1000, 60
	interval := s.set.PingInterval
	due := make([]time.Duration, sessions)
	for i := range due {
		s.id = uint64(i + 1)
		for range intervals {
			ev.Now = due[i] + time.Millisecond // the pong
			s.markAlive(ev)
			if due[i] = s.pingAt(); due[i]-ev.Now > interval || due[i]-ev.Now < interval*7/8-time.Millisecond {
				t.Fatalf("ping after %v", due[i]-ev.Now)
			}
		}
	}
	at := map[time.Duration]int{}
	for _, d := range due {
		at[d]++
	}
	if d := slices.Max(due) - slices.Min(due); len(at) > int(d/(interval/32))+1 {
		t.Errorf("%d moments in %v", len(at), d)
	}
	for d, n := range at {
		if n > sessions/5 {
			t.Errorf("%d of %d are still pinged together, at %v", n, sessions, d)
		}
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
			if _, size, err := parseFrame(b.Bytes()[:i], false, false); size != 0 || err != nil {
				t.Errorf("%d bytes, cut at %d: size %d, %v", n, i, size, err)
			}
		}
		if got, size, err := parseFrame(b.Bytes(), false, false); got != (frame{h.OpCode, true, false, h.Length}) || size != b.Len() ||
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

// FuzzFrame compares parseFrame with the library that it takes the place of.
func FuzzFrame(f *testing.F) {
	f.Add(maskedFrame(ws.OpText, true, []byte("<a/>")), byte(0))
	f.Add(maskedFrame(ws.OpContinuation, false, make([]byte, 200)), byte(1))
	f.Add(maskedFrame(ws.OpPing, true, make([]byte, 70_000))[:20], byte(2))
	f.Add(wstest.Compressed(ws.OpText, true, []byte{0}), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, how byte) {
		fragmented, compression := how&1 != 0, how&2 != 0
		got, size, err := parseFrame(b, fragmented, compression)
		h, libErr := ws.ReadHeader(bytes.NewReader(b))
		if libErr == nil {
			state := ws.StateServerSide
			if fragmented {
				state = state.Set(ws.StateFragmented)
			}
			data := h.OpCode == ws.OpText || h.OpCode == ws.OpBinary
			if compression && h.Rsv1() && data {
				h.Rsv &^= ws.Rsv(true, false, false)
			}
			libErr = ws.CheckHeader(h, state)
			minimal := h.Length < 126 && b[1]&0x7f < 126 || h.Length >= 126 && h.Length < 1<<16 && b[1]&0x7f == 126 || h.Length >= 1<<16
			if libErr == nil && !minimal {
				libErr = errFrameLength // which the library lets pass
			}
		}
		switch {
		case err != nil:
			if libErr == nil {
				t.Fatalf("% x: %v, but the library takes it", b, err)
			}
		case size == 0:
			if libErr == nil {
				t.Fatalf("% x: more is wanted than the library needs", b)
			}
		case libErr != nil:
			t.Fatalf("% x is taken, but the library says %v", b, libErr)
		case got.op != h.OpCode, got.fin != h.Fin, got.length != h.Length, ws.HeaderSize(h) != size, [4]byte(b[size-4:size]) != h.Mask:
			t.Fatalf("% x: %+v, the library says %+v", b, got, h)
		}
	})
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
	compressed := wstest.Compressed(ws.OpText, true, wstest.Deflate([]byte("<a>b</a>")))
	f.Add(slices.Concat(compressed, frame("<iq/>"), compressed), []byte("<a>"+strings.Repeat("b", 200)+"</a><iq>"+strings.Repeat("b", 200)+"</iq>"), uint64(7))
	f.Add(slices.Concat(wstest.Compressed(ws.OpText, false, []byte{0xf2}), maskedFrame(ws.OpContinuation, true, []byte("x")), compressed), []byte("<a/>"), uint64(9))
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte, seed uint64) {
		if len(fromClient)+len(fromServer) > 4<<10 {
			return // the cuts make it slow, not interesting
		}
		run := func(cut func() int) (got [2]string, end ending) {
			s, ev := newTestSession(t)
			if seed%2 == 1 {
				s, ev = newCompressed(t, compressionSettings(1), offer)
			}
			feed := func(sd side, b []byte) {
				var window []byte
				for len(b) > 0 {
					n := min(cut(), len(b))
					window = append(slices.Clone(window), b[:n]...)
					b = b[n:]
					for s.Reads(ev.Conns, sd) {
						before := len(window)
						window = s.Receive(ev, sd, window)
						for _, o := range []side{client, server} {
							for ev.Out[o].Size() > 0 {
								got[o] += join(ev.Out[o].Take())
								ev.Out[o].Reset()
								s.Flushed(ev, o)
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
		whole, end := run(func() int { return 1 << 30 })
		r := rand.New(rand.NewPCG(seed, 0))
		pieces, e2 := run(func() int { return 1 + r.IntN(9) })
		if whole != pieces || end != e2 {
			t.Errorf("whole: %q, ending %d\nin pieces: %q, ending %d", whole, end, pieces, e2)
		}
	})
}

func BenchmarkRelayUp(b *testing.B) {
	s, ev := newTestSession(b)
	frame := maskedFrame(ws.OpText, true, []byte("<message to='a@b' type='chat' id='1'><body>"+strings.Repeat("x", 140)+"</body></message>"))
	buf := make([]byte, len(frame))
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		copy(buf, frame)
		s.Receive(ev, client, buf)
		ev.Out[server].Take()
		ev.Out[server].Reset()
	}
}

func BenchmarkRelayDown(b *testing.B) {
	s, ev := newTestSession(b)
	stanza := []byte("<message from='a@b' type='chat' id='1'><body>" + strings.Repeat("x", 140) + "</body></message>")
	b.SetBytes(int64(len(stanza)))
	for b.Loop() {
		s.Receive(ev, server, stanza)
		ev.Out[client].Take()
		ev.Out[client].Reset()
	}
}

// The host is told of offers that no client can take up.
func TestBindingIsTold(t *testing.T) {
	for binding, want := range map[framing.ChannelBinding]int{framing.ChannelBindingPass: 1, framing.ChannelBindingStrip: 0} {
		set := testSettings()
		set.ChannelBinding = binding
		s, ev := newTestSessionOf(t, set, new(Server))
		s.Receive(ev, server, []byte(`<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-1-PLUS</mechanism></mechanisms></stream:features>`))
		if n := s.host.(*fakeHost).bindings; n != want {
			t.Errorf("%v: told %d times, want %d", binding, n, want)
		}
	}
}

// A session tells how a server answers its first header: once, not again after SASL.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		then func(s *Session, ev *relay.Event)
		want string
	}{
		"header":  {func(s *Session, ev *relay.Event) { s.Receive(ev, server, []byte(testHeader)) }, "ok 3s"},
		"silence": {func(s *Session, ev *relay.Event) { ev.Now += headerTimeout; s.Expired(ev) }, "timeout 10s"},
		"end":     {func(s *Session, ev *relay.Event) { s.EOF(ev, server, io.EOF) }, "closed 3s"},
		"other":   {func(s *Session, ev *relay.Event) { s.Receive(ev, server, []byte("220 mail.example.org ESMTP\r\n")) }, "bad-stream 3s"},
		"client":  {func(s *Session, ev *relay.Event) { s.EOF(ev, client, io.EOF) }, "abandoned 3s"},
		"close": {func(s *Session, ev *relay.Event) {
			s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(framing.CloseMessage)))
			s.EOF(ev, client, io.EOF)
		}, "abandoned 3s"},
		"close, then header": {func(s *Session, ev *relay.Event) {
			s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(framing.CloseMessage)))
			s.Receive(ev, server, []byte(testHeader))
		}, "ok 3s"},
	} {
		var answers []string
		s, ev := newOpening(testSettings())
		ev.Now = time.Second
		s.Attached(ev, &Server{Answered: func(result string, took time.Duration) {
			answers = append(answers, fmt.Sprintf("%s %v", result, took))
		}}, false)
		if name != "silence" {
			ev.Now += 3 * time.Second
		}
		c.then(s, ev)
		s.Expired(ev)
		if got := strings.Join(answers, ", "); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// What was relayed is counted on where a relay.Count has no room for it.
func TestCountIsCarried(t *testing.T) {
	s, _ := newTestSession(t)
	// A number of it ends at 1<<32 - 1, which is more than an int of 32 bits can hold.
	const half = math.MaxInt32
	want := Traffic{}
	for i, n := range []int{half, half - 9, 10, 1, half, half, 22, 5} {
		s.count(toClient, framing.ClassMessage, n)
		want.Messages++
		want.Bytes += uint64(n)
		if got := s.traffic(toClient); got != want {
			t.Fatalf("after element %d: got %+v, want %+v", i, got, want)
		}
	}
	if s.dropExtra(); s.traffic(toClient) != want {
		t.Error("what was carried is gone")
	}
}

// A session that has logged in and is quiet has no extra.
func TestQuietSessionHasNoExtra(t *testing.T) {
	s, ev := newTestSession(t)
	say := func(m string) { s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(m))) }
	say(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)
	s.Receive(ev, server, []byte("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	ev.Out[server].Reset()
	say(testOpen)
	s.Receive(ev, server, []byte(testHeader))
	say("<presence/>")
	if s.sasl != saslDone || s.await != endNone {
		t.Fatal("the session has not logged in")
	}
	if s.extra != nil {
		t.Errorf("it has %+v", *s.extra)
	}
}

// Lengths that overflow together with what came before are too large.
func TestLengthsDoNotOverflow(t *testing.T) {
	for _, n := range []int{math.MaxInt, math.MaxInt - 1, 256 << 10} {
		set := testSettings()
		set.MaxStanza = n
		s, ev := newTestSessionOf(t, set, new(Server))
		rest := s.Receive(ev, client, maskedFrame(ws.OpText, false, []byte("<iq>")))
		s.Receive(ev, client, append(rest, 0x80, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
		if s.ending != endTooLarge {
			t.Errorf("%d: ending %d", n, s.ending)
		}
	}
}

// An element of maxFrame, with what it inherits, is one frame. One byte more makes
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
		{"a", maxFrame, 1}, {"a", maxFrame + 1, 2}, {"é", maxFrame, 1}, {"é", maxFrame + 2, 2}, {"€", maxFrame + 9, 2}, {"😀", maxFrame + 40, 2},
	} {
		s, ev := newTestSession(t)
		in := "<iq><b>" + strings.Repeat(test.text, (test.size-inherited-len("<iq><b></b></iq>"))/len(test.text)) + "</b></iq>"
		if rest := s.Receive(ev, server, []byte(in)); len(rest) > 0 || s.ending != endNone || s.extra != nil && s.extra.fragmented > 0 {
			t.Fatalf("%s, %d bytes: %d are left, ending %d", test.text, test.size, len(rest), s.ending)
		}
		out := bytes.NewReader([]byte(join(ev.Out[client].Take())))
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
		if n := s.traffic(toClient); n.IQs != 1 || n.Bytes != uint64(len(in)) {
			t.Errorf("%s, %d bytes: counted %+v", test.text, test.size, n)
		}
	}
}

// While memory is scarce, less of an unfinished element is kept.
//
// Behaviour: server-large. RFC 6455, section 10.4.
func TestScarceMemory(t *testing.T) {
	for _, test := range []struct {
		scarce     bool
		n          int
		fragmented bool
	}{
		{false, maxFrame - 1, false}, {false, maxFrame, true},
		{true, relay.MaxKeptScarce - 1, false}, {true, relay.MaxKeptScarce, true},
	} {
		s, ev := newTestSession(t)
		ev.Scarce = test.scarce
		in := []byte("<iq>" + strings.Repeat("a", test.n-len("<iq>")))
		rest := s.Receive(ev, server, in)
		if s.fragmenting() != test.fragmented || (len(rest) < minFragment) != test.fragmented {
			t.Errorf("%d bytes, scarce %v: fragmenting is %v, %d bytes are kept", test.n, test.scarce, s.fragmenting(), len(rest))
		}
	}
}

// The parts of an element are counted as one element of all their bytes.
func TestPartsAreCounted(t *testing.T) {
	s, ev := newTestSession(t)
	in := []byte("<message>" + strings.Repeat("a", 3*maxFrame) + "</message>")
	var rest []byte
	for piece := range slices.Chunk(in, relay.ReadSize) {
		rest = bytes.Clone(s.Receive(ev, server, append(rest, piece...)))
		ev.Out[client].Reset()
	}
	if n := s.traffic(toClient); n != (Traffic{Messages: 1, Bytes: uint64(len(in))}) || len(rest) > 0 {
		t.Errorf("counted %+v, %d bytes are left", n, len(rest))
	}
}

// What a client has said to a server is lost with it, even when it did not arrive:
// no other server is dialled in its place.
func TestNoRedialAfterLostElement(t *testing.T) {
	s, ev := newTestSessionOf(t, testSettings(), &Server{Name: "tcp://a"})
	dials := s.extra.dials
	s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">AGEAYg==</auth>`)))
	s.Uncount(server, s.Counted(ev, server))
	s.ensureExtra().pongDue = true // which keeps extra
	s.EOF(ev, server, io.EOF)
	if s.traffic(toServer) != (Traffic{}) || s.ending != endServerLost || s.extra.dials > dials {
		t.Errorf("ending %d, %d dials", s.ending, s.extra.dials)
	}
}

// What a server has sent is not passed on while the client takes nothing, however
// it got here; it is given again when the client has taken what there was.
//
// Behaviour: back-pressure. RFC 6120, section 4.9.3.16.
func TestInputWaitsForTheClient(t *testing.T) {
	s, ev := newTestSession(t)
	ev.Blocked[client] = true
	in := []byte("<r/><message><body>")
	rest := s.Receive(ev, server, in)
	if len(rest) != len(in) || ev.Out[client].Size() > 0 || !s.Waits(ev.Conns, server) {
		t.Fatalf("%d bytes are left, %d go to the client", len(rest), ev.Out[client].Size())
	}
	ev.Blocked[client] = false
	if rest = s.Receive(ev, server, rest); string(rest) != "<message><body>" || ev.Out[client].Size() == 0 || s.Waits(ev.Conns, server) {
		t.Fatalf("%q is left, %d go to the client", rest, ev.Out[client].Size())
	}
}

// A session that fails while it connects gives that up, once: the host has counted it.
func TestFailureAbandonsConnecting(t *testing.T) {
	s, ev := newOpening(testSettings())
	h := s.host.(*fakeHost)
	s.Failed(ev, io.ErrUnexpectedEOF)
	s.Failed(ev, io.ErrUnexpectedEOF)
	if h.abandoned != 1 {
		t.Errorf("%d attempts were given up", h.abandoned)
	}
}

// Sessions end at the greatest age or up to a fifth earlier, each at another moment, and not
// before they are logged in.
func TestMaxAge(t *testing.T) {
	set := testSettings()
	const most = time.Hour
	set.PingInterval, set.Limits = 24*time.Hour, new(atomic.Pointer[Limits])
	set.Limits.Store(&Limits{MaxAge: most})
	s, ev := newTestSessionOf(t, set, &Server{Name: "s", Static: true})
	s.loggedIn = true
	seen := map[time.Duration]bool{}
	for id := range uint64(2048) {
		s.id = id + 1
		at := s.endsAt() - s.began
		if at > most || at < most*4/5 {
			t.Fatalf("session %d ends at the age of %v", s.id, at)
		}
		seen[at] = true
	}
	if len(seen) < 1000 {
		t.Errorf("2048 sessions end at %d moments", len(seen))
	}
	if got := s.Deadline(ev.Conns); got != s.endsAt() {
		t.Errorf("the deadline is %v, want %v", got, s.endsAt())
	}
	s.loggedIn = false
	if at := s.endsAt(); at != 0 {
		t.Errorf("a session that has not logged in ends at %v", at)
	}
}
