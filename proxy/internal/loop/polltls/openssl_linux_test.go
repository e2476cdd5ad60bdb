package polltls

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// An opensslPeer is a running s_client or s_server: what it is told is its
// input, where lines like K are commands; what it received is in its output.
type opensslPeer struct {
	t     testing.TB
	in    io.WriteCloser
	lines chan string
}

// openssl runs openssl, which must be installed.
func openssl(t *testing.T, args ...string) *opensslPeer {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &opensslPeer{t, in, make(chan string, 10_000)}
	go func() {
		defer close(p.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range p.lines {
		}
		cmd.Wait()
	})
	return p
}

func (p *opensslPeer) say(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, s); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for a line that contains s.
func (p *opensslPeer) wait(s string) string {
	p.t.Helper()
	var all []string
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("openssl has ended without %q: %s", s, strings.Join(all, "\n"))
			}
			if strings.Contains(line, s) {
				return line
			}
			all = append(all, line)
		case <-time.After(patience):
			p.t.Fatalf("openssl does not say %q: %s", s, strings.Join(all, "\n"))
		}
	}
}

func TestOpenSSL(t *testing.T) {
	flags := map[uint16]string{tls.VersionTLS12: "-tls1_2", tls.VersionTLS13: "-tls1_3"}
	for version, flag := range flags {
		for _, foreign := range []bool{false, true} {
			for _, server := range []bool{false, true} {
				a := arrangement{version, "tcp", server, foreign}
				t.Run(a.String(), func(t *testing.T) {
					if foreign {
						forgetLayout(t)
					}
					l, peer := connectOpenSSL(t, a, flag)
					end := io.EOF
					if !server {
						end = errEnded // s_server ends without close_notify
					}
					testOpenSSL(t, l, peer, version, end)
				})
			}
		}
	}
}

func connectOpenSSL(t *testing.T, a arrangement, flag string) (*loop, *opensslPeer) {
	t.Helper()
	cert, key := identityFiles(t)
	if !a.server {
		peer := openssl(t, "s_server", "-accept", "127.0.0.1:0", "-cert", cert, "-key", key, flag)
		_, address, _ := strings.Cut(peer.wait("ACCEPT"), " ")
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return drive(t, Client(conn, clientConfig(a.version))), peer
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peer := openssl(t, "s_client", "-connect", listener.Addr().String(), "-CAfile", cert, "-verify_return_error", "-servername", "localhost", flag)
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return drive(t, Server(conn, serverConfig(a.version))), peer
}

func testOpenSSL(t *testing.T, l *loop, peer *opensslPeer, version uint16, end error) {
	exchange := func(i string) {
		t.Helper()
		peer.say("hello " + i + "\n")
		l.want("hello " + i + "\n")
		l.send("<message ", "id='"+i+"'/>\n")
		peer.wait("<message id='" + i + "'/>")
	}
	exchange("1")
	if version == tls.VersionTLS13 {
		// New keys: of openssl, and of both. The loop has nothing to read.
		for _, command := range []string{"k", "K", "K", "k"} {
			peer.say(command + "\n")
			l.quiet()
			exchange("after " + command)
		}
	} else {
		// Another handshake is refused.
		peer.say("R\n")
		if err := l.wantError(nil); err == io.EOF || err == errEnded {
			t.Error(err)
		}
		return
	}
	s := noise(100_000)
	l.send(s, "\n", "<end/>\n")
	for l.Pending() > 0 {
		l.step()
	}
	peer.wait("<end/>")
	peer.say("Q\n")
	l.wantError(end)
}

// quiet reads until a record has arrived that says nothing to the loop.
func (l *loop) quiet() {
	l.t.Helper()
	b, err := l.step()
	if len(b) > 0 || err != nil {
		l.t.Fatalf("read %q, %v", b, err)
	}
}

func TestOpenSSLSeesCloseNotify(t *testing.T) {
	for _, server := range []bool{false, true} {
		a := arrangement{tls.VersionTLS13, "tcp", server, false}
		t.Run(a.String(), func(t *testing.T) {
			l, peer := connectOpenSSL(t, a, "-tls1_3")
			peer.say("hello\n")
			l.want("hello\n")
			l.send("</stream:stream>\n")
			l.CloseNotify()
			peer.wait("</stream:stream>")
			peer.wait(map[bool]string{true: "closed", false: "DONE"}[server])
			l.wantError(io.EOF)
		})
	}
}
