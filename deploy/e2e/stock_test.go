package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// This file runs the servers as Debian configures them. What has to differ from the packaged file is in prosodyPlace and
// ejabberdPlace: ports, paths, the user. Everything else is what an operator has after apt-get install, and a certificate.

const (
	prosodyConfig  = "/etc/prosody/prosody.cfg.lua"
	ejabberdConfig = "/etc/ejabberd/ejabberd.yml"
)

// stockServer starts a server with the configuration that Debian packages, changed by edit if that is not nil.
func stockServer(t *testing.T, name string, edit func(config string) string) *server {
	t.Helper()
	needGateway(t)
	ports, err := freePorts(10)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &server{name: name, dir: dir, c2s: fmt.Sprintf("127.0.0.1:%d", ports[0]), directTLS: fmt.Sprintf("127.0.0.1:%d", ports[1]),
		http: fmt.Sprintf("127.0.0.1:%d", ports[2])}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "data"), 0o755), writeCertificate(dir)); err != nil {
		t.Fatal(err)
	}
	var file, packaged string
	var place func(string) string
	switch name {
	case "prosody":
		packaged, file = prosodyConfig, filepath.Join(dir, "prosody.cfg.lua")
		place = func(c string) string { return prosodyPlace(t, dir, ports, c) }
		s.prosody(file)
		s.ready = func() error { return accepts(s.c2s) }
	case "ejabberd":
		packaged, file = ejabberdConfig, filepath.Join(dir, "ejabberd.yml")
		place = func(c string) string { return ejabberdPlace(t, dir, ports, c) }
		s.ejabberd(file)
		if err := s.stockAccounts(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(packaged)
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	if edit != nil {
		config = edit(config)
	}
	if err := os.WriteFile(file, []byte(place(config)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", name, s.proc.log.tail(0))
		}
		s.proc.kill()
	})
	return s
}

// change replaces what must be there.
func change(t *testing.T, config, old, new string) string {
	t.Helper()
	if !strings.Contains(config, old) {
		t.Fatalf("the packaged configuration has no %q any more", old)
	}
	return strings.ReplaceAll(config, old, new)
}

// prosodyPlace moves a configuration to a directory and to free ports. Ports are not in the packaged one: they stand in
// front, as do settings that the package's service has from its user and directories.
func prosodyPlace(t *testing.T, dir string, ports []int, config string) string {
	config = change(t, config, "/run/prosody/", dir+"/data/")
	config = change(t, config, "/var/log/prosody/", dir+"/")
	// What prosodyctl cert generate localhost puts there.
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "certs"), 0o755), os.Mkdir(filepath.Join(dir, "conf.d"), 0o755),
		os.Link(filepath.Join(dir, "localhost.crt"), filepath.Join(dir, "certs/localhost.crt")),
		os.Link(filepath.Join(dir, "localhost.key"), filepath.Join(dir, "certs/localhost.key"))); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("run_as_root = %v\ndata_path = %q\nc2s_ports = { %d }\nc2s_direct_tls_ports = { %d }\ns2s_ports = { %d }\n%s",
		os.Getuid() == 0, dir+"/data", ports[0], ports[1], ports[3], config)
}

var listenerPort = regexp.MustCompile(`(?m)^( +)port: ([0-9]+)\b`)

// ejabberdPlace does the same. A port that is there twice stops ejabberd, so it stops the test.
func ejabberdPlace(t *testing.T, dir string, ports []int, config string) string {
	config = change(t, config, "/etc/ejabberd/ejabberd.pem", filepath.Join(dir, "localhost.pem"))
	config = strings.ReplaceAll(config, "/run/ejabberd/", dir+"/")
	moved := map[string]int{"5222": ports[0], "5223": ports[1], "5443": ports[2]}
	free := ports[3:]
	seen := map[string]bool{}
	return listenerPort.ReplaceAllStringFunc(config, func(line string) string {
		m := listenerPort.FindStringSubmatch(line)
		if seen[m[2]] {
			t.Fatalf("two listeners have port %s", m[2])
		}
		seen[m[2]] = true
		port, ok := moved[m[2]]
		if !ok {
			port, free = free[0], free[1:]
		}
		return fmt.Sprintf("%sport: %d", m[1], port)
	})
}

// registrar makes an account of each file that is put into the directory %q, and removes the file. The packaged configuration
// leaves that to ejabberdctl, which needs Erlang's distribution and its ports.
const registrar = `spawn(fun Loop() ->
	[begin {ok, User} = file:read_file(F), ok = ejabberd_auth:try_register(User, <<%q>>, <<%q>>), ok = file:delete(F) end
		|| F <- filelib:wildcard(%q ++ "/*")],
	timer:sleep(20), Loop() end).`

func (s *server) stockAccounts() error {
	accounts, outbox := filepath.Join(s.dir, "accounts"), filepath.Join(s.dir, "outbox")
	command := s.command
	s.command = func() *exec.Cmd {
		cmd := command()
		cmd.Args = append(cmd.Args, "-eval", fmt.Sprintf(registrar, domain, password, accounts))
		return cmd
	}
	s.call = nil
	s.ready = func() error { return accepts(s.c2s) }
	s.register = func(localpart string) error {
		made, file := filepath.Join(outbox, localpart), filepath.Join(accounts, localpart)
		if err := errors.Join(os.WriteFile(made, []byte(localpart), 0o600), os.Rename(made, file)); err != nil {
			return err
		}
		return poll(patience, func() error {
			if _, err := os.Stat(file); err == nil {
				return errors.New("the account is not made")
			}
			return nil
		})
	}
	return errors.Join(os.Mkdir(accounts, 0o755), os.Mkdir(outbox, 0o755))
}

func eachStock(t *testing.T, f func(t *testing.T, name string)) {
	for _, name := range []string{"prosody", "ejabberd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, name)
		})
	}
}

// The gateway needs no setting beside a server that Debian has configured, which lets nobody in without TLS: every client
// logs in. (The addresses are settings here only because each test needs its own.)
func TestStock(t *testing.T) {
	t.Parallel()
	eachStock(t, func(t *testing.T, name string) {
		s := stockServer(t, name, nil)
		for _, loop := range []string{"auto", "goroutine"} {
			t.Run(loop, func(t *testing.T) {
				s.gw = gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_LOOP="+loop)
				for _, library := range []string{"strophe", "xmppjs", "stanza"} {
					for range 2 { // the first session, and one when the gateway knows the server
						c := cell{name + "/" + library, s.gw.url(), domain, s.newUser(t, library), password}
						if err, ran := runCells(t, library, []cell{c})[c.Name]; !ran || err != "" {
							t.Errorf("%s: ran: %v; %s", c.Name, ran, err)
						}
					}
				}
				runScript(t, s, "converse.mjs", "", "login", "chat", "cut", "resumed", "replayed", "close", "close")
				if n := strings.Count(s.gw.proc.log.all(), "the server on this machine requires TLS"); n != 1 {
					t.Errorf("the log says %d times that the server requires TLS", n)
				}
				if strings.Contains(s.gw.proc.log.all(), `"level":"WARN"`) {
					t.Errorf("there is a warning:\n%s", s.gw.proc.log.all())
				}
			})
		}
	})
}

// The snippets make the stock servers let the gateway in without TLS. Each is merged into the packaged file, which has all
// else that it had.
func TestSnippets(t *testing.T) {
	t.Parallel()
	eachStock(t, func(t *testing.T, name string) {
		merge := map[string]func(*testing.T, string) string{"prosody": mergeProsody, "ejabberd": mergeEjabberd}[name]
		s := stockServer(t, name, func(config string) string { return merge(t, config) })
		upstream := "tcp://" + s.c2s
		if name == "ejabberd" {
			upstream = snippetUpstream(t, s)
		}
		s.gw = gatewayFor(t, upstream)
		for _, library := range []string{"strophe", "xmppjs", "stanza"} {
			c := cell{name + "/" + library, s.gw.url(), domain, s.newUser(t, library), password}
			if err, ran := runCells(t, library, []cell{c})[c.Name]; !ran || err != "" {
				t.Errorf("%s: ran: %v; %s", c.Name, ran, err)
			}
		}
		resumes(t, s, s.gw.url())
		if page, err := s.gw.get("/metrics"); err != nil || strings.Contains(page, `xmppgate_upstream_opens_total{phase="tls"`) {
			t.Errorf("there were handshakes: %v\n%s", err, page)
		}
	})
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mergeProsody does what the head of the snippet says: the lists get more items, the other settings go in front of the
// first host.
func mergeProsody(t *testing.T, config string) string {
	modules, err := filepath.Abs("../prosody")
	if err != nil {
		t.Fatal(err)
	}
	snippet := change(t, read(t, "../prosody/existing.cfg.lua"), "/etc/prosody/modules", modules)
	lists := regexp.MustCompile(`(?ms)^(plugin_paths|modules_enabled) = \{(.*?)\}`)
	for _, m := range lists.FindAllStringSubmatch(snippet, -1) {
		start := m[1] + " = {"
		config = change(t, config, "\n"+start, "\n"+start+strings.TrimRight(m[2], ", \n")+",\n")
	}
	rest := lists.ReplaceAllString(snippet, "")
	return change(t, config, "\nVirtualHost \"localhost\"\n", "\n"+rest+"\nVirtualHost \"localhost\"\n")
}

// snippetUpstream is the setting that the head of ejabberd's snippet tells.
func snippetUpstream(t *testing.T, s *server) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^#   XMPPGATE_UPSTREAM=(unix:\S+)$`).FindStringSubmatch(read(t, "../ejabberd/ejabberd.yml"))
	if m == nil {
		t.Fatal("the snippet does not tell the setting")
	}
	return strings.Replace(m[1], "/run/ejabberd/", s.dir+"/", 1)
}

// The Unix socket of the snippet brings ejabberd the client's address.
func TestUnixSocketAddress(t *testing.T) {
	t.Parallel()
	s := stockServer(t, "ejabberd", func(config string) string {
		return mergeEjabberd(t, change(t, config, "loglevel: info", "loglevel: debug"))
	})
	s.gw = gatewayFor(t, snippetUpstream(t, s), "XMPPGATE_PROXY_PROTOCOL=127.0.0.1")
	c, err := net.Dial("tcp", s.gw.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PROXY TCP4 192.0.2.77 127.0.0.1 40000 5290\r\nGET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n")
	open := `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="localhost" version="1.0"/>`
	frame := append([]byte{0x81, 0x80 | byte(len(open)), 0, 0, 0, 0}, open...)
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	err = poll(patience, func() error {
		if !strings.Contains(s.proc.log.all()+read(t, filepath.Join(s.dir, "ejabberd.log")), "192.0.2.77") {
			return errors.New("ejabberd does not know the client's address")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// The socket that a killed ejabberd leaves behind is in nobody's way.
	s.proc.kill()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	g := gatewayFor(t, snippetUpstream(t, s))
	as(t, g.url(), s.newUser(t, "alice"), "after")
}

// mergeEjabberd puts the listener at the end of the list of listeners.
func mergeEjabberd(t *testing.T, config string) string {
	_, listener, ok := strings.Cut(read(t, "../ejabberd/ejabberd.yml"), "\nlisten:\n")
	if !ok {
		t.Fatal("the snippet has no listen:")
	}
	listener, rest, _ := strings.Cut(listener, "\n\n")
	if regexp.MustCompile(`(?m)^[^#\n]`).MatchString(rest) {
		t.Fatalf("the snippet has more than a listener:\n%s", rest)
	}
	const behind = "\n\n\n## Disabling digest-md5"
	return change(t, config, behind, "\n"+listener+behind)
}
