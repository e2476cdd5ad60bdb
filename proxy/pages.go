package proxy

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html"
	"strings"

	"xmppgate/proxy/internal/session"
)

// pageSource is the page that people see. Its script opens the WebSocket at
// data-path, which is relative to the page.
//
//go:embed page.html
var pageSource []byte

// page returns the page that tests the WebSocket at a path.
func page(path string) session.Document {
	return session.Document{
		Status: 200,
		Type:   "text/html; charset=utf-8",
		Header: session.CORS +
			"Cache-Control: no-cache\r\n" +
			"Content-Security-Policy: default-src 'none'; script-src " + hashOf("script") + "; style-src " + hashOf("style") +
			"; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n" +
			"Referrer-Policy: no-referrer\r\n" +
			"X-Content-Type-Options: nosniff\r\n" +
			"X-Frame-Options: DENY\r\n",
		Body: bytes.Replace(pageSource, []byte("{{path}}"), []byte(html.EscapeString(path)), 1),
	}
}

// hashOf returns the source expression of Content-Security-Policy for the only element
// of this name in the page.
func hashOf(name string) string {
	_, text, _ := bytes.Cut(pageSource, []byte("<"+name+">"))
	text, _, _ = bytes.Cut(text, []byte("</"+name+">"))
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// firstPath returns a path at which a WebSocket is served, for the page at the root and
// for examples.
func (c *Config) firstPath() string {
	if paths := c.paths(); len(paths) > 0 {
		return strings.ReplaceAll(paths[0], anySegment, "test")
	}
	return DefaultPaths[0]
}
