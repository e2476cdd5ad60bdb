// Package framing translates between the two framings of XMPP: one element
// per WebSocket message (RFC 7395) and one long document over TCP (RFC 6120).
// It takes bytes and returns slices of the same bytes. It does no I/O, reads no
// clock, holds no locks and does not panic on any input.
//
// # Terms
//
// The words are those of the RFCs:
//
//   - a message is a WebSocket message, in as many frames as it may have;
//   - a stream is one XMPP stream, from header to end;
//   - a header opens a stream: <open/> in a message, <stream:stream> over TCP;
//   - an end closes it: <close/> in a message, </stream:stream> over TCP;
//   - an element is any other first-level element of a stream;
//   - a stanza is an element named message, presence or iq in jabber:client;
//   - a unit is a header, an end or an element of a TCP stream.
//
// # The two framings
//
// A message is a document of its own and declares every namespace it uses. An
// element of a TCP stream inherits namespaces from the header. Hence the two
// directions differ:
//
//   - Towards the server, [MessageParser] checks that a message is exactly one
//     well-formed element. Its bytes then go to the stream unchanged. Without
//     the check a client could open, close or divide elements of the stream
//     that the gateway does not know of.
//   - Towards the client, [StreamSplitter] cuts the stream into units. An
//     element becomes a message with [StreamUnit.AppendHead], which adds the
//     inherited declarations, and features with a [FeatureFilter], which removes
//     what does not work through a gateway. The server is trusted to send
//     well-formed XML; only what cutting needs is checked.
//
// Headers are written anew: [AppendStreamHeader] and [AppendOpen] copy the
// attributes that both framings know, as they stand in the source.
//
// To recognise one more element, add a row to the table in names.go. To remove
// or change one more stream feature, add a row to the table in features.go.
//
// # Aliasing
//
// Slices in a [Message] or a [StreamUnit] alias the input. They are valid until
// the caller changes those bytes. No type of this package keeps a reference to
// the input between calls. The slices have no spare capacity, so appending to
// one copies it. The Append functions return new bytes behind dst, as append
// does.
//
// # Errors
//
// [MessageParser.Parse], [StreamSplitter.Next], [StreamSplitter.Part] and
// [Unquote] return errors of type [*Error]: get at it with [errors.As] for the
// stream error to send. [ErrNotText] and [ErrTooLarge] are matched with
// [errors.Is].
//
// # Specifications
//
//   - RFC 6120, XMPP core: streams, errors, restricted XML
//   - RFC 7395, XMPP over WebSocket
//   - XML 1.0 (Fifth Edition) and Namespaces in XML 1.0 (Third Edition)
//   - XEP-0138 stream compression, XEP-0198 stream management, XEP-0388 SASL2,
//     XEP-0440 channel-binding types, XEP-0478 stream limits, XEP-0484 FAST
package framing
