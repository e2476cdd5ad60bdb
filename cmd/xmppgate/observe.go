package main

import (
	"errors"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"xmppgate/cmd/xmppgate/internal/acme"
	"xmppgate/cmd/xmppgate/internal/status"
	"xmppgate/metrics"
	"xmppgate/proxy"
	"xmppgate/proxy/certfiles"
	"xmppgate/proxy/upstream"
)

// This file connects proxy and metrics, which do not import each other.

// An observer passes events of a gateway and its router to metrics and the log.
type observer struct {
	*metrics.Metrics // nil until the names of the servers are known
	ended            status.Ended
	events           status.Events
	log              *slog.Logger
	encrypted        sync.Map // servers that Encrypted has logged
}

var (
	_ proxy.Observer    = (*observer)(nil)
	_ upstream.Observer = (*observer)(nil)
)

// Ended implements proxy.Observer.
func (o *observer) Ended(s *proxy.EndedSession) {
	o.Metrics.Ended(s.ID, s.Ending, s.Age())
	o.ended.Add(s)
	o.events.Ended()
}

// Upgraded implements proxy.Observer.
func (o *observer) Upgraded(result string, took time.Duration) {
	o.Metrics.Upgraded(result, took)
	o.events.Upgraded(result)
}

// LoginEnded implements proxy.Observer.
func (o *observer) LoginEnded(session uint64, mechanism, result string, took time.Duration) {
	o.Metrics.LoginEnded(session, mechanism, result, took)
	o.events.LoginEnded(mechanism, result)
}

// StallOver implements proxy.Observer.
func (o *observer) StallOver(side string, d time.Duration) {
	o.Metrics.StallOver(side, d)
	o.events.StallOver()
}

// FilesRead implements upstream.Observer.
func (o *observer) FilesRead(server string, err error) {
	result := upstream.ResultOK
	if err != nil {
		result = upstream.ResultError
		o.log.Warn("the changed files of a server cannot be used; the old ones stay in force", "server", server, "error", err)
	} else {
		o.log.Info("the files of a server have changed and were read", "server", server)
	}
	o.Metrics.FilesRead(server, result)
}

// Secured implements proxy.Observer.
func (o *observer) Secured(h proxy.Handshake) {
	o.Metrics.Secured(h.Result, h.Version, h.Curve, h.Resumed, h.Took)
}

// CertificateRead is told that the files of a certificate for clients have changed.
func (o *observer) CertificateRead(files certfiles.Pair, err error) {
	if err != nil {
		o.log.Warn("the changed certificate for clients cannot be used; the old one stays in force", "file", files.Cert, "error", err,
			"remedy", "write the certificate and its key again; they are read as soon as they match")
	} else {
		o.log.Info("the certificate for clients has changed and was read", "file", files.Cert)
	}
	o.Metrics.CertificateRead(err == nil)
}

// CertificateObtained is told what came of asking for a certificate by ACME.
func (o *observer) CertificateObtained(domain string, expires time.Time, err error) {
	switch {
	case errors.Is(err, acme.ErrNotKept):
		o.log.Warn("what came by ACME cannot be kept", "name", domain, "error", err,
			"remedy", "XMPPGATE_ACME_CACHE needs free space and write permission; until then each start asks again, which authorities limit")
	case err != nil:
		o.log.Warn("no certificate by ACME; it is asked for again", "domain", domain, "error", err,
			"remedy", "the authority must reach this gateway as port 443 of the domain, or XMPPGATE_ACME_LISTEN as port 80")
	default:
		o.log.Info("certificate by ACME", "domain", domain, "expires", expires)
	}
	o.Metrics.CertificateRead(err == nil)
}

// Encrypted implements upstream.Observer.
func (o *observer) Encrypted(server string) {
	if _, logged := o.encrypted.LoadOrStore(server, true); !logged {
		o.log.Info("the server on this machine requires TLS, which protects nothing here and costs both sides; "+
			"to save that, see deploy/prosody/existing.cfg.lua and deploy/ejabberd/ejabberd.yml", "server", server)
	}
}

// Health implements upstream.Observer. The metrics ask the router.
func (o *observer) Health(server string, down *upstream.Error) {
	if down == nil {
		o.log.Info("server is up", "server", server)
	} else {
		o.log.Warn("server is down", "server", server, "phase", down.Phase, "result", down.Result, "error", down.Err)
	}
}

// Updated implements upstream.Observer.
func (o *observer) Updated(servers []string) { o.SetServers(servers) }

// newRouter returns a router that tells o what it does.
func (c *config) newRouter(o *observer) (*upstream.Router, error) {
	u := c.upstream
	u.Observer = o
	return upstream.NewRouter(u)
}

// serverNames returns the names of all servers, comma separated.
func serverNames(r *upstream.Router) string {
	var names []string
	for _, s := range r.Status() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ",")
}

// newMetrics returns the metrics of a gateway. The label values are those that
// proxy and upstream declare.
func newMetrics(s source, b build, sessions, connections func() int, draining func() bool, logLinesLost func() uint64) *metrics.Metrics {
	var endings, servers []string
	for _, e := range proxy.Endings() {
		endings = append(endings, e.Name)
	}
	for _, status := range s.router.Status() {
		servers = append(servers, status.Name)
	}
	return metrics.New(s, metrics.Options{
		Version:          b.version,
		Revision:         b.revision,
		Endings:          endings,
		UpgradeResults:   proxy.UpgradeResults(),
		DialResults:      proxy.DialResults(),
		Phases:           proxy.Phases(),
		Sides:            proxy.Sides(),
		Servers:          servers,
		OpenPhases:       upstream.Phases(),
		OpenResults:      upstream.Results(),
		Mechanisms:       proxy.Mechanisms(),
		LoginResults:     proxy.LoginResults(),
		ResumeResults:    proxy.ResumeResults(),
		ErrorSides:       proxy.ErrorSides(),
		StreamErrors:     proxy.StreamErrors(),
		SessionsLimit:    sessions,
		ConnectionsLimit: connections,
		TLS: metrics.TLSOptions{
			Results: proxy.HandshakeResults(), Versions: proxy.TLSVersions(), Curves: proxy.TLSCurves(),
			Certificates: s.Certificates,
		},
		Limits: metrics.LimitOptions{
			Names: append(proxy.LimitNames(), limitMemory, limitDescriptors), Limits: s.Limits,
			Overloaded: func() bool { return s.gateway.Overload() != "" },
			Networks: func() (known, lockedOut, denied int) {
				n := s.gateway.Networks()
				return n.Networks, n.LockedOut, n.Denied
			},
		},
		Draining:     draining,
		LogLinesLost: logLinesLost,
	})
}

// A source presents a gateway to metrics.
type source struct {
	gateway      *proxy.Gateway
	router       *upstream.Router
	certificates func() *certfiles.Store // for clients; nil without TLS_CERT
	acme         *acme.Manager           // nil without ACME_DOMAINS
}

// Certificates returns the certificates for clients.
func (s source) Certificates() (all []metrics.Certificate) {
	if s.acme != nil {
		for domain, expires := range s.acme.Expiries {
			all = append(all, metrics.Certificate{File: "acme:" + domain, Expires: expires})
		}
	}
	if files := s.certificates(); files != nil {
		for _, c := range files.Certificates() {
			all = append(all, metrics.Certificate(c))
		}
	}
	return all
}

func (s source) Totals() (up, down metrics.Traffic) {
	u, d := s.gateway.Totals()
	return metrics.Traffic(u), metrics.Traffic(d)
}

func (s source) Sessions() map[string]int {
	count := map[string]int{}
	for i := range s.gateway.Sessions() {
		count[i.Phase]++
	}
	return count
}

func (s source) Connections() iter.Seq[metrics.Connection] {
	return func(yield func(metrics.Connection) bool) {
		for i := range s.gateway.Sessions() {
			if !yield(connection(i)) {
				return
			}
		}
	}
}

func (s source) Compression() metrics.Compression {
	i := s.gateway.CompressionInfo()
	return metrics.Compression{
		Sessions: i.Sessions, WithoutMemory: i.WithoutMemory, Memory: i.Memory, MemoryLimit: i.MemoryLimit,
		Up: metrics.MessageSize(i.Up), Down: metrics.MessageSize(i.Down),
	}
}

// Servers returns the state of the servers.
func (s source) Servers() (all []metrics.Server) {
	for _, status := range s.router.Status() {
		all = append(all, metrics.Server{Name: status.Name, Up: status.Up, Sessions: status.Sessions})
	}
	return all
}

func connection(i proxy.SessionInfo) metrics.Connection {
	return metrics.Connection{
		ID:     strconv.FormatUint(i.ID, 10),
		Remote: remote(i),
		Server: i.Server,
		Phase:  i.Phase,
		Since:  i.Since,
		Idle:   i.Idle,
		Ping:   i.Ping,
		Up:     metrics.Traffic(i.Up),
		Down:   metrics.Traffic(i.Down),

		UpQueue:      metrics.Queue{Bytes: i.UpQueue.Bytes, Stalled: i.UpQueue.Stalled},
		DownQueue:    metrics.Queue{Bytes: i.DownQueue.Bytes, Stalled: i.DownQueue.Stalled},
		Compressed:   i.Compressed,
		UpMessages:   metrics.MessageSize(i.UpMessages),
		DownMessages: metrics.MessageSize(i.DownMessages),
	}
}

// remote is empty for a client on a Unix socket.
func remote(i proxy.SessionInfo) string {
	if !i.Remote.IsValid() {
		return ""
	}
	return i.Remote.String()
}
