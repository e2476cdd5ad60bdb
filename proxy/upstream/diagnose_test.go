package upstream

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
)

// A port whose server hangs up at what it cannot read is found out, once, by a
// health check.
func TestDiagnose(t *testing.T) {
	_, cert := chatServer(t)
	speaksTLS := func(p *peer) {
		if b := make([]byte, 1); func() bool { n, _ := p.Read(b); return n == 1 && b[0] == recordHandshake }() {
			tls.Server(&ahead{p.Conn, b}, serverConfig(cert)).Handshake()
		}
	}
	speaksHTTP := func(p *peer) {
		if p.receive(3) == "GET" {
			p.send("HTTP/1.0 404 Not Found\r\n\r\n")
		}
	}
	for _, test := range []struct {
		name, url, says string
		script          func(*peer)
		connections     int
	}{
		{"TLS", "tcp://%s", "speaks TLS from the first byte; write tls://127.0.0.1:", speaksTLS, 3},
		{"TLS", "starttls://%s", "speaks TLS from the first byte; write tls://127.0.0.1:", speaksTLS, 3},
		{"TLS behind PROXY", "tcp://%s?proxy=v1", "closed the connection", speaksTLS, 3},
		{"HTTP", "tcp://%s", "the server answers HTTP", speaksHTTP, 2},
		{"HTTP", "tls://%s", "the server answers HTTP", speaksHTTP, 2},
		{"neither", "tcp://%s", "closed the connection", func(p *peer) { p.receive(3) }, 3},
	} {
		connections := make(chan struct{}, 100)
		address := serve(t, func(p *peer) { connections <- struct{}{}; test.script(p) })
		r := newTestRouter(t, Config{Default: parse(t, strings.Replace(test.url, "%s", address, 1)), AllowList: []string{"chat.example"}}, nil)
		for i, more := range []int{test.connections, 1} { // the second time it is known
			err := r.Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s, %s, check %d: %v", test.name, test.url, i+1, err)
			}
			if n := len(connections); n != more {
				t.Errorf("%s, %s: %d connections", test.name, test.url, n)
			}
			for len(connections) > 0 {
				<-connections
			}
		}
	}
}

// ahead is a connection of which a part has been read.
type ahead struct {
	net.Conn
	b []byte
}

func (a *ahead) Read(b []byte) (int, error) {
	if len(a.b) > 0 {
		n := copy(b, a.b)
		a.b = a.b[n:]
		return n, nil
	}
	return a.Conn.Read(b)
}
