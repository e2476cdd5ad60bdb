package framing

import (
	"strconv"
	"unicode/utf8"
)

// Quote returns s as an attribute value in single quotes, for a [Header]. It is the
// inverse of [Unquote]. Characters that XML does not allow become U+FFFD.
func Quote(s string) []byte {
	dst := append(make([]byte, 0, len(s)+2), '\'')
	return append(appendEscaped(dst, s), '\'')
}

// Unquote returns the text of an attribute value given with its quotes, as in
// [Header]: references are replaced and white space is normalised (XML
// 1.0, section 3.3.3). The error is an [*Error] with a position in raw.
func Unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' && raw[0] != '\'' || raw[len(raw)-1] != raw[0] {
		return "", &Error{CondNotWellFormed, 0, errValue}
	}
	inner := raw[1 : len(raw)-1]
	for i, c := range inner {
		if c == raw[0] || c == '<' {
			return "", &Error{CondNotWellFormed, i + 1, errValue}
		}
	}
	if err := checkReferences(inner, 1); err != nil {
		return "", err
	}
	return string(appendUnescaped(nil, inner)), nil
}

// appendEscaped appends s as XML text that is also fit for a quoted attribute
// value. Characters that XML does not allow become U+FFFD.
func appendEscaped(dst []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r == '&':
			dst = append(dst, "&amp;"...)
		case r == '<':
			dst = append(dst, "&lt;"...)
		case r == '>':
			dst = append(dst, "&gt;"...)
		case r == '\'':
			dst = append(dst, "&apos;"...)
		case r == '"':
			dst = append(dst, "&quot;"...)
		case r == '\t' || r == '\n' || r == '\r':
			// Literal white space would be normalised by the reader.
			dst = append(dst, "&#"...)
			dst = strconv.AppendInt(dst, int64(r), 10)
			dst = append(dst, ';')
		case isChar(r):
			dst = utf8.AppendRune(dst, r)
		default:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		}
	}
	return dst
}
