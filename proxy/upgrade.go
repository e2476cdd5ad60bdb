package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// Limits of an HTTP request.
const (
	maxHead      = 8 << 10 // bytes
	maxHeadLines = 100
)

// subprotocol is what a client has to offer (RFC 7395, section 3.1).
const subprotocol = "xmpp"

// A refusal is the answer to a request that is not upgraded.
type refusal struct {
	result string // see UpgradeResults
	status int
	header string // further lines, each with its CRLF
	body   string
}

// upgradeOK is the result of a request that was upgraded, upgradeGone of a
// client that left before its request was complete.
const (
	upgradeOK   = "ok"
	upgradeGone = "gone"
)

var (
	refuseBusy     = refusal{"busy", 503, "Retry-After: 5\r\n", "The gateway takes no more sessions now."}
	refuseTooLarge = refusal{"too-large", 431, "", "The request head is too large."}
	refuseTimeout  = refusal{"timeout", 408, "", "The request took too long."}
	refuseBad      = refusal{"bad-request", 400, "", "This is no WebSocket handshake."}
	refuseMethod   = refusal{"bad-method", 405, "Allow: GET\r\n", "Use GET."}
	refusePath     = refusal{"not-found", 404, "", "Nothing is here."}
	refusePlain    = refusal{"no-upgrade", 426, "Upgrade: websocket\r\nConnection: Upgrade\r\n", "This is a WebSocket endpoint (RFC 7395)."}
	refuseVersion  = refusal{"bad-version", 426, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", "Use version 13 of the WebSocket protocol."}
	refuseProtocol = refusal{"no-subprotocol", 400, "", "Offer the WebSocket subprotocol xmpp (Sec-WebSocket-Protocol: xmpp)."}
	refuseOrigin   = refusal{"bad-origin", 403, "", "This origin may not connect."}
)

// UpgradeResults lists the results that Observer.Upgraded is told.
func UpgradeResults() []string {
	results := []string{upgradeOK, upgradeGone}
	for _, r := range []refusal{refuseBusy, refuseTooLarge, refuseTimeout, refuseBad, refuseMethod, refusePath, refusePlain, refuseVersion, refuseProtocol, refuseOrigin} {
		results = append(results, r.result)
	}
	return results
}

// handshakeRules is RFC 6455, section 4.2.1, and RFC 7395, section 3.1, in the
// order in which they are checked.
var handshakeRules = []struct {
	violated func(*Gateway, *http.Request) bool
	refusal  *refusal
}{
	{func(_ *Gateway, r *http.Request) bool { return !r.ProtoAtLeast(1, 1) || r.Host == "" }, &refuseBad},
	{func(_ *Gateway, r *http.Request) bool { return r.Method != http.MethodGet }, &refuseMethod},
	{func(g *Gateway, r *http.Request) bool { return !slices.Contains(g.paths, r.URL.Path) }, &refusePath},
	{func(_ *Gateway, r *http.Request) bool { return !hasToken(r.Header["Upgrade"], "websocket") }, &refusePlain},
	{func(_ *Gateway, r *http.Request) bool { return !hasToken(r.Header["Connection"], "upgrade") }, &refuseBad},
	{func(_ *Gateway, r *http.Request) bool {
		return !slices.Equal(r.Header["Sec-Websocket-Version"], []string{"13"})
	}, &refuseVersion},
	{func(_ *Gateway, r *http.Request) bool { return !validKey(r.Header["Sec-Websocket-Key"]) }, &refuseBad},
	{func(_ *Gateway, r *http.Request) bool {
		return !hasToken(r.Header["Sec-Websocket-Protocol"], subprotocol)
	}, &refuseProtocol},
	// What would follow the head as a body is taken for frames.
	{func(_ *Gateway, r *http.Request) bool { return r.ContentLength != 0 || r.TransferEncoding != nil }, &refuseBad},
	{func(g *Gateway, r *http.Request) bool {
		// Only browsers send Origin; others pass (RFC 6455, section 10.2).
		o := r.Header["Origin"]
		return g.Origins != nil && o != nil && !(len(o) == 1 && slices.Contains(g.Origins, o[0]))
	}, &refuseOrigin},
}

// hasToken reports whether the comma-separated lists in lines contain token,
// in any case.
func hasToken(lines []string, token string) bool {
	for _, l := range lines {
		for t := range strings.SplitSeq(l, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// validKey reports whether there is one key of 16 bytes.
func validKey(lines []string) bool {
	if len(lines) != 1 {
		return false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(lines[0])
	return err == nil && len(b) == 16
}

// upgrade answers the HTTP request of a new connection. It is ordinary
// blocking code in a goroutine of its own that ends as soon as the session, if
// there is to be one, is the loop's. busy refuses whatever comes.
func (g *Gateway) upgrade(conn net.Conn, busy bool) {
	begun := time.Now()
	result := g.answer(conn, busy)
	g.observer.Upgraded(result, time.Since(begun))
}

func (g *Gateway) answer(conn net.Conn, busy bool) (result string) {
	g.reading(conn, true)
	buf := getBuffer(0)
	defer func() { putBuffer(buf) }()
	head, early, err := readHead(conn, &buf)
	busy = g.reading(conn, false) || busy
	switch {
	case busy && err == nil, busy && errors.Is(err, os.ErrDeadlineExceeded):
		return g.turnAway(conn, &refuseBusy)
	case errors.Is(err, errHeadTooLarge):
		return g.turnAway(conn, &refuseTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return g.turnAway(conn, &refuseTimeout)
	case err != nil:
		conn.Close()
		g.connOver()
		return upgradeGone
	}
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(head), len(head)))
	if err != nil {
		return g.turnAway(conn, &refuseBad)
	}
	for _, rule := range handshakeRules {
		if rule.violated(g, r) {
			return g.turnAway(conn, rule.refusal)
		}
	}
	response, err := handshake(head)
	if err != nil {
		return g.turnAway(conn, &refuseBad)
	}
	if _, err := conn.Write(response); err != nil {
		conn.Close()
		g.connOver()
		return upgradeGone
	}
	conn.SetDeadline(time.Time{})
	g.startSession(conn, early)
	return upgradeOK
}

// reading notes that the request of conn is being read, or no longer, which a
// drain puts an end to. It reports whether there is a drain.
func (g *Gateway) reading(conn net.Conn, is bool) (draining bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !is {
		delete(g.upgrading, conn)
		return g.draining
	}
	deadline := past
	if !g.draining {
		deadline = time.Now().Add(headTimeout)
	}
	g.upgrading[conn] = struct{}{}
	conn.SetDeadline(deadline)
	return g.draining
}

// handshake lets ws write the response to a request that keeps the rules. It
// gets exactly the head: what it reads beyond that it would drop.
func handshake(head []byte) ([]byte, error) {
	var response bytes.Buffer
	u := ws.Upgrader{Protocol: func(p []byte) bool { return strings.EqualFold(string(p), subprotocol) }}
	_, err := u.Upgrade(struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(head), &response})
	return response.Bytes(), err
}

var errHeadTooLarge = errors.New("request head too large")

// readHead reads up to the empty line that ends a request head. early is what
// has come behind it: the first frames of a client that does not wait for the
// answer. Both alias buf, which is replaced by a larger one only when that is
// needed: thousands of clients may be slow at once.
func readHead(conn net.Conn, buf **buffer) (head, early []byte, err error) {
	n := 0
	for {
		b := (*buf).b[:min(len((*buf).b), maxHead)]
		if n == maxHead {
			return nil, nil, errHeadTooLarge
		}
		if n == len(b) {
			larger := getBuffer(maxHead)
			copy(larger.b, b)
			putBuffer(*buf)
			*buf = larger
			continue
		}
		k, err := conn.Read(b[n:])
		from := max(n-3, 0)
		n += k
		if i := bytes.Index(b[from:n], []byte("\r\n\r\n")); i >= 0 {
			end := from + i + 4
			if bytes.Count(b[:end], []byte("\n")) > maxHeadLines {
				return nil, nil, errHeadTooLarge
			}
			return b[:end], b[end:n], nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// turnAway sends a refusal and closes the connection.
func (g *Gateway) turnAway(conn net.Conn, r *refusal) (result string) {
	defer g.connOver()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lingerTimeout))
	body := r.body + "\n"
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\n%sConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
		r.status, http.StatusText(r.status), r.header, len(body), body)
	// Closing with unread bytes would reset the connection and could take
	// the answer with it.
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
		io.CopyN(io.Discard, conn, maxHead)
	}
	return r.result
}
