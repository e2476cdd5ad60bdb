package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const (
	relWebSocket    = "urn:xmpp:alt-connections:websocket" // XEP-0156
	maxHostMeta     = 64 << 10                             // bytes
	maxLinks        = 8                                    // of one document
	maxHostMetaHops = 5
)

// A hostMetaDocument is one of the two that XEP-0156 knows.
type hostMetaDocument struct {
	name  string
	parse func([]byte) ([]string, error)
}

var hostMetaDocuments = []hostMetaDocument{{"host-meta", parseXRD}, {"host-meta.json", parseJRD}}

// discover finds the URL by host-meta, unless the command line has it. With a URL of
// another machine it only looks whether discovery would lead somewhere, which not
// every installation needs. It reports whether there is a URL to examine.
func (x *examination) discover(ctx context.Context) bool {
	given := x.hostMeta == ""
	if given {
		if isLocal(x.url.Hostname()) || !strings.Contains(x.domain, ".") || isLocal(x.domain) {
			return true
		}
		x.hostMeta = ascii(x.domain)
	}
	ctx, cancel := x.within(ctx)
	defer cancel()

	links, states := make([][]string, 2), make([]string, 2)
	for i, d := range hostMetaDocuments {
		links[i], states[i] = x.fetchHostMeta(ctx, d, given)
	}
	both := slices.Concat(links...)
	if states[0] == hostMetaRead && states[1] == hostMetaRead && !slices.Equal(slices.Sorted(slices.Values(links[0])), slices.Sorted(slices.Values(links[1]))) {
		x.found("host-meta", "host-meta-differ", "host-meta names %s, host-meta.json %s", printableURLs(links[0]), printableURLs(links[1]))
	}
	if states[0] == hostMetaAbsent && states[1] == hostMetaRead {
		x.found("host-meta", "host-meta-xrd-missing", "there is only host-meta.json")
	}
	if given {
		if len(both) == 0 && !slices.Contains(states, hostMetaBroken) {
			x.report.ok("host-meta", "%s has none that leads to a WebSocket: clients must be given the URL", quote(x.hostMeta))
		} else if len(both) > 0 {
			x.report.ok("host-meta", "it leads to %s", printableURLs(both))
		}
		return true
	}
	switch {
	case len(both) > 0:
	case slices.Contains(states, hostMetaRead):
		x.found("host-meta", "host-meta-no-websocket", "no link has the rel %s", relWebSocket)
	case states[0] == hostMetaAbsent && states[1] == hostMetaAbsent:
		x.found("host-meta", "host-meta-missing", "neither host-meta nor host-meta.json is there")
	}
	for _, link := range both {
		u, err := url.Parse(link)
		if err != nil || u.Host == "" || u.Scheme != "wss" && u.Scheme != "ws" || u.User != nil || hasControl(link) {
			continue
		}
		if x.url == nil || x.url.Scheme == "ws" && u.Scheme == "wss" {
			x.url = u
		}
		if u.Scheme == "ws" && !isLocal(u.Hostname()) {
			x.found("host-meta", "host-meta-insecure", "it names %s", printableURL(u))
		}
	}
	if x.url != nil {
		x.url.Host = strings.Replace(x.url.Host, x.url.Hostname(), ascii(x.url.Hostname()), 1)
		x.report.ok("host-meta", "it leads to %s", printableURLs(both))
		x.report.target(printableURL(x.url), x.domain)
	} else if len(both) > 0 {
		x.found("host-meta", "host-meta-no-websocket", "the links are not URLs of a WebSocket: %s", printableURLs(both))
	}
	return x.url != nil
}

// What became of a document.
const (
	hostMetaRead        = "read"
	hostMetaAbsent      = "absent" // the server says that it has none
	hostMetaBroken      = "broken"
	hostMetaUnreachable = "unreachable" // no answer
)

// fetchHostMeta returns the URLs of a document. With a given URL silence about what
// is not there is enough.
func (x *examination) fetchHostMeta(ctx context.Context, d hostMetaDocument, given bool) (links []string, state string) {
	scheme := "https"
	if x.insecure {
		scheme = "http"
	}
	where := url.URL{Scheme: scheme, Host: x.hostMeta, Path: "/.well-known/" + d.name}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		x.found("host-meta", "host-meta-unreachable", "%s is not the name of a host", quote(x.hostMeta))
		return nil, hostMetaUnreachable
	}
	request.Header.Set("User-Agent", userAgent)
	if x.origin != "" {
		request.Header.Set("Origin", x.origin)
	}
	redirects := errors.New("too many redirects, or one that leaves https")
	client := &http.Client{
		Transport: &http.Transport{ // without Proxy: HTTP_PROXY would hide what clients meet
			DialContext:            new(net.Dialer).DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: x.roots},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHead,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxHostMetaHops || r.URL.Scheme != scheme && r.URL.Scheme != "https" {
				return redirects
			}
			return nil
		},
	}
	response, err := client.Do(request)
	if err != nil {
		if !given {
			x.found("host-meta", "host-meta-unreachable", "%s: %v", printableURL(&where), withoutURL(err))
		}
		return nil, hostMetaUnreachable
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		if response.StatusCode/100 == 5 && !given {
			x.found("host-meta", "host-meta-unreachable", "%s answers %d", printableURL(&where), response.StatusCode)
			return nil, hostMetaUnreachable
		}
		return nil, hostMetaAbsent
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxHostMeta+1))
	if err == nil && len(body) > maxHostMeta {
		err = fmt.Errorf("it is larger than %d bytes", maxHostMeta)
	}
	if err == nil {
		links, err = d.parse(body)
	}
	if err != nil {
		if given && strings.Contains(response.Header.Get("Content-Type"), "html") {
			return nil, hostMetaAbsent // the page that some sites have for everything
		}
		x.found("host-meta", "host-meta-malformed", "%s: %v", d.name, err)
		return nil, hostMetaBroken
	}
	if allowed := response.Header.Get("Access-Control-Allow-Origin"); len(links) > 0 && allowed != "*" && (x.origin == "" || allowed != x.origin) {
		x.found("host-meta", "host-meta-cors", "%s comes without Access-Control-Allow-Origin: *", d.name)
	}
	return links[:min(len(links), maxLinks)], hostMetaRead
}

// withoutURL is the cause of an error of package http without the URL, which is said
// already.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func parseXRD(text []byte) (links []string, err error) {
	var document struct {
		XMLName xml.Name
		Links   []struct {
			Rel  string `xml:"rel,attr"`
			Href string `xml:"href,attr"`
		} `xml:"Link"`
	}
	if err := xml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("it is not XML: %w", err)
	}
	if document.XMLName.Local != "XRD" {
		return nil, fmt.Errorf("its root is %s instead of XRD", quote(document.XMLName.Local))
	}
	for _, l := range document.Links {
		if l.Rel == relWebSocket {
			links = append(links, l.Href)
		}
	}
	return links, nil
}

func parseJRD(text []byte) (links []string, err error) {
	var document struct {
		Links []struct{ Rel, Href string } `json:"links"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	for _, l := range document.Links {
		if l.Rel == relWebSocket {
			links = append(links, l.Href)
		}
	}
	return links, nil
}

func printableURLs(links []string) string {
	var all []string
	for _, link := range links {
		text := quote(link)
		if u, err := url.Parse(link); err == nil {
			text = printableURL(u)
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

// isLocal reports whether a host is this machine.
func isLocal(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
