package check

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const mechanism = "<mechanism>SCRAM-SHA-"

// A gateway on loopback gets login mechanisms without TLS from the complete
// configurations.
func TestProsody(t *testing.T) {
	for name, config := range map[string]string{
		"prosody.cfg.lua": string(read(t, "../prosody/prosody.cfg.lua")),
		"example.yaml":    loadManifests(t).config.Data["prosody.cfg.lua"],
	} {
		t.Run(name, func(t *testing.T) {
			port := startProsody(t, config)
			if got := features(t, "127.0.0.1", port); !strings.Contains(got, mechanism) {
				t.Errorf("features: %s", got)
			}
		})
	}
}

// The accounts of the Kubernetes example, as its init container registers them:
// one can log in, and a second start changes nothing.
func TestKubernetesAccounts(t *testing.T) {
	m := loadManifests(t)
	root := t.TempDir()
	for _, dir := range []string{"bin", "data", "accounts"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("data_path = %q\n%s", root+"/data", m.config.Data["prosody.cfg.lua"])
	write("prosody.cfg.lua", config, 0o600)
	prosodyctl, err := exec.LookPath("prosodyctl")
	if err != nil {
		t.Fatal(err)
	}
	// As root it would change to the user prosody, who may not look in here.
	write("bin/prosodyctl", fmt.Sprintf("#!/bin/sh\nexec %s --root --config %s/prosody.cfg.lua \"$@\"\n", prosodyctl, root), 0o700)
	t.Setenv("PATH", filepath.Join(root, "bin")+":"+os.Getenv("PATH"))
	init := container(t, m.deployment.Spec.Template.Spec.InitContainers, "accounts")
	script := replace(t, init.Command[2], "/var/lib/prosody", root+"/data", "/run/accounts", root+"/accounts")

	for _, password := range []string{"secret", "another"} {
		for user := range m.accounts.StringData {
			write("accounts/"+user, password, 0o600)
		}
		run(t, init.Command[0], init.Command[1], script)
	}
	port := startProsody(t, config)
	if len(m.accounts.StringData) != 2 {
		t.Errorf("accounts: %v", m.accounts.StringData)
	}
	for user, password := range m.accounts.StringData {
		if got := login(t, port, user, password); !strings.Contains(got, "<success ") {
			t.Errorf("%s: %s", user, got)
		}
	}
	if got := login(t, port, "alice", "another"); !strings.Contains(got, "<failure ") {
		t.Errorf("with a wrong password: %s", got)
	}
}

// Merged into a server that insists on TLS, the lines open loopback only.
func TestProsodyExisting(t *testing.T) {
	outside := outsideAddress(t)
	modules, err := filepath.Abs("../prosody")
	if err != nil {
		t.Fatal(err)
	}
	config := replace(t, string(read(t, "../prosody/existing.cfg.lua")),
		`"/etc/prosody/modules"`, `"`+modules+`"`,
		"-- … what is there already, and:", `"roster", "saslauth", "disco", "posix",`)
	port := startProsody(t, `
interfaces = { "127.0.0.1", "`+outside+`" }
c2s_ports = { 5222 }
c2s_direct_tls_ports = { }
modules_disabled = { "s2s" }
authentication = "internal_hashed"
log = { info = "*console" }
`+config+`
VirtualHost "localhost"
`)
	if got := features(t, "127.0.0.1", port); !strings.Contains(got, mechanism) {
		t.Errorf("features on loopback: %s", got)
	}
	if got := features(t, outside, port); strings.Contains(got, "<mechanism>") {
		t.Errorf("features on %s, unencrypted: %s", outside, got)
	}
}

func TestEjabberd(t *testing.T) {
	var snippet map[string]any
	if err := yaml.UnmarshalStrict(read(t, "../ejabberd/ejabberd.yml"), &snippet); err != nil {
		t.Fatal(err)
	}
	port := startEjabberd(t, snippet)
	got := featuresBehind(t, "PROXY TCP4 192.0.2.7 127.0.0.1 40000 5224\r\n", "127.0.0.1", port)
	if !strings.Contains(got, mechanism) || strings.Contains(got, "starttls") {
		t.Errorf("features: %s", got)
	}
}

// The whole configuration for pods and compose works as it is, but for the path of the socket.
func TestEjabberdComplete(t *testing.T) {
	const file = "../ejabberd/complete.yml"
	dir := t.TempDir()
	socket := filepath.Join(dir, "c2s.sock")
	runEjabberd(t, dir, []byte(replace(t, string(read(t, file)), ejabberdSocket(t, file), socket)), "unix", socket)
	got := openStreamAt(t, "PROXY TCP4 192.0.2.7 127.0.0.1 40000 5224\r\n", "unix", socket).until("</stream:features>")
	if !strings.Contains(got, mechanism) || strings.Contains(got, "starttls") {
		t.Errorf("features: %s", got)
	}
}

// ejabberdSocket is where ejabberd listens by a configuration.
func ejabberdSocket(t *testing.T, file string) string {
	t.Helper()
	var config struct {
		Listen []struct {
			Port  any  `json:"port"`
			Proxy bool `json:"use_proxy_protocol"`
		} `json:"listen"`
	}
	if err := yaml.Unmarshal(read(t, file), &config); err != nil {
		t.Fatal(err)
	}
	for _, l := range config.Listen {
		if port, ok := l.Port.(string); ok && l.Proxy {
			return strings.TrimPrefix(port, "unix:")
		}
	}
	t.Fatalf("%s has no Unix socket that awaits a PROXY header", file)
	return ""
}

// startEjabberd starts ejabberd with a configuration whose first listener is for
// clients, and returns the port of that.
func startEjabberd(t *testing.T, snippet map[string]any) (port int) {
	t.Helper()
	port = freePort(t)
	listener := snippet["listen"].([]any)[0].(map[string]any)
	listener["port"] = port
	// The least that the snippet may expect of the file it is added to.
	snippet["hosts"] = []string{"localhost"}
	snippet["auth_password_format"] = "scram"
	snippet["auth_scram_hash"] = "sha256"
	snippet["access_rules"] = map[string]any{"c2s": map[string]any{"allow": "all"}}
	snippet["shaper"] = map[string]any{"normal": 3000}
	snippet["shaper_rules"] = map[string]any{"c2s_shaper": map[string]any{"normal": "all"}}
	config, err := json.Marshal(snippet) // JSON is YAML
	if err != nil {
		t.Fatal(err)
	}
	runEjabberd(t, t.TempDir(), config, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	return port
}

// runEjabberd runs ejabberd in dir until the end of the test, and returns when it accepts at address.
func runEjabberd(t *testing.T, dir string, config []byte, network, address string) {
	t.Helper()
	file := filepath.Join(dir, "ejabberd.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	libraries, _ := filepath.Glob("/usr/lib/*-linux-*/ejabberd-*")
	if len(libraries) == 0 {
		t.Fatal("no ejabberd: deploy/test.sh installs it")
	}
	// Without ejabberdctl: no epmd, no Erlang distribution, no other ports.
	cmd := exec.Command("erl", "-noinput", "-mnesia", "dir", `"`+filepath.Join(dir, "spool")+`"`, "-s", "ejabberd")
	cmd.Env = append(os.Environ(), "HOME="+dir, "ERL_LIBS="+filepath.Dir(libraries[0]), "ERL_CRASH_DUMP_BYTES=0",
		"EJABBERD_CONFIG_PATH="+file, "EJABBERD_LOG_PATH="+filepath.Join(dir, "ejabberd.log"))
	startAt(t, cmd, network, address)
}

// startProsody starts Prosody with a configuration whose client port is 5222,
// on another port.
func startProsody(t *testing.T, config string) (port int) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	port = freePort(t)
	config = replace(t, config, "{ 5222 }", fmt.Sprintf("{ %d }", port))
	if !strings.Contains(config, "data_path") {
		config = fmt.Sprintf("data_path = %q\n%s", dir+"/data", config)
	}
	config = fmt.Sprintf("run_as_root = %v\npidfile = \"prosody.pid\"\n%s", os.Getuid() == 0, config)
	file := filepath.Join(dir, "prosody.cfg.lua")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, exec.Command("prosody", "-F", "--config", file), port)
	return port
}

// start runs a server until the end of the test and returns when it accepts.
func start(t *testing.T, cmd *exec.Cmd, port int) {
	t.Helper()
	startAt(t, cmd, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

func startAt(t *testing.T, cmd *exec.Cmd, network, address string) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("%s: %s", cmd.Path, &log)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial(network, address); err == nil {
			conn.Close()
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A stream is an XMPP stream without TLS.
type stream struct {
	t    *testing.T
	conn net.Conn
}

// openStream connects and sends the header, with other bytes in front of it.
func openStream(t *testing.T, ahead, host string, port int) stream {
	t.Helper()
	return openStreamAt(t, ahead, "tcp", fmt.Sprintf("%s:%d", host, port))
}

func openStreamAt(t *testing.T, ahead, network, address string) stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, ahead+"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>")
	return stream{t, conn}
}

// until reads until one of the texts has come, or the server leaves.
func (s stream) until(texts ...string) (answer string) {
	s.t.Helper()
	for buf := make([]byte, 4096); ; {
		n, err := s.conn.Read(buf)
		answer += string(buf[:n])
		if errors.Is(err, io.EOF) || slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(answer, text) }) {
			return answer
		}
		if err != nil {
			s.t.Fatalf("%v after %q", err, answer)
		}
	}
}

// features opens a stream and returns what the server answers: one with nothing
// to offer says so and leaves.
func features(t *testing.T, host string, port int) string {
	t.Helper()
	return featuresBehind(t, "", host, port)
}

// featuresBehind is features with bytes in front of the stream.
func featuresBehind(t *testing.T, ahead, host string, port int) string {
	t.Helper()
	return openStream(t, ahead, host, port).until("</stream:features>")
}

// login returns how a server on this machine answers SCRAM-SHA-1 (RFC 5802).
func login(t *testing.T, port int, user, password string) string {
	t.Helper()
	s := openStream(t, "", "127.0.0.1", port)
	s.until("</stream:features>")
	const sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	first := "n=" + user + ",r=abcdefgh"
	fmt.Fprintf(s.conn, "<auth %s mechanism='SCRAM-SHA-1'>%s</auth>", sasl, base64.StdEncoding.EncodeToString([]byte("n,,"+first)))
	answer := s.until("</challenge>", "</failure>")
	_, challenge, ok := strings.Cut(strings.TrimSuffix(answer, "</challenge>"), ">")
	if !ok || strings.Contains(answer, "<failure ") {
		return answer
	}
	decoded, err := base64.StdEncoding.DecodeString(challenge)
	if err != nil {
		t.Fatalf("%v in %q", err, answer)
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(string(decoded), ",") {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	if err != nil {
		t.Fatal(err)
	}
	rounds, err := strconv.Atoi(fields["i"])
	if err != nil {
		t.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha1.New, password, salt, rounds, sha1.Size)
	if err != nil {
		t.Fatal(err)
	}
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha1.New, key)
		io.WriteString(h, text)
		return h.Sum(nil)
	}
	final := "c=biws,r=" + fields["r"]
	clientKey := mac(salted, "Client Key")
	stored := sha1.Sum(clientKey)
	proof := make([]byte, sha1.Size)
	subtle.XORBytes(proof, clientKey, mac(stored[:], first+","+string(decoded)+","+final))
	final += ",p=" + base64.StdEncoding.EncodeToString(proof)
	fmt.Fprintf(s.conn, "<response %s>%s</response>", sasl, base64.StdEncoding.EncodeToString([]byte(final)))
	return s.until("</success>", "</failure>")
}

// outsideAddress returns an address of this machine that is not loopback.
func outsideAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// replace replaces texts that have to be there.
func replace(t *testing.T, s string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(s, pairs[i]) {
			t.Fatalf("no %q in\n%s", pairs[i], s)
		}
	}
	return strings.NewReplacer(pairs...).Replace(s)
}
