package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Behaviour: close-by-client, client-lost. RFC 7395, section 3.6; XEP-0198, section 5.
func TestCleanClose(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		alice := as(t, s.websocket(), s.newUser(t, "alice"), "phone")
		bob := as(t, "tcp://"+s.c2s, s.newUser(t, "bob"), "desk")
		if err := alice.enable(); err != nil {
			t.Fatal(err)
		}
		bob.say(`<message to="` + alice.jid + `"><body>there?</body></message>`)
		alice.hearBody("there?")
		alice.leave()

		// The session is gone: nobody answers for it, and it cannot be resumed.
		_, err := bob.request(alice.jid, "get", `<ping xmlns="urn:xmpp:ping"/>`)
		if err == nil || !strings.Contains(err.Error(), "service-unavailable") {
			t.Errorf("ping after the end of the session: %v, want service-unavailable", err)
		}
		_, err = alice.reconnect(s.websocket())
		if refused := (resumeFailed{}); !errors.As(err, &refused) || !strings.Contains(refused.answer, "item-not-found") {
			t.Errorf("resumption after a clean close: %v, want item-not-found", err)
		}
	})
}

// Behaviour: close-by-server, server-error, server-lost. RFC 6120, section 4.9.3.20 (system-shutdown); RFC 7395, section 3.5.
func TestServerRestart(t *testing.T) {
	eachServer(t, func(t *testing.T, shared *server) {
		s, err := newServer(shared.name, filepath.Join(t.TempDir(), shared.name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.proc.kill() })
		url := s.websocket()
		if !native {
			url = gatewayFor(t, "tcp://"+s.c2s).url()
		}
		names := []string{s.newUser(t, "alice"), s.newUser(t, "bob")}
		alice, bob := as(t, url, names[0], "a"), as(t, url, names[1], "b")
		if err := alice.enable(); err != nil {
			t.Fatal(err)
		}
		if err := s.proc.terminate(30 * time.Second); err != nil {
			t.Logf("the server's own exit: %v", err)
		}
		for _, u := range []*user{alice, bob} {
			var seen []string
			for {
				e, err := u.receive()
				if err == nil {
					seen = append(seen, e.raw)
					continue
				}
				ending := strings.Join(seen, "\n")
				t.Logf("%s saw the server go by %v after %s", u.jid, err, ending)
				closing := strings.Contains(ending, "<close ")
				if code := closeCode(err); !native && !(code == 1000 && closing || code == 1011 && !closing) {
					t.Errorf("%s: %v after %q: want <close/> and 1000, or 1011 alone", u.jid, err, ending)
				}
				break
			}
		}
		if err := s.start(); err != nil {
			t.Fatal(err)
		}
		alice, bob = as(t, url, names[0], "a"), as(t, url, names[1], "b")
		alice.say(`<message to="` + bob.jid + `"><body>again</body></message>`)
		bob.hearBody("again")
		alice.leave()
		bob.leave()
	})
}
