package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"xmppgate/framing"
	"xmppgate/proxy/internal/relay"
	"xmppgate/proxy/internal/session"
)

// This file shows sessions to an operator while they live. Nothing in it waits for whoever
// looks: what is not taken in time is lost, and counted.

// Bounds of taps.
const (
	MaxTaps       = 8   // at once
	maxTapEntries = 256 // that wait for a reader
	maxTapText    = 2 << 10
	maxTapRead    = 16 << 10 // bytes of an element that are looked at
)

// A TapQuery says what a Tap shows: the session ID, or if that is zero the sessions that
// open their stream from now on, of a network and a domain as far as they are given.
type TapQuery struct {
	ID      uint64
	Network netip.Prefix // of the client; invalid for any
	Domain  string       // in the form of NormalDomain; empty for any
}

// A TapEntry is a line of a trace. It has no content, see framing.AppendRedacted, and no JID.
type TapEntry struct {
	Time    time.Time
	Session uint64
	From    string      // one of Sides; empty for a step of the session
	Text    string      // XML without content, or the name of the step
	Attrs   []slog.Attr // of the step
	Size    int         // of the XML, in bytes
	Lost    int         // entries before this one that the reader did not take in time
}

// A Tap is a trace of sessions while they live. It never delays them. Close it.
type Tap struct {
	TapQuery
	gateway *Gateway
	entries chan TapEntry
	lost    atomic.Int64
	closed  atomic.Bool
	over    chan struct{} // closed when the session of ID is
}

var _ session.Tap = (*Tap)(nil)

// Errors of Gateway.Tap.
var (
	ErrTooManyTaps = errors.New("too many traces run at once")
	ErrNoSession   = errors.New("there is no live session with that number")
)

// Tap begins a trace.
func (g *Gateway) Tap(q TapQuery) (*Tap, error) {
	g.init()
	t := &Tap{TapQuery: q, gateway: g, entries: make(chan TapEntry, maxTapEntries), over: make(chan struct{})}
	if !g.taps.add(t) {
		return nil, ErrTooManyTaps
	}
	if q.ID == 0 {
		return t, nil
	}
	for l, i := range g.infos() {
		if i.ID == q.ID {
			l.handle.Post(func(*relay.Event) { l.s.SetTap(t) })
			return t, nil
		}
	}
	t.Close()
	return nil, ErrNoSession
}

// Next waits for an entry. It returns the error of ctx, or io.EOF when the session of
// TapQuery.ID is over and all was read.
func (t *Tap) Next(ctx context.Context) (TapEntry, error) {
	select {
	case e := <-t.entries:
		return e, nil
	case <-ctx.Done():
		return TapEntry{}, context.Cause(ctx)
	case <-t.over:
	}
	select {
	case e := <-t.entries:
		return e, nil
	default:
		return TapEntry{}, io.EOF
	}
}

// Close ends the trace.
func (t *Tap) Close() {
	t.closed.Store(true)
	t.gateway.taps.remove(t)
}

// Open implements session.Tap.
func (t *Tap) Open() bool { return !t.closed.Load() }

// Passed implements session.Tap.
func (t *Tap) Passed(id uint64, sd relay.Side, xml []byte) {
	t.put(func() TapEntry {
		text := framing.AppendRedacted(nil, xml[:min(len(xml), maxTapRead)], maxTapText)
		return TapEntry{Session: id, From: Sides()[sd], Text: string(text), Size: len(xml)}
	})
}

// put makes an entry and gives it to the reader, if there is room for it: to make one in
// vain would cost the session.
func (t *Tap) put(entry func() TapEntry) {
	if len(t.entries) == cap(t.entries) {
		t.lost.Add(1)
		return
	}
	e := entry()
	lost := t.lost.Swap(0)
	e.Time, e.Lost = time.Now(), int(lost)
	select {
	case t.entries <- e:
	default:
		t.lost.Add(lost + 1)
	}
}

// step tells of a step of a session.
func (t *Tap) step(id uint64, name string, attrs []slog.Attr) {
	t.put(func() TapEntry { return TapEntry{Session: id, Text: name, Attrs: attrs} })
}

// ended tells of the end of a session.
func (t *Tap) ended(e *EndedSession) {
	t.step(e.ID, "over", []slog.Attr{slog.String("ending", e.Ending), slog.Duration("age", e.Age())})
	if t.ID != 0 {
		close(t.over)
	}
}

// taps are those that run.
type taps struct {
	mu  sync.Mutex
	all atomic.Pointer[[]*Tap] // a new one for each change; nil means none
}

func (s *taps) load() []*Tap {
	if all := s.all.Load(); all != nil {
		return *all
	}
	return nil
}

func (s *taps) add(t *Tap) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(slices.Clone(s.load()), t)
	if len(all) > MaxTaps {
		return false
	}
	s.all.Store(&all)
	return true
}

func (s *taps) remove(t *Tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(s.load()), func(other *Tap) bool { return other == t })
	s.all.Store(&all)
}

// tapped begins to trace a session that opens its stream, if one is wanted for it.
func (l *live) tapped(domain string) {
	for _, t := range l.gateway().taps.load() {
		at := l.s.Remote().Addr().Unmap().WithZone("")
		if t.ID != 0 || t.Domain != "" && t.Domain != domain || t.Network.IsValid() && !t.Network.Contains(at) {
			continue
		}
		l.s.SetTap(t)
		t.step(l.s.ID(), "begins", []slog.Attr{slog.String("remote", session.RemoteName(l.s.Remote())), slog.String("domain", loggedDomain(domain))})
		return
	}
}

// tap returns the trace of the session, nil if there is none.
func (l *live) tap() *Tap {
	t, _ := l.s.Tap().(*Tap)
	return t
}
