package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// zone is what a scripted DNS server knows: "name TYPE" to the lines of the answer. An address for A, "priority weight
// port target" for SRV, "servfail" for none. A name without an answer does not exist.
type zone map[string]string

// startDNS serves a zone over UDP until the test ends.
func startDNS(t *testing.T, z zone) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				t.Errorf("DNS query: %v", err)
				return
			}
			q := m.Questions[0]
			key := strings.ToLower(q.Name.String()) + " " + strings.TrimPrefix(q.Type.String(), "Type")
			if err := z.answer(key, &m); err != nil {
				t.Errorf("zone: %s: %v", key, err)
			}
			packed, err := m.Pack()
			if err != nil {
				t.Errorf("DNS answer: %v", err)
				return
			}
			conn.WriteTo(packed, from)
		}
	}()
	return conn.LocalAddr().String()
}

func (z zone) answer(key string, m *dnsmessage.Message) error {
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	answer, known := z[key]
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
		return nil
	case answer == "servfail":
		m.RCode = dnsmessage.RCodeServerFailure
		return nil
	}
	for line := range strings.SplitSeq(answer, "\n") {
		var body dnsmessage.ResourceBody
		if q.Type == dnsmessage.TypeA {
			a, err := netip.ParseAddr(line)
			if err != nil {
				return err
			}
			body = &dnsmessage.AResource{A: a.As4()}
		} else {
			var r dnsmessage.SRVResource
			var target string
			if _, err := fmt.Sscan(line, &r.Priority, &r.Weight, &r.Port, &target); err != nil {
				return err
			}
			r.Target = dnsmessage.MustNewName(target)
			body = &r
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 3600}, Body: body,
		})
	}
	return nil
}

// DNS says where a domain is served, and TLS proves it (RFC 6120, section 3.2; XEP-0368).
func TestSRV(t *testing.T) {
	needGateway(t)
	t.Parallel()
	const (
		xmpp  = "_xmpp-client._tcp.d.example. SRV"
		xmpps = "_xmpps-client._tcp.d.example. SRV"
		host  = "host.example. A"
	)
	eachServer(t, func(t *testing.T, s *server) {
		starttls, direct := startTap(t, "tcp", "127.0.0.1:0", s.c2s), startTap(t, "tcp", "127.0.0.1:0", s.directTLS)
		// record is an SRV record with this priority.
		record := func(priority int, to *tap) string {
			_, port, _ := net.SplitHostPort(to.ln.Addr().String())
			return fmt.Sprintf("%d 0 %s host.example.", priority, port)
		}
		closed, err := freePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		dead := fmt.Sprintf("0 0 %d host.example.", closed[0])
		// RFC 6120, section 3.2.2: without SRV records it is port 5222 of the domain itself.
		const alone = "127.0.52.22"
		fallback := startTap(t, "tcp", alone+":5222", s.c2s)
		private := "private=true&ca=" + strings.TrimPrefix(s.ca(), "?ca=")
		cases := []struct {
			name, options string
			zone          zone
			to            *tap   // where the client logs in; nil: nowhere
			phase, result string // of the failure
		}{
			{"STARTTLS", private, zone{xmpp: record(0, starttls), host: "127.0.0.1"}, starttls, "", ""},
			{"direct TLS", private, zone{xmpps: record(0, direct), host: "127.0.0.1"}, direct, "", ""},
			{"both, direct TLS first", private, zone{xmpps: record(5, direct), xmpp: record(10, starttls), host: "127.0.0.1"}, direct, "", ""},
			{"both, STARTTLS first", private, zone{xmpps: record(10, direct), xmpp: record(5, starttls), host: "127.0.0.1"}, starttls, "", ""},
			{"first target is down", private, zone{xmpps: dead, xmpp: record(10, starttls), host: "127.0.0.1"}, starttls, "", ""},
			{"no direct TLS", private, zone{xmpps: "0 0 0 .", xmpp: record(0, starttls), host: "127.0.0.1"}, starttls, "", ""},
			{"no records", private, zone{"d.example. A": alone}, fallback, "", ""},
			{"no service", private, zone{xmpps: "0 0 0 .", xmpp: "0 0 0 .", "d.example. A": "127.0.0.1"}, nil, "resolve", "no-server"},
			{"no such host", private, zone{xmpp: record(0, starttls)}, nil, "resolve", "no-server"},
			{"all targets are down", private, zone{xmpp: dead, host: "127.0.0.1"}, nil, "tcp", "refused"},
			{"DNS fails", private, zone{xmpp: "servfail", xmpps: "servfail"}, nil, "resolve", "error"},
			{"loopback", "", zone{xmpp: record(0, starttls), host: "127.0.0.1"}, nil, "tcp", "forbidden-address"},
			{"metadata service", "", zone{xmpp: record(0, starttls), host: "169.254.169.254"}, nil, "tcp", "forbidden-address"},
			{"certificate of another domain", private + "&name=d.example", zone{xmpp: record(0, starttls), host: "127.0.0.1"}, nil, "tls", "cert-name"},
		}
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				before := c.to.count()
				// Another server makes the gateway ready.
				g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_DNS="+startDNS(t, c.zone), "XMPPGATE_DOMAINS="+anonDomain+","+domain+"=srv:d.example?"+c.options)
				if c.to != nil {
					as(t, g.url(), s.newUser(t, "juliet"), "balcony").leave()
					if c.to.count() == before {
						t.Error("the session is elsewhere")
					}
					return
				}
				if err := refused(g.url(), domain); err != nil {
					t.Error(err)
				}
				failed := fmt.Sprintf(`xmppgate_upstream_opens_total{phase=%q,result=%q,server="srv:d.example"}`, c.phase, c.result)
				if n, err := g.metric(failed); err != nil || n == 0 {
					t.Errorf("%s is %v, %v; want some", failed, n, err)
				}
			})
		}
		t.Run("the session's domain", func(t *testing.T) {
			dns := startDNS(t, zone{"_xmpp-client._tcp.localhost. SRV": record(0, starttls), host: "127.0.0.1"})
			g := gatewayFor(t, "srv:?"+private, "XMPPGATE_DNS="+dns, "XMPPGATE_DOMAINS="+domain)
			as(t, g.url(), s.newUser(t, "juliet"), "balcony").leave()
		})
	})
}
