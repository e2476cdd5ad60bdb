package session

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

// subprotocol is what a client has to offer (RFC 7395, section 3.1).
const subprotocol = "xmpp"

// A rule is what a request has to keep.
type rule struct {
	violated  func(*Settings, *http1.Head) bool
	rejection *rejection
	cause     string // for the log, where there are several for one rejection
}

// handshakeRules is RFC 6455, section 4.2.1, and RFC 7395, section 3.1, in the
// order in which they are checked.
var handshakeRules = []rule{
	{func(_ *Settings, h *http1.Head) bool { return h.Major > 1 }, &rejectHTTP2, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Major < 1 || h.Minor < 1 }, &rejectOldHTTP, ""},
	{func(_ *Settings, h *http1.Head) bool { v, _ := h.Value("Host"); return len(v) == 0 }, &rejectBad, "no Host"},
	{func(_ *Settings, h *http1.Head) bool { return string(h.Method) != http.MethodGet }, &rejectMethod, ""},
	{func(set *Settings, h *http1.Head) bool { return !set.PathServed(h.Path) }, &rejectPath, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Count("Upgrade") == 0 }, &rejectDropped, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Token("Upgrade", "websocket") == nil }, &rejectOther, ""},
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
	{func(set *Settings, h *http1.Head) bool {
		// Only browsers send Origin; others pass (RFC 6455, section 10.2).
		if set.OriginAllowed == nil || h.Count("Origin") == 0 {
			return false
		}
		o, ok := h.Value("Origin")
		return !ok || !set.OriginAllowed(o)
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

// acceptHandshake takes the HTTP request. n is the length of its head; ok is false if
// that is not complete, or was refused.
func (s *Session) acceptHandshake(ev *relay.Event, b []byte) (n int, ok bool) {
	size, err := http1.Size(b, int(s.size))
	if s.size = int32(len(b)); size == 0 && err == nil {
		return 0, false
	}
	head := &scratchOf(ev).head
	defer func() { *head = http1.Head{} }() // it refers to b
	if err == nil {
		err = head.Parse(b[:size])
	} else {
		head.Parse(b) // as far as it goes, for the log
	}
	if r, cause := s.checkRequest(ev, head, err); r != nil {
		s.reject(ev, r, head, cause)
		return 0, false
	}
	if isPlain(head) {
		s.serve(ev, head)
		return 0, false
	}
	o := &ev.Out[client]
	o.Keep(appendSwitching(o.Grow(), head, s.strictTransport()+s.negotiateCompression(head)))
	s.unfinished = unfinished{}
	s.id = s.host.Upgraded(ev, ev.Now-s.began)
	s.limitPace(ev)
	s.began = ev.Now
	s.step("opened")
	s.wait(ev, endOpenTimeout, openTimeout)
	s.markAlive(ev) // frames may come with the request
	return size, true
}

// checkRequest returns why a request is refused, if it is. err is what the parser
// has found.
func (s *Session) checkRequest(ev *relay.Event, head *http1.Head, err error) (r *rejection, cause error) {
	switch {
	case errors.Is(err, http1.ErrTooLarge):
		return &rejectTooLarge, err
	case err != nil:
		return &rejectBad, err
	case s.refused != limit.None:
		return limitRejections[s.refused], nil
	}
	// The client is looked for first: whoever breaks a rule counts as well.
	found, unknown := s.findClient(head)
	if found {
		if r := s.clientFound(ev); r != nil {
			return r, nil
		}
	}
	rules := handshakeRules
	if isPlain(head) {
		rules = plainRules
	}
	for i := range rules {
		rule := &rules[i]
		switch {
		case !rule.violated(s.set, head):
		case rule.cause != "":
			return rule.rejection, errors.New(rule.cause)
		default:
			return rule.rejection, nil
		}
	}
	// What a proxy asks by itself, to check the gateway's health, has no client.
	if unknown != nil && !(isPlain(head) && errors.Is(unknown, clientaddr.ErrMissing)) {
		return &rejectAddress, unknown
	}
	return nil, nil
}

// findClient replaces the address of an HTTP proxy by what it says about the
// client. It reports whether there was one.
func (s *Session) findClient(h *http1.Head) (found bool, err error) {
	policy := &s.set.ClientAddress
	name := policy.HeaderName()
	if s.fromForwarder() {
		remote, secure, err := policy.Forwarded(h.Values)
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
		s.remote, s.secure = remote, s.secure || secure
		return true, nil
	} else if h.Count(name) > 0 {
		s.host.Notice("ignored-header", slog.LevelWarn, "client address header ignored", func() []slog.Attr {
			return []slog.Attr{slog.String("header", name), slog.String("remote", RemoteName(s.remote)),
				slog.String("remedy", "add the address to XMPPGATE_TRUSTED_PROXIES if it is a proxy of yours; until then its clients have its address")}
		})
	}
	return false, nil
}

// appendSwitching appends the response to a request that keeps the rules (RFC
// 6455, section 4.2.2). The subprotocol is spelt as the client has it: browsers
// compare. more are further header lines, each with its CRLF.
func appendSwitching(b []byte, h *http1.Head, more string) []byte {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var keyed [keySize + len(guid)]byte
	key, _ := h.Value("Sec-WebSocket-Key")
	copy(keyed[copy(keyed[:], key):], guid)
	accept := sha1.Sum(keyed[:])
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = base64.StdEncoding.AppendEncode(b, accept[:])
	b = append(b, "\r\nSec-WebSocket-Protocol: "...)
	b = append(b, h.Token("Sec-WebSocket-Protocol", subprotocol)...)
	b = append(b, "\r\n"...)
	b = append(b, more...)
	return append(b, "\r\n"...)
}
