package upstream

import (
	"net/netip"

	"xmppgate/framing"
)

// A Request is what a session asks for. Nothing in it is trusted: Domain has
// passed the allow-list, if there is one; the rest is what the client said.
type Request struct {
	// Domain is the to of the client's header: ASCII, lower case, no final
	// dot. Empty when the client named none and there is no allow-list.
	Domain string
	// JID is the bare JID that the client's header names in from, or empty.
	JID string
	// Header are the attributes of the header that the server gets.
	Header framing.Header
	// Client and Listener are the ends of the client's connection; invalid
	// on a Unix socket.
	Client, Listener netip.AddrPort
	// Secure tells that the client's connection is encrypted on its way to
	// the gateway.
	Secure bool
	// ID names the session in the server's log, by way of a PROXY header.
	ID string
	// Avoid is the Stream.Server of a server to try after all others, as it
	// failed this session just now. Empty means none.
	Avoid string

	probe bool // a health check
}
