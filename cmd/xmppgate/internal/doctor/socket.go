package doctor

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Limits on what a peer sends.
const (
	maxMessage = 1<<20 + largestLarge // bytes, inflated
	maxControl = 1000                 // pings and pongs while one message is waited for
)

// A socket is an open WebSocket. It is used by one goroutine.
type socket struct {
	conn net.Conn // with TLS, if there is any
	tcp  net.Conn
	tls  *tls.ConnectionState // nil without TLS
	r    *bufio.Reader

	deflate bool // permessage-deflate without context takeover is agreed to
	timeout time.Duration

	pings int    // from the peer
	first string // the beginning of the first message
	dead  bool   // nothing more can be sent or received

	stop func() bool // forgets the context
}

// A closeError says that the peer closed the WebSocket in order.
type closeError struct {
	code   ws.StatusCode // 1005 if there was none
	reason string
}

func (e closeError) Error() string {
	if e.code == ws.StatusNoStatusRcvd {
		return "WebSocket closed without a code"
	}
	if e.reason == "" {
		return fmt.Sprintf("WebSocket closed with code %d", e.code)
	}
	return fmt.Sprintf("WebSocket closed with code %d, %s", e.code, quote(e.reason))
}

// errFraming is wrapped by errors about what RFC 6455 and RFC 7395 do not allow.
var errFraming = errors.New("not as RFC 6455 and RFC 7395 say")

func framingError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errFraming)
}

// isTimeout reports whether err means that nothing came.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isCut reports whether the connection ended without a word.
func isCut(err error) bool {
	return err != nil && !errors.As(err, new(closeError)) && !errors.As(err, new(refusal)) && !isTimeout(err) && !errors.Is(err, errFraming) && !errors.Is(err, net.ErrClosed)
}

// describe puts the end of a socket into words.
func describe(err error) string {
	switch {
	case errors.As(err, new(closeError)), errors.As(err, new(refusal)), errors.Is(err, errFraming):
		return err.Error()
	case isTimeout(err):
		return "nothing came in time"
	case errors.Is(err, net.ErrClosed):
		return "interrupted"
	case isCut(err):
		return "the connection was cut without a word"
	}
	return cause(err)
}

// frameGrace is how much longer than the deadline a frame may take.
const frameGrace = 2 * time.Second

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// receive returns the next message, and answers pings meanwhile. It returns by the
// deadline whatever the peer does.
func (s *socket) receive(deadline time.Time) ([]byte, error) {
	var message bytes.Buffer
	inside, compressed := false, false
	for control := 0; ; {
		// A deadline between two frames leaves the socket as it is. A frame that has
		// begun gets a little longer, or the rest of it would be taken for a header.
		if err := s.conn.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
		if _, err := s.r.Peek(1); err != nil {
			if isTimeout(err) && inside {
				return nil, framingError("a message stops in the middle")
			}
			return nil, err
		}
		if err := s.conn.SetReadDeadline(later(deadline, time.Now().Add(min(frameGrace, s.timeout)))); err != nil {
			return nil, err
		}
		h, err := ws.ReadHeader(s.r)
		if err != nil {
			if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
				return nil, framingError("a frame has an impossible length")
			}
			return nil, err
		}
		switch {
		case h.Masked:
			return nil, framingError("a frame of the server is masked")
		case h.Rsv2() || h.Rsv3() || h.Rsv1() && (!s.deflate || h.OpCode.IsControl() || inside):
			return nil, framingError("a frame has a reserved bit")
		case h.OpCode.IsReserved():
			return nil, framingError("a frame has an unknown kind")
		case h.OpCode.IsControl():
			if h.Length > ws.MaxControlFramePayloadSize || !h.Fin {
				return nil, framingError("a control frame is too long or in pieces")
			}
			if control++; control > maxControl {
				return nil, framingError("there are more than %d pings for one message", maxControl)
			}
			if err := s.control(h); err != nil {
				return nil, err
			}
			continue
		case (h.OpCode == ws.OpContinuation) != inside:
			return nil, framingError("the frames of a message are out of order")
		case h.OpCode == ws.OpBinary:
			return nil, framingError("a message is binary")
		case h.Length > maxMessage-int64(message.Len()):
			return nil, framingError("a message is larger than %d bytes", maxMessage)
		}
		if !inside {
			compressed = h.Rsv1()
		}
		// The buffer grows with what arrives, not with what is announced.
		if _, err := io.CopyN(&message, s.r, h.Length); err != nil {
			return nil, err
		}
		if inside = !h.Fin; inside {
			if control++; control > maxControl && h.Length == 0 {
				return nil, framingError("a message has empty fragments only")
			}
			continue
		}
		text := message.Bytes()
		if compressed {
			if text, err = inflate(text); err != nil {
				return nil, err
			}
		}
		if !utf8.Valid(text) {
			return nil, framingError("a message is not UTF-8")
		}
		if s.first == "" {
			s.first = string(text[:min(len(text), 64)])
		}
		return text, nil
	}
}

// inflate undoes permessage-deflate of one message (RFC 7692, section 7.2.2).
func inflate(text []byte) ([]byte, error) {
	tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff" // the second is the end, for the reader
	r := flate.NewReader(io.MultiReader(bytes.NewReader(text), bytes.NewReader([]byte(tail))))
	defer r.Close()
	plain, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return nil, framingError("a compressed message does not inflate (%v)", err)
	}
	if len(plain) > maxMessage {
		return nil, framingError("a message inflates to more than %d bytes", maxMessage)
	}
	return plain, nil
}

// control handles a control frame.
func (s *socket) control(h ws.Header) error {
	payload := make([]byte, h.Length) // 125 at most
	if _, err := io.ReadFull(s.r, payload); err != nil {
		return err
	}
	switch h.OpCode {
	case ws.OpPing:
		s.pings++
		return s.write(ws.OpPong, payload)
	case ws.OpClose:
		code, reason := ws.StatusNoStatusRcvd, ""
		if len(payload) >= 2 {
			code, reason = ws.ParseCloseFrameData(payload)
		}
		s.write(ws.OpClose, payload)
		return closeError{code, reason}
	case ws.OpPong:
		if string(payload) == pingPayload {
			return errPong
		}
	}
	return nil
}

const pingPayload = "doctor"

var errPong = errors.New("pong")

// ping sends a ping and waits for the answer.
func (s *socket) ping(deadline time.Time) error {
	if err := s.write(ws.OpPing, []byte(pingPayload)); err != nil {
		return err
	}
	for range maxControl {
		if _, err := s.receive(deadline); errors.Is(err, errPong) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return framingError("there are more than %d messages for one ping", maxControl)
}

// send sends a message.
func (s *socket) send(text string) error { return s.write(ws.OpText, []byte(text)) }

func (s *socket) write(op ws.OpCode, payload []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	frame := ws.MaskFrame(ws.NewFrame(op, true, payload))
	b, err := ws.CompileFrame(frame)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(b)
	return err
}

// leave closes the WebSocket in order, without waiting for an answer.
func (s *socket) leave() {
	s.write(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))
	s.cut()
}

// cut ends the connection as a failing network does: without a word of WebSocket or
// TLS.
func (s *socket) cut() {
	if s.stop != nil {
		s.stop()
	}
	s.tcp.Close()
}
