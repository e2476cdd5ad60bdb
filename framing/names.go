package framing

import "strconv"

// This file holds the names of the protocol: namespaces, kinds, and classes, the
// table of the elements that a gateway recognises.

// Namespaces of XMPP that every user of streams meets.
const (
	NSFraming = "urn:ietf:params:xml:ns:xmpp-framing" // RFC 7395, section 3.3.2
	NSStreams = "http://etherx.jabber.org/streams"    // RFC 6120, section 4.8.1
	NSClient  = "jabber:client"                       // RFC 6120, section 4.8.2
)

const (
	nsStreamErrors    = "urn:ietf:params:xml:ns:xmpp-streams" // RFC 6120, section 4.9.2
	nsXML             = "http://www.w3.org/XML/1998/namespace"
	nsXMLNS           = "http://www.w3.org/2000/xmlns/"
	nsTLS             = "urn:ietf:params:xml:ns:xmpp-tls"
	nsSASL            = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsSASL2           = "urn:xmpp:sasl:2"
	nsCompress        = "http://jabber.org/protocol/compress"
	nsCompressFeature = "http://jabber.org/features/compress"
	nsSM              = "urn:xmpp:sm:3"
	nsBind            = "urn:ietf:params:xml:ns:xmpp-bind"
	nsBind2           = "urn:xmpp:bind:0"
	nsStanzas         = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsFAST            = "urn:xmpp:fast:0"
	nsBinding         = "urn:xmpp:sasl-cb:0"
	nsLimits          = "urn:xmpp:stream-limits:0"
)

// The namespaces that names resolve to without a declaration.
var (
	namespaceXML     = newNamespace([]byte(nsXML))
	namespaceXMLNS   = newNamespace([]byte(nsXMLNS))
	namespaceStreams = newNamespace([]byte(NSStreams))
	namespaceClient  = newNamespace([]byte(NSClient))
)

// An xmlName is a local name in a namespace.
type xmlName struct{ local, space string }

// A Kind says what a message or a piece of a stream is to the stream. The zero
// value is [KindNone].
type Kind uint8

const (
	KindNone    Kind = iota // nothing: no complete piece yet, or an error
	KindHeader              // <open/> or <stream:stream>
	KindEnd                 // <close/> or </stream:stream>
	KindElement             // any other first-level element

	// Parts of a large element, see [StreamSplitter.Part].
	KindElementStart
	KindElementPart
	KindElementEnd
)

var kindNames = [...]string{
	KindNone: "None", KindHeader: "Header", KindEnd: "End", KindElement: "Element",
	KindElementStart: "ElementStart", KindElementPart: "ElementPart", KindElementEnd: "ElementEnd",
}

// String returns the name of the constant without its prefix.
func (k Kind) String() string { return enumName(kindNames[:], int(k)) }

// A Class names the elements that a gateway has to recognise. It is found from
// the local name and the resolved namespace of an element, never from its
// prefix. The zero value is [ClassOther].
type Class uint8

const (
	ClassOther Class = iota // any element that is not listed here

	// Stanzas (RFC 6120, section 8).
	ClassMessage
	ClassPresence
	ClassIQ

	// Elements of the stream namespace (RFC 6120, sections 4.3 and 4.9).
	ClassFeatures
	ClassStreamError

	// SASL (RFC 6120, section 6).
	ClassSASLAuth
	ClassSASLResponse
	ClassSASLAbort
	ClassSASLSuccess
	ClassSASLFailure

	// SASL2 (XEP-0388).
	ClassSASL2Authenticate
	ClassSASL2Success
	ClassSASL2Failure

	// STARTTLS (RFC 6120, section 5).
	ClassStartTLS
	ClassTLSProceed

	// Stream compression (XEP-0138).
	ClassCompress
	ClassCompressed

	// Stream management (XEP-0198).
	ClassSMEnabled
	ClassSMResume
	ClassSMResumed
	ClassSMFailed
)

var classNames = [...]string{
	ClassOther:   "Other",
	ClassMessage: "Message", ClassPresence: "Presence", ClassIQ: "IQ",
	ClassFeatures: "Features", ClassStreamError: "StreamError",
	ClassSASLAuth: "SASLAuth", ClassSASLResponse: "SASLResponse", ClassSASLAbort: "SASLAbort",
	ClassSASLSuccess: "SASLSuccess", ClassSASLFailure: "SASLFailure",
	ClassSASL2Authenticate: "SASL2Authenticate", ClassSASL2Success: "SASL2Success", ClassSASL2Failure: "SASL2Failure",
	ClassStartTLS: "StartTLS", ClassTLSProceed: "TLSProceed",
	ClassCompress: "Compress", ClassCompressed: "Compressed",
	ClassSMEnabled: "SMEnabled", ClassSMResume: "SMResume", ClassSMResumed: "SMResumed", ClassSMFailed: "SMFailed",
}

// String returns the name of the constant without its prefix.
func (c Class) String() string { return enumName(classNames[:], int(c)) }

func enumName(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return strconv.Itoa(i)
}

// classes lists the recognised elements. Lookup is linear, so what is common
// stands first: stanzas are nearly everything there is.
var classes = [...]struct {
	local, space string
	class        Class
}{
	{"message", NSClient, ClassMessage},
	{"presence", NSClient, ClassPresence},
	{"iq", NSClient, ClassIQ},
	{"features", NSStreams, ClassFeatures},
	{"error", NSStreams, ClassStreamError},
	{"auth", nsSASL, ClassSASLAuth},
	{"response", nsSASL, ClassSASLResponse},
	{"abort", nsSASL, ClassSASLAbort},
	{"success", nsSASL, ClassSASLSuccess},
	{"failure", nsSASL, ClassSASLFailure},
	{"authenticate", nsSASL2, ClassSASL2Authenticate},
	{"success", nsSASL2, ClassSASL2Success},
	{"failure", nsSASL2, ClassSASL2Failure},
	{"starttls", nsTLS, ClassStartTLS},
	{"proceed", nsTLS, ClassTLSProceed},
	{"compress", nsCompress, ClassCompress},
	{"compressed", nsCompress, ClassCompressed},
	{"enabled", nsSM, ClassSMEnabled},
	{"resume", nsSM, ClassSMResume},
	{"resumed", nsSM, ClassSMResumed},
	{"failed", nsSM, ClassSMFailed},
}

// classify returns the class of an element.
func classify[S string | []byte](local []byte, space S) Class {
	for i := range classes {
		if c := &classes[i]; string(local) == c.local && string(space) == c.space {
			return c.class
		}
	}
	return ClassOther
}
