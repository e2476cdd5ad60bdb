package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"

	"xmppgate/proxy"
	"xmppgate/proxy/clientaddr"
	"xmppgate/proxy/upstream"
)

const prefix = "XMPPGATE_"

// emptyMeansNone is the variable whose empty value is one. For the others it is the same
// as none, because that is what compose files write for it.
const emptyMeansNone = prefix + "ADMIN_LISTEN"

// A config is the environment, parsed. The tags of a field are the only
// definition of its variable: name (env), default (envDefault), meaning (help)
// and, if a reload does not change it, reload:"start" feed the parser, reload,
// --help and the table in docs/configuration.md.
type config struct {
	Config                 string        `env:"CONFIG" reload:"start" help:"a file with more of these variables, KEY=value a line; the environment wins over it, and a reload reads it again"`
	Listen                 list          `env:"LISTEN" reload:"start" envDefault:":5290" help:"where clients connect: host:port or unix:/path, comma separated; unix:/path?mode=0660&group=www-data lets others connect, host:port?tls=off is without TLS in spite of TLS_CERT"`
	TLSCert                list          `env:"TLS_CERT" help:"PEM files with certificates for clients, each with its chain, comma separated: the TCP addresses of LISTEN then speak TLS (wss://). A client gets the one for the name it asks for, or else the first. Files are read again when they change"`
	TLSKey                 list          `env:"TLS_KEY" help:"PEM files with the private keys, in the same order; empty means that they are in the files of TLS_CERT"`
	ACMEDomains            list          `env:"ACME_DOMAINS" reload:"start" help:"host names to get certificates for by ACME, comma separated; the TCP addresses of LISTEN then speak TLS, and the authority must reach one as port 443 of each name, or ACME_LISTEN as port 80"`
	ACMECache              string        `env:"ACME_CACHE" reload:"start" help:"the directory that keeps keys and certificates of ACME; required by ACME_DOMAINS"`
	ACMEListen             list          `env:"ACME_LISTEN" reload:"start" help:"where the authority checks by HTTP-01, host:port, usually :80; everything else is sent to https://. Empty means that it checks by TLS-ALPN-01"`
	ACMEEmail              string        `env:"ACME_EMAIL" reload:"start" help:"the contact that the authority may use"`
	ACMEDirectory          string        `env:"ACME_DIRECTORY" reload:"start" envDefault:"https://acme-v02.api.letsencrypt.org/directory" help:"the URL of the authority"`
	ACMECA                 string        `env:"ACME_CA" reload:"start" help:"a PEM file with what to trust for ACME_DIRECTORY instead of the system's authorities"`
	Path                   list          `env:"PATH" envDefault:"/xmpp-websocket,/ws" help:"URL paths that accept WebSocket connections, comma separated; * stands for one segment, as in /*/xmpp-websocket"`
	PublicURL              string        `env:"PUBLIC_URL" help:"the URL by which clients reach a WebSocket from outside, such as wss://xmpp.example.org/xmpp-websocket; clients find it by their domain then, from /.well-known/host-meta; {domain} in it stands for each of XMPPGATE_DOMAINS"`
	Upstream               list          `env:"UPSTREAM" envDefault:"tcp://127.0.0.1:5222" help:"the XMPP servers, comma separated: tcp://host:port, unix:/path, starttls://host:port, tls://host:port, srv: or srv:name; a query sets options, as in tls://host:port?ca=FILE"`
	UpstreamPolicy         string        `env:"UPSTREAM_POLICY" envDefault:"hash" help:"which server a session tries first: first, hash (by user), least-sessions or round-robin"`
	Domains                list          `env:"DOMAINS" help:"domains that clients may name, comma separated; domain=URL or domain=URL|URL gives one servers of its own; empty leaves it to the server"`
	DNS                    string        `env:"DNS" help:"the DNS server that is asked for the names of servers, host:port; empty means the system's"`
	ChannelBinding         string        `env:"CHANNEL_BINDING" envDefault:"auto" help:"what to do with SASL mechanisms that bind to TLS, which cannot work across a gateway: auto (strip if the gateway has TLS to the server), strip, pass, or end-point where gateway and server have the same certificate"`
	ProxyProtocol          list          `env:"PROXY_PROTOCOL" help:"networks or addresses whose connections start with a PROXY header, comma separated"`
	TrustedProxies         list          `env:"TRUSTED_PROXIES" help:"networks or addresses of HTTP proxies that say who the client is, comma separated; unix stands for clients on a Unix socket"`
	ClientAddressHeader    string        `env:"CLIENT_ADDRESS_HEADER" envDefault:"X-Forwarded-For" help:"the one header field in which they say so: X-Forwarded-For, Forwarded, X-Real-IP, CF-Connecting-IP, True-Client-IP or Fly-Client-IP; a request of theirs without it is refused"`
	SeeOther               list          `env:"SEE_OTHER" help:"where clients go that a server sends elsewhere and the gateway cannot follow: host:port=wss://host/path, comma separated"`
	Origins                list          `env:"ORIGINS" help:"web origins whose pages may connect, comma separated: https://chat.example.org, https://*.example.org for its subdomains, null, file://, or those of apps such as capacitor://localhost; empty means any"`
	AdminListen            list          `env:"ADMIN_LISTEN" reload:"start" envDefault:"127.0.0.1:9280" help:"where metrics, health and drain are served: host:port or unix:/path, comma separated; set but empty turns it off"`
	AdminHosts             list          `env:"ADMIN_HOSTS" help:"names by which the admin address is called, comma separated; IP addresses and localhost always are"`
	AdminTokenFile         string        `env:"ADMIN_TOKEN_FILE" help:"a file with the token, 16 characters or more, that drains, reloads, upgrades, traces and ends of sessions need, as Authorization: Bearer or typed into the status page; empty means that whoever reaches the admin address may do that"`
	MaxStanzaBytes         int           `env:"MAX_STANZA_BYTES" envDefault:"262144" help:"largest message of a client in bytes"`
	MaxServerStanzaBytes   int           `env:"MAX_SERVER_STANZA_BYTES" envDefault:"16777216" help:"largest element of a server in bytes; above 256 KiB it reaches the client in fragments of one message, while it comes; at least XMPPGATE_MAX_STANZA_BYTES"`
	MaxSessions            int           `env:"MAX_SESSIONS" envDefault:"0" help:"sessions that may live at once; 0 means what the limit of open files allows, at 2 a session"`
	MaxUnauthenticated     int           `env:"MAX_UNAUTHENTICATED" envDefault:"0" help:"sessions that may live at once without being logged in; 0 means three quarters of the sessions"`
	LimitsExempt           list          `env:"LIMITS_EXEMPT" envDefault:"loopback,private" help:"networks or addresses that the limits below do not concern, comma separated; loopback stands for this machine, private for addresses that are not of the internet, none for no network"`
	NetworkIPv4Bits        int           `env:"NETWORK_IPV4_BITS" envDefault:"32" help:"leading bits of IPv4 addresses that make a network"`
	NetworkIPv6Bits        int           `env:"NETWORK_IPV6_BITS" envDefault:"64" help:"leading bits of IPv6 addresses that make a network"`
	NetworkSessions        int           `env:"NETWORK_SESSIONS" envDefault:"0" help:"sessions of one network; 0 means half of the sessions"`
	NetworkUnauthenticated int           `env:"NETWORK_UNAUTHENTICATED" envDefault:"0" help:"sessions of one network that are not logged in; 0 means a quarter of the sessions"`
	NetworkRequests        rateText      `env:"NETWORK_REQUESTS" envDefault:"100/s:1000" help:"HTTP requests of one network: 100/s:1000 means 100 a second and 1000 at once, off any number"`
	NetworkHandshakes      rateText      `env:"NETWORK_HANDSHAKES" envDefault:"100/s:1000" help:"TLS handshakes of one network, written like that"`
	NetworkFailedLogins    rateText      `env:"NETWORK_FAILED_LOGINS" envDefault:"10/m:100" help:"logins of one network that may fail, written like that; beyond them it gets no new session"`
	DenyFile               string        `env:"DENY_FILE" help:"a file with networks or addresses whose clients may not connect, one a line, read again when it changes; # starts a comment"`
	StanzaRate             int           `env:"STANZA_RATE" envDefault:"100" help:"stanzas and pings that a client may send a second, ten times as many at once; beyond them it is not read for a while; 0 means any number"`
	ByteRate               int           `env:"BYTE_RATE" envDefault:"524288" help:"bytes of them a second, in the same way"`
	AuthTimeout            time.Duration `env:"AUTH_TIMEOUT" envDefault:"5m" help:"time that a client has to log in"`
	MaxSessionAge          time.Duration `env:"MAX_SESSION_AGE" envDefault:"0s" help:"age at which a session is closed so that its client resumes it elsewhere, less up to a fifth; 0s means never"`
	Compression            string        `env:"COMPRESSION" envDefault:"off" help:"on accepts permessage-deflate from clients that offer it; see docs/compression.md for what that saves and reveals"`
	CompressionMemory      int64         `env:"COMPRESSION_MEMORY" envDefault:"67108864" help:"bytes that all sessions together keep to compress, 12288 each as a rule; beyond that new sessions go without compression"`
	PingInterval           time.Duration `env:"PING_INTERVAL" envDefault:"30s" help:"silence before a client gets a WebSocket ping; after two intervals without an answer its session ends"`
	DrainDelay             time.Duration `env:"DRAIN_DELAY" envDefault:"0s" help:"how long a drain still accepts clients while /readyz fails, for load balancers to notice"`
	DrainTimeout           time.Duration `env:"DRAIN_TIMEOUT" envDefault:"25s" help:"time over which sessions are closed before the end"`
	ConnectionMetricsLimit int           `env:"CONNECTION_METRICS_LIMIT" envDefault:"1000" help:"most sessions that /metrics/connections and /connections show"`
	Loop                   string        `env:"LOOP" reload:"start" envDefault:"auto" help:"what drives the sessions: auto (epoll on Linux) or goroutine, to compare"`
	Profile                bool          `env:"PROFILE" envDefault:"false" help:"serve Go profiles below /debug/pprof/ of the admin address"`
	LogLevel               slog.Level    `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	LogFormat              string        `env:"LOG_FORMAT" reload:"start" envDefault:"auto" help:"text (for people), journal (with priorities), json, or auto: text on a terminal, journal where systemd reads it, JSON elsewhere"`
	LogJIDs                bool          `env:"LOG_JIDS" envDefault:"false" help:"add the bare JID to log lines about sessions; whoever reads the log then knows who is online when and where"`
	UnsafeAdmin            bool          `env:"UNSAFE_ADMIN" reload:"start" envDefault:"false" help:"accept an ADMIN_LISTEN that other machines can reach, where a container or firewall keeps them out"`
	UnsafeUpstream         bool          `env:"UNSAFE_UPSTREAM" envDefault:"false" help:"accept servers without encryption on another machine, where the network is trusted: compose, Kubernetes"`

	parsed
}

// A list is comma separated; spaces around its items are dropped.
type list []string

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *list) UnmarshalText(text []byte) error {
	*l = strings.Split(string(text), ",")
	for i, item := range *l {
		(*l)[i] = strings.TrimSpace(item)
	}
	if slices.Contains(*l, "") {
		return errors.New("an item is empty")
	}
	return nil
}

func (l list) String() string { return strings.Join(l, ",") }

// A variable is one field of config as the operator sees it.
type variable struct {
	name         string // with the prefix
	defaultValue string // when unset
	help         string
	onlyStart    bool // a reload does not change it
	field        int  // index in config
}

// variables lists the variables in the order of their fields.
func variables() (vars []variable) {
	for f := range reflect.TypeFor[config]().Fields() {
		if name, ok := f.Tag.Lookup("env"); ok {
			help := f.Tag.Get("help")
			if b, ok := bounds[name]; ok {
				help += "; " + b.limits(f.Type)
			}
			vars = append(vars, variable{prefix + name, f.Tag.Get("envDefault"), help, f.Tag.Get("reload") == "start", f.Index[0]})
		}
	}
	return vars
}

// variableCalled returns the variable that has a name with the prefix.
func variableCalled(name string) variable {
	all := variables()
	if i := slices.IndexFunc(all, func(v variable) bool { return v.name == name }); i >= 0 {
		return all[i]
	}
	return variable{}
}

// print writes the effective configuration as a table.
func (c *config) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range variables() {
		fmt.Fprintf(t, "%s\t%v\n", v.name, reflect.ValueOf(*c).Field(v.field))
	}
	t.Flush()
}

// loadConfig parses and checks the environment and the file that CONFIG names. Its
// error joins one line for everything that is wrong.
func loadConfig(environ map[string]string) (*config, error) {
	s := findSettings(environ)
	return s.config()
}

// config parses and checks the values.
func (s *settings) config() (*config, error) {
	c := &config{parsed: parsed{settings: *s}}
	r := report{settings: s, errs: slices.Clone(s.errs), seen: map[string]bool{}}
	err := env.ParseWithOptions(c, env.Options{Prefix: prefix, Environment: s.values})
	if aggregate, ok := errors.AsType[env.AggregateError](err); ok {
		for _, err := range aggregate.Errors {
			r.unparsed(err)
		}
	} else if err != nil {
		return nil, err
	}
	// The parser treats an empty value as unset.
	if value, ok := s.values[emptyMeansNone]; ok && value == "" {
		c.AdminListen = nil
	}
	c.check(&r)
	r.unknown()
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return c, nil
}

// check reports values that parse but make no sense or are not safe.
func (c *config) check(r *report) {
	for _, p := range c.Path {
		if err := proxy.CheckPath(p); err != nil {
			r.addError("PATH", err)
		}
	}
	c.checkServers(r)
	c.checkPublicURL(r)
	c.checkClientAddress(r)
	c.checkLimits(r)
	c.checkDenyFile(r)
	c.checkSeeOther(r)
	for _, origin := range c.Origins {
		p, err := proxy.ParseOriginPattern(origin)
		if err != nil {
			r.addError("ORIGINS", err)
		}
		c.allowedOrigins = append(c.allowedOrigins, p)
	}
	c.checkListeners(r)
	c.checkTLS(r)
	c.checkHosts(r)
	c.checkToken(r)
	// The parser also takes debug+100, a level at which nothing is logged.
	if !slices.Contains([]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}, c.LogLevel) {
		r.add("LOG_LEVEL", badLevel)
	}
	if c.checkNumbers(r) && c.MaxServerStanzaBytes < c.MaxStanzaBytes {
		r.add("MAX_SERVER_STANZA_BYTES", "too small: write at least as much as %sMAX_STANZA_BYTES (%d), because what one client may send another must be able to receive", prefix, c.MaxStanzaBytes)
	}
	for _, v := range []struct {
		name, value string
		known       []string
	}{
		{"UPSTREAM_POLICY", c.UpstreamPolicy, upstream.Policies()},
		{"CHANNEL_BINDING", c.ChannelBinding, slices.Sorted(maps.Keys(channelBindings))},
		{"COMPRESSION", c.Compression, []string{"off", "on"}},
		{"LOG_FORMAT", c.LogFormat, []string{logAuto, logText, logJournal, logJSON}},
		{"CLIENT_ADDRESS_HEADER", c.clientAddress.Header, clientaddr.Headers()},
		{"LOOP", c.Loop, []string{proxy.LoopAuto, proxy.LoopGoroutine}},
	} {
		if !slices.Contains(v.known, v.value) {
			r.add(v.name, "must be one of %s", strings.Join(v.known, ", "))
		}
	}
}

// warnings returns a line for each value that is allowed but probably a mistake.
func (c *config) warnings() (warnings []string) {
	warn := func(name string, value any, text string) {
		warnings = append(warnings, fmt.Sprintf("%s%s=%v: %s", prefix, name, value, text))
	}
	if c.tokenIsPublic() {
		warn("ADMIN_TOKEN_FILE", c.AdminTokenFile, "every user of this machine can read it: chmod o-r")
	}
	if c.PingInterval >= time.Minute {
		warn("PING_INTERVAL", c.PingInterval, "many proxies cut connections that are silent for 60s")
	}
	if c.ChannelBinding != channelBindingAuto && c.ChannelBinding != channelBindingPass {
		warn("CHANNEL_BINDING", c.ChannelBinding, "clients refuse to log in if the server protects its list of mechanisms (XEP-0474), as ejabberd does: disable channel binding at the server instead, and write pass")
	}
	for name, networks := range map[string][]netip.Prefix{"PROXY_PROTOCOL": c.clientAddress.Proxies, "TRUSTED_PROXIES": c.clientAddress.Forwarders} {
		for _, n := range networks {
			if n.Bits() == 0 {
				warn(name, n, "anybody can claim to be anybody: write the networks of the proxies only")
			}
		}
	}
	if n := c.clientAddress.HeaderName(); n != clientaddr.DefaultHeader && len(c.TrustedProxies) == 0 {
		warn("CLIENT_ADDRESS_HEADER", n, "not used: "+prefix+"TRUSTED_PROXIES says nobody is believed")
	}
	for name, value := range map[string]string{"ACME_CACHE": c.ACMECache, "ACME_LISTEN": c.ACMEListen.String(), "ACME_EMAIL": c.ACMEEmail, "ACME_CA": c.ACMECA} {
		if value != "" && len(c.ACMEDomains) == 0 {
			warn(name, value, "not used: set "+prefix+"ACME_DOMAINS to the names that need certificates")
		}
	}
	if c.hasTLS() && !slices.ContainsFunc(c.listeners, c.speaksTLS) {
		name, value := "TLS_CERT", c.TLSCert
		if len(value) == 0 {
			name, value = "ACME_DOMAINS", c.ACMEDomains
		}
		warn(name, value, "not used: no TCP address without ?tls=off in "+prefix+"LISTEN")
	}
	if files := descriptorLimit(); c.MaxSessions > 0 {
		if fit := sessionLimit(0, files); fit > 0 && c.MaxSessions > fit {
			warn("MAX_SESSIONS", c.MaxSessions, fmt.Sprintf("the limit of open files is too low for so many: %d are enough for %d sessions; raise it (ulimit -n, LimitNOFILE=), or write 0", files, fit))
		}
	}
	if u, err := url.Parse(c.PublicURL); err == nil && strings.EqualFold(u.Scheme, "ws") && !local(net.JoinHostPort(u.Hostname(), "80")) {
		warn("PUBLIC_URL", c.PublicURL, "pages from https:// cannot use it, and other clients do not trust it: write wss://")
	}
	for _, name := range c.overridden {
		warnings = append(warnings, fmt.Sprintf("%s: the value in %s is not used, because the environment has another one", name, c.Config))
	}
	if c.unused {
		warn("UPSTREAM", c.Upstream, "not used: every domain has servers of its own")
	}
	slices.Sort(warnings)
	return warnings
}

// local reports whether host:port is certain to be on this machine. A name
// other than localhost may resolve to anything tomorrow.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

const badLevel = "must be one of debug, info, warn, error"

// A report collects everything that is wrong with a configuration.
type report struct {
	*settings
	errs []error
	seen map[string]bool // variables that do not parse: their field means nothing
}

// add reports the value of a variable.
func (r *report) add(name, format string, args ...any) {
	r.addError(name, fmt.Errorf(format, args...))
}

// addError is add for an error, with a line of its own for each that is joined
// in it.
func (r *report) addError(name string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			r.addError(name, err)
		}
	} else if name = prefix + name; !r.seen[name] {
		value := r.values[name]
		if value == "" { // the default conflicts with another variable
			value = variableCalled(name).defaultValue
		}
		r.errs = append(r.errs, fmt.Errorf("%s%s=%q: %w", r.origin(name), name, value, err))
	}
}

// origin is what an error about a value from the file begins with.
func (r *report) origin(name string) string {
	if where, ok := r.where[name]; ok {
		return where + ": "
	}
	return ""
}

// unparsed translates an error of the parser, which knows fields and Go
// types, to variables and words.
func (r *report) unparsed(err error) {
	parse, ok := errors.AsType[env.ParseError](err)
	if !ok {
		r.errs = append(r.errs, err)
		return
	}
	field, _ := reflect.TypeFor[config]().FieldByName(parse.Name)
	name := field.Tag.Get("env")
	switch field.Type {
	case reflect.TypeFor[int](), reflect.TypeFor[int64]():
		r.add(name, "not a number, or too large: write digits only")
	case reflect.TypeFor[bool]():
		r.add(name, "must be true or false")
	case reflect.TypeFor[time.Duration]():
		r.add(name, "not a duration: write one with its unit, such as 30s or 2m")
	case reflect.TypeFor[slog.Level]():
		r.add(name, badLevel)
	default:
		r.add(name, "%w", parse.Err)
	}
	r.seen[prefix+name] = true
}

// Kubernetes tells every pod about the services of its namespace, and a
// container link tells about the other container, in variables that begin with
// a name, which may well be xmppgate or xmppgate-something.
var (
	serviceName = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|ADDR|PORT|(PORT_)?(START|END)))?)$`)
	servicePort = regexp.MustCompile(`^(tcp|udp|sctp)://`)
	linkEnviron = regexp.MustCompile(`^XMPPGATE_([A-Z0-9_]+_)?ENV_.`)
)

// foreign reports whether a variable tells about a service or a link.
func foreign(name, value string) bool {
	switch {
	case serviceName.MatchString(name), linkEnviron.MatchString(name):
		return true
	case strings.HasSuffix(name, "_PORT"):
		return servicePort.MatchString(value)
	case strings.HasSuffix(name, "_NAME"): // /container/alias
		alias := strings.NewReplacer("-", "_", ".", "_").Replace(strings.ToUpper(path.Base(value)))
		return strings.HasPrefix(value, "/") && alias == strings.TrimSuffix(name, "_NAME")
	}
	return false
}

// unknown reports variables that have our prefix and do not exist: a misspelt
// setting would otherwise be ignored silently. It does not repeat values, because
// they may be secret.
func (r *report) unknown() {
	var known []string
	for _, v := range variables() {
		known = append(known, strings.TrimPrefix(v.name, prefix))
	}
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		rest, ours := strings.CutPrefix(name, prefix)
		if !ours || slices.Contains(known, rest) || foreign(name, r.values[name]) {
			continue
		}
		suggestion := "run xmppgate --help for all of them"
		if near, ok := nearest(rest, known); ok {
			suggestion = "did you mean " + prefix + near + "?"
		}
		r.errs = append(r.errs, fmt.Errorf("%s%s: no such variable: %s", r.origin(name), name, suggestion))
	}
}
