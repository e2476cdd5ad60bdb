package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// printMan prints the man page, in the macros of man(7). It has no date: the same
// program prints the same page.
func printMan(_ context.Context, p process) int {
	fmt.Fprint(p.stdout, manPage())
	return exitOK
}

func manPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH XMPPGATE 8 \"\" \"xmppgate %s\"\n", strings.TrimSpace(nextVersion))
	b.WriteString(`.SH NAME
xmppgate \- XMPP over WebSocket (RFC 7395) in front of any XMPP server
.SH SYNOPSIS
.B xmppgate
.RI [ command ]
.SH DESCRIPTION
Lets XMPP clients that speak WebSocket talk to an XMPP server that speaks TCP.
It reads environment variables, and the file of them that XMPPGATE_CONFIG names.
.SH COMMANDS
`)
	for _, c := range commands() {
		manEntry(&b, c.name, c.help)
	}
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range variables() {
		term := v.name
		if v.defaultValue != "" {
			term += "=" + v.defaultValue
		}
		text := v.help
		if v.onlyStart {
			text += ". Only a start changes it, not a reload"
		}
		manEntry(&b, term, text)
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, code := range exitCodes {
		manEntry(&b, code.code, code.help)
	}
	return b.String()
}

// manEntry writes a paragraph with a term.
func manEntry(w io.Writer, term, text string) {
	escape := strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, `.`, `\&.`)
	fmt.Fprintf(w, ".TP\n.B %s\n%s.\n", escape.Replace(term), escape.Replace(text))
}
