package main

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"xmppgate/metrics"
	"xmppgate/proxy"
)

// A rateText is a rate as a variable has it: "100/s:1000" means 100 a second and 1000 at
// once, "off" any number.
type rateText struct {
	proxy.Rate
	text string
}

// rateUnits are the times that a rate may be of.
var rateUnits = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

const (
	rateOff  = "off"
	maxBurst = 1_000_000
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *rateText) UnmarshalText(text []byte) error {
	r.text = string(text)
	if r.text == rateOff {
		return nil
	}
	every, burst, _ := strings.Cut(r.text, ":")
	number, unit, _ := strings.Cut(every, "/")
	n, err := strconv.ParseFloat(number, 64)
	per, known := rateUnits[unit]
	b, err2 := strconv.Atoi(burst)
	if err != nil || err2 != nil || !known || !(n > 0) || math.IsInf(n, 0) || n > maxBurst || b < 1 || b > maxBurst {
		return fmt.Errorf("write how often and how many at once, such as 100/s:1000 or 10/m:100, up to %d, or off", maxBurst)
	}
	r.PerSecond, r.Burst = n/per.Seconds(), b
	return nil
}

// String returns what was parsed.
func (r rateText) String() string { return r.text }

// Words for networks in LIMITS_EXEMPT.
var networkWords = map[string][]netip.Prefix{
	"none":     nil,
	"loopback": prefixes("127.0.0.0/8", "::1/128"),
	// Private use (RFC 1918, RFC 4193), link-local, and what providers and cloud
	// networks share among their own machines (RFC 6598).
	"private": prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// checkLimits parses the networks that are not limited.
func (c *config) checkLimits(r *report) {
	for _, item := range c.LimitsExempt {
		if known, ok := networkWords[item]; ok {
			c.exempt = slices.Concat(c.exempt, known)
		} else if n, err := proxy.ParseNetwork(item); err != nil {
			r.add("LIMITS_EXEMPT", "%w; or one of the words loopback, private and none", err)
		} else {
			c.exempt = append(c.exempt, n)
		}
	}
}

// networkLimits are those of client networks, when so many sessions may live at once.
func (c *config) networkLimits(sessions int) proxy.NetworkLimits {
	return proxy.NetworkLimits{
		IPv4Bits:        c.NetworkIPv4Bits,
		IPv6Bits:        c.NetworkIPv6Bits,
		Exempt:          c.exempt,
		Sessions:        shareOf(sessions, 1, 2, c.NetworkSessions),
		Unauthenticated: shareOf(sessions, 1, 4, c.NetworkUnauthenticated),
		Requests:        c.NetworkRequests.Rate,
		Handshakes:      c.NetworkHandshakes.Rate,
		FailedLogins:    c.NetworkFailedLogins.Rate,
	}
}

// leastShare is what a share is at least: a family that comes back at once.
const leastShare = 16

// shareOf returns what is configured or, if that is zero, a share of the sessions that may
// live at once. Zero means no limit.
func shareOf(sessions, numerator, denominator, configured int) int {
	if configured > 0 || sessions == 0 {
		return configured
	}
	return max(leastShare, sessions*numerator/denominator)
}

// Names of limits beside those of the gateway.
const (
	limitMemory      = "memory_bytes"
	limitDescriptors = "descriptors"
)

// Limits returns the limits that are in force.
func (s source) Limits() (all []metrics.Limit) {
	for _, l := range s.gateway.Limits() {
		all = append(all, metrics.Limit{Name: l.Name, Limit: float64(l.Limit), Current: float64(l.Current)})
	}
	used, most := memoryInUse()
	all = append(all,
		metrics.Limit{Name: limitMemory, Limit: float64(most), Current: float64(used)},
		metrics.Limit{Name: limitDescriptors, Limit: float64(descriptorLimit()), Current: float64(descriptorsInUse())})
	return slices.DeleteFunc(all, func(l metrics.Limit) bool { return l.Limit == 0 })
}
