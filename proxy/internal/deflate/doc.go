// Package deflate compresses the messages of a WebSocket: permessage-deflate (RFC
// 7692), without the frames.
//
// negotiate.go finds the offer of a client that is accepted. deflate.go compresses
// what a client gets, inflate.go restores what it has sent, and memory.go bounds the
// memory that lasts from message to message.
//
// # What lasts from message to message
//
// A compressor of zlib keeps 256 KiB for each session, one of package flate 800 KiB.
// This one keeps the end of the text that it has compressed, at most 8 KiB, and
// gives it to flate.StatelessDeflate as a dictionary: short messages become as small
// as with a compressor that remembers everything, within a fifth.
//
// Clients are asked not to refer to earlier messages (client_no_context_takeover):
// to restore them would take another 32 KiB for each session. It also keeps what a
// client sends as credentials apart from all else that it sends.
package deflate
