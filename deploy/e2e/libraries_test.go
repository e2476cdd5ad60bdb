package e2e

import (
	"bufio"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the table of docs/clients.md")

// library is an XMPP library that speaks WebSocket, behind a program that does what clients/README.md says.
type library struct {
	name    string
	program func(t *testing.T) []string
	resumes bool
	deaf    bool // does not say that its connection is lost
}

// libraries is what docs/clients.md lists, in its order.
var libraries = []library{
	{"mellium", mellium, false, false},
	{"nbxmpp", nbxmpp, true, false},
	{"strophe.js", npm("strophe.js"), true, false},
	{"strophe.js 1", npm("strophe.js-1"), false, false},
	{"stanza", npm("stanza"), true, false},
	{"stanza 11", npm("stanza-11"), true, false},
	{"xmpp.js", npm("@xmpp/client"), true, false},
	{"Smack", smack, false, true},
}

// loops are the values of XMPPGATE_LOOP: epoll, and what other systems have.
var loops = []string{"auto", "goroutine"}

// mellium builds the program, which is a package of this module.
func mellium(t *testing.T) []string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "mellium")
	if out, err := exec.Command("go", "build", "-o", binary, "./clients/mellium").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return []string{binary}
}

// nbxmpp runs the program with Debian's Python, whose package it is.
func nbxmpp(*testing.T) []string { return []string{"/usr/bin/python3", "clients/nbxmpp-client.py"} }

// smack compiles the program.
func smack(t *testing.T) []string {
	t.Helper()
	jars, classes := "clients/smack/lib/*", t.TempDir()
	if out, err := exec.Command("javac", "-cp", jars, "-d", classes, "clients/smack/Smack.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return []string{"java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", classes + ":" + jars, "Smack"}
}

// npm runs the program for a package in node_modules.
func npm(name string) func(*testing.T) []string {
	return func(*testing.T) []string { return []string{nodeJS(), "clients/library.mjs", name} }
}

// facts is what a library was seen to do: a row of the table, but for its name.
type facts struct {
	version, mechanism, origin, compression, resumption, loss string
}

// Behaviour: client-lost, real-clients, real-resumption. RFC 7395, section 3.6; XEP-0198, section 5. Each library logs in, talks, gets 200 KiB
// in one stanza, loses its TCP connection, comes back as it can, and leaves. What was seen is the table of docs/clients.md.
func TestLibraries(t *testing.T) {
	needGateway(t)
	var mu sync.Mutex
	seen := map[string]map[string]facts{} // by library and server
	t.Run("run", func(t *testing.T) {
		for _, l := range libraries {
			seen[l.name] = map[string]facts{}
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				program := l.program(t)
				for _, s := range servers {
					t.Run(s.name, func(t *testing.T) {
						for _, loop := range loops {
							t.Run(loop, func(t *testing.T) {
								t.Parallel()
								f := l.try(t, s, gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_LOOP="+loop), program)
								mu.Lock()
								defer mu.Unlock()
								seen[l.name][s.name+" "+loop] = f
							})
						}
					})
				}
			})
		}
	})
	if t.Failed() || len(seen) < len(libraries) {
		return // the table would lack rows
	}
	for _, l := range libraries {
		if len(seen[l.name]) < len(servers)*len(loops) {
			return // go test -run chose some
		}
	}
	checkTable(t, seen)
}

// try takes a library through everything with a server.
func (l library) try(t *testing.T, s *server, g *gateway, program []string) (f facts) {
	path := startTap(t, "tcp", "127.0.0.1:0", g.listen) // from the client to the gateway, to be cut
	peer := as(t, "tcp://"+s.c2s, s.newUser(t, "peer"), "desk")
	c := startDriven(t, program, "ws://"+path.ln.Addr().String()+"/xmpp-websocket", s.newUser(t, "driven"))
	f.version = c.expect("version")[0]

	c.do("connect")
	online := c.expect("online")
	jid := online[0]
	if online[1] != "new" {
		t.Errorf("the first login: %q", online)
	}
	const greeting = `Zoë <&> "' Привет 你好 😀`
	c.say(peer.jid, greeting)
	peer.hearBody(greeting)
	peer.chat(jid, greeting)
	c.expectBody(greeting)

	large := strings.Repeat("0123456789abcdef", 200<<10/16)
	peer.chat(jid, large)
	c.expectBody(large)

	path.cut()
	if !l.deaf {
		c.expect("lost")
	}
	peer.chat(jid, "while away")
	c.do("connect")
	online = c.expect("online")
	want := "new"
	if l.resumes {
		want = "resumed"
	}
	if online[1] != want {
		t.Errorf("after the loss: %q, want %s", online, want)
	}
	resumed, err := g.sumMatching("xmppgate_resumptions_total", `result="resumed"`)
	if err != nil || (resumed == 1) != l.resumes { // as the server sees it
		t.Errorf("%v resumptions, %v", resumed, err)
	}
	if l.resumes {
		c.expectBody("while away")
		if online[0] != jid {
			t.Errorf("the JID is %s after the resumption, %s before", online[0], jid)
		}
	}
	jid = online[0]
	peer.chat(jid, "after")
	for body := ""; body != "after"; {
		body = c.body()
		// A server may have kept the message for the next login.
		if body != "after" && (l.resumes || body != "while away") {
			t.Errorf("got body %.200q", body)
		}
	}
	c.say(peer.jid, "after")
	peer.hear("after", func(e *element) bool { // perhaps behind the bounce of what was sent to a session that is no more
		return e.is("message") && e.attr("type") != "error" && e.body() == "after"
	})

	c.do("close")
	c.expect("closed")
	if err := g.awaitMetric(`xmppgate_sessions_ended_total{ending="client-closed"}`, 1); err != nil {
		t.Error(err)
	}
	c.end()
	peer.leave()

	request := path.request(t)
	f.origin = "no"
	if request.Header.Get("Origin") != "" {
		f.origin = "yes"
	}
	f.compression = "no"
	if strings.Contains(request.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		f.compression = "yes"
	}
	f.resumption = "no"
	if l.resumes {
		f.resumption = "yes"
	}
	f.loss = "yes"
	if l.deaf {
		f.loss = "no"
	}
	f.mechanism = g.mechanism(t)
	return f
}

// chat sends a message.
func (u *user) chat(to, body string) {
	u.t.Helper()
	var escaped strings.Builder
	for _, r := range body {
		switch r {
		case '<':
			escaped.WriteString("&lt;")
		case '&':
			escaped.WriteString("&amp;")
		default:
			escaped.WriteRune(r)
		}
	}
	u.say(`<message type="chat" to="` + to + `"><body>` + escaped.String() + `</body></message>`)
}

// mechanism returns the one family of SASL mechanisms that all logins used.
func (g *gateway) mechanism(t *testing.T) string {
	t.Helper()
	page, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for line := range strings.Lines(page) {
		labels, value, _ := strings.Cut(strings.TrimPrefix(line, "xmppgate_logins_total{"), "} ")
		if labels == line || !strings.Contains(labels, `result="success"`) || strings.TrimSpace(value) == "0" {
			continue
		}
		_, name, _ := strings.Cut(labels, `mechanism="`)
		name, _, _ = strings.Cut(name, `"`)
		used = append(used, name)
	}
	if len(used) != 1 {
		t.Fatalf("mechanisms %q", used)
	}
	return strings.ToUpper(used[0])
}

// cut breaks all connections on both sides.
func (p *tap) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.client.Close()
		c.server.Close()
	}
}

// request returns the HTTP request of the first connection.
func (p *tap) request(t *testing.T) *http.Request {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(p.conns[0].up.all())))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// driven is a running program of a library.
type driven struct {
	t      *testing.T
	in     io.WriteCloser
	events chan []string // of words; closed when the program has ended
	early  []string      // bodies that came before another event that was expected
	ended  chan error
	rest   transcript // what the library prints, and standard error
}

func startDriven(t *testing.T, program []string, url, user string) *driven {
	t.Helper()
	c := &driven{t: t, events: make(chan []string, 100), ended: make(chan error, 1)}
	cmd := exec.CommandContext(t.Context(), program[0], append(program[1:], url, domain, user, password)...)
	cmd.Stderr, cmd.WaitDelay = &c.rest, 5*time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in = in
	out, w := io.Pipe()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := cmd.Wait()
		w.Close()
		c.ended <- err
	}()
	go func() {
		defer close(c.events)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if event, ok := strings.CutPrefix(line, "> "); ok {
				c.events <- strings.Fields(event)
			} else {
				io.WriteString(&c.rest, line)
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("%s:\n%s", program, c.rest.tail(0))
		}
	})
	return c
}

func (c *driven) do(command ...string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, strings.Join(command, " ")); err != nil {
		c.t.Fatalf("%.100q: %v", command, err)
	}
}

func (c *driven) say(to, body string) {
	c.t.Helper()
	c.do("say", to, base64.StdEncoding.EncodeToString([]byte(body)))
}

// expect returns what the next event says; it fails unless that is the one. Messages may come before it.
func (c *driven) expect(event string) (args []string) {
	c.t.Helper()
	late := time.After(patience)
	for {
		select {
		case words, ok := <-c.events:
			switch {
			case !ok:
				c.t.Fatalf("the program ended; want %q", event)
			case words[0] == event:
				return words[1:]
			case words[0] == "message":
				c.early = append(c.early, words[1])
			default:
				c.t.Fatalf("got %.300q, want %q", words, event)
			}
		case <-late:
			c.t.Fatalf("nothing came; want %q", event)
		}
	}
}

// body returns the body of the message that must come next.
func (c *driven) body() string {
	c.t.Helper()
	if len(c.early) == 0 {
		c.early = c.expect("message")
	}
	body, err := base64.StdEncoding.DecodeString(c.early[0])
	if err != nil {
		c.t.Fatal(err)
	}
	c.early = c.early[1:]
	return string(body)
}

func (c *driven) expectBody(want string) {
	c.t.Helper()
	if got := c.body(); got != want {
		c.t.Fatalf("got %d bytes %.200q, want %d bytes %.200q", len(got), got, len(want), want)
	}
}

// end waits for the program, which has nothing left to say.
func (c *driven) end() {
	c.t.Helper()
	c.in.Close()
	for words := range c.events {
		c.t.Errorf("at the end: %.300q", words)
	}
	if len(c.early) > 0 {
		c.t.Errorf("messages that nobody expected: %.300q", c.early)
	}
	if err := <-c.ended; err != nil {
		c.t.Error(err)
	}
}

// checkTable compares what was seen with the table of docs/clients.md.
func checkTable(t *testing.T, seen map[string]map[string]facts) {
	t.Helper()
	var want strings.Builder
	want.WriteString("| library | version | SASL | `Origin` | offers compression | notices a loss | resumes |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, l := range libraries {
		cell := func(fact func(facts) string) string { // one value for all servers, or one for each
			var values []string
			for _, s := range servers {
				values = append(values, fact(seen[l.name][s.name+" "+loops[0]]))
				for _, loop := range loops {
					if got := fact(seen[l.name][s.name+" "+loop]); got != values[len(values)-1] {
						t.Errorf("%s with %s: %q with the %s loop, %q with %s", l.name, s.name, got, loop, values[len(values)-1], loops[0])
					}
				}
			}
			if len(slices.Compact(slices.Clone(values))) == 1 {
				return values[0]
			}
			for i, s := range servers {
				values[i] += " (" + s.name + ")"
			}
			return strings.Join(values, ", ")
		}
		fmt.Fprintf(&want, "| %s | %s | %s | %s | %s | %s | %s |\n", l.name,
			cell(func(f facts) string { return f.version }), cell(func(f facts) string { return f.mechanism }),
			cell(func(f facts) string { return f.origin }), cell(func(f facts) string { return f.compression }),
			cell(func(f facts) string { return f.loss }), cell(func(f facts) string { return f.resumption }))
	}
	const file, begin, end = "../../docs/clients.md", "<!-- libraries -->\n", "<!-- /libraries -->"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place between %q and %q", file, begin, end)
	}
	if got == want.String() {
		return
	}
	if !*update {
		t.Fatalf("run: cd deploy/e2e && go test -run Libraries -update\ndocs/clients.md has\n%s\nwas seen\n%s", got, want.String())
	}
	if err := os.WriteFile(file, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
