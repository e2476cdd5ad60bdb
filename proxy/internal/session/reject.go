package session

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/relay"
)

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
	rejectMethod   = rejection{"bad-method", 405, allowLine, "Use GET.", slog.LevelInfo, ""}
	rejectPath     = rejection{"not-found", 404, "", "Not found.", slog.LevelInfo, "add the path to XMPPGATE_PATH, or correct the URL of the client"}
	rejectOther    = rejection{"no-upgrade", 426, upgradeRequired, "This is a WebSocket endpoint (RFC 7395).", slog.LevelInfo, ""}
	rejectHostMeta = rejection{"no-host-meta", 404, CORS, "Not found.", slog.LevelInfo,
		"to let clients find the WebSocket by the domain, set XMPPGATE_PUBLIC_URL to its URL, list the domain in XMPPGATE_DOMAINS if that is set, and let the proxy pass Host"}
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
	rejectTLS = rejection{"tls", 0, "", "", slog.LevelWarn,
		"this port does not speak TLS: set XMPPGATE_TLS_CERT and XMPPGATE_TLS_KEY, or end it at a proxy in front, which connects with http:// or ws://"}
	rejectNoTLS = rejection{"no-tls", 400, "", "This port speaks TLS: use https:// or wss://.", slog.LevelInfo,
		"let the client use wss://; a proxy that ends TLS itself needs an address with ?tls=off in XMPPGATE_LISTEN, or has to connect with https://"}
	rejectHandshakes = rejection{"handshake-rate", 0, "", "", slog.LevelWarn, remedyNetwork + "XMPPGATE_NETWORK_HANDSHAKES"}
	rejectHandshake  = rejection{"tls-failed", 0, "", "", slog.LevelInfo, ""}
	// A certificate authority has checked who answers here (RFC 8737).
	rejectChallenge = rejection{"acme-challenge", 0, "", "", slog.LevelInfo, ""}
	rejectTCP       = rejection{"xmpp-stream", 400, "", "This is a WebSocket endpoint (RFC 7395).", slog.LevelInfo, "XMPP over TCP is for the port of the server, usually 5222"}
)

var rejections = []*rejection{
	&rejectBusy, &rejectTooLarge, &rejectTimeout, &rejectBad, &rejectMethod, &rejectPath, &rejectHostMeta, &rejectOther, &rejectVersion, &rejectProtocol,
	&rejectOrigin, &rejectOldHTTP, &rejectHTTP2, &rejectDropped, &rejectConnection, &rejectNoPROXY, &rejectPROXY, &rejectAddress, &rejectTLS, &rejectTCP,
	&rejectNoTLS, &rejectHandshakes, &rejectHandshake, &rejectChallenge,
}

// limitRejections are the answers to clients that a limit keeps out. Behind one address
// there may be many people, who are told when to come back.
var limitRejections = [...]*rejection{
	limit.None:         nil,
	limit.Denied:       {"denied", 403, "", "This network may not connect.", slog.LevelInfo, "the network is listed in XMPPGATE_DENY_FILE"},
	limit.FailedLogins: {"failed-logins", 429, "Retry-After: 60\r\n", "Too many logins have failed.", slog.LevelWarn, remedyNetwork + "XMPPGATE_NETWORK_FAILED_LOGINS"},
	limit.NetworkSessions: {"network-sessions", 429, "Retry-After: 30\r\n", "Your network has too many sessions.", slog.LevelWarn,
		remedyNetwork + "XMPPGATE_NETWORK_SESSIONS"},
	limit.NetworkUnauthenticated: {"network-unauthenticated", 429, "Retry-After: 10\r\n", "Your network has too many sessions that are not logged in.", slog.LevelWarn,
		remedyNetwork + "XMPPGATE_NETWORK_UNAUTHENTICATED"},
	limit.RequestRate: {"request-rate", 429, "Retry-After: 5\r\n", "Your network sends too many requests.", slog.LevelWarn,
		remedyNetwork + "XMPPGATE_NETWORK_REQUESTS"},
	limit.HandshakeRate: &rejectHandshakes,
	limit.Busy:          &rejectBusy,
	limit.Unauthenticated: {"unauthenticated", 503, "Retry-After: 5\r\n", "Too many sessions are not logged in.", slog.LevelWarn,
		"many clients connect and do not log in: look for their networks in the log, or raise XMPPGATE_MAX_UNAUTHENTICATED"},
	limit.Overloaded: {"overloaded", 503, "Retry-After: 10\r\n", "The gateway is short of memory or descriptors.", slog.LevelWarn,
		"/readyz tells what is short: raise the memory limit (GOMEMLIMIT) or the limit of open files, or lower XMPPGATE_MAX_SESSIONS"},
}

const remedyNetwork = "a proxy in front belongs into XMPPGATE_TRUSTED_PROXIES or XMPPGATE_PROXY_PROTOCOL, an office with many people into XMPPGATE_LIMITS_EXEMPT; or raise "

// LimitResult is the one of UpgradeResults that tells of a client which is refused
// because of r.
func LimitResult(r limit.Reason) string { return limitRejections[r].result }

// UpgradeResults lists the results that Observer.Upgraded is told.
func UpgradeResults() []string {
	results := []string{UpgradeOK, upgradeGone, resultPage, resultHostMeta, resultHealth, resultOptions}
	for _, r := range slices.Concat(rejections, limitRejections[limit.None+1:]) {
		if !slices.Contains(results, r.result) {
			results = append(results, r.result)
		}
	}
	return results
}

// UpgradeRemedy returns what an operator may change when requests are refused with a result,
// empty if it is not for him, or there is nothing to say.
func UpgradeRemedy(result string) string {
	for _, r := range slices.Concat(rejections, limitRejections[limit.None+1:]) {
		if r.result == result && r.remedy != "" {
			return r.remedy
		}
	}
	return ""
}

// rejectionFor is the answer to a request that is not complete when e happens; nil
// when there is no client left to answer.
func rejectionFor(end ending) *rejection {
	switch end {
	case endOpenTimeout:
		return &rejectTimeout
	case endShutdown:
		return &rejectBusy
	case endDenied:
		return limitRejections[limit.Denied]
	case endOverload:
		return limitRejections[limit.Overloaded]
	}
	return nil
}

// reject answers a request, if r is not nil, and lets the connection end. h and cause
// are for the log, as far as known.
func (s *Session) reject(ev *relay.Event, r *rejection, h *http1.Head, cause error) {
	if r == nil {
		s.endRequest(upgradeGone)
		s.setState(ev, client, relay.StateClosed, 0)
		return
	}
	if l := limitRejections[s.refused]; l != nil {
		r, cause = l, nil
	}
	s.endRequest(r.result)
	s.host.Notice(r.result, r.level, "upgrade refused", func() []slog.Attr { return s.rejected(r, h, cause) })
	switch {
	case s.tls == tlsAwaited || s.tls == tlsStarted:
		s.rejectHandshake(ev, r)
		return
	case r.status == 0:
		s.setState(ev, client, relay.StateFinishing, lingerTimeout)
		return
	}
	s.respond(ev, h, &Document{r.status, plainText, r.header, []byte(r.body + "\n")})
	if s.refused != limit.None && !s.host.RefusedMayLinger() {
		s.setState(ev, client, relay.StateClosed, 0)
	}
}

// endRequest ends the session because its request is not upgraded.
func (s *Session) endRequest(result string) {
	s.ending = endRefused
	s.waitForNothing()
	s.ensureExtra().result = result
}

// respond answers a request with something else than 101, and lets the connection
// end. What still comes is read: closing with unread bytes would reset the connection
// and could take the answer with it. h is nil if there is no request.
func (s *Session) respond(ev *relay.Event, h *http1.Head, d *Document) {
	o := &ev.Out[client]
	o.AddString(fmt.Sprintf("HTTP/1.1 %d %s\r\n%s%sConnection: close\r\n", d.Status, http.StatusText(d.Status), d.Header, s.strictTransport()))
	if d.Status != http.StatusNoContent { // which has no length either (RFC 9110, section 8.6)
		o.AddString(fmt.Sprintf("Content-Type: %s\r\nContent-Length: %d\r\n", d.Type, len(d.Body)))
	}
	o.AddString("\r\n")
	if h == nil || string(h.Method) != http.MethodHead {
		o.Add(d.Body)
	}
	s.setState(ev, client, relay.StateFinishing, lingerTimeout)
}

// strictTransport is the header line of answers over the gateway's own TLS, with its CRLF:
// browsers do not come back without TLS for a year (RFC 6797). Where a proxy ends TLS the
// line is the proxy's business.
func (s *Session) strictTransport() string {
	if s.tls != tlsOn {
		return ""
	}
	return "Strict-Transport-Security: max-age=31536000\r\n"
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
