package upstream

import (
	"net/netip"

	"xmppgate/framing"
)

// A Request describes a session that needs a stream. It comes from the client and
// is not trusted, except that Domain has passed the allow-list, if there is one.
// The zero value is a session without domain and address.
type Request struct {
	// Domain is the attribute to of the client's header: ASCII, lower case, no
	// final dot. Empty if the client named none and there is no allow-list.
	Domain string
	// JID is the bare JID in the attribute from of the client's header, or
	// empty. PolicyHash uses it.
	JID string
	// Header has the attributes of the stream header for the server. It must
	// not change until Connect returns.
	Header framing.Header
	// Client and Listener are the remote and the local address of the
	// client's connection, for a PROXY header. They are invalid on a Unix
	// socket.
	Client, Listener netip.AddrPort
	// Secure reports whether the client uses TLS on its way to the gateway.
	Secure bool
	// TLS is the version of that, as in package crypto/tls; zero when it is not
	// known. TLS to the server is of no later version, so that a client which
	// compares both finds no difference (XEP-0515). Only a server that has no such
	// version gets another.
	TLS uint16
	// ID identifies the session in the server's log; a PROXY header of
	// version 2 carries it.
	ID string
	// Avoid is the Stream.Server that has just failed this session: it is
	// tried after all others. Empty means none.
	Avoid string

	probe bool // a health check
}
