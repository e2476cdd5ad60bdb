package doctor

import (
	"net/http"
	"slices"
	"strings"
)

// Products whose options the table of findings names.
const (
	nginx    = "nginx"
	haproxy  = "HAProxy"
	caddy    = "Caddy"
	traefik  = "Traefik"
	apache   = "Apache"
	prosody  = "Prosody"
	ejabberd = "ejabberd"
	xmppgate = "xmppgate"
)

var proxyProducts = []string{nginx, haproxy, caddy, traefik, apache}

// A mark is what a product is recognised by.
type mark struct {
	product string
	field   string // of the header of an answer; empty means its body
	text    string // in lower case, part of the value
}

var marks = []mark{
	{nginx, "Server", "nginx"},
	{nginx, "Server", "openresty"},
	{nginx, "", "<center>nginx"},
	{nginx, "", "<center>openresty"},
	{caddy, "Server", "caddy"},
	{caddy, "Via", "caddy"},
	{traefik, "Server", "traefik"},
	{traefik, "", "404 page not found"}, // as any server in Go says, of which Traefik is the usual one in front
	{apache, "Server", "apache"},
	{apache, "", "<address>apache"},
	{haproxy, "Server", "haproxy"},
	{haproxy, "Via", "haproxy"},
	// The pages that are compiled into HAProxy.
	{haproxy, "", "no server is available to handle this request"},
	{haproxy, "", "the server returned an invalid or incomplete response"},
	{haproxy, "", "your browser sent an invalid request.\n</body></html>"},
	{haproxy, "", "request forbidden by administrative rules"},
	{haproxy, "", "the server didn't respond in time.\n</body></html>"},
	{prosody, "Server", "prosody"},
	{prosody, "", "point your websocket client to this url to connect to prosody"},
	{prosody, "", "<title>404 not found</title><style>body{"},
	{prosody, "", "prosody im"},
	{ejabberd, "Server", "ejabberd"},
	{ejabberd, "", "<title>ejabberd"},
	{ejabberd, "", "ejabberd http"},
	{ejabberd, "", "websocket connection manager"},
	{xmppgate, "Server", "xmppgate"},
	{xmppgate, "", "this is a websocket endpoint (rfc 7395)"},
	{xmppgate, "", "<title>xmpp over websocket</title>"},
	{xmppgate, "", "this origin may not connect."},
	{xmppgate, "", "offer the websocket subprotocol xmpp"},
	{xmppgate, "", "a proxy has removed upgrade."},
	{xmppgate, "", "a proxy has removed connection: upgrade."},
	{xmppgate, "", "the gateway takes no more sessions now."},
	{xmppgate, "", "too many sessions are not logged in."},
	{xmppgate, "", "the gateway is short of memory or descriptors."},
	{xmppgate, "", "too many logins have failed."},
	{xmppgate, "", "your network has too many sessions"},
	{xmppgate, "", "your network sends too many requests."},
	{xmppgate, "", "this network may not connect."},
	{xmppgate, "", "this port speaks tls: use https://"},
	{xmppgate, "", "a proxy header is expected from this address."},
	{xmppgate, "", "no proxy header is expected from this address."},
	{xmppgate, "", "the proxy does not say who the client is."},
	{xmppgate, "", "invalid websocket handshake."},
}

// Other intermediaries, which are named and for which the table has no options.
var otherProxies = []string{"cloudflare", "envoy", "varnish", "awselb", "cloudfront", "akamai", "litespeed", "iis", "squid", "google", "fastly"}

// products are those that have answered so far, in the order of their answers.
type products []string

func (p *products) add(names ...string) {
	for _, name := range names {
		if !slices.Contains(*p, name) {
			*p = append(*p, name)
		}
	}
}

// recognise returns what an answer over HTTP is from. Several may have had a hand in
// it.
func recognise(header http.Header, body string) (found products) {
	body = strings.ToLower(strings.ReplaceAll(body, "\r\n", "\n"))
	for _, m := range marks {
		where := body
		if m.field != "" {
			where = strings.ToLower(strings.Join(header.Values(m.field), ", "))
		}
		if where != "" && strings.Contains(where, m.text) {
			found.add(m.product)
		}
	}
	return found
}

// proxied reports whether a proxy has shown itself.
func (p products) proxied() bool {
	return slices.ContainsFunc(p, func(s string) bool { return slices.Contains(proxyProducts, s) })
}

// relevant leaves out the options of products that are not there: of the other
// proxies when one has shown itself, and of the other endpoints likewise. Behind a
// gateway there is a server, so with xmppgate the servers stay until one is known.
func (p products) relevant(all []remedy) (some []remedy) {
	proxy := p.proxied()
	server := slices.Contains(p, prosody) || slices.Contains(p, ejabberd)
	for _, m := range all {
		switch {
		case slices.Contains(p, m.Product):
		case proxy && slices.Contains(proxyProducts, m.Product):
			continue
		case server && (m.Product == prosody || m.Product == ejabberd):
			continue
		}
		some = append(some, m)
	}
	if len(some) == 0 { // none of those that are there can be the cause
		return all
	}
	return some
}
