// Package session is the gateway between one WebSocket (RFC 6455, RFC 7395) and one
// XMPP stream over TCP (RFC 6120), as a pure state machine.
//
// A [Session] implements [relay.Session]: a loop tells it what has come, and it
// appends what has to be written to the outboxes of the event and sets the states of
// the connections. It does not block, read a clock, start a goroutine or touch a
// socket. What it needs of the gateway is [Host], what it goes by is [Settings].
//
// # Three tables decide
//
//   - Which piece of a stream is legal when: streamSteps, in phase.go. Only
//     Session.streamStep changes a phase.
//   - How far the client is with SASL, and when a restart of its stream is due:
//     saslSteps, in sasl.go. Only Session.saslStep changes that.
//   - How a session ends: endings, in ending.go. What happens first decides, and
//     Session.endWith tells both sides what the row says (end.go). A row may leave
//     the stream error open; endWithError is given it then. A request that is not
//     upgraded has a rejection instead (reject.go), and a panic ends a session
//     without telling anybody (Failed).
//
// # The path of a byte
//
// From the client to the server:
//
//	session.go     Receive
//	accept.go      the stages before the first frame: PROXY header, preface,
//	handshake.go   HTTP request; resource.go answers one that asks for no WebSocket
//	assembler.go   frames become messages and control frames; websocket.go has the
//	               format of a frame
//	client.go      a message is checked by framing.MessageParser, counts for the
//	               tables, and goes to the outbox of the server unchanged. A header
//	               is queued instead: connect.go finds the server, and sends it
//	               when it is due
//
// From the server to the client:
//
//	session.go     Receive
//	server.go      framing.StreamSplitter cuts the stream into elements, which
//	               count for the tables
//	writer.go      each becomes a message, as one frame or several: the only file
//	               that writes to the client after the upgrade
//
// Where compression was agreed on (compression.go), a message of the client is inflated
// between assembler.go and client.go, and elements are compressed in writer.go.
//
// The bytes of an element stay in the buffer that they were read into, and the
// outbox refers to them unless they are few or compressed.
//
// # Beside the path
//
// The rest of session.go is what time and the connections do: timeouts, pings, ends,
// stalls. State that few sessions need at a time is in extra, so that a quiet session
// is small. traffic.go counts; record.go and probe.go describe a session to the
// gateway, the log and tests; state.go does to another process.
package session
