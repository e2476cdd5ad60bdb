package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// These tests log in with every kind of mechanism, and look for what was said in
// confidence in all that the program says.

// secrets are texts that must not be seen. Each is found in the forms in which it travels.
type secrets []string

// keep notes a text and returns it.
func (s *secrets) keep(text string) string {
	*s = append(*s, text)
	return text
}

// encoded notes the content of an element of SASL and returns it as it is sent.
func (s *secrets) encoded(text string) string {
	s.keep(text)
	return base64.StdEncoding.EncodeToString([]byte(text))
}

// find returns a secret that is in text, in any of its forms.
func (s secrets) find(text string) string {
	for _, secret := range s {
		for _, form := range []string{
			secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
			hex.EncodeToString([]byte(secret)), url.QueryEscape(secret), fmt.Sprintf("%q", secret),
		} {
			if strings.Contains(text, form) {
				return secret
			}
		}
	}
	return ""
}

// A confidence is what a client sends after its features, one message a step, and what the
// server answers to each.
type confidence struct {
	name  string
	named bool // names of elements or attributes are secret, which a trace shows
	steps [][2]string
}

const (
	sasl1 = ` xmlns='urn:ietf:params:xml:ns:xmpp-sasl'`
	sasl2 = ` xmlns='urn:xmpp:sasl:2'`
)

// confidences returns logins with every mechanism, by both profiles, with good and bad
// ends, and what goes wrong around them.
func confidences(s *secrets) (all []confidence) {
	user, password, token := s.keep("wonderland-alice"), s.keep("opensesame-7391"), s.keep("tok3n-of-fast-5512")
	jid := s.keep(user + "@" + s.keep("private.example"))
	nonce := s.keep("nonce-fyko+d2lbbFgONRv9")
	mechanisms := []struct {
		name  string
		parts []string // of the client and the server in turn
	}{
		{"PLAIN", []string{"\x00" + user + "\x00" + password}},
		{"SCRAM-SHA-1", []string{"n,,n=" + user + ",r=" + nonce, "r=" + nonce + "3rf,s=QSXCR+Q6sek8bf92,i=4096", "c=biws,r=" + nonce + "3rf,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "v=rmF9pqV8S7suAoZWja4dJRkFsKQ="}},
		{"SCRAM-SHA-256-PLUS", []string{"p=tls-exporter,,n=" + user + ",r=" + nonce, "r=" + nonce + "x,s=c2FsdA==,i=4096", "c=cD10bHM=,r=" + nonce + "x,p=cHJvb2Y=", "v=c2ln"}},
		{"EXTERNAL", []string{jid}},
		{"ANONYMOUS", []string{s.keep("trace-of-" + user)}},
		{"OAUTHBEARER", []string{"n,a=" + jid + ",\x01auth=Bearer " + token + "\x01\x01"}},
		{"X-OAUTH2", []string{"\x00" + user + "\x00" + token}},
		{"HT-SHA-256-NONE", []string{user + "\x00" + "hashed-" + token}},
		{"DIGEST-MD5", []string{"", `realm="private.example",nonce="` + nonce + `",qop="auth"`, `username="` + user + `",response=d388dad90d4bbd760a152321f2143af7`, "rspauth=ea40f60335c427b5527b84dbabcdfffd"}},
		{"CRAM-MD5", []string{"", "<1896.697170952@" + nonce + ">", user + " b913a602c7eda7a495b4e6e7334d3890"}},
		{"GSSAPI", []string{"ticket-of-" + user}},
		{s.keep("X-" + password), []string{password}},
	}
	for _, m := range mechanisms {
		var parts []string
		for _, p := range m.parts {
			if p == "" {
				parts = append(parts, "")
			} else {
				parts = append(parts, s.encoded(p))
			}
		}
		for _, good := range []bool{true, false} {
			one := confidence{name: fmt.Sprintf("%s %v", m.name, good)}
			two := confidence{name: fmt.Sprintf("%s %v, SASL2", m.name, good)}
			one.say(`<auth`+sasl1+` mechanism='`+m.name+`'>`+parts[0]+`</auth>`, "")
			two.say(`<authenticate`+sasl2+` mechanism='`+m.name+`'><initial-response>`+parts[0]+`</initial-response>`+
				`<user-agent id='`+s.keep("d4565fa7-4d72-4749-b3d3-740edbf87770")+`'><device>`+s.keep("Kitchen Tablet")+`</device></user-agent>`+
				`<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/><fast xmlns='urn:xmpp:fast:0' count='1'/>`+
				`<resume xmlns='urn:xmpp:sm:3' h='1' previd='`+s.keep("previd-8841")+`'/></authenticate>`, "")
			for i := 1; i < len(parts); i++ {
				if i%2 == 1 {
					one.answer(`<challenge` + sasl1 + `>` + parts[i] + `</challenge>`)
					two.answer(`<challenge` + sasl2 + `>` + parts[i] + `</challenge>`)
				} else {
					one.say(`<response`+sasl1+`>`+parts[i]+`</response>`, "")
					two.say(`<response`+sasl2+`>`+parts[i]+`</response>`, "")
				}
			}
			if len(parts)%2 == 0 { // the server had the last word
				one.say(`<response`+sasl1+`/>`, "")
				two.say(`<response`+sasl2+`/>`, "")
			}
			last := parts[len(parts)-1]
			switch {
			case m.name == "EXTERNAL": // the gateway answers
			case good:
				one.answer(`<success` + sasl1 + `>` + last + `</success>`)
				two.answer(`<success` + sasl2 + `><additional-data>` + last + `</additional-data><authorization-identifier>` + jid + `/` + s.keep("bedroom") + `</authorization-identifier>` +
					`<token xmlns='urn:xmpp:fast:0' expiry='2030-01-01T00:00:00Z' token='` + token + `'/>` +
					`<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='urn:xmpp:sm:3' id='` + s.keep("smid-5519") + `' resume='true' location='` + s.keep("[2001:db8::77]:5222") + `'/></bound></success>`)
				two.say(`<message to='`+jid+`'><body>`+s.keep("meet me at noon")+`</body></message>`, "")
			default:
				one.answer(`<failure` + sasl1 + `><not-authorized/><text xml:lang='en'>no ` + password + ` for ` + user + `</text></failure>`)
				two.named = true
				two.answer(`<failure` + sasl2 + `><` + s.keep("secret-reason") + sasl1 + `/><text>no ` + password + `</text></failure>`)
			}
			all = append(all, one, two)
		}
	}
	for name, message := range map[string]string{
		"not well-formed":   `<auth` + sasl1 + ` mechanism='PLAIN'>` + s.encoded("\x00a\x00"+password) + `</auht>`,
		"bad name":          `<auth` + sasl1 + ` mechanism='PLAIN' ` + password + `>x</auth>`,
		"not text":          password,
		"too large":         `<auth` + sasl1 + ` mechanism='PLAIN'>` + strings.Repeat(s.encoded(password+"-large"), 1000) + `</auth>`,
		"stream error":      `<stream:error xmlns:stream='http://etherx.jabber.org/streams'><` + s.keep("my-own-condition") + ` xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`,
		"second header":     `<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='` + s.keep("token.in.a.domain.example") + `' version='1.0'/>`,
		"legacy login":      `<iq type='set'><query xmlns='jabber:iq:auth'><username>` + user + `</username><password>` + password + `</password></query></iq>`,
		"unexpected prefix": `<` + password + `:auth mechanism='PLAIN'/>`,
	} {
		named := name == "bad name" || name == "stream error" || name == "unexpected prefix"
		all = append(all, confidence{name, named, [][2]string{{message, ""}}})
	}
	for name, answer := range map[string]string{
		"stream error of the server": `<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>` + password + `</text><` + token + ` xmlns='urn:x'/></stream:error>`,
		"server breaks":              `<challenge` + sasl1 + `>` + s.encoded(nonce) + `</challenge><!-- ` + password + ` -->`,
		"server is not text":         password,
	} {
		all = append(all, confidence{name, name == "stream error of the server", [][2]string{{`<auth` + sasl1 + ` mechanism='PLAIN'>` + s.encoded("\x00b\x00"+password) + `</auth>`, answer}}})
	}
	return all
}

func (c *confidence) say(message, answer string) {
	c.steps = append(c.steps, [2]string{message, answer})
}

func (c *confidence) answer(text string) { c.steps[len(c.steps)-1][1] += text }

// serveConfidences is a server that answers the nth session as the nth confidence says. The
// number is in the domain.
func serveConfidences(t *testing.T, path string, all []confidence) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		d := xml.NewDecoder(c)
		d.Strict = false
		var steps [][2]string
		for depth := 0; ; {
			token, err := d.Token()
			if err != nil {
				return
			}
			switch token := token.(type) {
			case xml.EndElement:
				if depth--; depth == 0 && len(steps) > 0 {
					_, _ = io.WriteString(c, steps[0][1])
					steps = steps[1:]
				}
			case xml.StartElement:
				if token.Name.Local != "stream" {
					depth++
					continue
				}
				var n int
				for _, a := range token.Attr {
					if a.Name.Local == "to" {
						_, _ = fmt.Sscanf(a.Value, "n%d.example", &n)
					}
				}
				steps = all[n].steps
				_, _ = io.WriteString(c, `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='1' version='1.0'>`+
					`<stream:features><mechanisms`+sasl1+`><mechanism>PLAIN</mechanism></mechanisms><authentication`+sasl2+`><mechanism>PLAIN</mechanism></authentication></stream:features>`)
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// confide plays the nth confidence.
func (g *gatewayProcess) confide(s *secrets, n int, c *confidence) error {
	dialer := ws.Dialer{
		Protocols: []string{"xmpp"},
		NetDial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.dir+"/ws")
		},
		Header: ws.HandshakeHeaderHTTP(http.Header{"Authorization": {"Bearer " + s.keep("header-token-31")}, "Cookie": {"session=" + s.keep("cookie-of-alice")}}),
	}
	conn, _, _, err := dialer.Dial(context.Background(), "ws://gateway/ws?token="+s.keep("query-token-77"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var mu sync.Mutex
	var got strings.Builder
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			h, err := ws.ReadHeader(conn)
			if err != nil {
				return
			}
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(conn, payload); err != nil {
				return
			}
			mu.Lock()
			got.Write(payload)
			mu.Unlock()
			if h.OpCode == ws.OpClose {
				return
			}
		}
	}()
	// await waits for the last element of an answer, or for the end.
	await := func(answer string) {
		want := answer[strings.LastIndexByte(answer, '<')+1:]
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			mu.Lock()
			found := strings.Contains(got.String(), want)
			mu.Unlock()
			select {
			case <-over:
				return
			default:
			}
			if found {
				return
			}
		}
	}
	send := func(m string) { _ = ws.WriteFrame(conn, ws.MaskFrame(ws.NewTextFrame([]byte(m)))) }
	send(fmt.Sprintf(`<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" from="%s" to="n%d.example" version="1.0"/>`, s.keep("wonderland-alice@private.example/phone"), n))
	await("</stream:features>")
	for _, step := range c.steps {
		send(step[0])
		if step[1] != "" {
			await(step[1])
		}
	}
	return nil
}

// watch writes a trace of the session for a domain, until stop is called and it is over.
func (g *gatewayProcess) watch(domain string, to io.Writer) (stop func()) {
	g.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.dir+"/admin")
		},
	}}
	r, err := client.Post("http://admin/tap?domain="+domain, "", nil)
	if err != nil || r.StatusCode != http.StatusOK {
		g.t.Fatalf("/tap: %v, %v", r, err)
	}
	trace, copied := new(syncBuffer), make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(io.MultiWriter(trace, to), r.Body)
	}()
	return func() {
		g.eventually("the trace has no end", func() bool { return strings.Contains(trace.String(), `"text":"over"`) })
		r.Body.Close()
		<-copied
	}
}

// Nothing that clients and servers say in confidence is in the log, at any level, nor in a
// metric, nor in an answer of the admin endpoints.
func TestRedaction(t *testing.T) {
	for loop, format := range map[string]string{"auto": "json", "goroutine": "text"} {
		t.Run(loop, func(t *testing.T) {
			var s secrets
			all := confidences(&s)
			g := newGateway(t, "XMPPGATE_LOOP="+loop, "XMPPGATE_LOG_FORMAT="+format, "XMPPGATE_LOG_LEVEL=debug", "XMPPGATE_CHANNEL_BINDING=pass")
			server := filepath.Join(g.dir, "confidences")
			serveConfidences(t, server, all)
			g.Env = append(g.Env, "XMPPGATE_UPSTREAM=unix:"+server)
			var log bytes.Buffer
			g.Stderr = &log
			g.begin()
			var answers strings.Builder
			ask := func() {
				for line := range strings.Lines(adminIndex) {
					if path, _, _ := strings.Cut(line, " "); strings.HasPrefix(path, "/") {
						_, body := g.get(path)
						answers.WriteString(body)
					}
				}
				for _, path := range []string{"/connections?state=closed&limit=1000", "/nothing?token=" + s.keep("admin-query-5")} {
					_, body := g.get(path)
					answers.WriteString(body)
				}
			}
			traces := new(syncBuffer)
			for n := range all {
				stop := func() {}
				if !all[n].named {
					stop = g.watch(fmt.Sprintf("n%d.example", n), traces)
				}
				err := g.confide(&s, n, &all[n])
				stop()
				if err != nil {
					t.Fatalf("%s: %v", all[n].name, err)
				}
				if n == len(all)/2 {
					ask()
				}
			}
			ask()
			g.drains()
			for line := range strings.Lines(log.String()) {
				if secret := s.find(line); secret != "" {
					t.Errorf("%q is in the log: %s", secret, line)
				}
			}
			for line := range strings.Lines(answers.String()) {
				if secret := s.find(line); secret != "" {
					t.Errorf("%q is in an answer: %s", secret, line)
				}
			}
			for line := range strings.Lines(traces.String()) {
				if secret := s.find(line); secret != "" {
					t.Errorf("%q is in a trace: %s", secret, line)
				}
			}
			// The logins took place.
			for _, want := range []string{
				`{mechanism="plain",result="success"} `, `{mechanism="scram",result="success"} `, `{mechanism="oauth",result="not-authorized"} `, `{mechanism="ht",result="success"} `,
				`{mechanism="anonymous",result="other"} `, `{mechanism="other",result="success"} `, `{mechanism="external",result="invalid-mechanism"} `,
			} {
				last := strings.LastIndex(answers.String(), "xmppgate_logins_total"+want) + len("xmppgate_logins_total"+want)
				if count := answers.String()[last]; count < '1' || count > '9' {
					t.Errorf("no xmppgate_logins_total%s", want)
				}
			}
			if n := strings.Count(log.String(), "session step"); n < 5*len(all) {
				t.Errorf("%d steps of %d sessions in the log", n, len(all))
			}
		})
	}
}
