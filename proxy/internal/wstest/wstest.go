// Package wstest has what tests of sessions say: the first bytes of both ends, and
// the frames of a client.
package wstest

import (
	"bytes"
	"compress/flate"
	"io"

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

// Offer is a line of a request that offers compression, as browsers do.
const Offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"

// Frame returns a frame of a client, masked with the key of RFC 6455, section 5.7.
func Frame(op ws.OpCode, fin bool, payload []byte) []byte { return frame(op, fin, 0, payload) }

// Compressed returns the first or only frame of a compressed message, whose payload is
// already compressed (RFC 7692, section 6.1).
func Compressed(op ws.OpCode, fin bool, payload []byte) []byte {
	return frame(op, fin, ws.Rsv(true, false, false), payload)
}

// Deflate compresses a message (RFC 7692, section 7.2.1).
func Deflate(text []byte) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		panic(err)
	}
	w.Write(text)
	w.Flush()
	return b.Bytes()[:b.Len()-4]
}

// An Inflater restores what a gateway compresses, as clients do. The zero value is
// ready.
type Inflater struct{ window []byte }

// Inflate returns the text of a compressed message.
func (f *Inflater) Inflate(p []byte) ([]byte, error) {
	r := flate.NewReaderDict(io.MultiReader(bytes.NewReader(p), bytes.NewReader([]byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))), f.window)
	text, err := io.ReadAll(r)
	f.window = append(f.window, text...)
	f.window = f.window[max(0, len(f.window)-32<<10):]
	return text, err
}

func frame(op ws.OpCode, fin bool, rsv byte, payload []byte) []byte {
	h := ws.Header{Fin: fin, Rsv: rsv, OpCode: op, Masked: true, Mask: [4]byte{0x37, 0xfa, 0x21, 0x3d}, Length: int64(len(payload))}
	var b bytes.Buffer
	if err := ws.WriteHeader(&b, h); err != nil {
		panic(err)
	}
	p := bytes.Clone(payload)
	ws.Cipher(p, h.Mask, 0)
	return append(b.Bytes(), p...)
}
