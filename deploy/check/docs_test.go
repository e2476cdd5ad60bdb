package check

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// A snippet is a fenced block of a page of the manual.
type snippet struct{ page, language, text string }

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// snippets returns the blocks of all pages for which want is true; there must be
// some.
func snippets(t *testing.T, want func(snippet) bool) (found []snippet) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md") {
		for _, m := range fence.FindAllStringSubmatch(string(read(t, page)), -1) {
			if s := (snippet{filepath.Base(page), m[1], m[2]}); want(s) {
				found = append(found, s)
			}
		}
	}
	if len(found) == 0 {
		t.Fatal("no such snippet in docs")
	}
	return found
}

var variable = regexp.MustCompile(`(?m)(XMPPGATE_\w+)=(\S+)`)

// environ returns the variables that a snippet sets or mentions.
func (s snippet) environ() map[string]string {
	set := map[string]string{}
	for _, m := range variable.FindAllStringSubmatch(s.text, -1) {
		set[m[1]] = m[2]
	}
	return set
}

// Snippets of variables alone are a configuration.
func TestSnippetsOfVariables(t *testing.T) {
	for _, s := range snippets(t, func(s snippet) bool { return strings.HasPrefix(s.text, "XMPPGATE_") }) {
		checkConfig(t, s.environ())
	}
}

// Snippets for a proxy in front carry a WebSocket to the gateway, which learns
// the client's address and believes nothing that the client made up.
func TestSnippetsOfProxies(t *testing.T) {
	proxies := snippets(t, func(s snippet) bool { return s.page == "client-address.md" && s.forProxy() })
	for i, s := range proxies {
		t.Run(fmt.Sprint(s.page, i), func(t *testing.T) {
			gateway, admin, front := freePort(t), freePort(t), freePort(t)
			s.text = regexp.MustCompile(`[\d.]+:5290`).ReplaceAllString(s.text, fmt.Sprintf("127.0.0.1:%d", gateway))
			environ := s.environ()
			for name := range environ {
				environ[name] = "127.0.0.1" // where the proxy is here
			}
			environ["XMPPGATE_LISTEN"] = fmt.Sprintf("127.0.0.1:%d", gateway)
			environ["XMPPGATE_ADMIN_LISTEN"] = fmt.Sprintf("127.0.0.1:%d", admin)
			cmd := exec.Command(xmppgate)
			for name, value := range environ {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			start(t, cmd, gateway)
			startProxy(t, s, front)

			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", fmt.Sprintf("127.0.0.1:%d", front))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprint(conn, "GET /xmpp-websocket HTTP/1.1\r\nHost: chat.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"+
				"X-Forwarded-For: 192.0.2.66\r\nForwarded: for=192.0.2.67\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v through\n%s", response, err, s.text)
			}
			if got := remotes(t, admin); len(got) != 1 || !strings.HasPrefix(got[0], "127.0.0.9:") {
				t.Errorf("the gateway takes the client for %q instead of 127.0.0.9, with\n%s", got, s.text)
			}
		})
	}
}

// forProxy reports whether a snippet belongs into the configuration of a proxy.
func (s snippet) forProxy() bool {
	return strings.HasPrefix(s.text, "# haproxy.cfg") || s.language == "nginx"
}

// Snippets for discovery bring host-meta of the domain from the gateway, and a proxy
// that checks its health sends nobody there while no server answers.
func TestSnippetsOfDiscovery(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go serveXMPP(server)
	for i, s := range snippets(t, func(s snippet) bool { return s.page == "discovery.md" && s.forProxy() }) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			gateway, admin, front := freePort(t), freePort(t), freePort(t)
			s.text = regexp.MustCompile(`[\d.]+:5290`).ReplaceAllString(s.text, fmt.Sprintf("127.0.0.1:%d", gateway))
			s.text = strings.Replace(s.text, " check\n", " check inter 100ms\n", 1)
			get := func() (status int, body string) {
				r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/.well-known/host-meta", front), nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Host = "example.org"
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				b, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				return response.StatusCode, string(b)
			}
			await := func(want int, with string) {
				t.Helper()
				deadline := time.Now().Add(30 * time.Second)
				for {
					status, body := get()
					if status == want && strings.Contains(body, with) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%d %s, want %d", status, body, want)
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
			begin := func(upstream string) *exec.Cmd {
				cmd := exec.Command(xmppgate)
				cmd.Env = []string{fmt.Sprintf("XMPPGATE_LISTEN=127.0.0.1:%d", gateway), fmt.Sprintf("XMPPGATE_ADMIN_LISTEN=127.0.0.1:%d", admin),
					"XMPPGATE_DOMAINS=example.org", "XMPPGATE_PUBLIC_URL=wss://chat.{domain}/ws", "XMPPGATE_TRUSTED_PROXIES=127.0.0.1", "XMPPGATE_UPSTREAM=tcp://" + upstream}
				if s.language != "nginx" {
					cmd.Env = slices.Delete(cmd.Env, 4, 5) // it does not say who the client is
				}
				start(t, cmd, gateway)
				return cmd
			}
			cmd := begin(server.Addr().String())
			startProxy(t, s, front)
			await(200, "href='wss://chat.example.org/ws'")
			if !strings.Contains(s.text, "httpchk") {
				return
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			begin("127.0.0.1:1")
			await(503, "No server is available") // as HAProxy says it
		})
	}
}

// serveXMPP is a server that answers health checks.
func serveXMPP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 1024)
			if _, err := c.Read(b); err == nil {
				fmt.Fprint(c, "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='1' version='1.0'>"+
					"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>")
				_, _ = io.Copy(io.Discard, c)
			}
		}()
	}
}

// startProxy runs the program that a snippet is for. The snippet gets the frame
// that a real configuration has.
func startProxy(t *testing.T, s snippet, port int) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	var config string
	var cmd *exec.Cmd
	if s.language == "nginx" {
		config = fmt.Sprintf("daemon off; master_process off; pid %s/pid; error_log stderr;\nevents {}\nhttp { access_log off;\n"+
			"client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;\n"+
			"server { listen 127.0.0.1:%d;\n%s}\n}\n", dir, port, s.text)
		cmd = exec.Command("nginx", "-e", "stderr", "-c", file)
	} else {
		mode := "tcp"
		if strings.Contains(s.text, "mode http") {
			mode = "http"
		}
		config = fmt.Sprintf("defaults\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n"+
			"frontend clients\n    mode %s\n    bind 127.0.0.1:%d\n    default_backend xmppgate\n%s", mode, port, s.text)
		cmd = exec.Command("haproxy", "-db", "-f", file)
	}
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, cmd, port)
}

// remotes asks the gateway for the addresses of its clients.
func remotes(t *testing.T, admin int) (all []string) {
	t.Helper()
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/connections", admin))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var list []struct{ Remote string }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		all = append(all, c.Remote)
	}
	return all
}

// The ejabberd of the snippet takes the client's address from the PROXY header,
// and nobody without one.
func TestSnippetsOfEjabberd(t *testing.T) {
	for _, s := range snippets(t, func(s snippet) bool { return s.language == "yaml" && strings.HasPrefix(s.text, "# ejabberd.yml\n") }) {
		var config map[string]any
		if err := yaml.UnmarshalStrict([]byte(s.text), &config); err != nil {
			t.Fatalf("%s: %v", s.page, err)
		}
		port := startEjabberd(t, config)
		if got := featuresBehind(t, "PROXY TCP4 192.0.2.7 127.0.0.1 40000 15222\r\n", "127.0.0.1", port); !strings.Contains(got, mechanism) {
			t.Errorf("features behind a PROXY header: %s", got)
		}
	}
}

// Snippets in Lua are for Prosody; a community module that they name is not
// here to be run.
func TestSnippetsOfProsody(t *testing.T) {
	for _, s := range snippets(t, func(s snippet) bool { return s.language == "lua" }) {
		file := filepath.Join(t.TempDir(), "prosody.cfg.lua")
		if err := os.WriteFile(file, []byte(s.text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "lua5.4", "-e", fmt.Sprintf("assert(loadfile(%q))", file))
	}
}

// Shell snippets call only subcommands and flags that exist.
func TestSnippetsOfCommands(t *testing.T) {
	help, err := exec.Command(xmppgate, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^xmppgate (-?[-a-z]+)`)
	for _, s := range snippets(t, func(s snippet) bool { return command.MatchString(s.text) }) {
		for _, m := range command.FindAllStringSubmatch(s.text, -1) {
			if m[1] != "--help" && !slices.Contains(strings.Fields(string(help)), m[1]) {
				t.Errorf("%s: xmppgate has no command %s", s.page, m[1])
			}
		}
	}
}
