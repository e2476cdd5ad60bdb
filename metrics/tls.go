package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Certificate is one that clients get over TLS.
type Certificate struct {
	File    string // of the configuration
	Expires time.Time
}

// TLSOptions describe TLS with clients. The zero value is none.
type TLSOptions struct {
	Results, Versions, Curves []string // see Secured

	// Certificates returns those that clients get. It is called at every scrape; nil
	// means none.
	Certificates func() []Certificate
}

// A tlsMetrics counts handshakes of TLS with clients.
type tlsMetrics struct {
	handshakes, versions, curves, read map[string]prometheus.Counter

	resumed  prometheus.Counter
	duration prometheus.Histogram
}

func newTLSMetrics(r prometheus.Registerer, o TLSOptions) *tlsMetrics {
	r.MustRegister(
		&certificateCollector{o.Certificates},
	)
	return &tlsMetrics{
		handshakes: counters(r, "xmppgate_tls_handshakes_total", "Clients of the TLS listeners, by what came of their handshake.", "result", o.Results),
		versions:   counters(r, "xmppgate_tls_versions_total", "Completed handshakes of TLS with clients, by version.", "version", o.Versions),
		curves:     counters(r, "xmppgate_tls_curves_total", "Completed handshakes of TLS with clients, by key exchange.", "curve", o.Curves),
		resumed:    newCounter(r, "xmppgate_tls_resumptions_total", "Completed handshakes of TLS with clients that resumed an earlier session."),
		duration:   histogram(r, "xmppgate_tls_handshake_duration_seconds", "Time from the ClientHello to the end of the handshake.", prometheus.ExponentialBuckets(0.0005, 4, 9)),
		read:       counters(r, "xmppgate_tls_certificates_read_total", "How often the files of a certificate for clients were read again because they had changed, by outcome.", "result", []string{"ok", "error"}),
	}
}

// Secured counts a handshake of TLS with a client: result, version and curve are of
// TLSOptions, version and curve empty if it has failed. took is zero if it has not begun.
func (m *Metrics) Secured(result, version, curve string, resumed bool, took time.Duration) {
	increment(m.tls.handshakes, result)
	if took > 0 {
		m.tls.duration.Observe(took.Seconds())
	}
	if version == "" {
		return
	}
	increment(m.tls.versions, version)
	increment(m.tls.curves, curve)
	if resumed {
		m.tls.resumed.Inc()
	}
}

// CertificateRead counts that the files of a certificate for clients were read again.
func (m *Metrics) CertificateRead(ok bool) {
	result := "ok"
	if !ok {
		result = "error"
	}
	increment(m.tls.read, result)
}

var certificateDesc = prometheus.NewDesc("xmppgate_tls_certificate_expiry_timestamp_seconds",
	"Expiry of a certificate that clients get, in seconds since 1970.", []string{"file"}, nil)

// A certificateCollector reports the certificates for clients.
type certificateCollector struct{ certificates func() []Certificate }

func (c *certificateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- certificateDesc }

func (c *certificateCollector) Collect(ch chan<- prometheus.Metric) {
	if c.certificates == nil {
		return
	}
	for _, one := range c.certificates() {
		ch <- value(certificateDesc, float64(one.Expires.Unix()), one.File)
	}
}
