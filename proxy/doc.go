// Package proxy relays XMPP between WebSocket clients (RFC 7395) and a server
// behind a TCP stream (RFC 6120).
//
//	g := &proxy.Gateway{Config: proxy.Config{Dial: router.Connect}}
//	err := g.Serve(listener)
//
// # Rooms
//
//	proxy                  Gateway: configuration, accepting, the registry of sessions,
//	                       connecting them to servers, records for log and metrics
//	proxy/clientaddr       who the client is, behind proxies
//	proxy/upstream         servers: which one, and how to open a stream to it
//	proxy/internal/session one session as a state machine: HTTP request, frames, XMPP,
//	                       how it ends; no I/O
//	proxy/certfiles        certificates for clients, read again when files change
//	proxy/internal/limit   client networks: how much one may have, and how often
//	proxy/internal/http1   the head of the HTTP request
//	proxy/internal/deflate permessage-deflate (RFC 7692) without frames
//	proxy/internal/loop    connections, buffers, back-pressure, timers; no XMPP. On
//	                       Linux a few epoll workers drive all sessions, without a
//	                       goroutine, a runtime timer or, at rest, a buffer for each;
//	                       elsewhere each session has a few goroutines
//	proxy/internal/relay   what a session and a loop say to each other, and the
//	                       contracts between them
//
// A session knows no sockets and a loop knows no XMPP. What both need of the gateway
// are interfaces, session.Host and loop.Acceptor, which registry.go, gateway.go and
// connect.go implement.
//
// # The life of a session
//
// Gateway.Admit makes it when the loop has accepted a connection. It takes a PROXY
// header, TLS, the HTTP request and <open/>. Then it asks for a server (connect.go): one
// whose address is all there is to know is connected to by the loop, all others by
// Config.Dial on a goroutine. Over ends it: the registry forgets it, and its record
// goes to log and metrics. SessionInfo.Phase is one of
//
//	opening      <open/> is awaited, the server is connected to, its header awaited
//	negotiating  features, SASL, a restart
//	established  the client is authenticated; stanzas flow
//	closing      one side has ended its stream, or an ending is being told
//
// How a session ends is decided once, by what happens first, and is a row of a table:
// what it is called in metrics and logs, and what each side is told. See [Endings].
//
// # The path of a byte
//
// The loop reads a connection and hands the session what has come. The session checks
// it and appends what has to be written to an outbox. The loop writes each outbox in
// one gathered write when the event is over, and keeps what the connection does not
// take; until that is written it does not read the other connection.
//
// To the server the payload of a message leaves from the buffer that it was read
// into. To the client each element of the stream is a message: a small head with the
// declarations that it inherits, and the rest of the element where it lies. The
// documentation of session names the files on the way.
//
// A message of a client is not forwarded before all of it is checked. An element of a
// server is, in parts, when it is large. What is incomplete is kept in a buffer that
// grows with what has arrived (loop/window.go).
//
// # What it never does
//
//   - It does not put a stanza of its own into a stream that lives, because XEP-0198
//     counts stanzas. What it answers in the server's stead are other elements, which
//     are not counted.
//   - It does not send </stream:stream> for a client that merely vanished, because that
//     would make the stream unresumable.
//   - It does not log or export content.
//   - It does not allocate by a length that a peer has declared.
//
// # To change something
//
//	what is legal when                 session/phase.go, for SASL session/sasl.go
//	how sessions end                   session/ending.go, a constant and a row
//	which handshakes are refused       session/handshake.go, a rule; what the client is
//	                                   told, session/reject.go
//	what plain HTTP requests get       session/resource.go, a row; the page is page.html
//	how messages to clients are framed session/writer.go
//	which messages are compressed      session/compression.go
//	which features cross               framing/features.go
//	what moves to another process      session/state.go, loop/move_linux.go, handover.go
//	which elements are recognised      framing/names.go
//	which clients are kept out         limits.go here, then internal/limit
//	TLS with clients                   tls.go here, session/tls.go for what is awaited
//	                                   when, loop/secure.go for the handshake
//	how a server is reached            connect.go here, then upstream
//	a setting                          config.go: a field of Config and, if sessions need
//	                                   it, of session.Settings; what changes at once by
//	                                   Gateway.Update and what for new sessions only,
//	                                   gateway.go
package proxy
