package status

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// This file shows one session.

// A one is what the page shows of it.
type one struct {
	Session
	Meaning string     // of its ending
	Lines   []timeline // its login, then all of its life
	Chart   *chart     // nil without points
}

// A timeline shows moments on a line. The login has one of its own, because it is short.
type timeline struct {
	Title string
	Marks []moment
	begin time.Time
	whole time.Duration // the length of the line
}

// A moment is a mark on it.
type moment struct {
	Title string
	Class string
	At    time.Time
	After string // since the beginning
	X     float64
}

// Text says how TLS was negotiated.
func (t *TLS) Text() string {
	parts := []string{"TLS " + t.Version}
	for _, part := range []string{t.Curve, t.Cipher} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ", ")
}

func (t *timeline) add(title, class string, at time.Time) {
	x := 0.0
	if t.whole > 0 {
		x = min(1, max(0, float64(at.Sub(t.begin))/float64(t.whole))) * 396
	}
	t.Marks = append(t.Marks, moment{title, class, at, formatAge(at.Sub(t.begin)), x})
}

// Text says in words what the line shows.
func (t *timeline) Text() string {
	text := t.Title + ": "
	for n, m := range t.Marks {
		if n > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s after %s", m.Title, m.After)
	}
	return text
}

// showOne answers with one session, live or ended.
func (s *Status) showOne(v *view, w http.ResponseWriter, r *http.Request, id uint64) {
	find := func(entries []*entry) {
		if len(entries) > 0 {
			v.One = s.newOne(entries[0], v.Now)
		}
	}
	q := query{filter: filter{id: id}}
	if !s.make(r.Context(), &q, find) {
		return
	}
	if q.closed = true; v.One == nil && !s.make(r.Context(), &q, find) {
		return
	}
	if v.One == nil {
		s.Problem(w, http.StatusNotFound, fmt.Sprintf("There is no session %d. It has ended, and %d others since, or it never began.", id, maxEnded))
		return
	}
	v.Title = fmt.Sprintf("Session %d – xmppgate", id)
	v.send(w, http.StatusOK)
}

func (s *Status) newOne(e *entry, now time.Time) *one {
	o := &one{Session: s.listed(e)}
	end := now
	if e.over != nil {
		end = e.over.Ended
		o.Meaning = meaningOf(e.over.Ending)
		if o.Meaning == e.over.Cause {
			o.Meaning = ""
		}
	} else {
		o.Chart = s.watches.look(e, now)
	}
	if n := len(o.Login); n > 0 {
		login := timeline{Title: "Login", begin: e.Since, whole: seconds(o.Login[n-1].AfterSeconds)}
		login.add("WebSocket opened", "begin", e.Since)
		for _, step := range o.Login {
			login.add(step.Name, "step", e.Since.Add(seconds(step.AfterSeconds)))
		}
		o.Lines = append(o.Lines, login)
	}
	life := timeline{Title: "Session", begin: e.Since, whole: end.Sub(e.Since)}
	life.add("WebSocket opened", "begin", e.Since)
	if last := end.Add(-e.Idle); last.After(e.Since) {
		life.add("last byte", "last", last)
	}
	if e.over != nil {
		life.add("ended", "end", end)
	} else {
		life.add("now", "now", now)
	}
	o.Lines = append(o.Lines, life)
	return o
}

const (
	// maxWatches is how many sessions are watched at a time, and maxLooks how often each
	// is remembered.
	maxWatches = 16
	maxLooks   = maxPoints
)

// watches remember what was seen of the sessions that somebody looks at: those that were
// looked at last, each time that was. So the line of one begins when somebody looks.
type watches struct {
	mu  sync.Mutex
	all []*watch
}

// A watch is what was seen of one session.
type watch struct {
	id     uint64
	at     time.Time
	points []float64 // bytes a second
}

// look adds what is seen now, and returns the line.
func (w *watches) look(e *entry, now time.Time) *chart {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.all, func(o *watch) bool { return o.id == e.ID })
	if i < 0 {
		if len(w.all) == maxWatches {
			oldest := slices.MinFunc(w.all, func(a, b *watch) int { return a.at.Compare(b.at) })
			w.all = slices.DeleteFunc(w.all, func(o *watch) bool { return o == oldest })
		}
		w.all = append(w.all, &watch{id: e.ID})
		i = len(w.all) - 1
	}
	o := w.all[i]
	if now.Sub(o.at) >= minSpan {
		o.at = now
		o.points = append(o.points, e.upRate.bytes+e.downRate.bytes)
		o.points = o.points[max(0, len(o.points)-maxLooks):]
	}
	c := &chart{Title: "Rate", points: slices.Clone(o.points)}
	c.Now, c.Peak = bytesRate.format(c.points[len(c.points)-1]), bytesRate.format(slices.MaxFunc(c.points, cmp.Compare[float64]))
	return c
}
