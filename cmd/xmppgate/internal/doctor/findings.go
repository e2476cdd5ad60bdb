package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A remedy says what to change in a product.
type remedy struct {
	Product string `json:"product"`
	Change  string `json:"change"`
}

// A finding is something that can be wrong.
type finding struct {
	level    level
	meaning  string // one line for the manual
	remedies []remedy
}

// Who is meant when no product is.
const (
	dnsZone   = "DNS"
	client    = "client"
	domainWeb = "web server of the domain"
	network   = "network"
	account   = "account"
)

// Remedies that several findings share.
var (
	passUpgrade = []remedy{
		{nginx, "in the location of the WebSocket: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"},
		{haproxy, "mode http passes Upgrade by itself: remove http-request del-header Upgrade or Connection, and option httpclose"},
		{caddy, "reverse_proxy passes Upgrade by itself: remove header_up -Upgrade, header_up -Connection and request_header rules"},
		{traefik, "remove Connection and Upgrade from headers.customRequestHeaders, and the middlewares buffering and compress from the router"},
		{apache, `ProxyPass "/xmpp-websocket" "http://127.0.0.1:5290/xmpp-websocket" upgrade=websocket (2.4.47 and newer), or a2enmod proxy_wstunnel and ws:// as the scheme`},
	}
	passSubprotocol = []remedy{
		{nginx, "remove proxy_set_header Sec-WebSocket-Protocol and proxy_hide_header Sec-WebSocket-Protocol"},
		{haproxy, "remove http-request del-header and http-response del-header for Sec-WebSocket-Protocol"},
		{caddy, "remove header_up -Sec-WebSocket-Protocol and header_down -Sec-WebSocket-Protocol from reverse_proxy"},
		{traefik, "remove Sec-WebSocket-Protocol from headers.customRequestHeaders and headers.customResponseHeaders"},
		{apache, "remove RequestHeader unset and Header unset for Sec-WebSocket-Protocol"},
		{ejabberd, "the path must lead to ejabberd_http_ws in request_handlers"},
	}
	fullChain = []remedy{
		{nginx, "ssl_certificate: the file with the whole chain (fullchain.pem), the certificate of the host first"},
		{haproxy, "bind … ssl crt FILE: FILE has the certificate, the intermediate certificates and the key, in this order"},
		{caddy, "leave certificates to Caddy, or tls CERT KEY with the whole chain in CERT"},
		{traefik, "tls.certificates.certFile with the whole chain, or a certResolver on the router"},
		{apache, "SSLCertificateFile: the file with the whole chain (2.4.8 and newer)"},
		{xmppgate, "XMPPGATE_TLS_CERT: the file with the whole chain, the certificate of the host first"},
		{prosody, "https_certificate or certificates: prosodyctl --root cert import DOMAIN /etc/letsencrypt/live"},
		{ejabberd, "certfiles: the file with certificate, chain and key"},
	}
	rightName = []remedy{
		{nginx, "server_name and ssl_certificate of the server block for this host; without one nginx shows the certificate of its first block"},
		{haproxy, "bind … ssl crt DIRECTORY or crt-list, with a certificate for this host"},
		{caddy, "name the host as the address of the site: example.org { … }"},
		{traefik, "rule=Host(`example.org`) and tls.certResolver on the router; otherwise Traefik shows its default certificate"},
		{apache, "ServerName and SSLCertificateFile of the VirtualHost for this host"},
		{xmppgate, "XMPPGATE_TLS_CERT lists a certificate for this host; the first of the list is shown for all unknown names"},
		{prosody, "https_certificate, or certs/HOST.crt for the host of http_external_url"},
		{ejabberd, "certfiles with a certificate for this host, or acme: auto"},
	}
	renew = []remedy{
		{nginx, "renew (certbot renew), then nginx -s reload: nginx reads certificates at a reload only"},
		{haproxy, "renew and write the file of crt anew, then reload haproxy or use set ssl cert on its socket"},
		{caddy, "Caddy renews by itself: its log says what hinders it (ports 80 and 443, DNS)"},
		{traefik, "Traefik renews by itself with a certResolver: see its log; acme.json must be writable"},
		{apache, "renew (certbot renew), then apachectl graceful"},
		{xmppgate, "renew the files of XMPPGATE_TLS_CERT: it reads them by itself, and logs why it cannot"},
		{prosody, "prosodyctl --root cert import, then prosodyctl reload"},
		{ejabberd, "renew, then ejabberdctl reload_config"},
	}
	routePath = []remedy{
		{nginx, "location for this path with proxy_pass http://127.0.0.1:5290; without a path behind the port, so that the path stays as it is; proxy_set_header Host $host;"},
		{haproxy, "acl and use_backend for this path (path_beg /xmpp-websocket), and no http-request set-path or replace-path"},
		{caddy, "reverse_proxy /xmpp-websocket 127.0.0.1:5290; handle_path removes the path, handle does not"},
		{traefik, "rule=PathPrefix(`/xmpp-websocket`) on the router, without the middleware stripPrefix"},
		{apache, `ProxyPass "/xmpp-websocket" "ws://127.0.0.1:5290/xmpp-websocket" in the VirtualHost of this host`},
		{prosody, `modules_enabled = { "websocket" }; the path is /xmpp-websocket or that in http_paths; another Host than that of a VirtualHost needs http_default_host or http_host`},
		{ejabberd, "request_handlers: { /ws: ejabberd_http_ws } at the listener ejabberd_http"},
		{xmppgate, "XMPPGATE_PATH, which lists the paths of the WebSocket; the port of XMPPGATE_ADMIN_LISTEN (9280) is not for clients"},
	}
	idleOptions = []remedy{
		{nginx, "proxy_read_timeout 1h; and proxy_send_timeout 1h; in the location of the WebSocket (the default is 60s)"},
		{haproxy, "timeout tunnel 1h in defaults or in frontend and backend; without it timeout client and timeout server count"},
		{caddy, "remove stream_timeout from reverse_proxy; the idle and read timeouts of servers do not end a WebSocket"},
		{traefik, "entryPoints.NAME.transport.respondingTimeouts.readTimeout and idleTimeout, and the timeouts of a load balancer before it"},
		{apache, "Apache 2.4 has no timeout for a WebSocket: ProxyTimeout and timeout= do not end one; look at what stands before it"},
		{xmppgate, "XMPPGATE_PING_INTERVAL below the shortest timeout in front (the default is 30s)"},
		{prosody, "network_settings = { read_timeout = 50 }: Prosody sends a ping after that time (the default is 840)"},
		{ejabberd, "websocket_ping_interval: 50 seconds (the default is 1 minute), and websocket_timeout above it"},
	}
	loopbackTLS = []remedy{
		{xmppgate, "XMPPGATE_UPSTREAM=starttls://HOST:5222, or tls://HOST:5223: TLS between gateway and server"},
		{prosody, "consider_websocket_secure = true where a proxy ends TLS; for a gateway c2s_require_encryption = false, or mod_loopback_secure of this project"},
		{ejabberd, "starttls_required: false at the listener for the gateway; for SASL2 also allow_unencrypted_sasl2: true"},
	}
)

// findings is the table. The text of a line says what was found, a row what it means
// and what to change. An example.org in a remedy stands for the operator's host, 5290
// for the port of the gateway or server behind.
var findings = map[string]finding{
	// host-meta
	"host-meta-unreachable": {fail, "host-meta of the domain cannot be fetched: clients that know only the domain find no WebSocket", []remedy{
		{domainWeb, "serve https://DOMAIN/.well-known/host-meta and host-meta.json, with a certificate for the domain; give the URL to the doctor to examine the rest"},
	}},
	"host-meta-missing": {fail, "there is no host-meta: clients that know only the domain find no WebSocket", []remedy{
		{domainWeb, "serve /.well-known/host-meta (XRD) and /.well-known/host-meta.json (JRD) as XEP-0156 says"},
		{xmppgate, "XMPPGATE_PUBLIC_URL=wss://HOST/xmpp-websocket, and the domain in XMPPGATE_DOMAINS if that is set"},
		{nginx, "location /.well-known/host-meta { proxy_pass http://127.0.0.1:5290; proxy_set_header Host $host; }, or alias to a file with add_header Access-Control-Allow-Origin *"},
		{prosody, "the module http_host_meta of prosody-modules"},
		{ejabberd, "request_handlers: { /.well-known/host-meta: mod_host_meta, /.well-known/host-meta.json: mod_host_meta } and modules: { mod_host_meta: {} }"},
	}},
	"host-meta-xrd-missing": {warn, "there is host-meta.json and no host-meta: some clients, such as Converse.js, read the latter only", []remedy{
		{domainWeb, "serve /.well-known/host-meta (XRD) besides host-meta.json"},
	}},
	"host-meta-malformed": {fail, "host-meta is not XRD, or host-meta.json not JSON", []remedy{
		{domainWeb, "serve XML of namespace http://docs.oasis-open.org/ns/xri/xrd-1.0, and JSON with an array links; a page of a web application in their place is usually a fallback route that catches too much"},
	}},
	"host-meta-no-websocket": {fail, "host-meta has no link to a WebSocket", []remedy{
		{domainWeb, `add a link with rel urn:xmpp:alt-connections:websocket and the wss URL as href`},
		{ejabberd, "mod_host_meta: { websocket_url: wss://HOST/ws }"},
	}},
	"host-meta-insecure": {warn, "host-meta names a URL that is not wss: clients ignore it", []remedy{
		{domainWeb, "name a wss URL"},
		{xmppgate, "XMPPGATE_PUBLIC_URL with wss://"},
		{ejabberd, "mod_host_meta: { websocket_url: wss://HOST/ws }"},
	}},
	"host-meta-cors": {warn, "web clients of other origins may not read host-meta", []remedy{
		{domainWeb, "answer with Access-Control-Allow-Origin: *"},
		{nginx, "add_header Access-Control-Allow-Origin * always; at the location of host-meta"},
		{haproxy, "http-response set-header Access-Control-Allow-Origin *"},
		{caddy, "header /.well-known/host-meta* Access-Control-Allow-Origin *"},
		{traefik, "headers.accessControlAllowOriginList=* on the router of host-meta"},
		{apache, `Header always set Access-Control-Allow-Origin "*"`},
	}},
	"host-meta-differ": {warn, "host-meta and host-meta.json name different URLs", []remedy{
		{domainWeb, "let both documents name the same URLs"},
	}},

	// DNS and TCP
	"dns-no-address": {fail, "the host has no address", []remedy{
		{dnsZone, "add A and AAAA records for the host, or correct the URL"},
	}},
	"dns-failed": {fail, "DNS does not answer for the host", []remedy{
		{dnsZone, "see that the name servers of the zone answer, and the resolver of this machine"},
	}},
	"address-dead": {warn, "one of the addresses does not answer: clients wait there, or fail", []remedy{
		{dnsZone, "remove the record of the address that is not served (often AAAA)"},
		{nginx, "listen [::]:443 ssl; besides listen 443 ssl;"},
		{haproxy, "bind :::443 v4v6 ssl crt …"},
		{apache, "Listen [::]:443"},
		{prosody, `http_interfaces = { "*", "::" }, https_interfaces likewise`},
		{ejabberd, `ip: "::" at the listener`},
		{xmppgate, "XMPPGATE_LISTEN=:5290, which is IPv4 and IPv6"},
		{network, "let the firewall pass the port for IPv4 and IPv6"},
	}},
	"refused": {fail, "nothing listens at the port", []remedy{
		{client, "correct the port in the URL"},
		{nginx, "listen 443 ssl;, and is nginx running (nginx -t)?"},
		{haproxy, "bind :443 ssl crt …, and is haproxy running (haproxy -c -f FILE)?"},
		{prosody, "http_ports, https_ports and their interfaces: by default plain HTTP listens on loopback only"},
		{ejabberd, "a listener with module: ejabberd_http at this port"},
		{xmppgate, "XMPPGATE_LISTEN; is it running?"},
	}},
	"unreachable": {fail, "packets to the host are lost or rejected", []remedy{
		{network, "let firewalls and security groups pass the port; correct the address in DNS"},
	}},

	// TLS
	"plain-websocket": {warn, "the URL is ws:// and leads to another machine: messages can be read on the way, and browsers refuse it on pages from https", []remedy{
		{client, "use wss://"},
		{nginx, "listen 443 ssl; with ssl_certificate, in front of the port"},
		{haproxy, "bind :443 ssl crt …, in front of the port"},
		{caddy, "example.org { reverse_proxy /xmpp-websocket 127.0.0.1:5290 }"},
	}},
	"tls-not-spoken": {fail, "the URL is wss:// and the port speaks no TLS", []remedy{
		{client, "correct the port: that of TLS is usually 443, or 5281 (Prosody) or 5443 (ejabberd)"},
		{nginx, "listen 443 ssl;: the word ssl is missing"},
		{haproxy, "bind … ssl crt FILE: the word ssl is missing"},
		{caddy, "an address without http:// and without :80"},
		{traefik, "tls=true on the router, and the entry point websecure"},
		{apache, "SSLEngine on in the VirtualHost"},
		{prosody, "https_ports (5281); http_ports (5280) speak no TLS"},
		{ejabberd, "tls: true at the listener ejabberd_http"},
		{xmppgate, "XMPPGATE_TLS_CERT and XMPPGATE_TLS_KEY, and the address in XMPPGATE_LISTEN without ?tls=off; or a proxy in front that ends TLS"},
	}},
	"tls-version": {fail, "the port speaks only versions of TLS that clients refuse", []remedy{
		{nginx, "ssl_protocols TLSv1.2 TLSv1.3;"},
		{haproxy, "ssl-default-bind-options ssl-min-ver TLSv1.2, and no ssl-max-ver below"},
		{caddy, "tls { protocols tls1.2 tls1.3 }"},
		{traefik, "tls.options: minVersion: VersionTLS12, and no maxVersion below"},
		{apache, "SSLProtocol -all +TLSv1.2 +TLSv1.3"},
		{prosody, `ssl = { protocol = "tlsv1_2+" }`},
		{ejabberd, "protocol_options: [no_sslv3, no_tlsv1, no_tlsv1_1], without no_tlsv1_2"},
	}},
	"tls-failed": {fail, "the TLS handshake fails", []remedy{
		{nginx, "ssl_certificate and ssl_certificate_key of the server block for this host; the default server must have one, and ssl_verify_client must be off"},
		{haproxy, "bind … ssl crt …: without strict-sni and verify required"},
		{caddy, "the site's address must be this host: Caddy answers other names with an alert"},
		{traefik, "sniStrict off, or a certificate for this host; no clientAuth"},
		{apache, "SSLCertificateFile and SSLCertificateKeyFile of the VirtualHost for this host; SSLVerifyClient none"},
		{prosody, "https_certificate and https_key: Prosody logs why it has no certificate for the port"},
		{ejabberd, "certfiles: readable for ejabberd, with the key"},
	}},
	"tls-alpn": {fail, "the port refuses HTTP/1.1: it is for HTTP/2 only, or for XMPP over TCP with TLS", []remedy{
		{client, "correct the port: 5223 is for TCP"},
		{haproxy, "bind … alpn h2,http/1.1"},
		{caddy, "servers { protocols h1 h2 }"},
		{traefik, "tls.options: alpnProtocols: [h2, http/1.1]"},
		{apache, "Protocols h2 http/1.1"},
	}},
	"client-certificate": {fail, "the port demands a certificate of the client, which clients of a WebSocket do not have", []remedy{
		{nginx, "ssl_verify_client off;, or optional where other locations need it"},
		{haproxy, "bind … without verify required; or verify optional where others need it"},
		{caddy, "tls without client_auth, or mode request"},
		{traefik, "tls.options without clientAuth, for the router of this host"},
		{apache, "SSLVerifyClient none"},
		{prosody, "https_ssl without verify = { \"peer\", \"fail_if_no_peer_cert\" }"},
		{ejabberd, "tls_verify: false at the listener"},
	}},
	"cert-expired":      {fail, "the certificate has expired", renew},
	"cert-not-yet":      {fail, "the certificate is not valid yet: it is from the future, or a clock is wrong", renew},
	"cert-expires-soon": {warn, "the certificate expires soon and was not renewed", renew},
	"cert-name":         {fail, "the certificate is for other hosts", rightName},
	"cert-self-signed": {fail, "the certificate is signed by itself", slices.Concat([]remedy{
		{client, "for a private installation: clients must trust the certificate; --ca FILE makes the doctor do so"},
	}, rightName)},
	"cert-incomplete": {fail, "the certificate of the intermediate authority is missing: some clients fail, others know it by chance", fullChain},
	"cert-unknown-ca": {fail, "the certificate is from an authority that clients do not know", slices.Concat([]remedy{
		{client, "for a private authority: clients must trust it; --ca FILE makes the doctor do so"},
	}, fullChain)},
	"cert-invalid": {fail, "the certificate has another fault", rightName},

	// The handshake of the WebSocket
	"no-answer": {fail, "the connection was closed, or nothing came, instead of an answer over HTTP", []remedy{
		{nginx, "proxy_pass leads to a port that does not speak HTTP, or the server block has return 444"},
		{haproxy, "mode http in frontend and backend; bind … accept-proxy only where a PROXY header comes"},
		{prosody, "http_ports for plain HTTP, https_ports for TLS"},
		{ejabberd, "use_proxy_protocol only where a PROXY header comes"},
		{xmppgate, "XMPPGATE_PROXY_PROTOCOL lists only addresses that send a PROXY header"},
	}},
	"plain-to-tls": {fail, "the URL is ws:// and the port speaks TLS", []remedy{
		{client, "use wss://"},
		{nginx, "proxy_pass https:// to a backend that speaks TLS, http:// to one that does not"},
		{haproxy, "server … ssl verify required to a backend that speaks TLS"},
		{xmppgate, "XMPPGATE_LISTEN=127.0.0.1:5290?tls=off for a proxy that ends TLS itself"},
	}},
	"xmpp-port": {fail, "the port is for XMPP over TCP", []remedy{
		{client, "the port of the WebSocket, usually 443, 5280, 5281, 5443 or 5290; 5222 and 5223 are for TCP"},
		{nginx, "proxy_pass http://127.0.0.1:5290, or to port 5280 of a server; not to 5222"},
		{haproxy, "server … 127.0.0.1:5290, or port 5280 of a server; not 5222"},
	}},
	"not-http": {fail, "what answers is not HTTP", []remedy{
		{client, "correct host and port in the URL"},
		{haproxy, "mode http, and a backend that speaks HTTP"},
	}},
	"redirect": {fail, "the answer is a redirect, which clients do not follow for a WebSocket", []remedy{
		{client, "use the URL that the redirect leads to, with wss for https"},
		{nginx, "no return 301, rewrite or trailing slash at this path: location = /xmpp-websocket { proxy_pass …; }"},
		{haproxy, "http-request redirect … unless { path_beg /xmpp-websocket }"},
		{caddy, "use https; a redir or handle_path rule must not match the path"},
		{traefik, "no middleware redirectScheme or redirectRegex on the router of this path"},
		{apache, `no Redirect or RewriteRule for this path; ProxyPass "/xmpp-websocket" without a slash at the end`},
		{domainWeb, "host-meta must name the final URL"},
	}},
	"path-unknown": {fail, "there is nothing at this path (404)", slices.Concat([]remedy{
		{client, "correct the path in the URL: /xmpp-websocket (xmppgate, Prosody), /ws (ejabberd, xmppgate)"},
	}, routePath)},
	"web-page":        {fail, "the path serves a web page, not a WebSocket", routePath},
	"upgrade-dropped": {fail, "a proxy in front does not pass Upgrade or Connection, so that the endpoint sees a plain request", passUpgrade},
	"old-http": {fail, "a proxy in front speaks HTTP/1.0 to the endpoint, which knows no Upgrade", []remedy{
		{nginx, "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"},
		{haproxy, "remove http-request rules that set the version; option httpchk with HTTP/1.1 is for checks only"},
		{apache, "remove SetEnv force-proxy-request-1.0 and proxy-nokeepalive"},
		{traefik, "what speaks HTTP/1.0 is another proxy in the chain"},
	}},
	"old-http-answer": {fail, "the answer is HTTP/1.0, which knows no Upgrade: an old proxy or a plain web server", []remedy{
		{nginx, "proxy_http_version 1.1;"},
		{apache, "remove SetEnv downgrade-1.0 and force-response-1.0"},
	}},
	"http2-behind": {fail, "a proxy in front speaks HTTP/2 to the endpoint", []remedy{
		{haproxy, "server … proto h1, or alpn http/1.1 instead of alpn h2"},
		{caddy, "reverse_proxy with transport http { versions 1.1 }, and http:// instead of h2c://"},
		{traefik, "scheme http instead of h2c (loadbalancer.server.scheme)"},
		{apache, "http:// or ws:// instead of h2:// and h2c:// in ProxyPass"},
	}},
	"subprotocol-dropped": {fail, "the endpoint does not see the subprotocol xmpp that was asked for", passSubprotocol},
	"subprotocol-missing": {fail, "the answer does not choose the subprotocol xmpp: browsers close at once", passSubprotocol},
	"subprotocol-wrong":   {fail, "the answer chooses another subprotocol than xmpp: browsers close at once", passSubprotocol},
	"handshake-wrong": {fail, "the answer says 101 and is not that of a WebSocket", []remedy{
		{nginx, "proxy_cache off; and no add_header or proxy_hide_header for Upgrade, Connection and Sec-WebSocket-…"},
		{haproxy, "no http-response rules for Upgrade, Connection and Sec-WebSocket-…"},
		{caddy, "no header_down rules for Upgrade, Connection and Sec-WebSocket-…"},
		{traefik, "no customResponseHeaders for Upgrade, Connection and Sec-WebSocket-…"},
		{apache, "no Header rules for Upgrade, Connection and Sec-WebSocket-…; no CacheEnable for the path"},
	}},
	"origin-refused": {fail, "pages of this origin may not connect", []remedy{
		{xmppgate, "XMPPGATE_ORIGINS: add the origin, with scheme and with a port that is not the usual one"},
		{ejabberd, "websocket_origin: [https://chat.example.org]"},
		{prosody, "Prosody lets all origins in; in 0.11 and older cross_domain_websocket = true"},
		{nginx, "an if ($http_origin …) rule in the location"},
		{haproxy, "http-request deny rules that look at Origin"},
	}},
	"origin-required": {warn, "clients that are not web pages, and so send no Origin, are refused", []remedy{
		{ejabberd, "websocket_origin: lists origins only; a rule of a proxy in front may demand the header"},
		{nginx, "let $http_origin be empty in the if or map"},
		{haproxy, "http-request deny unless Origin is absent or known: !{ req.hdr(origin) -m found }"},
	}},
	"forbidden": {fail, "access is forbidden (403)", []remedy{
		{nginx, "allow and deny in the location, or a directory without index; a location for this path is missing if files are served"},
		{haproxy, "http-request deny rules"},
		{caddy, "respond 403 rules, and matchers such as remote_ip"},
		{traefik, "the middleware ipAllowList"},
		{apache, "Require all granted in the Location of the path"},
		{xmppgate, "XMPPGATE_ORIGINS, and the networks that it denies"},
	}},
	"authentication-required": {fail, "the proxy asks for a name and a password, which clients cannot give for a WebSocket", []remedy{
		{nginx, "auth_basic off; in the location of the WebSocket"},
		{haproxy, "http-request auth unless { path_beg /xmpp-websocket }"},
		{caddy, "basic_auth with a matcher that leaves the path out"},
		{traefik, "no middleware basicAuth or forwardAuth on the router of this path"},
		{apache, "Require all granted in the Location of the path"},
	}},
	"method-refused": {fail, "GET is not allowed at this path (405)", routePath},
	"head-too-large": {fail, "the head of the request is too large", []remedy{
		{nginx, "large_client_header_buffers 4 16k; or fewer cookies"},
		{haproxy, "tune.bufsize 32768"},
		{apache, "LimitRequestFieldSize 16380"},
		{xmppgate, "its limits are 32 KiB and 100 lines: http-request del-header Cookie, or proxy_set_header Cookie \"\", at the proxy"},
	}},
	"rate-limited": {fail, "too many requests from this address (429)", []remedy{
		{nginx, "limit_req and limit_conn of the location"},
		{haproxy, "http-request deny deny_status 429 rules with stick tables"},
		{caddy, "the rate_limit module"},
		{traefik, "the middleware rateLimit"},
		{xmppgate, "XMPPGATE_TRUSTED_PROXIES, without which all clients have the address of the proxy; XMPPGATE_LIMITS_EXEMPT; XMPPGATE_NETWORK_REQUESTS, XMPPGATE_NETWORK_SESSIONS, XMPPGATE_NETWORK_UNAUTHENTICATED, XMPPGATE_NETWORK_FAILED_LOGINS"},
	}},
	"busy": {fail, "the gateway takes no more sessions, or is stopping", []remedy{
		{xmppgate, "XMPPGATE_MAX_SESSIONS, XMPPGATE_MAX_UNAUTHENTICATED, the limit of open files (LimitNOFILE=, ulimit -n) and that of memory (GOMEMLIMIT)"},
	}},
	"proxy-no-server": {fail, "a proxy in front cannot reach what is behind it", []remedy{
		{nginx, "proxy_pass: is this the address and port of the gateway or server, and does it run? error_log says why"},
		{haproxy, "server NAME HOST:PORT of the backend, and its check: the log and show servers state say why it is down; proto h2 is for servers that speak HTTP/2"},
		{caddy, "reverse_proxy HOST:PORT: is this the address, and does it run?"},
		{traefik, "loadbalancer.server.port or url of the service, and the network that both containers share"},
		{apache, "ProxyPass: host and port, and does it run? error.log says why"},
		{prosody, "http_ports and http_interfaces: plain HTTP listens on loopback only by default"},
		{ejabberd, "port and ip of the listener ejabberd_http"},
		{xmppgate, "XMPPGATE_LISTEN must be the address that the proxy connects to"},
	}},
	"proxy-timeout": {fail, "what is behind the proxy did not answer in time (504)", []remedy{
		{nginx, "proxy_pass: does this address answer? proxy_connect_timeout is the limit"},
		{haproxy, "server NAME HOST:PORT: does this address answer? timeout connect and timeout server are the limits"},
		{caddy, "reverse_proxy: does this address answer? dial_timeout is the limit"},
		{traefik, "forwardingTimeouts.dialTimeout of the serversTransport; the address of the service"},
		{apache, "ProxyPass: does this address answer? ProxyTimeout is the limit"},
	}},
	"server-error": {fail, "what answers has failed (5xx)", []remedy{
		{nginx, "error_log says why"}, {haproxy, "the log says why"}, {caddy, "the log says why"}, {traefik, "the log says why"}, {apache, "error.log says why"},
		{prosody, "its log says why"}, {ejabberd, "its log says why"},
	}},
	"proxy-header-missing": {fail, "the gateway expects a PROXY header, and the proxy in front sends none", []remedy{
		{xmppgate, "XMPPGATE_PROXY_PROTOCOL lists only addresses that send a PROXY header"},
		{haproxy, "server … send-proxy-v2"},
		{nginx, "nginx cannot send it over HTTP: use XMPPGATE_TRUSTED_PROXIES and X-Forwarded-For"},
		{traefik, "loadbalancer.proxyProtocol is for TCP services; over HTTP use XMPPGATE_TRUSTED_PROXIES"},
	}},
	"proxy-header-unexpected": {fail, "a PROXY header comes from an address from which the gateway expects none", []remedy{
		{xmppgate, "XMPPGATE_PROXY_PROTOCOL: add the address of the proxy"},
		{haproxy, "server … without send-proxy and send-proxy-v2"},
	}},
	"client-address-missing": {fail, "the proxy in front does not tell the gateway who the client is", []remedy{
		{xmppgate, "XMPPGATE_CLIENT_ADDRESS_HEADER and XMPPGATE_TRUSTED_PROXIES"},
		{nginx, "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"},
		{haproxy, "option forwardfor"},
		{caddy, "reverse_proxy sets X-Forwarded-For by itself: remove header_up -X-Forwarded-For"},
		{traefik, "it sets X-Forwarded-For by itself; forwardedHeaders.trustedIPs for proxies before it"},
		{apache, "ProxyAddHeaders On"},
	}},
	"request-refused": {fail, "the request is refused", []remedy{
		{nginx, "error_log says why"}, {haproxy, "the log says why, and show errors on its socket"}, {caddy, "the log says why"}, {traefik, "the access log says why"}, {apache, "error.log says why"},
		{xmppgate, "the log line upgrade refused says why"},
	}},
	"compression-broken": {fail, "compression is agreed to and does not work: all browsers ask for it", []remedy{
		{nginx, "no rules that change Sec-WebSocket-Extensions"},
		{haproxy, "no rules that change Sec-WebSocket-Extensions"},
		{caddy, "no rules that change Sec-WebSocket-Extensions"},
		{traefik, "no rules that change Sec-WebSocket-Extensions"},
		{xmppgate, "XMPPGATE_COMPRESSION=off"},
	}},

	// The stream
	"closed-early": {fail, "the WebSocket was closed or cut before the stream began", []remedy{
		{nginx, "proxy_read_timeout and proxy_send_timeout must not be this short"},
		{haproxy, "timeout tunnel, timeout client and timeout server must not be this short"},
		{xmppgate, "the log line session ended says why"}, {prosody, "its log says why"}, {ejabberd, "its log says why"},
	}},
	"open-unanswered": {fail, "nothing answers <open/>", []remedy{
		{xmppgate, "XMPPGATE_UPSTREAM: does the server answer there? /readyz says so"},
		{prosody, "its log says why"}, {ejabberd, "its log says why"},
		{nginx, "proxy_buffering off; if a proxy holds the answer back"},
	}},
	"not-xmpp": {fail, "the WebSocket does not speak XMPP as RFC 7395 says", []remedy{
		{client, "the URL leads to another WebSocket service"},
		{ejabberd, "the path must lead to ejabberd_http_ws"},
		{prosody, "the path must lead to mod_websocket"},
	}},
	"legacy-framing": {fail, "the server speaks the drafts before RFC 7395 (<stream:stream> instead of <open/>)", []remedy{
		{prosody, "0.10 or newer"}, {ejabberd, "15 or newer"}, {xmppgate, "xmppgate in front of the server's port for TCP"},
	}},
	"open-incomplete": {warn, "<open/> of the server lacks attributes that clients need", []remedy{
		{prosody, "a newer version"}, {ejabberd, "a newer version"},
	}},
	"see-other-uri": {warn, "the server sends clients to another WebSocket", []remedy{
		{client, "use the URL that it names; examine that one"},
		{xmppgate, "XMPPGATE_SEE_OTHER"},
	}},
	"host-unknown": {fail, "the server does not know the domain", []remedy{
		{client, "ask for the domain of the accounts, not for the host of the URL (--domain)"},
		{xmppgate, "XMPPGATE_DOMAINS: add the domain"},
		{prosody, `VirtualHost "example.org"`},
		{ejabberd, "hosts: [example.org]"},
	}},
	"remote-connection-failed": {fail, "the gateway cannot reach the server", []remedy{
		{xmppgate, "XMPPGATE_UPSTREAM: host, port and scheme (tcp, starttls, tls); /readyz and the log name the phase and the error"},
		{prosody, "c2s_ports, c2s_interfaces; prosodyctl check"},
		{ejabberd, "port and ip of the listener ejabberd_c2s; use_proxy_protocol: true needs ?proxy=v2 at the gateway"},
	}},
	"policy-violation": {fail, "the server or gateway ends the stream for its rules", []remedy{
		{xmppgate, "XMPPGATE_MAX_STANZA_BYTES; the log says which rule"},
		{prosody, "c2s_require_encryption, c2s_stanza_size_limit, limits"},
		{ejabberd, "starttls_required, max_stanza_size, access rules of the listener"},
	}},
	"system-shutdown": {fail, "the server or gateway is stopping", []remedy{
		{prosody, "start it"}, {ejabberd, "start it"}, {xmppgate, "start it, or wait for the end of the drain"},
	}},
	"resource-constraint": {fail, "the server or gateway has no room for more sessions", []remedy{
		{xmppgate, "XMPPGATE_MAX_SESSIONS"},
		{ejabberd, "shaper_rules: max_user_sessions"},
		{prosody, "limits of the module that refuses, see its log"},
	}},
	"see-other-host": {fail, "the server sends clients to another server for TCP, where a client of a WebSocket cannot go", []remedy{
		{xmppgate, "XMPPGATE_SEE_OTHER translates it to a WebSocket"},
		{ejabberd, "redirect_host at the listener"},
	}},
	"not-well-formed": {fail, "the server or gateway calls what the doctor sent malformed: something on the way changes messages", []remedy{
		{nginx, "no sub_filter"}, {xmppgate, "the log line session ended says what it got"},
	}},
	"stream-error": {fail, "the stream ends with another error", []remedy{
		{xmppgate, "the log line session ended says why"}, {prosody, "its log says why"}, {ejabberd, "its log says why"},
	}},
	"error-before-open": {warn, "the server sends an error before <open/>, which clients may not show (RFC 7395, section 3.5)", []remedy{
		{xmppgate, "xmppgate in front of the server's port for TCP"},
	}},
	"unbound-prefix": {warn, "messages of the server do not declare their namespaces, so that some clients do not understand them", []remedy{
		{prosody, "a newer version"}, {ejabberd, "a newer version"}, {xmppgate, "xmppgate in front of the server's port for TCP"},
	}},

	// Features
	"features-missing": {fail, "no stream features come", []remedy{
		{prosody, "its log says why"}, {ejabberd, "its log says why"}, {xmppgate, "the log line session ended says why"},
	}},
	"tls-required": {fail, "the server insists on TLS and sees none, because TLS ends in front of it", loopbackTLS},
	"starttls-offered": {warn, "the server offers STARTTLS, which RFC 7395 forbids: some clients try it and fail", []remedy{
		{xmppgate, "xmppgate in front of the server's port for TCP removes it"},
		{prosody, "0.11 or newer"}, {ejabberd, "starttls is for ejabberd_c2s only; a newer version"},
	}},
	"no-mechanisms": {fail, "the server offers no way to log in", slices.Concat(loopbackTLS, []remedy{
		{xmppgate, "XMPPGATE_UPSTREAM without cert= and key=, with which the server may offer EXTERNAL only, which the gateway removes"},
		{prosody, "authentication = \"internal_hashed\" or another provider that works; its log says why there are no mechanisms"},
		{ejabberd, "auth_method, and disable_sasl_mechanisms that leaves some"},
	})},
	"only-external": {fail, "the only way to log in is a certificate (EXTERNAL), which does not cross a WebSocket", []remedy{
		{xmppgate, "XMPPGATE_UPSTREAM without cert= and key=: the server takes the gateway's certificate for the client's"},
		{prosody, "authentication with passwords; sasl_external for servers only"},
		{ejabberd, "disable_sasl_mechanisms that leaves SCRAM-SHA-1 or SCRAM-SHA-256"},
	}},
	"only-plus": {fail, "all ways to log in are bound to a TLS connection (…-PLUS), which a gateway or proxy in between breaks", []remedy{
		{prosody, "disable_sasl_mechanisms without SCRAM-SHA-1 and SCRAM-SHA-256"},
		{ejabberd, "disable_sasl_mechanisms without SCRAM-SHA-1 and SCRAM-SHA-256"},
	}},
	"plain-without-tls": {warn, "the server takes passwords by PLAIN and there is no TLS", []remedy{
		{client, "use wss://"},
		{prosody, "allow_unencrypted_plain_auth = false"},
		{ejabberd, "disable_sasl_mechanisms: [PLAIN]"},
	}},
	"plus-through-gateway": {warn, "the server offers mechanisms that bind to TLS (…-PLUS), and TLS ends in front of it: clients that choose them cannot log in", []remedy{
		{xmppgate, "XMPPGATE_CHANNEL_BINDING=auto or strip"},
		{prosody, "disable_sasl_mechanisms = { \"SCRAM-SHA-1-PLUS\", \"SCRAM-SHA-256-PLUS\" }"},
		{ejabberd, "disable_sasl_mechanisms: [SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS]"},
	}},

	// Login
	"no-usable-mechanism": {fail, "the doctor knows none of the mechanisms on offer, or may not use it", []remedy{
		{client, "PLAIN goes over wss:// only, unless --allow-plain"},
		{prosody, "SCRAM-SHA-1 or SCRAM-SHA-256 (authentication = \"internal_hashed\")"},
		{ejabberd, "auth_password_format: scram, or passwords in a form that SCRAM can use"},
	}},
	"not-authorized": {fail, "the server does not accept name and password", []remedy{
		{account, "the name, the password and the domain; does the account exist?"},
		{prosody, "prosodyctl passwd user@example.org; its log says whether the account is known"},
		{ejabberd, "ejabberdctl check_password user example.org PASSWORD; auth_method"},
	}},
	"account-disabled": {fail, "the account is disabled or its password has expired", []remedy{
		{account, "the server's administrator can enable it"},
		{prosody, "prosodyctl shell user enable user@example.org"},
		{ejabberd, "ejabberdctl unban_account user example.org"},
	}},
	"login-refused": {fail, "the server refuses the login for another reason", slices.Concat(loopbackTLS, []remedy{
		{prosody, "its log says why"}, {ejabberd, "its log says why"},
	})},
	"login-unanswered": {fail, "the login does not come to an end", []remedy{
		{prosody, "the database or directory behind authentication, see the log"},
		{ejabberd, "the database or directory behind auth_method, see the log"},
		{xmppgate, "the log line session ended says why"},
	}},
	"server-signature": {fail, "the server cannot prove that it knows the password: it is another server, or someone is between", []remedy{
		{client, "do not log in with this URL before you know what answers there"},
	}},
	"bind-missing": {fail, "after the login the server does not offer to bind a resource", []remedy{
		{prosody, `modules_enabled = { "saslauth" }`},
		{ejabberd, "its log says why"},
	}},
	"bind-refused": {fail, "the server does not bind a resource: no session begins", []remedy{
		{ejabberd, "shaper_rules: max_user_sessions, resource_conflict, access rules c2s"},
		{prosody, "resource limits of modules, see its log"},
	}},

	// Messages
	"echo-lost": {fail, "a message to oneself does not come back", []remedy{
		{prosody, "its log says why"}, {ejabberd, "its log says why"}, {xmppgate, "the log line session ended says why"},
	}},
	"large-refused": {fail, "large messages are refused", []remedy{
		{xmppgate, "XMPPGATE_MAX_STANZA_BYTES and XMPPGATE_MAX_SERVER_STANZA_BYTES"},
		{prosody, "c2s_stanza_size_limit, and websocket_frame_buffer_limit of twice as much"},
		{ejabberd, "max_stanza_size of the listener"},
		{haproxy, "no http-request wait-for-body; a WebSocket has no limit there"},
	}},
	"large-lost": {fail, "the connection breaks, or nothing comes, with a large message", []remedy{
		{network, "MTU: large packets are lost between (a tunnel, a VPN, a blocked ICMP)"},
		{ejabberd, "shaper: of the listener: the rate is too low"},
		{prosody, "limits = { c2s = { rate = … } } of mod_limits: the rate is too low"},
		{xmppgate, "the log line session ended says why"},
	}},
	"resume-not-offered": {warn, "the server offers no resumption (XEP-0198): messages are lost when a connection breaks", []remedy{
		{prosody, `modules_enabled = { "smacks" }`},
		{ejabberd, "modules: { mod_stream_mgmt: {} }"},
	}},
	"resume-disabled": {warn, "the server offers XEP-0198 without resumption", []remedy{
		{prosody, "smacks_hibernation_time above 0"},
		{ejabberd, "mod_stream_mgmt: { resume_timeout: 5 minutes }"},
	}},
	"resume-refused": {warn, "the server does not resume a session that was cut", []remedy{
		{prosody, "smacks_hibernation_time; its log says why the session had ended"},
		{ejabberd, "mod_stream_mgmt: resume_timeout, max_resume_timeout"},
		{xmppgate, "XMPPGATE_UPSTREAM_POLICY=hash leads a user to the same server each time"},
		{haproxy, "balance source or hdr, if several servers are behind that do not share sessions"},
		{nginx, "ip_hash or hash in the upstream, if several servers are behind that do not share sessions"},
	}},

	// Time
	"idle-cut": {fail, "a silent connection is cut without a word: usually a proxy's timeout", idleOptions},
	"idle-closed": {fail, "the server or gateway ends a silent session", []remedy{
		{xmppgate, "XMPPGATE_PING_INTERVAL; the log line session ended says why"},
		{prosody, "c2s_timeout, and modules such as limits; its log says why"},
		{ejabberd, "websocket_timeout above websocket_ping_interval; mod_ping: timeout_action"},
	}},
	"close-unanswered": {warn, "the end of the stream is not answered: clients wait for seconds when they log out", []remedy{
		{prosody, "a newer version"}, {ejabberd, "a newer version"}, {xmppgate, "the server behind it does not answer the end of a stream"},
	}},
}

// Table is the table of findings for the manual, in Markdown.
func Table() string {
	var b strings.Builder
	b.WriteString("| finding | level | meaning | options |\n| --- | --- | --- | --- |\n")
	for _, id := range slices.Sorted(maps.Keys(findings)) {
		f := findings[id]
		var products []string
		for _, m := range f.remedies {
			if !slices.Contains(products, m.Product) {
				products = append(products, m.Product)
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", id, f.level, strings.ReplaceAll(f.meaning, "<", "&lt;"), strings.Join(products, ", "))
	}
	return b.String()
}
