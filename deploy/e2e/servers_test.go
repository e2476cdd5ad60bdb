package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"text/template"
	"time"
)

const (
	domain         = "localhost"
	requiredDomain = "required.localhost" // Prosody: the same, but not without TLS
	sasl2Domain    = "sasl2.localhost"    // Prosody: SASL2 and Bind2
	anonDomain     = "anon.localhost"     // SASL ANONYMOUS: as many users as one likes
	mucDomain      = "muc.localhost"
	password       = "secret"
)

//go:embed testdata/*.tmpl
var templates embed.FS

// server is one running XMPP server, with a gateway in front of it.
type server struct {
	name      string // "prosody" or "ejabberd"
	dir       string // configuration, data, certificate
	c2s       string // host:port, plain TCP with STARTTLS on offer
	directTLS string // host:port
	http      string // host:port, the server's own WebSocket endpoint
	required  string // host:port, ejabberd: STARTTLS and nothing before
	proxy     string // host:port, ejabberd: plain TCP behind a PROXY header
	proxyTLS  string // host:port, ejabberd: direct TLS behind a PROXY header
	proc      *process
	gw        *gateway // nil with E2E_NATIVE

	register func(localpart string) error
	command  func() *exec.Cmd
	ready    func() error
	call     func(command string, args, result any) error // ejabberd: the HTTP API
}

// ca is the option of a server's URL that makes the gateway trust the certificate.
func (s *server) ca() string { return "?ca=" + filepath.Join(s.dir, "localhost.crt") }

// A route is a way to a server: a URL for the gateway and the domain to ask for there.
type route struct{ name, upstream, domain string }

func (s *server) routes() []route {
	all := []route{
		{"tcp", "tcp://" + s.c2s, domain},
		{"starttls", "starttls://" + s.c2s + s.ca(), domain},
		{"tls", "tls://" + s.directTLS + s.ca(), domain},
	}
	switch s.name {
	case "prosody":
		return append(all, route{"starttls-required", "starttls://" + s.c2s + s.ca(), requiredDomain})
	default:
		return append(all,
			route{"starttls-required", "starttls://" + s.required + s.ca(), domain},
			route{"unix", "unix:" + filepath.Join(s.dir, "c2s.sock"), domain},
			route{"proxy-v1", "tcp://" + s.proxy + "?proxy=v1", domain},
			route{"tls-proxy-v2", "tls://" + s.proxyTLS + s.ca() + "&proxy=v2", domain})
	}
}

// websocket returns the URL that clients connect to.
func (s *server) websocket() string {
	if s.gw == nil {
		return "ws://" + s.http + "/xmpp-websocket"
	}
	return s.gw.url()
}

var userCount atomic.Int64

// newUser creates an account that no other test uses and returns its localpart.
func (s *server) newUser(t testing.TB, label string) string {
	t.Helper()
	name := fmt.Sprintf("%s%d", label, userCount.Add(1))
	if err := s.register(name); err != nil {
		t.Fatalf("%s: create user %q: %v", s.name, name, err)
	}
	return name
}

// newServer writes the configuration into dir and starts the server; ports that turn out to be taken cost a retry.
func newServer(name, dir string) (s *server, err error) {
	for range 3 {
		if s, err = tryNewServer(name, dir); err == nil {
			return s, nil
		}
		if s != nil && s.proc != nil {
			s.proc.kill()
		}
	}
	return nil, err
}

func tryNewServer(name, dir string) (*server, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	s := &server{name: name, dir: dir, c2s: at(0), directTLS: at(1), http: at(2), required: at(3), proxy: at(4), proxyTLS: at(5)}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		return nil, err
	}
	if err := writeCertificate(dir); err != nil {
		return nil, err
	}
	config := map[string]string{"prosody": "prosody.cfg.lua", "ejabberd": "ejabberd.yml"}[name]
	tmpl, err := template.ParseFS(templates, "testdata/"+config+".tmpl")
	if err != nil {
		return nil, err
	}
	modules, err := filepath.Abs("testdata")
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = tmpl.Execute(&text, map[string]any{
		"Dir": dir, "Root": os.Getuid() == 0, "C2S": ports[0], "DirectTLS": ports[1], "HTTP": ports[2],
		"Required": ports[3], "Proxy": ports[4], "ProxyTLS": ports[5], "Modules": modules,
	})
	if err != nil {
		return nil, err
	}
	config = filepath.Join(dir, config)
	if err := os.WriteFile(config, text.Bytes(), 0o644); err != nil {
		return nil, err
	}
	switch name {
	case "prosody":
		s.prosody(config)
	case "ejabberd":
		s.ejabberd(config)
	}
	return s, s.start()
}

// start runs the server on the ports it had before, if any.
func (s *server) start() (err error) {
	if s.proc, err = startProcess(s.name, s.command()); err != nil {
		return err
	}
	return s.proc.awaitReady(30*time.Second, s.ready)
}

func (s *server) prosody(config string) {
	s.command = func() *exec.Cmd {
		cmd := exec.Command("prosody", "-F", "--config", config)
		cmd.Dir = s.dir
		return cmd
	}
	s.ready = func() error { return errors.Join(accepts(s.c2s), accepts(s.http)) }
	// The "internal" storage reads an account's file at each login.
	s.register = func(localpart string) error {
		var file strings.Builder
		for _, c := range []byte(localpart) {
			if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
				file.WriteByte(c)
			} else {
				fmt.Fprintf(&file, "%%%02x", c)
			}
		}
		for _, host := range []string{domain, requiredDomain, sasl2Domain} {
			dir := filepath.Join(s.dir, "data", strings.ReplaceAll(host, ".", "%2e"), "accounts")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			account := fmt.Appendf(nil, "return { password = %q };\n", password)
			if err := os.WriteFile(filepath.Join(dir, file.String()+".dat"), account, 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

func (s *server) ejabberd(config string) {
	spool := filepath.Join(s.dir, "spool")
	// Without ejabberdctl: no Erlang distribution, no epmd, no port but the listeners.
	s.command = func() *exec.Cmd {
		cmd := exec.Command("erl", "-noinput", "+K", "true", "-mnesia", "dir", fmt.Sprintf("%q", spool), "-s", "ejabberd")
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(), "HOME="+s.dir, "ERL_LIBS="+erlangLibraries(), "EJABBERD_CONFIG_PATH="+config,
			"EJABBERD_LOG_PATH="+filepath.Join(s.dir, "ejabberd.log"), "ERL_CRASH_DUMP_BYTES=0", "ERL_MAX_PORTS=16384")
		return cmd
	}
	client := &http.Client{Timeout: 10 * time.Second}
	s.call = func(command string, args, result any) error {
		body, err := json.Marshal(args)
		if err != nil {
			return err
		}
		resp, err := client.Post("http://"+s.http+"/api/"+command, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", command, resp.Status)
		}
		return json.NewDecoder(resp.Body).Decode(result)
	}
	s.ready = func() error { return errors.Join(s.call("status", struct{}{}, new(any)), accepts(s.c2s)) }
	s.register = func(localpart string) error {
		return s.call("register", map[string]string{"user": localpart, "host": domain, "password": password}, new(any))
	}
}

// erlangLibraries is where Debian keeps the ejabberd application; empty when it is not installed.
func erlangLibraries() string {
	if dir := os.Getenv("E2E_EJABBERD"); dir != "" {
		return dir
	}
	found, _ := filepath.Glob("/usr/lib/*-linux-gnu/ejabberd-*")
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[0])
}

// writeCertificate makes a self-signed certificate for all the virtual hosts.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: domain},
		DNSNames:              []string{domain, requiredDomain, sasl2Domain, anonDomain, mucDomain},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "localhost.crt"), certPEM, 0o644),
		os.WriteFile(filepath.Join(dir, "localhost.key"), keyPEM, 0o600),
		os.WriteFile(filepath.Join(dir, "localhost.pem"), append(certPEM, keyPEM...), 0o600),
	)
}
