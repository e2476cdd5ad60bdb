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
// A client that offers to limit its window, as browsers do, is asked for 4 KiB, and so much
// of what it has sent is kept as well. One that does not, or for which there is no memory,
// is asked not to refer to earlier messages at all: what it may refer to has 32 KiB.
package deflate
