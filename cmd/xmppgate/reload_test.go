package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

const reloadTest = "TestReload"

func isReloadTest(t *testing.T) bool { return strings.HasPrefix(t.Name(), reloadTest+"/") }

// fileGateway is a gateway that reads a file, dir/config, in which its server is.
func fileGateway(t *testing.T, environ ...string) *gatewayProcess {
	t.Helper()
	g := newGateway(t, append(environ, "XMPPGATE_CONFIG=")...)
	g.Env = append(g.Env, "XMPPGATE_CONFIG="+g.dir+"/config")
	g.configure(nil)
	return g
}

// configure writes the file. The variables may replace its server.
func (g *gatewayProcess) configure(variables []string) {
	g.t.Helper()
	text := strings.Join(variables, "\n") + "\n"
	if !strings.Contains(text, "XMPPGATE_UPSTREAM=") {
		text += "XMPPGATE_UPSTREAM=unix:" + g.dir + "/server\n"
	}
	// At once, as everybody should: the gateway never reads half a file.
	if err := os.WriteFile(g.dir+"/new", []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(g.dir+"/new", g.dir+"/config"); err != nil {
		g.t.Fatal(err)
	}
}

// reloadedGateway gets by a reload all variables that can be had so.
func reloadedGateway(t *testing.T, environ []string) *gatewayProcess {
	t.Helper()
	var now, later []string
	for _, e := range environ {
		if name, _, _ := strings.Cut(e, "="); variableCalled(name).onlyStart || strings.HasPrefix(name, prefix+"TLS_") { // which only a start turns on
			now = append(now, e)
		} else {
			later = append(later, e)
		}
	}
	g := fileGateway(t, now...).serves()
	g.configure(later)
	g.signal(syscall.SIGHUP)
	g.logs("configuration reloaded")
	return g
}

// post asks the admin endpoints to do something.
func (g *gatewayProcess) post(path string) (status int, body string) {
	g.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.dir+"/admin")
		},
	}}
	r, err := client.Post("http://admin"+path, "", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// reloads waits for a reload that succeeds, and returns what it has to say.
func (g *gatewayProcess) reloads() (notes string) {
	g.t.Helper()
	status, body := g.post("/reload")
	notes, ok := strings.CutPrefix(body, "reloaded\n")
	if status != http.StatusOK || !ok {
		g.t.Fatalf("%d %s", status, body)
	}
	return notes
}

// Every variable has the same effect by a reload as by a start, or is said to need a
// start. That is what the column "reload" of docs/configuration.md says.
func TestReload(t *testing.T) {
	special := map[string]func(*testing.T){"LOG_LEVEL": reloadLogLevel, "ACME_DOMAINS": reloadACME, "TLS_CERT": reloadTLS, "TLS_KEY": reloadTLS}
	for _, v := range variables() {
		name := strings.TrimPrefix(v.name, prefix)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch {
			case special[name] != nil:
				special[name](t)
			case v.onlyStart:
				waitsForStart(t, v.name)
			default:
				effects[name](t)
			}
		})
	}
}

// others are values that differ from those of fileGateway.
var others = map[string]string{
	"XMPPGATE_LISTEN":         "127.0.0.1:0",
	"XMPPGATE_ADMIN_LISTEN":   "",
	"XMPPGATE_LOOP":           "goroutine",
	"XMPPGATE_ACME_CACHE":     "/nowhere",
	"XMPPGATE_ACME_LISTEN":    "127.0.0.1:0",
	"XMPPGATE_ACME_EMAIL":     "a@example.org",
	"XMPPGATE_ACME_DIRECTORY": "https://acme.example/",
	"XMPPGATE_ACME_CA":        "/nowhere",
	"XMPPGATE_LOG_FORMAT":     "text",
	"XMPPGATE_UNSAFE_ADMIN":   "true",
}

// waitsForStart checks that a variable which needs a start is named, and does not
// keep the others from their effect.
func waitsForStart(t *testing.T, name string) {
	if name == "XMPPGATE_CONFIG" {
		return // is not in the file, and the environment does not change
	}
	value, ok := others[name]
	if !ok {
		t.Fatal("add another value to others")
	}
	g := fileGateway(t)
	var start []string
	g.Env = slices.DeleteFunc(g.Env, func(e string) bool {
		moved := strings.HasPrefix(e, name+"=")
		if moved {
			start = append(start, e)
		}
		return moved
	})
	g.configure(start)
	g.serves()
	g.configure([]string{name + "=" + value, "XMPPGATE_PATH=/new"})
	if want, got := name+": takes effect at the next start\n", g.reloads(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	g.upgrades(101, "/new", "")
	g.configure(start)
	if got := g.reloads(); got != "" {
		t.Errorf("back at the old value: %s", got)
	}
}

func reloadLogLevel(t *testing.T) {
	g := fileGateway(t).serves()
	session := func() {
		t.Helper()
		g.open().Close()
		g.eventually("the session does not end", func() bool {
			_, body := g.get("/connections")
			return body == "[]\n"
		})
	}
	g.configure([]string{"XMPPGATE_LOG_LEVEL=warn"})
	g.reloads()
	session()
	g.configure([]string{"XMPPGATE_LOG_LEVEL=info"})
	g.reloads()
	g.stderr.Scan()
	if !strings.Contains(g.stderr.Text(), "configuration reloaded") {
		t.Errorf("logged %s", g.stderr.Text())
	}
	session()
	g.logs("session ended")
}

// A file that is wrong changes nothing. All that is wrong is in the answer, in the log
// and, that something is, in a metric.
func TestReloadRefused(t *testing.T) {
	for _, how := range []string{"POST /reload", "SIGHUP", "xmppgate reload"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := fileGateway(t)
			g.configure([]string{"XMPPGATE_PATH=/old"})
			g.serves()
			before := g.open0("/old")
			wrong := []string{
				"XMPPGATE_PATH=/new",
				"XMPPGATE_PATHS=/x",
				"XMPPGATE_MAX_STANZA_BYTES=1",
				"XMPPGATE_LISTEN_=x",
				"nonsense",
				"XMPPGATE_UPSTREAM=tls://a?ca=/nowhere",
			}
			g.configure(wrong)
			problems := []string{
				"config:2: XMPPGATE_PATHS: no such variable: did you mean XMPPGATE_PATH?",
				"config:3: XMPPGATE_MAX_STANZA_BYTES=",
				"config:4: XMPPGATE_LISTEN_: no such variable: did you mean XMPPGATE_LISTEN?",
				"config:5: not KEY=value",
				"config:6: XMPPGATE_UPSTREAM=",
			}
			contains := func(what, text string) {
				t.Helper()
				for _, p := range problems {
					if !strings.Contains(text, p) {
						t.Errorf("%s has no %q: %s", what, p, text)
					}
				}
			}
			switch how {
			case "POST /reload":
				status, body := g.post("/reload")
				if status != http.StatusUnprocessableEntity {
					t.Errorf("status %d", status)
				}
				contains("the answer", body)
			case "SIGHUP":
				g.signal(syscall.SIGHUP)
			default:
				// It reads the same file, and does not even ask.
				contains("the command", g.command(exitConfig, "reload"))
				_, body := g.post("/reload")
				contains("the answer", body)
			}
			g.logs("the configuration is wrong; the old one stays in force")
			contains("the log", strings.ReplaceAll(g.stderr.Text(), `\"`, `"`))
			_, body := g.get("/metrics")
			for _, want := range []string{"xmppgate_config_last_reload_successful 0", `xmppgate_config_reloads_total{result="error"} 1`, `xmppgate_config_reloads_total{result="ok"} 0`} {
				if !strings.Contains(body, want) {
					t.Errorf("no %s", want)
				}
			}
			g.upgrades(101, "/old", "")
			g.upgrades(404, "/new", "")

			g.configure([]string{"XMPPGATE_PATH=/new"})
			if got := g.command(exitOK, "reload"); got != "reloaded\n" {
				t.Errorf("%q", got)
			}
			g.logs("configuration reloaded")
			if !strings.Contains(g.stderr.Text(), `"changed":"XMPPGATE_PATH"`) {
				t.Error(g.stderr.Text())
			}
			if _, body := g.get("/metrics"); !strings.Contains(body, "xmppgate_config_last_reload_successful 1") {
				t.Error("xmppgate_config_last_reload_successful is not 1")
			}
			g.upgrades(101, "/new", "")
			g.upgrades(404, "/old", "")
			send(t, before, "<presence/>")
		})
	}
}

// open0 returns a client at another path that has sent its header.
func (g *gatewayProcess) open0(path string) net.Conn {
	g.t.Helper()
	c, status := upgrade(g.t, g.serving.Listen, "", path, "")
	if status != http.StatusSwitchingProtocols {
		g.t.Fatalf("status %d", status)
	}
	if err := sendOpen(c, "example.org"); err != nil {
		g.t.Fatal(err)
	}
	return c
}

// command runs another xmppgate with the same environment, and returns its output.
func (g *gatewayProcess) command(code int, args ...string) string {
	g.t.Helper()
	var out bytes.Buffer
	if got := run(g.t.Context(), args, environOf(g.Env), &out, &out); got != code {
		g.t.Errorf("%v: exit code %d, want %d: %s", args, got, code, out.String())
	}
	return out.String()
}

func environOf(list []string) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		name, value, _ := strings.Cut(e, "=")
		m[name] = value
	}
	return m
}

// The old value of a variable that waits for a start must go with the new values of
// the others, because these are what is in force.
func TestReloadChecksWhatIsInForce(t *testing.T) {
	g := fileGateway(t)
	g.Env = slices.DeleteFunc(g.Env, func(e string) bool { return strings.HasPrefix(e, "XMPPGATE_LISTEN=") })
	socket := "XMPPGATE_LISTEN=unix:" + g.dir + "/ws"
	g.configure([]string{socket})
	g.serves()
	g.configure([]string{"XMPPGATE_LISTEN=unix:" + g.dir + "/other", "XMPPGATE_UPSTREAM=unix:" + g.dir + "/ws"})
	status, body := g.post("/reload")
	if status != http.StatusUnprocessableEntity || !strings.Contains(body, "the gateway would connect to itself") || !strings.Contains(body, "XMPPGATE_LISTEN: takes effect at the next start") {
		t.Errorf("%d %s", status, body)
	}
	g.open()
}

// A certificate that has changed behind an unchanged name is read again, and one that
// is wrong keeps everything as it is.
func TestReloadReadsFiles(t *testing.T) {
	cert, key := writeCertificate(t)
	g := fileGateway(t)
	tls := "XMPPGATE_DOMAINS=example.org=unix:" + g.dir + "/server,b.example=tls://localhost?cert=" + cert + "&key=" + key
	g.configure([]string{tls})
	g.serves()
	if err := os.WriteFile(key, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.configure([]string{tls, "XMPPGATE_PATH=/new"})
	if status, body := g.post("/reload"); status != http.StatusUnprocessableEntity || !strings.Contains(body, "options cert and key") {
		t.Errorf("%d %s", status, body)
	}
	g.upgrades(404, "/new", "")
	newCert, newKey := writeCertificate(t)
	for from, to := range map[string]string{newCert: cert, newKey: key} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	g.reloads()
	g.upgrades(101, "/new", "")
}

// A thousand reloads that change servers, domains and limits while sessions come, relay
// and go: nothing is lost, nobody is ended.
func TestReloadsUnderLoad(t *testing.T) {
	reloads := 1000
	if testing.Short() {
		reloads = 100
	}
	for _, loop := range []string{"auto", "goroutine"} {
		t.Run(loop, func(t *testing.T) {
			dir := t.TempDir()
			for i := range 3 {
				serveEcho(t, fmt.Sprintf("%s/%d", dir, i))
			}
			config := func(i int) []string {
				return []string{
					fmt.Sprintf("XMPPGATE_UPSTREAM=unix:%s/0,unix:%s/%d", dir, dir, 1+i%2),
					fmt.Sprintf("XMPPGATE_DOMAINS=example.org,%d.example", i%7),
					fmt.Sprintf("XMPPGATE_MAX_STANZA_BYTES=%d", 20000+i%3),
					fmt.Sprintf("XMPPGATE_MAX_SESSIONS=%d", 1000+i%2),
					fmt.Sprintf("XMPPGATE_PING_INTERVAL=%ds", 30+i%2),
					fmt.Sprintf("XMPPGATE_UPSTREAM_POLICY=%s", []string{"round-robin", "hash", "least-sessions"}[i%3]),
					fmt.Sprintf("XMPPGATE_PROFILE=%v", i%2 == 0),
				}
			}
			g := fileGateway(t, "XMPPGATE_LOOP="+loop, "XMPPGATE_LOG_LEVEL=info")
			g.configure(config(0))
			g.serves()
			go func() { // or the log would be full
				for g.stderr.Scan() {
				}
			}()

			var stop atomic.Bool
			var clients sync.WaitGroup
			var messages atomic.Int64
			for n := range 10 {
				clients.Go(func() {
					for !stop.Load() {
						c, err := dialGateway(context.Background(), g.dir+"/ws")
						if err != nil {
							t.Errorf("a client was not let in: %v", err)
							return
						}
						rounds := 20
						if n < 5 {
							rounds = 1 << 30 // all the time
						}
						err = echoes(c, rounds, &stop, &messages)
						c.Close()
						if err != nil {
							t.Errorf("client %d: %v", n, err)
							return
						}
					}
				})
			}
			for i := range reloads {
				g.configure(config(i + 1))
				if i%10 == 0 {
					g.signal(syscall.SIGHUP)
				}
				g.reloads()
			}
			stop.Store(true)
			clients.Wait()
			if messages.Load() < int64(reloads) {
				t.Errorf("only %d messages", messages.Load())
			}
			_, body := g.get("/metrics")
			if !strings.Contains(body, `xmppgate_config_reloads_total{result="error"} 0`) {
				t.Error("a reload has failed")
			}
			for line := range strings.Lines(body) {
				if strings.HasPrefix(line, "xmppgate_sessions_ended_total") && !strings.HasSuffix(line, " 0\n") && !strings.Contains(line, `"client-`) {
					t.Errorf("sessions ended for another reason: %s", line)
				}
			}
		})
	}
}

// echoes opens a stream, sends messages and checks that each comes back, in order.
func echoes(c net.Conn, rounds int, stop *atomic.Bool, count *atomic.Int64) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
	if err := sendOpen(c, "example.org"); err != nil {
		return err
	}
	next := func() (string, error) {
		for {
			h, err := ws.ReadHeader(c)
			if err != nil {
				return "", err
			}
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(c, payload); err != nil {
				return "", err
			}
			if h.OpCode == ws.OpText {
				return string(payload), nil
			}
			if h.OpCode == ws.OpClose {
				return "", fmt.Errorf("closed: %q", payload)
			}
		}
	}
	for _, want := range []string{"<open ", "features"} {
		if got, err := next(); err != nil || !strings.Contains(got, want) {
			return fmt.Errorf("%q, %w, want %s", got, err, want)
		}
	}
	for i := 0; i < rounds && !stop.Load(); i++ {
		id := fmt.Sprintf("id='%d'", i)
		m := "<message " + id + "/>"
		if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(m)))); err != nil {
			return err
		}
		if got, err := next(); err != nil || !strings.Contains(got, id) {
			return fmt.Errorf("%q, %w, want %s", got, err, id)
		}
		count.Add(1)
	}
	return nil
}

// serveEcho is an XMPP server that sends back what it gets.
func serveEcho(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for header := ""; !strings.Contains(header, "version="); {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					header += string(b[:n])
				}
				_, _ = io.WriteString(c, streamHeader("echo")+noFeatures)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}
