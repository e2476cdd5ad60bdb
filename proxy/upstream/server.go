package upstream

// A Server is one configured server, as its URL describes it. For srv: that is
// a name which DNS resolves to any number of endpoints.
type Server struct {
	// Name tells the server in metrics and logs: its URL without the query.
	Name string
}

// ParseServer reads the URL of a server:
//
//	tcp://host:port       a stream in plain text
//	unix:/path            the same over a Unix socket
//	starttls://host:port  TLS that the stream negotiates; never without
//	tls://host:port       TLS from the first byte (XEP-0368)
//	srv:                  what DNS says about the session's domain
//	srv:name              what DNS says about name
//
// A query sets options, see options.
func ParseServer(s string) (*Server, error) {
	panic("not written yet")
}
