package proxy

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/gobwas/ws"

	"xmppgate/proxy/clientaddr"
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
	refuseNoProxy  = refusal{"no-proxy-header", 400, "", "A PROXY header is expected from this address."}
	refuseOrigin   = refusal{"bad-origin", 403, "", "This origin may not connect."}
	refuseAddress  = refusal{"no-client-address", 400, "", "The proxy does not say who the client is."}
)

// UpgradeResults lists the results that Observer.Upgraded is told.
func UpgradeResults() []string {
	results := []string{upgradeOK, upgradeGone}
	for _, r := range []refusal{refuseBusy, refuseTooLarge, refuseTimeout, refuseBad, refuseMethod, refusePath, refusePlain, refuseVersion, refuseProtocol, refuseNoProxy, refuseOrigin, refuseAddress} {
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
		return g.AllowedOrigins != nil && o != nil && !(len(o) == 1 && slices.Contains(g.AllowedOrigins, o[0]))
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

// receiveRequest takes the HTTP request that a connection begins with. b and
// the result are as in receive.
func (s *session) receiveRequest(w *workspace, b []byte) (rest []byte) {
	if s.ending != endNone {
		return nil
	}
	if !s.proxied && s.g.ClientAddress.SendsHeader(s.remote.Addr()) {
		h, n, err := clientaddr.ParseHeader(b)
		switch {
		case err != nil:
			s.turnAway(w, &refuseNoProxy)
			return nil
		case n == 0:
			return b
		}
		b = b[n:]
		s.proxied = true
		if !h.Local {
			s.remote, s.secure = h.Source, h.Secure
			s.need().listener = h.Destination
		}
	}
	// What was looked through before ends s.partial bytes into b.
	from := max(s.partial-3, 0)
	s.partial = len(b)
	i := bytes.Index(b[from:], []byte("\r\n\r\n"))
	size := from + i + 4
	switch {
	case i < 0 && len(b) < maxHead:
		return b
	case i < 0, size > maxHead, bytes.Count(b[:size], []byte("\n")) > maxHeadLines:
		s.turnAway(w, &refuseTooLarge)
		return nil
	case s.busy:
		s.turnAway(w, &refuseBusy)
		return nil
	}
	s.partial = 0
	r, response, refused := s.g.answer(b[:size])
	if refused != nil {
		s.turnAway(w, refused)
		return nil
	}
	if p := &s.g.ClientAddress; p.Trusts(s.remote.Addr(), !s.remote.IsValid() && !s.proxied) {
		remote, secure, err := p.Forwarded(r.Header)
		if err != nil {
			s.turnAway(w, &refuseAddress)
			return nil
		}
		s.remote, s.secure = remote, s.secure || secure
	}
	w.out[client].add(response)
	s.upgraded = true
	s.g.upgraded(s, w.now)
	s.began = w.now
	s.wait(w, endOpenTimeout, openTimeout)
	// The first frames of a client that does not wait for the answer.
	s.heard(w)
	return s.receiveClient(w, b[size:])
}

// answer checks a request and returns what to respond.
func (g *Gateway) answer(head []byte) (r *http.Request, response []byte, refused *refusal) {
	r, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(head), len(head)))
	if err != nil {
		return nil, nil, &refuseBad
	}
	for _, rule := range handshakeRules {
		if rule.violated(g, r) {
			return nil, nil, rule.refusal
		}
	}
	if response, err = handshake(head); err != nil {
		return nil, nil, &refuseBad
	}
	return r, response, nil
}

// unserved is the answer to a request that is not complete when e happens; nil
// when there is nobody left to answer.
func unserved(e ending) *refusal {
	switch e {
	case endOpenTimeout:
		return &refuseTimeout
	case endShutdown:
		return &refuseBusy
	}
	return nil
}

// turnAway sends a refusal, if any, and lets the connection end. What still
// comes is read: closing with unread bytes would reset the connection and could
// take the answer with it.
func (s *session) turnAway(w *workspace, r *refusal) {
	s.ending = endRefused
	s.waitForNothing()
	if r == nil {
		s.need().result = upgradeGone
		s.setLeg(w, client, legClosed, 0)
		return
	}
	if s.busy {
		r = &refuseBusy
	}
	s.need().result = r.result
	body := r.body + "\n"
	w.out[client].addString(fmt.Sprintf("HTTP/1.1 %d %s\r\n%sConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
		r.status, http.StatusText(r.status), r.header, len(body), body))
	s.setLeg(w, client, legFinishing, lingerTimeout)
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
