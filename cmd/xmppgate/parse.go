package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"xmppgate/cmd/xmppgate/internal/acme"
	"xmppgate/framing"
	"xmppgate/proxy"
	"xmppgate/proxy/certfiles"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/upstream"
)

// parsed holds the variables that need more parsing than a word or a number.
type parsed struct {
	settings // that it was made of

	listeners, adminListeners []listenAddress

	domains        []string        // clients may name; nil means any
	upstream       upstream.Config // without Observer
	clientAddress  clientaddr.Policy
	exempt         []netip.Prefix   // from the limits of networks
	certificates   *certfiles.Store // for clients; nil without TLS_CERT
	acme           *acme.Manager    // nil without ACME_DOMAINS
	acmeListeners  []listenAddress
	allowedOrigins []proxy.OriginPattern
	seeOther       map[string]string
	unused         bool // UPSTREAM is set, and no session can use it
}

// servers returns all servers that sessions may get to.
func (p *parsed) servers() []*upstream.Server {
	all := slices.Clone(p.upstream.Default)
	for _, route := range p.upstream.Routes {
		all = append(all, route...)
	}
	return all
}

// hidesExternal reports whether a server could authenticate clients as the
// gateway, by its certificate.
func (p *parsed) hidesExternal() bool {
	return slices.ContainsFunc(p.servers(), (*upstream.Server).PresentsCertificate)
}

// Values of CHANNEL_BINDING: channelBindingAuto strips where the gateway itself has TLS
// to the server, channelBindingPass never does.
const (
	channelBindingAuto = "auto"
	channelBindingPass = "pass"
)

// channelBindings are the values of CHANNEL_BINDING.
var channelBindings = map[string]framing.ChannelBinding{
	channelBindingAuto: framing.ChannelBindingPass, // see proxy.Config.StripBindingOverTLS
	channelBindingPass: framing.ChannelBindingPass,
	"strip":            framing.ChannelBindingStrip,
	"end-point":        framing.ChannelBindingEndPoint,
}

// checkServers parses the servers and domains.
func (c *config) checkServers(r *report) {
	before := len(r.errs)
	c.upstream = upstream.Config{Policy: c.UpstreamPolicy, Routes: map[string][]*upstream.Server{}}
	c.upstream.Default = c.parseServers(r, "UPSTREAM", c.Upstream)
	for _, item := range c.Domains {
		name, urls, routed := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		if !validName(name) {
			r.add("DOMAINS", "%q is not a domain: write names such as example.org, or nothing to leave it to the server", name)
			continue
		}
		domain := proxy.NormalDomain(name)
		if slices.Contains(c.domains, domain) {
			r.add("DOMAINS", "%q is listed twice: write domain=URL|URL to give it several servers", name)
			continue
		}
		c.domains = append(c.domains, domain)
		if routed {
			c.upstream.Routes[domain] = c.parseServers(r, "DOMAINS", strings.Split(urls, "|"))
		}
	}
	c.upstream.AllowList = c.domains
	if len(c.domains) == 0 && slices.ContainsFunc(c.upstream.Default, func(s *upstream.Server) bool { return s.Name == "srv:" }) {
		r.add("UPSTREAM", "srv: asks DNS about any domain that a client names: list yours in %sDOMAINS, or write srv:name", prefix)
	}
	// A server that no session gets to must not count for readiness.
	if n := len(c.upstream.Routes); n > 0 && n == len(c.domains) {
		c.upstream.Default = nil
		c.unused = r.values[prefix+"UPSTREAM"] != ""
	}
	if c.DNS != "" {
		if err := checkDNS(c.DNS); err != nil {
			r.addError("DNS", err)
		}
		c.upstream.Resolver = upstream.NewResolver(c.DNS)
	}
	if len(r.errs) > before || !slices.Contains(upstream.Policies(), c.UpstreamPolicy) {
		return
	}
	// The router checks how the servers fit together.
	if _, err := upstream.NewRouter(c.upstream); err != nil {
		name := "UPSTREAM"
		if len(c.upstream.Routes) > 0 {
			name = "DOMAINS"
		}
		r.addError(name, err)
	}
}

// maxLabel is the length of the longest part of a domain name in bytes, and
// maxName that of a whole one (RFC 1035, section 2.3.4).
const (
	maxLabel = 63
	maxName  = 255
)

// validName reports whether s can be a host or a domain: an IP address, IPv6 with
// or without brackets, or labels of letters, digits, hyphens and underscores.
// Letters may be those of any script.
func validName(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		return ok && err == nil && a.Is6()
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if !utf8.ValidString(s) {
		return false
	}
	s = proxy.NormalDomain(s)
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsFunc(label, func(c rune) bool {
			return c != '-' && c != '_' && !unicode.In(c, unicode.Letter, unicode.Mark, unicode.Digit) && (c < utf8.RuneSelf || !unicode.IsPrint(c))
		}) {
			return false
		}
	}
	return len(s) <= maxName
}

// parseServers parses the servers in the value of the named variable.
func (c *config) parseServers(r *report, name string, urls []string) (servers []*upstream.Server) {
	seen := map[string]bool{}
	for _, u := range urls {
		s, err := upstream.ParseServer(strings.TrimSpace(u))
		if err != nil {
			r.addError(name, err)
			continue
		}
		if seen[s.Name] {
			r.add(name, "server %q is listed twice: remove one", s.Name)
		}
		seen[s.Name] = true
		if address, plain := s.Plain(); plain && s.Scheme() != "unix" && !local(address) && !c.UnsafeUpstream {
			r.add(name, "server %q: passwords and messages would cross the network without encryption: write starttls://, tls://, tcp://127.0.0.1:5222 or unix:/path, or set %sUNSAFE_UPSTREAM=true where the network is trusted, as with service names of compose and Kubernetes", s.Name, prefix)
		}
		servers = append(servers, s)
	}
	return servers
}

// checkDNS reports what is wrong with the address of a DNS server. The port is
// optional.
func checkDNS(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, "53"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.HasPrefix(host, "[") || !validName(host) {
		return fmt.Errorf("%q is not an address: write host:port, such as 127.0.0.53:53", address)
	}
	return nil
}

// checkClientAddress parses the proxies that may state the client's address.
func (c *config) checkClientAddress(r *report) {
	c.clientAddress = clientaddr.Policy{Header: c.ClientAddressHeader}
	for _, name := range clientaddr.Headers() {
		if strings.EqualFold(name, c.ClientAddressHeader) { // names have no case
			c.clientAddress.Header = name
		}
	}
	for _, v := range []struct {
		name     string
		items    list
		networks *[]netip.Prefix
		unix     *bool // nil if unix is not a valid item
	}{
		{"PROXY_PROTOCOL", c.ProxyProtocol, &c.clientAddress.Proxies, nil},
		{"TRUSTED_PROXIES", c.TrustedProxies, &c.clientAddress.Forwarders, &c.clientAddress.Unix},
	} {
		for _, item := range v.items {
			network, err := proxy.ParseNetwork(item)
			switch {
			case item == "unix" && v.unix != nil:
				*v.unix = true
			case err != nil:
				r.addError(v.name, err)
			default:
				*v.networks = append(*v.networks, network)
			}
		}
	}
}

// checkPublicURL reports a URL that clients cannot use. An error of the domains or the
// paths has been reported already.
func (c *config) checkPublicURL(r *report) {
	p := proxy.Config{PublicURL: c.PublicURL, Paths: c.Path, Domains: c.domains}
	if err := p.CheckPublicURL(); err != nil {
		r.addError("PUBLIC_URL", err)
	}
}

// checkSeeOther parses the URLs that replace addresses in redirects.
func (c *config) checkSeeOther(r *report) {
	c.seeOther = map[string]string{}
	for _, item := range c.SeeOther {
		host, to, _ := strings.Cut(item, "=")
		u, err := url.Parse(to)
		switch _, twice := c.seeOther[host]; {
		case !validHostPort(host) || err != nil || !validHostPort(u.Host) || u.User != nil || u.Fragment != "" || u.Scheme != "wss" && u.Scheme != "ws":
			r.add("SEE_OTHER", "%q is not host=URL: write the host that the server names and the URL for clients, as in node2:5222=wss://node2.example.org/ws", item)
		case twice:
			r.add("SEE_OTHER", "%q is listed twice: remove one", host)
		default:
			c.seeOther[host] = u.String()
		}
	}
}

// validHostPort reports whether s is a host, with a port or without.
func validHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return validName(s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return validName(host) && err == nil && n > 0
}

// checkListeners parses the addresses to listen on. It reports those that overlap,
// that are unsafe, or that are servers of the gateway.
func (c *config) checkListeners(r *report) {
	type taken struct {
		variable string
		listenAddress
	}
	var all []taken
	for _, v := range []struct {
		name      string
		items     list
		addresses *[]listenAddress
	}{{"LISTEN", c.Listen, &c.listeners}, {"ADMIN_LISTEN", c.AdminListen, &c.adminListeners}, {"ACME_LISTEN", c.ACMEListen, &c.acmeListeners}} {
		for _, item := range v.items {
			a, err := parseListen(item)
			if err != nil {
				r.addError(v.name, err)
				continue
			}
			for _, other := range all {
				if a.overlaps(other.listenAddress) {
					r.add(v.name, "%s is taken by %s in %s%s: write another one", a, other, prefix, other.variable)
				}
			}
			all = append(all, taken{v.name, a})
			*v.addresses = append(*v.addresses, a)
		}
	}
	for _, a := range c.adminListeners {
		if a.cleartext {
			r.add("ADMIN_LISTEN", "%s has the option tls, which is for %sLISTEN: the admin address never speaks TLS", a, prefix)
		}
		if a.network == "tcp" && !local(a.name) && !c.UnsafeAdmin {
			r.add("ADMIN_LISTEN", "other machines could read metrics and start a drain: write 127.0.0.1:9280 or unix:/path, or set %sUNSAFE_ADMIN=true where a container or firewall keeps them out", prefix)
		}
	}
	// A gateway that connects to itself would open sessions until it runs out
	// of descriptors.
	for _, s := range c.servers() {
		for _, a := range all {
			_, address, tcp := strings.Cut(s.Name, "://")
			path, unix := strings.CutPrefix(s.Name, "unix:")
			if tcp && a.network == "tcp" && a.covers(address) || unix && a.network == "unix" && filepath.Clean(path) == filepath.Clean(a.name) {
				r.add(a.variable, "%s is also a server, %s: the gateway would connect to itself", a, s.Name)
			}
		}
	}
}
