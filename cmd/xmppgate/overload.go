package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"xmppgate/proxy"
)

// overloadCheck is how often memory and descriptors are looked at. Ten thousand clients do
// not come in less, and a look costs a few microseconds.
const overloadCheck = 250 * time.Millisecond

// Where overload begins and where it ends again. In between it stays as it is, so that the
// gateway does not refuse and accept in turns.
const (
	memoryHigh = 0.85 // of GOMEMLIMIT
	memoryLow  = 0.75
	filesHigh  = 64 // descriptors that are left
	filesLow   = 128

	buffersHigh = 0.75 // of proxy.LimitBuffers
	buffersLow  = 0.5
)

// An overload tells the gateway when memory or descriptors are short.
type overload struct {
	memory, files func() (used, limit uint64) // a limit of zero is none
	buffers       func() (used, limit int64)  // see proxy.Buffers
	collect       func()                      // garbage, so that memory tells what is in use now
	set           func(short string)
	free          func() // see proxy.Gateway.FreeBuffers
	log           *slog.Logger

	memoryShort, filesShort bool
	buffersShort            bool
	short                   string
}

func newOverload(files uint64, g *proxy.Gateway, log *slog.Logger) *overload {
	return &overload{
		memory:  memoryInUse,
		collect: runtime.GC,
		files:   func() (uint64, uint64) { return descriptorsInUse(), files },
		buffers: proxy.Buffers,
		set:     g.SetOverload,
		free:    g.FreeBuffers,
		log:     log,
	}
}

// run looks until ctx is done.
func (o *overload) run(ctx context.Context) {
	tick := time.NewTicker(overloadCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.look()
		}
	}
}

// look tells the gateway what is short, and again while it is: each time it ends some of
// the sessions that have not authenticated.
func (o *overload) look() {
	o.lookAtBuffers()
	short := ""
	// Where sessions have ended nothing may be allocated any more that would make the
	// runtime collect: overload would last for minutes, and end sessions for nothing.
	if o.memoryShort {
		o.collect()
	}
	if used, limit := o.memory(); limit > 0 {
		share := float64(used) / float64(limit)
		o.memoryShort = share >= memoryHigh || o.memoryShort && share > memoryLow
		if o.memoryShort {
			short = fmt.Sprintf("memory: %d MiB of the %d MiB of GOMEMLIMIT are in use", used>>20, limit>>20)
		}
	}
	if used, limit := o.files(); limit > 0 && used > 0 {
		left, high := int64(limit)-int64(used), min(filesHigh, int64(limit)/16)
		o.filesShort = left <= high || o.filesShort && left < high*filesLow/filesHigh
		if o.filesShort {
			short = fmt.Sprintf("descriptors: %d of %d are in use", used, limit)
		}
	}
	switch {
	case short != "" && o.short == "":
		o.log.Warn("the gateway is overloaded: it accepts no client, and ends sessions that are not logged in", "short", short)
	case short == "" && o.short != "":
		o.log.Info("the gateway is not overloaded any more")
	}
	if short != "" || o.short != "" {
		o.set(short)
	}
	o.short = short
}

// lookAtBuffers frees some while they are short. That alone refuses nobody: it ends those who
// hold most, whoever it is, and leaves room for the others.
func (o *overload) lookAtBuffers() {
	used, limit := o.buffers()
	share, was := float64(used)/float64(limit), o.buffersShort
	o.buffersShort = share >= buffersHigh || was && share > buffersLow
	if o.buffersShort {
		o.free()
	}
	switch {
	case o.buffersShort && !was:
		o.log.Warn("buffers are short: sessions end for which most is held, of clients that do not read or do not finish messages",
			"short", fmt.Sprintf("buffers: %d MiB of %d MiB are in use", used>>20, limit>>20))
	case !o.buffersShort && was:
		o.log.Info("buffers are not short any more")
	}
}

// Samples of package runtime/metrics.
const (
	allMemory      = "/memory/classes/total:bytes"
	releasedMemory = "/memory/classes/heap/released:bytes"
	objectMemory   = "/memory/classes/heap/objects:bytes"
	freeMemory     = "/memory/classes/heap/free:bytes"
	unusedMemory   = "/memory/classes/heap/unused:bytes"
	liveMemory     = "/gc/heap/live:bytes"
)

// memoryInUse returns how much memory the program cannot do without, and GOMEMLIMIT. That
// is not all that the runtime has: close to the limit it collects garbage more often, and
// lets the heap grow up to there even if little of it is alive. So only what the last
// collection has found alive counts of the heap, and all that is not heap.
func memoryInUse() (used, limit uint64) {
	l := debug.SetMemoryLimit(-1) // which only asks
	samples := []metrics.Sample{{Name: allMemory}, {Name: releasedMemory}, {Name: objectMemory}, {Name: freeMemory}, {Name: unusedMemory}, {Name: liveMemory}}
	metrics.Read(samples)
	v := func(i int) uint64 { return samples[i].Value.Uint64() }
	other := int64(v(0)) - int64(v(1)+v(2)+v(3)+v(4))
	used = v(5) + uint64(max(other, 0))
	if l == math.MaxInt64 {
		return used, 0
	}
	return used, uint64(l)
}
