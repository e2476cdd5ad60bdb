package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A Prosody as Jitsi Meet configures it for guests: a host for anonymous clients and one for rooms. The client names room
// and token in the query, below the path of a tenant: docs/jitsi.md.
func TestJitsi(t *testing.T) {
	t.Parallel()
	s := stockServer(t, "prosody", func(config string) string {
		return config + `
VirtualHost "` + anonDomain + `"
	authentication = "anonymous"
	c2s_require_encryption = false
Component "` + mucDomain + `" "muc"
	muc_room_locking = false
`
	})
	page := read(t, "../../docs/jitsi.md")
	_, paths, ok := strings.Cut(page, "\nXMPPGATE_PATH=")
	paths, _, _ = strings.Cut(paths, "\n")
	if !ok {
		t.Fatal("docs/jitsi.md sets no path")
	}
	s.gw = gatewayFor(t, "tcp://"+s.c2s, "XMPPGATE_PATH="+paths)
	const query = "?room=standup&token=eyJhbGciOiJIUzI1NiJ9.e30.c2VjcmV0"
	for _, path := range []string{"/xmpp-websocket", "/tenant/xmpp-websocket"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, nodeJS(), "jitsi.mjs", "ws://"+s.gw.listen+path+query, anonDomain, "standup@"+mucDomain)
		cmd.Dir = "clients"
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "joined") {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		// The web client asks for its own URL, and reads the answer.
		request, err := http.NewRequest("GET", "http://"+s.gw.listen+path+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", "https://meet.example.org")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if allowed := response.Header.Get("Access-Control-Allow-Origin"); response.StatusCode != http.StatusOK || allowed != "*" {
			t.Errorf("GET %s: %s, Access-Control-Allow-Origin %q", path, response.Status, allowed)
		}
	}
	for _, log := range []string{s.gw.proc.log.all(), s.proc.log.all()} {
		if strings.Contains(log, "eyJhbGci") {
			t.Errorf("a token is in a log:\n%s", log)
		}
	}
}
