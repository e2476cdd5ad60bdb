package model

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A piece is bytes that are sent at once.
type piece struct {
	b    []byte
	note string
}

// A generator makes actions. It follows them with a model, so that most are what comes
// next in a session, and some are not.
type generator struct {
	r      *rand.Rand
	cfg    Config
	m      *Model
	queue  [2][]piece
	calm   bool // what is wrong is rare, so that sessions live long
	number int
	all    []Action
}

// Generate makes about n actions.
func Generate(r *rand.Rand, cfg Config, n int) []Action {
	g := &generator{r: r, cfg: cfg, m: New(cfg), number: r.IntN(5000), calm: r.IntN(3) > 0}
	if g.chance(40) {
		g.logIn()
	}
	for late := 0; len(g.all) < n && late < 6 && !g.m.Unsure; {
		g.next()
		if g.m.Ended != "" {
			late++
		}
	}
	return g.all
}

// chance is true that often.
func (g *generator) chance(percent int) bool { return g.r.IntN(100) < percent }

// odd is chance for what seldom happens, or should not.
func (g *generator) odd(permille int) bool {
	if g.calm {
		permille /= 8
	}
	return g.r.IntN(1000) < permille
}

func (g *generator) do(a Action) {
	g.all = append(g.all, a)
	g.m.Do(a)
}

// next adds an action.
func (g *generator) next() {
	for _, end := range g.r.Perm(2) {
		if q := g.queue[end]; len(q) > 0 && g.chance(70) {
			a := Action{Actor: [...]string{"client", "server"}[end], Verb: "sends", Note: q[0].note, Bytes: q[0].b}
			q = q[1:]
			for len(q) > 0 && g.chance(20) { // together with what follows
				a.Note, a.Bytes = a.Note+", "+q[0].note, slices.Concat(a.Bytes, q[0].b)
				q = q[1:]
			}
			g.queue[end] = q
			if end == Client && g.m.gone[Client] || end == Server && (g.m.gone[Server] || g.m.conn[Server] != up) {
				g.queue[end] = nil
				return
			}
			g.do(a)
			return
		}
	}
	n := g.r.IntN(1000)
	if n >= 965 && g.calm && g.chance(80) {
		n = g.r.IntN(860)
	}
	switch {
	case n < 470:
		g.clientSpeaks()
	case n < 860:
		g.serverSpeaks()
	case n < 930:
		if g.m.clients != before && g.m.servers != before || g.chance(15) {
			g.timePasses()
		}
	case n < 945 && g.cfg.Stalls:
		g.do(Action{Actor: "client", Verb: "stops"})
	case n < 965 && g.cfg.Stalls && g.m.stopped:
		g.do(Action{Actor: "client", Verb: "reads"})
	case n < 972:
		g.do(Action{Actor: "client", Verb: "drops"})
		if g.m.lostDue != 0 && g.m.conn[Client] == up { // which the loops find at their own pace
			g.do(Action{Actor: "time", Verb: "pass", Pass: 6 * time.Second})
		}
	case n < 980 && g.m.conn[Server] == up:
		g.do(Action{Actor: "server", Verb: "drops"})
	case n < 984:
		g.do(Action{Actor: "gateway", Verb: "stops"})
	case n < 988:
		g.do(Action{Actor: "operator", Verb: "ends"})
	case n < 992:
		g.do(Action{Actor: "gateway", Verb: "sheds"})
	case n < 995 && g.m.conn[Server] == none:
		g.do(Action{Actor: "server", Verb: "refuses"})
	}
}

// logIn does what most sessions begin with.
func (g *generator) logIn() {
	ours := func(e *entry) bool { return e.kind == header && e.domain == Domain }
	steps := []struct {
		list []entry
		is   func(*entry) bool
	}{
		{client, ours}, {server, of(header)}, {server, of(offer)},
		{client, of(auth)}, {server, of(success)}, {client, ours}, {server, of(header)}, {server, of(noOffer)},
	}
	if g.chance(20) { // the server asks for no login
		steps[2].is, steps = of(noOffer), steps[:3]
	}
	for _, step := range steps {
		text := []byte(g.numbered(g.pick(step.list, step.is).text))
		if &step.list[0] == &client[0] {
			g.do(Action{Actor: "client", Verb: "sends", Bytes: g.frame(0x81, text), Note: fmt.Sprintf("%.60q", text)})
		} else {
			g.do(Action{Actor: "server", Verb: "sends", Bytes: text})
		}
	}
}

// timePasses lets no moment be the end of it at which something else is due.
func (g *generator) timePasses() {
	for range 20 {
		d := []time.Duration{time.Second, 3 * time.Second, 7 * time.Second, 13 * time.Second, 27 * time.Second, 41 * time.Second}[g.r.IntN(6)]
		if g.m.stopped && d > 3*time.Second { // or it may be given up
			d = time.Second
		}
		if g.m.clear(d) {
			g.do(Action{Actor: "time", Verb: "pass", Pass: d})
			return
		}
	}
}

// clear reports whether the model is sure of what happens within d.
func (m *Model) clear(d time.Duration) bool {
	again := *m
	again.in = [2][]byte{bytes.Clone(m.in[0]), bytes.Clone(m.in[1])}
	again.held, again.replies, again.message = slices.Clone(m.held), slices.Clone(m.replies), slices.Clone(m.message)
	again.Do(Action{Actor: "time", Verb: "pass", Pass: d})
	return !again.Unsure
}

// numbered gives an entry its number.
func (g *generator) numbered(text string) string {
	g.number = (g.number + 1) % 10000
	return strings.Replace(text, "####", fmt.Sprintf("%04d", g.number), 1)
}

// pick returns one of the entries that f accepts.
func (g *generator) pick(all []entry, f func(*entry) bool) *entry {
	var fit []*entry
	for i := range all {
		if f(&all[i]) {
			fit = append(fit, &all[i])
		}
	}
	return fit[g.r.IntN(len(fit))]
}

func every(*entry) bool { return true }

func of(kinds ...kind) func(*entry) bool {
	return func(e *entry) bool { return slices.Contains(kinds, e.kind) }
}

// clientSpeaks queues what a client says next.
func (g *generator) clientSpeaks() {
	m := g.m
	e := g.pick(client, of(element))
	switch {
	case g.odd(50):
		g.wrongFrame()
		return
	case g.odd(40):
		g.clientCloses()
		return
	case g.chance(8):
		g.add(Client, g.control(g.chance(50)), "ping or pong")
		return
	case g.odd(30):
		g.noText()
		return
	case g.odd(30):
		g.large()
		return
	case g.odd(40):
		e = g.pick(client, of(end))
	case g.odd(20):
		e = g.pick(client, of(malformed))
	case g.odd(50):
		e = g.pick(client, of(startTLS, answered, malformed, wrongOpen))
	case g.odd(50):
		e = g.pick(client, every)
	case m.clients == restart && g.odd(100):
		e = g.pick(client, of(header))
	case m.clients == before || m.clients == restart || m.login == running && g.chance(20):
		e = g.pick(client, func(e *entry) bool { return e.kind == header && e.domain == Domain })
	case m.login == asked && g.chance(70), m.servers == before && g.chance(50):
		e = g.pick(client, of(auth, auth, authenticate))
	case g.chance(8):
		e = g.pick(client, of(answered))
	}
	g.sendMessage([]byte(g.numbered(e.text)))
}

// sendMessage queues a message as one frame or more, with control frames between, cut
// anywhere.
func (g *generator) sendMessage(text []byte) {
	name := fmt.Sprintf("%.60q", text)
	payload, first := text, byte(1)
	if g.cfg.Compression && g.chance(50) {
		payload, first = deflated(text), 1|0x40
	}
	frames := 1
	if g.chance(25) {
		frames = 2 + g.r.IntN(3)
	}
	if frames == 1 && g.chance(60) {
		g.add(Client, g.frame(first|0x80, payload), name)
		return
	}
	var b []byte
	for i := range frames {
		op := byte(0)
		if i == 0 {
			op = first
		}
		n := g.r.IntN(len(payload) + 1)
		if g.chance(15) {
			n = 0
		}
		if i == frames-1 {
			op, n = op|0x80, len(payload)
		}
		b = append(b, g.frame(op, payload[:n])...)
		payload = payload[n:]
		if i < frames-1 && g.chance(40) {
			b = append(b, g.control(g.chance(60))...)
		}
	}
	for i, p := range g.cut(b, len(b)) {
		g.add(Client, p, fmt.Sprintf("%s, piece %d", name, i+1))
	}
}

func (g *generator) add(end int, b []byte, note string) {
	g.queue[end] = append(g.queue[end], piece{b, note})
}

// cut cuts the first most bytes of b anywhere.
func (g *generator) cut(b []byte, most int) (pieces [][]byte) {
	for range g.r.IntN(5) {
		if most < 2 {
			break
		}
		n := 1 + g.r.IntN(most-1)
		pieces = append(pieces, b[:n])
		b, most = b[n:], most-n
	}
	return append(pieces, b)
}

// frame masks a payload; first is the first byte of the frame.
func (g *generator) frame(first byte, payload []byte) []byte {
	var key [4]byte
	binary.BigEndian.PutUint32(key[:], g.r.Uint32())
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xfe), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0xff), uint64(n))
	}
	b = append(b, key[:]...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

func (g *generator) control(ping bool) []byte {
	p := fmt.Appendf(nil, "p%d", g.r.IntN(100))
	if !ping {
		return g.frame(0x8a, p)
	}
	return g.frame(0x89, p[:g.r.IntN(len(p)+1)])
}

// wrongFrame queues a frame that breaks RFC 6455. It is not cut, because what is wrong
// may be found before its end.
func (g *generator) wrongFrame() {
	text := []byte("<presence/>")
	unmasked := g.frame(0x81, text)
	unmasked[1] &^= 0x80
	all := []piece{
		{unmasked, "not masked"},
		{g.frame(0xa1, text), "RSV2"},
		{g.frame(0x91, text), "RSV3"},
		{g.frame(0x83, text), "opcode 3"},
		{g.frame(0x8b, text), "opcode B"},
		{g.frame(0x80, text), "a continuation of nothing"},
		{slices.Concat(g.frame(0x01, text), g.frame(0x81, text)), "text inside text"},
		{g.frame(0x82, text), "binary"},
		{g.frame(0x09, nil), "a ping in parts"},
		{g.frame(0x89, make([]byte, 126)), "a large ping"},
		{g.frame(0xc9, nil), "a compressed ping"},
		{[]byte{0x81, 0xfe, 0, 5, 0, 0, 0, 0}, "a length that is not minimal"},
		{[]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "the top bit of the length"},
		{g.frame(0x88, []byte{3}), "a Close frame of one byte"},
		{g.frame(0x88, []byte{3, 0xec}), "code 1004"},
		{g.frame(0x88, []byte{3, 0xed}), "code 1005"},
		{g.frame(0x88, []byte{0x0b, 0xb7}), "code 2999"},
		{g.frame(0x88, []byte{0x13, 0x88}), "code 5000"},
		{g.frame(0x88, []byte{3, 0xe8, 0xff}), "a reason that is not UTF-8"},
	}
	if g.cfg.Compression {
		all = append(all, piece{g.frame(0xc1, []byte("\xff\xff\xff")), "no compressed text"},
			piece{g.frame(0xc1, deflated(make([]byte, 1<<20))), "much text in little"})
	} else {
		all = append(all, piece{g.frame(0xc1, text), "RSV1"})
	}
	p := all[g.r.IntN(len(all))]
	g.add(Client, p.b, p.note)
}

func (g *generator) clientCloses() {
	p := [][]byte{nil, {3, 0xe8}, {3, 0xe9, 'D', 'o', 'n', 'e'}, {0x0b, 0xb8}, {0x13, 0x87}}[g.r.IntN(5)]
	g.add(Client, g.frame(0x88, p), fmt.Sprintf("Close %x", p))
}

// noText queues a message that RFC 7395, section 3.3.3 does not allow to begin.
func (g *generator) noText() {
	g.sendMessage([]byte([]string{"", " ", " <presence/>", "\ufeff<presence/>", "hello", "<a>\xff</a>", "<a>\xc0\xaf</a>", "<a>\xed\xa0\x80</a>", "<a/>\xe2\x82"}[g.r.IntN(9)]))
}

// large queues a message that is above a limit, by little or by much.
func (g *generator) large() {
	if g.chance(70) {
		n := []int{4096, 10_000, g.cfg.MaxStanza}[g.r.IntN(3)] + 1 + g.r.IntN(20)
		b := []byte("<message><body>" + strings.Repeat("y", n-len("<message><body></body></message>")) + "</body></message>")
		if n <= g.m.limit() {
			return // it is not on the list
		}
		g.add(Client, g.frame(0x81, b), fmt.Sprintf("%d bytes", n))
		return
	}
	b := binary.BigEndian.AppendUint64([]byte{0x81, 0xff}, 1<<40)
	g.add(Client, append(b, 0, 0, 0, 0), "much too large, as it is announced")
}

// serverSpeaks queues what a server says next.
func (g *generator) serverSpeaks() {
	m := g.m
	if m.conn[Server] != up {
		return
	}
	e := g.pick(server, of(element))
	switch {
	case g.odd(30):
		e = g.pick(server, every)
	case m.servers == before || m.servers == restart:
		e = g.pick(server, of(header))
	case !m.features && g.chance(80):
		e = g.pick(server, of(offer, offer, noOffer))
	case m.login == running && g.chance(80):
		e = g.pick(server, of(success, success, failure))
	case m.login == asked && g.chance(20):
		e = g.pick(server, of(success2))
	case g.odd(40), m.pending != "" && g.chance(40):
		e = g.pick(server, of(end))
	case g.odd(30):
		e = g.pick(server, of(fatal))
	case g.chance(4) && g.cfg.MaxServerStanza > len(big.text)+1000:
		e = &big
	case g.chance(2) && g.cfg.MaxServerStanza == 10_000:
		e = &bigger
	}
	text := []byte(g.numbered(e.text))
	name := fmt.Sprintf("%.40q", text)
	whole := e.whole
	if e.kind != malformed && e.kind != upgrades && e.kind != tooLarge {
		whole = len(text)
	}
	if g.chance(10) {
		text, whole = append([]byte(" \r\n"), text...), whole+3
	}
	if e == &big && g.chance(70) { // so that a part of it is passed on
		n := 257<<10 + g.r.IntN(30_000)
		g.add(Server, text[:n], name)
		text, whole = text[n:], len(text)-n
	}
	if g.chance(60) {
		g.add(Server, text, name)
		return
	}
	for _, p := range g.cut(text, whole) {
		g.add(Server, p, name)
	}
}

func deflated(text []byte) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		panic(err)
	}
	w.Write(text)
	w.Flush()
	return b.Bytes()[:b.Len()-4]
}

// Shrink returns the fewest actions it finds for which fails is still true.
func Shrink(all []Action, fails func([]Action) bool) []Action {
	for size := max(1, len(all)/2); ; {
		smaller := false
		for i := 0; i < len(all); {
			fewer := slices.Concat(all[:i], all[min(i+size, len(all)):])
			if fails(fewer) {
				all, smaller = fewer, true
			} else {
				i += size
			}
		}
		if size == 1 && !smaller {
			return all
		}
		size = max(1, size/2)
	}
}
