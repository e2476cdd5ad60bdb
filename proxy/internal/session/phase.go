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
	idle    phase = iota // no header yet
	open                 // header sent, elements flow
	restart              // another header is due (RFC 7395, section 3.7)
	closed               // ended; what still comes is ignored
)

// An event is what a first-level piece of a stream is to its life.
type event uint8

const (
	header event = iota
	element
	end
)

// String completes "the stream …".
func (p phase) String() string {
	return [...]string{"had not begun", "was open", "was about to restart", "was over"}[p]
}

func (e event) String() string { return [...]string{"a header", "an element", "the end"}[e] }

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
var steps = [2][4][3]step{
	up: {
		idle:    {header: {next: open}, element: {ending: endBadOpen}, end: {next: closed}},
		open:    {header: {ending: endReopened}, element: {next: open}, end: {next: closed}},
		restart: {header: {next: open}, element: {next: restart}, end: {next: closed}},
		closed:  {header: {next: closed}, element: {next: closed}, end: {next: closed}},
	},
	down: {
		idle:    {header: {next: open}, element: {ending: endServerBroken}, end: {ending: endServerBroken}},
		open:    {header: {ending: endServerBroken}, element: {next: open}, end: {next: closed}},
		restart: {header: {next: open}, element: {next: restart}, end: {next: closed}},
		closed:  {header: {next: closed}, element: {next: closed}, end: {next: closed}},
	},
}
