package proxy

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"xmppgate/proxy/internal/session"
)

// domainInURL stands for the domain of the client in Config.PublicURL.
const domainInURL = "{domain}"

const examplePublicURL = "wss://xmpp.example.org"

// CheckPublicURL returns an error that says what is wrong with PublicURL, and what to
// write instead. Empty is correct.
func (c *Config) CheckPublicURL() error {
	if c.PublicURL == "" {
		return nil
	}
	domains := c.Domains
	if !strings.Contains(c.PublicURL, domainInURL) {
		domains = []string{""}
	} else if len(domains) == 0 {
		return fmt.Errorf("%s is the host that a client asks for, which can be any: list yours in XMPPGATE_DOMAINS", domainInURL)
	}
	for _, domain := range domains {
		if _, err := c.publicURL(domain); err != nil {
			return err
		}
	}
	return nil
}

// publicURL returns the URL for the clients of a domain.
func (c *Config) publicURL(domain string) (*url.URL, error) {
	text := strings.ReplaceAll(c.PublicURL, domainInURL, NormalDomain(domain))
	scheme, rest, ok := strings.Cut(text, "://")
	switch scheme = strings.ToLower(scheme); {
	case ok && (scheme == "https" || scheme == "http"):
		return nil, fmt.Errorf("not the URL of a WebSocket: write %s://%s", strings.Replace(scheme, "http", "ws", 1), rest)
	case !ok || scheme != "wss" && scheme != "ws":
		return nil, fmt.Errorf("not the URL of a WebSocket: write one such as %s%s", examplePublicURL, c.firstPath())
	case strings.ContainsAny(text, "{}"):
		return nil, fmt.Errorf("only %s can stand in braces", domainInURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("not a URL: write one such as %s%s", examplePublicURL, c.firstPath())
	case u.User != nil:
		return nil, errors.New("clients do not send a user: remove what is in front of the @")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("the URL of a WebSocket has no fragment: remove what begins with #")
	}
	host, err := publicHost(u)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = scheme, host
	if !c.servedPaths()([]byte(u.EscapedPath())) {
		example := "wss://" + host + c.firstPath()
		return nil, fmt.Errorf("no WebSocket is served at the path %q: write a URL such as %s, or add the path to XMPPGATE_PATH", u.EscapedPath(), example)
	}
	return u, nil
}

// publicHost returns host and port of a URL, in ASCII.
func publicHost(u *url.URL) (string, error) {
	port := ""
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("invalid port %q", p)
		}
		port = ":" + p
	}
	host := u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		if a.Is6() {
			return "[" + a.String() + "]" + port, nil
		}
		return a.String() + port, nil
	}
	host = NormalDomain(host)
	if !validHostName(host) || len(host) > maxDomain || strings.HasSuffix(u.Host, ":") || looksLikeIPv4(host) {
		return "", fmt.Errorf("%q is not a host: write a URL such as %s", u.Host, examplePublicURL+DefaultPaths[0])
	}
	return host + port, nil
}

// hostMeta returns a function that returns the documents for a value of Host, or nil
// if clients of that domain do not connect here. It is nil without PublicURL.
func (c *Config) hostMeta() func(host []byte) *session.HostMeta {
	if c.PublicURL == "" || c.CheckPublicURL() != nil {
		return nil
	}
	if c.Domains == nil {
		u, _ := c.publicURL("")
		m := newHostMeta(u)
		return func([]byte) *session.HostMeta { return m }
	}
	byName := map[string]*session.HostMeta{}
	for _, d := range c.Domains {
		u, _ := c.publicURL(d)
		byName[NormalDomain(d)] = newHostMeta(u)
	}
	if strings.Contains(c.PublicURL, domainInURL) {
		return func(host []byte) *session.HostMeta { return byName[hostName(host)] }
	}
	// The web server of a domain may redirect to the gateway's own name, and an
	// address does not name a domain.
	u, _ := c.publicURL("")
	m := newHostMeta(u)
	byName[NormalDomain(u.Hostname())] = m
	return func(host []byte) *session.HostMeta {
		name := hostName(host)
		if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "localhost" || name == "" {
			return m
		}
		return byName[name]
	}
}

// hostName returns the name in a value of Host, in the form of NormalDomain.
func hostName(host []byte) string {
	if i := bytes.LastIndexByte(host, ':'); i > bytes.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return NormalDomain(string(host))
}

// Formats of host-meta (RFC 6415, sections 3.1 and 3.2) with a link of XEP-0156.
const (
	relWebSocket = "urn:xmpp:alt-connections:websocket"
	xrdFormat    = "<?xml version='1.0' encoding='UTF-8'?>\n<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n  <Link rel='" + relWebSocket + "' href='%s'/>\n</XRD>\n"
	jrdFormat    = "{\"links\":[{\"rel\":\"" + relWebSocket + "\",\"href\":%s}]}\n"
)

// newHostMeta returns the documents for a URL.
func newHostMeta(u *url.URL) *session.HostMeta {
	var escaped bytes.Buffer
	_ = xml.EscapeText(&escaped, []byte(u.String())) // a buffer does not fail
	quoted, _ := json.Marshal(u.String())            // and neither does a string
	const header = session.CORS + "Cache-Control: public, max-age=3600\r\nX-Content-Type-Options: nosniff\r\n"
	return &session.HostMeta{
		XRD: session.Document{Status: 200, Type: "application/xrd+xml", Header: header, Body: fmt.Appendf(nil, xrdFormat, escaped.Bytes())},
		JRD: session.Document{Status: 200, Type: "application/json", Header: header, Body: fmt.Appendf(nil, jrdFormat, quoted)},
	}
}
