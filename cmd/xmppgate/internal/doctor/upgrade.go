package doctor

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"xmppgate/framing"
)

const (
	userAgent = "xmppgate-doctor"

	maxHead       = 32 << 10 // bytes
	maxPage       = 16 << 10 // bytes
	maxInterim    = 5        // answers 1xx
	pagePatience  = 2 * time.Second
	foreignOrigin = "https://doctor.invalid" // of a page that no list has
)

// A request is the handshake, or a plain GET for the same path.
type request struct {
	origin     string
	extensions string
	plain      bool
}

// An answer is what came over HTTP.
type answer struct {
	proto  string
	status int
	header http.Header
	page   string // the beginning of the body, if it is not a 101

	accepted bool // Sec-WebSocket-Accept fits the key
}

// What comes instead of HTTP.
var (
	errSpeaksTLS  = errors.New("the port speaks TLS")
	errSpeaksXMPP = errors.New("the port speaks XMPP over TCP")
	errNotHTTP    = errors.New("the answer is not HTTP")
)

// ask sends a request. The socket is nil if the answer is not a 101; else it is open
// and the caller has to end it.
func (x *examination) ask(ctx context.Context, q request) (*socket, *answer, error) {
	tcp, err := x.dial(ctx, x.address)
	if err != nil {
		return nil, nil, err
	}
	s := &socket{conn: tcp, tcp: tcp, timeout: x.timeout}
	s.stop = context.AfterFunc(ctx, func() { tcp.Close() }) // Ctrl-C
	a, key, err := x.exchange(ctx, s, q)
	if err == nil && a.status != http.StatusSwitchingProtocols || err != nil {
		s.cut()
		return nil, a, err
	}
	a.accepted = a.header.Get("Sec-WebSocket-Accept") == accept(key)
	return s, a, nil
}

// accept is the answer to a key (RFC 6455, section 4.2.2).
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (x *examination) exchange(ctx context.Context, s *socket, q request) (a *answer, key string, err error) {
	deadline := x.deadline(ctx)
	s.tcp.SetDeadline(deadline)
	if x.url.Scheme == "wss" {
		t := tls.Client(s.tcp, tlsConfig(x.url.Hostname()))
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, "", err
		}
		state := t.ConnectionState()
		s.conn, s.tls = t, &state
	}
	s.r = bufio.NewReaderSize(s.conn, 4<<10)

	var nonce [16]byte
	rand.Read(nonce[:])
	key = base64.StdEncoding.EncodeToString(nonce[:])
	var b strings.Builder
	target := url.URL{Path: x.url.Path, RawPath: x.url.RawPath, RawQuery: x.url.RawQuery}
	if target.Path == "" {
		target.Path = "/"
	}
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", target.RequestURI(), x.url.Host, userAgent)
	if q.origin != "" {
		fmt.Fprintf(&b, "Origin: %s\r\n", q.origin)
	}
	if q.plain {
		b.WriteString("Connection: close\r\nAccept: */*\r\n\r\n")
	} else {
		if q.extensions != "" {
			fmt.Fprintf(&b, "Sec-WebSocket-Extensions: %s\r\n", q.extensions)
		}
		fmt.Fprintf(&b, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	}
	if _, err := io.WriteString(s.conn, b.String()); err != nil {
		return nil, "", err
	}
	for range maxInterim {
		if a, err = readAnswer(s.r); err != nil {
			return nil, "", err
		}
		if a.status/100 != 1 || a.status == http.StatusSwitchingProtocols {
			break
		}
	}
	if a.status != http.StatusSwitchingProtocols {
		s.conn.SetReadDeadline(earlier(deadline, time.Now().Add(pagePatience)))
		a.readPage(s.r)
	}
	return a, key, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// readAnswer reads the head of an answer.
func readAnswer(r *bufio.Reader) (*answer, error) {
	if first, err := r.Peek(5); err == nil || len(first) > 0 {
		switch {
		case first[0] == 0x15 && len(first) > 1 && first[1] == 3: // an alert
			return nil, errSpeaksTLS
		case first[0] == '<':
			return nil, errSpeaksXMPP
		case !bytes.HasPrefix([]byte("HTTP/"), first) && err == nil:
			return nil, errNotHTTP
		}
		if err != nil {
			return nil, err
		}
	}
	var head bytes.Buffer
	for {
		line, err := r.ReadSlice('\n')
		head.Write(line)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && head.Len() <= maxHead:
			continue
		case head.Len() > maxHead:
			return nil, fmt.Errorf("its head is larger than %d bytes: %w", maxHead, errNotHTTP)
		case err != nil:
			return nil, err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(&head), &http.Request{Method: http.MethodHead})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotHTTP, err)
	}
	return &answer{proto: response.Proto, status: response.StatusCode, header: response.Header}, nil
}

// readPage reads the beginning of the body, as it is on the wire.
func (a *answer) readPage(r io.Reader) {
	most := int64(maxPage)
	if n, err := strconv.ParseInt(a.header.Get("Content-Length"), 10, 64); err == nil && n >= 0 && n < most {
		most = n
	}
	page, _ := io.ReadAll(io.LimitReader(r, most)) // what came is enough
	a.page = string(page)
}

// title is what an error page says, in a few words.
func (a *answer) title() string {
	text := a.page
	if _, after, ok := strings.Cut(strings.ToLower(text), "<title>"); ok {
		start := len(text) - len(after)
		if start >= 0 && start <= len(text) {
			title, _, _ := strings.Cut(text[start:], "<")
			return strings.TrimSpace(title)
		}
	}
	if strings.HasPrefix(strings.TrimSpace(text), "<") {
		text = tags.ReplaceAllString(text, " ")
	}
	return strings.TrimSpace(text)
}

// from names what has answered.
func (a *answer) from() string {
	var who []string
	if found := recognise(a.header, a.page); len(found) > 0 {
		who = found
	} else if server := a.header.Get("Server"); server != "" {
		who = []string{quote(server)}
	} else {
		return ""
	}
	return " from " + strings.Join(who, " or ")
}

// upgrades examines the handshake. It reports whether there is a WebSocket.
func (x *examination) upgrades(ctx context.Context) bool {
	origin := x.origin
	s, a, err := x.ask(ctx, request{origin: origin})
	if a != nil {
		x.inFront(a)
	}
	if err == nil && s == nil && a.status == http.StatusForbidden {
		// Is it the origin? Then the same request with another one tells.
		other := ""
		if origin == "" {
			other = "https://" + x.url.Host
		}
		if second, b, _ := x.ask(ctx, request{origin: other}); second != nil {
			if origin != "" {
				x.found("origin", "origin-refused", "pages of %s get status 403", quote(origin))
			} else {
				x.found("origin", "origin-required", "without Origin the answer is status 403, with %s it is not", quote(other))
			}
			s, a = second, b
			x.origin = other
		}
	}
	if err != nil {
		x.noAnswer(ctx, err)
		return false
	}
	if s == nil {
		id, text := x.refusal(a)
		x.found("upgrade", id, "%s", text)
		return false
	}
	defer s.leave()
	if !x.accepted(a) {
		return false
	}
	x.report.ok("upgrade", "101, subprotocol xmpp")
	x.origins(ctx)
	x.compresses(ctx)
	return ctx.Err() == nil
}

// inFront says what stands in front, as far as it shows itself.
func (x *examination) inFront(a *answer) {
	x.seen.add(recognise(a.header, a.page)...)
	var shown []string
	for _, field := range []string{"Server", "Via", "X-Served-By", "Cf-Ray"} {
		if v := strings.Join(a.header.Values(field), ", "); v != "" {
			shown = append(shown, field+": "+quote(v))
		}
	}
	all := strings.ToLower(strings.Join(shown, " "))
	for _, name := range otherProxies {
		if strings.Contains(all, name) {
			x.seen.add(name)
		}
	}
	if a.proto == "HTTP/1.0" {
		x.found("proxy", "old-http-answer", "the answer is HTTP/1.0%s", a.from())
		return
	}
	if len(shown) == 0 {
		x.report.ok("proxy", "none shows itself in the answer")
		return
	}
	x.report.ok("proxy", "%s", strings.Join(shown, ", "))
}

// noAnswer reports that nothing came over HTTP.
func (x *examination) noAnswer(ctx context.Context, err error) {
	if x.url.Scheme == "ws" && closedEarly(err) {
		if _, err := x.handshake(ctx, x.address, tlsConfig(x.url.Hostname())); err == nil {
			x.found("upgrade", "plain-to-tls", "the port closes the connection and speaks TLS")
			return
		}
	}
	switch {
	case errors.Is(err, errSpeaksTLS):
		x.found("upgrade", "plain-to-tls", "the port answers with an alert of TLS")
	case errors.Is(err, errSpeaksXMPP):
		x.found("upgrade", "xmpp-port", "the port answers with a stream")
	case errors.Is(err, errNotHTTP):
		x.found("upgrade", "not-http", "%v", err)
	case hasAlert(err, alertNoCertificate), hasAlert(err, alertBadCertificate):
		x.found("upgrade", "client-certificate", "the port answers %s", cause(err))
	case isTimeout(err):
		x.found("upgrade", "no-answer", "no answer to the request in %v", x.timeout)
	default:
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			x.found("upgrade", "no-answer", "no answer to the request in %v", x.timeout)
			return
		}
		x.found("upgrade", "no-answer", "the connection was closed instead of an answer")
	}
}

// A sign is a piece of a page that says more than its status.
type sign struct {
	status int    // 0 is any
	text   string // in lower case
	id     string
}

var signs = []sign{
	{400, "plain http request was sent to https port", "plain-to-tls"},
	{400, "client sent an http request to an https server", "plain-to-tls"},
	{400, "speaking plain http to an ssl-enabled server", "plain-to-tls"},
	{400, "this port speaks tls", "plain-to-tls"},
	{400, "no required ssl certificate was sent", "client-certificate"},
	{400, "request header or cookie too large", "head-too-large"},
	// xmppgate
	{400, "offer the websocket subprotocol xmpp", "subprotocol-dropped"},
	{400, "use http/1.1.", "old-http"},
	{505, "use http/1.1.", "http2-behind"},
	{0, "a proxy has removed", "upgrade-dropped"},
	{426, "this is a websocket endpoint", "upgrade-dropped"},
	{400, "no proxy header is expected", "proxy-header-unexpected"},
	{400, "a proxy header is expected", "proxy-header-missing"},
	{400, "does not say who the client is", "client-address-missing"},
	{403, "this origin may not connect", "origin-refused"},
	{503, "takes no more sessions", "busy"},
	{503, "too many sessions are not logged in", "busy"},
	{503, "is short of memory or descriptors", "busy"},
	// The pages of the servers for those who do not ask for a WebSocket.
	{200, "<title>xmpp over websocket</title>", "upgrade-dropped"},
	{200, "point your websocket client to this url", "upgrade-dropped"},
	{200, "websocket connection manager", "upgrade-dropped"},
	{200, "ejabberd", "upgrade-dropped"},
	{200, "prosody", "upgrade-dropped"},
}

// byStatus is what a status means if the page says no more.
var byStatus = map[int]string{
	401: "authentication-required", 403: "forbidden", 404: "path-unknown", 405: "method-refused", 407: "authentication-required",
	410: "path-unknown", 413: "head-too-large", 414: "head-too-large", 421: "path-unknown", 426: "upgrade-dropped", 429: "rate-limited",
	431: "head-too-large", 501: "subprotocol-dropped", 502: "proxy-no-server", 503: "proxy-no-server", 504: "proxy-timeout", 505: "http2-behind",
	521: "proxy-no-server", 522: "proxy-timeout", 523: "proxy-no-server", 524: "proxy-timeout",
}

// refusal says what an answer that is not a 101 means.
func (x *examination) refusal(a *answer) (id, text string) {
	said := a.from()
	if title := a.title(); title != "" {
		said += ", " + quote(title)
	}
	text = fmt.Sprintf("status %d%s", a.status, said)
	page := strings.ToLower(a.page)
	for _, sign := range signs {
		if (sign.status == 0 || sign.status == a.status) && strings.Contains(page, sign.text) {
			return sign.id, text
		}
	}
	switch id, known := byStatus[a.status]; {
	case known:
		return id, text
	case a.status/100 == 2:
		return "web-page", text
	case a.status/100 == 3:
		to := a.header.Get("Location")
		if u, err := url.Parse(to); err == nil {
			to = printableURL(u)
		}
		return "redirect", fmt.Sprintf("status %d%s, to %s", a.status, a.from(), quote(to))
	case a.status/100 == 5:
		return "server-error", text
	}
	return "request-refused", text
}

// accepted judges a 101.
func (x *examination) accepted(a *answer) bool {
	has := func(field, token string) bool {
		for part := range strings.SplitSeq(strings.Join(a.header.Values(field), ","), ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
		return false
	}
	switch protocol := strings.Join(a.header.Values("Sec-WebSocket-Protocol"), ", "); {
	case !has("Upgrade", "websocket") || !has("Connection", "upgrade"):
		x.found("upgrade", "handshake-wrong", "101 without Upgrade: websocket and Connection: Upgrade")
	case !a.accepted:
		x.found("upgrade", "handshake-wrong", "101 with a wrong Sec-WebSocket-Accept, as a cache answers")
	case a.header.Get("Sec-WebSocket-Extensions") != "":
		x.found("upgrade", "handshake-wrong", "101 with an extension that was not asked for, %s", quote(a.header.Get("Sec-WebSocket-Extensions")))
	case protocol == "":
		x.found("upgrade", "subprotocol-missing", "101 without Sec-WebSocket-Protocol")
	case protocol != "xmpp":
		x.found("upgrade", "subprotocol-wrong", "101 with Sec-WebSocket-Protocol: %s", quote(protocol))
	default:
		return true
	}
	return false
}

// origins looks whether pages of any origin may connect.
func (x *examination) origins(ctx context.Context) {
	// A plain GET tells what the endpoint is. Its status does not matter.
	if _, a, err := x.ask(ctx, request{plain: true}); err == nil {
		x.seen.add(recognise(a.header, a.page)...)
	}
	s, a, err := x.ask(ctx, request{origin: foreignOrigin})
	if s != nil {
		s.leave()
	}
	if x.origin != "" && x.options.origin == x.origin {
		x.report.ok("origin", "pages of %s may connect", quote(x.origin))
	}
	switch {
	case err != nil:
		x.report.ok("origin", "a page of another origin gets no answer")
	case s != nil:
		x.report.ok("origin", "pages of every origin may connect")
	case a.overload():
		x.overloaded("origin", a)
	default:
		x.report.ok("origin", "pages of other origins get status %d", a.status)
	}
}

// overload reports whether the answer is about the number of requests.
func (a *answer) overload() bool {
	return a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests
}

// overloaded reports that another request, after one that went well, was too much.
func (x *examination) overloaded(check string, a *answer) {
	id, text := x.refusal(a)
	x.found(check, id, "another request: %s", text)
}

// compressionOffer asks for compression that needs no memory of earlier messages.
const compressionOffer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

// compresses asks for compression, as all browsers do, and looks whether it works.
func (x *examination) compresses(ctx context.Context) {
	const name = "permessage-deflate"
	s, a, err := x.ask(ctx, request{origin: x.origin, extensions: compressionOffer})
	if err == nil && s == nil && a.overload() {
		x.overloaded("compression", a)
		return
	}
	if err != nil || s == nil {
		x.found("compression", "compression-broken", "the handshake fails when compression is asked for")
		return
	}
	defer s.leave()
	agreed := strings.Join(a.header.Values("Sec-WebSocket-Extensions"), ", ")
	if agreed == "" {
		x.report.ok("compression", "none")
		return
	}
	parts := strings.FieldsFunc(agreed, func(r rune) bool { return r == ';' || r == ' ' || r == ',' })
	if parts[0] != name || strings.Contains(agreed, ",") {
		x.found("compression", "compression-broken", "the answer chooses %s", quote(agreed))
		return
	}
	// Without context takeover every message stands for itself. Else only the first
	// one does, and one is enough.
	s.deflate = true
	if err := s.send(x.openMessage()); err != nil {
		x.found("compression", "compression-broken", "with %s: %s", name, describe(err))
		return
	}
	if message, err := s.receive(x.deadline(ctx)); err != nil {
		x.found("compression", "compression-broken", "with %s, after <open/>: %s", name, describe(err))
		return
	} else if !bytes.HasPrefix(message, []byte("<")) {
		x.found("compression", "compression-broken", "with %s: the first message is not XML", name)
		return
	}
	s.send(framing.CloseMessage)
	takeover := "with"
	if x.deflates = slices.Contains(parts, "server_no_context_takeover"); x.deflates {
		takeover = "without"
	}
	x.report.ok("compression", "%s, %s context takeover", name, takeover)
}
