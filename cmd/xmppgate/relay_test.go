package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// These tests run the program between a server and clients that are as simple
// as a stream allows.

// A gatewayProcess is xmppgate, with its sockets in a directory.
type gatewayProcess struct {
	*exec.Cmd
	t      *testing.T
	dir    string
	stderr *bufio.Scanner

	serving struct{ Listen, Admin string } // as it is logged
}

// newGateway has sockets and a server, but does not run.
func newGateway(t *testing.T, environ ...string) *gatewayProcess {
	t.Helper()
	dir := t.TempDir()
	serveStreams(t, filepath.Join(dir, "server"))
	g := &gatewayProcess{Cmd: exec.Command("xmppgate"), t: t, dir: dir}
	g.Env = append([]string{"XMPPGATE_LISTEN=unix:" + dir + "/ws", "XMPPGATE_ADMIN_LISTEN=unix:" + dir + "/admin"}, environ...)
	if !slices.ContainsFunc(g.Env, func(e string) bool { return strings.HasPrefix(e, "XMPPGATE_CONFIG=") }) {
		g.Env = slices.Insert(g.Env, 0, "XMPPGATE_UPSTREAM=unix:"+dir+"/server")
	}
	return g
}

// startGateway returns when the program serves. In TestReload it starts with the
// defaults and gets the variables by a reload.
func startGateway(t *testing.T, environ ...string) *gatewayProcess {
	t.Helper()
	if isReloadTest(t) {
		return reloadedGateway(t, environ)
	}
	return newGateway(t, environ...).serves()
}

// serves runs the program and waits until it serves.
func (g *gatewayProcess) serves() *gatewayProcess {
	g.t.Helper()
	stderr, err := g.StderrPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = g.Process.Kill() })
	g.stderr = bufio.NewScanner(stderr)
	g.logs("serving")
	if err := json.Unmarshal(g.stderr.Bytes(), &g.serving); err != nil {
		g.t.Fatal(err)
	}
	return g
}

// begin runs the program without reading its log, and waits until it serves.
func (g *gatewayProcess) begin() {
	g.t.Helper()
	if err := g.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = g.Process.Kill() })
	g.eventually("it does not serve", func() bool {
		status, _, err := get(g.dir+"/admin", "/readyz")
		return err == nil && status == http.StatusOK
	})
}

func (g *gatewayProcess) eventually(problem string, done func() bool) {
	g.t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatal(problem)
		}
	}
}

// drains ends the program by SIGTERM, as if nothing was wrong with the log.
func (g *gatewayProcess) drains() {
	g.t.Helper()
	g.signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- g.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			g.t.Errorf("%v, want exit code 0", err)
		}
	case <-time.After(20 * time.Second): // the drain has 25
		_ = g.Process.Kill()
		<-ended
		g.t.Error("SIGTERM does not end it")
	}
}

// logs waits for a record with the given message.
func (g *gatewayProcess) logs(message string) {
	g.t.Helper()
	for g.stderr.Scan() {
		var record struct{ Msg string }
		if err := json.Unmarshal(g.stderr.Bytes(), &record); err != nil {
			g.t.Errorf("not a log record: %s", g.stderr.Text())
		}
		if record.Msg == message {
			return
		}
	}
	g.t.Fatalf("%q was not logged", message)
}

// signal sends one.
func (g *gatewayProcess) signal(s os.Signal) {
	g.t.Helper()
	if err := g.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// ends waits for the end of the program.
func (g *gatewayProcess) ends(code int) {
	g.t.Helper()
	var rest strings.Builder
	for g.stderr.Scan() {
		rest.WriteString(g.stderr.Text() + "\n")
	}
	_ = g.Wait() // the code says it
	if got := g.ProcessState.ExitCode(); got != code {
		g.t.Errorf("exit code %d, want %d\n%s", got, code, rest.String())
	}
}

// get asks the admin endpoints.
func (g *gatewayProcess) get(path string) (status int, body string) {
	g.t.Helper()
	status, body, err := get(g.dir+"/admin", path)
	if err != nil {
		g.t.Fatal(err)
	}
	return status, body
}

// becomesReady waits until the first health check has come to its end.
func (g *gatewayProcess) becomesReady() {
	g.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		status, body := g.get("/readyz")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("/readyz: %d %s", status, body)
		}
	}
}

// get asks the admin endpoints at a socket.
func get(socket, path string) (status int, body string, err error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := client.Get("http://admin" + path)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err
}

// open returns a client that has opened its stream.
func (g *gatewayProcess) open() net.Conn {
	g.t.Helper()
	c, err := dialGateway(g.t.Context(), g.dir+"/ws")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	if err := sendOpen(c, "example.org"); err != nil {
		g.t.Fatal(err)
	}
	for _, want := range []string{"<open ", "features"} {
		if _, payload := readFrame(g.t, c); !bytes.Contains(payload, []byte(want)) {
			g.t.Fatalf("%q, want %s", payload, want)
		}
	}
	return c
}

// networkOf is that of an address: host:port, or the path of a Unix socket.
func networkOf(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil && !filepath.IsAbs(address) {
		return "tcp"
	}
	return "unix"
}

// dialGateway returns a client that has ten seconds.
func dialGateway(ctx context.Context, address string) (net.Conn, error) {
	dialer := ws.Dialer{
		Protocols: []string{"xmpp"},
		NetDial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, networkOf(address), address)
		},
	}
	c, early, _, err := dialer.Dial(ctx, "ws://gateway/ws")
	if err != nil {
		return nil, err
	}
	if early != nil {
		return nil, errors.New("the gateway spoke first")
	}
	return c, c.SetDeadline(time.Now().Add(10 * time.Second))
}

func sendOpen(c net.Conn, domain string) error {
	open := `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="` + domain + `" version="1.0"/>`
	return ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte(open))))
}

func readFrame(t *testing.T, c net.Conn) (ws.OpCode, []byte) {
	t.Helper()
	h, err := ws.ReadHeader(c)
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c, payload); err != nil {
		t.Fatal(err)
	}
	return h.OpCode, payload
}

// serveStreams is an XMPP server at a Unix socket: it answers a header and
// ignores what follows.
func serveStreams(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go acceptStreams(l, "1")
}

func acceptStreams(l net.Listener, id string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serveStream(c, id)
	}
}

// readHeader reads the header of a stream, and reports whether there was one.
func readHeader(r *bufio.Reader) bool {
	for header := ""; !strings.Contains(header, "<stream:stream"); {
		tag, err := r.ReadString('>')
		if err != nil {
			return false
		}
		header += tag
	}
	return true
}

func serveStream(c net.Conn, id string) {
	defer c.Close()
	r := bufio.NewReader(c)
	if !readHeader(r) {
		return
	}
	_, _ = io.WriteString(c, `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='`+id+`' version='1.0'><stream:features/>`)
	_, _ = io.Copy(io.Discard, r)
}

// The record of a session that connects to the one server directly names it as
// the metrics do.
func TestRecordNamesServer(t *testing.T) {
	g := startGateway(t)
	g.open().Close()
	g.logs("session ended")
	for _, want := range []string{`"domain":"example.org"`, `"server":"unix:` + g.dir + `/server"`, `"phase":"negotiating"`, `"cause":"`} {
		if !strings.Contains(g.stderr.Text(), want) {
			t.Errorf("no %s in %s", want, g.stderr.Text())
		}
	}
}

func TestDrainTellsEverySession(t *testing.T) {
	g := startGateway(t)
	g.becomesReady()
	clients := []net.Conn{g.open(), g.open(), g.open()}
	for path, want := range map[string]string{
		"/metrics":             `xmppgate_sessions{phase="negotiating"} 3`,
		"/metrics/connections": `xmppgate_connection_stanzas_total{direction="down",id="1",remote="",server="unix:` + g.dir + `/server"} 1`,
		"/connections":         `"domain":"example.org","server":"unix:` + g.dir + `/server","phase":"negotiating"`,
	} {
		if _, body := g.get(path); !strings.Contains(body, want) {
			t.Errorf("%s says no %s:\n%s", path, want, body)
		}
	}

	g.signal(syscall.SIGTERM)
	g.logs("draining")
	for i, c := range clients {
		op, payload := readFrame(t, c)
		if code, _ := ws.ParseCloseFrameData(payload); op != ws.OpClose || code != ws.StatusGoingAway {
			t.Errorf("client %d: %v %q, want a close frame with 1001", i, op, payload)
		}
		// While somebody has not answered, the drain goes on in public.
		if i == 0 {
			if status, body := g.get("/readyz"); status != http.StatusServiceUnavailable || body != "draining\n" {
				t.Errorf("/readyz: %d %s", status, body)
			}
			if _, body := g.get("/metrics"); !strings.Contains(body, "xmppgate_draining 1") {
				t.Error("xmppgate_draining is not 1")
			}
		}
		if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewCloseFrame(payload))); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	g.ends(exitOK)
}

// A client that never answers is cut when the time is over.
func TestDrainCuts(t *testing.T) {
	g := startGateway(t, "XMPPGATE_DRAIN_TIMEOUT=1s")
	g.open()
	g.signal(syscall.SIGTERM)
	g.logs("xmppgate failed")
	g.ends(exitFailed)
}

func TestSecondSignal(t *testing.T) {
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		g := startGateway(t)
		g.open()
		g.signal(syscall.SIGTERM)
		g.logs("draining")
		start := time.Now()
		g.signal(signal)
		g.ends(code)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%v: the end took %v", signal, took)
		}
	}
}
