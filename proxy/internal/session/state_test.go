package session

import (
	"reflect"
	"testing"
	"time"
)

// Every field is in the state, or says nothing while a session is at rest. A new one
// has to be put into one of these lists, and if it belongs to the first, into State.
func TestStateIsComplete(t *testing.T) {
	inState := []string{
		"id", "remote", "domain", "server", "began", "secure", "resumable", "splitter", "lastIn", "pingSent", "ping", "pingOutstanding", "relayed",
		"bound", "mechanism", "login", "steps",
	}
	atRest := []string{
		"set", "host", "Index", "Network", // are the new process's own
		"phase", "sasl", "ending", "pendingEnd", "endsSoon", "await", "unfinished", // are known or zero
		"proxied", "openSent", "featuresSent", "headerSent", "loggedIn", // are set
		"refused", "endTagSent", "closeSent", "alreadySent", "clientFull", "readByHost", "paidUntil", // are not
		"clientTLS", // is of the way to the server
		"tls",       // a session with TLS stays where it is
		"extra",     // see atRest
	}
	ofExtra := []string{
		"due", "stateDue", "skip", "header", "headerQueued", "headerSent", "attempt", "pong", "pongDue", "unread", "fragmented", "replies", "cause", "verdict", "unwritable", "negotiation", "tap", "resume", // are zero, see atRest
		"dials", "avoid", "listener", "leaf", "result", // are of the way to the server
		"relayed", "stalls", "jid", "compression", // are in the state
	}
	check := func(typ reflect.Type, lists ...[]string) {
		known := map[string]bool{}
		for _, list := range lists {
			for _, name := range list {
				known[name] = true
			}
		}
		for f := range typ.Fields() {
			if !known[f.Name] {
				t.Errorf("%v.%s: does a session keep it that goes on in another process? See State", typ, f.Name)
			}
			delete(known, f.Name)
		}
		for name := range known {
			t.Errorf("%v has no field %s", typ, name)
		}
	}
	check(reflect.TypeFor[Session](), inState, atRest)
	check(reflect.TypeFor[extra](), ofExtra)
}

// The steps of a login go with the session; a name that this program does not know is left out.
func TestStepsMove(t *testing.T) {
	var s, moved Steps
	s.set(stepOpen, 0)
	s.set(stepAuthenticated, 90*time.Minute)
	s.set(stepAuthenticated, 91*time.Minute) // only the first counts
	s.set(stepBound, 1000*time.Hour)         // later than can be told
	times := s.stepTimes()
	times["danced"] = time.Second
	moved.setTimes(times)
	if moved != s || s[stepOpen] == 0 || times["authenticated"] != 90*time.Minute || times["bound"] < 100*time.Hour {
		t.Errorf("%v, want %v", moved, s)
	}
}
