package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

const (
	streamEnd    = "</stream:stream>"
	gatewayClose = `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />` // what the gateway sends, byte for byte
	clientClose  = `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing"/>`
)

// patience is how long a client waits for the next element.
const patience = 20 * time.Second

// transport carries an XMPP stream, element by element. One goroutine may send while another calls next.
type transport interface {
	header(domain string) error // sends a stream header
	send(element string) error  // sends one element, as it is
	finish() error              // sends the end of the stream
	next() (string, error)      // the next element of the peer, its header and its end included
	conn() net.Conn
}

// dialTransport connects to ws://host:port/path, wss:// without asking who that is, or tcp://host:port.
func dialTransport(url string) (transport, error) {
	if addr, ok := strings.CutPrefix(url, "tcp://"); ok {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return nil, err
		}
		return &tcp{c: c, in: newSplitter(c)}, nil
	}
	return dialWebSocket(url, ws.Dialer{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
}

// dialWebSocket opens a WebSocket with what dialer says besides.
func dialWebSocket(url string, dialer ws.Dialer) (transport, error) {
	dialer.Protocols, dialer.Timeout = []string{"xmpp"}, patience
	c, r, handshake, err := dialer.Dial(context.Background(), url)
	if err != nil {
		return nil, err
	}
	if handshake.Protocol != "xmpp" {
		c.Close()
		return nil, fmt.Errorf("subprotocol %q", handshake.Protocol)
	}
	if r == nil { // not nil if frames came along with the response
		r = bufio.NewReader(c)
	}
	return &websocket{c: c, r: r}, nil
}

// tcp is the binding of RFC 6120.
type tcp struct {
	c  net.Conn
	in *splitter
}

func (t *tcp) conn() net.Conn { return t.c }

func (t *tcp) header(domain string) error {
	t.in.restart()
	return t.send("<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams +
		"' to='" + domain + "' version='1.0'>")
}

func (t *tcp) send(element string) error {
	t.c.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(t.c, element)
	return err
}

func (t *tcp) finish() error { return t.send(streamEnd) }

func (t *tcp) next() (string, error) {
	t.c.SetReadDeadline(time.Now().Add(patience))
	return t.in.next()
}

// websocket is the binding of RFC 7395. It is strict about what it receives: one unmasked, unfragmented text frame for
// each element, and every message a document of its own.
type websocket struct {
	c  net.Conn
	r  *bufio.Reader
	mu sync.Mutex // one frame at a time: pongs are sent by the reader

	record         bool
	sent, received []string // messages, when record is set
}

// closed is the error of a WebSocket that the peer closed by a Close frame.
type closed struct {
	code   ws.StatusCode
	reason string
}

func (e closed) Error() string { return fmt.Sprintf("WebSocket closed: %d %q", e.code, e.reason) }

// closeCode returns the code of the Close frame that err is about; 0 if there was none, 1005 if it had none.
func closeCode(err error) ws.StatusCode {
	if e := (closed{}); errors.As(err, &e) {
		return e.code
	}
	return 0
}

func (w *websocket) conn() net.Conn { return w.c }

func (w *websocket) header(domain string) error {
	return w.send(`<open xmlns="` + nsFraming + `" to="` + domain + `" version="1.0"/>`)
}

func (w *websocket) send(element string) error {
	if w.record {
		w.sent = append(w.sent, element)
	}
	return w.write(ws.NewTextFrame([]byte(element)))
}

func (w *websocket) finish() error { return w.send(clientClose) }

// write sends one frame in one piece, masked; MaskFrame leaves the caller's bytes alone.
func (w *websocket) write(f ws.Frame) error {
	b, err := ws.CompileFrame(ws.MaskFrame(f))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.c.SetWriteDeadline(time.Now().Add(patience))
	_, err = w.c.Write(b)
	return err
}

func (w *websocket) next() (string, error) {
	w.c.SetReadDeadline(time.Now().Add(patience))
	for {
		h, err := ws.ReadHeader(w.r)
		if err != nil {
			return "", err
		}
		if h.Masked || !h.Fin || h.Rsv != 0 || h.Length > 1<<20 {
			return "", fmt.Errorf("bad frame header %+v", h)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(w.r, payload); err != nil {
			return "", err
		}
		switch h.OpCode {
		case ws.OpPing:
			if err := w.write(ws.NewPongFrame(payload)); err != nil {
				return "", err
			}
		case ws.OpPong:
		case ws.OpClose:
			e := closed{code: 1005}
			if len(payload) > 0 {
				e.code, e.reason = ws.ParseCloseFrameData(payload)
			}
			w.write(ws.NewCloseFrame(payload))
			w.c.Close()
			return "", e
		case ws.OpText:
			text := string(payload)
			if err := checkDocument(text); err != nil {
				return "", fmt.Errorf("%w in message %.300q", err, text)
			}
			if w.record {
				w.received = append(w.received, text)
			}
			return text, nil
		default:
			return "", fmt.Errorf("unexpected opcode %d", h.OpCode)
		}
	}
}
