// Mellium is a client made of mellium.im/xmpp that does what it is told; ../README.md has the commands.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"mellium.im/sasl"
	"mellium.im/xmlstream"
	"mellium.im/xmpp"
	"mellium.im/xmpp/jid"
	"mellium.im/xmpp/stanza"
	"mellium.im/xmpp/websocket"
)

var printing sync.Mutex // events come from two goroutines

func tell(event string, args ...any) {
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(append([]any{">", event}, args...)...)
}

type chat struct {
	stanza.Message
	Body string `xml:"body"`
}

type client struct {
	url, password string
	account       jid.JID
	session       *xmpp.Session
	conn          net.Conn
	leaving       bool
	served        chan struct{} // closed when the session has ended
}

func (c *client) connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	conn, err := websocket.DialDirect(ctx, "http://"+c.account.Domainpart(), c.url)
	if err != nil {
		return err
	}
	// SASL asks for TLS. The library does not know about that of wss:// or of a proxy: one says so.
	session, err := xmpp.NewSession(ctx, c.account.Domain(), c.account, conn, xmpp.Secure,
		websocket.Negotiator(func(*xmpp.Session, *xmpp.StreamConfig) xmpp.StreamConfig {
			return xmpp.StreamConfig{Features: []xmpp.StreamFeature{
				xmpp.SASL("", c.password, sasl.ScramSha256, sasl.ScramSha1), xmpp.BindResource(),
			}}
		}))
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	c.session, c.conn, c.leaving, c.served = session, conn, false, make(chan struct{})
	go func() {
		defer close(c.served)
		err := session.Serve(xmpp.HandlerFunc(receive))
		if !c.leaving {
			fmt.Fprintln(os.Stderr, "served:", err)
			tell("lost")
		}
	}()
	if err := session.Send(ctx, stanza.Presence{}.Wrap(nil)); err != nil {
		return err
	}
	tell("online", session.LocalAddr(), "new")
	return nil
}

func receive(t xmlstream.TokenReadEncoder, start *xml.StartElement) error {
	if start.Name.Local != "message" {
		return nil
	}
	var m chat
	err := xml.NewTokenDecoder(xmlstream.MultiReader(xmlstream.Token(*start), t)).Decode(&m)
	if err != nil && err != io.EOF {
		return err
	}
	if m.Body != "" {
		tell("message", base64.StdEncoding.EncodeToString([]byte(m.Body)))
	}
	return nil
}

func (c *client) say(to, encoded string) error {
	address, err := jid.Parse(to)
	if err != nil {
		return err
	}
	body, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return err
	}
	return c.session.Encode(context.Background(), chat{stanza.Message{To: address, Type: stanza.ChatMessage}, string(body)})
}

func (c *client) close() error {
	c.leaving = true
	if err := c.session.Close(); err != nil { // sends <close/>
		return err
	}
	<-c.served // the answer has come
	c.conn.Close()
	tell("closed")
	return nil
}

func (c *client) do(command string, args []string) error {
	switch command {
	case "connect":
		return c.connect()
	case "say":
		return c.say(args[0], args[1])
	case "close":
		return c.close()
	}
	return fmt.Errorf("unknown command %q", command)
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == "mellium.im/xmpp" {
			return m.Version
		}
	}
	return "unknown"
}

func main() {
	url, domain, user, password := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	account, err := jid.New(user, domain, "mellium")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c := &client{url: url, password: password, account: account}
	tell("version", strings.TrimPrefix(version(), "v"))
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if err := c.do(words[0], words[1:]); err != nil {
			tell("failed", err)
		}
	}
}
