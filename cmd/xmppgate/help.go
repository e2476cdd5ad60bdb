package main

import (
	"fmt"
	"strings"
)

// exitCodes is the table for --help and the man page.
var exitCodes = []struct{ code, help string }{
	{"0", "all sessions ended, or the command succeeded"},
	{"1", "the start or a listener failed, sessions did not end in time, or the command failed"},
	{"2", "wrong command line"},
	{"3", "doctor: warnings, and no failure"},
	{"78", "wrong configuration; nothing was started"},
	{"130", "a second SIGINT ended the drain"},
	{"143", "a second SIGTERM ended the drain"},
}

// helpText is the output of --help.
func helpText() string {
	var b strings.Builder
	b.WriteString(`xmppgate lets XMPP clients that speak WebSocket (RFC 7395) talk to an XMPP
server that speaks TCP (RFC 6120).

Usage: xmppgate [command]

Commands:
`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-14s%s\n", c.name, c.help)
	}
	b.WriteString("\nEnvironment, with defaults:\n")
	for _, v := range variables() {
		fmt.Fprintf(&b, "  %s=%s%s\n", v.name, v.defaultValue, wrap(v.help, "      ", 78))
	}
	b.WriteString("\nExit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %-5s%s\n", e.code, e.help)
	}
	return b.String()
}

// wrap breaks text into indented lines of at most width bytes.
func wrap(text, indent string, width int) string {
	var b strings.Builder
	used := width
	for word := range strings.FieldsSeq(text) {
		if used+1+len(word) > width {
			b.WriteString("\n" + indent)
			used = len(indent)
		} else {
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += len(word)
	}
	return b.String()
}
