package framing

// This file writes and reads stream errors (RFC 6120, section 4.9).

// A Condition is the name of a stream error condition (RFC 6120, section
// 4.9.3). The zero value is no condition. AppendStreamError takes any, so that an
// application can send one that is registered later.
type Condition string

// The conditions of RFC 6120, section 4.9.3.
const (
	CondBadFormat              Condition = "bad-format"
	CondBadNamespacePrefix     Condition = "bad-namespace-prefix"
	CondConflict               Condition = "conflict"
	CondConnectionTimeout      Condition = "connection-timeout"
	CondHostGone               Condition = "host-gone"
	CondHostUnknown            Condition = "host-unknown"
	CondImproperAddressing     Condition = "improper-addressing"
	CondInternalServerError    Condition = "internal-server-error"
	CondInvalidFrom            Condition = "invalid-from"
	CondInvalidNamespace       Condition = "invalid-namespace"
	CondInvalidXML             Condition = "invalid-xml"
	CondNotAuthorized          Condition = "not-authorized"
	CondNotWellFormed          Condition = "not-well-formed"
	CondPolicyViolation        Condition = "policy-violation"
	CondRemoteConnectionFailed Condition = "remote-connection-failed"
	CondReset                  Condition = "reset"
	CondResourceConstraint     Condition = "resource-constraint"
	CondRestrictedXML          Condition = "restricted-xml"
	CondSeeOtherHost           Condition = "see-other-host"
	CondSystemShutdown         Condition = "system-shutdown"
	CondUndefined              Condition = "undefined-condition"
	CondUnsupportedEncoding    Condition = "unsupported-encoding"
	CondUnsupportedFeature     Condition = "unsupported-feature"
	CondUnsupportedStanzaType  Condition = "unsupported-stanza-type"
	CondUnsupportedVersion     Condition = "unsupported-version"
)

// conditions are all of the above, which are all that RFC 6120 defines.
var conditions = [...]Condition{
	CondBadFormat, CondBadNamespacePrefix, CondConflict, CondConnectionTimeout, CondHostGone,
	CondHostUnknown, CondImproperAddressing, CondInternalServerError, CondInvalidFrom,
	CondInvalidNamespace, CondInvalidXML, CondNotAuthorized, CondNotWellFormed,
	CondPolicyViolation, CondRemoteConnectionFailed, CondReset, CondResourceConstraint,
	CondRestrictedXML, CondSeeOtherHost, CondSystemShutdown, CondUndefined,
	CondUnsupportedEncoding, CondUnsupportedFeature, CondUnsupportedStanzaType,
	CondUnsupportedVersion,
}

// Conditions returns all conditions of RFC 6120.
func Conditions() []Condition { return append([]Condition(nil), conditions[:]...) }

// StanzaTooBig is the application-specific condition that explains a
// [CondPolicyViolation] for an element over the size limit (XEP-0205; registered by
// XEP-0182).
const StanzaTooBig = `<stanza-too-big xmlns="urn:xmpp:errors"/>`

// AppendStreamError appends to dst a stream error as a message of its own, all
// namespaces declared (RFC 6120, section 4.9; RFC 7395, section 3.5). An empty
// text is left out. app is the XML of an application-specific condition, or
// empty; it is copied as it is.
func AppendStreamError(dst []byte, c Condition, text, app string) []byte {
	dst = append(dst, `<stream:error xmlns="jabber:client" xmlns:stream="http://etherx.jabber.org/streams"><`...)
	dst = append(dst, c...)
	dst = append(dst, ` xmlns="urn:ietf:params:xml:ns:xmpp-streams"/>`...)
	if text != "" {
		dst = append(dst, `<text xmlns="urn:ietf:params:xml:ns:xmpp-streams" xml:lang="en">`...)
		dst = appendEscaped(dst, text)
		dst = append(dst, `</text>`...)
	}
	dst = append(dst, app...)
	return append(dst, `</stream:error>`...)
}

// maxHost is the length of the longest host and port: a domain name of 253
// characters, a colon, five digits.
const maxHost = 253 + len(":65535")

// SeeOtherHost returns the host, with or without a port, to which u sends the client
// if it is a stream error with that condition (RFC 6120, section 4.9.3.19). It is
// empty for all other units, and for text that is longer than a host and a port
// can be. Otherwise it is the server's text, unchecked.
func (u *StreamUnit) SeeOtherHost() string {
	if u.Class != ClassStreamError {
		return ""
	}
	for e := range u.tree().children() {
		if e.is(string(CondSeeOtherHost), nsStreamErrors) {
			if host := e.appendText(nil); len(host) <= maxHost {
				return string(host)
			}
			break
		}
	}
	return ""
}

// StreamErrorCondition returns the condition of u if it is a stream error. It is
// empty for all other units and for a stream error without a condition. What RFC
// 6120 does not define counts as [CondUndefined], so the result is one of
// a few words and can be the label of a metric.
func (u *StreamUnit) StreamErrorCondition() Condition {
	if u.Class != ClassStreamError {
		return ""
	}
	for e := range u.tree().children() {
		prefix, local := e.name()
		if string(local) == "text" || !e.in(prefix, nsStreamErrors) {
			continue
		}
		for _, c := range conditions {
			if string(local) == string(c) {
				return c
			}
		}
		return CondUndefined
	}
	return ""
}
