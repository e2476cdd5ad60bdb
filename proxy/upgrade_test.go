package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/tools/txtar"

	"xmppgate/proxy/internal/http1"
	"xmppgate/proxy/internal/wstest"
	"xmppgate/proxy/upstream"
)

// TestUpgrade plays testdata/upgrade/*.txtar: request and response, both to
// the byte, in every chunking. Lines of a request end in CRLF.
func TestUpgrade(t *testing.T) {
	for file, ar := range archives(t, "testdata/upgrade/*.txtar") {
		request := strings.ReplaceAll(string(section(ar, "request")), "\n", "\r\n")
		for _, name := range slices.Sorted(maps.Keys(chunkings)) {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar")+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := env(t, section(ar, "env"))
					g.Loop = LoopGoroutine
					g.Dial = noServer
					got := exchange(g, chunkings[name].cut([]byte(request)))
					got = strings.ReplaceAll(got, "\r\n", "\n")
					if *update {
						if name != "whole" {
							return
						}
						for i := range ar.Files {
							if ar.Files[i].Name == "response" {
								ar.Files[i].Data = []byte(got)
							}
						}
						if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
							t.Fatal(err)
						}
						return
					}
					if want := string(section(ar, "response")); got != want {
						about, _, _ := strings.Cut(string(ar.Comment), "\n")
						t.Errorf("%s: %s\ngot:\n%s\nwant:\n%s\nIf that is right: go test ./proxy -run '%s' -update", file, about, got, want, path.Dir(t.Name()))
					}
				})
			})
		}
	}
}

func noServer(context.Context, *upstream.Request) (*upstream.Stream, error) {
	return nil, errors.New("nothing is dialled for a handshake")
}

// exchange writes chunks and returns all that comes back.
func exchange(g *Gateway, chunks [][]byte) string {
	conn, far := net.Pipe()
	g.serveConn(far)
	var got bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(&got, conn)
	}()
	go func() {
		for _, b := range chunks {
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	}()
	synctest.Wait()
	conn.Close()
	<-done
	synctest.Wait()
	return got.String()
}

const goodRequest = wstest.Request

// Frames that come in one segment with the request are not lost.
//
// Behaviour: upgrade-pipelined. RFC 6455, section 4.1.
func TestUpgradePipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine}}
		ping := maskedFrame(0x9, true, []byte("early"))
		got := exchange(g, [][]byte{append([]byte(goodRequest+"\r\n"), ping...)})
		_, frames, _ := strings.Cut(got, "\r\n\r\n")
		if want := "\x8a\x05early"; frames != want {
			t.Errorf("got %q behind the response, want %q", frames, want)
		}
	})
}

// A head has a limit in bytes, in lines and in time.
//
// Behaviour: upgrade-limits. RFC 6585, section 5; RFC 9110, section 15.5.9.
func TestUpgradeLimits(t *testing.T) {
	for _, c := range []struct {
		name, request, status string
		wait                  time.Duration
	}{
		{"bytes", goodRequest + "X: " + strings.Repeat("a", http1.MaxSize) + "\r\n\r\n", "431", 0},
		{"cookies", goodRequest + "Cookie: a=" + strings.Repeat("x", 6000) + "\r\nCookie: b=" + strings.Repeat("x", 25000) + "\r\n\r\n", "101", 0},
		{"no end of line", strings.Repeat("G", 2*http1.MaxSize), "431", 0},
		{"lines", goodRequest + strings.Repeat("X: a\r\n", http1.MaxLines) + "\r\n", "431", 0},
		{"time", goodRequest, "408", headTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &Gateway{Config: Config{Dial: noServer, Loop: LoopGoroutine}}
				conn, far := net.Pipe()
				g.serveConn(far)
				go io.WriteString(conn, c.request)
				begun := time.Now()
				got := make([]byte, len("HTTP/1.1 101 "))
				io.ReadFull(conn, got)
				if !strings.HasPrefix(string(got), "HTTP/1.1 "+c.status+" ") {
					t.Errorf("got %q, want %s", got, c.status)
				}
				if waited := time.Since(begun); waited != c.wait {
					t.Errorf("answered after %v, want %v", waited, c.wait)
				}
				conn.Close()
			})
		})
	}
}

// A gateway that is full says so and when to come back.
func TestUpgradeBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gateway{Config: Config{Dial: noServer, MaxSessions: 1, Loop: LoopGoroutine}}
		first, far := net.Pipe()
		g.serveConn(far)
		got := exchange(g, [][]byte{[]byte(goodRequest + "\r\n")})
		if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nRetry-After: ") {
			t.Errorf("got %q", got)
		}
		first.Close()
		synctest.Wait()
		if got := exchange(g, [][]byte{[]byte(goodRequest + "\r\n")}); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
			t.Errorf("after the first left: got %q", got)
		}
	})
}

func ExampleGateway() {
	server, err := upstream.ParseServer("starttls://xmpp.example.org?name=example.org")
	if err != nil {
		panic(err)
	}
	router, err := upstream.NewRouter(upstream.Config{Default: []*upstream.Server{server}})
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	g := &Gateway{Config: Config{Dial: router.Connect, Static: router.Static}}
	go g.Serve(l)
	// WebSocket clients connect to l, with the path /xmpp-websocket.
	fmt.Println(g.Shutdown(context.Background()))
	// Output: <nil>
}
