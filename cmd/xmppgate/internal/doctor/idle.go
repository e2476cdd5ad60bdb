package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// longSilence is how long a silence must be that the terminal is told of.
const longSilence = 5 * time.Second

// silence sends nothing, save for the answers that every client gives by itself, and
// looks whether the path stays open. Who ended it shows: a server or gateway says so
// by a stream error, by <close/> or by a close code, a proxy drops the connection.
func (x *examination) silence(ctx context.Context, s *session) {
	if x.idle == 0 {
		x.report.skip([]string{"idle"}, "--idle 0")
		return
	}
	if x.idle >= longSilence && !x.json {
		fmt.Fprintf(x.notes, "doctor: silent for %v (--idle 0 skips that)\n", x.idle)
	}
	before := s.pings
	start := time.Now()
	_, err := s.await(start.Add(x.idle), func(*element) bool { return false })
	lasted := time.Since(start)
	pings := s.pings - before
	heard := "no ping came"
	if pings > 0 {
		heard = fmt.Sprintf("%d pings came, one each %v", pings, (lasted / time.Duration(pings)).Round(100*time.Millisecond))
	}
	if isTimeout(err) { // the path is open, or looks so: a firewall may have forgotten it
		if err = x.answers(ctx, s); err == nil {
			x.report.ok("idle", "the path stays open for %v of silence; %s", x.idle, heard)
			return
		}
		s.dead = true
		x.found("idle", "idle-cut", "after %v of silence the path is dead without a sign (%s); %s", x.idle, x.why(err), heard)
		return
	}
	s.dead = true
	after := lasted.Round(100 * time.Millisecond)
	switch {
	case errors.Is(err, errStray):
		x.found("idle", "idle-closed", "the server never stops talking: %v", err)
	case isCut(err) && !errors.As(err, new(streamError)) && !errors.As(err, new(streamEnd)) && !errors.Is(err, errNotXML):
		x.found("idle", "idle-cut", "cut without a word after %v of silence; %s", after, heard)
	case s.jid == "":
		x.report.ok("idle", "after %v: %s; before a login servers end silent streams, --jid tells more", after, x.why(err))
	default:
		x.found("idle", "idle-closed", "after %v: %s; %s", after, x.why(err), heard)
	}
}

// answers looks whether the other end still answers.
func (x *examination) answers(ctx context.Context, s *session) error {
	if s.jid == "" {
		return s.ping(x.deadline(ctx))
	}
	_, err := x.echo(s, 20, x.deadline(ctx))
	return err
}
