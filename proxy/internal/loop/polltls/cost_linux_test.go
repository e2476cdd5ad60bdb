//go:build !race

package polltls

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A message of usual size.
var message = []byte(strings.Repeat("x", 200))

func TestNoGarbage(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		l, peer, p := arrangement{version, "unix", false, false}.connect(t)
		l.available()
		const runs = 200
		var b [][]byte
		for range runs + 1 {
			b = append(b, p.sealed(func() { peer.Write(message) }))
		}
		if n := testing.AllocsPerRun(runs, func() {
			p.Conn.Write(b[0])
			b = b[1:]
			if n, err := l.Read(l.b); n != len(message) || err != nil {
				t.Fatal(n, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations for each Read", tls.VersionName(version), n)
		}

		into := make([]byte, 64<<10)
		for name, pieces := range map[string][][]byte{
			"one piece":    {message},
			"three pieces": {message, message, message},
			"large pieces": {make([]byte, 20_000), make([]byte, 10_000)},
		} {
			if n := testing.AllocsPerRun(runs, func() {
				l.Write(pieces)
				p.Conn.Read(into)
			}); n != 0 {
				t.Errorf("%s: %v allocations for each Write of %s", tls.VersionName(version), n, name)
			}
		}
	}
}

// TestIdleMemory measures what an idle connection of a client costs, after
// traffic in both directions, by dropping many of them.
func TestIdleMemory(t *testing.T) {
	const target = 4.5 // KiB
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		trimmed := idleMemory(t, version)
		known := tlsLayout
		tlsLayout = nil
		asIs := idleMemory(t, version)
		tlsLayout = known
		t.Logf("%s: %.2f KiB, %.2f KiB untrimmed", tls.VersionName(version), trimmed, asIs)
		if trimmed > target {
			t.Errorf("%s: %.2f KiB is too much", tls.VersionName(version), trimmed)
		}
	}
}

func idleMemory(t *testing.T, version uint16) (kib float64) {
	const n = 250
	client, server := Config(clientConfig(version)), serverConfig(version)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	stanza := noise(3000)
	peers := make(chan *tls.Conn, n)
	for range 2 {
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				peer := tls.Server(conn, server)
				io.WriteString(peer, stanza)
				io.ReadFull(peer, make([]byte, len(stanza)))
				peers <- peer
			}
		}()
	}
	conns := make([]*Conn, n)
	held := make([]*tls.Conn, 0, n) // the other ends, which do not count
	b := make([]byte, 64<<10)
	for i := range conns {
		raw, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn := Client(raw, client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		l := &loop{t: t, b: b}
		if l.Conn, l.fd, err = Take(conn, detach); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(l.fd)
		l.send(stanza)
		l.want(stanza)
		conns[i] = l.Conn
		peer := <-peers
		held = append(held, peer)
		defer peer.NetConn().Close()
		defer peer.SetDeadline(time.Time{})
	}
	with := heap()
	runtime.KeepAlive(conns)
	clear(conns)
	without := heap()
	runtime.KeepAlive(held)
	return float64(with-without) / n / 1024
}

func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Both of a pair of benchmarks do the same with the same peer, in one
// goroutine that never waits; the second by a blocking tls.Conn.

func BenchmarkRead(b *testing.B)           { benchmarkRead(b, 1) }
func BenchmarkReadBlocking(b *testing.B)   { benchmarkReadBlocking(b, 1) }
func BenchmarkRead16(b *testing.B)         { benchmarkRead(b, 16) }
func BenchmarkRead16Blocking(b *testing.B) { benchmarkReadBlocking(b, 16) }

func BenchmarkWrite(b *testing.B)           { benchmarkWrite(b, 1) }
func BenchmarkWriteBlocking(b *testing.B)   { benchmarkWriteBlocking(b, 1) }
func BenchmarkWrite16(b *testing.B)         { benchmarkWrite(b, 16) }
func BenchmarkWrite16Blocking(b *testing.B) { benchmarkWriteBlocking(b, 16) }

var bench = arrangement{tls.VersionTLS13, "unix", false, false}

// feed returns the ciphertext of some batches, over and over: f is called for
// each, with the clock running for f alone.
func feed(b *testing.B, peer *tls.Conn, p *tap, batch int, f func()) {
	const round = 400
	b.ReportAllocs()
	b.StopTimer()
	peer.SetDeadline(time.Time{})
	for done := 0; done < b.N; done += round {
		var sealed [round][]byte
		for i := range min(round, b.N-done) {
			sealed[i] = p.sealed(func() {
				for range batch {
					peer.Write(message)
				}
			})
		}
		b.StartTimer()
		for i := range min(round, b.N-done) {
			p.Conn.Write(sealed[i])
			f()
		}
		b.StopTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(batch), "ns/message")
}

func benchmarkRead(b *testing.B, batch int) {
	l, peer, p := bench.connect(b)
	l.Read(l.b)
	feed(b, peer, p, batch, func() {
		if n, err := l.Read(l.b); n != batch*len(message) || err != nil {
			b.Fatal(n, err)
		}
	})
}

func benchmarkReadBlocking(b *testing.B, batch int) {
	conn, peer, p := blocking(b)
	into := make([]byte, 64<<10)
	feed(b, peer, p, batch, func() {
		for n := 0; n < batch*len(message); {
			m, err := conn.Read(into)
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	})
}

func benchmarkWrite(b *testing.B, batch int) {
	l, peer, p := bench.connect(b)
	peer.SetDeadline(time.Time{})
	pieces := make([][]byte, batch)
	for i := range pieces {
		pieces[i] = message
	}
	into := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if l.Write(pieces) || l.Pending() > 0 {
			b.Fatal("broken")
		}
		p.Conn.Read(into)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(batch), "ns/message")
}

func benchmarkWriteBlocking(b *testing.B, batch int) {
	conn, peer, p := blocking(b)
	peer.SetDeadline(time.Time{})
	into := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		for range batch {
			if _, err := conn.Write(message); err != nil {
				b.Fatal(err)
			}
		}
		p.Conn.Read(into)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(batch), "ns/message")
}

// blocking is connect without a loop.
func blocking(b *testing.B) (conn, peer *tls.Conn, p *tap) {
	near, far := pipe(b, bench.network)
	p = &tap{Conn: far}
	conn, peer = tls.Client(near, clientConfig(bench.version)), tls.Server(p, serverConfig(bench.version))
	b.Cleanup(func() { near.Close(); far.Close() })
	go peer.Handshake()
	if err := conn.Handshake(); err != nil {
		b.Fatal(err)
	}
	for !peer.ConnectionState().HandshakeComplete {
		time.Sleep(time.Millisecond)
	}
	return conn, peer, p
}
