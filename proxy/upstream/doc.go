// Package upstream finds the XMPP server of a session and opens a stream to
// it: over TCP, a Unix socket, STARTTLS or direct TLS; at a fixed address or
// one that DNS names; with the client's address in a PROXY header; at the next
// server when one is down.
//
//	Request ──► Router ──► route of the domain ──► policy ──► Server ──► endpoint ──► Stream
//	            (routes)                          (order)    (SRV …)    (address)
//
// Opening is ordinary blocking code: each session that connects has a
// goroutine which ends with the Stream.
package upstream
