package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// gateway is one running xmppgate process.
type gateway struct {
	listen, admin string // host:port
	upstream      string
	env           []string
	proc          *process
}

var gatewayBinary string // built by TestMain

// startGateway runs xmppgate in front of upstream; env adds or overrides variables.
func startGateway(upstream string, env ...string) (g *gateway, err error) {
	for range 3 { // a port may have been taken in between
		var ports []int
		if ports, err = freePorts(2); err != nil {
			return nil, err
		}
		g = &gateway{
			listen:   fmt.Sprintf("127.0.0.1:%d", ports[0]),
			admin:    fmt.Sprintf("127.0.0.1:%d", ports[1]),
			upstream: upstream,
			env:      env,
		}
		for _, kv := range env {
			if listen, ok := strings.CutPrefix(kv, "XMPPGATE_LISTEN="); ok {
				g.listen, _, _ = strings.Cut(listen, ",")
			}
		}
		if err = g.start(); err == nil {
			return g, nil
		}
		if g.proc != nil {
			g.proc.kill()
		}
	}
	return nil, err
}

// start runs a process on the addresses of g; a second start takes the place of one that has ended.
func (g *gateway) start() (err error) {
	cmd := exec.Command(gatewayBinary)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "XMPPGATE_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env,
		"XMPPGATE_LISTEN="+g.listen,
		"XMPPGATE_ADMIN_LISTEN="+g.admin,
		"XMPPGATE_UPSTREAM="+g.upstream,
		"XMPPGATE_LOG_LEVEL=info",
		"GORACE=halt_on_error=1 atexit_sleep_ms=0",
	)
	if loop := os.Getenv("E2E_LOOP"); loop != "" {
		cmd.Env = append(cmd.Env, "XMPPGATE_LOOP="+loop)
	}
	cmd.Env = append(cmd.Env, g.env...)
	if g.proc, err = startProcess("xmppgate", cmd); err != nil {
		return err
	}
	return g.proc.awaitReady(10*time.Second, func() error {
		_, err := g.get("/readyz")
		return errors.Join(err, accepts(g.listen))
	})
}

// gatewayFor starts a gateway that lives as long as the test.
func gatewayFor(t *testing.T, upstream string, env ...string) *gateway {
	t.Helper()
	needGateway(t)
	g, err := startGateway(upstream, env...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("gateway in front of %s:\n%s", upstream, g.proc.log.tail(0))
		}
		if !g.proc.exited() {
			g.proc.kill()
		}
	})
	return g
}

// needGateway skips tests of the gateway itself when clients talk to the servers' own endpoints.
func needGateway(t testing.TB) {
	t.Helper()
	if native {
		t.Skip("E2E_NATIVE: there is no gateway to test")
	}
}

func (g *gateway) url() string { return "ws://" + g.listen + "/xmpp-websocket" }

// get fetches a page of the admin listener.
func (g *gateway) get(path string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + g.admin + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// awaitMetric waits until a metric, see [gateway.metric], has this value.
func (g *gateway) awaitMetric(name string, want float64) error {
	return poll(patience, func() error {
		got, err := g.metric(name)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %v, want %v", name, got, want)
		}
		return err
	})
}

// record is one line of the gateway's log.
type record struct {
	Level, Msg     string
	Remote, Ending string // of "session ended"
	Cause          string
}

// records returns the log lines with this message, of what was logged after the first from bytes.
func (g *gateway) records(msg string, from int) (found []record) {
	for line := range strings.Lines(g.proc.log.all()[from:]) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil && r.Msg == msg {
			found = append(found, r)
		}
	}
	return found
}

// awaitEnd returns the record of the one session that ended after the first from bytes of the log.
func (g *gateway) awaitEnd(from int) (r record, err error) {
	err = poll(patience, func() error {
		ended := g.records("session ended", from)
		if len(ended) != 1 {
			return fmt.Errorf("%d sessions ended according to the log, want 1:\n%s", len(ended), g.proc.log.tail(from))
		}
		r = ended[0]
		return nil
	})
	return r, err
}

// metric returns the sum of all samples of a metric, or of those that start with its name and some labels.
func (g *gateway) metric(name string) (float64, error) { return g.sumMatching(name) }

// sumMatching returns the sum of the samples of a metric that have these labels, each as in name="value".
func (g *gateway) sumMatching(name string, labels ...string) (float64, error) {
	page, err := g.get("/metrics")
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || !strings.Contains(name, "{") && rest[0] != ' ' && rest[0] != '{' ||
			slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
		v, err := strconv.ParseFloat(fields[0], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("no metric %s with labels %q", name, labels)
	}
	return sum, nil
}

// footprint is what a process holds.
type footprint struct {
	descriptors, goroutines int
	rss                     int // KiB
}

func (f footprint) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d KiB resident", f.descriptors, f.goroutines, f.rss)
}

func (g *gateway) footprint() (f footprint, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(g.proc.pid()))
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return f, err
	}
	f.descriptors = len(fds)
	goroutines, err := g.metric("go_goroutines")
	if err != nil {
		return f, err
	}
	f.goroutines = int(goroutines)
	status, err := os.Open(filepath.Join(proc, "status"))
	if err != nil {
		return f, err
	}
	defer status.Close()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			f.rss, err = strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(v, "kB")))
			return f, err
		}
	}
	return f, errors.New("no VmRSS in /proc/PID/status")
}
