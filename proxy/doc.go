// Package proxy relays XMPP between WebSocket clients (RFC 7395) and a server
// behind a TCP stream (RFC 6120).
//
//	g := &proxy.Gateway{Dial: dial}
//	err := g.Serve(listener)
//
// # The life of a session
//
// From its first byte, which is that of an HTTP request (upgrade.go), a session
// is a state machine without any I/O (session.go): a loop reads both
// connections, hands it what has come, and writes what it puts into its
// outboxes. What all loops share is in loop.go. On Linux sessions are driven by
// a few epoll workers (loop_epoll.go), without a goroutine, a runtime timer or,
// at rest, a buffer for each; elsewhere by goroutines (loop_goroutine.go).
//
//	opening      <open/> is awaited, the server is dialled, its header awaited
//	negotiating  features, SASL, a restart
//	established  the client is authenticated; stanzas flow
//	closing      one side has ended its stream, or an ending is being told
//
// Which piece of a stream is legal when is one table (phase.go). How a session
// ends is decided once, by whatever happens first, and is a row of another
// (ending.go): what it is called in metrics and logs, and what each side is
// told.
//
// # The path of a byte
//
// Up: the payload of a frame is unmasked and checked in the buffer that it was
// read into (websocket.go, framing.MessageParser) and leaves from there. Down: the
// stream is cut into elements (framing.StreamSplitter); each is one message, made of a
// small head with the restored declarations and the rest of the element where
// it lies. Small pieces are copied together, large ones are referenced
// (outbox.go); all that one read brings leaves in one write.
//
// Nothing of a message is forwarded before all of it is checked. What is
// incomplete is kept in a buffer that grows with what has arrived
// (window.go); an idle session has none.
//
// # What it never does
//
// It never puts an element of its own into a stream that lives: XEP-0198
// counts them. It never sends an end tag for a client that merely vanished:
// that would make its stream unresumable. It never logs or exports content.
//
// # To change something
//
// A new ending is a constant and a row in ending.go. A new refusal of a
// handshake is a rule in upgrade.go. A feature that may not cross is a row in
// framing/features.go, an element to recognise one in framing/names.go.
package proxy
