// Package relay is all that a session and a loop say to each other.
//
// A session ([Session]) knows XMPP and WebSocket and nothing of sockets. A loop
// knows sockets, buffers and timers and nothing of XMPP. The loop calls the
// session, one event at a time: bytes have come, a connection has ended, a moment
// has passed. During the event the session appends what is to be written to the
// outboxes of the [Event] and sets the states of the connections. When the event
// returns the loop writes the outboxes, acts on the states, gives the session once
// more what it had left of its input, and sets its timers.
//
// # Contracts
//
//   - Events of one session never overlap. Nothing in an event blocks.
//   - An Event and its outboxes belong to the loop and are valid during the call.
//   - The bytes that Receive gets belong to the loop. The session may change them
//     (it unmasks where they lie) and refer to them in an outbox; the loop writes or
//     copies the outbox before it uses the buffer again. The remainder that Receive
//     returns aliases them, and is what the next Receive of this side starts with,
//     perhaps at another address.
//   - A session keeps no reference to the bytes between two events.
//   - While Blocked is set for a side, the loop does not read the other one as long
//     as that is StateOpen.
//   - Over is the last call.
package relay

import "time"

// A Side is one of the two connections of a session.
type Side uint8

// The sides.
const (
	Client Side = iota
	Server
)

// Other is the other side.
func (sd Side) Other() Side { return 1 - sd }

// A State is where the connection of one side is in its life. The session sets it,
// the loop acts on it after the event.
type State uint8

// The states, in the order in which a connection passes through them.
const (
	// StateNone: there is no connection yet. For one that was open it means
	// that the session wants another one: the loop closes it.
	StateNone State = iota
	// StateOpen: in use.
	StateOpen
	// StateClosing: nothing is relayed any more, but an answer is awaited
	// before the end: the side is read whether the other one is blocked or not.
	StateClosing
	// StateFinishing: all is said. FIN follows the last byte, then EOF is
	// awaited.
	StateFinishing
	// StateClosed: the loop closes the connection.
	StateClosed
)

// Conns is what both know about the connections of one session. It is part of the
// loop's connection.
type Conns struct {
	// State is set by the session.
	State [2]State
	// Blocked is set by the loop: the side takes no more bytes now.
	Blocked [2]bool
}

// Over reports whether both connections are done with.
func (c *Conns) Over() bool {
	return c.State[Client] == StateClosed && (c.State[Server] == StateClosed || c.State[Server] == StateNone)
}

// An Event is what a session may use while an event runs. Loops keep one for each
// thread of theirs, so that a session at rest needs none.
type Event struct {
	// Now is the moment of the event, since the loop's epoch. It is never zero,
	// which stands for "never".
	Now time.Duration
	// Out is what the sides are to be sent.
	Out [2]Outbox
	// Conns are those of the session whose event this is.
	*Conns
	// Scarce is set for Receive while the sessions of the process use much memory:
	// an unfinished element of MaxKeptScarce bytes is to be passed on.
	Scarce bool
	// AwaitsAnswer is set by the session if it ends a client that does not answer what it
	// sends now. The loop then need not look whether the client takes it.
	AwaitsAnswer bool
	// Scratch is for whatever sessions need only during an event. The loop
	// hands it from event to event, whichever session that is of.
	Scratch any
}

// A Count is how much of something a session has counted, in units of its own. The
// loop only adds.
type Count [5]uint32

// Add adds o to c.
func (c *Count) Add(o Count) {
	for i := range c {
		c[i] += o[i]
	}
}

// A Session is what a loop drives. All methods are called by the loop, one at a
// time.
type Session interface {
	// Start is the first event: the client has connected.
	Start(ev *Event)

	// Receive takes bytes from a side. b starts with what the last call for
	// this side returned. rest is the part of b that is wanted again.
	Receive(ev *Event, sd Side, b []byte) (rest []byte)

	// Reads reports whether the session wants bytes from a side.
	Reads(c *Conns, sd Side) bool

	// Waits reports whether the remainder that Receive has returned for a side is
	// to be given to it once more as soon as the side may be read, without
	// waiting for new bytes behind it.
	Waits(c *Conns, sd Side) bool

	// Connected tells the outcome of connecting to a server, which the loop was
	// asked for during an earlier part of this event, or an earlier event.
	Connected(ev *Event, err error)

	// EOF tells that nothing more comes from a side. err is io.EOF or what broke
	// the connection; bytes that came before it have been received.
	EOF(ev *Event, sd Side, err error)

	// HungUp tells that the client has sent FIN, which was found while it is not
	// read. What it has sent before has yet to be received.
	HungUp(ev *Event)

	// Flushed tells that a side has taken every byte, so that more may follow:
	// in the outbox of this side, not of the other.
	Flushed(ev *Event, sd Side)

	// Taken tells that a side has taken some of the bytes that wait for it, after
	// the moment since.
	Taken(ev *Event, sd Side, since time.Duration)

	// WriteFailed tells that nothing can be written to a side any more. What it
	// has sent may still be read. The session must not append to an outbox.
	WriteFailed(ev *Event, sd Side, err error)

	// StallOver tells that a side which had taken nothing for d, although bytes
	// waited for it, takes some again, or that its connection is over. d is at
	// least StallNoted.
	StallOver(sd Side, d time.Duration)

	// Stalled tells that a side has taken no byte for StallTimeout.
	Stalled(ev *Event, sd Side)

	// FreeMemory tells that the sessions of the process keep too much together, and
	// that much of it is kept for this one, which has to end.
	FreeMemory(ev *Event)

	// Expired tells that the moment of Deadline has come, or a later one.
	Expired(ev *Event)

	// Deadline is when Expired has to be called; zero means never. It is asked
	// for after each event.
	Deadline(c *Conns) time.Duration

	// Failed tells that the loop or the session itself has failed, err being the
	// panic for example. Both connections are to be closed at once.
	Failed(ev *Event, err error)

	// Counted is what this event has counted of the bytes for a side and has not
	// told yet.
	Counted(ev *Event, sd Side) Count

	// Uncount takes back what was counted and could not be sent after all.
	Uncount(sd Side, lost Count)

	// Over is the last call: both connections are closed.
	Over(ev *Event)
}

// StallTimeout is how long a side that takes no byte is waited for.
const StallTimeout = 30 * time.Second

// StallNoted is how long a side takes no byte before that counts as a stall.
const StallNoted = time.Second

// Sizes in bytes that sessions and loops have to agree on.
const (
	// ReadSize is how much a read brings at most, as a rule.
	ReadSize = 64 << 10
	// MaxKept is the most that a session keeps of a server's unfinished element.
	MaxKept = 256 << 10
	// MaxKeptScarce is the most while Event.Scarce is set.
	MaxKeptScarce = ReadSize
)

// Earlier is the earlier of two moments, of which zero is none.
func Earlier(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
