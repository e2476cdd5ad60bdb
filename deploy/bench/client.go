package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// A route is a way to a server: its address, and what runs on the way.
type route struct {
	name string
	port int
	ws   bool
	proc []*process // the server and the proxy
}

// A session is an XMPP client that has logged in.
type session struct {
	net.Conn
	ws   bool
	jid  string
	in   *bufio.Reader
	out  []byte
	text []byte // of the last stanza
	d    deframer
}

const clientHeader = `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>`

func (r *route) login() (s *session, err error) {
	c, err := net.DialTimeout("tcp", loopback(r.port), 10*time.Second)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	s = &session{Conn: c, ws: r.ws, in: bufio.NewReaderSize(c, 4096)}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("%s: %w", r.name, err)
		}
	}()
	if s.ws {
		io.WriteString(c, request)
		for line := ""; line != "\r\n"; {
			if line, err = s.in.ReadString('\n'); err != nil {
				return nil, err
			}
		}
	}
	if _, err := s.header(); err != nil {
		return nil, err
	}
	s.put(`<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="ANONYMOUS"/>`)
	if _, err := s.expect("<success"); err != nil {
		return nil, err
	}
	if _, err := s.header(); err != nil {
		return nil, err
	}
	s.put(`<iq xmlns="jabber:client" type="set" id="b"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"/></iq>`)
	bound, err := s.expect("<iq")
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(bound, "<jid>")
	s.jid, _, _ = strings.Cut(rest, "</jid>")
	s.put(`<presence xmlns="jabber:client"/>`)
	if _, err := s.expect("<presence"); err != nil {
		return nil, err
	}
	return s, c.SetDeadline(time.Time{})
}

// header opens the stream, again or for the first time.
func (s *session) header() (string, error) {
	if s.ws {
		s.put(openUp)
	} else {
		io.WriteString(s, clientHeader)
	}
	return s.expect("<stream:features")
}

// put sends one stanza, or adds it to those that flush sends.
func (s *session) put(stanza string) error {
	s.add([]byte(stanza))
	return s.flush()
}

func (s *session) add(stanza []byte) {
	if s.ws {
		s.out = appendFrame(s.out, opText, true, stanza)
	} else {
		s.out = append(s.out, stanza...)
	}
}

func (s *session) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.Write(s.out)
	if s.out = s.out[:0]; cap(s.out) > 8192 {
		s.out = nil
	}
	return err
}

// expect skips to a stanza with the given beginning.
func (s *session) expect(begin string) (string, error) {
	for {
		b, err := s.next()
		if err != nil {
			return "", err
		}
		if bytes.HasPrefix(b, []byte(begin)) {
			return string(b), nil
		}
		if bytes.HasPrefix(b, []byte("<failure")) || bytes.HasPrefix(b, []byte("<stream:error")) || bytes.Contains(b, []byte("type='error'")) {
			return "", fmt.Errorf("waiting for %s: %s", begin, b)
		}
	}
}

// next is the next stanza; the bytes are good until the next call.
func (s *session) next() ([]byte, error) {
	if cap(s.text) > 1<<17 && s.in.Buffered() == 0 {
		s.text = nil
	}
	s.text = s.text[:0]
	if !s.ws {
		return s.nextElement()
	}
	for {
		b, err := s.in.Peek(1)
		if err == nil {
			b, err = s.in.Peek(s.in.Buffered())
		}
		if err != nil {
			return nil, err
		}
		payload, used, end := s.d.next(b)
		s.text = append(s.text, payload...)
		s.in.Discard(used)
		if !end {
			continue
		}
		if err := s.d.check(); err != nil {
			return nil, err
		}
		switch s.d.opcode() {
		case opPing:
			if _, err := s.Write(appendFrame(nil, opPong, true, s.text)); err != nil {
				return nil, err
			}
			s.text = s.text[:0]
			continue
		case opClose:
			return nil, fmt.Errorf("close frame %q", s.text)
		}
		if s.d.fin() {
			return s.text, nil
		}
	}
}

// nextElement takes the next first-level element from a stream whose markup
// has no '>' but at the end of tags.
func (s *session) nextElement() ([]byte, error) {
	for depth := 0; ; {
		if _, err := s.readTo('<'); err != nil {
			return nil, err
		}
		if depth == 0 { // whitespace between stanzas
			s.text = append(s.text[:0], '<')
		}
		n := len(s.text)
		if _, err := s.readTo('>'); err != nil {
			return nil, err
		}
		tag := s.text[n:]
		switch {
		case tag[0] == '?' || bytes.HasPrefix(tag, []byte("stream:stream ")):
			s.text = s.text[:0]
			continue
		case bytes.HasPrefix(tag, []byte("/stream:stream")):
			return nil, errors.New("the server closed the stream")
		case tag[0] == '/':
			depth--
		case tag[len(tag)-2] != '/':
			depth++
		}
		if depth == 0 {
			return s.text, nil
		}
	}
}

func (s *session) readTo(c byte) (int, error) {
	for {
		b, err := s.in.ReadSlice(c)
		s.text = append(s.text, b...)
		if err != bufio.ErrBufferFull {
			return len(s.text), err
		}
	}
}
