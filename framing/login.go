package framing

import (
	"bytes"
	"iter"
	"strings"
)

// This file looks into what both ends say of logins: the mechanism that a client
// chooses, why a server refuses it (RFC 6120, section 6; XEP-0388), and what becomes of
// stream management with it (XEP-0198). It is for reports only: nothing here changes
// what is forwarded.

// A Mechanism is a family of SASL mechanisms: few enough to be the label of a metric,
// whatever a client writes. The zero value is [MechanismNone].
type Mechanism uint8

const (
	MechanismNone      Mechanism = iota // none was chosen
	MechanismSCRAM                      // SCRAM-… (RFC 5802)
	MechanismPlain                      // PLAIN (RFC 4616)
	MechanismExternal                   // EXTERNAL (RFC 4422, appendix A)
	MechanismAnonymous                  // ANONYMOUS (RFC 4505)
	MechanismOAuth                      // OAUTHBEARER (RFC 7628), X-OAUTH2
	MechanismHT                         // HT-…, the tokens of FAST (XEP-0484)
	MechanismOther                      // any other
)

var mechanismNames = [...]string{
	MechanismNone: "none", MechanismSCRAM: "scram", MechanismPlain: "plain", MechanismExternal: "external",
	MechanismAnonymous: "anonymous", MechanismOAuth: "oauth", MechanismHT: "ht", MechanismOther: "other",
}

// String returns the name of the family in lower case.
func (m Mechanism) String() string { return enumName(mechanismNames[:], int(m)) }

// Mechanisms returns the names of all families.
func Mechanisms() []string { return append([]string(nil), mechanismNames[:]...) }

// mechanismFamilies has the families by how the names of their mechanisms begin.
var mechanismFamilies = [...]struct {
	name   string
	whole  bool // nothing may follow
	family Mechanism
}{
	{"SCRAM-", false, MechanismSCRAM},
	{"PLAIN", true, MechanismPlain},
	{"HT-", false, MechanismHT},
	{"EXTERNAL", true, MechanismExternal},
	{"ANONYMOUS", true, MechanismAnonymous},
	{"OAUTH", false, MechanismOAuth},
	{"X-OAUTH", false, MechanismOAuth},
}

// mechanismOf returns the family of a mechanism. Names are upper case (RFC 4422, section
// 3.1), but a server may be lenient, so the gateway is.
func mechanismOf(name []byte) Mechanism {
	name = bytes.TrimSpace(name)
	for i := range mechanismFamilies {
		f := &mechanismFamilies[i]
		if n := len(f.name); len(name) >= n && (len(name) == n || !f.whole) && strings.EqualFold(string(name[:n]), f.name) {
			return f.family
		}
	}
	return MechanismOther
}

// saslConditions are those of RFC 6120, section 6.5.
var saslConditions = [...]string{
	"aborted", "account-disabled", "credentials-expired", "encryption-required", "incorrect-encoding",
	"invalid-authzid", "invalid-mechanism", "malformed-request", "mechanism-too-weak", "not-authorized",
	"temporary-auth-failure",
}

// SASLConditions returns all conditions that SASLCondition may return, but not the empty
// one.
func SASLConditions() []string { return append([]string(nil), saslConditions[:]...) }

// SASLCondition returns the name of the condition of u if it is a <failure/> of SASL (RFC
// 6120, section 6.5) or SASL2 (XEP-0388). It is empty for all other units, for a failure
// without a condition, and for one that RFC 6120 does not define, so the result
// is one of SASLConditions and can be the label of a metric.
func (u *StreamUnit) SASLCondition() string {
	if u.Class != ClassSASLFailure && u.Class != ClassSASL2Failure || !u.readable() {
		return ""
	}
	return conditionIn(u.tree(), nsSASL, saslConditions[:])
}

// conditionIn returns the condition that is a child of e: the first element in the namespace
// given but <text/>, if it is one of known.
func conditionIn(e *element, space string, known []string) string {
	for child := range e.children() {
		prefix, local := child.name()
		if string(local) == "text" || !child.in(prefix, space) {
			continue
		}
		for _, c := range known {
			if string(local) == c {
				return c
			}
		}
		break
	}
	return ""
}

// smConditions are the stanza errors that a server names when it does not resume a stream
// (XEP-0198, sections 3 and 5; RFC 6120, section 8.3.3).
var smConditions = [...]string{
	"feature-not-implemented", "internal-server-error", "item-not-found", "not-allowed", "not-authorized",
	"policy-violation", "resource-constraint", "service-unavailable", "unexpected-request",
}

// SMConditions returns all conditions that an [SMAnswer] may have, but not the empty one.
func SMConditions() []string { return append([]string(nil), smConditions[:]...) }

// An SMAnswer is what a server says of stream management (XEP-0198).
type SMAnswer struct {
	Class     Class  // ClassSMEnabled, ClassSMResumed or ClassSMFailed
	Resumable bool   // of a ClassSMEnabled: the stream can be resumed later
	Condition string // of a ClassSMFailed: one of SMConditions, or empty
}

// SMAnswers yields what u says of stream management: that is u itself, or what a
// ClassSASL2Success has inside (XEP-0198, section 10.1; XEP-0386). The answer to
// <resume/> comes first, because that to <enable/> is one level deeper.
func (u *StreamUnit) SMAnswers() iter.Seq[SMAnswer] {
	return func(yield func(SMAnswer) bool) {
		if !u.readable() {
			if u.Class == ClassSMEnabled || u.Class == ClassSMResumed || u.Class == ClassSMFailed {
				yield(SMAnswer{Class: u.Class})
			}
			return
		}
		root := u.tree()
		if u.Class != ClassSASL2Success {
			if a := smAnswer(root); a.Class != ClassOther {
				yield(a)
			}
			return
		}
		for e := range root.children() {
			if a := smAnswer(e); a.Class != ClassOther && !yield(a) {
				return
			}
		}
		for e := range root.children() {
			if !e.is("bound", nsBind2) || e.content-e.start > maxReadTag {
				continue
			}
			for child := range e.children() {
				if a := smAnswer(child); a.Class != ClassOther && !yield(a) {
					return
				}
			}
		}
	}
}

// smAnswer returns what e says of stream management, ClassOther if it is something else.
func smAnswer(e *element) (a SMAnswer) {
	prefix, local := e.name()
	if !e.in(prefix, nsSM) {
		return a
	}
	switch a.Class = classify(local, nsSM); a.Class {
	case ClassSMEnabled:
		resume := string(e.attribute("resume"))
		a.Resumable = resume == "true" || resume == "1"
	case ClassSMFailed:
		a.Condition = conditionIn(e, nsStanzas, smConditions[:])
	}
	return a
}

// maxJID is the length of the longest JID (RFC 7622, section 3.1).
const maxJID = 3*1023 + len("@/")

// BoundJID returns the JID that u gives to a client: the answer to a request to bind a
// resource (RFC 6120, section 7.6.1), or the authorization identifier of SASL2 (XEP-0388).
// It is empty for all other units, and for text longer than a JID.
func (u *StreamUnit) BoundJID() string {
	if u.Class == ClassIQ && !bytes.Contains(u.Raw, []byte(nsBind)) || !u.readable() {
		return ""
	}
	var jid *element
	switch u.Class {
	case ClassIQ:
		if bind := u.tree().find("bind", nsBind); bind != nil && bind.content-bind.start <= maxReadTag {
			jid = bind.find("jid", nsBind)
		}
	case ClassSASL2Success:
		jid = u.tree().find("authorization-identifier", nsSASL2)
	}
	if jid == nil || jid.end-jid.start > 2*maxJID {
		return ""
	}
	text := jid.appendText(nil)
	if len(text) > maxJID {
		return ""
	}
	return string(text)
}

// AsksToResume reports whether m asks the server to resume a stream: by <resume/>
// (XEP-0198, section 5), or inside SASL2 (section 10.1).
func (m *Message) AsksToResume() bool {
	switch m.Class {
	case ClassSMResume:
		return true
	case ClassSASL2Authenticate:
		u := m.unit()
		return u.readable() && u.tree().find("resume", nsSM) != nil
	}
	return false
}

// StreamErrorCondition is that of [StreamUnit] for an element of a client.
func (m *Message) StreamErrorCondition() Condition {
	if m.Class != ClassStreamError {
		return ""
	}
	u := m.unit()
	return u.StreamErrorCondition()
}

// unit returns m as the unit of a stream, to look inside.
func (m *Message) unit() (u StreamUnit) {
	new(StreamSplitter).Next(m.Raw, &u)
	return u
}
