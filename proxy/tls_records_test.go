package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/crypto/chacha20poly1305"
)

// Types of records (RFC 8446, section 5.1).
const (
	alertRecord     = 21
	handshakeRecord = 22
	dataRecord      = 23
)

// A recordWriter is a client that has agreed on keys by package crypto/tls, and then writes
// records that the package would not: RFC 8446, section 5.2, and RFC 5246, section 6.2.3.3.
type recordWriter struct {
	*tls.Conn
	t      *testing.T
	secret []byte // of TLS 1.3, from which keys are made
	aead   cipher.AEAD
	iv     []byte
	seq    uint64 // of the next record
}

// newRecordWriter does the handshake on c. Nothing may be written to the connection but
// records from then on.
func newRecordWriter(t *testing.T, c *recordedConn, version uint16) *recordWriter {
	t.Helper()
	var keys bytes.Buffer
	cl := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, KeyLogWriter: &keys, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}})
	if err := cl.Handshake(); err != nil {
		t.Fatal(err)
	}
	w := &recordWriter{Conn: cl, t: t}
	for line := range strings.Lines(keys.String()) {
		f := strings.Fields(line)
		switch f[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			w.secret = unhex(t, f[2])
			w.rekey()
		case "CLIENT_RANDOM":
			// The handshake began with ServerHello, whose random follows two headers and
			// a version. The client's Finished was a record already.
			block := prf(unhex(t, f[2]), "key expansion", append(bytes.Clone(c.read[11:43]), unhex(t, f[1])...), 40)
			w.aead, w.iv, w.seq = gcm(t, block[:16]), block[32:36], 1
		}
	}
	if w.aead == nil {
		t.Fatalf("no keys: %s", tls.CipherSuiteName(cl.ConnectionState().CipherSuite))
	}
	return w
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gcm(t *testing.T, key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// prf is that of RFC 5246, section 5.
func prf(secret []byte, label string, seed []byte, n int) (out []byte) {
	seed = append([]byte(label), seed...)
	sum := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	for a := sum(seed); len(out) < n; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:n]
}

// expand is HKDF-Expand-Label (RFC 8446, section 7.1).
func (w *recordWriter) expand(label string, n int) []byte {
	info := append(binary.BigEndian.AppendUint16(nil, uint16(n)), byte(len("tls13 "+label)))
	out, err := hkdf.Expand(sha256.New, w.secret, string(info)+"tls13 "+label+"\x00", n)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// rekey makes the keys of secret (RFC 8446, section 7.3).
func (w *recordWriter) rekey() {
	w.seq, w.iv = 0, w.expand("iv", 12)
	switch suite := w.ConnectionState().CipherSuite; suite {
	case tls.TLS_AES_128_GCM_SHA256:
		w.aead = gcm(w.t, w.expand("key", 16))
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		var err error
		if w.aead, err = chacha20poly1305.New(w.expand("key", 32)); err != nil {
			w.t.Fatal(err)
		}
	default:
		w.t.Fatalf("the suite %s is not known here", tls.CipherSuiteName(suite))
	}
}

// record writes a record. An error means that the gateway has gone.
func (w *recordWriter) record(kind byte, content []byte) error {
	var b []byte
	if w.secret != nil {
		n := len(content) + 1 + w.aead.Overhead()
		nonce := bytes.Clone(w.iv)
		for i := range 8 {
			nonce[len(nonce)-1-i] ^= byte(w.seq >> (8 * i))
		}
		head := []byte{dataRecord, 3, 3, byte(n >> 8), byte(n)}
		b = w.aead.Seal(head, nonce, append(bytes.Clone(content), kind), head)
	} else {
		explicit := binary.BigEndian.AppendUint64(nil, w.seq)
		n := len(content) + len(explicit) + w.aead.Overhead()
		b = append([]byte{kind, 3, 3, byte(n >> 8), byte(n)}, explicit...)
		b = w.aead.Seal(b, append(bytes.Clone(w.iv), explicit...), content, append(bytes.Clone(explicit), kind, 3, 3, byte(len(content)>>8), byte(len(content))))
	}
	w.seq++
	_, err := w.NetConn().Write(b)
	return err
}

// Write writes data in one record.
func (w *recordWriter) Write(b []byte) (int, error) { return len(b), w.record(dataRecord, b) }

// keyUpdate changes the keys (RFC 8446, section 4.6.3).
func (w *recordWriter) keyUpdate(wantsReply bool) error {
	m := []byte{24, 0, 0, 1, 0}
	if wantsReply {
		m[4] = 1
	}
	err := w.record(handshakeRecord, m)
	w.secret = w.expand("traffic upd", 32)
	w.rekey()
	return err
}

// What TLS allows besides data is a trickle among data. A client that floods the gateway with
// it, or sends what no client may, loses its own session, which stays resumable, and nobody
// else's.
//
// RFC 8446, sections 4.6.3, 5.1, 5.4 and 6.1; RFC 5246, section 7.4.1.1
func TestRecordsOfHostileClients(t *testing.T) {
	const flood = 200
	both := []uint16{tls.VersionTLS12, tls.VersionTLS13}
	only13, only12 := both[1:], both[:1]
	presence := maskedFrame(ws.OpText, true, []byte("<presence/>"))
	repeat := func(n int, f func(w *recordWriter) error) func(w *recordWriter) error {
		return func(w *recordWriter) error {
			for range n {
				if f(w) != nil {
					return nil // it has been cut off, which the test looks at
				}
			}
			return nil
		}
	}
	empty := func(w *recordWriter) error { return w.record(dataRecord, nil) }
	warning := func(w *recordWriter) error { return w.record(alertRecord, []byte{1, 90}) } // user_canceled
	update := func(w *recordWriter) error { return w.keyUpdate(false) }
	ask := func(w *recordWriter) error { return w.keyUpdate(true) }
	hello := recordedHello(t)[5:]
	for _, test := range []struct {
		name     string
		versions []uint16
		send     func(w *recordWriter) error
		survives bool // the session goes on
	}{
		{"some key updates", only13, repeat(10, update), true},
		{"some key updates with replies", only13, repeat(10, ask), true},
		{"a key update in two records", only13, func(w *recordWriter) error {
			w.record(handshakeRecord, []byte{24, 0})
			time.Sleep(20 * time.Millisecond) // two reads, as a rule
			err := w.record(handshakeRecord, []byte{0, 1, 0})
			w.secret = w.expand("traffic upd", 32)
			w.rekey()
			return err
		}, true},
		{"some empty records", both, repeat(10, empty), true},
		{"some warnings", only12, repeat(10, warning), true},
		{"key updates", only13, repeat(flood, update), false},
		{"key updates with replies", only13, repeat(flood, ask), false},
		{"empty records", both, repeat(flood, empty), false},
		{"warnings", both, repeat(flood, warning), false},
		{"renegotiation", both, func(w *recordWriter) error { return w.record(handshakeRecord, hello) }, false},
		{"a request to renegotiate", both, func(w *recordWriter) error { return w.record(handshakeRecord, []byte{0, 0, 0, 0}) }, false},
		{"a handshake message without an end", both, func(w *recordWriter) error {
			return w.record(handshakeRecord, []byte{24, 0xff, 0xff, 0xff})
		}, false},
		{"an unknown record", both, func(w *recordWriter) error { return w.record(99, []byte("x")) }, false},
		{"a fatal alert", both, func(w *recordWriter) error { return w.record(alertRecord, []byte{2, 80}) }, false},
		{"half an alert", both, func(w *recordWriter) error { return w.record(alertRecord, []byte{1}) }, false},
		{"close_notify inside a frame", both, func(w *recordWriter) error {
			w.Write(presence[:len(presence)-3])
			return w.record(alertRecord, []byte{1, 0})
		}, false},
		{"close_notify inside a header", both, func(w *recordWriter) error {
			w.Write(presence[:1])
			return w.record(alertRecord, []byte{1, 0})
		}, false},
		{"close_notify and a frame behind it", both, func(w *recordWriter) error {
			w.record(alertRecord, []byte{1, 0})
			_, err := w.Write(presence)
			return err
		}, false},
	} {
		for _, version := range test.versions {
			t.Run(test.name+", "+tls.VersionName(version), func(t *testing.T) {
				onLoops(t, func(t *testing.T, loop string) {
					b := newTLSBench(t, loop)
					good, goodServer := b.open(anyServer)
					w := newRecordWriter(t, &recordedConn{TCPConn: b.dial()}, version)
					io.WriteString(w, goodRequest+"\r\n")
					readResponse(t, w)
					srv := b.openStream(w, testHeader)
					w.Write(presence)
					b.expect(srv, "<presence/>")
					if err := test.send(w); err != nil {
						t.Fatal(err)
					}
					if test.survives {
						for i := range 3 { // and the keys are those that both have
							m := fmt.Sprintf("<iq id='%d'/>", i)
							w.Write(maskedFrame(ws.OpText, true, []byte(m)))
							b.expect(srv, m)
							io.WriteString(srv, "<message/>")
							if got := b.message(w); !strings.HasPrefix(got, "<message") {
								t.Errorf("got %q", got)
							}
						}
					} else if got, err := io.ReadAll(srv); err != nil || len(got) > 0 {
						t.Errorf("the server got %q, %v; want FIN alone", got, err)
					}
					b.send(good, "<iq/>")
					b.expect(goodServer, "<iq/>")
				})
			})
		}
	}
}

// A client that asks for new keys again and again, among data, and does not read the answers
// is not read for ever, and takes no memory meanwhile.
//
// RFC 8446, section 4.6.3
func TestKeyUpdatesThatNobodyReads(t *testing.T) {
	for _, loop := range []string{LoopAuto, LoopGoroutine} {
		t.Run(loop, func(t *testing.T) {
			b := newTLSBench(t, loop)
			good, goodServer := b.open(anyServer)
			w := newRecordWriter(t, &recordedConn{TCPConn: b.dial()}, tls.VersionTLS13)
			io.WriteString(w, goodRequest+"\r\n")
			readResponse(t, w)
			srv := b.openStream(w, testHeader)
			go io.Copy(io.Discard, srv)
			w.TCPConn().SetReadBuffer(4 << 10)
			frame := maskedFrame(ws.OpText, true, []byte("<a/>"))
			cutOff := false
			for n := 0; n < 400_000 && !cutOff; n++ { // 27 bytes of reply each
				if n%1000 == 0 {
					w.NetConn().SetWriteDeadline(time.Now().Add(2 * time.Second)) // then it is not read any more
				}
				err := w.keyUpdate(true)
				if err == nil {
					_, err = w.Write(frame)
				}
				cutOff = err != nil
			}
			if !cutOff {
				t.Error("it is read for ever")
			}
			b.send(good, "<iq/>")
			b.expect(goodServer, "<iq/>")
			for _, l := range b.g.sessions() {
				l.handle.View(func() {
					if held := l.handle.Held(); held > 512<<10 {
						t.Errorf("%d bytes are held", held)
					}
				})
			}
			w.TCPConn().SetLinger(0)
			w.NetConn().Close()
			await(func() bool { return len(b.g.sessions()) == 1 })
		})
	}
}

// TCPConn is what carries the records.
func (w *recordWriter) TCPConn() interface {
	SetLinger(int) error
	SetReadBuffer(int) error
} {
	return w.NetConn().(*recordedConn)
}
