package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"xmppgate/proxy"
)

// A bound is what a number may be. Durations are numbers.
type bound struct {
	least, most int64
	why         string // the reason for least or most, for the error; may be empty
}

// bounds has a row for every variable that is a number, by its name without the
// prefix. It is the only definition: check enforces it, and --help and the
// documentation print it.
var bounds = map[string]bound{
	"MAX_STANZA_BYTES":         {10000, proxy.LargestStanza, "every server must accept 10000 (RFC 6120, section 13.12), and a session holds a whole message"},
	"MAX_SERVER_STANZA_BYTES":  {10000, proxy.LargestServerStanza, ""},
	"MAX_SESSIONS":             {0, proxy.MostSessions, "0 means what the limit of open files allows"},
	"MAX_UNAUTHENTICATED":      {0, proxy.MostSessions, ""},
	"NETWORK_SESSIONS":         {0, proxy.MostSessions, ""},
	"NETWORK_UNAUTHENTICATED":  {0, proxy.MostSessions, ""},
	"NETWORK_IPV4_BITS":        {8, 32, ""},
	"NETWORK_IPV6_BITS":        {16, 128, ""},
	"STANZA_RATE":              {0, 5000, "0 means any number"},
	"BYTE_RATE":                {0, 1 << 30, "0 means any number"},
	"AUTH_TIMEOUT":             {int64(10 * time.Second), int64(24 * time.Hour), "people who register fill in a form first"},
	"MAX_SESSION_AGE":          {0, int64(365 * 24 * time.Hour), "0s means never"},
	"COMPRESSION_MEMORY":       {8 << 10, proxy.LargestCompressionMemory, "a session keeps 8192 or 12288"},
	"PING_INTERVAL":            {int64(time.Second), int64(proxy.LongestPingInterval), "a client that is gone is noticed after two intervals"},
	"DRAIN_DELAY":              {0, int64(time.Hour), ""},
	"DRAIN_TIMEOUT":            {int64(time.Second), int64(24 * time.Hour), ""},
	"CONNECTION_METRICS_LIMIT": {0, 100000, "each costs some series at every scrape"},
}

// number returns the value of a field that is a number, and whether it is one.
func number(v reflect.Value) (n int64, ok bool) {
	if !v.CanInt() || v.Type().PkgPath() == "log/slog" { // a level is a word
		return 0, false
	}
	return v.Int(), true
}

// show formats a number as its variable takes it.
func show(t reflect.Type, n int64) string {
	if t != reflect.TypeFor[time.Duration]() {
		return fmt.Sprint(n)
	}
	s := time.Duration(n).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// limits is how the help states the bounds of a variable.
func (b bound) limits(t reflect.Type) string {
	return show(t, b.least) + " to " + show(t, b.most)
}

// checkNumbers adds an error for each number that is out of bounds, and returns
// whether there were none.
func (c *config) checkNumbers(r *report) (ok bool) {
	ok = true
	for _, v := range variables() {
		field := reflect.ValueOf(*c).Field(v.field)
		n, is := number(field)
		name := strings.TrimPrefix(v.name, prefix)
		b := bounds[name]
		if !is || n >= b.least && n <= b.most {
			continue
		}
		ok = false
		what, why := "too small", ""
		if n > b.most {
			what = "too large"
		}
		if b.why != "" {
			why = ": " + b.why
		}
		r.add(name, "%s: write at least %s and at most %s%s", what, show(field.Type(), b.least), show(field.Type(), b.most), why)
	}
	return ok
}
