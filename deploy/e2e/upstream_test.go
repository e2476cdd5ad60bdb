package e2e

import (
	"path/filepath"
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
