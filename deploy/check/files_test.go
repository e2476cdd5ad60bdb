package check

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func TestPrometheus(t *testing.T) {
	run(t, "promtool", "check", "config", "../prometheus/prometheus.yml")
	run(t, "promtool", "check", "rules", "--lint=all", "--lint-fatal", "../prometheus/rules.yml")
	run(t, "promtool", "test", "rules", "../prometheus/rules_test.yml")
}

// A PodMonitor, a ServiceMonitor and an operator all name the job differently.
func TestNoJobName(t *testing.T) {
	named := regexp.MustCompile(`\bjob\s*(=~|!~|!=|=)\s*\\?"[^$"\\][^"]*"`)
	for _, path := range []string{"../prometheus/rules.yml", "../grafana/dashboard.json"} {
		if found := named.FindAllString(string(read(t, path)), -1); found != nil {
			t.Errorf("%s: %q", path, found)
		}
	}
}

// Every expression of the dashboard becomes a rule, so that promtool parses it.
func TestDashboard(t *testing.T) {
	var dashboard any
	if err := json.Unmarshal(read(t, "../grafana/dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	var collect func(any)
	collect = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, n := range node {
				collect(n)
			}
		case map[string]any:
			if expr, ok := node["expr"].(string); ok {
				expr = strings.NewReplacer("$__rate_interval", "5m", "$job", "x", "$instance", "x").Replace(expr)
				rules = append(rules, rule{fmt.Sprintf("panel:%d", len(rules)), expr})
			}
			for _, n := range node {
				collect(n)
			}
		}
	}
	collect(dashboard)
	if len(rules) < 8 {
		t.Fatalf("only %d expressions", len(rules))
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "promtool", "check", "rules", path)
}

// systemd-analyze needs no running systemd. It wants the program to exist.
func TestSystemd(t *testing.T) {
	unit := replace(t, string(read(t, "../systemd/xmppgate.service")), "=/usr/local/bin/xmppgate", "="+xmppgate)
	path := filepath.Join(t.TempDir(), "xmppgate.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := string(read(t, "../systemd/xmppgate.socket"))
	if err := os.WriteFile(strings.TrimSuffix(path, "service")+"socket", []byte(socket), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := regexp.MustCompile(`(?m)^ListenStream=(.+)$`).FindStringSubmatch(socket)
	if !strings.Contains(checkConfig(t, nil), " :"+listen[1]) || !strings.Contains(socket, "XMPPGATE_LISTEN=:"+listen[1]) {
		t.Errorf("%s is not what the gateway listens on", listen[1])
	}
	run(t, "systemd-analyze", "verify", "--man=no", path, strings.TrimSuffix(path, "service")+"socket")
	// 1.5 of 10 is "OK"; a service without any hardening has 9.6.
	run(t, "systemd-analyze", "security", "--offline=yes", "--threshold=15", path)

	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(.+)$`).FindStringSubmatch(unit)
	if grace, err := time.ParseDuration(stop[1]); err != nil || grace <= drainTime(t, nil) {
		t.Errorf("TimeoutStopSec=%v (%v): SIGKILL comes before the end of the drain", grace, err)
	}
}
