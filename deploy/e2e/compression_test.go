package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// compressing starts a gateway with compression in front of a server.
func compressing(t *testing.T, s *server, env ...string) *gateway {
	t.Helper()
	return gatewayFor(t, "tcp://"+s.c2s, append(env, "XMPPGATE_COMPRESSION=on")...)
}

// ratio returns how many times smaller what clients got was than its text.
func (g *gateway) ratio(t *testing.T) float64 {
	t.Helper()
	var n [2]float64
	for i, form := range []string{"plain", "wire"} {
		var err error
		if n[i], err = g.metric(`xmppgate_compression_bytes_total{direction="down",form="` + form + `"}`); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%.0f bytes of text were sent as %.0f: %.2f", n[0], n[1], n[0]/n[1])
	return n[0] / n[1]
}

// Behaviour: compression, real-clients. RFC 7692. What the libraries and a browser do as a rule, they do compressed: login, chat, room, resumption, close.
func TestClientsCompress(t *testing.T) {
	for _, script := range []string{"strophe.mjs", "xmppjs.mjs", "stanza.mjs", "converse.mjs"} {
		t.Run(script, func(t *testing.T) {
			eachServer(t, func(t *testing.T, s *server) {
				g := compressing(t, s)
				runScriptAt(t, g.url(), script, mucDomain, s.newUser(t, "alice"), s.newUser(t, "bob"), "login", "chat", "room", "cut", "resumed", "replayed", "close", "close")
				if r := g.ratio(t); r < 1.3 {
					t.Errorf("what the clients got is only %.2f times smaller", r)
				}
				if err := g.awaitMetric("xmppgate_compression_sessions", 0); err != nil {
					t.Error(err)
				}
				if err := g.awaitMetric("xmppgate_compression_memory_bytes", 0); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Behaviour: compression, real-clients. RFC 7692, section 7.1. Every offer that the WebSocket library of Node.js can make, messages of all sizes, closed cleanly.
func TestCompressionOffers(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		g := compressing(t, s)
		runScriptAt(t, g.url(), "compression.mjs", mucDomain, s.newUser(t, "alice"), s.newUser(t, "bob"), slices.Repeat([]string{"offer"}, 12)...)
		g.ratio(t)
		page, err := g.get("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "xmppgate_sessions_ended_total") && !strings.Contains(line, `"client-closed"`) && !strings.HasSuffix(line, " 0\n") {
				t.Error(line)
			}
		}
	})
}

// What a login of Converse.js takes on the wire, with a roster of 200 contacts and a conversation of 50 messages: docs/compression.md has the figures.
func TestConverseLoginIsSmaller(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		needGateway(t)
		alice, bob := s.newUser(t, "alice"), s.newUser(t, "bob")
		if err := s.fillRoster(alice, 200); err != nil {
			t.Fatal(err)
		}
		reader, writer := as(t, "tcp://"+s.c2s, alice, "tcp"), as(t, "tcp://"+s.c2s, bob, "tcp")
		reader.ask("", "set", `<prefs xmlns="urn:xmpp:mam:2" default="always"><always/><never/></prefs>`)
		for i := range 50 {
			body := fmt.Sprintf("Message %d: wherefore art thou Romeo? Deny thy father and refuse thy name.", i)
			writer.say(`<message type="chat" to="` + reader.jid + `"><body>` + body + `</body></message>`)
			reader.hearBody(body)
		}
		reader.leave()
		writer.leave()
		size := map[string][2]int{}
		for _, value := range []string{"off", "on"} {
			g := gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_COMPRESSION="+value)
			p := startTap(t, "tcp", "127.0.0.1:0", g.listen)
			runScriptAt(t, "ws://"+p.ln.Addr().String()+"/xmpp-websocket", "converse-login.mjs", mucDomain, alice, bob, "login")
			up, down := p.sizes()
			size[value] = [2]int{up, down}
			t.Logf("compression %s: %d bytes up, %d bytes down", value, up, down)
		}
		if on, off := size["on"], size["off"]; 2*on[0] > off[0] || 3*on[1] > off[1] {
			t.Errorf("%d bytes of %d up, %d of %d down", on[0], off[0], on[1], off[1])
		}
	})
}
