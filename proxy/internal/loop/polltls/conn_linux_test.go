package polltls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLayoutIsKnown(t *testing.T) {
	if tlsLayout == nil {
		t.Fatal("the crypto/tls of this Go is not what this package knows: connections take more memory and time")
	}
	if findLayout(reflect.TypeFor[struct{ rawInput []byte }]()) != nil {
		t.Error("a foreign type has the layout")
	}
}

func TestConfigIsSharedWhenItFits(t *testing.T) {
	cfg := &tls.Config{Renegotiation: tls.RenegotiateFreelyAsClient}
	fit := Config(cfg)
	if fit == cfg || cfg.DynamicRecordSizingDisabled || !fit.DynamicRecordSizingDisabled || fit.Renegotiation != tls.RenegotiateNever {
		t.Error("not a fitting copy")
	}
	if Config(fit) != fit {
		t.Error("a fitting config is copied")
	}
}

func TestEcho(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, _ := a.connect(t)
		go io.Copy(peer, peer)
		for _, size := range []int{1, 200, maxPlaintext - 1, maxPlaintext, maxPlaintext + 1, 5 * maxPlaintext, 100_000} {
			s := noise(size)
			l.send(s)
			l.want(s)
		}
	})
}

func TestEarlyBytes(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		near, far := pipe(t, a.network)
		defer far.Close()
		conn, peer := Client(near, clientConfig(a.version)), tls.Server(far, serverConfig(a.version))
		if a.server {
			conn, peer = Server(near, serverConfig(a.version)), tls.Client(far, clientConfig(a.version))
		}
		big := noise(20_000)
		go func() {
			io.WriteString(peer, "<stream>")
			io.WriteString(peer, big)
		}()
		b := make([]byte, 3)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "<st" {
			t.Fatal(err)
		}
		l := drive(t, conn)
		if n, _ := l.Read(nil); n != 0 || !l.Buffered() {
			t.Error("nothing is buffered")
		}
		l.want("ream>" + big)
	})
}

func TestSmallReads(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, _ := a.connect(t)
		s := noise(3*maxPlaintext + 100)
		go io.WriteString(peer, s)
		l.b = l.b[:1000]
		l.want(s)
	})
}

// All parts that ciphertext may arrive in.
func TestEverySplit(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		const first, second = "<message/>", "<presence/>"
		var whole int
		for i := 1; whole == 0 || i < whole; i++ {
			b := p.sealed(func() {
				io.WriteString(peer, first)
				io.WriteString(peer, second)
			})
			whole = len(b)
			var got []byte
			for _, part := range [][]byte{b[:i], b[i:]} {
				p.Conn.Write(part)
				got = append(got, l.available()...)
			}
			if string(got) != first+second {
				t.Fatalf("split at %d: %q", i, got)
			}
			if tlsLayout != nil && l.kept != nil {
				t.Fatal("memory is kept for nothing")
			}
		}
	})
}

func TestByteByByte(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		var want string
		b := p.sealed(func() {
			for range 5 {
				s := noise(rand.IntN(300) + 1)
				io.WriteString(peer, s)
				want += s
			}
		})
		var got []byte
		for i := range b {
			p.Conn.Write(b[i : i+1])
			got = append(got, l.available()...)
		}
		if string(got) != want {
			t.Errorf("%d bytes became %d", len(want), len(got))
		}
	})
}

// available reads what was written to the other end.
func (l *loop) available() (got []byte) {
	l.t.Helper()
	for {
		p := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 0); n < 1 && !l.Buffered() {
			return got
		}
		b, err := l.step()
		if err != nil {
			l.t.Fatal(err)
		}
		got = append(got, b...)
	}
}

func TestRandomParts(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		want := noise(300_000)
		b := p.sealed(func() {
			for rest := want; rest != ""; {
				n := min(len(rest), 1+rand.IntN(1<<rand.IntN(16)))
				io.WriteString(peer, rest[:n])
				rest = rest[n:]
			}
		})
		go func() {
			for len(b) > 0 {
				n := min(len(b), 1+rand.IntN(1<<rand.IntN(17)))
				p.Conn.Write(b[:n])
				b = b[n:]
			}
		}()
		l.want(want)
	})
}

func TestManyRecordsAreReadAtOnce(t *testing.T) {
	l, peer, p := arrangement{tls.VersionTLS13, "unix", false, false}.connect(t)
	l.available() // session tickets
	p.Conn.Write(p.sealed(func() {
		for range 100 {
			io.WriteString(peer, "<message/>")
		}
	}))
	b, err := l.step()
	if err != nil || string(b) != strings.Repeat("<message/>", 100) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if l.Buffered() {
		t.Error("something is buffered")
	}
}

// A reader with room for a large record never has anything buffered.
func TestNothingIsLeftInside(t *testing.T) {
	l, peer, _ := arrangement{tls.VersionTLS13, "tcp", false, false}.connect(t)
	l.Read(l.b)
	s := noise(2 << 20)
	go io.WriteString(peer, s)
	l.b = l.b[:20<<10]
	for n := 0; n < len(s); {
		b, err := l.step()
		if err != nil {
			t.Fatal(err)
		}
		if n += len(b); len(b) < len(l.b) && tlsLayout.inside(l.tls).held() >= maxPlaintext+256+headerSize {
			t.Fatal("more than a part of a record is held")
		}
	}
}

func TestManyPiecesAreOneRecordAndOneCall(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		l, _, _ := arrangement{version, "unix", false, false}.connect(t)
		// Here, one call to receive takes what one call has sent.
		packets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(packets[0])
		defer unix.Close(packets[1])
		l.Conn.fd = int32(packets[0])
		for _, c := range []struct{ pieces, size, records, calls int }{
			{1, 100, 1, 1},
			{100, 100, 1, 1},
			{1, 3 * maxPlaintext, 3, 1},
			{3, 20_000, 4, 1},
			{80, 1000, 5, 2},
		} {
			var pieces []string
			for range c.pieces {
				pieces = append(pieces, noise(c.size))
			}
			l.send(pieces...)
			b, n, calls := make([]byte, 1<<20), 0, 0
			for ; ; calls++ {
				m, err := unix.Read(packets[1], b[n:])
				if err != nil {
					break
				}
				n += m
			}
			if got := records(b[:n]); got != c.records || calls != c.calls {
				t.Errorf("%d pieces of %d bytes are %d records by %d calls, want %d by %d", c.pieces, c.size, got, calls, c.records, c.calls)
			}
			if l.Pending() > 0 {
				t.Fatal("not all was sent")
			}
		}
	}
}

func records(b []byte) (n int) {
	for ; len(b) >= headerSize; n++ {
		b = b[min(len(b), headerSize+int(b[3])<<8+int(b[4])):]
	}
	return n
}

// All that is written passes a socket that takes little at a time, while what
// comes back is read.
func TestEchoThroughSmallSockets(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		small(t, l.fd, p.Conn)
		go io.Copy(peer, peer)
		s := noise(1 << 20)
		l.send(s[:1000], s[1000:300_000], s[300_000:])
		if l.Pending() == 0 {
			t.Fatal("the socket took all")
		}
		l.want(s)
		if n, broken := l.Flush(); l.Pending() != 0 || n != 0 || broken {
			t.Error("something is pending")
		}
	})
}

func TestSlowReader(t *testing.T) {
	l, peer, p := arrangement{tls.VersionTLS13, "unix", false, false}.connect(t)
	small(t, l.fd, p.Conn)
	s := noise(200_000)
	// More is accepted, though a loop should not write it.
	for i := 0; i < len(s); i += 10_000 {
		l.send(s[i : i+10_000])
	}
	done := make(chan error, 1)
	go func() {
		got, b := []byte(nil), make([]byte, 5000)
		for len(got) < len(s) {
			n, err := peer.Read(b)
			if err != nil {
				done <- err
				return
			}
			got = append(got, b[:n]...)
			time.Sleep(time.Millisecond)
		}
		if string(got) != s {
			done <- errors.New("not what was written")
		}
		close(done)
	}()
	for l.Pending() > 0 {
		unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLOUT}}, 1000)
		before := l.Pending()
		n, broken := l.Flush()
		if broken || n != before-l.Pending() {
			t.Fatal("broken")
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// small makes what fd sends leave in small parts. The smallest buffers would
// have TCP wait for a timer with each of them.
func small(t *testing.T, fd int, peer net.Conn) {
	t.Helper()
	size := 4096
	if _, ok := peer.(*net.TCPConn); ok {
		size = 32 << 10
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size); err != nil {
		t.Fatal(err)
	}
}

func TestPeerCloses(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		b := p.sealed(func() {
			io.WriteString(peer, "</stream:stream>")
			peer.CloseWrite()
		})
		p.Conn.Write(b)
		l.want("</stream:stream>")
		if err := l.wantError(io.EOF); err != io.EOF {
			t.Errorf("the error is %v", err)
		}
		// The other direction is still open.
		l.send("</stream:stream>")
		l.CloseNotify()
		if got, err := io.ReadAll(peer); string(got) != "</stream:stream>" || err != nil {
			t.Errorf("peer got %q, %v", got, err)
		}
		if !l.Write([][]byte{[]byte("late")}) {
			t.Error("written behind close_notify")
		}
	})
}

// An end of the connection is no end of the stream.
func TestPeerBreaksOff(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		io.WriteString(peer, "<message/>")
		p.Conn.Close()
		l.want("<message/>")
		if err := l.wantError(io.ErrUnexpectedEOF); errors.Is(err, io.EOF) {
			t.Error("it is said to be a close_notify")
		}
	})
}

func TestTruncatedRecord(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		b := p.sealed(func() { io.WriteString(peer, "<message/>") })
		p.Conn.Write(b[:len(b)-1])
		p.Conn.Close()
		l.wantError(io.ErrUnexpectedEOF)
	})
}

func TestReset(t *testing.T) {
	l, _, p := arrangement{tls.VersionTLS13, "tcp", false, false}.connect(t)
	p.Conn.(*net.TCPConn).SetLinger(0)
	p.Conn.Close()
	l.wantError(syscall.ECONNRESET)
	if !l.Write([][]byte{[]byte("<message/>")}) {
		t.Error("not broken")
	}
	if _, broken := l.Flush(); !broken || l.Pending() != 0 {
		t.Error("not broken for ever")
	}
	l.CloseNotify()
}

func TestResetWhilePending(t *testing.T) {
	l, _, p := arrangement{tls.VersionTLS13, "tcp", false, false}.connect(t)
	small(t, l.fd, p.Conn)
	l.send(noise(16 << 20))
	p.Conn.(*net.TCPConn).SetLinger(0)
	p.Conn.Close()
	l.step()
	if _, broken := l.Flush(); !broken || l.Pending() != 0 {
		t.Error("not broken")
	}
}

func TestTamperedRecord(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, peer, p := a.connect(t)
		b := p.sealed(func() {
			io.WriteString(peer, "<message/>")
			io.WriteString(peer, "<presence/>")
		})
		b[len(b)-1] ^= 1
		p.Conn.Write(b)
		l.want("<message/>")
		if err := l.wantError(nil); !strings.Contains(err.Error(), "bad record MAC") {
			t.Error(err)
		}
		if _, err := peer.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
			t.Errorf("peer was not told: %v", err)
		}
		if !l.Write([][]byte{[]byte("<message/>")}) {
			t.Error("written behind an alert")
		}
	})
}

func TestNoTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, a arrangement) {
		l, _, p := a.connect(t)
		io.WriteString(p.Conn, "<stream:stream>")
		l.wantError(nil)
	})
}

// What replies to a peer that does not read is bounded.
func TestRepliesAreBounded(t *testing.T) {
	l, _, p := arrangement{tls.VersionTLS13, "unix", false, false}.connect(t)
	small(t, l.fd, p.Conn)
	l.send(noise(1 << 20))
	before := l.Pending()
	l.reading = true
	for range 1000 {
		(*wire)(l.Conn).Write(make([]byte, 27))
		if l.err != nil {
			break
		}
	}
	l.reading = false
	if n := l.Pending() - before; n > maxReplies+27 {
		t.Errorf("%d bytes wait", n)
	}
	if _, err := l.Read(l.b); err != errReplies {
		t.Errorf("the error is %v", err)
	}
}

func TestTakeRefuses(t *testing.T) {
	near, far := pipe(t, "tcp")
	defer near.Close()
	defer far.Close()
	never := func(net.Conn) (int, error) { t.Error("detached"); return -1, nil }
	if _, _, err := Take(tls.Client(near, clientConfig(tls.VersionTLS13)), never); err != errForeign {
		t.Error(err)
	}
	conn := Client(near, clientConfig(tls.VersionTLS13))
	if _, _, err := Take(conn, never); err != errEarly {
		t.Error(err)
	}
	peer := tls.Server(far, serverConfig(tls.VersionTLS13))
	go peer.Handshake()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	// It goes on in the blocking world when it cannot be taken.
	if _, _, err := Take(conn, func(net.Conn) (int, error) { return -1, syscall.EMFILE }); !errors.Is(err, syscall.EMFILE) {
		t.Error(err)
	}
	go io.WriteString(peer, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	l := drive(t, conn)
	if _, _, err := Take(conn, never); err != errForeign {
		t.Error(err)
	}
	if conn.LocalAddr().String() != far.RemoteAddr().String() || conn.RemoteAddr().String() != far.LocalAddr().String() {
		t.Error("it has lost its addresses")
	}
	l.send("x")
}

// A session ticket arrives when the connection is driven already, and is filed
// all the same: under the address, when there is no name.
func TestSessionTicket(t *testing.T) {
	server := serverConfig(tls.VersionTLS13)
	client := clientConfig(tls.VersionTLS13)
	cache := tls.NewLRUClientSessionCache(1)
	client.ServerName, client.InsecureSkipVerify, client.ClientSessionCache = "", true, cache
	near, far := pipe(t, "tcp")
	defer far.Close()
	go func() {
		peer := tls.Server(far, server)
		io.WriteString(peer, "x")
	}()
	l := drive(t, Client(near, Config(client)))
	l.want("x")
	if s, ok := cache.Get(far.LocalAddr().String()); !ok || s == nil {
		t.Error("no session")
	}
}

func noise(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(bytes.Clone(b))
}
