package status

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// format writes a number with its unit.
func (u unit) format(v float64) string {
	if u == bytesRate {
		return formatBytes(v) + "/s"
	}
	return formatNumber(v) + string(u)
}

// formatNumber writes a number with three digits or more that mean something.
func formatNumber(v float64) string {
	switch {
	case v >= 100 || v == math.Trunc(v):
		return grouped3(strconv.FormatFloat(math.Round(v), 'f', 0, 64))
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 2, 64), "0"), ".")
}

// grouped3 puts a narrow space between each three digits.
func grouped3(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}

// formatBytes writes a number of bytes.
func formatBytes(v float64) string {
	for _, u := range []string{"B", "KiB", "MiB", "GiB", "TiB"} {
		if v < 1000 || u == "TiB" {
			if u == "B" {
				v = math.Round(v)
			}
			return formatNumber(v) + "\u00a0" + u
		}
		v /= 1024
	}
	panic("unreachable")
}

// formatAge writes a duration with its two largest units.
func formatAge(d time.Duration) string {
	switch d = max(d, 0); {
	case d == 0:
		return "0\u00a0s"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f\u00a0ms", float64(d.Microseconds())/1e3)
	case d < time.Second:
		return fmt.Sprintf("%d\u00a0ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f\u00a0s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%d\u00a0min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d\u00a0h %d\u00a0min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d\u00a0d %d\u00a0h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// formatPing writes a round trip.
func formatPing(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return formatNumber(float64(d.Microseconds())/1e3) + "\u00a0ms"
}
