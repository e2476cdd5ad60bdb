package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"xmppgate/framing"
)

// maxStray is how many elements that nobody waits for may come before the one that
// is waited for.
const maxStray = 1000

// A session is an XMPP stream over a socket, and what it became after the login.
type session struct {
	*socket
	jid string // once bound; in full

	unbound bool // a namespace was not declared

	// XEP-0198
	managed bool
	id      string // for the resumption; empty if there is none
	handled uint32
}

// A streamError is a <stream:error/>.
type streamError struct{ condition }

func (e streamError) Error() string { return "stream error " + e.condition.String() }

// A streamEnd is a <close/>.
type streamEnd struct{ seeOther string }

func (streamEnd) Error() string { return "the stream was closed" }

// Errors about the kind of stream.
var (
	errLegacy  = errors.New("the answer is <stream:stream>")
	errNotXML  = errors.New("a message is not one XML element")
	errStray   = fmt.Errorf("more than %d elements that were not asked for", maxStray)
	errNoOpen  = errors.New("the first element is not <open/>")
	errNoFeats = errors.New("no features")
)

// next returns the next element. Pings, requests for acknowledgement and queries are
// answered as clients do.
func (s *session) next(deadline time.Time) (*element, error) {
	for range maxStray {
		message, err := s.receive(deadline)
		if err != nil {
			return nil, err
		}
		if framing.IsLegacyHeader(message) {
			return nil, errLegacy
		}
		e, err := parse(message)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNotXML, err)
		}
		s.unbound = s.unbound || e.unbound
		switch {
		case e.is(framing.NSFraming, "close"):
			return nil, streamEnd{e.get("see-other-uri")}
		case e.is(framing.NSStreams, "error"):
			return nil, streamError{e.condition(nsStreamErrors)}
		case e.is(nsSM, "r"):
			err = s.send(fmt.Sprintf("<a xmlns='%s' h='%d'/>", nsSM, s.handled))
		case e.is(nsSM, "a"):
		case e.Space == framing.NSClient && s.managed:
			s.handled++
			fallthrough
		default:
			if !e.is(framing.NSClient, "iq") || e.get("type") != "get" && e.get("type") != "set" {
				return e, nil
			}
			err = s.answer(e)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errStray
}

// answer answers a query: pings as they should be, everything else with an error.
func (s *session) answer(query *element) error {
	to := ""
	if from := query.get("from"); from != "" {
		to = fmt.Sprintf(" to='%s'", escape(from))
	}
	id := escape(query.get("id"))
	if query.get("type") == "get" && query.child(nsPing, "ping") != nil {
		return s.send(fmt.Sprintf("<iq xmlns='jabber:client' type='result' id='%s'%s/>", id, to))
	}
	return s.send(fmt.Sprintf("<iq xmlns='jabber:client' type='error' id='%s'%s><error type='cancel'><service-unavailable xmlns='%s'/></error></iq>", id, to, nsStanzas))
}

// await returns the next element for which want is true.
func (s *session) await(deadline time.Time, want func(*element) bool) (*element, error) {
	for range maxStray {
		e, err := s.next(deadline)
		if err != nil || want(e) {
			return e, err
		}
	}
	return nil, errStray
}

// openMessage opens a stream. It names the account, because some servers offer SASL2
// to those only who do.
func (x *examination) openMessage() string {
	from := ""
	if x.local != "" && x.url.Scheme == "wss" {
		from = fmt.Sprintf(" from='%s'", escape(x.local+"@"+x.domain))
	}
	return fmt.Sprintf(`<open xmlns="%s" to='%s'%s version="1.0"/>`, framing.NSFraming, escape(x.domain), from)
}

// An opening is what the server answered to <open/>.
type opening struct {
	open     *element // nil if it did not come
	features *element
}

// openStream sends <open/> and returns the answer, as far as it came.
func (x *examination) openStream(ctx context.Context, s *session) (o opening, err error) {
	if err := s.send(x.openMessage()); err != nil {
		return o, err
	}
	deadline := x.deadline(ctx)
	e, err := s.next(deadline)
	if err != nil {
		return o, err
	}
	if !e.is(framing.NSFraming, "open") {
		return o, fmt.Errorf("%w but <%s/>", errNoOpen, printable(e.Local, 60))
	}
	o.open = e
	if e, err = s.next(deadline); err != nil {
		return o, err
	}
	if !e.is(framing.NSStreams, "features") {
		return o, fmt.Errorf("%w but <%s/>", errNoFeats, printable(e.Local, 60))
	}
	o.features = e
	return o, nil
}

// connect opens a WebSocket for a stream, with compression if that has worked, as
// browsers do. The doctor itself compresses nothing.
func (x *examination) connect(ctx context.Context) (*session, error) {
	q := request{origin: x.origin}
	if x.deflates {
		q.extensions = compressionOffer
	}
	s, a, err := x.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	if s == nil {
		id, text := x.refusal(a)
		return nil, refusal{id, "another request: " + text}
	}
	s.deflate = x.deflates && a.header.Get("Sec-WebSocket-Extensions") != ""
	return &session{socket: s}, nil
}

// streams examines the stream, and with an account the session. It reports whether
// there is a stream with features.
func (x *examination) streams(ctx context.Context) bool {
	s, err := x.connect(ctx)
	if e := (refusal{}); errors.As(err, &e) {
		x.found("stream", e.id, "%s", e.text)
		return false
	}
	if err != nil {
		x.found("stream", "closed-early", "another connection fails: %s", describe(err))
		return false
	}
	defer func() {
		if s != nil { // whichever it is then
			s.cut()
		}
	}()
	o, err := x.openStream(ctx, s)
	if o.open != nil {
		x.seen.add(x.endpoint(s)...)
		x.judgeOpen(o.open, err)
	}
	if err != nil {
		if e := (streamError{}); o.open == nil && errors.As(err, &e) {
			x.found("stream", "error-before-open", "%v comes without <open/>", e)
		}
		id, text := x.ending(err, o.open == nil)
		x.found("stream", id, "%s", text)
		return false
	}
	if s.unbound {
		x.found("stream", "unbound-prefix", "the first messages use a prefix or a namespace that they do not declare")
	}
	mechanisms, usable := x.judgeFeatures(s, o.features)
	if x.local == "" {
		x.silence(ctx, s)
		x.closes(ctx, s)
		x.report.skip([]string{"login", "bind", "echo", "large", "resume"}, "no --jid")
		return true
	}
	if !usable {
		return false
	}
	return x.sessions(ctx, &s, mechanisms)
}

// endpoint tells what ends the WebSocket by the spelling of its <open/>.
func (x *examination) endpoint(s *session) products {
	if bytes := s.first; strings.HasPrefix(bytes, `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" `) {
		return products{xmppgate}
	}
	return nil
}

// judgeOpen looks at <open/>. One that an error follows need not be complete.
func (x *examination) judgeOpen(open *element, err error) {
	if e := (streamError{}); errors.As(err, &e) {
		return
	}
	var missing []string
	for _, name := range []string{"from", "id", "version"} {
		if open.get(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		x.found("stream", "open-incomplete", "<open/> has no %s", strings.Join(missing, ", "))
		return
	}
	x.report.ok("stream", "%s answers <open/>", quote(open.get("from")))
}

// byCondition are the findings for conditions of stream errors.
var byCondition = map[string]string{
	"host-unknown": "host-unknown", "host-gone": "host-unknown",
	"remote-connection-failed": "remote-connection-failed",
	"policy-violation":         "policy-violation",
	"system-shutdown":          "system-shutdown",
	"resource-constraint":      "resource-constraint",
	"see-other-host":           "see-other-host",
	"not-well-formed":          "not-well-formed", "bad-format": "not-well-formed", "invalid-xml": "not-well-formed",
}

// ending says what the end of a stream means that came too early.
func (x *examination) ending(err error, beforeOpen bool) (id, text string) {
	if e := (streamError{}); errors.As(err, &e) {
		id = cmp.Or(byCondition[e.name], "stream-error")
		text = e.Error()
		switch said := strings.ToLower(e.text); {
		case strings.Contains(said, "starttls required") || strings.Contains(said, "encryption") || strings.Contains(said, "requires tls") ||
			strings.Contains(said, "no stream features"): // as Prosody says, which has only STARTTLS left

			id = "tls-required"
		case id == "host-unknown" && x.options.domain == "" && x.local == "":
			text += fmt.Sprintf("; %s was taken from the command line's URL", quote(x.domain))
		}
		return id, text
	}
	if e := (streamEnd{}); errors.As(err, &e) {
		if e.seeOther != "" {
			return "see-other-uri", "the server names " + printableURLs([]string{e.seeOther})
		}
		if beforeOpen {
			return "closed-early", "<close/> comes instead of <open/>"
		}
		return "stream-error", "<close/> comes without an error"
	}
	switch {
	case errors.Is(err, errLegacy):
		return "legacy-framing", err.Error()
	case errors.Is(err, errNotXML), errors.Is(err, errFraming), errors.Is(err, errNoOpen):
		return "not-xmpp", err.Error()
	case errors.Is(err, errNoFeats):
		return "features-missing", err.Error()
	case isTimeout(err) && beforeOpen:
		return "open-unanswered", fmt.Sprintf("no answer to <open/> in %v", x.timeout)
	case isTimeout(err):
		return "features-missing", fmt.Sprintf("no features in %v after <open/>", x.timeout)
	case beforeOpen && isCut(err) && slices.Contains(x.seen, prosody) && x.seen.proxied():
		// Prosody takes a request for a handshake that has only the key.
		return "upgrade-dropped", "the connection ends behind the 101, as it does when a proxy in front of Prosody passes no Upgrade"
	case beforeOpen:
		return "closed-early", describe(err) + " instead of <open/>"
	}
	return "features-missing", describe(err) + " after <open/>"
}

// mechanismsIn returns those of a list of SASL or SASL2, which may be nil.
func mechanismsIn(list *element) (mechanisms []string) {
	if list == nil {
		return nil
	}
	for _, m := range list.children {
		if m.is(list.Space, "mechanism") && len(mechanisms) < 50 {
			mechanisms = append(mechanisms, strings.ToUpper(m.content()))
		}
	}
	return mechanisms
}

// judgeFeatures looks at the features before the login, and reports whether there is
// a mechanism that the doctor can use.
func (x *examination) judgeFeatures(s *session, features *element) (mechanisms []string, usable bool) {
	secure := s.tls != nil
	list, sasl2 := features.child(nsSASL, "mechanisms"), features.child(nsSASL2, "authentication")
	mechanisms = mechanismsIn(list)
	if x.sasl2 = len(mechanisms) == 0 && sasl2 != nil; x.sasl2 {
		list, mechanisms = sasl2, mechanismsIn(sasl2)
	} else {
		x.beside = mechanismsIn(sasl2)
	}
	starttls := features.child(nsTLS, "starttls")
	if len(mechanisms) == 0 {
		switch {
		case starttls != nil:
			x.found("features", "tls-required", "the features offer STARTTLS and no login")
		case list != nil:
			x.found("features", "no-mechanisms", "the list of mechanisms is empty")
		case len(features.children) == 0:
			x.found("features", "tls-required", "the features are empty: so they are when a gateway has removed STARTTLS, and nothing else was there")
		default:
			x.found("features", "tls-required", "the features offer no login: so servers do that insist on TLS, or that have no mechanism at all")
		}
		return nil, false
	}
	if starttls != nil {
		x.found("features", "starttls-offered", "STARTTLS is on offer")
	}
	rest := slices.DeleteFunc(slices.Clone(mechanisms), func(m string) bool { return m == "EXTERNAL" })
	plain := slices.DeleteFunc(slices.Clone(rest), func(m string) bool { return strings.HasSuffix(m, "-PLUS") })
	switch {
	case len(rest) == 0:
		x.found("features", "only-external", "EXTERNAL is the only mechanism")
		return nil, false
	case len(plain) == 0:
		x.found("features", "only-plus", "the mechanisms are %s", printableWords(rest))
		return nil, false
	default:
		by := ""
		if x.sasl2 {
			by = " of SASL2"
		}
		x.report.ok("features", "mechanisms%s %s", by, printableWords(mechanisms))
	}
	if !secure && slices.Contains(plain, "PLAIN") && (!isLocal(x.url.Hostname()) || !slices.ContainsFunc(plain, func(m string) bool { return strings.HasPrefix(m, "SCRAM-") })) {
		x.found("features", "plain-without-tls", "PLAIN is on offer without TLS")
	}
	x.judgeBinding(s, features, mechanisms)
	return mechanisms, true
}

// judgeBinding looks at the mechanisms with channel binding. With TLS and an account
// a login tells more: see bindsToTLS.
func (x *examination) judgeBinding(s *session, features *element, mechanisms []string) {
	plus := slices.DeleteFunc(slices.Clone(mechanisms), func(m string) bool { return !strings.HasSuffix(m, "-PLUS") })
	if len(plus) == 0 {
		return
	}
	var types []string
	if list := features.child(nsChannelBinding, "sasl-channel-binding"); list != nil {
		for _, c := range list.children {
			types = append(types, c.get("type"))
		}
	}
	x.bindings = types
	endPoint := len(types) > 0 && !slices.Contains(types, exporter) && !slices.Contains(types, "tls-unique")
	between := slices.ContainsFunc(x.seen, func(p string) bool { return p != prosody && p != ejabberd })
	switch {
	case s.tls == nil:
		x.found("features", "plus-through-gateway", "%s on offer, and there is no TLS here", printableWords(plus))
	case x.local != "":
	case between && !endPoint:
		x.found("features", "plus-through-gateway", "%s on offer behind %s", printableWords(plus), strings.Join(x.seen, " and "))
	default:
		x.report.ok("features", "channel binding is on offer; whether it works shows at a login")
	}
}

func printableWords(words []string) string {
	return printable(strings.Join(words[:min(len(words), 20)], ", "), 300)
}
