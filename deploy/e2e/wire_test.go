package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tap forwards TCP connections to a server and keeps what passed in both directions.
type tap struct {
	ln     net.Listener
	target string
	mu     sync.Mutex
	conns  []*tapped
}

type tapped struct {
	up, down       transcript
	client, server stream
}

// startTap listens on a TCP or Unix address until the test ends.
func startTap(t *testing.T, network, address, target string) *tap {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p := &tap{ln: ln, target: target}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.forward(c.(stream))
		}
	}()
	return p
}

// stream is a connection that can be closed in one direction.
type stream interface {
	net.Conn
	CloseWrite() error
}

func (p *tap) forward(client stream) {
	defer client.Close()
	c, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	server := c.(stream)
	defer server.Close()
	rec := &tapped{client: client, server: server}
	p.mu.Lock()
	p.conns = append(p.conns, rec)
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.MultiWriter(&rec.up, server), client); server.CloseWrite() })
	wg.Go(func() { io.Copy(io.MultiWriter(&rec.down, client), server); client.CloseWrite() })
	wg.Wait()
}

// sizes returns how many bytes have passed to the server and to the clients.
func (p *tap) sizes() (up, down int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		up += c.up.len()
		down += c.down.len()
	}
	return up, down
}

// count returns the number of connections so far.
func (p *tap) count() int {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// find returns the connection on which the server opened the stream with this id attribute.
func (p *tap) find(id string) *tapped {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if down := c.down.all(); strings.Contains(down, "id='"+id+"'") || strings.Contains(down, `id="`+id+`"`) {
			return c
		}
	}
	return nil
}

func (l *transcript) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// wire is a gateway with a tap behind it. At the end of the test, every message of every client is compared with the bytes
// on the server's side: the gateway may add namespace declarations to the root and cut features, and nothing else.
type wire struct {
	t       *testing.T
	s       *server
	url     string
	tap     *tap
	clients []*user
}

func newWire(t *testing.T, s *server) *wire {
	t.Helper()
	w := &wire{t: t, s: s, url: s.websocket()}
	if native {
		return w
	}
	w.tap = startTap(t, "tcp", "127.0.0.1:0", s.c2s)
	w.url = gatewayFor(t, "tcp://"+w.tap.ln.Addr().String()).url()
	return w
}

// user creates an account and logs it in, available.
func (w *wire) user(label string) *user {
	w.t.Helper()
	return w.as(w.s.newUser(w.t, label), "e2e")
}

func (w *wire) as(localpart, resource string) *user {
	w.t.Helper()
	c, err := dial(w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	c.transport.(*websocket).record = true
	w.t.Cleanup(func() { c.conn().Close() })
	if err = c.authenticate(domain, localpart); err == nil {
		err = c.bind(resource)
	}
	if err != nil {
		w.t.Fatalf("log in %s over %s: %v", localpart, w.url, err)
	}
	u := &user{c, w.t}
	w.clients = append(w.clients, u)
	u.appear()
	return u
}

// check ends all streams and compares both sides.
func (w *wire) check() {
	w.t.Helper()
	for _, u := range w.clients {
		u.leave()
	}
	if native {
		return
	}
	for _, u := range w.clients {
		ws := u.transport.(*websocket)
		header, err := parse(ws.received[0])
		if err != nil {
			w.t.Fatal(err)
		}
		c := w.tap.find(header.attr("id"))
		if c == nil {
			w.t.Errorf("%s: no connection with stream id %q upstream", u.jid, header.attr("id"))
			continue
		}
		up, err := splitAll(c.up.all())
		if err != nil {
			w.t.Errorf("%s: towards the server: %v", u.jid, err)
		}
		down, err := splitAll(c.down.all())
		if err != nil {
			w.t.Errorf("%s: from the server: %v", u.jid, err)
		}
		w.compare(u.jid+" towards the server", mapped(ws.sent, wantUp), up)
		w.compare(u.jid+" from the server", mapped(down, wantDown), ws.received)
	}
}

func (w *wire) compare(what string, want, got []string) {
	w.t.Helper()
	for i := range max(len(want), len(got)) {
		a, b := "(nothing)", "(nothing)"
		if i < len(want) {
			a = want[i]
		}
		if i < len(got) {
			b = got[i]
		}
		if a != b {
			w.t.Errorf("%s, element %d:\n got %.600s\nwant %.600s", what, i, b, a)
			return
		}
	}
}

func mapped(in []string, f func(string) string) []string {
	out := slices.Clone(in)
	for i := range out {
		out[i] = f(out[i])
	}
	return out
}

// splitAll cuts a recorded stream, in which stream headers may follow each other.
func splitAll(stream string) (elements []string, err error) {
	s := newSplitter(strings.NewReader(stream))
	for {
		if err := skipSpace(s.r); errors.Is(err, io.EOF) {
			return elements, nil
		}
		if start, _ := s.r.Peek(len("<stream:stream")); bytes.HasPrefix(start, []byte("<?xml ")) || string(start) == "<stream:stream" {
			s.restart()
		}
		el, err := s.next()
		if err != nil {
			return elements, fmt.Errorf("after %d elements: %w", len(elements), err)
		}
		elements = append(elements, el)
	}
}

func skipSpace(r *bufio.Reader) error {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return err
		}
		if !strings.ContainsRune(" \t\r\n", rune(c)) {
			return r.UnreadByte()
		}
	}
}

var (
	attribute = regexp.MustCompile(`\s([\w:]+)\s*=\s*("[^"]*"|'[^']*')`)
	starttls  = regexp.MustCompile(`<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'(/>|>.*?</starttls>)`)
)

// copyAttributes appends the named attributes of a tag, in this order, quotes and all.
func copyAttributes(to, tag string, names ...string) string {
	for _, name := range names {
		for _, m := range attribute.FindAllStringSubmatch(tag, -1) {
			if m[1] == name {
				to += " " + name + "=" + m[2]
			}
		}
	}
	return to
}

// wantUp is what the server must get for a message of the client.
func wantUp(message string) string {
	switch {
	case strings.HasPrefix(message, "<open "):
		header := "<stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams + "'"
		return copyAttributes(header, message, "to", "from", "version", "xml:lang") + ">"
	case message == clientClose:
		return streamEnd
	}
	return message
}

// wantDown is what the client must get for an element from the server.
func wantDown(el string) string {
	name, rest, ok := cutName(el)
	switch {
	case el == streamEnd:
		return gatewayClose
	case !ok:
		return el
	case name == "<stream:stream":
		return copyAttributes(`<open xmlns="`+nsFraming+`"`, el, "from", "to", "id", "version", "xml:lang") + "/>"
	case name == "<stream:features":
		rest = starttls.ReplaceAllString(rest, "")
	}
	return declare(name, rest)
}

// declare adds to an element, given as its name and the rest, the declarations that it inherits on TCP.
func declare(name, rest string) string {
	el := name + rest
	declared := attribute.FindAllStringSubmatch(tagOf(el), -1)
	declares := func(name string) bool {
		return slices.ContainsFunc(declared, func(m []string) bool { return m[1] == name })
	}
	if !declares("xmlns") {
		name += ` xmlns="jabber:client"`
	}
	if strings.Contains(el, "stream:") && !declares("xmlns:stream") {
		name += ` xmlns:stream="` + nsStreams + `"`
	}
	return name + rest
}

// tagOf returns the start tag of el.
func tagOf(el string) string {
	quote := byte(0)
	for i := range len(el) {
		switch c := el[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && c == '>':
			return el[:i+1]
		}
	}
	return el
}
