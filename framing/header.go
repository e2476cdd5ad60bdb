package framing

// This file writes the headers and ends of streams, and other fixed messages.

// A Header holds the attributes of a stream header (RFC 6120, section 4.7). Each
// is the source text of the value including its quotes, or nil if there is none;
// they alias the input. Use [Quote] and [Unquote] for the values themselves.
// Values are copied from one framing to the other as they stand in the source, so
// none can turn into two.
type Header struct{ To, From, ID, Version, Lang []byte }

// set stores the value of an attribute if it is one that headers carry over.
// raw includes the quotes.
func (a *Header) set(name, raw []byte) {
	switch string(name) {
	case "to":
		a.To = raw
	case "from":
		a.From = raw
	case "id":
		a.ID = raw
	case "version":
		a.Version = raw
	case "xml:lang":
		a.Lang = raw
	}
}

// AppendStreamHeader appends to dst the header of a TCP stream to a server (RFC
// 6120, section 4.7). The name, the prefix and the declarations are those that
// every server understands. ID is left out, because only servers set it.
func AppendStreamHeader(dst []byte, a Header) []byte {
	dst = append(dst, `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'`...)
	dst = appendAttribute(dst, ` to=`, a.To)
	dst = appendAttribute(dst, ` from=`, a.From)
	dst = appendAttribute(dst, ` version=`, a.Version)
	dst = appendAttribute(dst, ` xml:lang=`, a.Lang)
	return append(dst, '>')
}

// AppendOpen appends to dst the <open/> for a client (RFC 7395, section
// 3.4).
func AppendOpen(dst []byte, a Header) []byte {
	dst = append(dst, `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing"`...)
	dst = appendAttribute(dst, ` from=`, a.From)
	dst = appendAttribute(dst, ` to=`, a.To)
	dst = appendAttribute(dst, ` id=`, a.ID)
	dst = appendAttribute(dst, ` version=`, a.Version)
	dst = appendAttribute(dst, ` xml:lang=`, a.Lang)
	return append(dst, `/>`...)
}

// AppendSeeOtherURI appends to dst the message that ends a stream and sends the
// client to another WebSocket (RFC 7395, section 3.6.1). uri is plain text; it is
// escaped here.
func AppendSeeOtherURI(dst []byte, uri string) []byte {
	dst = append(dst, `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" see-other-uri="`...)
	return append(appendEscaped(dst, uri), `"/>`...)
}

func appendAttribute(dst []byte, name string, raw []byte) []byte {
	if raw == nil {
		return dst
	}
	return append(append(dst, name...), raw...)
}

// Fixed messages and their parts, byte for byte as deployed software compares
// them.
const (
	// CloseMessage ends a stream towards a client (RFC 7395, section 3.6).
	// There are clients that compare the whole text.
	CloseMessage = `<close xmlns="urn:ietf:params:xml:ns:xmpp-framing" />`

	// EndTag ends a stream towards a server (RFC 6120, section 4.4). There
	// are servers that compare the whole text.
	EndTag = `</stream:stream>`

	// StartTLSFailure answers a client's <starttls/> (RFC 6120, section
	// 5.4.2.2); TLS is not negotiated inside a WebSocket (RFC 7395, section
	// 3.9).
	StartTLSFailure = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`

	// CompressFailure answers a client's <compress/> (XEP-0138, section 3).
	CompressFailure = `<failure xmlns='http://jabber.org/protocol/compress'><unsupported-method/></failure>`

	// SASLExternalFailure answers <auth mechanism='EXTERNAL'/> (RFC 6120, section
	// 6.5.7): the certificate the server sees is not the client's.
	SASLExternalFailure = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><invalid-mechanism/></failure>`

	// SASL2ExternalFailure is the same for SASL2 (XEP-0388).
	SASL2ExternalFailure = `<failure xmlns='urn:xmpp:sasl:2'><invalid-mechanism xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>`
)
