// Package upstream finds the XMPP server of a session and opens a stream to
// it (RFC 6120): over TCP, a Unix socket, STARTTLS or direct TLS (XEP-0368); at a
// fixed address or one from DNS; with the client's address in a PROXY header; at
// another server if one is down.
//
//	Request ──► Router ──► route of the domain ──► policy ──► Server ──► endpoint ──► Stream
//	            (routes)                          (order)    (SRV …)    (address)
//
// [Router.Connect] blocks: each session that connects needs a goroutine until it
// has the Stream. [Router.Static] names the server that needs none. [Router.Run]
// checks the health of all servers. [Router.Update] replaces the servers while all of
// this goes on.
package upstream
