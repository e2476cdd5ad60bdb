package session

import (
	"iter"
	"time"

	"xmppgate/proxy/internal/relay"
)

// A step is one that a session comes to once, on its way from the WebSocket to stanzas.
type step uint8

const (
	stepConnected     step = iota // to a server
	stepOpen                      // the client has got <open/>
	stepFeatures                  // it has got features
	stepLogin                     // it has chosen a SASL mechanism
	stepAuthenticated             // it has got the success of SASL
	stepBound                     // it has got its JID
	stepResumed                   // it has got its earlier stream back (XEP-0198)
	steps
)

// stepNames are those of the steps, in the order in which most sessions come to them.
// Where a step has a line at debug level it has the same name there.
var stepNames = [steps]string{
	stepConnected: "server connected", stepOpen: "stream open", stepFeatures: "features", stepLogin: "login",
	stepAuthenticated: "authenticated", stepBound: "bound", stepResumed: "resumed",
}

// StepNames lists the names that Steps.All yields, in their order.
func StepNames() []string { return stepNames[:] }

// stepUnit is what Steps count: 32 bits of it are five days.
const stepUnit = 100 * time.Microsecond

// Steps has the moments at which a session came to the steps of its login, counted from
// the upgrade. The zero value has none.
type Steps [steps]uint32

// set notes that a step was come to after d. Only the first time counts.
func (s *Steps) set(st step, d time.Duration) {
	if s[st] == 0 {
		s[st] = uint32(min(max(d/stepUnit, 1), 1<<32-1)) // zero means never
	}
}

// All yields the steps that the session has come to by name, with the time from the upgrade.
func (s *Steps) All() iter.Seq2[string, time.Duration] {
	return func(yield func(string, time.Duration) bool) {
		for st, d := range s {
			if d != 0 && !yield(stepNames[st], time.Duration(d)*stepUnit) {
				return
			}
		}
	}
}

// reached notes that the session has come to a step.
func (s *Session) reached(ev *relay.Event, st step) { s.steps.set(st, ev.Now-s.began) }

// stepTimes is the form of Steps for another process.
func (s *Steps) stepTimes() map[string]time.Duration {
	times := map[string]time.Duration{}
	for name, d := range s.All() {
		times[name] = d
	}
	return times
}

// setTimes takes what stepTimes has returned. What a program of another age calls
// otherwise is forgotten.
func (s *Steps) setTimes(times map[string]time.Duration) {
	for st, name := range stepNames {
		if d, ok := times[name]; ok {
			s.set(step(st), d)
		}
	}
}
