package upstream

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"xmppgate/framing"
)

// The stream is secured in one round trip before anything is said of the client.
//
// Behaviour: upstream-starttls. RFC 6120, section 5.4.
func TestStartTLS(t *testing.T) {
	ca, cert := chatServer(t)
	for name, features := range map[string]string{
		"required": tlsFeatures,
		"optional": `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>` +
			`<a:starttls xmlns:a='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>`,
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, bytewise bool) {
				address := serve(t, func(p *peer) {
					p.bytewise = bytewise
					// Neither from nor xml:lang in the clear, and no round trip.
					p.expect(t, clearHeader+startTLSElement)
					p.send(reply + features + "\n" + proceed)
					state := p.secure(serverConfig(cert)).ConnectionState()
					if state.ServerName != "chat.example" || state.NegotiatedProtocol != "" {
						t.Errorf("SNI %q, ALPN %q", state.ServerName, state.NegotiatedProtocol)
					}
					p.expect(t, chatHeader)
					p.send(reply + noFeatures)
					p.expect(t, `<iq/>`)
					p.send(`<iq/>`)
					p.drain()
				})
				e, seen := endpointAt(t, "starttls://%s?ca="+ca.file, address)
				s, err := open(t, &e, chatRequest())
				if err != nil {
					t.Fatal(err)
				}
				if _, ok := s.Conn.(*tls.Conn); !ok || string(s.Early) != reply+noFeatures {
					t.Errorf("%T, early %q", s.Conn, s.Early)
				}
				if got := seen.String(); got != "tcp ok, tls ok, header ok" {
					t.Errorf("observed %s", got)
				}
				if len(seen.expires) != 1 || !seen.expires[0].Equal(cert.Leaf.NotAfter) {
					t.Errorf("expires %v", seen.expires)
				}
				p := &peer{Conn: s.Conn}
				p.send(`<iq/>`)
				p.expect(t, `<iq/>`)
			})
		})
	}
}

// A stream that cannot be secured, or that somebody in the middle plays with,
// is never continued.
//
// Behaviour: server-starttls, upstream-starttls. RFC 6120, section 5.4.
func TestStartTLSRefused(t *testing.T) {
	const (
		failure = `<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`
		sasl    = `<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>`
	)
	for _, test := range []struct{ name, reply, want string }{
		{"not offered", reply + sasl, ResultNoSTARTTLS},
		{"offered in another namespace", reply + `<stream:features><starttls/></stream:features>` + proceed, ResultNoSTARTTLS},
		{"offered in a child only", reply + `<stream:features><a><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></a></stream:features>` + proceed, ResultNoSTARTTLS},
		{"not offered, proceed", reply + sasl + proceed, ResultNoSTARTTLS},
		{"failure", reply + tlsFeatures + failure + framing.EndTag, ResultNoSTARTTLS},
		{"proceed in another namespace", reply + tlsFeatures + `<proceed/>`, ResultNoSTARTTLS},
		{"proceed inside something", reply + tlsFeatures + `<a>` + proceed + `</a>`, ResultNoSTARTTLS},
		{"success of SASL", reply + tlsFeatures + `<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>`, ResultNoSTARTTLS},
		{"features twice", reply + tlsFeatures + tlsFeatures, ResultNoSTARTTLS},
		{"proceed without features", reply + proceed, ResultBadStream},
		{"proceed without a header", proceed, ResultBadStream},
		{"two headers", reply + tlsFeatures + reply + proceed, ResultBadStream},
		{"comment", reply + `<!-- -->` + tlsFeatures + proceed, ResultBadStream},
		{"instruction", reply + tlsFeatures + `<?a?>` + proceed, ResultBadStream},
		{"text", reply + tlsFeatures + `ok` + proceed, ResultBadStream},
		{"garbage", "220 mail.example ESMTP\r\n", ResultBadStream},
		{"TLS", "\x16\x03\x01\x00\x02", ResultBadStream},
		{"endless features", reply + `<stream:features><a>` + strings.Repeat("x", maxCleartext), ResultBadStream},
		{"endless header", reply[:len(reply)-1] + ` a='` + strings.Repeat("x", maxCleartext), ResultBadStream},
		{"endless space", reply + strings.Repeat(" ", maxCleartext), ResultBadStream},
		{"host unknown", reply + `<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`, ResultStreamError},
		{"redirect", reply + `<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>a</see-other-host></stream:error>`, ResultStreamError},
		{"error for proceed", reply + tlsFeatures + `<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`, ResultStreamError},
		{"end", reply + framing.EndTag, ResultClosed},
		{"nothing", "", ResultClosed},
		{"hung up in the features", reply + tlsFeatures[:30], ResultClosed},
		{"hung up before proceed", reply + tlsFeatures, ResultClosed},
		{"hung up in proceed", reply + tlsFeatures + proceed[:10], ResultClosed},
		{"hung up in the handshake", reply + tlsFeatures + proceed, ResultClosed},
		{"stanza behind proceed", reply + tlsFeatures + proceed + `<iq/>`, ResultInjected},
		{"space behind proceed", reply + tlsFeatures + proceed + "\n", ResultInjected},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			eachWay(t, func(t *testing.T, bytewise bool) {
				if bytewise && len(test.reply) > maxCleartext {
					t.Skip("takes long")
				}
				want := []string{"tls " + test.want}
				if bytewise && test.want == ResultInjected {
					// Bytes that come later than <proceed/> are taken
					// for TLS; one of them may be too few to fail.
					want = append(want, "tls "+ResultBadStream, "tls "+ResultClosed)
				}
				received := make(chan string, 1)
				address := serve(t, func(p *peer) {
					p.bytewise = bytewise
					p.expect(t, clearHeader+startTLSElement)
					defer func() { // what else the gateway said, before it hung up
						b := make([]byte, 1)
						n, _ := p.Read(b)
						received <- string(b[:n])
					}()
					p.send(test.reply)
					if test.want == ResultClosed {
						p.Close()
					}
				})
				e, seen := endpointAt(t, "starttls://%s", address)
				_, err := open(t, &e, chatRequest())
				if got := resultOf(err); !slices.Contains(want, got) {
					t.Fatalf("%s, want %s: %v", got, want, err)
				}
				if err.stream != nil {
					t.Error("what was said in the clear is to be relayed")
				}
				if strings.Contains(err.Error(), "framing: ") {
					t.Errorf("the error names a package: %v", err)
				}
				if got := <-received; got != "" && got != "\x16" {
					t.Errorf("the gateway went on with %q", got)
				}
				if !strings.HasSuffix(seen.String(), resultOf(err)) {
					t.Errorf("observed %s", seen)
				}
			})
		})
	}
}
