// Package http1 reads the head of an HTTP/1.1 request, as strictly as the face
// to the Internet has to be: what two readers could understand differently is
// refused. It is pure and incremental: bytes in, slices of the same bytes out;
// no I/O, no allocation. No input makes it panic, or cost more than linear time.
//
// The standard library reads from a connection, cannot say that a head is not
// complete yet, and lets pass what proxies disagree about, such as lines that
// end in a bare LF. It is what the tests hold this package against: it accepts
// every head that is accepted here, with the same values.
//
// # Specifications
//
//   - RFC 9112, HTTP/1.1, sections 2 to 5
//   - RFC 9110, HTTP Semantics, section 5 (fields and lists)
package http1
