package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/limit"
	"xmppgate/proxy/internal/loop"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// Bounds of one offer. The kernel passes at most 253 descriptors at once.
const (
	maxOffered = 64        // sessions
	maxOffer   = 128 << 10 // bytes of their states
	maxPacket  = 1 << 20   // bytes of anything; a session's state has a few hundred
)

const (
	// offerTimeout bounds each answer of the new process. The sessions of an offer stand
	// still meanwhile.
	offerTimeout = 5 * time.Second
	// lateness is how long a packet is waited for once more after its time is over, see
	// receive.
	lateness = time.Second
	// restPause is how long sessions that were not at rest are left alone.
	restPause = 100 * time.Millisecond
)

// A packet is what the two processes tell each other.
type packet struct {
	Offer   []json.RawMessage `json:",omitempty"` // of session.State; the sockets come with them
	Refused map[int]string    `json:",omitempty"` // by the index of an offer, and why
	Go      bool              `json:",omitempty"` // drive what you have not refused
	Driving bool              `json:",omitempty"` // the answer to go, before that begins
	End     bool              `json:",omitempty"` // nothing more comes
}

// HandOver moves sessions to the process that calls TakeOver at the other end of conn,
// a socket of type SOCK_SEQPACKET. It calls begun when every session that was at rest
// has been moved, and goes on with those that come to rest until none is left, or ctx is
// done. After an error the sessions that were not moved go on here. kill makes the other
// process end, if it is not known what that does; it returns when it has ended.
func (g *Gateway) HandOver(ctx context.Context, conn *net.UnixConn, begun, kill func()) (moved int, err error) {
	g.init()
	defer func() {
		if err != nil {
			err = fmt.Errorf("hand over sessions: %w", err)
		}
	}()
	o := offer{most: 1}
	for first := true; ; first = false {
		n, err := o.all(g, conn, kill)
		moved += n
		if err != nil {
			return moved, err
		}
		if first {
			begun()
		}
		if g.isEmpty() {
			break
		}
		select {
		case <-ctx.Done():
			return moved, send(conn, packet{End: true}, nil)
		case <-time.After(restPause):
		}
	}
	return moved, send(conn, packet{End: true}, nil)
}

// all offers all sessions that are at rest. It returns how many were moved.
func (o *offer) all(g *Gateway, conn *net.UnixConn, kill func()) (moved int, err error) {
	for _, l := range g.sessions() {
		o.add(g, l)
		if len(o.sessions) == o.most || o.size >= maxOffer {
			n, err := o.make(conn, kill)
			moved += n
			if err != nil {
				return moved, err
			}
		}
	}
	n, err := o.make(conn, kill)
	return moved + n, err
}

// An offer is some sessions that are not driven until make has moved them or not. The
// first is one session, and each that the new process answers lets the next be twice as
// large: a program that ends as soon as it drives a session takes one with it.
type offer struct {
	most     int // sessions
	sessions []*live
	states   []json.RawMessage
	size     int // bytes of states
	fds      []int
}

// add suspends a session and adds it, if it is at rest.
func (o *offer) add(g *Gateway, l *live) {
	h, ok := l.handle.(loop.Movable)
	if !ok {
		return
	}
	var state []byte
	fds, ok := h.Suspend(func(c *relay.Conns) bool {
		st, err := l.s.State(c, g.clock())
		if err == nil {
			state, err = json.Marshal(st)
		}
		return err == nil
	})
	if ok {
		o.sessions, o.states = append(o.sessions, l), append(o.states, state)
		o.size += len(state)
		o.fds = append(o.fds, fds[:]...)
	}
}

// make makes the offer, which is empty afterwards. Sessions that were not taken are
// driven on.
func (o *offer) make(conn *net.UnixConn, kill func()) (moved int, err error) {
	if len(o.sessions) == 0 {
		return 0, nil
	}
	refused, err := o.agree(conn, kill)
	for i, l := range o.sessions {
		h := l.handle.(loop.Movable)
		if reason, stays := refused[i]; err != nil || stays {
			h.Resume()
			if stays {
				l.Notice("not taken over", slog.LevelWarn, "the new process does not take over a session, which stays here", func() []slog.Attr {
					return []slog.Attr{slog.Uint64("session", l.s.ID()), slog.String("error", reason)}
				})
			}
			continue
		}
		h.Release()
		l.moved()
		moved++
	}
	*o = offer{most: min(2*o.most, maxOffered)}
	return moved, err
}

// agree tells the other process to drive what it does not refuse. After an error it
// drives nothing, and has not begun to.
func (o *offer) agree(conn *net.UnixConn, kill func()) (refused map[int]string, err error) {
	if err := send(conn, packet{Offer: o.states}, o.fds); err != nil {
		return nil, err
	}
	answer, fds, err := receive(conn, offerTimeout)
	closeAll(fds)
	if err != nil {
		return nil, err
	}
	if err := send(conn, packet{Go: true}, nil); err != nil {
		return nil, err
	}
	// Without this word a process that was killed just now would take sessions with
	// it that it has not touched.
	word, fds, err := receive(conn, offerTimeout)
	closeAll(fds)
	if err != nil {
		// It may have said it, or may yet.
		kill()
		word, fds, _ = receive(conn, offerTimeout)
		closeAll(fds)
	}
	if word.Driving {
		return answer.Refused, nil
	}
	return nil, cmp.Or(err, errors.New("the new process does not say that it drives the sessions"))
}

// moved removes a session that goes on elsewhere.
func (l *live) moved() {
	r := &l.gateway().registry
	r.remove(l)
	l.handle.View(l.s.Leave)
	r.leave(l, l.gateway().clock())
}

// TakeOver takes over the sessions that HandOver offers at the other end of conn, until
// it has no more. join counts a session at the server with a name until done is called, as
// upstream.Router.Join does. It returns how many sessions were taken.
func (g *Gateway) TakeOver(conn *net.UnixConn, join func(server string) (done func())) (taken int, err error) {
	g.init()
	for {
		p, fds, err := receive(conn, 0)
		if err != nil {
			closeAll(fds)
			return taken, fmt.Errorf("take over sessions: %w", err)
		}
		if p.End {
			closeAll(fds)
			return taken, nil
		}
		n, err := g.take(conn, p.Offer, fds, join)
		taken += n
		if err != nil {
			return taken, fmt.Errorf("take over sessions: %w", err)
		}
	}
}

// An heir is a session that is about to be taken over.
type heir struct {
	state  session.State
	server *session.Server
	fds    [2]int
}

// take answers one offer and drives its sessions when it is told to.
func (g *Gateway) take(conn *net.UnixConn, states []json.RawMessage, fds []int, join func(string) func()) (taken int, err error) {
	if len(fds) != 2*len(states) {
		closeAll(fds)
		return 0, fmt.Errorf("%d sockets for %d sessions", len(fds), len(states))
	}
	var heirs []*heir
	refused := make(map[int]string)
	for i, state := range states {
		h, err := g.heir(state, [2]int(fds[2*i:]), join)
		if err != nil {
			closeAll(fds[2*i : 2*i+2])
			refused[i] = err.Error()
			continue
		}
		heirs = append(heirs, h)
	}
	err = send(conn, packet{Refused: refused}, nil)
	if err == nil {
		var p packet
		var more []int
		// As long as the old process lives, however long it is stopped: to give up would
		// make it end this one, with the sessions that are here already.
		p, more, err = receive(conn, 0)
		closeAll(more)
		if err == nil && !p.Go {
			err = errors.New("no word to go")
		}
		if err == nil {
			err = send(conn, packet{Driving: true}, nil)
		}
	}
	if err != nil {
		for _, h := range heirs {
			h.server.Done()
			closeAll(h.fds[:])
		}
		return 0, err
	}
	for _, h := range heirs {
		g.drive(h)
	}
	return len(heirs), nil
}

func (g *Gateway) heir(state []byte, fds [2]int, join func(string) func()) (*heir, error) {
	h := &heir{fds: fds}
	if err := json.Unmarshal(state, &h.state); err != nil {
		return nil, err
	}
	if err := h.state.Check(); err != nil {
		return nil, err
	}
	if _, ok := g.loop.(loop.Mover); !ok {
		return nil, errors.New("the loop cannot take over sessions")
	}
	h.server = &session.Server{Name: h.state.Server, Done: join(h.state.Server)}
	return h, nil
}

// drive starts a session that another process has let go.
func (g *Gateway) drive(h *heir) {
	l := new(live)
	g.mu.Lock()
	g.conns++
	g.unauthenticated++ // until Session.Restore
	// It was counted there, as far as it had come.
	g.relayed[0].Subtract(h.state.Relayed[0])
	g.relayed[1].Subtract(h.state.Relayed[1])
	g.mu.Unlock()
	ok := g.loop.(loop.Mover).Restore(h.fds, func(handle loop.Handle) relay.Session {
		l.handle = handle
		l.s.Init(&g.settings.Load().session, l, h.state.Remote, false, limit.None)
		l.s.Network = g.networks.Adopt(g.clock(), h.state.Remote.Addr())
		return &l.s
	}, func(ev *relay.Event) { l.s.Restore(ev, &h.state, h.server) })
	if !ok {
		h.server.Done()
		closeAll(h.fds[:])
		g.leave(l, g.clock())
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// send sends a packet.
func send(conn *net.UnixConn, p packet, fds []int) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(offerTimeout)) // fails only on a closed connection
	_, _, err = conn.WriteMsgUnix(b, rights, nil)
	return err
}

// receive receives a packet, within timeout unless that is zero. The caller owns fds,
// also after an error.
func receive(conn *net.UnixConn, timeout time.Duration) (p packet, fds []int, err error) {
	b, rights := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*2*maxOffered))
	deadline := time.Time{}
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	_ = conn.SetReadDeadline(deadline)
	n, rn, flags, _, err := conn.ReadMsgUnix(b, rights)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// A process that was stopped for a while, perhaps with its machine, finds the
		// deadline over as well as the packet that has come in time.
		_ = conn.SetReadDeadline(time.Now().Add(lateness))
		n, rn, flags, _, err = conn.ReadMsgUnix(b, rights)
	}
	if err != nil {
		return p, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		return p, nil, err
	}
	for _, m := range messages {
		some, err := unix.ParseUnixRights(&m)
		if err != nil {
			return p, fds, err
		}
		fds = append(fds, some...)
	}
	switch {
	case n == 0:
		return p, fds, io.ErrUnexpectedEOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return p, fds, errors.New("a packet that is too large")
	}
	return p, fds, json.Unmarshal(b[:n], &p)
}
