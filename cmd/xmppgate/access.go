package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/proxy"
)

// An access decides which requests reach the admin endpoints.
//
// A page in the operator's browser can reach loopback, like any program on that
// machine. It cannot choose the headers that the browser sets: Host is the name of
// the site in the browser's view, which exposes a page whose name was rebound to
// 127.0.0.1; Origin and Sec-Fetch-Site identify the page. Metrics and profiles
// are protected like /drain.
type access struct {
	config func() *config
	page   *status.Status // for browsers; nil for plain text
	log    *slog.Logger

	mu      sync.Mutex          // guards all below
	refused map[string]*refusal // by cause, of which there are few
}

// A refusal is one cause for which requests are refused.
type refusal struct {
	logged   time.Time // when it was logged last
	unlogged int       // how often it was seen since then
}

// adminNames are what Host may be beside an IP address, in the form of
// proxy.NormalDomain.
func (c *config) adminNames() []string {
	names := []string{"localhost"}
	for _, name := range c.AdminHosts {
		names = append(names, proxy.NormalDomain(name))
	}
	for _, address := range c.adminListeners {
		if host, _, err := net.SplitHostPort(address.name); address.network == "tcp" && err == nil && host != "" {
			names = append(names, proxy.NormalDomain(host))
		}
	}
	return names
}

// guard lets h answer only requests that no foreign page can have caused.
func (a *access) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cause := a.problem(r); cause != "" {
			a.logRefusal(r, cause)
			answer(w, http.StatusForbidden, cause+"\n")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// problem returns why r must not be answered, or an empty string.
func (a *access) problem(r *http.Request) string {
	// Browsers do not connect to Unix sockets, and a client there may send
	// any Host.
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	unix := local != nil && local.Network() == "unix"
	if !unix && !a.knows(r.Host) {
		return fmt.Sprintf("Host must be an IP address, localhost or a name in %sADMIN_HOSTS", prefix)
	}
	// In the absolute form of a request target (RFC 9112, section 3.2.2) the
	// host of the target overrides Host, and package net/http drops the
	// latter. Only requests to proxies have that form.
	if !unix && r.URL.IsAbs() {
		return "this is not a proxy: ask for the path only"
	}
	// The Origin of a GET from the same site is absent, that of a POST is
	// the host itself.
	for _, origin := range r.Header["Origin"] {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return "pages of another origin are refused"
		}
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "same-origin" && site != "none" {
			return "pages of another site are refused"
		}
	}
	return ""
}

// knows reports whether a page cannot have caused this value of Host: it is an IP
// address or a configured name.
func (a *access) knows(value string) bool {
	host := value
	if i := strings.LastIndexByte(value, ':'); i >= 0 && !strings.HasSuffix(value, "]") {
		host = value[:i]
		if strings.Trim(value[i+1:], "0123456789") != "" {
			return false
		}
	}
	if literal, ok := strings.CutPrefix(host, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		ip, err := netip.ParseAddr(literal)
		return ok && err == nil && ip.Is6()
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Is4()
	}
	return host != "" && slices.Contains(a.config().adminNames(), proxy.NormalDomain(host))
}

const (
	// refusalsEvery is how often refusals for one cause are logged at most.
	refusalsEvery = time.Minute
	// maxLoggedHost bounds what a refused client can write into the log.
	maxLoggedHost = 100
)

// logRefusal logs a refused request, because the operator may have forgotten a
// name.
func (a *access) logRefusal(r *http.Request, problem string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.refused[problem]
	if c == nil {
		c = &refusal{}
		if a.refused == nil {
			a.refused = make(map[string]*refusal)
		}
		a.refused[problem] = c
	}
	c.unlogged++
	if now := time.Now(); c.logged.IsZero() || now.Sub(c.logged) >= refusalsEvery {
		a.log.Warn("admin request refused", "cause", problem, "requests", c.unlogged,
			"remote", r.RemoteAddr, "host", r.Host[:min(len(r.Host), maxLoggedHost)])
		c.logged, c.unlogged = now, 0
	}
}

// checkHosts reports names that no Host header has.
func (c *config) checkHosts(r *report) {
	for _, name := range c.AdminHosts {
		if strings.ContainsAny(name, ":[]") || !validName(name) {
			r.add("ADMIN_HOSTS", "%q is not a name: write one without scheme and port, such as xmppgate.example.org; IP addresses are always accepted", name)
		}
	}
}
