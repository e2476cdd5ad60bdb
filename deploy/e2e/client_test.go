package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gobwas/ws"
)

// client is a minimal XMPP client with exact control of its bytes. Its methods return errors, so that they can be used in
// any goroutine; [user] wraps it for straight-line tests.
type client struct {
	transport
	jid     string // full JID, once bound
	backlog []*element

	mu sync.Mutex // protects sm: one goroutine may send while another receives
	sm struct {
		on      bool
		id      string   // of the resumable session
		in      uint32   // stanzas received
		out     uint32   // stanzas sent and acknowledged
		unacked []string // stanzas sent since
	}
}

var errEnded = errors.New("the peer ended the stream")

func dial(url string) (*client, error) {
	t, err := dialTransport(url)
	if err != nil {
		return nil, err
	}
	return &client{transport: t}, nil
}

// login dials and gets as far as a bound resource; an empty localpart means SASL ANONYMOUS.
func login(url, host, localpart, resource string) (*client, error) {
	c, err := dial(url)
	if err != nil {
		return nil, err
	}
	return c, c.login(host, localpart, resource)
}

// login gets as far as a bound resource, or closes the connection.
func (c *client) login(host, localpart, resource string) error {
	err := c.authenticate(host, localpart)
	if err == nil {
		err = c.bind(resource)
	}
	if err != nil {
		c.conn().Close()
	}
	return err
}

// open exchanges stream headers and returns the features.
func (c *client) open(host string) (*element, error) {
	if err := c.header(host); err != nil {
		return nil, err
	}
	header, err := c.receive()
	if err != nil {
		return nil, fmt.Errorf("stream header: %w", err)
	}
	if !header.is("open") && !strings.HasPrefix(header.raw, "<stream:stream") {
		return nil, fmt.Errorf("want a stream header, got %.300q", header.raw)
	}
	features, err := c.receive()
	if err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	if !features.is("features") {
		return nil, fmt.Errorf("want features, got %.300q", features.raw)
	}
	return features, nil
}

func (c *client) authenticate(host, localpart string) error {
	if _, err := c.open(host); err != nil {
		return err
	}
	return c.sasl(host, localpart)
}

// sasl authenticates over an open stream and restarts it.
func (c *client) sasl(host, localpart string) error {
	auth := `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="ANONYMOUS"/>`
	if localpart != "" {
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + localpart + "\x00" + password))
		auth = `<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">` + secret + `</auth>`
	}
	if err := c.transport.send(auth); err != nil {
		return err
	}
	answer, err := c.receive()
	if err != nil {
		return err
	}
	if !answer.is("success") {
		return fmt.Errorf("authentication: %.300q", answer.raw)
	}
	_, err = c.open(host)
	return err
}

func (c *client) bind(resource string) error {
	if resource != "" {
		resource = "<resource>" + resource + "</resource>"
	}
	answer, err := c.request("", "set", `<bind xmlns="urn:ietf:params:xml:ns:xmpp-bind">`+resource+`</bind>`)
	if err != nil {
		return err
	}
	c.jid = answer.child("bind", "jid").Text
	return nil
}

// bare returns the JID without its resource.
func (c *client) bare() string {
	jid, _, _ := strings.Cut(c.jid, "/")
	return jid
}

// send sends a stanza, which must not carry an xmlns of its own on the root.
func (c *client) send(stanza string) error {
	name, rest, found := cutName(stanza)
	if !found {
		return fmt.Errorf("not an element: %q", stanza)
	}
	if _, ok := c.transport.(*websocket); ok {
		stanza = name + ` xmlns="jabber:client"` + rest
	}
	c.mu.Lock()
	if c.sm.on {
		c.sm.unacked = append(c.sm.unacked, stanza)
	}
	c.mu.Unlock()
	return c.transport.send(stanza)
}

// cutName cuts a start tag behind its name.
func cutName(el string) (name, rest string, found bool) {
	i := strings.IndexAny(el, " />\t\r\n")
	if i < 2 || el[0] != '<' {
		return el, "", false
	}
	return el[:i], el[i:], true
}

func (c *client) message(to, content string) error {
	return c.send(`<message to="` + to + `" type="chat">` + content + `</message>`)
}

// receive returns the next element. It counts stanzas and answers requests for acknowledgement.
func (c *client) receive() (*element, error) {
	raw, err := c.next()
	if err != nil {
		return nil, err
	}
	document := raw
	if name, rest, ok := cutName(raw); ok && name != "<stream:stream" && raw != streamEnd {
		document = declare(name, rest)
	}
	e, err := parse(document)
	if err != nil {
		return nil, err
	}
	e.raw = raw
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sm.on {
		return e, nil
	}
	switch {
	case e.XMLName.Space != nsSM:
		if e.is("message") || e.is("presence") || e.is("iq") {
			c.sm.in++
		}
	case e.is("r"):
		return e, c.transport.send(fmt.Sprintf(`<a xmlns="%s" h="%d"/>`, nsSM, c.sm.in))
	case e.is("a"):
		return e, c.acked(e)
	}
	return e, nil
}

// acked drops from the queue what e, an <a/> or <resumed/>, acknowledges.
func (c *client) acked(e *element) error {
	h, err := strconv.ParseUint(e.attr("h"), 10, 32)
	n := uint32(h) - c.sm.out
	if err != nil || int(n) > len(c.sm.unacked) {
		return fmt.Errorf("h=%q, with %d acknowledged before and %d since: %w", e.attr("h"), c.sm.out, len(c.sm.unacked), err)
	}
	c.sm.out, c.sm.unacked = uint32(h), c.sm.unacked[n:]
	return nil
}

// await returns the first element, from the backlog or the stream, that match likes. Others stay in the backlog.
func (c *client) await(match func(*element) bool) (*element, error) {
	for i, e := range c.backlog {
		if match(e) {
			c.backlog = append(c.backlog[:i:i], c.backlog[i+1:]...)
			return e, nil
		}
	}
	for {
		e, err := c.receive()
		if err != nil {
			var seen []string
			for _, e := range c.backlog[max(0, len(c.backlog)-5):] {
				seen = append(seen, fmt.Sprintf("\n\t%.300q", e.raw))
			}
			return nil, fmt.Errorf("%w; the last unexpected of %d elements:%s", err, len(c.backlog), strings.Join(seen, ""))
		}
		if match(e) {
			return e, nil
		}
		if e.raw == streamEnd || e.is("close") {
			return nil, errEnded
		}
		c.backlog = append(c.backlog, e)
	}
}

var idCount atomic.Int64

// request sends an iq and returns its result; an error answer is an error.
func (c *client) request(to, kind, payload string) (*element, error) {
	id := fmt.Sprintf("q%d", idCount.Add(1))
	if to != "" {
		to = ` to="` + to + `"`
	}
	if err := c.send(`<iq id="` + id + `" type="` + kind + `"` + to + `>` + payload + `</iq>`); err != nil {
		return nil, err
	}
	e, err := c.await(func(e *element) bool { return e.is("iq") && e.attr("id") == id && e.attr("type") != kind })
	if err == nil && e.attr("type") != "result" {
		err = fmt.Errorf("iq %s: %.500q", payload, e.raw)
	}
	return e, err
}

// enable makes the session resumable. XEP-0198, section 5.
func (c *client) enable() error {
	c.mu.Lock()
	c.sm.on = true // stanzas count from here on; none is under way to us but what precedes <enabled/>
	c.mu.Unlock()
	if err := c.transport.send(`<enable xmlns="` + nsSM + `" resume="true"/>`); err != nil {
		return err
	}
	e, err := c.await(func(e *element) bool { return e.XMLName.Space == nsSM && !e.is("r") })
	if err != nil {
		return err
	}
	if !e.is("enabled") || e.attr("id") == "" {
		return fmt.Errorf("enable: %q", e.raw)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sm.id, c.sm.in = e.attr("id"), 0
	return nil
}

// resume continues the session of old over the authenticated stream c. What the server does not acknowledge stays in the
// queue for [client.resend].
func (c *client) resume(old *client) error {
	old.mu.Lock()
	c.mu.Lock()
	c.jid, c.backlog, c.sm = old.jid, old.backlog, old.sm
	c.mu.Unlock()
	old.mu.Unlock()
	err := c.transport.send(fmt.Sprintf(`<resume xmlns="%s" previd="%s" h="%d"/>`, nsSM, c.sm.id, c.sm.in))
	if err != nil {
		return err
	}
	e, err := c.await(func(e *element) bool { return e.is("resumed") || e.is("failed") })
	if err != nil {
		return err
	}
	if e.is("failed") {
		return resumeFailed{e.raw}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked(e)
}

// resend sends again what was not acknowledged.
func (c *client) resend() error {
	for _, stanza := range c.sm.unacked {
		if err := c.transport.send(stanza); err != nil {
			return err
		}
	}
	return nil
}

type resumeFailed struct{ answer string }

func (e resumeFailed) Error() string { return "resumption refused: " + e.answer }

// reconnect resumes the session of c over a new connection, and sends again what was not acknowledged.
func (c *client) reconnect(url string) (*client, error) {
	fresh, err := c.reattach(url)
	if err != nil {
		return nil, err
	}
	return fresh, fresh.resend()
}

// reattach resumes the session of c over a new connection.
func (c *client) reattach(url string) (*client, error) {
	bare, _, _ := strings.Cut(c.jid, "/")
	at := strings.LastIndexByte(bare, '@')
	fresh, err := dial(url)
	if err != nil {
		return nil, err
	}
	if err = fresh.authenticate(bare[at+1:], bare[:at]); err == nil {
		err = fresh.resume(c)
	}
	if err != nil {
		fresh.conn().Close()
		return nil, err
	}
	return fresh, nil
}

// close ends the stream politely and reports what differs from how RFC 7395, section 3.6, and RFC 6120, section 4.4,
// say it should go.
func (c *client) close() error {
	defer c.conn().Close()
	if c.sm.on { // what is not acknowledged at the end, a server may bounce
		if err := c.transport.send(fmt.Sprintf(`<a xmlns="%s" h="%d"/>`, nsSM, c.sm.in)); err != nil {
			return err
		}
	}
	if err := c.finish(); err != nil {
		return err
	}
	e, err := c.await(func(e *element) bool { return e.is("close") || e.raw == streamEnd })
	if err != nil {
		return fmt.Errorf("no end of stream from the peer: %w", err)
	}
	_, after := c.next()
	if _, ok := c.transport.(*tcp); ok {
		return nil
	}
	if !native && e.raw != gatewayClose {
		return fmt.Errorf("closed by %q", e.raw)
	}
	if closeCode(after) != 1000 {
		return fmt.Errorf("after the end of the stream: %w, want close code 1000", after)
	}
	return nil
}

// abort breaks the connection without a word to the server.
func (c *client) abort(how loss) {
	switch how {
	case lossRST:
		c.conn().(*net.TCPConn).SetLinger(0)
	case lossClose1000:
		c.transport.(*websocket).write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
	case lossClose1001:
		c.transport.(*websocket).write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusGoingAway, "leaving")))
	}
	c.conn().Close()
}

// loss is a way to lose a connection without ending the stream.
type loss string

const (
	lossRST       loss = "RST"
	lossFIN       loss = "FIN"
	lossClose1000 loss = "WebSocket close 1000"
	lossClose1001 loss = "WebSocket close 1001"
)

// user is a client whose failures end the test.
type user struct {
	*client
	t testing.TB
}

// as logs an account in through url and sends initial presence.
func as(t testing.TB, url, localpart, resource string) *user {
	t.Helper()
	c, err := login(url, domain, localpart, resource)
	if err != nil {
		t.Fatalf("log in %s over %s: %v", localpart, url, err)
	}
	t.Cleanup(func() { c.conn().Close() })
	u := &user{c, t}
	u.appear()
	return u
}

// appear sends initial presence and waits until the server has seen it.
func (u *user) appear() {
	u.t.Helper()
	u.say("<presence/>")
	u.hear("own presence", func(e *element) bool { return e.is("presence") && e.attr("from") == u.jid })
}

func (u *user) say(stanza string) {
	u.t.Helper()
	if err := u.send(stanza); err != nil {
		u.t.Fatalf("%s: send: %v", u.jid, err)
	}
}

func (u *user) hear(what string, match func(*element) bool) *element {
	u.t.Helper()
	e, err := u.await(match)
	if err != nil {
		u.t.Fatalf("%s: waiting for %s: %v", u.jid, what, err)
	}
	return e
}

// hearBody waits for a message with a body and fails unless it is this one.
func (u *user) hearBody(want string) *element {
	u.t.Helper()
	e := u.hear("a message", func(e *element) bool { return e.is("message") && e.has("body") })
	if got := e.body(); got != want {
		u.t.Fatalf("%s: got body %.200q, want %.200q", u.jid, got, want)
	}
	return e
}

func (u *user) ask(to, kind, payload string) *element {
	u.t.Helper()
	e, err := u.request(to, kind, payload)
	if err != nil {
		u.t.Fatalf("%s: %v", u.jid, err)
	}
	return e
}

func (u *user) leave() {
	u.t.Helper()
	if err := u.close(); err != nil {
		u.t.Errorf("%s: close: %v", u.jid, err)
	}
}
