package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// cell is one run of clients/matrix.mjs, which it is an argument of.
type cell struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Domain   string `json:"domain"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// Every server, by every way to it, with every library: login, roster, ping, a message to oneself, a clean end.
func TestMatrix(t *testing.T) {
	needGateway(t)
	t.Parallel()
	libraries := []string{"strophe", "xmppjs", "stanza"}
	cells := map[string][]cell{} // by library
	for _, s := range servers {
		for _, r := range s.routes() {
			g := gatewayFor(t, r.upstream)
			t.Cleanup(func() { // each library has left politely, as the gateway sees it
				if err := g.awaitMetric(`xmppgate_sessions_ended_total{ending="client-closed"}`, float64(len(libraries))); err != nil {
					t.Errorf("%s/%s: %v", s.name, r.name, err)
				}
			})
			for _, library := range libraries {
				cells[library] = append(cells[library], cell{s.name + "/" + r.name, g.url(), r.domain, s.newUser(t, library), password})
			}
		}
	}
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			failed := runCells(t, library, cells[library])
			for _, c := range cells[library] {
				t.Run(c.Name, func(t *testing.T) {
					if err, ran := failed[c.Name]; !ran || err != "" {
						t.Errorf("ran: %v; %s", ran, err)
					}
				})
			}
		})
	}
}

// runCells returns what went wrong with each cell; it is empty if nothing did.
func runCells(t *testing.T, library string, cells []cell) map[string]string {
	t.Helper()
	in, err := json.Marshal(cells)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, nodeJS(), "matrix.mjs", library)
	cmd.Dir = "clients"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errs
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		t.Errorf("matrix.mjs %s: %v\n%s", library, err, errs.Bytes())
	}
	results := map[string]string{}
	for line := range bytes.Lines(out.Bytes()) {
		var r struct{ Name, Error string }
		if json.Unmarshal(line, &r) == nil && r.Name != "" { // else a library has printed it
			results[r.Name] = r.Error
		}
	}
	return results
}
