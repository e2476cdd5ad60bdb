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
	spaceXML     = hashed([]byte(nsXML))
	spaceXMLNS   = hashed([]byte(nsXMLNS))
	spaceStreams = hashed([]byte(NSStreams))
	spaceClient  = hashed([]byte(NSClient))
)

// A name is a local name in a namespace.
type name struct{ local, space string }

// A Kind says what a piece of a stream is to the stream.
type Kind uint8

const (
	None    Kind = iota // nothing complete yet
	Header              // <open/> or <stream:stream>
	End                 // <close/> or </stream:stream>
	Element             // any other first-level element

	// Parts of an Element, see [Down.Part].
	ElementStart
	ElementPart
	ElementEnd
)

// A Class names the elements that a gateway has to recognise. It is found from
// the root's local name and resolved namespace, never from its prefix. The
// zero value is [Other].
type Class uint8

const (
	Other Class = iota // nobody needs to know

	MessageStanza
	PresenceStanza
	IQStanza

	Features    // <stream:features/>
	StreamError // <stream:error/>

	Auth // SASL (RFC 6120, section 6)
	Response
	Abort
	Success
	Failure

	Authenticate2 // SASL2 (XEP-0388)
	Success2
	Failure2

	StartTLS // RFC 6120, section 5
	Proceed

	Compress // XEP-0138
	Compressed

	SMEnabled // XEP-0198
	SMResumed
)

// classes lists the recognised elements. Lookup is linear, so what is common
// stands first: stanzas are nearly everything there is.
var classes = [...]struct {
	local, space string
	class        Class
}{
	{"message", NSClient, MessageStanza},
	{"presence", NSClient, PresenceStanza},
	{"iq", NSClient, IQStanza},
	{"features", NSStreams, Features},
	{"error", NSStreams, StreamError},
	{"auth", nsSASL, Auth},
	{"response", nsSASL, Response},
	{"abort", nsSASL, Abort},
	{"success", nsSASL, Success},
	{"failure", nsSASL, Failure},
	{"authenticate", nsSASL2, Authenticate2},
	{"success", nsSASL2, Success2},
	{"failure", nsSASL2, Failure2},
	{"starttls", nsTLS, StartTLS},
	{"proceed", nsTLS, Proceed},
	{"compress", nsCompress, Compress},
	{"compressed", nsCompress, Compressed},
	{"enabled", nsSM, SMEnabled},
	{"resumed", nsSM, SMResumed},
}

func classify[S string | []byte](local []byte, space S) Class {
	for i := range classes {
		if c := &classes[i]; string(local) == c.local && string(space) == c.space {
			return c.class
		}
	}
	return Other
}
