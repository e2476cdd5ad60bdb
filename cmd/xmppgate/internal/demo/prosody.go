package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	domain   = "localhost"
	password = "secret"
)

// How long Prosody may take; variables for the tests.
var (
	prosodyStart = 10 * time.Second
	prosodyStop  = 3 * time.Second
)

// prosodyConfig is for two people on loopback: no encryption, no federation,
// nothing kept. %v is run_as_root, %d the port.
const prosodyConfig = `run_as_root = %v
interfaces = { "127.0.0.1" }
c2s_ports = { %d }
c2s_direct_tls_ports = { }
modules_enabled = { "roster", "saslauth", "disco", "ping", "offline", "carbons", "smacks", "posix" }
modules_disabled = { "s2s", "tls" }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
data_path = "data"
pidfile = "prosody.pid"
log = { info = "*console" }
VirtualHost "` + domain + `"
`

// A prosodyServer is a running Prosody with the accounts alice and bob.
type prosodyServer struct {
	addr   string        // of its client port
	dir    string        // holds all it writes
	exited chan struct{} // closed when the process is gone
	cmd    *exec.Cmd     // nil until it runs
	guard  *guard        // nil until it runs
}

// startProsody returns when the server accepts clients. On failure nothing of
// it is left.
func startProsody(ctx context.Context, progress io.Writer) (_ *prosodyServer, err error) {
	program, err := findProsody(ctx, progress)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "xmppgate-demo-")
	if err != nil {
		return nil, err
	}
	s := &prosodyServer{dir: dir, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()

	if s.guard, err = startGuard(dir); err != nil {
		s.guard = nil
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s.addr = fmt.Sprintf("127.0.0.1:%d", port)
	config := fmt.Sprintf(prosodyConfig, os.Getuid() == 0, port)
	if err := os.WriteFile(filepath.Join(dir, "prosody.cfg.lua"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	// The accounts as Prosody itself would store them: no second process,
	// and nothing to wait for.
	accounts := filepath.Join(dir, "data", domain, "accounts")
	if err := os.MkdirAll(accounts, 0o700); err != nil {
		return nil, err
	}
	for _, user := range []string{"alice", "bob"} {
		record := fmt.Sprintf("return { [\"password\"] = %q; };\n", password)
		if err := os.WriteFile(filepath.Join(accounts, user+".dat"), []byte(record), 0o600); err != nil {
			return nil, err
		}
	}

	if s.cmd, err = program.command(dir); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "prosody.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.guard.adopt(s.cmd)
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return nil, err
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	return s, s.await(ctx)
}

// await returns when the client port accepts. A Prosody that fails to start may
// stay half alive for ever, so a process that runs proves nothing.
func (s *prosodyServer) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, prosodyStart, fmt.Errorf("prosody did not open its port in %v", prosodyStart))
	defer cancel()
	var d net.Dialer
	for {
		if conn, err := d.DialContext(ctx, "tcp", s.addr); err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.exited:
			return fmt.Errorf("prosody ended at once; its log:\n%s", s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w; its log:\n%s", context.Cause(ctx), s.logTail())
		}
	}
}

// stop ends the process with all its children and removes the directory.
func (s *prosodyServer) stop() {
	if s.cmd != nil {
		s.guard.terminate()
		select {
		case <-s.exited:
		case <-time.After(prosodyStop):
		}
	}
	if s.guard != nil {
		s.guard.kill() // also what the process left behind
	}
	if s.cmd != nil {
		<-s.exited
	}
	os.RemoveAll(s.dir)
}

func (s *prosodyServer) logTail() string {
	log, err := os.ReadFile(filepath.Join(s.dir, "prosody.log"))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return "    " + string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n    ")))
}

// freePort asks the kernel. Another program could take the port before Prosody
// does; that ends in an error message, so it is not worth more.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// A prosodyProgram is an installed Prosody, or one unpacked below root.
type prosodyProgram struct {
	path string
	root string // empty: installed
}

// findProsody prefers the installed one.
func findProsody(ctx context.Context, progress io.Writer) (prosodyProgram, error) {
	if path, err := exec.LookPath("prosody"); err == nil {
		return prosodyProgram{path: path}, nil
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return prosodyProgram{}, errNoServer
		}
	}
	root, err := unpackProsody(ctx, progress)
	if err != nil {
		if ctx.Err() != nil {
			return prosodyProgram{}, ctx.Err()
		}
		return prosodyProgram{}, fmt.Errorf("%w\n\nDownloading Debian's packages instead did not work:\n%w", errNoServer, err)
	}
	return prosodyProgram{path: filepath.Join(root, "usr/bin/prosody"), root: root}, nil
}

// command prepares to run the program in dir, which holds its configuration.
func (p prosodyProgram) command(dir string) (*exec.Cmd, error) {
	if p.root == "" {
		cmd := exec.Command(p.path, "-F", "--config", filepath.Join(dir, "prosody.cfg.lua"))
		cmd.Dir = dir
		return cmd, nil
	}
	// The unpacked program looks for its parts where it would be installed.
	script, err := os.ReadFile(p.path)
	if err != nil {
		return nil, err
	}
	shebang, _, _ := strings.Cut(string(script), "\n")
	lua := filepath.Base(strings.TrimPrefix(shebang, "#!/usr/bin/env ")) // such as lua5.4
	version := strings.TrimPrefix(lua, "lua")
	relocated := strings.NewReplacer(
		"CFG_SOURCEDIR='", "CFG_SOURCEDIR='"+p.root,
		"CFG_PLUGINDIR='", "CFG_PLUGINDIR='"+p.root,
	).Replace(string(script))
	path := filepath.Join(dir, "prosody")
	if err := os.WriteFile(path, []byte(relocated), 0o600); err != nil {
		return nil, err
	}
	interpreter := filepath.Join(p.root, "usr/bin", lua)
	if _, err := os.Stat(interpreter); err != nil {
		if interpreter, err = exec.LookPath(lua); err != nil {
			return nil, err
		}
	}
	// One of the directories below lib is the machine's, such as x86_64-linux-gnu.
	var modules, libraries []string
	for _, lib := range []string{"lib", "usr/lib"} {
		found, _ := filepath.Glob(filepath.Join(p.root, lib, "*-linux-*"))
		for _, d := range found {
			libraries = append(libraries, d)
			modules = append(modules, filepath.Join(d, "lua", version, "?.so"))
		}
	}
	share := filepath.Join(p.root, "usr/share/lua", version)
	cmd := exec.Command(interpreter, path, "-F", "--config", filepath.Join(dir, "prosody.cfg.lua"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		// ";;" stands for the interpreter's own search path.
		"LUA_PATH="+share+"/?.lua;"+share+"/?/init.lua;;",
		"LUA_CPATH="+strings.Join(modules, ";")+";;",
		"LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	return cmd, nil
}

// unpackProsody downloads Debian's packages of Prosody and of what it needs
// beyond this system, without installing any of them, and returns the directory
// they are unpacked in. It needs no root, and the network only once.
func unpackProsody(ctx context.Context, progress io.Writer) (root string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "xmppgate")
	root = filepath.Join(cache, "prosody")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Complete or absent: the directory gets its name when it is filled.
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)

	// Apt knows what is missing here; each line names a file such as
	// 'http://…/prosody_0.12.3-1_amd64.deb' prosody_0.12.3-1_amd64.deb 395852 …
	missing, err := output(ctx, work, "apt-get", "install", "--print-uris", "-qq", "--no-install-recommends", "prosody")
	if err != nil {
		if strings.Contains(err.Error(), "Unable to locate package") {
			return "", errors.New("apt knows no package prosody: run \"apt-get update\" (as root) and try again")
		}
		return "", err
	}
	var packages []string
	for line := range strings.Lines(missing) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			name, _, _ := strings.Cut(fields[1], "_")
			packages = append(packages, name)
		}
	}
	if len(packages) == 0 {
		return "", errors.New("apt takes prosody for installed, but it is not in PATH")
	}

	fmt.Fprintf(progress, "Downloading Prosody, once, to %s (%d packages, not installed) …\n", root, len(packages))
	if _, err := output(ctx, work, "apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if _, err := output(ctx, work, "dpkg-deb", "-x", f, "root"); err != nil {
			return "", err
		}
	}
	return root, os.Rename(filepath.Join(work, "root"), root)
}

// output runs a command in dir and returns what it printed; the error carries
// what it complained about.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C") // its messages are compared
	ownGroup(cmd)
	cmd.Cancel = func() error { killGroup(cmd); return nil }
	cmd.WaitDelay = time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, args[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return string(out), nil
}
