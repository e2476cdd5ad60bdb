package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodeJS is the Node.js to use: the one that setup.sh fetched, if it had to.
func nodeJS() string {
	fetched, err := filepath.Abs("clients/node/bin/node")
	if err == nil {
		_, err = os.Stat(fetched)
	}
	if err != nil {
		return "node"
	}
	return fetched
}

// runScript runs a client script with two fresh accounts, and with rooms at a domain unless that is empty, and checks that it reports these steps, in this order.
func runScript(t *testing.T, s *server, script, rooms string, steps ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, nodeJS(), script, s.websocket(), domain, rooms, s.newUser(t, "alice"), s.newUser(t, "bob"), password)
	cmd.Dir = "clients"
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	var report strings.Builder // without what the libraries themselves print
	var got []string
	for line := range bytes.Lines(out.Bytes()) {
		var step struct{ Step string }
		if json.Unmarshal(line, &step) == nil {
			got = append(got, step.Step)
			report.Write(line)
		}
	}
	t.Logf("%s\n%s", script, report.String())
	if err != nil || !slices.Equal(got, steps) {
		t.Errorf("%s: %v; steps %q, want %q\n%s", script, err, got, steps, errs.Bytes())
	}
}

// Behaviour: client-lost, real-clients, real-resumption. RFC 7395; XEP-0198, section 5; XEP-0045. The JavaScript libraries that most web clients are made of.
func TestClients(t *testing.T) {
	for _, script := range []string{"strophe.mjs", "xmppjs.mjs", "stanza.mjs"} {
		t.Run(script, func(t *testing.T) {
			eachServer(t, func(t *testing.T, s *server) {
				runScript(t, s, script, mucDomain, "login", "chat", "room", "cut", "resumed", "replayed", "close", "close")
			})
		})
	}
}

// Behaviour: client-lost, real-clients. Converse.js in a real browser: WebSocket, XML parser and all.
func TestConverse(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		runScript(t, s, "converse.mjs", mucDomain, "login", "chat", "room", "cut", "resumed", "replayed", "close", "close")
	})
}
