package status

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"xmppgate/metrics/share"
	"xmppgate/proxy"
)

// A Traffic is one direction of a listed session.
type Traffic struct {
	Messages         uint64  `json:"messages"`
	Presences        uint64  `json:"presences"`
	IQs              uint64  `json:"iqs"`
	Nonzas           uint64  `json:"nonzas"`
	Bytes            uint64  `json:"bytes"`
	StanzasPerSecond float64 `json:"stanzas_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"`
	QueuedBytes      int     `json:"queued_bytes"`
	Stalls           int     `json:"stalls"`
	StalledSeconds   float64 `json:"stalled_seconds"`
}

// A Session is one item of /connections.
type Session struct {
	ID            uint64    `json:"id"`
	Remote        string    `json:"remote"`
	Network       string    `json:"network"`
	Domain        string    `json:"domain"`
	Server        string    `json:"server"`
	Phase         string    `json:"phase"`
	Resumable     bool      `json:"resumable"`
	ClientTLS     bool      `json:"client_tls"`
	ServerTLS     bool      `json:"server_tls"`
	ClientTLSInfo *TLS      `json:"client_tls_info,omitempty"` // nil if it is not known
	ServerTLSInfo *TLS      `json:"server_tls_info,omitempty"`
	Since         time.Time `json:"since"`
	IdleSeconds   float64   `json:"idle_seconds"`
	PingSeconds   float64   `json:"ping_seconds,omitzero"`
	Up            Traffic   `json:"up"`
	Down          Traffic   `json:"down"`

	Login       []Step       `json:"login,omitempty"`       // the steps that it has come to
	Compression *Compression `json:"compression,omitempty"` // nil if it was not agreed on
	*Ending                  // nil while it is live
}

// A TLS tells what was negotiated. What is not known is empty.
type TLS struct {
	Version string `json:"version"` // 1.2 or 1.3
	Curve   string `json:"curve,omitzero"`
	Cipher  string `json:"cipher,omitzero"`
}

func tlsOf(i proxy.TLSInfo) *TLS {
	if i == (proxy.TLSInfo{}) {
		return nil
	}
	t := &TLS{Version: strings.TrimPrefix(tls.VersionName(i.Version), "TLS ")}
	if i.Curve != 0 {
		t.Curve = tls.CurveID(i.Curve).String()
	}
	if i.Cipher != 0 {
		t.Cipher = tls.CipherSuiteName(i.Cipher)
	}
	return t
}

// A Step is a point that a session has come to on the way to its first stanza.
type Step struct {
	Name         string  `json:"step"`
	AfterSeconds float64 `json:"after_seconds"` // since the WebSocket was opened
}

// A Compression tells what a session has saved: the payloads of its messages in bytes,
// as they are and as they were sent.
type Compression struct {
	UpPlain   uint64 `json:"up_plain_bytes"`
	UpWire    uint64 `json:"up_wire_bytes"`
	DownPlain uint64 `json:"down_plain_bytes"`
	DownWire  uint64 `json:"down_wire_bytes"`
}

// An Ending is what a session that is over has beside what all have.
type Ending struct {
	Ended      time.Time `json:"ended"`
	AgeSeconds float64   `json:"age_seconds"`
	Name       string    `json:"ending"`
	Cause      string    `json:"cause"`
	Condition  string    `json:"condition,omitzero"`
	Mechanism  string    `json:"mechanism,omitzero"`
	Login      string    `json:"login,omitzero"`
	JID        string    `json:"jid,omitzero"`
	LimitBytes int       `json:"limit_bytes,omitzero"`
	SizeBytes  int       `json:"size_bytes,omitzero"`
}

func traffic(t proxy.Traffic, q proxy.Queue, r rate) Traffic {
	return Traffic{
		t.Messages, t.Presences, t.IQs, t.Nonzas, t.Bytes,
		round(r.stanzas), round(r.bytes),
		q.Bytes, q.Stalls, q.Stalled.Seconds(),
	}
}

// round keeps two digits behind the point.
func round(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }

// remoteName is empty for a client on a Unix socket.
func remoteName(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (s *Status) listed(e *entry) Session {
	l := Session{
		ID: e.ID, Remote: remoteName(e.Remote), Network: s.networkOf(e.Remote.Addr()), Domain: e.Domain, Server: e.Server,
		Phase: e.Phase, Resumable: e.Resumable, ClientTLS: e.ClientTLS, ServerTLS: e.ServerTLS,
		Since: e.Since, IdleSeconds: e.Idle.Seconds(), PingSeconds: e.Ping.Seconds(),
		Up: traffic(e.Up, e.UpQueue, e.upRate), Down: traffic(e.Down, e.DownQueue, e.downRate),
	}
	l.ClientTLSInfo, l.ServerTLSInfo = tlsOf(e.ClientTLSInfo), tlsOf(e.ServerTLSInfo)
	for name, after := range e.Steps.All() {
		l.Login = append(l.Login, Step{name, after.Seconds()})
	}
	slices.SortStableFunc(l.Login, func(a, b Step) int { return cmp.Compare(a.AfterSeconds, b.AfterSeconds) }) // a client may choose a mechanism early
	if e.Compressed {
		l.Compression = &Compression{e.UpMessages.Plain, e.UpMessages.Wire, e.DownMessages.Plain, e.DownMessages.Wire}
	}
	if o := e.over; o != nil {
		l.Ending = &Ending{o.Ended, o.Age().Seconds(), o.Ending, o.Cause, o.Condition, o.Mechanism, o.Login, o.JID, o.Limit, o.Size}
	}
	return l
}

// A Group is one item of /connections with ?group=.
type Group struct {
	Group    string  `json:"group"`
	Sessions int     `json:"sessions"`
	Up       Traffic `json:"up"`
	Down     Traffic `json:"down"`
}

// add adds o to t.
func (t *Traffic) add(o Traffic) {
	t.Messages += o.Messages
	t.Presences += o.Presences
	t.IQs += o.IQs
	t.Nonzas += o.Nonzas
	t.Bytes += o.Bytes
	t.StanzasPerSecond = round(t.StanzasPerSecond + o.StanzasPerSecond)
	t.BytesPerSecond = round(t.BytesPerSecond + o.BytesPerSecond)
	t.QueuedBytes += o.QueuedBytes
	t.Stalls += o.Stalls
	t.StalledSeconds += o.StalledSeconds
}

// grouped counts sessions by what they have in common, the most numerous first.
func (s *Status) grouped(by string, sessions []*entry) (all []*Group) {
	found := map[string]*Group{}
	for n, e := range sessions {
		name := groups[by](s, &e.SessionInfo)
		g := found[name]
		if g == nil {
			g = &Group{Group: name}
			found[name] = g
			all = append(all, g)
		}
		g.Sessions++
		g.Up.add(traffic(e.Up, e.UpQueue, e.upRate))
		g.Down.add(traffic(e.Down, e.DownQueue, e.downRate))
		pause(n)
	}
	slices.SortFunc(all, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Sessions, a.Sessions), cmp.Compare(a.Group, b.Group))
	})
	return all
}

// pause lets others run after each few items: an answer is made on a processor that the
// loops need.
func pause(n int) {
	if n%32 == 31 {
		runtime.Gosched()
	}
}

// Options say what a Status shows. All fields must be set.
type Options struct {
	Gateway     Gateway
	Ended       *Ended
	Limit       func() int            // most sessions in an answer
	NetworkBits func() (ip4, ip6 int) // of the prefixes that make a network
	Events      *Events
	Samples     func() []Sample // the metrics
	Facts       func() Facts
	Log         *slog.Logger // gets what operators do
}

// A Status answers for a gateway; New makes one.
type Status struct {
	Options
	sampler *sampler
	history history
	samples *share.Flight[[]Sample]
	watches watches
	answers chan struct{} // one for each answer that is made
}

// maxAnswers is how many answers are made at a time, because each takes memory and time of
// a processor. Others wait.
const maxAnswers = 2

// New returns a Status.
func New(o Options) *Status {
	samples := share.New(func(fresh func()) []Sample {
		fresh()
		return o.Samples()
	})
	return &Status{samples: samples, Options: o, sampler: newSampler(o.Gateway.Sessions), history: history{gateway: o.Gateway, reading: reading{Events: o.Events}, samples: o.Samples}, answers: make(chan struct{}, maxAnswers)}
}

// Run keeps the history until ctx is done.
func (s *Status) Run(ctx context.Context) { s.history.run(ctx) }

// make calls f when an answer may be made, with the sessions that q asks for in its
// order. f does not write to the client, which may be slow. make returns false if ctx was
// done before.
func (s *Status) make(ctx context.Context, q *query, f func([]*entry)) bool {
	var all []entry // shared by all who ask now; so nobody waits for an answer before
	if q.closed {
		all = s.Ended.entries()
	} else {
		all = s.sampler.snapshot()
	}
	select {
	case s.answers <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-s.answers }()
	f(q.choose(all))
	return true
}

// List answers GET /connections.
func (s *Status) List(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var body bytes.Buffer
	all := 0
	if !s.make(r.Context(), &q, func(entries []*entry) {
		limit := min(q.limit, s.Limit())
		if q.group == "" {
			all = len(entries)
			writeList(&body, min(all, limit), func(n int) any { return s.listed(entries[n]) })
			return
		}
		groups := s.grouped(q.group, entries)
		all = len(groups)
		writeList(&body, min(all, limit), func(n int) any { return groups[n] })
	}) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Total-Count", strconv.Itoa(all))
	_, _ = body.WriteTo(w) // fails only if the client has left
}

// writeList writes n items as a JSON array, one a line.
func writeList(out *bytes.Buffer, n int, item func(int) any) {
	out.WriteByte('[')
	encode := json.NewEncoder(out)
	for i := range n {
		if i > 0 {
			out.WriteByte(',')
		}
		_ = encode.Encode(item(i)) // a type of ours, into memory
		pause(i)
	}
	out.WriteString("]\n")
}
