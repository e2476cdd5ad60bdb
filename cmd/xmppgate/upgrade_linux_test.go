package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// A replaceable is a gateway whose program is a file of its own.
type replaceable struct {
	*gatewayProcess
	program string
}

func startReplaceable(t *testing.T, environ ...string) *replaceable {
	t.Helper()
	r := newReplaceable(t, environ...)
	r.begin()
	return r
}

// newReplaceable does not run.
func newReplaceable(t *testing.T, environ ...string) *replaceable {
	t.Helper()
	g := newGateway(t, environ...)
	if !slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, "XMPPGATE_UPSTREAM=") }) {
		g.Env = append(g.Env, "XMPPGATE_UPSTREAM=unix:"+g.dir+"/server") // with XMPPGATE_CONFIG, too
	}
	program := filepath.Join(g.dir, "xmppgate")
	r := &replaceable{g, program}
	r.install()
	g.Path, g.Args = program, []string{"xmppgate"} // by which the test binary knows what to be
	log, err := os.Create(filepath.Join(g.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	g.Stdout, g.Stderr = log, log
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.log())
		}
	})
	t.Cleanup(func() {
		for _, pid := range r.processes() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return r
}

// install puts the program into its place r.
func (r *replaceable) install() {
	r.t.Helper()
	found, err := exec.LookPath("xmppgate")
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := os.ReadFile(found)
	if err != nil {
		r.t.Fatal(err)
	}
	r.replaceBy(b)
}

func (r *replaceable) replaceBy(program []byte) {
	r.t.Helper()
	if err := os.WriteFile(r.program+".new", program, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.program+".new", r.program); err != nil {
		r.t.Fatal(err)
	}
}

// upgrade asks for an upgrade and returns the answer.
func (r *replaceable) upgrade() (status int, body string) {
	r.t.Helper()
	a, err := r.adminClient().Post("http://localhost/upgrade", "", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(a.Body)
	return a.StatusCode, b.String()
}

func (r *replaceable) adminClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.dir+"/admin")
		},
	}}
}

// processes returns all processes that run the program of r, replaced or not.
func (r *replaceable) processes() (all []int) { return processesOf(r.program) }

func processesOf(program string) (all []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.TrimSuffix(to, " (deleted)") == program {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(status), ") Z ") {
				all = append(all, pid)
			}
		}
	}
	return all
}

func (r *replaceable) log() string {
	b, _ := os.ReadFile(r.dir + "/log")
	return string(b)
}

// talks returns a client that has said something, which its session waits for.
func (r *replaceable) talks() net.Conn {
	r.t.Helper()
	c := r.open()
	if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewTextFrame([]byte("<presence/>")))); err != nil {
		r.t.Fatal(err)
	}
	pings(r.t, c)
	return c
}

// pings sends a ping and waits for the pong: the session is driven by somebody.
func pings(t *testing.T, c net.Conn) {
	t.Helper()
	if err := ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewPingFrame([]byte("p")))); err != nil {
		t.Fatal(err)
	}
	if op, payload := readFrame(t, c); op != ws.OpPong || string(payload) != "p" {
		t.Fatalf("%v %q, want a pong", op, payload)
	}
}

// becomesSole waits until one process is left, and returns it.
func (r *replaceable) becomesSole() (pid int) {
	r.t.Helper()
	r.eventually("both processes stay\n", func() bool {
		all := r.processes()
		if len(all) == 1 {
			pid = all[0]
		}
		return len(all) == 1
	})
	return pid
}

func TestUpgrade(t *testing.T) {
	r := startReplaceable(t)
	var clients []net.Conn
	for range 70 { // more than one offer
		clients = append(clients, r.talks())
	}
	pid := r.Process.Pid
	for range 3 {
		r.install()
		if status, body := r.upgrade(); status != http.StatusOK {
			t.Fatalf("%d %s\n%s", status, body, r.log())
		}
		clients = append(clients, r.talks()) // there is always somebody who listens
		next := r.becomesSole()
		if next == pid {
			t.Fatal("the same process")
		}
		pid = next
		for _, c := range clients {
			pings(t, c)
		}
		if _, body := r.get("/metrics"); !strings.Contains(body, fmt.Sprintf(`xmppgate_sessions{phase="negotiating"} %d`, len(clients))) {
			t.Errorf("not %d sessions: %s", len(clients), body)
		}
	}
	syscall.Kill(pid, syscall.SIGTERM)
	for _, c := range clients {
		answerClose(t, c)
	}
	r.eventually("it does not end", func() bool { return len(r.processes()) == 0 })
	for _, socket := range []string{"ws", "admin"} {
		if _, err := os.Stat(filepath.Join(r.dir, socket)); err == nil {
			t.Errorf("%s is left", socket)
		}
	}
	for _, problem := range []string{`"level":"ERROR"`, `"level":"WARN"`, "session ended"} {
		if log, _, _ := strings.Cut(r.log(), `"reason":"terminated"`); strings.Contains(log, problem) {
			t.Errorf("%s in %s", problem, log)
		}
	}
}

// systemd learns which process is the service, and when it is ready.
func TestUpgradeNotifies(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetReadDeadline(time.Now().Add(20 * time.Second))
	next := func() string {
		t.Helper()
		b := make([]byte, 1024)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	hears := func(want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	r := startReplaceable(t, "NOTIFY_SOCKET="+socket)
	hears("READY=1")
	if status, body := r.upgrade(); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	pid := r.becomesSole()
	hears(fmt.Sprintf("MAINPID=%d\nREADY=1", pid))
	syscall.Kill(pid, syscall.SIGHUP)
	if got := next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("got %q", got)
	}
	hears("READY=1")
	syscall.Kill(pid, syscall.SIGTERM)
	hears("STOPPING=1")
}

// The process of the command line ends with 0 when another is in charge.
func TestUpgradeCommand(t *testing.T) {
	r := startReplaceable(t)
	command := exec.CommandContext(t.Context(), "xmppgate", "upgrade")
	command.Env = r.Env
	if out, err := command.CombinedOutput(); err != nil || string(out) != "the new program is in charge\n" {
		t.Fatalf("%v %s", err, out)
	}
	if err := r.Wait(); err != nil {
		t.Errorf("the old process: %v", err)
	}
}

// A file that is not a working program, and a configuration that has become wrong,
// leave the old process as it is.
func TestUpgradeFails(t *testing.T) {
	settings := filepath.Join(t.TempDir(), "settings")
	write := func(text string) {
		if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("XMPPGATE_PING_INTERVAL=50s\n")
	r := startReplaceable(t, "XMPPGATE_CONFIG="+settings)
	c := r.talks()
	for _, f := range []struct {
		name, want string
		prepare    func()
	}{
		{"ends", "exit status 3", func() { r.replaceBy([]byte("#!/bin/sh\nexit 3\n")) }},
		{"ends with 0", "exit status 0", func() { r.replaceBy([]byte("#!/bin/sh\n")) }},
		{"is not a program", "exec format error", func() { r.replaceBy([]byte("\x7fELF?")) }},
		{"is gone", "no such file", func() { os.Remove(r.program) }},
		{"is killed", "signal: killed", func() { r.replaceBy([]byte("#!/bin/sh\nkill -9 $$\n")) }},
		{"dies after hello", "exit status 4", func() { r.imitate("hello") }},
		{"dies after its answer", "exit status 4", func() { r.imitate("answer") }},
		{"dies with an offer", "exit status 4", func() { r.imitate("offer") }},
		{"dies before go", "exit status 4", func() { r.imitate("taken") }},
		{"dies before driving", "exit status 4", func() { r.imitate("go") }},
		{"talks nonsense", "the other process says", func() { r.imitate("nonsense") }},
		{"finds an error", "XMPPGATE_PING_INTERVAL", func() { r.install(); write("XMPPGATE_PING_INTERVAL=soon\n") }},
	} {
		f.prepare()
		if status, body := r.upgrade(); status != http.StatusInternalServerError || !strings.Contains(body, f.want) {
			t.Errorf("%s: %d %s", f.name, status, body)
		}
		pings(t, c)
		r.open().Close()
		if n := len(r.processes()); n > 1 {
			t.Errorf("%s: %d processes", f.name, n)
		}
	}
	write("")
	r.install()
	if status, body := r.upgrade(); status != http.StatusOK {
		t.Fatalf("%d %s\n%s", status, body, r.log())
	}
	r.becomesSole()
	pings(t, c)
}

// An upgrade that fails after the new process has taken charge is one that has taken
// place, whichever of the two is seen first.
func TestUpgradeFailsLate(t *testing.T) {
	failure := errors.New("connection lost")
	fails := func() <-chan error {
		c := make(chan error, 1)
		c <- failure
		return c
	}
	begun := make(chan struct{})
	if err := beginning(begun, fails()); !errors.Is(err, failure) {
		t.Errorf("it failed first: %v", err)
	}
	close(begun)
	for range 100 {
		if err := beginning(begun, fails()); err != nil {
			t.Fatalf("in charge, then it failed: %v", err)
		}
	}
}

// A program that describes sessions in another way takes the clients to come.
func TestUpgradeOfAnotherVersion(t *testing.T) {
	r := startReplaceable(t, "XMPPGATE_DRAIN_TIMEOUT=1s")
	c := r.talks()
	r.imitate("version")
	if status, body := r.upgrade(); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	pings(t, c) // still with the old one
	answerClose(t, c)
	if err := r.Wait(); err != nil {
		t.Errorf("%v\n%s", err, r.log())
	}
	if log := r.log(); !strings.Contains(log, "of another time") {
		t.Errorf("no reason in %s", log)
	}
}

// imitate makes the program one that takes over up to a point.
func (r *replaceable) imitate(point string) {
	r.t.Helper()
	successor, err := exec.LookPath("successor")
	if err != nil {
		r.t.Fatal(err)
	}
	r.replaceBy(fmt.Appendf(nil, "#!/bin/sh\nexec %s %s\n", successor, point))
}

func init() { programs["successor"] = successorMain }

// successorMain takes over until the point that its argument names, and ends.
func successorMain() {
	defer os.Exit(4)
	fd, _ := strconv.Atoi(os.Getenv(successorVariable))
	conn, err := unixConn(os.NewFile(uintptr(fd), ""))
	if err != nil {
		panic(err)
	}
	var h hello
	if err := hear(conn, &h); err != nil {
		panic(err)
	}
	b := make([]byte, 1<<20)
	switch os.Args[1] {
	case "hello":
		return
	case "nonsense":
		conn.Write([]byte("[1"))
		conn.Read(b) // the end
		return
	case "version":
		say(conn, answerToHello{Why: "of another time"})
		conn.Read(b)
		return
	}
	say(conn, answerToHello{Sessions: true})
	if os.Args[1] == "answer" {
		return
	}
	conn.Read(b)
	if os.Args[1] == "offer" {
		return
	}
	conn.Write([]byte("{}"))
	if os.Args[1] == "taken" {
		return
	}
	conn.Read(b) // go
}
