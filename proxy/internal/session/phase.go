package session

// A direction is one of the two streams of a session: a stream is
// unidirectional (RFC 6120, section 4.5).
type direction uint8

const (
	up   direction = iota // client to server
	down                  // server to client
)

// A phase is where one stream is in its life.
type phase uint8

const (
	noHeader phase = iota // it has not begun
	open                  // header sent, elements flow
	restart               // another header is due (RFC 7395, section 3.7)
	closed                // ended; what still comes is ignored
)

// An event is what moves a stream from one phase to another: a first-level piece
// of it, or something that changes which piece may come next.
type event uint8

const (
	header     event = iota
	element          // or whatever else is neither header nor end
	end              // <close/> or the end tag
	restartDue       // up: SASL has succeeded; down: the server got another header
	replaced         // another server takes the place of this one
)

// String completes "the stream …".
func (p phase) String() string {
	return [...]string{"had not begun", "was open", "was about to restart", "was over"}[p]
}

func (e event) String() string {
	return [...]string{"a header", "an element", "the end", "a restart", "another server"}[e]
}

// A step is the answer to an event: the phase that follows, or the ending
// that an illegal event brings.
type step struct {
	next   phase
	ending ending
}

// steps is the life of a stream: direction × phase × event.
//
// Two cells are policy. A client may end a stream that it never opened: then
// nothing is dialled. A server may send elements while its header for a
// restart is still due: what it says between success and header is its own
// business, and a client that is not told would wait for it.
//
// The client's stream does not notice that the server is replaced. The new server's
// stream is a new one, whatever became of the old.
var steps = [2][4][5]step{
	up: {
		noHeader: {header: {next: open}, element: {ending: endBadOpen}, end: {next: closed}, restartDue: {next: noHeader}, replaced: {next: noHeader}},
		open:     {header: {ending: endReopened}, element: {next: open}, end: {next: closed}, restartDue: {next: restart}, replaced: {next: open}},
		restart:  {header: {next: open}, element: {next: restart}, end: {next: closed}, restartDue: {next: restart}, replaced: {next: restart}},
		closed:   {header: {next: closed}, element: {next: closed}, end: {next: closed}, restartDue: {next: closed}, replaced: {next: closed}},
	},
	down: {
		noHeader: {header: {next: open}, element: {ending: endServerBroken}, end: {ending: endServerBroken}, restartDue: {next: noHeader}, replaced: {next: noHeader}},
		open:     {header: {ending: endServerBroken}, element: {next: open}, end: {next: closed}, restartDue: {next: restart}, replaced: {next: noHeader}},
		restart:  {header: {next: open}, element: {next: restart}, end: {next: closed}, restartDue: {next: restart}, replaced: {next: noHeader}},
		closed:   {header: {next: closed}, element: {next: closed}, end: {next: closed}, restartDue: {next: closed}, replaced: {next: noHeader}},
	},
}
