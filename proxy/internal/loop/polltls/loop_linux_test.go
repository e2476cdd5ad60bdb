package polltls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for something that must happen.
const patience = 10 * time.Second

// A certificate for "localhost", and files of it for openssl.
var identity = sync.OnceValue(func() (id struct {
	cert          tls.Certificate
	roots         *x509.CertPool
	certPEM, kPEM []byte
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	leaf, err := x509.ParseCertificate(der)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	id.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	id.roots = x509.NewCertPool()
	id.roots.AddCert(leaf)
	id.certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	id.kPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return id
})

func identityFiles(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, b := range map[string][]byte{cert: identity().certPEM, key: identity().kPEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func clientConfig(version uint16) *tls.Config {
	return &tls.Config{RootCAs: identity().roots, ServerName: "localhost", MinVersion: version, MaxVersion: version,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
}

func serverConfig(version uint16) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{identity().cert}, MinVersion: version, MaxVersion: version,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
}

// pipe returns the ends of a connection.
func pipe(t testing.TB, network string) (a, b net.Conn) {
	t.Helper()
	if network == "unix" {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var conns [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "socketpair")
			if conns[i], err = net.FileConn(f); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		return conns[0], conns[1]
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// detach is what the loop does.
func detach(conn net.Conn) (fd int, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return -1, errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var dup error
	if err := raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dup != nil {
		return -1, dup
	}
	return fd, conn.Close()
}

// A loop is the event loop of one connection.
type loop struct {
	*Conn
	t    testing.TB
	fd   int
	b    []byte // what one Read has room for
	shut bool
}

// drive takes t, the handshake of which may be due, into a loop.
func drive(t testing.TB, conn *tls.Conn) *loop {
	t.Helper()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	c, fd, err := Take(conn, detach)
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{Conn: c, t: t, fd: fd, b: make([]byte, 64<<10)}
	t.Cleanup(l.close)
	return l
}

func (l *loop) close() {
	if !l.shut {
		l.shut = true
		unix.Close(l.fd)
	}
}

// step waits, reads once and returns what came; nothing when it was not for
// the reader. It flushes what can be flushed.
func (l *loop) step() ([]byte, error) {
	l.t.Helper()
	if !l.Buffered() {
		p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if l.Pending() > 0 {
			p[0].Events |= unix.POLLOUT
		}
		n, err := unix.Poll(p, int(patience.Milliseconds()))
		if err == unix.EINTR {
			return nil, nil
		}
		if n != 1 || err != nil {
			l.t.Fatalf("nothing to read, %v", err)
		}
		if p[0].Revents&unix.POLLOUT != 0 {
			l.Flush()
		}
		if p[0].Revents&^unix.POLLOUT == 0 {
			return nil, nil
		}
	}
	n, err := l.Read(l.b)
	if n > 0 && err != nil || n == 0 && err == nil {
		l.t.Fatalf("Read returned %d, %v", n, err)
	}
	if err == ErrAgain {
		err = nil
	}
	return l.b[:n], err
}

// want reads exactly s.
func (l *loop) want(s string) {
	l.t.Helper()
	var got []byte
	for len(got) < len(s) {
		b, err := l.step()
		if err != nil {
			l.t.Fatalf("after %d of %d bytes: %v", len(got), len(s), err)
		}
		got = append(got, b...)
	}
	if string(got) != s {
		l.t.Fatalf("read %.100q of %d bytes, want %.100q of %d", got, len(got), s, len(s))
	}
}

// wantError reads until there is an error, which must stay.
func (l *loop) wantError(want error) error {
	l.t.Helper()
	for {
		b, err := l.step()
		if len(b) > 0 {
			l.t.Fatalf("read %.100q, want an error", b)
		}
		if err == nil {
			continue
		}
		if want != nil && !errors.Is(err, want) {
			l.t.Fatalf("error is %v, want %v", err, want)
		}
		if _, again := l.Read(l.b); again != err {
			l.t.Fatalf("error was %v and is %v", err, again)
		}
		if l.Buffered() {
			l.t.Fatal("something is buffered behind an error")
		}
		return err
	}
}

func (l *loop) send(pieces ...string) {
	l.t.Helper()
	var b [][]byte
	for _, p := range pieces {
		b = append(b, []byte(p))
	}
	if l.Write(b) {
		l.t.Fatal("broken")
	}
}

// A tap holds back what is written through it, when told to.
type tap struct {
	net.Conn
	mu   sync.Mutex
	hold bool
	held []byte
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold {
		p.held = append(p.held, b...)
		return len(b), nil
	}
	return p.Conn.Write(b)
}

// sealed returns what f writes.
func (p *tap) sealed(f func()) []byte {
	p.mu.Lock()
	p.hold, p.held = true, nil
	p.mu.Unlock()
	f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = false
	p.Conn.SetWriteDeadline(time.Time{}) // CloseWrite has let it expire
	return p.held
}

// An arrangement is one of the ways in which a Conn may be used.
type arrangement struct {
	version uint16
	network string
	server  bool // the loop is that of a server
	foreign bool // the layout of crypto/tls is not known
}

func (a arrangement) String() string {
	s := fmt.Sprintf("%s/%s", tls.VersionName(a.version), a.network)
	if a.server {
		s += "/server"
	}
	if a.foreign {
		s += "/unknown layout"
	}
	return s
}

// everyWay runs f in all arrangements, one after the other.
func everyWay(t *testing.T, f func(*testing.T, arrangement)) {
	for _, foreign := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, network := range []string{"tcp", "unix"} {
				for _, server := range []bool{false, true} {
					a := arrangement{version, network, server, foreign}
					t.Run(a.String(), func(t *testing.T) {
						if foreign {
							forgetLayout(t)
						}
						f(t, a)
					})
				}
			}
		}
	}
}

// forgetLayout makes the test do without the layout of crypto/tls.
func forgetLayout(t testing.TB) {
	known := tlsLayout
	tlsLayout = nil
	t.Cleanup(func() { tlsLayout = known })
}

// connect returns a driven connection and its peer, which is tapped.
func (a arrangement) connect(t testing.TB) (*loop, *tls.Conn, *tap) {
	t.Helper()
	near, far := pipe(t, a.network)
	p := &tap{Conn: far}
	var conn, peer *tls.Conn
	if a.server {
		conn, peer = Server(near, serverConfig(a.version)), tls.Client(p, clientConfig(a.version))
	} else {
		conn, peer = Client(near, clientConfig(a.version)), tls.Server(p, serverConfig(a.version))
	}
	t.Cleanup(func() { far.Close() })
	peer.SetDeadline(time.Now().Add(2 * patience))
	failed := make(chan error, 1)
	go func() { failed <- peer.Handshake() }()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return drive(t, conn), peer, p
}
