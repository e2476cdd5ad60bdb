package framing

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// This file makes XML fit to be shown: its structure stays, what people say does not.

// AppendRedacted appends to dst an element, or whatever b is, without its content. Names of
// elements and attributes stay. Text and values of attributes become their length in bytes, as
// in <body>[5]</body>, except namespaces that XMPP defines and words of the protocol
// from a closed list, such as type='set'. Numbers of stream management stay. The result is
// printable ASCII. It has limit bytes or a few more; the rest of b is told by its length.
// b need not be well-formed.
func AppendRedacted(dst, b []byte, limit int) []byte {
	end := len(dst) + limit
	var name []byte // of the last start tag, while its text may follow
	for len(b) > 0 {
		if len(dst) >= end {
			return appendLength(append(dst, "..."...), len(b))
		}
		next := b[1+indexByte(b[1:], 0, '<'):]
		part := b[:len(b)-len(next)]
		switch {
		case b[0] != '<':
			part = b[:indexByte(b, 0, '<')]
			dst = appendRedactedText(dst, part, name)
			name = nil
		case bytes.HasPrefix(b, []byte("<![CDATA[")):
			n := len(b)
			if part = b; bytes.Contains(b, []byte("]]>")) {
				n = bytes.Index(b, []byte("]]>"))
				part = b[:n+3]
			}
			dst = appendLength(dst, n-len("<![CDATA["))
		default:
			tag := bytes.IndexByte(part, '>') // a value may have one, see appendRedactedTag
			var ok bool
			if dst, tag, name, ok = appendRedactedTag(dst, part, tag, end); !ok {
				dst = appendLength(dst, len(b))
				return dst
			}
			part = part[:tag]
		}
		b = b[len(part):]
	}
	return dst
}

// appendRedactedTag appends the tag that part starts with. n is its length; name is that of a
// start tag. It reports false for what is not a tag; nothing of that is shown.
func appendRedactedTag(dst, part []byte, close, end int) (out []byte, n int, name []byte, ok bool) {
	if len(part) > 1 && part[1] == '/' {
		if close < 0 {
			return dst, 0, nil, false
		}
		dst = appendName(append(dst, "</"...), bytes.TrimSpace(part[2:close]))
		return append(dst, '>'), close + 1, nil, true
	}
	colon, nameEnd := scanName(part, 1)
	if nameEnd < 0 {
		return dst, 0, nil, false
	}
	start := len(dst)
	dst = appendName(append(dst, '<'), part[1:nameEnd])
	a := scanAttributes(part, nameEnd)
	left := 0 // attributes that are too many to be shown
	for a.next() {
		if len(dst) >= end {
			left++
			continue
		}
		dst = appendName(append(dst, ' '), part[a.name:a.nameEnd])
		value := part[a.value+1 : a.end-1]
		if keepsValue(part, &a.attribute, value) {
			dst = append(append(append(dst, "='"...), value...), '\'')
		} else {
			dst = append(appendLength(append(dst, "='"...), len(value)), '\'')
		}
	}
	if a.err != nil {
		return dst[:start], 0, nil, false
	}
	if left > 0 {
		dst = append(strconv.AppendInt(append(dst, " ... "...), int64(left), 10), " more"...)
	}
	n = a.pos + 1
	if part[a.pos] == '/' {
		dst = append(dst, '/')
		if n == len(part) || part[n] != '>' {
			return dst[:start], 0, nil, false
		}
		n++
		return append(dst, '>'), n, nil, true
	}
	return append(dst, '>'), n, part[max(colon, 0)+1 : nameEnd], true
}

// appendRedactedText appends text, of which only the names of mechanisms stay, and no white
// space between elements.
func appendRedactedText(dst, text, name []byte) []byte {
	switch word := bytes.TrimSpace(text); {
	case len(word) == 0:
		return dst
	case string(name) == "mechanism" && slices.Contains(knownMechanisms, string(word)):
		return append(dst, word...)
	}
	return appendLength(dst, len(text))
}

func appendLength(dst []byte, n int) []byte {
	return append(strconv.AppendInt(append(dst, '['), int64(n), 10), ']')
}

// maxShownName is how much of a name is shown, in bytes.
const maxShownName = 80

// appendName appends a name. What is not ASCII in it may look like something else.
func appendName(dst, name []byte) []byte {
	more := ""
	if len(name) > maxShownName {
		name, more = name[:maxShownName], "..."
	}
	quoted := strconv.QuoteToASCII(string(name))
	return append(append(dst, quoted[1:len(quoted)-1]...), more...)
}

// knownMechanisms are names that say nothing about anybody.
var knownMechanisms = []string{
	"PLAIN", "EXTERNAL", "ANONYMOUS", "OAUTHBEARER", "X-OAUTH2", "DIGEST-MD5", "CRAM-MD5", "GSSAPI",
	"SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512", "SCRAM-SHA-512-PLUS",
	"HT-SHA-256-NONE", "HT-SHA-256-UNIQ", "HT-SHA-256-EXPR", "HT-SHA-256-ENDP",
}

// keptWords are the values that attributes keep, by name.
var keptWords = map[string][]string{
	"type": {
		"get", "set", "result", "error", "chat", "groupchat", "headline", "normal", "available", "unavailable", "probe",
		"subscribe", "subscribed", "unsubscribe", "unsubscribed", "auth", "cancel", "continue", "modify", "wait", "form", "submit",
	},
	"version":   {"1.0"},
	"resume":    {"true", "false", "1", "0"},
	"mechanism": knownMechanisms,
}

// keptNumbers are attributes whose values stay if they are small numbers.
var keptNumbers = []string{"h", "max", "code"}

// keptNamespaces are how namespaces begin that specifications define.
var keptNamespaces = []string{"jabber:", "urn:ietf:params:xml:ns:xmpp-", "urn:xmpp:", "http://jabber.org/", "http://etherx.jabber.org/"}

// keepsValue reports whether the value of an attribute may be shown.
func keepsValue(tag []byte, a *attribute, value []byte) bool {
	if bytes.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("'\"<>&", r) }) {
		return false
	}
	if _, ok := a.declaredPrefix(tag); ok {
		return len(value) <= maxShownName && slices.ContainsFunc(keptNamespaces, func(p string) bool { return strings.HasPrefix(string(value), p) })
	}
	name := string(tag[a.name:a.nameEnd])
	if slices.Contains(keptNumbers, name) {
		return len(value) <= 10 && isDigits(value)
	}
	return slices.Contains(keptWords[name], string(value))
}
