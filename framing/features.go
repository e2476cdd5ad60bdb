package framing

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// This file changes stream features. rules is the table of what is removed or
// replaced; FeatureFilter applies it; below stand the questions that a gateway asks
// about features.

// A ChannelBinding says which SASL mechanisms that bind to TLS a [FeatureFilter]
// lets pass. The server binds to its end of the gateway's connection and the
// client to its own (RFC 5056), so most of these mechanisms can only fail. The
// zero value is [ChannelBindingPass].
type ChannelBinding uint8

const (
	// ChannelBindingPass removes nothing. The server may protect its list of
	// mechanisms (XEP-0474): this is the only way not to break that, and the
	// right one for a server that offers no binding to the gateway.
	ChannelBindingPass ChannelBinding = iota

	// ChannelBindingStrip removes them, and with them the list of binding types:
	// a client that sees one without the other must give up (XEP-0440).
	ChannelBindingStrip

	// ChannelBindingEndPoint removes all but tls-server-end-point, which works if
	// the gateway and the server show the same certificate (RFC 5929,
	// section 4). It is ChannelBindingStrip for servers that do not offer that.
	ChannelBindingEndPoint
)

// endPoint is the binding type that crosses a gateway (RFC 5929, section 4).
const endPoint = "tls-server-end-point"

// A FeatureFilter removes from stream features what cannot cross the gateway
// (RFC 7395, section 3.9; XEP-0138; XEP-0440; XEP-0478). The zero value removes
// TLS and compression only. Its methods change nothing in it, so goroutines can
// share one.
type FeatureFilter struct {
	// MaxStanza is the size limit in bytes to announce to clients: a greater
	// max-bytes of XEP-0478 is lowered to it. Zero leaves them alone.
	MaxStanza int

	// ChannelBinding says which offers to bind SASL to TLS reach clients.
	ChannelBinding ChannelBinding

	// NoExternal removes the SASL mechanism EXTERNAL, with which the server
	// would take every client for the gateway.
	NoExternal bool
}

// A filtering is the use of a FeatureFilter on one unit.
type filtering struct {
	FeatureFilter
	text []byte // of the element that a rule looks at, its memory used again
}

// A rule removes, replaces or enters the elements of one name. Its functions may be
// nil.
type rule struct {
	name   xmlName
	cut    func(f *filtering, e *element) bool               // reports whether it goes
	edit   func(f *filtering, dst []byte, e *element) []byte // appends what replaces it
	inside []rule                                            // for its children
	vital  bool                                              // its parent goes with the last of them
}

// rules lists the children of <stream:features/> that cannot cross the gateway
// as they are. To remove or change one more, add a row. Everything else is
// passed on byte for byte.
var rules = []rule{
	// TLS is the WebSocket's business (RFC 7395, section 3.9).
	{name: xmlName{"starttls", nsTLS}, cut: cutAlways},
	// The gateway could not read compressed streams (XEP-0138).
	{name: xmlName{"compression", nsCompressFeature}, cut: cutAlways},
	// The gateway's limit holds if it is the lower one (XEP-0478).
	{name: xmlName{"limits", nsLimits}, inside: []rule{
		{name: xmlName{"max-bytes", nsLimits}, edit: lowerMaxBytes},
	}},
	// RFC 6120, section 6.4.1.
	{name: xmlName{"mechanisms", nsSASL}, inside: []rule{
		{name: xmlName{"mechanism", nsSASL}, cut: cutMechanism, vital: true},
	}},
	// XEP-0388, and XEP-0484 inside it.
	{name: xmlName{"authentication", nsSASL2}, inside: []rule{
		{name: xmlName{"mechanism", nsSASL2}, cut: cutMechanism, vital: true},
		{name: xmlName{"inline", nsSASL2}, inside: []rule{
			{name: xmlName{"fast", nsFAST}, inside: []rule{
				{name: xmlName{"mechanism", nsFAST}, cut: cutMechanism, vital: true},
			}},
		}},
	}},
	// XEP-0440.
	{name: xmlName{"sasl-channel-binding", nsBinding}, cut: cutBindingList, inside: []rule{
		{name: xmlName{"channel-binding", nsBinding}, cut: cutBindingType},
	}},
}

// bindingMechanisms lists how the names of the mechanisms end that bind to TLS, and whether
// they can do so with tls-server-end-point. The hashed tokens of XEP-0484 name
// the one type they bind to instead of -PLUS.
var bindingMechanisms = [...]struct {
	prefix, suffix string
	endPoint       bool
}{
	{"", "-PLUS", true}, // RFC 5802, section 4
	{"HT-", "-ENDP", true},
	{"HT-", "-UNIQ", false},
	{"HT-", "-EXPR", false},
}

// saslLists are the features that contain SASL mechanisms.
var saslLists = [...]xmlName{
	{"mechanisms", nsSASL},      // RFC 6120, section 6.4.1
	{"authentication", nsSASL2}, // XEP-0388
}

// AppendMessage appends to dst the message for u, which must be of
// ClassFeatures, without what f removes. All other bytes are as
// [StreamUnit.AppendHead] gives them.
func (f *FeatureFilter) AppendMessage(dst []byte, u *StreamUnit) []byte {
	root := u.tree()
	used := filtering{FeatureFilter: *f}
	if f.ChannelBinding == ChannelBindingEndPoint && !offersEndPoint(root) {
		used.ChannelBinding = ChannelBindingStrip
	}
	dst = slices.Grow(dst, u.Size()) // no rule makes anything longer
	dst, _ = u.AppendHead(dst)
	dst, _ = used.apply(dst, root, u.nameEnd, rules)
	return dst
}

// apply appends e from the position given on, its children changed by the
// rules. It reports false if e goes as well, because none of its vital children is
// left; what it appended is worthless then.
func (f *filtering) apply(dst []byte, e *element, from int, rules []rule) ([]byte, bool) {
	left, lost := 0, 0 // vital children
	for c := range e.children() {
		r := findRule(rules, c)
		if r == nil {
			continue
		}
		dst = append(dst, e.raw[from:c.start]...)
		from = c.end
		out, stays := f.child(dst, c, r)
		if stays {
			dst = out
		}
		switch {
		case !r.vital:
		case stays:
			left++
		default:
			lost++
		}
	}
	return append(dst, e.raw[from:e.end]...), left > 0 || lost == 0
}

// findRule returns the rule for e, nil if there is none.
func findRule(rules []rule, e *element) *rule {
	prefix, local := e.name()
	for i := range rules {
		if r := &rules[i]; string(local) == r.name.local && e.in(prefix, r.name.space) {
			return r
		}
	}
	return nil
}

// child appends what the rule for e leaves of it, as apply does.
func (f *filtering) child(dst []byte, e *element, r *rule) ([]byte, bool) {
	switch {
	case r.cut != nil && r.cut(f, e):
		return nil, false
	case r.edit != nil:
		return r.edit(f, dst, e), true
	}
	return f.apply(dst, e, e.start, r.inside)
}

// cutAlways cuts.
func cutAlways(*filtering, *element) bool { return true }

// cutMechanism cuts the SASL mechanisms that need what the client and the server do
// not share: a TLS connection, or its certificates (RFC 4422, appendix A: the
// one that the server sees with EXTERNAL is the gateway's).
func cutMechanism(f *filtering, e *element) bool {
	f.text = e.appendText(f.text[:0])
	mechanism := string(f.text) // a short one takes no memory
	if mechanism == "EXTERNAL" {
		return f.NoExternal
	}
	for _, b := range bindingMechanisms {
		if strings.HasPrefix(mechanism, b.prefix) && strings.HasSuffix(mechanism, b.suffix) {
			return f.ChannelBinding == ChannelBindingStrip || f.ChannelBinding == ChannelBindingEndPoint && !b.endPoint
		}
	}
	return false
}

// cutBindingList cuts the list of binding types when there is nothing to bind with.
func cutBindingList(f *filtering, _ *element) bool { return f.ChannelBinding == ChannelBindingStrip }

// cutBindingType cuts the binding types other than tls-server-end-point.
func cutBindingType(f *filtering, e *element) bool {
	return f.ChannelBinding == ChannelBindingEndPoint && string(e.attribute("type")) != endPoint
}

// offersEndPoint reports whether features list tls-server-end-point.
func offersEndPoint(features *element) bool {
	for list := range features.children() {
		if !list.is("sasl-channel-binding", nsBinding) {
			continue
		}
		for e := range list.children() {
			if e.is("channel-binding", nsBinding) && string(e.attribute("type")) == endPoint {
				return true
			}
		}
	}
	return false
}

// OffersChannelBinding reports whether u, which must be of ClassFeatures, may name a
// SASL mechanism that binds to the TLS connection (RFC 5802, section 6). It is
// for hints to people: it looks at the bytes only.
func (u *StreamUnit) OffersChannelBinding() bool {
	return bytes.Contains(u.Raw, []byte("-PLUS<"))
}

// OffersSASL reports whether u, which must be of ClassFeatures, lists SASL
// mechanisms of either profile (RFC 6120, section 6.4.1; XEP-0388). A server
// does so until the client is authenticated.
func (u *StreamUnit) OffersSASL() bool { return u.offers(saslLists[:]...) }

// OffersStartTLS reports whether u, which must be of ClassFeatures, offers TLS
// (RFC 6120, section 5.4.1).
func (u *StreamUnit) OffersStartTLS() bool {
	return u.offers(xmlName{"starttls", nsTLS})
}

// RequiresStartTLS reports whether u, which must be of ClassFeatures, says that
// TLS must be negotiated before all else (RFC 6120, section 5.3.1).
func (u *StreamUnit) RequiresStartTLS() bool {
	for e := range u.tree().children() {
		if !e.is("starttls", nsTLS) {
			continue
		}
		for child := range e.children() {
			if child.is("required", nsTLS) {
				return true
			}
		}
	}
	return false
}

// offers reports whether one of the names is that of a child of u.
func (u *StreamUnit) offers(names ...xmlName) bool {
	for e := range u.tree().children() {
		for _, n := range names {
			if e.is(n.local, n.space) {
				return true
			}
		}
	}
	return false
}

// lowerMaxBytes replaces a number above the gateway's own limit by that, digit
// for digit.
func lowerMaxBytes(f *filtering, dst []byte, e *element) []byte {
	start := skipSpace(e.raw, e.content)
	number := bytes.TrimRight(e.raw[start:max(start, e.contentEnd)], " \t\r\n")
	// Digits fail to parse only if there are too many of them.
	v, err := strconv.ParseInt(string(number), 10, 64)
	if f.MaxStanza <= 0 || !isDigits(number) || err == nil && v <= int64(f.MaxStanza) {
		return append(dst, e.raw[e.start:e.end]...)
	}
	dst = append(dst, e.raw[e.start:start]...)
	dst = strconv.AppendInt(dst, int64(f.MaxStanza), 10)
	return append(dst, e.raw[start+len(number):e.end]...)
}
