package session

import (
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// The table of authentication, cell by cell, written once more: a state, and +r
// where a restart is due, +h where the client's header counts.
func TestSASLSteps(t *testing.T) {
	states := [...]string{saslNone: "none", saslOffered: "offered", saslRunning: "running", saslHeaderQueued: "queued", saslDone: "done"}
	visited := 0
	for event, row := range map[saslEvent]string{
		//              none    offered running queued    done
		onOffer:        "offered offered running queued done",
		onNoOffer:      "none none running queued done",
		onAuth:         "running running running queued done",
		onAuthenticate: "none offered offered queued done",
		onHeader:       "none+h offered+h queued queued done+h",
		onSuccess:      "done+r done+r done+r done+r+h done+r",
		onFailure:      "none offered offered offered+h done",
		onSASL2Success: "done done running queued done",
	} {
		for from, want := range strings.Fields(row) {
			st := saslSteps[from][event]
			got := states[st.next]
			if st.restart {
				got += "+r"
			}
			if st.header {
				got += "+h"
			}
			if got != want {
				t.Errorf("%s, event %d: got %s, want %s", states[from], event, got, want)
			}
			visited++
		}
	}
	if all := len(saslSteps) * len(saslSteps[0]); visited != all || len(states) != len(saslSteps) {
		t.Errorf("%d of %d cells were visited", visited, all)
	}
}

// Each cell moves a session as the table says, and the phase of the client's
// stream with it: a header that is not due ends the session.
func TestSASLMovesPhase(t *testing.T) {
	for from := range saslSteps {
		for event, st := range saslSteps[from] {
			s, ev := newTestSession(t)
			s.sasl = saslState(from)
			legal := s.saslStep(ev, saslEvent(event))
			wantPhase, wantLegal := phaseOpen, true
			switch {
			case st.restart && !st.header:
				wantPhase = phaseRestart
			case st.header && !st.restart: // the stream is open already
				wantLegal = false
			}
			if s.sasl != st.next || s.phase[toServer] != wantPhase || legal != wantLegal || legal != (s.ending == endNone) {
				t.Errorf("state %d, event %d: state %d, phase %d, legal %v, ending %d", from, event, s.sasl, s.phase[toServer], legal, s.ending)
			}
		}
	}
}

// The host is told of a login once, and only of one that has succeeded.
func TestLoggedInOnce(t *testing.T) {
	const (
		auth     = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>"
		offer    = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
		nothing  = "<stream:features/>"
		success  = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
		success2 = "<success xmlns='urn:xmpp:sasl:2'/>"
		failure  = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
	)
	for _, c := range []struct {
		server []string // around auth, which the client sends behind the first
		want   int
	}{
		{[]string{offer, success}, 1},
		{[]string{offer, failure, offer}, 0},
		{[]string{offer, nothing}, 0},  // the login goes on
		{[]string{offer, success2}, 0}, // which was not asked for
		{[]string{offer, success2, success, success2}, 1},
	} {
		s, ev := newTestSession(t)
		s.Receive(ev, server, []byte(c.server[0]))
		s.Receive(ev, client, maskedFrame(ws.OpText, true, []byte(auth)))
		for _, m := range c.server[1:] {
			s.Receive(ev, server, []byte(m))
		}
		if got := s.host.(*fakeHost).loggedIn; got != c.want || s.LoggedIn() != (c.want == 1) {
			t.Errorf("%q: logged in %d times, want %d", c.server, got, c.want)
		}
	}
}

// Before and after authentication clients may send as much as is configured, where
// the server asks for it, less.
func TestSASLLimits(t *testing.T) {
	for state := range saslSteps {
		s, _ := newTestSession(t)
		s.sasl = saslState(state)
		want := s.set.MaxStanza
		if state := saslState(state); state == saslOffered || state == saslRunning || state == saslHeaderQueued {
			want = maxUnauthenticated
		}
		if got := s.limit(); got != want {
			t.Errorf("state %d: got %d, want %d", state, got, want)
		}
	}
}
