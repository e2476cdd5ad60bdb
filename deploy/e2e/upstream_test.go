package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// A server on the same machine, reached over a Unix domain socket.
func TestUnixUpstream(t *testing.T) {
	needGateway(t)
	eachServer(t, func(t *testing.T, s *server) {
		socket := filepath.Join(s.dir, "c2s.sock")
		if s.name == "prosody" { // version 0.12 has no such listener for clients; this test lends it one
			startTap(t, "unix", socket, s.c2s)
		}
		resumes(t, s, gatewayFor(t, "unix:"+socket).url())
	})
}

// resumes has a client lose its connection and resume its session, with what was sent meanwhile.
func resumes(t *testing.T, s *server, url string) {
	t.Helper()
	alice, bob := as(t, url, s.newUser(t, "alice"), "a"), as(t, url, s.newUser(t, "bob"), "b")
	if err := alice.enable(); err != nil {
		t.Fatal(err)
	}
	alice.abort(lossRST)
	bob.say(`<message to="` + alice.jid + `"><body>Grüße über einen Socket</body></message>`)
	c, err := alice.reconnect(url)
	if err != nil {
		t.Fatal(err)
	}
	alice.client = c
	alice.hearBody("Grüße über einen Socket")
	alice.leave()
	bob.leave()
}

// The wrong port of a server is named as what it is, within seconds and without a session.
func TestWrongPort(t *testing.T) {
	needGateway(t)
	t.Parallel()
	eachServer(t, func(t *testing.T, s *server) {
		for name, c := range map[string]struct{ upstream, says string }{
			"plain text to TLS":  {"tcp://" + s.directTLS, "write tls://" + s.directTLS},
			"STARTTLS to TLS":    {"starttls://" + s.directTLS + s.ca(), "write tls://" + s.directTLS},
			"TLS to plain text":  {"tls://" + s.c2s + s.ca(), "write starttls:// or tcp://"},
			"plain text to HTTP": {"tcp://" + s.http, "the server answers HTTP"},
			"TLS to HTTP":        {"tls://" + s.http + s.ca(), "the server answers HTTP"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				// Another server makes the gateway ready.
				g := gatewayFor(t, "tcp://"+s.c2s+","+c.upstream, "XMPPGATE_DOMAINS="+domain)
				err := poll(patience, func() error {
					if !strings.Contains(g.proc.log.all(), c.says) {
						return errors.New("the log does not say: " + c.says)
					}
					return nil
				})
				if err != nil {
					t.Errorf("%v\n%s", err, g.proc.log.all())
				}
			})
		}
	})
}
