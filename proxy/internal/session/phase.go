package session

// A direction is one of the two streams of a session: a stream is
// unidirectional (RFC 6120, section 4.5).
type direction uint8

const (
	toServer direction = iota // client to server
	toClient                  // server to client
)

// A streamPhase is where one stream is in its life.
type streamPhase uint8

const (
	phaseNoHeader streamPhase = iota // it has not begun
	phaseOpen                        // header sent, elements flow
	phaseRestart                     // another header is due (RFC 7395, section 3.7)
	phaseClosed                      // ended; what still comes is ignored
)

// A streamEvent is what moves a stream from one phase to another: a first-level piece
// of it, or something that changes which piece may come next.
type streamEvent uint8

const (
	streamHeader     streamEvent = iota
	streamElement                // or whatever else is neither header nor end
	streamEnd                    // <close/> or the end tag
	streamRestartDue             // the client has authenticated, or the server has got another header
	streamReplaced               // another server takes the place of this one
)

// String completes "the stream …".
func (p streamPhase) String() string {
	return [...]string{"had not begun", "was open", "was about to restart", "was over"}[p]
}

func (e streamEvent) String() string {
	return [...]string{"a header", "an element", "the end", "a restart", "another server"}[e]
}

// A streamStep is the answer to an event: the phase that follows, or the ending
// that an illegal event brings.
type streamStep struct {
	next   streamPhase
	ending ending
}

// streamSteps is the life of a stream: direction × phase × event.
//
// Two cells are policy. A client may end a stream that it never opened: then
// nothing is dialled. A server may send elements while its header for a
// restart is still due: what it says between success and header is its own
// business, and a client that is not told would wait for it.
//
// The client's stream does not notice that the server is replaced. The new server's
// stream is a new one, whatever became of the old.
var streamSteps = [2][4][5]streamStep{
	toServer: {
		phaseNoHeader: {streamHeader: {next: phaseOpen}, streamElement: {ending: endBadOpen}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseNoHeader}, streamReplaced: {next: phaseNoHeader}},
		phaseOpen: {streamHeader: {ending: endReopened}, streamElement: {next: phaseOpen}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseRestart}, streamReplaced: {next: phaseOpen}},
		phaseRestart: {streamHeader: {next: phaseOpen}, streamElement: {next: phaseRestart}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseRestart}, streamReplaced: {next: phaseRestart}},
		phaseClosed: {streamHeader: {next: phaseClosed}, streamElement: {next: phaseClosed}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseClosed}, streamReplaced: {next: phaseClosed}},
	},
	toClient: {
		phaseNoHeader: {streamHeader: {next: phaseOpen}, streamElement: {ending: endServerBroken}, streamEnd: {ending: endServerBroken},
			streamRestartDue: {next: phaseNoHeader}, streamReplaced: {next: phaseNoHeader}},
		phaseOpen: {streamHeader: {ending: endServerBroken}, streamElement: {next: phaseOpen}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseRestart}, streamReplaced: {next: phaseNoHeader}},
		phaseRestart: {streamHeader: {next: phaseOpen}, streamElement: {next: phaseRestart}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseRestart}, streamReplaced: {next: phaseNoHeader}},
		phaseClosed: {streamHeader: {next: phaseClosed}, streamElement: {next: phaseClosed}, streamEnd: {next: phaseClosed},
			streamRestartDue: {next: phaseClosed}, streamReplaced: {next: phaseNoHeader}},
	},
}
