package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"
)

// A tapWorld is a world whose gateway has a tap on a domain.
type tapWorld struct {
	world
	tap *Tap
}

func (w *tapWorld) gateway(g *Gateway) {
	w.world.gateway(g)
	w.tap, _ = g.Tap(TapQuery{Domain: "proto.test"})
}

// drain returns what the tap has told, one entry a line.
func drainTap(tap *Tap) string {
	var text strings.Builder
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		e, err := tap.Next(ctx)
		cancel()
		if err != nil {
			return text.String()
		}
		fmt.Fprintf(&text, "%s %s", e.From, e.Text)
		for _, a := range e.Attrs {
			if a.Value.Kind() == slog.KindString {
				fmt.Fprintf(&text, " %s=%s", a.Key, a.Value)
			}
		}
		if e.Lost > 0 {
			fmt.Fprintf(&text, " lost=%d", e.Lost)
		}
		text.WriteByte('\n')
	}
}

// testTap checks that a tap shows what passes, in order, and no content.
func testTap(t *testing.T, world world) {
	const script = sessionOpens + `
server sends <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
client sends <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAGh1bnRlcjI=</auth>
server sends <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>hunter2</success>
` + sessionOpens + `
server sends <stream:features/>
client sends <message to='alice@proto.test'><body>hunter2</body></message>
server sends <message from='alice@proto.test/hunter2'><body>hunter2 hunter2</body></message>
client sends <a>hunter2
client drops
`
	w := &tapWorld{world: world}
	defer func(before bool) { *update = before }(*update)
	*update = true
	play(t, &txtar.Archive{Files: []txtar.File{{Name: "env", Data: []byte("XMPPGATE_UPSTREAM=one\n")}, {Name: "transcript", Data: []byte(script)}}}, chunkings["whole"], w)
	want := ` begins remote=%REMOTE% domain=proto.test
 server connected
server <stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='[2]' version='1.0' xml:lang='[2]' xmlns='jabber:client' from='[10]'>
server <stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms></stream:features>
 features
client <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>[20]</auth>
 login mechanism=plain
server <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>[7]</success>
 login over mechanism=plain result=success
client <open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='[10]' version='1.0'/>
server <stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='[2]' version='1.0' xml:lang='[2]' xmlns='jabber:client' from='[10]'>
 restarted
server <stream:features/>
 features
client <message to='[16]'><body>[7]</body></message>
server <message from='[24]'><body>[15]</body></message>
client <a>[7]
 closing ending=bad-xml
 over ending=bad-xml
`
	got := drainTap(w.tap)
	_, rest, _ := strings.Cut(got, "remote=")
	remote, _, _ := strings.Cut(rest, " ")
	if want = strings.Replace(want, "%REMOTE%", remote, 1); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if strings.Contains(got, "hunter2") || strings.Contains(got, "alice") || strings.Contains(got, "AGFs") {
		t.Errorf("content:\n%s", got)
	}
}

func TestTap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { testTap(t, bubble{}) })
}

// Who looks and does not read costs the session nothing, and learns what was missed. A tap
// of one session ends with it; a closed one is forgotten.
func TestTapOfSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 3 * maxTapEntries
		var script strings.Builder
		script.WriteString("session logs in\n")
		for range n {
			script.WriteString("server sends <iq/>\n")
		}
		script.WriteString("client drops\n")
		w := &tapWorld{world: bubble{}}
		defer func(before bool) { *update = before }(*update)
		*update = true
		happened, _ := play(t, &txtar.Archive{Files: []txtar.File{{Name: "transcript", Data: []byte(script.String())}}}, chunkings["whole"], w)
		if got := strings.Count(happened, `client receives <iq xmlns="jabber:client"/>`); got != n {
			t.Errorf("the client got %d of %d", got, n)
		}
		if got := strings.Count(drainTap(w.tap), "\n"); got != maxTapEntries {
			t.Errorf("%d entries wait", got)
		}
		w.tap.step(1, "later", nil)
		if got := drainTap(w.tap); !strings.Contains(got, " lost=") {
			t.Errorf("nothing was lost: %s", got)
		}
	})
}

func TestTapOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine}}
		if _, err := g.Tap(TapQuery{ID: 1}); !errors.Is(err, ErrNoSession) {
			t.Errorf("no session: %v", err)
		}
		client, far := bubble{}.pipe(t)
		g.serveConn(far)
		if _, err := io.WriteString(client, goodRequest+"\r\n"); err != nil {
			t.Fatal(err)
		}
		readResponse(t, client)
		tap, err := g.Tap(TapQuery{ID: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer tap.Close()
		var others []*Tap
		for {
			other, err := g.Tap(TapQuery{Domain: "x"})
			if err != nil {
				if !errors.Is(err, ErrTooManyTaps) || len(others) != MaxTaps-1 {
					t.Errorf("%d: %v", len(others), err)
				}
				break
			}
			others = append(others, other)
		}
		for _, other := range others {
			other.Close()
		}
		client.Close()
		synctest.Wait()
		var last TapEntry
		for {
			e, err := tap.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			last = e
		}
		if last.Text != "over" || last.Session != 1 {
			t.Errorf("%+v", last)
		}
	})
}
