package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// noticePeriod is how long a cause that was logged waits to be logged again.
const noticePeriod = time.Minute

// notices limits log lines that peers can cause at will: one line for each cause and
// minute, with the number of occurrences. All causes are constants of this program,
// so the memory is bounded.
type notices struct {
	mu      sync.Mutex // guards all below
	pending map[string]*pendingNotice
}

// A pendingNotice is a cause that was logged less than a minute ago.
type pendingNotice struct {
	times   int // since then
	level   slog.Level
	message string
	attrs   []slog.Attr // of the first of those times
}

// logs reports whether there is a log that takes lines of that level.
func (g *Gateway) logs(level slog.Level) bool {
	log := g.settings.Load().Log
	return log != nil && log.Enabled(context.Background(), level)
}

// notice logs a cause: at once, or with others like it at the end of the minute.
// attrs is called only if its result is logged.
func (g *Gateway) notice(cause string, level slog.Level, message string, attrs func() []slog.Attr) {
	if !g.logs(level) {
		return
	}
	q := &g.notices
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.pending[cause]; p != nil {
		if p.times++; p.times == 1 {
			p.level, p.message, p.attrs = level, message, attrs()
		}
		return
	}
	if q.pending == nil {
		q.pending = make(map[string]*pendingNotice)
	}
	q.pending[cause] = &pendingNotice{}
	g.log(level, message, append(attrs(), slog.Int("count", 1)))
	time.AfterFunc(noticePeriod, func() { g.noticeDue(cause) })
}

// noticeDue logs what has occurred since the last line, or forgets the cause.
func (g *Gateway) noticeDue(cause string) {
	q := &g.notices
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.pending[cause]
	if p.times == 0 {
		delete(q.pending, cause)
		return
	}
	g.logNotice(p)
	time.AfterFunc(noticePeriod, func() { g.noticeDue(cause) })
}

// logNotice logs a pending notice and resets it.
func (g *Gateway) logNotice(p *pendingNotice) {
	g.log(p.level, p.message, append(p.attrs, slog.Int("count", p.times)))
	*p = pendingNotice{}
}

// flushNotices logs what is pending, because the process may end before it is due.
func (g *Gateway) flushNotices() {
	q := &g.notices
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.pending {
		if p.times > 0 {
			g.logNotice(p)
		}
	}
}
