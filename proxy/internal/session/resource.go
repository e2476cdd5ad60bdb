package session

import (
	"errors"
	"net/http"

	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/relay"
)

// This file answers plain requests, which do not ask for a WebSocket.

// A Document is what a plain request gets. Its Header must let pages of other origins
// read it, see CORS.
type Document struct {
	Status int
	Type   string // of Body
	Header string // further lines, each with CRLF
	Body   []byte // must not change
}

const plainText = "text/plain; charset=utf-8"

// A HostMeta tells clients where the WebSocket is (XEP-0156), in the two formats of
// RFC 6415.
type HostMeta struct{ XRD, JRD Document }

// Results of plain requests that are answered.
const (
	resultHealth   = "health"
	resultHostMeta = "host-meta"
	resultPage     = "page"
	resultOptions  = "options"
)

// A resource is what is served at some paths, beside the WebSocket.
type resource struct {
	result string // see UpgradeResults
	serves func(set *Settings, path []byte) bool
	// get returns the document for a request, or why there is none. It is nil
	// for what has no representation.
	get func(set *Settings, h *http1.Head) (d *Document, r *rejection, cause error)
}

// resources is the one table of them. The first row that serves a path counts: those
// of WebSockets may have a wildcard, and come last.
var resources = []resource{
	{resultHealth, at("/healthz"), func(set *Settings, _ *http1.Head) (*Document, *rejection, error) {
		if set.Ready != nil && !set.Ready() {
			return &notReady, nil, nil
		}
		return &ready, nil, nil
	}},
	{resultHostMeta, at("/.well-known/host-meta"), func(set *Settings, h *http1.Head) (*Document, *rejection, error) {
		m, r, err := set.hostMeta(h)
		return &m.XRD, r, err
	}},
	{resultHostMeta, at("/.well-known/host-meta.json"), func(set *Settings, h *http1.Head) (*Document, *rejection, error) {
		m, r, err := set.hostMeta(h)
		return &m.JRD, r, err
	}},
	{resultPage, (*Settings).pathServed, func(set *Settings, _ *http1.Head) (*Document, *rejection, error) {
		return &set.SocketPage, nil, nil
	}},
	{resultPage, at("/"), func(set *Settings, _ *http1.Head) (*Document, *rejection, error) {
		return &set.RootPage, nil, nil
	}},
	{resultOptions, at("*"), nil}, // RFC 9110, section 9.3.7
}

// at serves exactly one path.
func at(path string) func(*Settings, []byte) bool {
	return func(_ *Settings, p []byte) bool { return string(p) == path }
}

func (set *Settings) pathServed(path []byte) bool { return set.PathServed(path) }

// Health is for load balancers, which must not keep it.
var (
	ready    = Document{200, plainText, CORS + "Cache-Control: no-store\r\n", []byte("ok\n")}
	notReady = Document{503, plainText, ready.Header + "Retry-After: 5\r\n", []byte("not ready\n")}
)

// hostMeta returns the documents for the host of a request. With a rejection they are
// empty.
func (set *Settings) hostMeta(h *http1.Head) (m *HostMeta, r *rejection, cause error) {
	if set.HostMeta == nil {
		return new(HostMeta), &rejectHostMeta, errors.New("XMPPGATE_PUBLIC_URL is not set")
	}
	host, _ := h.Value("Host")
	if m = set.HostMeta(host); m == nil {
		return new(HostMeta), &rejectHostMeta, errors.New("Host is not one of XMPPGATE_DOMAINS: " + quoted(host))
	}
	return m, nil, nil
}

// Lines of the responses to plain requests. Pages of any origin may read what is
// served, because everybody gets the same.
const (
	allowLine = "Allow: GET, HEAD, OPTIONS\r\n"
	CORS      = "Access-Control-Allow-Origin: *\r\n"
)

// options is what OPTIONS gets, a browser's preflight included. Nothing of what a page
// may ask for in a preflight changes the answer.
var options = Document{Status: http.StatusNoContent, Header: allowLine + CORS +
	"Access-Control-Allow-Methods: GET, HEAD\r\nAccess-Control-Allow-Headers: *\r\nAccess-Control-Max-Age: 86400\r\n"}

// isPlain reports whether a request does not ask for a WebSocket. One that does may
// have lost Upgrade on its way, and is not plain for that: it is refused with its
// cause. What only looks like one, such as Connection: Upgrade without more, is added
// by proxies to every request.
func isPlain(h *http1.Head) bool {
	for _, name := range []string{"Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"} {
		if h.Count(name) > 0 {
			return false
		}
	}
	return h.Token("Upgrade", "websocket") == nil && h.Token("Sec-Fetch-Mode", "websocket") == nil
}

// plainRules is what a plain request has to keep, in the order in which it is
// checked. Health checks of many load balancers are HTTP/1.0, and without Host.
var plainRules = []rule{
	{func(_ *Settings, h *http1.Head) bool { return h.Major > 1 }, &rejectHTTP2, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.Major < 1 }, &rejectOldHTTP, ""},
	{func(_ *Settings, h *http1.Head) bool { v, _ := h.Value("Host"); return len(v) == 0 && h.Minor > 0 }, &rejectBad, "no Host"},
	{func(set *Settings, h *http1.Head) bool { return set.resource(h) == nil }, &rejectPath, ""},
	{func(_ *Settings, h *http1.Head) bool {
		m := string(h.Method)
		return m != http.MethodGet && m != http.MethodHead && m != http.MethodOptions
	}, &rejectMethod, ""},
	{func(_ *Settings, h *http1.Head) bool { return h.HasBody() }, &rejectBad, "the request has a body"},
}

// resource returns what a request is for, or nil.
func (set *Settings) resource(h *http1.Head) *resource {
	for i := range resources {
		r := &resources[i]
		if r.serves(set, h.Path) && (r.get != nil || string(h.Method) == http.MethodOptions) {
			return r
		}
	}
	return nil
}

// serve answers a plain request that keeps the rules, and lets the connection end.
func (s *Session) serve(ev *relay.Event, h *http1.Head) {
	r := s.set.resource(h)
	d, result := &options, resultOptions
	if string(h.Method) != http.MethodOptions {
		var refused *rejection
		var cause error
		if d, refused, cause = r.get(s.set, h); refused != nil {
			s.reject(ev, refused, h, cause)
			return
		}
		result = r.result
	}
	s.endRequest(result)
	s.respond(ev, h, d)
}
