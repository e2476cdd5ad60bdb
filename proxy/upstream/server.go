package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A Server is one configured server. [ParseServer] makes it from a URL. With srv:
// it stands for all targets of the SRV records. It does not change, except that its
// files are read again when they change.
type Server struct {
	// Name identifies the server in metrics and logs: its URL without the
	// query.
	Name string

	url     string // Name and the options, in an order of their own
	scheme  *scheme
	host    string // without brackets; for srv: the name to ask for, empty for the session's domain
	port    string
	path    string // of a Unix socket
	options *options
}

// A scheme says how the URL of a server continues and what it means.
type scheme struct {
	name     string
	form     string // to show in errors
	port     string // the default; empty means that it must be given
	security security
	parse    func(s *Server, rest string) error
}

var schemes = []*scheme{
	{name: "tcp", form: "tcp://host:port", port: "5222", security: plain, parse: (*Server).parseHostPort},
	{name: "unix", form: "unix:/path", security: plain, parse: (*Server).parsePath},
	{name: "starttls", form: "starttls://host:port", port: "5222", security: startTLS, parse: (*Server).parseHostPort},
	{name: "tls", form: "tls://host:port", port: "5223", security: directTLS, parse: (*Server).parseHostPort},
	// DNS decides between STARTTLS and TLS; without SRV records it is STARTTLS.
	{name: "srv", form: "srv: or srv:name", security: startTLS, parse: (*Server).parseName},
}

// ParseServer reads the URL of a server:
//
//	tcp://host:port       a stream in plain text
//	unix:/path            the same over a Unix socket
//	starttls://host:port  TLS that the stream negotiates; never without
//	tls://host:port       TLS from the first byte (XEP-0368)
//	srv:                  the SRV records of the session's domain
//	srv:name              the SRV records of name
//
// Ports 5222 (tcp, starttls) and 5223 (tls) may be left out. An IPv6 address
// stands in brackets. A query sets options:
//
//	ca=FILE             PEM certificates to trust instead of the system's
//	name=example.org    what the certificate is checked for, and the SNI,
//	                    instead of the session's domain
//	pin=sha256:HASH     the hash of the server's public key (SPKI), in hex or
//	                    base64; may be repeated, one must match. It replaces
//	                    the check of chain and name; expiry is checked
//	cert=FILE&key=FILE  a client certificate to present
//	proxy=v1, proxy=v2  send a PROXY header
//	private=true        srv: and redirects may lead to private and loopback
//	                    addresses
//
// The files are read at once, and again when they change. The error joins
// everything that is wrong, and says what to write instead.
func ParseServer(s string) (*Server, error) {
	name, query, _ := strings.Cut(s, "?")
	srv := &Server{Name: name, url: name}
	var problems []error
	word, rest, _ := strings.Cut(name, ":")
	for _, sc := range schemes {
		if sc.name == word {
			srv.scheme = sc
		}
	}
	if srv.scheme == nil {
		var forms []string
		for _, sc := range schemes {
			forms = append(forms, sc.form)
		}
		return nil, fmt.Errorf("server %q: write %s", name, strings.Join(forms, ", "))
	}
	if err := srv.scheme.parse(srv, rest); err != nil {
		problems = append(problems, err)
	}
	var more []error
	srv.options, more = parseOptions(srv.scheme, query)
	problems = append(problems, more...)
	for i, err := range problems {
		problems[i] = fmt.Errorf("server %q: %w", name, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if values, err := url.ParseQuery(query); err == nil && len(values) > 0 {
		srv.url += "?" + values.Encode()
	}
	return srv, nil
}

func (s *Server) parseHostPort(rest string) error {
	address, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return fmt.Errorf("write %s", s.scheme.form)
	}
	host, port := address, s.scheme.port
	// A colon behind the last bracket starts a port.
	if strings.LastIndexByte(address, ':') > strings.LastIndexByte(address, ']') {
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return fmt.Errorf("write %s, and an IPv6 address in brackets", s.scheme.form)
		}
	} else if strings.HasPrefix(address, "[") {
		host = strings.TrimSuffix(address[1:], "]")
	}
	if host == "" {
		return fmt.Errorf("the host is missing; write %s", s.scheme.form)
	}
	var errs []error
	if err := checkHost(host); err != nil {
		errs = append(errs, err)
	}
	if err := checkPort(port); err != nil {
		errs = append(errs, err)
	}
	s.host, s.port = strings.ToLower(host), port
	return errors.Join(errs...)
}

func (s *Server) parsePath(rest string) error {
	if !strings.HasPrefix(rest, "/") || strings.HasPrefix(rest, "//") {
		return fmt.Errorf("write %s, an absolute path", s.scheme.form)
	}
	if len(rest) > maxPath {
		return fmt.Errorf("the path has %d bytes; a Unix socket allows at most %d bytes", len(rest), maxPath)
	}
	s.path = rest
	return nil
}

func (s *Server) parseName(rest string) error {
	if rest == "" {
		return nil
	}
	s.host = strings.ToLower(strings.TrimSuffix(rest, "."))
	if _, err := netip.ParseAddr(s.host); err == nil {
		return fmt.Errorf("%q is an address, SRV records belong to names; write starttls:// or tls://", rest)
	}
	return checkHost(s.host)
}

// maxPath is the length of the longest path of a Unix socket, unix(7).
const maxPath = 107

// maxHost and maxLabel are what DNS allows (RFC 1035, section 2.3.4).
const (
	maxHost  = 253
	maxLabel = 63
)

// checkHost reports whether host is an IP address or could be a name in DNS.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	name := strings.TrimSuffix(host, ".")
	bad := name == "" || len(name) > maxHost
	for label := range strings.SplitSeq(name, ".") {
		bad = bad || label == "" || len(label) > maxLabel
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		case c > 0x7F:
			return fmt.Errorf("host %q is not ASCII; write its xn-- form", printable(host))
		default:
			bad = true
		}
	}
	if bad {
		return fmt.Errorf("%q is neither a host name nor an address", printable(host))
	}
	return nil
}

func checkPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a port; write a number from 1 to 65535", printable(port))
	}
	return nil
}

// String returns s.Name.
func (s *Server) String() string { return s.Name }

// Scheme returns the scheme of the URL: tcp, unix, starttls, tls or srv.
func (s *Server) Scheme() string { return s.scheme.name }

// Host returns the host of the URL, without brackets; of srv:name, the name.
// It is empty for a Unix socket and for srv: alone.
func (s *Server) Host() string { return s.host }

// Plain returns the address of a server without TLS: host:port or a path. ok is
// false if the URL asks for TLS.
func (s *Server) Plain() (address string, ok bool) {
	if s.scheme.security != plain {
		return "", false
	}
	_, address = s.address()
	return address, true
}

// likelyDomain is a domain that a server in plain text may have: where it is one
// that DNS knows, the host.
func (s *Server) likelyDomain() string {
	if _, err := netip.ParseAddr(s.host); err == nil || s.scheme.security != plain || s.host == "localhost" {
		return ""
	}
	return strings.TrimSuffix(s.host, ".")
}

// PresentsCertificate reports whether the gateway presents a certificate of its own
// to the server. The server may then offer SASL EXTERNAL to all clients, and would
// authenticate each of them as the gateway.
func (s *Server) PresentsCertificate() bool { return s.options.files.cert != "" }

func (s *Server) address() (network, address string) {
	if s.path != "" {
		return "unix", s.path
	}
	return "tcp", net.JoinHostPort(s.host, s.port)
}

// endpoint returns the only endpoint of a server that is not srv:.
func (s *Server) endpoint(o Observer) endpoint {
	network, address := s.address()
	return s.at(network, address, s.scheme.security, o)
}

// at returns an endpoint of s at another address: one that DNS names, or one
// that a redirect leads to. What proves the server's identity stays the same.
func (s *Server) at(network, address string, sec security, o Observer) endpoint {
	return endpoint{
		server:   s.Name,
		network:  network,
		address:  address,
		security: sec,
		identity: s.host,
		options:  s.options,
		observer: o,
	}
}
