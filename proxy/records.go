package proxy

import (
	"context"
	"log/slog"
	"sync"
)

// maxRecords bounds the log records that wait to be written.
const maxRecords = 4096

// records lets events log without waiting for the log: whoever reads it may be
// slow or stuck, and that must not stop anybody's stanzas. When too many wait,
// further ones are dropped and counted.
type records struct {
	mu      sync.Mutex // guards all below
	waiting []logRecord
	writing bool // write runs
	dropped int
}

type logRecord struct {
	level   slog.Level
	message string
	attrs   []slog.Attr
}

// log queues a record.
func (g *Gateway) log(level slog.Level, message string, attrs []slog.Attr) {
	if g.Log == nil || !g.Log.Enabled(context.Background(), level) {
		return
	}
	q := &g.records
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == maxRecords {
		q.dropped++
		return
	}
	q.waiting = append(q.waiting, logRecord{level, message, attrs})
	if !q.writing {
		q.writing = true
		go g.writeRecords()
	}
}

// writeRecords lives until no record waits.
func (g *Gateway) writeRecords() {
	q := &g.records
	for {
		q.mu.Lock()
		batch, dropped := q.waiting, q.dropped
		q.waiting, q.dropped = nil, 0
		q.writing = len(batch) > 0
		q.mu.Unlock()
		if len(batch) == 0 {
			g.mu.Lock()
			g.idle.Broadcast() // see awaitIdle
			g.mu.Unlock()
			return
		}
		for _, r := range batch {
			g.Log.LogAttrs(context.Background(), r.level, r.message, r.attrs...)
		}
		if dropped > 0 {
			g.Log.Warn("log records were dropped", "records", dropped)
		}
	}
}

// logging reports whether records wait.
func (g *Gateway) logging() bool {
	g.records.mu.Lock()
	defer g.records.mu.Unlock()
	return g.records.writing
}
