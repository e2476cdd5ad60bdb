package doctor

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/xdg-go/scram"

	"xmppgate/framing"
)

const testPassword = "pencil-7f3a"

// A fake is an endpoint that does all that a good one does, unless a field says
// otherwise. Empty fields stand for what is right.
type fake struct {
	tls *tls.Config

	// HTTP
	raw         string // instead of an answer; "-" hangs, "close" closes
	answer      func(*http.Request) string
	subprotocol string // "-" is none
	badAccept   bool
	foreign     string // the answer to a page of another origin
	extensions  string // agreed to when asked for
	badDeflate  bool

	// XMPP
	beforeOpen string // sent instead of <open/>
	open       string
	features   string // "-" sends none
	iterations int
	badProof   bool
	failure    string // condition of SASL
	success    string // instead of <success/>
	failure2   string // condition of SASL2
	noFeatures bool   // behind SASL2
	noBind     bool
	bindError  string
	noSM       bool
	enabled    string
	resumed    string
	stanza     func(s *fakeStream, message string) bool // true: done with it
	maxStanza  int
	pingEvery  time.Duration
	cutAfter   time.Duration // of silence, without a word
	closeAfter time.Duration // of silence, with a close code
	noClose    bool

	mu       sync.Mutex
	sessions map[string]string // id of XEP-0198 to JID
	seen     []string          // messages of clients
}

type fakeStream struct {
	f       *fake
	c       net.Conn
	r       *bufio.Reader
	jid     string
	deflate bool // without context takeover
	authed  bool
}

// serve runs an endpoint until the test ends, and returns its address.
func serve(t *testing.T, host string, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func (f *fake) handle(c net.Conn) {
	if f.tls != nil {
		t := tls.Server(c, f.tls)
		if t.Handshake() != nil {
			return
		}
		c = t
	}
	if f.raw != "" && f.raw != "-" && !strings.HasPrefix(f.raw, "HTTP/") {
		io.WriteString(c, strings.TrimPrefix(f.raw, "close"))
		return
	}
	r := bufio.NewReader(c)
	q, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if f.raw == "-" {
		io.Copy(io.Discard, c)
		return
	}
	if f.raw != "" {
		io.WriteString(c, f.raw)
		return
	}
	if f.answer != nil {
		if text := f.answer(q); text != "" {
			io.WriteString(c, text)
			return
		}
	}
	if q.Header.Get("Upgrade") == "" {
		io.WriteString(c, page(426, "", "This is a WebSocket endpoint (RFC 7395)."))
		return
	}
	if f.foreign != "" && q.Header.Get("Origin") == foreignOrigin {
		io.WriteString(c, f.foreign)
		return
	}
	key := q.Header.Get("Sec-WebSocket-Key")
	if f.badAccept {
		key = "another"
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n", accept(key))
	switch f.subprotocol {
	case "":
		io.WriteString(c, "Sec-WebSocket-Protocol: xmpp\r\n")
	case "-":
	default:
		fmt.Fprintf(c, "Sec-WebSocket-Protocol: %s\r\n", f.subprotocol)
	}
	deflate := f.extensions != "" && q.Header.Get("Sec-WebSocket-Extensions") != ""
	if deflate {
		fmt.Fprintf(c, "Sec-WebSocket-Extensions: %s\r\n", f.extensions)
	}
	io.WriteString(c, "\r\n")
	s := &fakeStream{f: f, c: c, r: r, deflate: deflate}
	s.run()
}

// page is an answer over HTTP.
func page(status int, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), header, len(body), body)
}

func (s *fakeStream) send(text string) {
	frame := ws.NewTextFrame([]byte(text))
	if s.deflate {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, -1)
		io.WriteString(w, text)
		w.Flush()
		frame = ws.NewTextFrame(bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")))
		if s.f.badDeflate {
			frame = ws.NewTextFrame([]byte("not deflate at all"))
		}
		frame.Header.Rsv = ws.Rsv(true, false, false)
	}
	ws.WriteFrame(s.c, frame)
}

func (s *fakeStream) closeCode(code ws.StatusCode) {
	ws.WriteFrame(s.c, ws.NewCloseFrame(ws.NewCloseFrameBody(code, "")))
}

// frame reads a frame of a doctor, which is not hostile.
func (s *fakeStream) frame() (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(s.r); err != nil {
		return f, err
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(s.r, f.Payload)
	ws.Cipher(f.Payload, f.Header.Mask, 0)
	return f, err
}

// read returns the next message; "" is the end.
func (s *fakeStream) read() string {
	start := time.Now()
	for {
		wait := time.Minute
		if s.authed && s.jid != "" {
			for _, d := range []time.Duration{s.f.pingEvery, s.f.cutAfter, s.f.closeAfter} {
				if d > 0 {
					wait = min(wait, d)
				}
			}
		}
		s.c.SetReadDeadline(time.Now().Add(wait))
		frame, err := s.frame()
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			switch silent := time.Since(start); {
			case s.f.cutAfter > 0 && silent >= s.f.cutAfter:
				return ""
			case s.f.closeAfter > 0 && silent >= s.f.closeAfter:
				s.closeCode(ws.StatusGoingAway)
				return ""
			case s.f.pingEvery > 0:
				ws.WriteFrame(s.c, ws.NewPingFrame([]byte("alive")))
				continue
			}
			return ""
		}
		if err != nil || frame.Header.OpCode == ws.OpClose {
			return ""
		}
		switch frame.Header.OpCode {
		case ws.OpPing:
			ws.WriteFrame(s.c, ws.NewPongFrame(frame.Payload))
		case ws.OpText:
			return string(frame.Payload)
		}
	}
}

const (
	goodOpen     = `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='localhost' id='1' version='1.0'/>`
	goodFeatures = `<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>SCRAM-SHA-256</mechanism><mechanism>SCRAM-SHA-1</mechanism></mechanisms></stream:features>`
)

func featuresWith(content string) string {
	return "<stream:features xmlns:stream='http://etherx.jabber.org/streams'>" + content + "</stream:features>"
}

func mechanisms(names ...string) string {
	var list strings.Builder
	for _, n := range names {
		list.WriteString("<mechanism>" + n + "</mechanism>")
	}
	return featuresWith("<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + list.String() + "</mechanisms>")
}

// sasl2 are features with SASL2 and, if there are names for it, SASL.
func sasl2(names ...string) string {
	const list = "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-256</mechanism><mechanism>PLAIN</mechanism><inline/></authentication>"
	if len(names) == 0 {
		return featuresWith(list)
	}
	return strings.Replace(mechanisms(names...), "</stream:features>", list+"</stream:features>", 1)
}

func streamErrorOf(name, text string) string {
	return "<stream:error xmlns:stream='http://etherx.jabber.org/streams'><" + name + " xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>" + text + "</text></stream:error>"
}

func or(s, standard string) string {
	if s == "" {
		return standard
	}
	return s
}

func (s *fakeStream) run() {
	f := s.f
	for {
		message := s.read()
		f.mu.Lock()
		f.seen = append(f.seen, message)
		f.mu.Unlock()
		if message == "" {
			return
		}
		e, err := parse([]byte(message))
		if err != nil {
			s.send(streamErrorOf("not-well-formed", err.Error()))
			return
		}
		if f.stanza != nil && f.stanza(s, message) {
			continue
		}
		switch {
		case e.is(framing.NSFraming, "open"):
			if f.beforeOpen != "" {
				for _, part := range strings.Split(f.beforeOpen, "\n") {
					switch part {
					case "-":
						io.Copy(io.Discard, s.c)
						return
					case "cut":
						return
					case "1008":
						s.closeCode(ws.StatusPolicyViolation)
						return
					case "binary":
						ws.WriteFrame(s.c, ws.NewBinaryFrame([]byte{1}))
					default:
						s.send(part)
					}
				}
				io.Copy(io.Discard, s.c)
				return
			}
			s.send(or(f.open, goodOpen))
			switch {
			case s.authed:
				s.features()
			case f.features != "-":
				s.send(or(f.features, goodFeatures))
			}
		case e.is(framing.NSFraming, "close"):
			if !f.noClose {
				s.send(framing.CloseMessage)
			}
		case e.is(nsSASL, "auth"), e.is(nsSASL2, "authenticate"):
			if !s.login(e) {
				return
			}
			s.authed = true
			if e.Space == nsSASL2 && !f.noFeatures {
				s.features()
			}
		case e.is(nsSM, "enable"):
			f.mu.Lock()
			if f.sessions == nil {
				f.sessions = map[string]string{}
			}
			id := fmt.Sprint("sm", len(f.sessions))
			f.sessions[id] = s.jid
			f.mu.Unlock()
			s.send(or(f.enabled, "<enabled xmlns='urn:xmpp:sm:3' id='"+id+"' resume='true'/>"))
		case e.is(nsSM, "resume"):
			f.mu.Lock()
			s.jid = f.sessions[e.get("previd")]
			f.mu.Unlock()
			s.send(or(f.resumed, "<resumed xmlns='urn:xmpp:sm:3' h='0' previd='"+e.get("previd")+"'/>"))
		case e.is(framing.NSClient, "iq"):
			s.iq(e)
		case e.is(framing.NSClient, "message"):
			if f.maxStanza > 0 && len(message) > f.maxStanza {
				s.send(streamErrorOf("policy-violation", "stanza too large"))
				s.send(framing.CloseMessage)
				continue
			}
			s.send(strings.Replace(message, "<message ", "<message from='"+s.jid+"' ", 1))
		}
	}
}

// features are those behind the login.
func (s *fakeStream) features() {
	features := ""
	if !s.f.noBind {
		features += "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
	}
	if !s.f.noSM {
		features += "<sm xmlns='urn:xmpp:sm:3'/>"
	}
	s.send(featuresWith(features))
}

func (s *fakeStream) iq(e *element) {
	result := "<iq xmlns='jabber:client' type='result' id='" + e.get("id") + "'>"
	switch {
	case e.child(nsBind, "bind") != nil && s.f.bindError != "":
		s.send("<iq xmlns='jabber:client' type='error' id='" + e.get("id") + "'><error type='cancel'><" + s.f.bindError + " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
	case e.child(nsBind, "bind") != nil:
		s.jid = "alice@localhost/" + e.child(nsBind, "bind").child(nsBind, "resource").content()
		s.send(result + "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>" + s.jid + "</jid></bind></iq>")
	case e.child(nsDiscoInfo, "query") != nil:
		s.send(result + "<query xmlns='" + nsDiscoInfo + "'><identity category='server' type='im' name='Prosody'/></query></iq>")
	}
}

// login is SCRAM-SHA-256, whatever was asked for, or PLAIN.
func (s *fakeStream) login(auth *element) bool {
	f, ns, initial := s.f, auth.Space, auth
	if ns == nsSASL2 {
		initial = auth.child(nsSASL2, "initial-response")
		if f.failure2 != "" {
			s.send("<failure xmlns='urn:xmpp:sasl:2'><" + f.failure2 + " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>")
			return false
		}
	}
	if f.failure != "" {
		s.send("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><" + f.failure + "/></failure>")
		return false
	}
	if strings.HasSuffix(auth.get("mechanism"), "-PLUS") {
		s.send("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
		return false
	}
	done := or(f.success, "<success xmlns='"+ns+"'/>")
	if auth.get("mechanism") == "PLAIN" {
		s.send(done)
		return true
	}
	iterations := f.iterations
	if iterations == 0 {
		iterations = 4096
	}
	hash := map[string]scram.HashGeneratorFcn{"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512}[auth.get("mechanism")]
	client, _ := hash.NewClient("alice", testPassword, "")
	factors := scram.KeyFactors{Salt: "salt", Iters: min(iterations, 4096)}
	credentials, err := client.WithMinIterations(1).GetStoredCredentialsWithError(factors)
	if err != nil {
		return false
	}
	credentials.Iters = iterations
	if f.badProof {
		credentials.ServerKey[0] ^= 1
	}
	server, _ := hash.NewServer(func(string) (scram.StoredCredentials, error) { return credentials, nil })
	c := server.NewConversation()
	first, _ := base64.StdEncoding.DecodeString(initial.content())
	challenge, err := c.Step(string(first))
	if err != nil {
		return false
	}
	s.send("<challenge xmlns='" + ns + "'>" + base64.StdEncoding.EncodeToString([]byte(challenge)) + "</challenge>")
	answer, err := parse([]byte(s.read()))
	if err != nil {
		return false
	}
	last, _ := base64.StdEncoding.DecodeString(answer.content())
	final, err := c.Step(string(last))
	if err != nil {
		s.send("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")
		return false
	}
	if f.success != "" {
		s.send(f.success)
		return true
	}
	if ns == nsSASL2 {
		s.send("<success xmlns='urn:xmpp:sasl:2'><additional-data>" + base64.StdEncoding.EncodeToString([]byte(final)) + "</additional-data><authorization-identifier>alice@localhost</authorization-identifier></success>")
		return true
	}
	s.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" + base64.StdEncoding.EncodeToString([]byte(final)) + "</success>")
	return true
}

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, parent *authority) *authority {
	t.Helper()
	c, key := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, parent)
	return &authority{c, key}
}

func certificate(t *testing.T, template *x509.Certificate, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<60))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour)
	}
	signer := authority{template, key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// leaf makes the certificate of a server, as edit changes it, with a chain.
func (a *authority) leaf(t *testing.T, edit func(*x509.Certificate), chain ...*authority) *tls.Config {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if edit != nil {
		edit(template)
	}
	c, key := certificate(t, template, a)
	shown := [][]byte{c.Raw}
	for _, between := range chain {
		shown = append(shown, between.cert.Raw)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: shown, PrivateKey: key}}, NextProtos: []string{"http/1.1"}}
}

// file writes the certificate of an authority for --ca.
func (a *authority) file(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
