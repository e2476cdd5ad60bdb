package main

import (
	"fmt"
	"math"
	"strings"
)

// What docs/scaling.md shows: what a session costs, from several scenarios, and what so many
// need, by arithmetic.

const scalingPage = "../../docs/scaling.md"

// A cost is one figure of the arithmetic: the median of a case of a scenario.
type cost struct {
	title, unit          string
	scenario, name, from string // from is the system, gate unless it is given
	less                 *cost  // what is to be taken away from it
}

var (
	userMemory   = cost{"memory of the gateway, plain text", "KiB", "idle", "500 → 9,000 sessions", "", nil}
	tlsMemory    = cost{"memory of the gateway, TLS with the client", "KiB", "wss", "idle, 500 → 4,000 sessions", "", nil}
	kernelHalf   = cost{"memory of the kernel, for the two sockets of the gateway", "KiB", "scale", "memory of the kernel, of the two sockets of a gateway", "", nil}
	idleCPU      = cost{"CPU of a second in which the session is quiet", "µs", "scale", "idle, pings after 30 seconds", "", nil}
	stanzaUp     = cost{"CPU of a stanza from the client", "ns", "relay", "up, 1 a write, 64 connections", "", nil}
	stanzaDown   = cost{"CPU of a stanza to the client", "ns", "relay", "down, 1 a write, 64 connections", "", nil}
	stanzaUpTLS  = cost{"CPU of a stanza from the client, TLS", "ns", "wss", "up, 1 a write, 64 connections", "", nil}
	stanzaDnTLS  = cost{"CPU of a stanza to the client, TLS", "ns", "wss", "down, 1 a write, 64 connections", "", nil}
	unixStanza   = cost{"CPU of a stanza, Unix socket to the server", "ns", "unix", "ping-pong, 64 connections", "", nil}
	tcpStanza    = cost{"… TCP to the server, in the same run", "ns", "unix", "ping-pong, 64 connections", gate + " TCP", nil}
	plainLogin   = cost{"CPU of a login, plain text", "µs", "scale", "login", "", nil}
	tlsLogin     = cost{"CPU of a login, with its TLS handshake", "µs", "scale", "login", overTLS, nil}
	handshake    = cost{"… of which the handshake", "µs", "scale", "login", overTLS, &plainLogin}
	pingCPU      = cost{"CPU of a ping and its pong", "µs", "scale", "a ping and its pong", "", nil}
	pingCalls    = cost{"… system calls", "", "scale", "a ping and its pong, system calls", "", nil}
	twoCallsCost = cost{"… CPU of the two that are needed at least", "µs", "scale", "the two system calls that they need at least", "", nil}
)

var costs = []*cost{&userMemory, &tlsMemory, &kernelHalf, &idleCPU, &pingCPU, &pingCalls, &twoCallsCost,
	&stanzaUp, &stanzaDown, &stanzaUpTLS, &stanzaDnTLS, &unixStanza, &tcpStanza, &plainLogin, &tlsLogin, &handshake}

// of returns the cost in its unit.
func (c *cost) of(res results) (v float64, ok bool) {
	from := c.from
	if from == "" {
		from = gate
	}
	for _, cell := range res[c.scenario].Cells {
		if s, found := cell.Values[from]; found && cell.Case == c.name {
			v, ok = s[1], true
		}
	}
	if c.less != nil && ok {
		var less float64
		less, ok = c.less.of(res)
		v -= less
	}
	return v, ok
}

func measured(res results) string {
	var b strings.Builder
	b.WriteString("| of a session | median | scenario |\n| --- | ---: | --- |\n")
	for _, c := range costs {
		v, ok := c.of(res)
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", c.title, strings.TrimSpace(digits(v)+" "+c.unit), c.scenario)
	}
	return b.String()
}

// What the plan is for. The sessions of a gateway are what its descriptors allow where the
// limit of open files is 262,144, half of that for spare.
const (
	planStanzas    = 4.0               // a minute and session, half of them in each direction
	planReturn     = 300.0             // seconds in which all log in again, after an outage
	planPerGateway = 50_000            // sessions
	planFull       = 0.5               // how much of a core may be busy
	localPorts     = 60999 - 32768 + 1 // net.ipv4.ip_local_port_range as Linux has it
)

var planSessions = []float64{1e4, 1e5, 1e6}

// plan is what so many sessions need.
func plan(res results) string {
	need := map[*cost]float64{}
	for _, c := range costs {
		v, ok := c.of(res)
		if !ok {
			return ""
		}
		need[c] = v
	}
	gateways := func(n float64) float64 { return math.Ceil(n/planPerGateway) + 1 }
	gib := func(kib float64) string { return digits(kib/(1<<20)) + " GiB" }
	core := func(v float64) string { return digits(v / planFull) }
	stanzas := func(up, down *cost) float64 { return planStanzas / 60 * (need[up] + need[down]) / 2 / 1e9 }
	rows := []struct {
		title string
		of    func(n float64) string
	}{
		{"gateways of up to 50,000 sessions, and one that may be lost", func(n float64) string { return fmt.Sprint(gateways(n)) }},
		{"descriptors, at two a session", func(n float64) string { return digits(2 * n) }},
		{"memory of all gateways, plain text", func(n float64) string { return gib(n * need[&userMemory]) }},
		{"… with TLS", func(n float64) string { return gib(n * need[&tlsMemory]) }},
		{"memory of their kernels", func(n float64) string { return gib(n * need[&kernelHalf]) }},
		{"cores for pings", func(n float64) string { return core(n * need[&idleCPU] / 1e6) }},
		{"cores for 4 stanzas a minute and session", func(n float64) string { return core(n * stanzas(&stanzaUp, &stanzaDown)) }},
		{"… with TLS", func(n float64) string { return core(n * stanzas(&stanzaUpTLS, &stanzaDnTLS)) }},
		{"cores while all log in again within five minutes", func(n float64) string { return core(n / planReturn * need[&plainLogin] / 1e6) }},
		{"… with TLS", func(n float64) string { return core(n / planReturn * need[&tlsLogin] / 1e6) }},
		{"logins a second meanwhile", func(n float64) string { return digits(n / planReturn) }},
		{"local ports of a gateway, all sessions at one server", func(n float64) string {
			return fmt.Sprintf("%s of %s", digits(min(n, planPerGateway)), digits(localPorts))
		}},
		{"… servers (or addresses or ports of one) that this takes", func(n float64) string { return fmt.Sprint(math.Ceil(min(n, planPerGateway) / localPorts)) }},
	}
	var b strings.Builder
	b.WriteString("| for so many sessions |")
	for _, n := range planSessions {
		fmt.Fprintf(&b, " %s |", digits(n))
	}
	b.WriteString("\n| --- |" + strings.Repeat(" ---: |", len(planSessions)) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s |", r.title)
		for _, n := range planSessions {
			fmt.Fprintf(&b, " %s |", r.of(n))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// held is what the largest run has shown.
func held(res results) string {
	var b strings.Builder
	for _, s := range scenarios {
		r, ok := res[s.name]
		if s.name != "crowd" && s.name != "half-million" || !ok {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("| run | | |\n| --- | --- | ---: |\n")
		}
		for _, c := range r.Cells {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.name, strings.TrimSuffix(c.Case+", "+c.Unit, ", "), c.Values[gate])
		}
	}
	return b.String()
}
