package main

import (
	"bytes"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"
)

// A syncBuffer may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // not embedded: it has methods that do not take mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// "xmppgate tap" shows a live session and those to come, and neither on the terminal nor in
// the page what they say.
func TestTap(t *testing.T) {
	for _, loop := range []string{"auto", "goroutine"} {
		t.Run(loop, func(t *testing.T) {
			g := startGateway(t, "XMPPGATE_LOOP="+loop)
			page := filepath.Join(g.dir, "trace.html")
			start := func(args ...string) (*exec.Cmd, *syncBuffer) {
				cmd, out := exec.Command("xmppgate", append([]string{"tap"}, args...)...), new(syncBuffer)
				cmd.Env, cmd.Stdout, cmd.Stderr = g.Env, out, out
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = cmd.Process.Kill() })
				return cmd, out
			}
			shows := func(out *syncBuffer, want string) {
				t.Helper()
				g.eventually("no "+want+" in the trace", func() bool { return strings.Contains(out.String(), want) })
			}

			live := g.open()
			one, oneOut := start("--html", page, "1")
			many, manyOut := start("--domain", "EXAMPLE.org", "--network", "192.0.2.0/24")
			say := func(text string) {
				if err := ws.WriteFrame(live, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(text)))); err != nil {
					t.Fatal(err)
				}
			}
			// The first may come before the trace begins.
			g.eventually("no trace", func() bool {
				say(`<message to='bob@example.org'><body>open sesame</body></message>`)
				return strings.Contains(oneOut.String(), `client  <message to='[15]'><body>[11]</body></message>`)
			})
			live.Close()
			if err := one.Wait(); err != nil {
				t.Errorf("%v: %s", err, oneOut)
			}
			shows(oneOut, "--      over ending=client-lost")
			html, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"<!doctype html>", "&lt;message to=&#39;[15]&#39;&gt;&lt;body&gt;[11]&lt;/body&gt;", "over ending=client-lost", "</html>"} {
				if !strings.Contains(string(html), want) {
					t.Errorf("no %s in\n%s", want, html)
				}
			}
			if all := oneOut.String() + string(html); strings.Contains(all, "sesame") || strings.Contains(all, "bob@") {
				t.Errorf("content:\n%s", all)
			}
			// A client on a Unix socket is of no network.
			g.open().Close()
			if got := manyOut.String(); got != "" {
				t.Errorf("a session of another network: %s", got)
			}
			_ = many.Process.Kill()
			_ = many.Wait()
			many, manyOut = start("--domain", "EXAMPLE.org")
			g.eventually("no session to come is shown", func() bool {
				g.open().Close()
				return strings.Contains(manyOut.String(), "server  <stream:features/>")
			})
			shows(manyOut, "begins domain=example.org")
			_ = many.Process.Signal(os.Interrupt) // which it waits for: it has written something
			if err := many.Wait(); err != nil {
				t.Errorf("Ctrl-C: %v: %s", err, manyOut)
			}
			if out, err := exec.Command("xmppgate", "tap", "999999").CombinedOutput(); err == nil {
				t.Errorf("no gateway: %s", out)
			}
			none := exec.Command("xmppgate", "tap", "999999")
			none.Env = g.Env
			if out, err := none.CombinedOutput(); err == nil || !strings.Contains(string(out), "no live session with that number") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

func TestTapQuery(t *testing.T) {
	for query, want := range map[string]string{
		"": "which session?", "id=0": "id must be", "id=x": "id must be", "id=1&domain=a": "id stands alone", "network=x": "network: ",
		"id=1": "", "domain=a.example": "", "network=192.0.2.1": "", "network=2001:db8::/32&domain=a": "", "x=1": `"x" is not a parameter`,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tapQuery(values)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", query, err, want)
		}
	}
}
