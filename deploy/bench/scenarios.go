package main

var scenarios = []scenario{
	{"relay", "Relay", `The generator is both ends, without an XMPP server; stanzas are of 200 bytes
unless said otherwise. One batch is in flight on each connection. xmppgate has
GOMAXPROCS=1, HAProxy one thread, nginx one worker, all on CPU 0; the generator
spins on CPU 1. HAProxy in TCP mode carries the same WebSocket bytes and looks
at none of them.`, runRelay},
	{"setup", "New connections", `One after the other: TCP connection, upgrade, connection to the server, stream
headers, one stanza, reset by the client.`, runSetup},
	{"idle", "Idle sessions", `Sessions that have logged in and are quiet; resident memory of the process.`, runIdle},
}
