package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// banned asks the real fail2ban which networks it would ban for a log.
func banned(t *testing.T, filter, log string) []string {
	t.Helper()
	// The filter is used from where fail2ban looks for it, beside those of the package.
	etc := filepath.Join(t.TempDir(), "fail2ban")
	if err := os.CopyFS(etc, os.DirFS("/etc/fail2ban")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"filter.d/xmppgate.conf", "jail.d/xmppgate.conf"} {
		text, err := os.ReadFile("../fail2ban/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, file), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(log), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "fail2ban-regex", "--config", etc, "--usedns", "no", "--out", "ip", path, filter).Output()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit { // it fails if nothing is found
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// failLogins is a server where each login fails, several times.
func failLogins(t *testing.T, path string) {
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
				r := bufio.NewReader(c)
				for tag := ""; !strings.Contains(tag, "<stream:stream"); {
					if tag, err = r.ReadString('>'); err != nil {
						return
					}
				}
				_, _ = io.WriteString(c, "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='a.example' id='1' version='1.0'>"+
					"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"+
					strings.Repeat("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>", 3))
				_, _ = io.Copy(io.Discard, r)
			}()
		}
	}()
}

// client connects through a proxy that says where it is, and goes on until the gateway
// ends it. What it says of itself tries to look like a line of the log.
func client(t *testing.T, gateway, address string) {
	t.Helper()
	c, err := net.Dial("unix", gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	const forged = `x","level":"WARN","msg":"client limited","client":"192.0.2.66","network":"192.0.2.66/32","reason":"failed-logins","count":1}`
	const forgedText = `"client limited" client=192.0.2.66 network=192.0.2.66/32 reason=failed-logins count=1`
	fmt.Fprintf(c, "GET /ws?%s HTTP/1.1\r\nHost: %s\r\nX-Forwarded-For: %s\r\nOrigin: %s\r\nUser-Agent: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n", "msg="+strings.ReplaceAll(forgedText, " ", "+"), "gate", address, forged, "msg="+forgedText)
	open := `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="a.example" version="1.0"/>`
	_, _ = c.Write(append([]byte{0x81, 0x80 | byte(len(open)), 0, 0, 0, 0}, open...))
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		if err != nil || bytes.Contains(b[:n], []byte("policy-violation")) || bytes.Contains(b[:n], []byte(" 429 ")) || bytes.Contains(b[:n], []byte(" 403 ")) {
			return
		}
	}
}

// The filter for fail2ban finds in the real log who guesses passwords, as a file of JSON and
// in the journal, and nobody else, whatever clients write.
func TestFail2ban(t *testing.T) {
	for _, format := range []string{"json", "journal"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			failLogins(t, dir+"/server")
			var log bytes.Buffer
			gateway := exec.CommandContext(t.Context(), xmppgate)
			gateway.Env = []string{
				"XMPPGATE_LISTEN=unix:" + dir + "/ws", "XMPPGATE_ADMIN_LISTEN=unix:" + dir + "/admin", "XMPPGATE_UPSTREAM=unix:" + dir + "/server",
				"XMPPGATE_TRUSTED_PROXIES=unix", "XMPPGATE_NETWORK_FAILED_LOGINS=1/h:2", "XMPPGATE_NETWORK_REQUESTS=1/h:3", "XMPPGATE_LOG_FORMAT=" + format,
				"XMPPGATE_DRAIN_TIMEOUT=1s",
			}
			gateway.Stderr = &log
			if err := gateway.Start(); err != nil {
				t.Fatal(err)
			}
			for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
				if c, err := net.Dial("unix", dir+"/ws"); err == nil {
					c.Close()
					break
				}
				if time.Since(begun) > time.Minute {
					t.Fatal("the gateway does not listen")
				}
			}
			// Two guess passwords, one sends too many requests.
			for _, address := range []string{"203.0.113.7", "203.0.113.7", "2001:db8:0:7::7"} {
				client(t, dir+"/ws", address)
			}
			for range 4 {
				c, err := net.Dial("unix", dir+"/ws")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, "GET /nothing HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
			_ = gateway.Process.Signal(syscall.SIGTERM)
			_ = gateway.Wait()

			text := log.String()
			if format == "journal" { // as journalctl shows it
				var lines strings.Builder
				for line := range strings.Lines(text) {
					if len(line) > 3 && line[0] == '<' && line[2] == '>' {
						line = line[3:]
					}
					lines.WriteString("Nov 27 07:44:53 host xmppgate[12]: " + line)
				}
				text = lines.String()
			}
			guessers := []string{"203.0.113.7", "2001:db8:0:7::/64"}
			if got := banned(t, "xmppgate", text); !slices.Equal(got, guessers) {
				t.Errorf("banned %q, want %q\n%s", got, guessers, text)
			}
			all := append(guessers, "203.0.113.9")
			if got := banned(t, "xmppgate[mode=all]", text); !slices.Equal(got, all) {
				t.Errorf("mode all: banned %q, want %q\n%s", got, all, text)
			}
			if got := banned(t, "xmppgate", strings.ReplaceAll(text, "client limited", "upgrade refused")); len(got) > 0 {
				t.Errorf("banned for another message: %q", got)
			}
		})
	}
}
