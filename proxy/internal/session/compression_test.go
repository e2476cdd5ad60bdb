package session

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"xmppgate/proxy/internal/deflate"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/wstest"
)

// What a session keeps in bytes, of messages in both directions.
const keptDown, keptUp = 8192, 4096

// compressionSettings are those of a gateway with compression and memory for so many
// sessions.
func compressionSettings(sessions int64) *Settings {
	set := testSettings()
	set.AcceptCompression, set.Compression = true, new(Compression)
	set.Compression.SetMemory(sessions * (keptDown + keptUp))
	return set
}

// newCompressed returns a session whose client has offered compression and has logged
// in.
func newCompressed(t testing.TB, set *Settings, offer string) (*Session, *relay.Event) {
	t.Helper()
	s, ev := openingWith(set, offer)
	logsIn(s, ev, testHeader)
	if s.sasl != saslDone || s.compression() == nil || s.ending != endNone {
		t.Fatalf("sasl %v, compression %v, ending %v", s.sasl, s.compression(), s.ending)
	}
	ev.Out[client].Reset()
	ev.Out[server].Reset()
	return s, ev
}

// logsIn connects s to a server whose header after the login is this.
func logsIn(s *Session, ev *relay.Event, header string) {
	s.Attached(ev, &Server{Name: "tcp://127.0.0.1:5222", Static: true}, false)
	s.Receive(ev, server, []byte(testHeader+"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
	restarts(s, ev, header)
}

// restarts opens the streams again, after the login.
func restarts(s *Session, ev *relay.Event, header string) {
	sent(ev, server)
	s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(testOpen)))
	s.Receive(ev, server, []byte(header))
}

const offer = wstest.Offer

// sent returns what the event has for a side, and forgets it.
func sent(ev *relay.Event, sd side) []byte {
	b := bytes.Join(ev.Out[sd].Take(), nil)
	ev.Out[sd].Reset()
	return b
}

// A reader reads what a client gets.
type reader struct {
	t          testing.TB
	inflater   wstest.Inflater
	part       []byte // of a message
	compressed bool   // it is
	messages   []string
	flags      []bool // which of them were compressed
}

func (r *reader) read(b []byte) {
	r.t.Helper()
	for len(b) > 0 {
		in := bytes.NewReader(b)
		h, err := ws.ReadHeader(in)
		if err != nil || int64(in.Len()) < h.Length {
			r.t.Fatalf("%d bytes are no frame: %v", len(b), err)
		}
		p := b[len(b)-in.Len():][:h.Length]
		b = b[len(b)-in.Len()+int(h.Length):]
		switch {
		case h.OpCode.IsControl():
			if h.Rsv != 0 {
				r.t.Fatalf("a control frame is marked: %+v", h)
			}
			continue
		case h.OpCode == ws.OpText:
			r.compressed = h.Rsv1()
		case h.Rsv != 0:
			r.t.Fatalf("a continuation is marked: %+v", h)
		}
		if r.part = append(r.part, p...); !h.Fin {
			continue
		}
		text := r.part
		if r.compressed {
			if text, err = r.inflater.Inflate(r.part); err != nil {
				r.t.Fatalf("message %d: %v", len(r.messages), err)
			}
		}
		r.messages, r.flags = append(r.messages, string(text)), append(r.flags, r.compressed)
		r.part = nil
	}
}

// Whatever a server sends arrives, compressed or not, in whatever pieces it comes; and
// so does what a client sends.
//
// Behaviour: compression. RFC 7692, sections 6 and 7.2.
func TestCompressedBothWays(t *testing.T) {
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 7))
		offers := offer
		if seed%3 == 1 {
			offers = fmt.Sprintf("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=%d\r\n", 8+seed%8)
		}
		s, ev := newCompressed(t, compressionSettings(1), offers)
		text := func() string {
			n := []int{0, 10, 80, 120, 300, 3000, 5000, 70_000, 300_000}[r.IntN(9)]
			if n > 5000 && r.IntN(4) > 0 {
				n = 200
			}
			words := []string{"wherefore ", "art ", "thou ", "Romeo ", "é", "x"}
			var b strings.Builder
			if r.IntN(5) == 0 {
				b.WriteString("token ")
			}
			for b.Len() < n {
				b.WriteString(words[r.IntN(len(words))])
				if r.IntN(50) == 0 {
					fmt.Fprintf(&b, "%x", r.Uint64())
				}
			}
			return b.String()
		}
		var want []string
		var stream []byte
		for range 40 {
			body := text()
			stream = append(stream, "<message><body>"+body+"</body></message>"...)
			want = append(want, `<message xmlns="jabber:client"><body>`+body+"</body></message>")
		}
		got := reader{t: t}
		var kept []byte
		for len(stream) > 0 || len(kept) > 0 {
			n := min(len(stream), 1+r.IntN([]int{10, 1000, 64 << 10}[r.IntN(3)]))
			kept = append(bytes.Clone(kept), stream[:n]...)
			stream = stream[n:]
			before := len(kept)
			kept = s.Receive(ev, server, kept)
			got.read(sent(ev, client))
			if n == 0 && len(kept) == before && !s.Waits(ev.Conns, server) {
				t.Fatalf("%d bytes are left", len(kept))
			}
		}
		for i := range want {
			if i < len(got.messages) { // a large one declares what it may need
				got.messages[i] = strings.Replace(got.messages[i], ` xmlns:stream="http://etherx.jabber.org/streams"`, "", 1)
			}
			if i >= len(got.messages) || got.messages[i] != want[i] {
				t.Fatalf("seed %d, message %d of %d: got %.100q, want %.100q", seed, i, len(got.messages), got.messages[min(i, len(got.messages)-1)], want[i])
			}
			if got.flags[i] && strings.Contains(want[i], "token") && len(want[i]) < maxFrame/2 {
				t.Errorf("seed %d, message %d mentions a secret and is compressed", seed, i)
			}
		}

		var from deflate.Compressor // which may refer to what has come compressed
		if clientBits := s.compression().params.ClientBits; clientBits == 0 {
			from.Start(deflate.Params{WindowBits: 15, NoContext: true}, newMemory())
		} else {
			from.Start(deflate.Params{WindowBits: clientBits}, newMemory())
		}
		var frames []byte
		var up string
		for range 40 {
			m := "<message><body>" + text() + "</body></message>"
			if len(m) > s.limit() {
				continue
			}
			up += m
			first, payload := wstest.Compressed, wstest.Deflate([]byte(m))
			switch r.IntN(3) {
			case 0:
				first, payload = wstest.Frame, []byte(m)
			case 1:
				payload = from.Append(nil, []byte(m), true)
				fallthrough
			default:
				from.Sent([]byte(m))
			}
			parts := 1 + r.IntN(3)
			for i := range parts {
				part := payload[len(payload)*i/parts : len(payload)*(i+1)/parts]
				if i == 0 {
					frames = append(frames, first(ws.OpText, parts == 1, part)...)
				} else {
					frames = append(frames, maskedFrame(ws.OpContinuation, i == parts-1, part)...)
				}
				if r.IntN(3) == 0 {
					frames = append(frames, maskedFrame(ws.OpPing, true, []byte("x"))...)
				}
			}
		}
		var relayed []byte
		kept = nil
		for len(frames) > 0 || len(kept) > 0 {
			n := min(len(frames), 1+r.IntN([]int{10, 1000, 64 << 10}[r.IntN(3)]))
			kept = append(bytes.Clone(kept), frames[:n]...)
			frames = frames[n:]
			kept = s.Receive(ev, client, kept)
			relayed = append(relayed, sent(ev, server)...)
			got.read(sent(ev, client))
			if s.ending != endNone {
				t.Fatalf("seed %d: %v, %v", seed, s.ending.info().Name, s.cause())
			}
		}
		if string(relayed) != up {
			t.Fatalf("seed %d: the server got %d bytes, want %d", seed, len(relayed), len(up))
		}
		i := s.Info()
		if i.UpMessages.Plain != uint64(len(up)+len(testOpen)*2) || i.UpMessages.Wire >= i.UpMessages.Plain || i.DownMessages.Wire >= i.DownMessages.Plain {
			t.Errorf("seed %d: up %+v, down %+v, want %d up", seed, i.UpMessages, i.DownMessages, len(up))
		}
		s.Over(ev)
		if i := s.set.Compression.Info(); i.Memory != 0 || i.Sessions != 0 {
			t.Errorf("seed %d: after the end: %+v", seed, i)
		}
	}
}

// Nothing is compressed before the login, not even what ends it.
//
// Behaviour: compression-secrets. RFC 7692, section 8.
func TestNothingIsCompressedBeforeLogin(t *testing.T) {
	set := compressionSettings(1)
	s, ev := openingWith(set, offer)
	sent(ev, client)
	s.Attached(ev, &Server{Name: "tcp://127.0.0.1:5222", Static: true}, false)
	long := strings.Repeat("abc", 500)
	for _, sd := range []string{
		testHeader,
		"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism><mechanism>X-" + long + "</mechanism></mechanisms></stream:features>",
		"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + long + "</challenge>",
		"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + long + "</success>",
	} {
		s.Receive(ev, server, []byte(sd))
		r := reader{t: t}
		r.read(sent(ev, client))
		if len(r.flags) != 1 || r.flags[0] {
			t.Errorf("%.80s: %v", sd, r.flags)
		}
		if used := set.Compression.Info().Memory; used != keptUp {
			t.Fatalf("%.80s: %d bytes are in use before the login", sd, used)
		}
	}
	restarts(s, ev, testHeader)
	s.Receive(ev, server, []byte("<message>"+long+"</message>"))
	r := reader{t: t}
	r.read(sent(ev, client))
	if len(r.flags) != 2 || !r.flags[1] || set.Compression.Info().Memory != keptDown+keptUp {
		t.Errorf("after the login: %v, %+v", r.flags, set.Compression.Info())
	}
}

// What a message holds that mentions a secret cannot be found out by the size of another
// one: guesses that are right and wrong take the same.
//
// Behaviour: compression-secrets. RFC 7692, section 8.
func TestSecretsAreNotReferredTo(t *testing.T) {
	const guess = "qWeRtZuIoPaSdFgHjKlYxCvB"
	wrongGuess := []byte(guess) // of the same letters, which take the same
	slices.Reverse(wrongGuess)
	padding := strings.Repeat("<item>x</item>", 30_000)
	for name, around := range map[string][2]string{
		"a message":           {"<iq><service password='", "'/></iq>"},
		"the start of one":    {"<iq><service password='", "'/>" + padding + "</iq>"},
		"a later part of one": {"<iq>" + padding + "<service password='", "'/></iq>"},
	} {
		size := func(held string) int {
			s, ev := newCompressed(t, compressionSettings(1), offer)
			got := reader{t: t}
			receive := func(text string) (n int) {
				for rest := []byte(text); len(rest) > 0; {
					piece := rest[:min(len(rest), relay.MaxKept+10_000)]
					left := s.Receive(ev, server, bytes.Clone(piece))
					rest = rest[len(piece)-len(left):]
					b := sent(ev, client)
					n += len(b)
					got.read(b)
				}
				return n
			}
			message := "<message><body>" + strings.Repeat("wherefore ", 20) + guess + "</body></message>"
			receive(message)
			n := receive(around[0] + held + around[1])
			n += receive(message)
			if last := len(got.flags) - 1; last != 2 || !got.flags[last] {
				t.Fatalf("%s: %v", name, got.flags)
			}
			return n
		}
		if right, wrong := size(guess), size(string(wrongGuess)); right != wrong {
			t.Errorf("%s: a right guess has %d bytes, a wrong one %d", name, right, wrong)
		}
	}
}

// A large element comes in parts that end anywhere: in the word that tells of a secret, between
// it and the secret, and in the secret. No guess is referred to all the same.
//
// Behaviour: compression-secrets. RFC 7692, section 8.
func TestSecretsInParts(t *testing.T) {
	const guess = "qWeRtZuIoPaSdFgHjKlYxCvB"
	wrongGuess := []byte(guess) // of the same letters, which take the same
	slices.Reverse(wrongGuess)
	padding := strings.Repeat("<item>x</item>", 30_000) // more than a frame, so that what has come is sent
	message := "<message><body>" + strings.Repeat("wherefore ", 20) + guess + "</body></message>"
	for _, word := range []string{"password", "urn:xmpp:http:upload"} {
		between := word + "' b='"
		for cut := range len(between) + len(guess) {
			for _, before := range []string{"", padding} { // a part of its own
				size := func(held string) (n int) {
					s, ev := newCompressed(t, compressionSettings(1), offer)
					got := reader{t: t}
					var left []byte
					text := between + held + "'/></iq>"
					for _, b := range []string{message, "<iq>" + before, padding + "<service a='" + text[:cut], text[cut:], message} {
						left = bytes.Clone(s.Receive(ev, server, append(left, b...)))
						b := sent(ev, client)
						n += len(b)
						got.read(b)
					}
					if f := got.flags; len(f) != 3 || !f[0] || !f[2] {
						t.Fatalf("compressed: %v", f)
					}
					return n
				}
				if right, wrong := size(guess), size(string(wrongGuess)); right != wrong {
					t.Errorf("%d bytes of %q in a part, before it %d: a right guess has %d bytes, a wrong one %d", cut, between+guess, len(before), right, wrong)
				}
			}
		}
	}
}

// What is short goes as it is, although it could be made smaller.
func TestShortMessages(t *testing.T) {
	s, ev := newCompressed(t, compressionSettings(1), offer)
	got := reader{t: t}
	for _, size := range []int{minCompressed - 1, minCompressed, minCompressed - 1} {
		const around = len(`<a xmlns="jabber:client"></a>`)
		s.Receive(ev, server, []byte("<a>"+strings.Repeat("x", size-around)+"</a>"))
		got.read(sent(ev, client))
		if n := len(got.messages[len(got.messages)-1]); n != size {
			t.Fatalf("a message of %d bytes, want %d", n, size)
		}
	}
	if fmt.Sprint(got.flags) != "[false true false]" {
		t.Errorf("compressed: %v", got.flags)
	}
}

// What does not become smaller goes as it is, and is not referred to.
func TestNotSmaller(t *testing.T) {
	s, ev := newCompressed(t, compressionSettings(1), offer)
	var all []byte
	for c := byte('!'); c < 0x7f; c++ {
		if c != '<' && c != '>' && c != '&' {
			all = append(all, c)
		}
	}
	got := reader{t: t}
	for range 3 { // the second one could refer to the first
		s.Receive(ev, server, []byte("<a>"+string(all)+"</a>"))
		got.read(sent(ev, client))
	}
	s.Receive(ev, server, []byte("<a>"+strings.Repeat("x", 500)+string(all)+"</a>"))
	got.read(sent(ev, client))
	if fmt.Sprint(got.flags) != "[false false false true]" {
		t.Errorf("%v", got.flags)
	}
}

// Messages that a read brings and that are worth a thousand times as much text do not
// become one large write: the rest waits. Nothing is lost.
//
// Behaviour: compression-bomb. RFC 7692, section 8.
func TestInflatedInPortions(t *testing.T) {
	s, ev := newCompressed(t, compressionSettings(1), offer)
	const size, count = 200_000, 100
	m := "<iq><a>" + strings.Repeat("x", size) + "</a></iq>"
	in := bytes.Repeat(wstest.Compressed(ws.OpText, true, wstest.Deflate([]byte(m))), count)
	if len(in) > relay.ReadSize {
		t.Fatalf("%d bytes are more than a read brings", len(in))
	}
	total, events := 0, 0
	for rest := in; ; events++ {
		rest = s.Receive(ev, client, bytes.Clone(rest))
		n := len(sent(ev, server))
		if n > 2*relay.ReadSize+len(m) {
			t.Fatalf("an event writes %d bytes", n)
		}
		if total += n; len(rest) == 0 {
			break
		}
		if !s.Waits(ev.Conns, client) {
			t.Fatalf("%d bytes are left, and the session does not say that it waits", len(rest))
		}
		if sc := scratchOf(ev); cap(sc.inflated) > maxScratch {
			t.Fatalf("%d bytes are kept from event to event", cap(sc.inflated))
		}
	}
	if total != count*len(m) || s.Waits(ev.Conns, client) {
		t.Errorf("%d bytes of %d, waits %t", total, count*len(m), s.Waits(ev.Conns, client))
	}
	if events < count/2 {
		t.Errorf("%d events for %d messages", events, count)
	}
}

// Elements that compress to nearly nothing do not make one event last: the rest waits.
//
// Behaviour: compression-bomb. RFC 7692, section 8.
func TestCompressedInPortions(t *testing.T) {
	set := compressionSettings(1)
	s, ev := openingWith(set, offer)
	header := strings.TrimSuffix(testHeader, ">") + " xmlns:x='" + strings.Repeat("u", 3000) + "'>"
	logsIn(s, ev, header)
	sent(ev, client)
	const count = 5000
	in := bytes.Repeat([]byte("<a x:b=''/>"), count)
	got := reader{t: t}
	most, events := 0, 0
	for rest := in; len(rest) > 0; events++ {
		before := len(got.messages)
		rest = s.Receive(ev, server, bytes.Clone(rest))
		got.read(sent(ev, client))
		most = max(most, len(got.messages)-before)
		if len(rest) > 0 && !s.Waits(ev.Conns, server) {
			t.Fatalf("%d bytes are left, and the session does not say that it waits", len(rest))
		}
	}
	if len(got.messages) != count {
		t.Errorf("%d messages", len(got.messages))
	}
	// Each has 3 kB and is compared with 8 KiB.
	if work := most * (8192 + 3000); work > 2*maxDeflateWork {
		t.Errorf("%d messages in one event", most)
	}
}

// Beyond the memory a session goes on without, and its client may go on compressing.
//
// Behaviour: compression-memory. RFC 7692, section 5.1.
func TestCompressionMemory(t *testing.T) {
	set := compressionSettings(1)
	message := []byte("<message>" + strings.Repeat("wherefore ", 100) + "</message>")
	var all []*Session
	var events []*relay.Event
	for range 3 { // which have agreed before any has memory
		s, ev := newCompressed(t, set, offer)
		all, events = append(all, s), append(events, ev)
	}
	compresses := func(i int) bool {
		all[i].Receive(events[i], server, bytes.Clone(message))
		r := reader{t: t}
		r.read(sent(events[i], client))
		return r.flags[0]
	}
	for i, want := range []bool{true, false, false} {
		if got := compresses(i); got != want {
			t.Errorf("session %d: compressed %t", i, got)
		}
	}
	all[1].Receive(events[1], client, wstest.Compressed(ws.OpText, true, wstest.Deflate(message)))
	if got := sent(events[1], server); !bytes.Equal(got, message) {
		t.Errorf("the server got %q", got)
	}
	if s, _ := openingWith(set, offer); s.compression() != nil {
		t.Error("a session agrees on compression without memory for it")
	}
	// One that takes no memory may have it.
	if s, _ := openingWith(set, "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"); s.compression() == nil {
		t.Error("a session that needs no memory is refused")
	}
	if i := set.Compression.Info(); i.WithoutMemory != 3 || i.Memory != keptDown+keptUp || i.Sessions != 4 {
		t.Errorf("%+v", i)
	}
	all[0].Over(events[0])
	if s, _ := openingWith(set, offer); s.compression() == nil {
		t.Error("memory that was given back is not there")
	}
}

// A session gives its memory back when compressing saves next to nothing.
func TestCompressionIsJudged(t *testing.T) {
	s, ev := newCompressed(t, compressionSettings(1), offer)
	message := []byte("<a>" + strings.Repeat("x", 1000) + "</a>")
	got := reader{t: t}
	for range 2 * judgedAt / len(message) {
		s.Receive(ev, server, bytes.Clone(message))
		got.read(sent(ev, client))
	}
	if !got.flags[len(got.flags)-1] {
		t.Fatal("compression was given up although it pays")
	}
	c := s.compression()
	c.plain, c.got = 0, 0
	c.judge(judgedAt, judgedAt/100*91, true)
	if c.state != compressionOff || s.set.Compression.Info().Memory != keptUp {
		t.Error("it goes on although it does not pay")
	}
	s.Receive(ev, server, bytes.Clone(message))
	if got.read(sent(ev, client)); got.flags[len(got.flags)-1] {
		t.Error("it goes on after it was given up")
	}
	s.Over(ev)
	if i := s.set.Compression.Info(); i.Memory != 0 || i.Sessions != 0 {
		t.Errorf("%+v", i)
	}
}

// A session that moves to another process keeps what was agreed on. What it compresses
// there does not refer to what it has compressed here.
func TestCompressionMoves(t *testing.T) {
	set := compressionSettings(1)
	s, ev := newCompressed(t, set, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; client_max_window_bits\r\n")
	s.Receive(ev, server, []byte("<stream:features/>"))
	message := []byte("<message>" + strings.Repeat("wherefore art thou ", 10) + "</message>")
	got := reader{t: t}
	s.Receive(ev, server, bytes.Clone(message))
	got.read(sent(ev, client))
	s.waitForNothing()
	// The client refers to what it has sent before.
	var from deflate.Compressor
	from.Start(deflate.Params{WindowBits: 12}, newMemory())
	send := func(s *Session, ev *relay.Event, text []byte) {
		t.Helper()
		s.Receive(ev, client, wstest.Compressed(ws.OpText, true, from.Append(nil, text, true)))
		if got := sent(ev, server); !bytes.Equal(got, text) {
			t.Errorf("the server got %q", got)
		}
	}
	send(s, ev, message)
	from.Sent(message)

	st, err := s.State(ev.Conns, ev.Now)
	if err != nil {
		t.Fatal(err)
	}
	s.Leave()
	if i := set.Compression.Info(); i.Memory != 0 || i.Sessions != 0 {
		t.Errorf("after it has left: %+v", i)
	}
	for _, accept := range []bool{true, false} { // which live sessions do not mind
		set := compressionSettings(1)
		set.AcceptCompression = accept
		if err := st.Check(); err != nil {
			t.Fatal(err)
		}
		to, ev := new(Session), &relay.Event{Now: time.Hour, Conns: new(relay.Conns)}
		to.Init(set, new(fakeHost), s.remote, false, s.refused)
		to.Restore(ev, st, &Server{Name: st.Server})
		here := got
		to.Receive(ev, server, bytes.Clone(message))
		here.read(sent(ev, client))
		n := len(here.flags)
		if !here.flags[n-1] || here.messages[n-1] != here.messages[n-2] {
			t.Errorf("compressed %t, %.100q", here.flags[n-1], here.messages[n-1])
		}
		send(to, ev, message)
		if i := to.Info(); !i.Compressed || i.DownMessages.Plain <= s.Info().DownMessages.Plain {
			t.Errorf("%+v", i)
		}
		if i := set.Compression.Info(); i.Sessions != 1 || i.Memory != 256+keptUp {
			t.Errorf("%+v", i)
		}
	}
	if len(st.Compression.Seen) == 0 {
		t.Error("nothing is known of what the client has sent")
	}
	bad := *st
	for _, bits := range []int{-1, 0, 7, 16, 63} {
		for _, c := range []CompressionState{{WindowBits: bits}, {WindowBits: 15, ClientBits: cmp.Or(bits, 8)}} {
			if bad.Compression = &c; bad.Check() == nil {
				t.Errorf("%+v is accepted", c)
			}
		}
	}
}

func newMemory() *deflate.Memory {
	m := new(deflate.Memory)
	m.SetLimit(1 << 20)
	return m
}

// Frames that come behind our Close frame may be compressed.
func TestCompressedAfterClose(t *testing.T) {
	s, ev := newCompressed(t, compressionSettings(1), offer)
	s.Shutdown(ev)
	rest := s.Receive(ev, client, append(wstest.Compressed(ws.OpText, true, wstest.Deflate([]byte("<iq/>"))), maskedFrame(ws.OpClose, true, nil)...))
	if len(rest) > 0 || ev.State[client] != relay.StateFinishing {
		t.Errorf("%d bytes are left in state %d", len(rest), ev.State[client])
	}
}

// What is inflated counts as sent, for the rate of a client.
func TestInflatedTextIsCharged(t *testing.T) {
	set := compressionSettings(1)
	set.Limits = new(atomic.Pointer[Limits])
	set.Limits.Store(&Limits{Bytes: 10_000})
	s, ev := newCompressed(t, set, offer)
	s.paidUntil = paceClock(ev.Now)
	m := []byte("<iq><a>" + strings.Repeat("x", 200_000) + "</a></iq>")
	s.Receive(ev, client, wstest.Compressed(ws.OpText, true, wstest.Deflate(m)))
	if !s.paused() {
		t.Errorf("a client that is %v ahead goes on", s.paid(ev.Now))
	}
}

func BenchmarkCompressed(b *testing.B) {
	stanza := "<message to='juliet@example.org/balcony' from='romeo@example.org/orchard' id='%08x' type='chat'><body>" + strings.Repeat("wherefore art thou? ", 6)[:110] + "</body></message>"
	for _, from := range []side{client, server} {
		b.Run([...]string{client: "up", server: "down"}[from], func(b *testing.B) {
			s, ev := newCompressed(b, compressionSettings(1), offer)
			var in [16][]byte
			for i := range in {
				in[i] = fmt.Appendf(nil, stanza, uint32(i)*0x9e3779b9)
				if from == client {
					in[i] = wstest.Compressed(ws.OpText, true, wstest.Deflate(in[i]))
				}
			}
			read := make([]byte, 1024)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				n := copy(read, in[i%len(in)])
				i++
				if rest := s.Receive(ev, from, read[:n]); len(rest) > 0 {
					b.Fatalf("%d bytes are left", len(rest))
				}
				ev.Out[from.Other()].Take()
				ev.Out[from.Other()].Reset()
			}
		})
	}
}
