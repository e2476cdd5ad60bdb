package proxy

import "net"

// A loop drives sessions: it reads and writes their connections, keeps their
// deadlines and applies back-pressure. Loops know sockets and no XMPP,
// sessions know XMPP and no sockets.
//
// What a loop owes to a session:
//
//   - Its event methods are called one at a time.
//   - After each event the outboxes of the workspace are written, the client's
//     first, each in one gathered write. What a side does not take at once is
//     kept by the loop and written when there is room; until then
//     session.blocked is set for this side, and the other side is not read as
//     long as it is legOpen. When all is written drained is called. A side
//     that takes nothing for stallTimeout is reported by stalled.
//   - It reads a side only when session.reads says so, with one read per
//     wake-up, and calls eof when nothing more can come. It keeps a buffer
//     for a side only while there are bytes that the session wants again.
//   - It acts on the legs: legFinishing sends FIN behind the last byte,
//     legClosed closes the connection at once.
//   - It calls expire at session.deadline or soon after.
//   - When session.over it tells the gateway and forgets the session.
type loop interface {
	// start drives s over the connection of its client, beginning with
	// bytes that were read already; it takes conn over.
	start(s *session, conn net.Conn, early []byte)
}

// A link is the hold of a loop on one session.
type link interface {
	// attach gives the session its connection to the server. It closes conn
	// when the session has ended.
	attach(conn net.Conn)
	// post runs f as an event of the session, perhaps after it returns.
	post(f func(*session, *workspace))
	// view runs f while no event of the session runs, before it returns.
	view(f func(*session))
}
