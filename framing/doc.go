// Package framing translates between the two framings of XMPP: one element
// per WebSocket message (RFC 7395) and one endless document over TCP
// (RFC 6120). It is pure: bytes in, slices of the same bytes out; no I/O, no
// clock, no locks. No input makes it panic.
//
// # Terms
//
// Many words of this field are overloaded. Here, as in the RFCs:
//
//   - a message is a WebSocket message, whatever frames carried it;
//   - a stream is one XMPP stream, from header to end;
//   - a header opens a stream: <open/> in a message, <stream:stream> over TCP;
//   - an end closes it: <close/> in a message, </stream:stream> over TCP;
//   - an element is any other first-level element of a stream;
//   - a stanza is an element named message, presence or iq in jabber:client;
//   - up is towards the server, down is towards the client.
//
// # The two framings
//
// A message is a document of its own, so it must say every namespace it uses.
// An element of a TCP stream inherits namespaces from the header. Hence the
// work is uneven:
//
//   - Up, [MessageParser] proves that a message is exactly one well-formed element
//     and nothing else; its bytes are then written to the stream unchanged.
//     Only that proof keeps a client from opening, closing or splitting
//     elements behind the gateway's back.
//   - Down, [StreamSplitter] cuts the stream into elements, puts the inherited
//     declarations back and removes the stream features that cannot work
//     through a gateway. It trusts the server to send well-formed XML and
//     looks no deeper than cutting demands.
//
// Headers are rebuilt, not copied: [AppendStreamHeader] and [AppendOpen] carry over
// the attributes that the other framing knows, with their source bytes.
//
// To recognise one more element add a row to the table in names.go; to remove
// or change one more stream feature add a row to the table in features.go.
//
// # Aliasing
//
// Slices returned alias the input and are valid as long as the caller leaves
// those bytes alone. Neither [MessageParser] nor [StreamSplitter] keeps a reference to the
// input between calls. Slices with spare capacity are never handed out, so
// appending to one copies it.
//
// # Specifications
//
//   - RFC 6120, XMPP core: streams, errors, restricted XML
//   - RFC 7395, XMPP over WebSocket
//   - XML 1.0 (Fifth Edition) and Namespaces in XML 1.0 (Third Edition)
//   - XEP-0138 stream compression, XEP-0198 stream management, XEP-0388 SASL2,
//     XEP-0440 channel-binding types, XEP-0478 stream limits, XEP-0484 FAST
package framing
