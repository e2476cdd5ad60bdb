package framing

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// A Condition is the name of a stream error condition (RFC 6120, section
// 4.9.3). The zero value is no condition.
type Condition string

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
	CondUndefinedCondition     Condition = "undefined-condition"
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
	CondRestrictedXML, CondSeeOtherHost, CondSystemShutdown, CondUndefinedCondition,
	CondUnsupportedEncoding, CondUnsupportedFeature, CondUnsupportedStanzaType,
	CondUnsupportedVersion,
}

// ErrNotText says that a message is not text that an XMPP WebSocket may carry:
// it is empty, does not start with '<' (RFC 7395, section 3.3.3) or is not
// UTF-8 (RFC 6455, section 8.1). There is no XML to answer with a stream
// error; close the WebSocket with code 1007. It arrives wrapped in an [*Error].
var ErrNotText = errors.New("message is not XML text")

// ErrTooLarge says that what a server sends exceeds a limit of [StreamSplitter]. It arrives
// wrapped in an [*Error].
var ErrTooLarge = errors.New("too large")

// An Error says what is wrong with the input and where.
type Error struct {
	// Condition is the stream error to send.
	Condition Condition

	// Offset is a position in bytes: from the start of the message for
	// MessageParser, from the start of the stream for StreamSplitter.
	Offset int

	// Err is the cause, never nil.
	Err error
}

// Error returns the condition, the position and the cause.
func (e *Error) Error() string {
	return string(e.Condition) + " at byte " + strconv.Itoa(e.Offset) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Causes that need no detail. They are values so that refusing a flood of bad
// messages costs little.
var (
	errAttributes   = errors.New("too many attributes")
	errControl      = errors.New("control character")
	errDepth        = errors.New("elements nested too deeply")
	errDuplicate    = errors.New("duplicate attribute")
	errMarkup       = errors.New("comment, processing instruction or document type")
	errName         = errors.New("bad name")
	errNamespace    = errors.New("bad namespace declaration")
	errNonCharacter = errors.New("character not allowed in XML")
	errPrefix       = errors.New("unbound namespace prefix")
	errPrefixes     = errors.New("too many namespace prefixes")
	errSectionEnd   = errors.New(`"]]>" in text`)
	errTag          = errors.New("bad tag")
	errTrailing     = errors.New("more than one element")
	errUnfinished   = errors.New("unfinished element")
	errHeaderSize   = fmt.Errorf("stream header above %d bytes: %w", maxHeader, ErrTooLarge)
	errTreeSize     = fmt.Errorf("stream features or stream error above %d bytes: %w", maxTree, ErrTooLarge)
	errTagSize      = fmt.Errorf("start tag: %w", ErrTooLarge)
	errUTF8         = errors.New("invalid UTF-8")
	errValue        = errors.New("bad attribute value")
	errMismatch     = errors.New("end tag does not match")
	errReference    = errors.New("bad reference")
	errEntity       = errors.New("undefined entity")
	errEncoding     = errors.New("encoding is not UTF-8")
	errXMLDecl      = errors.New("bad XML declaration")
	errText         = errors.New("text between elements")
	errContent      = errors.New("content where none may be")
	errHeader       = errors.New("header of a TCP stream")
)

func notText(offset int, why string) error {
	return &Error{CondNotWellFormed, offset, fmt.Errorf("%w: %s", ErrNotText, why)}
}

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

// SeeOtherHost returns where u sends the client if it is a stream error of that
// condition: a host with or without a port, as the server says it (RFC 6120,
// section 4.9.3.19). It is empty for all other units, and if there is more text
// than a host and a port can have. Nothing else is checked.
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

// StreamErrorCondition returns the condition of u if it is a stream error that
// has one. Conditions that RFC 6120 does not define are CondUndefinedCondition, so
// what a server can say is limited to a few words fit for logs and metrics.
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
		return CondUndefinedCondition
	}
	return ""
}

// appendEscaped appends s as XML text that is also fit for a quoted attribute
// value. What XML cannot say becomes U+FFFD.
func appendEscaped(dst []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r == '&':
			dst = append(dst, "&amp;"...)
		case r == '<':
			dst = append(dst, "&lt;"...)
		case r == '>':
			dst = append(dst, "&gt;"...)
		case r == '\'':
			dst = append(dst, "&apos;"...)
		case r == '"':
			dst = append(dst, "&quot;"...)
		case r == '\t' || r == '\n' || r == '\r':
			// Literal white space would be normalised by the reader.
			dst = append(dst, "&#"...)
			dst = strconv.AppendInt(dst, int64(r), 10)
			dst = append(dst, ';')
		case isChar(r):
			dst = utf8.AppendRune(dst, r)
		default:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		}
	}
	return dst
}
