package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"xmppgate/framing"
)

// Texts that scripts exchange.
const (
	chatHeader = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'` +
		` to='chat.example' from='juliet@chat.example' version='1.0' xml:lang='en'>`
	clearHeader = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'` +
		` to='chat.example' version='1.0'>`
	reply = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'` +
		` from='chat.example' id='1' version='1.0' xml:lang='en'>`
	noFeatures  = `<stream:features/>`
	tlsFeatures = `<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>`
	proceed     = `<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
)

// chatRequest is the request of most tests.
func chatRequest() *Request {
	return &Request{
		Domain: "chat.example",
		JID:    "juliet@chat.example",
		Header: framing.Header{
			To:      []byte(`'chat.example'`),
			From:    []byte(`'juliet@chat.example'`),
			Version: []byte(`'1.0'`),
			Lang:    []byte(`'en'`),
		},
	}
}

// A peer is the server's end of a connection. Its methods end the script when
// the gateway hangs up.
type peer struct {
	net.Conn
	bytewise bool // send a byte at a time
}

// errHungUp ends a script.
var errHungUp = errors.New("the gateway hung up")

func (p *peer) must(err error) {
	if err != nil {
		panic(errHungUp)
	}
}

// send writes text.
func (p *peer) send(text string) {
	if !p.bytewise {
		_, err := io.WriteString(p, text)
		p.must(err)
		return
	}
	for i := range len(text) {
		_, err := io.WriteString(p, text[i:i+1])
		p.must(err)
	}
}

// receive reads n bytes.
func (p *peer) receive(n int) string {
	b := make([]byte, n)
	n, err := io.ReadFull(p, b)
	if n < len(b) {
		p.must(err)
	}
	return string(b)
}

// expect reads text.
func (p *peer) expect(t *testing.T, text string) {
	if got := p.receive(len(text)); got != text {
		t.Errorf("server received %q\nwant %q", got, text)
		panic(errHungUp)
	}
}

// drain reads until the gateway hangs up.
func (p *peer) drain() { io.Copy(io.Discard, p) }

// secure makes p speak TLS.
func (p *peer) secure(cfg *tls.Config) *tls.Conn {
	c := tls.Server(p.Conn, cfg)
	p.must(c.Handshake())
	p.Conn = c
	return c
}

func serverConfig(c tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}}
}

// serve runs script for each connection to a new address.
func serve(t *testing.T, script func(p *peer)) (address string) {
	t.Helper()
	return serveOn(t, "tcp", "127.0.0.1:0", script)
}

func serveOn(t *testing.T, network, address string, script func(p *peer)) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				defer func() {
					if r := recover(); r != nil && r != errHungUp {
						panic(r)
					}
				}()
				script(&peer{Conn: c})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// A recorder is an Observer.
type recorder struct {
	mu      sync.Mutex
	opened  []string
	expires []time.Time
}

func (r *recorder) Opened(server, phase, result string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, phase+" "+result)
}

func (r *recorder) CertificateExpires(server string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expires = append(r.expires, at)
}

func (r *recorder) Encrypted(string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, "encrypted")
}

func (r *recorder) FilesRead(_ string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, fmt.Sprintf("files read: %v", err))
}

func (r *recorder) FailedOver(string)     {}
func (r *recorder) Redirected(string)     {}
func (r *recorder) Health(string, *Error) {}
func (r *recorder) Updated([]string)      {}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.opened, ", ")
}

// endpointAt returns the endpoint of a URL in which %s is the address.
func endpointAt(t *testing.T, format, address string) (endpoint, *recorder) {
	t.Helper()
	s, err := ParseServer(strings.Replace(format, "%s", address, 1))
	if err != nil {
		t.Fatal(err)
	}
	seen := new(recorder)
	return s.endpoint(seen), seen
}

// open opens a stream and closes it when the test ends.
func open(t *testing.T, e *endpoint, r *Request) (*Stream, *Error) {
	t.Helper()
	s, err := e.open(t.Context(), r)
	return closeLater(t, s, err)
}

func closeLater(t *testing.T, s *Stream, err error) (*Stream, *Error) {
	t.Helper()
	if err == nil {
		t.Cleanup(func() { s.Conn.Close() })
		return s, nil
	}
	failed, ok := err.(*Error)
	if !ok || s != nil {
		t.Fatalf("stream %v, error %T: %v", s, err, err)
	}
	if failed.stream != nil {
		t.Cleanup(func() { failed.stream.Conn.Close() })
	}
	return nil, failed
}

// resultOf returns the phase and the result, "ok" for success.
func resultOf(err *Error) string {
	if err == nil {
		return ResultOK
	}
	return err.Phase + " " + err.Result
}

func cancelAfter(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(d, cancel)
	t.Cleanup(func() { timer.Stop(); cancel() })
	return ctx
}
