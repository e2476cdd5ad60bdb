package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"xmppgate/proxy/certfiles"
)

// Certificates change a thousand times under five hundred sessions: no session notices,
// new clients get the newest, and whoever has a ticket resumes with it.
func TestRotation(t *testing.T) {
	sessions, rotations := 500, 1000
	if testing.Short() {
		sessions, rotations = 50, 100
	}
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			dir := t.TempDir()
			files := certfiles.Pair{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
			write := func() (leaf []byte) {
				t.Helper()
				c := newTestCertificate("a.example")
				key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
				if err != nil {
					t.Fatal(err)
				}
				for file, block := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, files.Key: {Type: "PRIVATE KEY", Bytes: key}} {
					if err := os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
						t.Fatal(err)
					}
					if err := os.Rename(file+".new", file); err != nil {
						t.Fatal(err)
					}
				}
				return c.Certificate[0]
			}
			write()
			store, err := certfiles.Load([]certfiles.Pair{files})
			if err != nil {
				t.Fatal(err)
			}
			b := newTLSBench(t, loop, func(g *Gateway) { g.Certificate = store.Get })
			type ends struct {
				cl  *tls.Conn
				srv serverConn
			}
			var all []ends
			for range sessions {
				cl, srv := b.open(anyServer)
				all = append(all, ends{cl, srv})
			}
			exchange := func(e ends, n int) {
				t.Helper()
				m := fmt.Sprintf("<message>%d</message>", n)
				b.send(e.cl, m)
				b.expect(e.srv, m)
				io.WriteString(e.srv, m)
				if got := b.message(e.cl); !bytes.Contains([]byte(got), fmt.Appendf(nil, ">%d<", n)) {
					t.Fatalf("got %q", got)
				}
			}
			read := 0
			resuming := &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			for i := range rotations {
				leaf := write()
				store.Check(func(_ certfiles.Pair, err error) {
					if read++; err != nil {
						t.Error(err)
					}
				})
				exchange(all[i%len(all)], i)
				if i%10 > 0 {
					continue
				}
				cl, _ := b.open(anyServer)
				if got := cl.ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, leaf) {
					t.Errorf("rotation %d: a new client gets an old certificate", i)
				}
				cl.NetConn().Close()
				cl, _ = b.open(resuming) // which has read the ticket with what it got
				if resumed := cl.ConnectionState().DidResume; resumed != (i > 0) {
					t.Errorf("rotation %d: resumed %t", i, resumed)
				}
				cl.NetConn().Close()
			}
			if read != rotations {
				t.Errorf("%d certificates were read, want %d", read, rotations)
			}
			for i, e := range all {
				exchange(e, i)
			}
			for _, h := range b.o.handshakes {
				if h.Result != handshakeOK {
					t.Errorf("a handshake: %+v", h)
				}
			}
		})
	}
}
