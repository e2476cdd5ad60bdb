package session

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/relay"
)

// subprotocol is what a client has to offer (RFC 7395, section 3.1).
const subprotocol = "xmpp"

// A rejection is the answer to a request that is not upgraded.
type rejection struct {
	result string // see UpgradeResults
	status int    // 0 if the peer does not speak HTTP, and gets no answer
	header string // further lines, each with its CRLF
	body   string
	level  slog.Level
	remedy string // for the log: what to change, if it is the operator's
}

// UpgradeOK is the result of a request that was upgraded, upgradeGone of a
// client that left before its request was complete.
const (
	UpgradeOK   = "ok"
	upgradeGone = "gone"
)

// upgradeRequired are the lines that an answer with status 426 must have.
const upgradeRequired = "Upgrade: websocket\r\nConnection: Upgrade\r\n"

const (
	remedyProxy = "let the proxy use HTTP/1.1 and pass Upgrade and Connection: for nginx proxy_http_version 1.1, " +
		"proxy_set_header Upgrade $http_upgrade and proxy_set_header Connection upgrade"
	remedyPROXY = "PROXY headers are for the addresses in XMPPGATE_PROXY_PROTOCOL, and only for them"
)

// What can be wrong with a request. The level tells whether the cause is likely
// to be with the operator, or a proxy of theirs.
var (
	rejectBusy = rejection{"busy", 503, "Retry-After: 5\r\n", "The gateway takes no more sessions now.", slog.LevelWarn,
		"raise XMPPGATE_MAX_SESSIONS or the limit of open files, unless the gateway is stopping"}
	rejectTooLarge = rejection{"too-large", 431, "", "The request head is too large.", slog.LevelInfo,
		"the limits are 32 KiB and 100 lines: remove cookies at the proxy, or use a host name without them"}
	rejectTimeout  = rejection{"timeout", 408, "", "The request took too long.", slog.LevelInfo, ""}
	rejectBad      = rejection{"bad-request", 400, "", "Invalid WebSocket handshake.", slog.LevelInfo, ""}
	rejectMethod   = rejection{"bad-method", 405, "Allow: GET\r\n", "Use GET.", slog.LevelInfo, ""}
	rejectPath     = rejection{"not-found", 404, "", "Not found.", slog.LevelInfo, "add the path to XMPPGATE_PATH, or correct the URL of the client"}
	rejectPlain    = rejection{"no-upgrade", 426, upgradeRequired, "This is a WebSocket endpoint (RFC 7395).", slog.LevelInfo, ""}
	rejectVersion  = rejection{"bad-version", 426, upgradeRequired + "Sec-WebSocket-Version: 13\r\n", "Use version 13 of the WebSocket protocol.", slog.LevelInfo, ""}
	rejectProtocol = rejection{"no-subprotocol", 400, "", "Offer the WebSocket subprotocol xmpp (Sec-WebSocket-Protocol: xmpp).", slog.LevelInfo,
		"let the client ask for the subprotocol xmpp, and the proxy pass Sec-WebSocket-Protocol"}
	rejectOrigin  = rejection{"bad-origin", 403, "", "This origin may not connect.", slog.LevelInfo, "add the origin to XMPPGATE_ORIGINS if the page may connect"}
	rejectOldHTTP = rejection{"old-http", 400, "", "Use HTTP/1.1.", slog.LevelWarn, remedyProxy}
	rejectHTTP2   = rejection{"http2", 505, "", "Use HTTP/1.1.", slog.LevelWarn, "let the proxy use HTTP/1.1 towards the gateway"}
	// The client did all that it has to, what arrived is not all of it.
	rejectDropped    = rejection{"upgrade-dropped", 426, upgradeRequired, "A proxy has removed Upgrade.", slog.LevelWarn, remedyProxy}
	rejectConnection = rejection{"upgrade-dropped", 400, "", "A proxy has removed Connection: Upgrade.", slog.LevelWarn, remedyProxy}

	rejectNoPROXY = rejection{"no-proxy-header", 400, "", "A PROXY header is expected from this address.", slog.LevelWarn, remedyPROXY}
	rejectPROXY   = rejection{"proxy-header", 400, "", "No PROXY header is expected from this address.", slog.LevelWarn, remedyPROXY}
	rejectAddress = rejection{"no-client-address", 400, "", "The proxy does not say who the client is.", slog.LevelWarn,
		"let the proxy set the header field in XMPPGATE_CLIENT_ADDRESS_HEADER, and remove from XMPPGATE_TRUSTED_PROXIES what is not a proxy"}
	rejectTLS = rejection{"tls", 0, "", "", slog.LevelWarn, "this port does not speak TLS: end it at a proxy in front, which connects with http:// or ws://"}
	rejectTCP = rejection{"xmpp-stream", 400, "", "This is a WebSocket endpoint (RFC 7395).", slog.LevelInfo, "XMPP over TCP is for the port of the server, usually 5222"}
)

var rejections = []*rejection{
	&rejectBusy, &rejectTooLarge, &rejectTimeout, &rejectBad, &rejectMethod, &rejectPath, &rejectPlain, &rejectVersion, &rejectProtocol,
	&rejectOrigin, &rejectOldHTTP, &rejectHTTP2, &rejectDropped, &rejectConnection, &rejectNoPROXY, &rejectPROXY, &rejectAddress, &rejectTLS, &rejectTCP,
}

// UpgradeResults lists the results that Observer.Upgraded is told.
func UpgradeResults() []string {
	results := []string{UpgradeOK, upgradeGone}
	for _, r := range rejections {
		if !slices.Contains(results, r.result) {
			results = append(results, r.result)
		}
	}
	return results
}

// prefaces are the first bytes of what is not HTTP/1.1 and is seen all the same.
var prefaces = []struct {
	bytes     string
	rejection *rejection
}{
	{"\x16\x03", &rejectTLS}, // a record with a ClientHello (RFC 8446, section 5.1)
	{"PRI * HTTP/2.0\r\n", &rejectHTTP2},
	{clientaddr.Signature1, &rejectPROXY},
	{clientaddr.Signature2, &rejectPROXY},
	{"<stream:stream", &rejectTCP},
	{"<?xml", &rejectTCP},
}

// preface returns what b is if it is not a request; maybe tells that this takes
// more bytes to say.
func preface(b []byte) (r *rejection, maybe bool) {
	for i := range prefaces {
		p := prefaces[i].bytes
		n := min(len(b), len(p))
		switch {
		case string(b[:n]) != p[:n]:
		case n == len(p):
			return prefaces[i].rejection, false
		default:
			maybe = true
		}
	}
	return nil, maybe
}

// handshakeRules is RFC 6455, section 4.2.1, and RFC 7395, section 3.1, in the
// order in which they are checked.
var handshakeRules = []struct {
	violated  func(*Settings, *http1.Head) bool
	rejection *rejection
	cause     string // for the log, where there are several for one rejection
}{
	{func(_ *Settings, h *http1.Head) bool { return h.Major > 1 }, &rejectHTTP2, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Major < 1 || h.Minor < 1 }, &rejectOldHTTP, ""},
	{func(_ *Settings, h *http1.Head) bool { v, _ := h.Value("Host"); return len(v) == 0 }, &rejectBad, "no Host"},
	{func(_ *Settings, h *http1.Head) bool { return string(h.Method) != http.MethodGet }, &rejectMethod, ""},
	{func(g *Settings, h *http1.Head) bool {
		return !g.PathServed(h.Path)
	}, &rejectPath, ""},
	{func(_ *Settings, h *http1.Head) bool {
		return h.Count("Upgrade") == 0 && h.Count("Sec-WebSocket-Key") > 0
	}, &rejectDropped, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Token("Upgrade", "websocket") == nil }, &rejectPlain, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Token("Connection", "Upgrade") == nil }, &rejectConnection, ""},
	{func(_ *Settings, h *http1.Head) bool {
		v, ok := h.Value("Sec-WebSocket-Version")
		return !ok || string(v) != "13"
	}, &rejectVersion, ""},
	{func(_ *Settings, h *http1.Head) bool { return !validKey(h) }, &rejectBad, "Sec-WebSocket-Key is missing, twice or invalid"},
	{func(_ *Settings, h *http1.Head) bool {
		return h.Token("Sec-WebSocket-Protocol", subprotocol) == nil
	}, &rejectProtocol, ""},
	// What would follow the head as a body is taken for frames.
	{func(_ *Settings, h *http1.Head) bool { return h.HasBody() }, &rejectBad, "the request has a body"},
	{func(g *Settings, h *http1.Head) bool {
		// Only browsers send Origin; others pass (RFC 6455, section 10.2).
		if g.OriginAllowed == nil || h.Count("Origin") == 0 {
			return false
		}
		o, ok := h.Value("Origin")
		return !ok || !g.OriginAllowed(o)
	}, &rejectOrigin, ""},
}

// keySize is the length of a key: 16 bytes in base64.
const keySize = 24

// validKey reports whether there is one key of 16 bytes. The bits that base64
// pads with may be set, as in the example of RFC 6455, section 4.1.
func validKey(h *http1.Head) bool {
	key, ok := h.Value("Sec-WebSocket-Key")
	var b [keySize]byte
	if !ok || len(key) != keySize {
		return false
	}
	n, err := base64.StdEncoding.Decode(b[:], key)
	return err == nil && n == 16
}

// receiveRequest takes the HTTP request that a connection begins with. b and
// the result are as in receive.
func (s *Session) receiveRequest(ev *relay.Event, b []byte) (rest []byte) {
	if s.ending != endNone {
		return nil
	}
	if !s.proxied && s.set.ClientAddress.SendsHeader(s.remote.Addr()) {
		h, n, err := clientaddr.ParseHeader(b)
		switch {
		case err != nil:
			s.reject(ev, &rejectNoPROXY, nil, err)
			return nil
		case n == 0:
			return b
		}
		b = b[n:]
		s.proxied = true
		if !h.Local {
			s.remote, s.secure = h.Source, h.Secure
			s.ensureExtra().listener = h.Destination
		}
	}
	if s.looked < maxPreface {
		if r, maybe := preface(b); r != nil {
			s.reject(ev, r, nil, nil)
			return nil
		} else if maybe {
			return b
		}
	}
	size, err := http1.Size(b, int(s.looked))
	if s.looked = uint32(len(b)); size == 0 && err == nil {
		return b
	}
	head := &scratchOf(ev).head
	defer func() { *head = http1.Head{} }() // it refers to b
	if err == nil {
		err = head.Parse(b[:size])
	} else {
		head.Parse(b) // as far as it goes, for the log
	}
	if err != nil {
		r := &rejectBad
		if errors.Is(err, http1.ErrTooLarge) {
			r = &rejectTooLarge
		}
		s.reject(ev, r, head, err)
		return nil
	}
	if s.overLimit {
		s.reject(ev, &rejectBusy, head, nil)
		return nil
	}
	for i := range handshakeRules {
		if rule := &handshakeRules[i]; rule.violated(s.set, head) {
			if rule.cause != "" {
				err = errors.New(rule.cause)
			}
			s.reject(ev, rule.rejection, head, err)
			return nil
		}
	}
	if err := s.findClient(head); err != nil {
		s.reject(ev, &rejectAddress, head, err)
		return nil
	}
	o := &ev.Out[client]
	o.Keep(appendSwitching(o.Grow(), head))
	s.upgraded = true
	s.id = s.host.Upgraded(ev, ev.Now-s.began)
	s.began = ev.Now
	s.wait(ev, endOpenTimeout, openTimeout)
	// The first frames of a client that does not wait for the answer.
	s.markAlive(ev)
	return s.receiveClient(ev, b[size:])
}

// maxPreface is the length from which on what has come is HTTP for certain.
const maxPreface = 32

// findClient replaces the address of an HTTP proxy by what it says about the
// client.
func (s *Session) findClient(h *http1.Head) error {
	policy := &s.set.ClientAddress
	name := policy.HeaderName()
	if policy.Trusts(s.remote.Addr(), !s.remote.IsValid() && !s.proxied) {
		remote, secure, err := policy.Forwarded(h.Values)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.remote, s.secure = remote, s.secure || secure
	} else if h.Count(name) > 0 {
		s.host.Notice("ignored-header", slog.LevelWarn, "client address header ignored", func() []slog.Attr {
			return []slog.Attr{slog.String("header", name), slog.String("remote", RemoteName(s.remote)),
				slog.String("remedy", "add the address to XMPPGATE_TRUSTED_PROXIES if it is a proxy of yours; until then its clients have its address")}
		})
	}
	return nil
}

// unserved is the answer to a request that is not complete when e happens; nil
// when there is nobody left to answer.
func unserved(e ending) *rejection {
	switch e {
	case endOpenTimeout:
		return &rejectTimeout
	case endShutdown:
		return &rejectBusy
	}
	return nil
}

// reject answers a request, if r is not nil, and lets the connection end. What
// still comes is read: closing with unread bytes would reset the connection and
// could take the answer with it. h and cause are for the log, as far as known.
func (s *Session) reject(ev *relay.Event, r *rejection, h *http1.Head, cause error) {
	s.ending = endRefused
	s.waitForNothing()
	if r == nil {
		s.ensureExtra().result = upgradeGone
		s.setState(ev, client, relay.StateClosed, 0)
		return
	}
	if s.overLimit {
		r, cause = &rejectBusy, nil
	}
	s.ensureExtra().result = r.result
	s.host.Notice(r.result, r.level, "upgrade refused", func() []slog.Attr { return s.rejected(r, h, cause) })
	if r.status != 0 {
		body := r.body + "\n"
		ev.Out[client].AddString(fmt.Sprintf("HTTP/1.1 %d %s\r\n%sConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s",
			r.status, http.StatusText(r.status), r.header, len(body), body))
	}
	s.setState(ev, client, relay.StateFinishing, lingerTimeout)
}

// rejected describes a rejection for the log.
func (s *Session) rejected(r *rejection, h *http1.Head, cause error) []slog.Attr {
	attrs := []slog.Attr{slog.String("result", r.result), slog.String("remote", RemoteName(s.remote))}
	if h != nil && h.Path != nil {
		attrs = append(attrs, slog.String("path", quoted(h.Path)))
	}
	if h != nil && h.Count("Origin") > 0 {
		origin, _ := h.Value("Origin")
		attrs = append(attrs, slog.String("origin", quoted(origin)))
	}
	if cause != nil {
		attrs = append(attrs, slog.String("cause", cause.Error()))
	}
	if r.remedy != "" {
		attrs = append(attrs, slog.String("remedy", r.remedy))
	}
	return attrs
}

// appendSwitching appends the response to a request that keeps the rules (RFC
// 6455, section 4.2.2). The subprotocol is spelt as the client has it: browsers
// compare.
func appendSwitching(b []byte, h *http1.Head) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var keyed [keySize + len(guid)]byte
	key, _ := h.Value("Sec-WebSocket-Key")
	copy(keyed[copy(keyed[:], key):], guid)
	accept := sha1.Sum(keyed[:])
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = base64.StdEncoding.AppendEncode(b, accept[:])
	b = append(b, "\r\nSec-WebSocket-Protocol: "...)
	b = append(b, h.Token("Sec-WebSocket-Protocol", subprotocol)...)
	return append(b, "\r\n\r\n"...)
}
