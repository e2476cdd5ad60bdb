package main

import (
	"bytes"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
)

// Overload begins and ends at different shares, is told again while it lasts, and logged
// when it begins and ends.
func TestOverload(t *testing.T) {
	const mib = 1 << 20
	var log bytes.Buffer
	var memory, files uint64
	var told []string
	collections := 0
	o := &overload{
		memory:  func() (uint64, uint64) { return memory * mib, 100 * mib },
		files:   func() (uint64, uint64) { return files, 10000 },
		collect: func() { collections++ },
		buffers: func() (int64, int64) { return 0, 100 },
		set: func(short string) {
			what, _, _ := strings.Cut(short, ":")
			told = append(told, what)
		},
		log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	for _, step := range []struct {
		memory, files uint64
		told          []string
	}{
		{10, 5, nil},
		{84, 9935, nil},
		{85, 5, []string{"memory"}},
		{80, 5, []string{"memory"}},
		{75, 5, []string{""}},
		{80, 5, nil},
		{10, 9936, []string{"descriptors"}},
		{10, 9900, []string{"descriptors"}},
		{90, 9900, []string{"descriptors"}},
		{80, 5, []string{"memory"}},
		{10, 5, []string{""}},
		{10, 5, nil},
		{10, 0, nil}, // not known
	} {
		memory, files, told = step.memory, step.files, nil
		if o.look(); !slices.Equal(told, step.told) {
			t.Errorf("%d MiB, %d files: told %q, want %q", step.memory, step.files, told, step.told)
		}
	}
	if collections != 4 { // once after each look that found it short
		t.Errorf("%d collections", collections)
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 2 || strings.Count(text, "not overloaded any more") != 2 {
		t.Error(text)
	}
}

// Sessions that hold much end while buffers are short, and nothing else happens.
func TestShortBuffers(t *testing.T) {
	var log bytes.Buffer
	var used, limit int64
	freed := 0
	nothing := func() (uint64, uint64) { return 0, 0 }
	o := &overload{
		memory: nothing, files: nothing,
		buffers: func() (int64, int64) { return used, limit },
		set:     func(short string) { t.Errorf("overload: %s", short) },
		free:    func() { freed++ },
		log:     slog.New(slog.NewTextHandler(&log, nil)),
	}
	for _, step := range []struct {
		used, limit int64
		freed       int
	}{
		{10, 100, 0}, {74, 100, 0}, {75, 100, 1}, {51, 100, 1}, {50, 100, 0}, {74, 100, 0}, {120, 100, 1}, {0, 100, 0},
		{1 << 40, math.MaxInt64, 0}, // none
	} {
		used, limit, freed = step.used, step.limit, 0
		if o.look(); freed != step.freed {
			t.Errorf("%d of %d: sessions were ended %d times, want %d", used, limit, freed, step.freed)
		}
	}
	if text := log.String(); strings.Count(text, "level=WARN") != 2 || strings.Count(text, "not short any more") != 2 {
		t.Error(text)
	}
}

// Few files leave room for few sessions, but they do leave some.
func TestOverloadOfFewFiles(t *testing.T) {
	short := "?"
	o := &overload{
		memory:  func() (uint64, uint64) { return 1, 0 },
		files:   func() (uint64, uint64) { return 200, 256 },
		buffers: func() (int64, int64) { return 0, 100 },
		set:     func(s string) { short = s },
		log:     slog.New(slog.DiscardHandler),
	}
	if o.look(); short != "?" {
		t.Error(short)
	}
}

// What is in use is known, and is no more than there is.
func TestInUse(t *testing.T) {
	if used, limit := memoryInUse(); used < 100<<10 || used > 4<<30 || limit != 0 && used > limit {
		t.Errorf("%d of %d bytes", used, limit)
	}
	if n := descriptorsInUse(); n != 0 && n < 3 {
		t.Errorf("%d descriptors", n)
	}
}

// A program whose memory limit is used up says so, refuses clients and goes on.
func TestOverloadedGateway(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "GOMEMLIMIT=1MiB") // less than it needs by itself
	g.serves()
	g.logs("the gateway is overloaded: it accepts no client, and ends sessions that are not logged in")
	if status, body := g.get("/readyz"); status != 503 || !strings.HasPrefix(body, "overloaded: memory: ") {
		t.Errorf("%d %s", status, body)
	}
	g.upgrades(503, "/ws", "")
	_, body := g.get("/metrics")
	for _, want := range []string{"xmppgate_overloaded 1", `xmppgate_limit{limit="memory_bytes"} 1.048576e+06`, `xmppgate_upgrades_total{result="overloaded"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
