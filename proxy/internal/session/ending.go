package session

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/gobwas/ws"

	"xmppgate/framing"
)

// An ending is the reason why a session is over. A session has exactly one;
// it is decided once, by whatever happened first.
type ending uint8

const (
	endNone ending = iota
	endClientClosed
	endClientLeft
	endClientLost
	endClientSilent
	endClientStalled
	endServerClosed
	endServerError
	endServerLost
	endServerBroken
	endServerTooLarge
	endServerStalled
	endServerSilent
	endDialFailed
	endOpenTimeout
	endAuthTimeout
	endFailedLogins
	endOpenTooLarge
	endBadOpen
	endReopened
	endBadFrame
	endBinary
	endNotText
	endBadCompression
	endTooLarge
	endBadXML
	endStartTLS
	endMaxAge
	endDenied
	endOverload
	endMemoryShort
	endShutdown
	endOperator
	endInternal

	// endRefused is the end of a connection that never was a session: its
	// request has a result instead, see UpgradeResults.
	endRefused
)

// EndingInfo describes one way for a session to end: how it is reported and
// what each side is told.
type EndingInfo struct {
	// Name is the value of the metric label and of the log attribute.
	Name string
	// Level is the level of the log record.
	Level slog.Level
	// Meaning says what happened, for people.
	Meaning string
	// Condition is the stream error that the client gets first; empty means
	// none. Where the fault has a condition of its own (bad XML, bad
	// header) that one is used instead.
	Condition framing.Condition
	// Close tells whether the client gets <close/> (RFC 7395, section 3.6),
	// which says that the stream is over for good. Without it a client may
	// resume the stream (XEP-0198).
	Close bool
	// Code is the code of the WebSocket Close frame; zero means that there
	// is no client left, or that the client's own code is echoed.
	Code int
	// EndTag tells whether the server gets </stream:stream>. A server that
	// gets a bare FIN keeps the stream resumable (XEP-0198, section 5); one
	// that gets the end tag destroys it.
	EndTag bool
}

// endings is the one table of endings; docs/endings.md prints it.
var endings = [...]EndingInfo{
	endClientClosed:   {"client-closed", slog.LevelInfo, "the client closed the stream with <close/>", "", true, 1000, true},
	endClientLeft:     {"client-left", slog.LevelInfo, "the client closed the WebSocket without <close/>", "", false, 0, false},
	endClientLost:     {"client-lost", slog.LevelInfo, "the client's connection broke or ended without a Close frame", "", false, 0, false},
	endClientSilent:   {"client-silent", slog.LevelInfo, "nothing came from the client for two ping intervals", "", false, 0, false},
	endClientStalled:  {"client-stalled", slog.LevelWarn, "the client stopped reading", "", false, 0, false},
	endServerClosed:   {"server-closed", slog.LevelInfo, "the server closed the stream", "", true, 1000, true},
	endServerError:    {"server-error", slog.LevelInfo, "the server sent a stream error", "", true, 1000, false},
	endServerLost:     {"server-lost", slog.LevelWarn, "the server's connection broke or ended without </stream:stream>", "", false, 1011, false},
	endServerBroken:   {"server-broken", slog.LevelError, "the server sent something other than an XMPP stream", "", false, 1011, false},
	endServerTooLarge: {"server-too-large", slog.LevelError, "the server sent an element above the size limit", "", false, 1011, false},
	endServerStalled:  {"server-stalled", slog.LevelWarn, "the server stopped reading", "", false, 1011, false},
	endServerSilent:   {"server-silent", slog.LevelWarn, "the server did not answer the stream header in time", framing.CondRemoteConnectionFailed, true, 1000, false},
	endDialFailed:     {"dial-failed", slog.LevelWarn, "the server could not be reached", framing.CondRemoteConnectionFailed, true, 1000, false},
	endOpenTimeout:    {"open-timeout", slog.LevelInfo, "the client sent no <open/> in time", framing.CondConnectionTimeout, true, 1000, false},
	endAuthTimeout:    {"auth-timeout", slog.LevelInfo, "the client did not authenticate in time", framing.CondConnectionTimeout, true, 1000, true},
	endFailedLogins:   {"failed-logins", slog.LevelInfo, "too many logins from the client's network have failed", framing.CondPolicyViolation, true, 1000, true},
	endOpenTooLarge:   {"open-too-large", slog.LevelInfo, "the first message was above the header's size limit", "", false, 1009, false},
	endBadOpen:        {"bad-open", slog.LevelInfo, "the first message was not an acceptable <open/>", framing.CondBadFormat, true, 1000, false},
	endReopened:       {"reopened", slog.LevelInfo, "the client sent <open/> when no restart was due", framing.CondUnsupportedStanzaType, true, 1000, true},
	endBadFrame:       {"bad-frame", slog.LevelInfo, "the client broke the WebSocket protocol", "", false, 1002, false},
	endBinary:         {"binary-frame", slog.LevelInfo, "the client sent a binary message", "", false, 1003, false},
	endNotText:        {"not-text", slog.LevelInfo, "the client sent a message that is not UTF-8 text or does not start with a tag", "", false, 1007, false},
	endBadCompression: {"bad-compression", slog.LevelInfo, "the client sent a compressed message that cannot be restored", "", false, 1007, false},
	endTooLarge:       {"too-large", slog.LevelInfo, "the client sent a message above the size limit", framing.CondPolicyViolation, true, 1000, true},
	endBadXML:         {"bad-xml", slog.LevelInfo, "the client sent a message that is not exactly one permitted element", framing.CondNotWellFormed, true, 1000, true},
	endStartTLS:       {"starttls", slog.LevelInfo, "the client tried <starttls/> inside the WebSocket", "", true, 1000, true},
	endMaxAge:         {"max-age", slog.LevelInfo, "the session has reached the greatest age", "", false, 1001, false},
	endDenied:         {"denied", slog.LevelInfo, "the client's network was put on the deny list", framing.CondPolicyViolation, true, 1000, true},
	endOverload:       {"overload", slog.LevelWarn, "the gateway was short of memory or descriptors, and the client had not authenticated", framing.CondResourceConstraint, true, 1000, true},
	endMemoryShort:    {"memory-short", slog.LevelWarn, "the gateway was short of memory, and held much for this session", "", false, 1013, false},
	endShutdown:       {"shutdown", slog.LevelInfo, "the gateway is going away", "", false, 1001, false},
	endOperator:       {"operator-ended", slog.LevelInfo, "an operator ended the session", "", false, 1001, false},
	endInternal:       {"internal", slog.LevelError, "the gateway failed", "", false, 1011, false},
}

// Endings lists the ways in which a session can end.
func Endings() []EndingInfo { return slices.Clone(endings[1:]) }

func (end ending) info() *EndingInfo { return &endings[end] }

// byServer reports whether it was the server that ended the session, or made it end.
func (end ending) byServer() bool { return endServerClosed <= end && end <= endServerSilent }

// code is the WebSocket close code that e sends.
func (end ending) code() ws.StatusCode { return ws.StatusCode(endings[end].Code) }

// fails reports whether e fails the WebSocket connection (RFC 6455, section
// 7.1.7): the client has broken the protocol, or has sent a frame that is not
// read to its end, behind which its Close frame would not be found. FIN then
// follows our Close frame at once.
func (end ending) fails() bool {
	switch end.code() {
	case ws.StatusProtocolError, ws.StatusUnsupportedData, ws.StatusInvalidFramePayloadData, ws.StatusMessageTooBig:
		return true
	}
	return end == endTooLarge
}

// CauseText returns the text of an error for a peer or a log line, without the name of
// the package that has found it.
func CauseText(err error) string {
	var bad *framing.Error
	if errors.As(err, &bad) && err == error(bad) {
		return bad.Text()
	}
	return err.Error()
}

// reason is the text beside the close code: the only cause that a browser
// shows. At most 123 bytes (RFC 6455, section 5.5). What the client did wrong
// is told in full, what is wrong with the server is not.
func (end ending) reason(cause error) string {
	switch {
	case endings[end].Code == 1000:
		return ""
	case end == endServerLost:
		return "upstream connection lost"
	case cause != nil && (end == endBadFrame || end == endNotText || end == endBadCompression):
		return CauseText(cause)
	}
	return endings[end].Meaning
}
