//go:build e2e && linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// The status page in a browser: it renders, filters and acts, loads nothing from
// elsewhere, and what a client has named is text.
// "go test -tags e2e -run StatusPage -artifacts" keeps the screenshots.
func TestStatusPage(t *testing.T) {
	clients, err := filepath.Abs("../../deploy/e2e/clients")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(clients, "node_modules/playwright-core")); err != nil {
		t.Fatalf("%v: run deploy/e2e/setup.sh", err)
	}
	node := filepath.Join(clients, "node/bin/node") // where setup.sh puts it if the installed one is too old
	if _, err := os.Stat(node); err != nil {
		node = "node"
	}

	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go acceptStreamsThat(server, "s", noFeatures)
	token := writeToken(t, testToken)
	g := startGateway(t, "XMPPGATE_LISTEN=127.0.0.1:0", "XMPPGATE_ADMIN_LISTEN=127.0.0.1:0", "XMPPGATE_ADMIN_TOKEN_FILE="+token, "XMPPGATE_UPSTREAM=tcp://"+server.Addr().String(),
		"XMPPGATE_TRUSTED_PROXIES=127.0.0.1", "XMPPGATE_DRAIN_TIMEOUT=10s")
	client := func(address, domain string) net.Conn {
		c, _ := upgrade(t, g.serving.Listen, "", "/ws", "X-Forwarded-For: "+address+"\r\n")
		_ = c.SetDeadline(time.Time{})
		if err := sendOpen(c, domain); err != nil {
			t.Fatal(err)
		}
		go func() { // who answers pings, as a browser does
			for {
				f, err := ws.ReadFrame(c)
				if err != nil {
					return
				}
				if f.Header.OpCode == ws.OpClose {
					c.Close()
				}
				if f.Header.OpCode == ws.OpPing {
					_ = ws.WriteFrame(c, ws.MaskFrameInPlace(ws.NewPongFrame(f.Payload)))
				}
			}
		}()
		return c
	}
	for n := range 20 {
		client(fmt.Sprintf("192.0.2.%d", n+1), "example.org")
	}
	client("2001:db8::1", "example.net")
	client("198.51.100.7", `&lt;img src=x onerror=document.title=&quot;owned&quot;&gt;`)
	send(t, client("203.0.113.9", "example.net"), "<iq>") // bad-xml
	client("203.0.113.10", "example.com").Close()
	busy := client("192.0.2.99", "example.org")
	go func() {
		for {
			if ws.WriteFrame(busy, ws.MaskFrameInPlace(ws.NewTextFrame([]byte("<message><body>"+strings.Repeat("x", 500)+"</body></message>")))) != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()

	driver := exec.CommandContext(t.Context(), node, "testdata/page.cjs", "http://"+g.serving.Admin+"/", testToken, t.ArtifactDir())
	driver.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(clients, "node_modules"))
	out, err := driver.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
