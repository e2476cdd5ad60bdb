package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	runScriptAs(t, s, script, rooms, s.newUser(t, "alice"), s.newUser(t, "bob"), steps...)
}

// runScriptAs is runScript with accounts that are there.
func runScriptAs(t *testing.T, s *server, script, rooms, alice, bob string, steps ...string) {
	t.Helper()
	runScriptAt(t, s.websocket(), script, rooms, alice, bob, steps...)
}

// runScriptAt is runScriptAs with a URL.
func runScriptAt(t *testing.T, url, script, rooms, alice, bob string, steps ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, nodeJS(), script, url, domain, rooms, alice, bob, password)
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

// Behaviour: server-large, compression, real-clients. RFC 6455, section 5.4; RFC 7692, section 6.1. A roster of 8,000 contacts is one element of more than a megabyte, which comes in fragments; a page of an archive is 2 MiB in many elements.
func TestClientsReadLargeElements(t *testing.T) {
	eachServer(t, func(t *testing.T, s *server) {
		alice, bob := s.newUser(t, "alice"), s.newUser(t, "bob")
		if err := s.fillRoster(alice, 8000); err != nil {
			t.Fatal(err)
		}
		reader, writer := as(t, "tcp://"+s.c2s, alice, "tcp"), as(t, "tcp://"+s.c2s, bob, "tcp")
		reader.ask("", "set", `<prefs xmlns="urn:xmpp:mam:2" default="always"><always/><never/></prefs>`)
		body := strings.Repeat("x", 40<<10)
		for range 50 {
			writer.say(`<message type="chat" to="` + reader.jid + `"><body>` + body + `</body></message>`)
			reader.hearBody(body)
		}
		reader.leave()
		writer.leave()
		urls := map[string]string{"plain": s.websocket()}
		if !native {
			urls["compressed"] = compressing(t, s).url()
		}
		for how, url := range urls {
			for _, library := range []string{"strophe", "xmppjs", "stanza"} {
				t.Run(library+" "+how, func(t *testing.T) {
					runScriptAt(t, url, "large.mjs", library, alice, bob, "login", "roster", "archive")
				})
			}
			t.Run("converse "+how, func(t *testing.T) {
				runScriptAt(t, url, "converse-large.mjs", mucDomain, alice, bob, "login", "roster", "archive")
			})
		}
	})
}

// fillRoster gives a user n contacts who know nothing of it, so that nobody asks for their presence.
func (s *server) fillRoster(localpart string, n int) error {
	contact := func(i int) (user, name string) {
		return fmt.Sprintf("colleague.number%d", i), fmt.Sprintf("Colleague Number %d, Zo\u00eb", i)
	}
	const host = "sales.department.example"
	if s.name == "prosody" {
		var b strings.Builder
		b.WriteString("return { [false] = { version = 1; pending = {}; };\n")
		for i := range n {
			user, name := contact(i)
			fmt.Fprintf(&b, "[\"%s@%s\"] = { subscription = \"none\"; groups = { [\"Sales\"] = true; }; name = \"%s\"; };\n", user, host, name)
		}
		b.WriteString("};\n")
		dir := filepath.Join(s.dir, "data", strings.ReplaceAll(domain, ".", "%2e"), "roster")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, localpart+".dat"), []byte(b.String()), 0o644)
	}
	const workers = 8
	var group sync.WaitGroup
	var failed [workers]error
	for w := range workers {
		group.Go(func() {
			for i := w; i < n && failed[w] == nil; i += workers {
				user, name := contact(i)
				failed[w] = s.call("add_rosteritem", map[string]string{"localuser": localpart, "localhost": domain,
					"user": user, "host": host, "nick": name, "group": "Sales", "subs": "none"}, new(any))
			}
		})
	}
	group.Wait()
	return errors.Join(failed[:]...)
}
