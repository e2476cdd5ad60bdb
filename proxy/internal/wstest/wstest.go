// Package wstest has what tests of sessions say: the first bytes of both ends, and
// the frames of a client.
package wstest

import (
	"bytes"

	"github.com/gobwas/ws"
)

const (
	// Request is a good request up to the empty line.
	Request = "GET /xmpp-websocket HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: xmpp\r\n"
	// Open is the first message of a client, Header the answer of a server.
	Open   = `<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="proto.test" version="1.0"/>`
	Header = `<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' id='i1' version='1.0' xml:lang='en' xmlns='jabber:client' from='proto.test'>`
)

// Frame returns a frame of a client, masked with the key of RFC 6455, section 5.7.
func Frame(op ws.OpCode, fin bool, payload []byte) []byte {
	h := ws.Header{Fin: fin, OpCode: op, Masked: true, Mask: [4]byte{0x37, 0xfa, 0x21, 0x3d}, Length: int64(len(payload))}
	var b bytes.Buffer
	if err := ws.WriteHeader(&b, h); err != nil {
		panic(err)
	}
	p := bytes.Clone(payload)
	ws.Cipher(p, h.Mask, 0)
	return append(b.Bytes(), p...)
}
