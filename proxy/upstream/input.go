package upstream

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"xmppgate/framing"
)

const (
	// maxEarly bounds what is read of a stream before it is handed over. An
	// element that is greater still is completed by whoever reads on.
	maxEarly = 64 << 10

	// maxCleartext bounds what a server may say before TLS.
	maxCleartext = 16 << 10

	// firstRead is what the header and the features of most servers fit in.
	firstRead = 4 << 10

	// featuresTimeout is how long nothing may come behind a header until the
	// stream counts as open: servers from before XMPP 1.0 send no features
	// (RFC 6120, section 4.7.5).
	featuresTimeout = 500 * time.Millisecond
)

var (
	errFull       = errors.New("the answer is too long")
	errEnd        = errors.New("the server ended the stream at once")
	errNoHeader   = errors.New("the server's answer does not start with a stream header")
	errTwoHeaders = errors.New("the server sent two stream headers")
	errTLS        = errors.New("the server speaks TLS from the first byte; write tls://")
	errHTTP       = errors.New("the server answers HTTP; is this the port of its WebSocket? XMPP has port 5222")
)

// An input reads from a server and splits the bytes into units.
type input struct {
	conn        net.Conn
	deadline    time.Time
	readTimeout time.Duration // for each read; zero leaves it to the deadline
	limit       int           // of len(buf)

	splitter framing.StreamSplitter
	buf      []byte // all that was read
	seen     int    // how many of these bytes belong to the units so far
	err      error  // of the last read
}

// next returns the next unit, which is valid until the next call. The error is
// a *failure, errFull, or what reading says.
func (in *input) next() (framing.StreamUnit, error) {
	var u framing.StreamUnit
	for {
		if in.seen == 0 && isHTTP(in.buf) {
			return u, badStream(errHTTP)
		}
		if in.seen == 0 && in.err == nil && mayBeHTTP(in.buf) {
			in.read() // before it is called bad XML
			continue
		}
		n, err := in.splitter.Next(in.buf[in.seen:], &u)
		in.seen += n
		switch {
		case err != nil:
			return u, badStream(streamFault{err})
		case u.Kind != framing.KindNone:
			return u, nil
		case in.err != nil:
			return u, in.err
		case len(in.buf) == in.limit:
			return u, errFull
		}
		in.read()
	}
}

// read reads once.
func (in *input) read() {
	if in.readTimeout != 0 {
		d := time.Now().Add(in.readTimeout)
		if d.After(in.deadline) {
			d = in.deadline
		}
		if in.err = in.conn.SetReadDeadline(d); in.err != nil {
			return
		}
	}
	if in.buf == nil {
		in.buf = make([]byte, 0, firstRead)
	}
	in.buf = slices.Grow(in.buf, 1)
	var n int
	n, in.err = in.conn.Read(in.buf[len(in.buf):min(cap(in.buf), in.limit)])
	in.buf = in.buf[:len(in.buf)+n]
}

// header expects the stream to start with a header.
func (in *input) header() error {
	u, err := in.next()
	switch {
	case len(in.buf) > 0 && (in.buf[0] == recordAlert || in.buf[0] == recordHandshake):
		return badStream(errTLS)
	case err == errFull:
		return badStream(err)
	case err != nil:
		return err
	case u.Kind != framing.KindHeader:
		return badStream(errNoHeader)
	}
	return nil
}

// The first bytes of TLS records (RFC 8446, section 5.1). No XML starts with them.
const (
	recordAlert     = 21
	recordHandshake = 22
)

// startsOfHTTP are the first bytes of HTTP responses. Servers that cannot parse a
// request may answer with a body only.
var startsOfHTTP = []string{"HTTP/", "<html", "<HTML", "<!DOCTYPE html", "<!doctype html"}

// isHTTP reports whether b begins an answer in HTTP.
func isHTTP(b []byte) bool {
	return slices.ContainsFunc(startsOfHTTP, func(start string) bool { return bytes.HasPrefix(b, []byte(start)) })
}

// mayBeHTTP reports whether b, with more bytes behind it, could be one.
func mayBeHTTP(b []byte) bool {
	return len(b) > 0 && slices.ContainsFunc(startsOfHTTP, func(start string) bool { return strings.HasPrefix(start, string(b)) })
}

// enough reports whether err only means that the element behind the header is not
// complete.
func enough(err error) bool { return err == errFull || errors.Is(err, os.ErrDeadlineExceeded) }

// A streamFault is what is wrong with a stream, without the name of the package that has
// found it: operators read it in a line of the log.
type streamFault struct{ error }

func (f streamFault) Error() string {
	if e, ok := errors.AsType[*framing.Error](f.error); ok {
		return e.Text()
	}
	return f.error.Error()
}

func (f streamFault) Unwrap() error { return f.error }

func badStream(err error) error { return &failure{result: ResultBadStream, err: err} }

// normalHost returns what a <see-other-host/> says in the form host:port, with
// an IPv6 address in brackets; ok is false if it is neither a name nor an
// address (RFC 6120, section 4.9.3.19).
func normalHost(s string) (hostport string, ok bool) {
	host, port := s, "5222"
	if a, err := netip.ParseAddr(s); err != nil || !a.Is6() { // or it has colons of its own
		if strings.LastIndexByte(s, ':') > strings.LastIndexByte(s, ']') {
			if host, port, err = net.SplitHostPort(s); err != nil {
				return "", false
			}
		} else if inner, ok := strings.CutPrefix(s, "["); ok {
			if host, ok = strings.CutSuffix(inner, "]"); !ok {
				return "", false
			}
		}
		if strings.HasPrefix(s, "[") && !strings.Contains(host, ":") {
			return "", false
		}
	}
	if strings.Contains(host, "%") || checkHost(host) != nil || checkPort(port) != nil {
		return "", false
	}
	return net.JoinHostPort(strings.ToLower(host), port), true
}
