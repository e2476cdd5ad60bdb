package framing

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrNotText reports that a message is not text that an XMPP WebSocket may carry:
// it is empty, does not start with '<' (RFC 7395, section 3.3.3) or is not
// UTF-8 (RFC 6455, section 8.1). There is no XML to answer with a stream
// error; close the WebSocket with code 1007. It comes wrapped in an [*Error]: match
// it with errors.Is.
var ErrNotText = errors.New("message is not XML text")

// ErrTooLarge reports that what a server sends exceeds a limit of a
// [StreamSplitter]. It comes wrapped in an [*Error]: match it with errors.Is.
var ErrTooLarge = errors.New("too large")

// A LimitError says which limit something exceeds. It matches [ErrTooLarge].
type LimitError struct {
	// What is too large.
	What string
	// Limit is the most it may have, in bytes. Zero means that it depends on how much
	// the caller of a StreamSplitter keeps.
	Limit int
}

func (e *LimitError) Error() string {
	if e.Limit == 0 {
		return e.What + ": too large"
	}
	return fmt.Sprintf("%s above %d bytes: too large", e.What, e.Limit)
}

// Unwrap returns ErrTooLarge.
func (e *LimitError) Unwrap() error { return ErrTooLarge }

// An Error reports what is wrong with the input and where.
type Error struct {
	// Condition is the stream error to send.
	Condition Condition

	// Offset is a position in bytes: in the message for a MessageParser, in all
	// that came over the connection for a StreamSplitter, in the argument for
	// Unquote.
	Offset int

	// Err is the cause, never nil.
	Err error
}

// Error returns Text with the name of the package in front.
func (e *Error) Error() string { return "framing: " + e.Text() }

// Text returns the condition, the position and the cause. It is fit for the peer:
// for the <text/> of a stream error, or beside the close code of a WebSocket.
func (e *Error) Text() string {
	return string(e.Condition) + " at byte " + strconv.Itoa(e.Offset) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Causes have no prefix, because they come wrapped in an Error that has it. They
// are values so that refusing a flood of bad messages costs little.
var (
	errAttributes   = errors.New("too many attributes")
	errControl      = errors.New("control character")
	errDepth        = errors.New("elements nested too deeply")
	errDuplicate    = errors.New("duplicate attribute")
	errMarkup       = errors.New("comment, processing instruction or document type")
	errName         = errors.New("bad name")
	errNamespace    = errors.New("bad namespace declaration")
	errNonCharacter = errors.New("character not allowed in XML")
	errPrefix       = errors.New("unbound namespace prefix")
	errPrefixes     = errors.New("too many namespace prefixes")
	errSectionEnd   = errors.New(`"]]>" in text`)
	errTag          = errors.New("bad tag")
	errTrailing     = errors.New("more than one element")
	errUnfinished   = errors.New("unfinished element")
	errHeaderSize   = &LimitError{"stream header", maxHeader}
	errTreeSize     = &LimitError{"stream features or stream error", maxTree}
	errTagSize      = &LimitError{What: "start tag"}
	errUTF8         = errors.New("invalid UTF-8")
	errValue        = errors.New("bad attribute value")
	errMismatch     = errors.New("end tag does not match")
	errReference    = errors.New("bad reference")
	errEntity       = errors.New("undefined entity")
	errEncoding     = errors.New("encoding is not UTF-8")
	errXMLDecl      = errors.New("bad XML declaration")
	errText         = errors.New("text between elements")
	errContent      = errors.New("content where none may be")
	errHeader       = errors.New("header of a TCP stream")
)

func notText(offset int, why string) error {
	return &Error{CondNotWellFormed, offset, fmt.Errorf("%w: %s", ErrNotText, why)}
}
