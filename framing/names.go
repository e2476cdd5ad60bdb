package framing

// Namespaces that the proxy needs, too.
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

// A Kind says what a piece of a stream is to the stream.
type Kind uint8

const (
	KindNone    Kind = iota // nothing complete yet
	KindHeader              // <open/> or <stream:stream>
	KindEnd                 // <close/> or </stream:stream>
	KindElement             // any other first-level element

	// Parts of an element, see [StreamSplitter.Part].
	KindElementStart
	KindElementPart
	KindElementEnd
)

// A Class names the elements that a gateway has to recognise. It is found from
// the root's local name and resolved namespace, never from its prefix. The
// zero value is [ClassOther].
type Class uint8

const (
	ClassOther Class = iota // nobody needs to know

	ClassMessage
	ClassPresence
	ClassIQ

	ClassFeatures    // <stream:features/>
	ClassStreamError // <stream:error/>

	ClassSASLAuth // SASL (RFC 6120, section 6)
	ClassSASLResponse
	ClassSASLAbort
	ClassSASLSuccess
	ClassSASLFailure

	ClassSASL2Authenticate // SASL2 (XEP-0388)
	ClassSASL2Success
	ClassSASL2Failure

	ClassStartTLS // RFC 6120, section 5
	ClassTLSProceed

	ClassCompress // XEP-0138
	ClassCompressed

	ClassSMEnabled // XEP-0198
	ClassSMResumed
)

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
	{"resumed", nsSM, ClassSMResumed},
}

func classify[S string | []byte](local []byte, space S) Class {
	for i := range classes {
		if c := &classes[i]; string(local) == c.local && string(space) == c.space {
			return c.class
		}
	}
	return ClassOther
}
