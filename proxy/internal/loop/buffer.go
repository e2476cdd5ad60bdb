package loop

import (
	"math"
	"sync"
	"sync/atomic"

	"xmppgate/proxy/internal/relay"
)

// Buffers hold what is read, and what a side does not take. They come from a pool
// for each size. Large ones are counted, see scarce, and so are the bytes of all, see
// exceeded.

// bufferSizes are the sizes of buffers in bytes. A read that finds nothing kept takes
// relay.ReadSize: one read then takes all that a socket has, as a rule, and a batch of
// stanzas leaves in one write. LargeBuffer holds a message of the usual limit, or what is
// kept of a server's element (relay.MaxKept), and what surrounds it.
var bufferSizes = [...]int{smallBuffer, 16 << 10, relay.ReadSize, mediumBuffer, LargeBuffer}

const (
	// LargeBuffer is the largest size, in bytes, that a pool keeps.
	LargeBuffer = 272 << 10
	// mediumBuffer holds relay.MaxKeptScarce and a read behind it.
	mediumBuffer = 2 * relay.ReadSize
	// lastRead bounds the reads that complete an element of more than
	// relay.ReadSize. What comes behind the element may have to be kept beside it,
	// for a client that does not read.
	lastRead = 16<<10 - minRead
	// minRead is the least room to read into.
	minRead = 2 << 10
)

// ManyLargeBuffers is how many buffers of LargeBuffer bytes or more may be in use, by all
// sessions of the process together, before they are scarce: 34 MiB.
const ManyLargeBuffers = 128

var (
	buffers      [len(bufferSizes)]sync.Pool
	largeInUse   atomic.Int64
	largeAllowed atomic.Int64 // ManyLargeBuffers, except in tests
)

// What the buffers of all sessions of the process have. It is counted when memory is taken,
// not found later: clients fill 200 MiB in a quarter of a second.
var (
	held     atomic.Int64 // bytes in use, those of TLS included
	mostHeld atomic.Int64 // see LimitHeld
)

func init() {
	largeAllowed.Store(ManyLargeBuffers)
	mostHeld.Store(math.MaxInt64)
}

// LimitHeld sets how many bytes the buffers of all sessions of the process may have
// together. Beyond half of it less is read of a server at once, because all of that may
// have to be kept for a client that does not read. Beyond the whole of it sessions for
// which more than LittleHeld is kept lose it, see relay.Session.FreeMemory.
func LimitHeld(bytes int64) { mostHeld.Store(bytes) }

// Held returns how many bytes they have, and what LimitHeld was told last.
func Held() (bytes, most int64) { return held.Load(), mostHeld.Load() }

// smallBuffer is the smallest size, for what is left of a stanza.
const smallBuffer = 4 << 10

// LittleHeld is what each session may keep, in bytes, whatever the others do: the part of a
// stanza of a server, and one that its client has not taken.
const LittleHeld = 2 * smallBuffer

// shortRead is how much is read of a server at once beyond half of LimitHeld. It fits into
// a small buffer with what surrounds it.
const shortRead = smallBuffer - 1<<10

func exceeded() bool { return held.Load() > mostHeld.Load() }
func halfHeld() bool { return held.Load() > mostHeld.Load()/2 }

// scarce reports whether many large buffers are in use. One server may fill one for each
// of its sessions and leave it full; 1,000 sessions would keep 300 MiB. While buffers are
// scarce, sessions keep less of a server's element (relay.Event.Scarce), and a window
// grows in smaller steps.
func scarce() bool { return largeInUse.Load() >= largeAllowed.Load() }

// A buffer is memory of which the first n bytes are in use. Each one that getBuffer
// returns is given to putBuffer or leaveBuffer, once.
type buffer struct {
	b []byte
	n int
}

// getBuffer returns a buffer of at least n bytes.
func getBuffer(n int) *buffer {
	for i, size := range bufferSizes {
		if n <= size {
			if size >= LargeBuffer {
				largeInUse.Add(1)
			}
			held.Add(int64(size))
			if b, ok := buffers[i].Get().(*buffer); ok {
				return b
			}
			return &buffer{b: make([]byte, size)}
		}
	}
	// Only a limit above the default leads here; doubling keeps it linear.
	largeInUse.Add(1)
	held.Add(int64(2 * n))
	return &buffer{b: make([]byte, 2*n)}
}

// getGrowing is getBuffer for what will become more. What exceeds half of relay.ReadSize
// gets all that it may need at once: many sessions that grow together would leave
// a buffer of each class behind, and memory that nothing is written to costs none.
func getGrowing(n int) *buffer {
	if n > relay.ReadSize/2 {
		most := LargeBuffer
		if scarce() {
			most = mediumBuffer
		}
		n = max(n, most)
	}
	return getBuffer(n)
}

// putBuffer gives b back, which nobody uses any more.
func putBuffer(b *buffer) {
	leaveBuffer(b)
	b.n = 0
	for i, size := range bufferSizes {
		if len(b.b) == size {
			buffers[i].Put(b)
			return
		}
	}
}

// leaveBuffer leaves b, which somebody may still use, to the garbage collector.
func leaveBuffer(b *buffer) {
	held.Add(-int64(len(b.b)))
	if len(b.b) >= LargeBuffer {
		largeInUse.Add(-1)
	}
}
