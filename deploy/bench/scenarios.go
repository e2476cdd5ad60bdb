package main

var scenarios = []scenario{
	{"relay", "Relay", `The generator is both ends, without an XMPP server; stanzas are of 200 bytes
unless said otherwise. One batch is in flight on each connection. xmppgate has
GOMAXPROCS=1, HAProxy one thread, nginx one worker, all on CPU 0; the generator
spins on CPU 1. HAProxy in TCP mode carries the same WebSocket bytes and looks
at none of them.`, runRelay, false},
	{"unix", "Relay to a Unix socket", `As above. xmppgate finds its server at a Unix socket; the others, xmppgate too,
find theirs over TCP.`, runUnix, false},
	{"setup", "New connections", `One after the other: TCP connection, upgrade, connection to the server, stream
headers, one stanza, reset by the client.`, runSetup, false},
	{"idle", "Idle sessions", `Sessions that have logged in and are quiet; resident memory of the process.`, runIdle, false},
	{"tls", "Relay with TLS to the server", `As above, with TLS 1.3 (TLS_AES_128_GCM_SHA256) between the system and its
server. HAProxy is in TCP mode and verifies no certificate, xmppgate checks a
pin. For each system one more HAProxy on CPU 1 ends TLS before the generator,
which waits instead of spinning; neither counts.`, runTLS, false},
	{"wss", "TLS with clients", `As above, with TLS 1.3 (TLS_AES_128_GCM_SHA256, X25519, an ECDSA P-256 key)
between the clients and the system, and plain text behind it. HAProxy is in TCP
mode. For each system one more HAProxy on CPU 1 speaks TLS for the generator, with a
full handshake for each connection; it does not count.`, runWSS, false},
	{"prosody", "Prosody", serverText, prosody.run, false},
	{"prosody-idle", "Prosody, idle sessions", idleText, prosody.idle, false},
	{"ejabberd", "ejabberd", serverText, ejabberd.run, false},
	{"ejabberd-idle", "ejabberd, idle sessions", idleText, ejabberd.idle, false},
	{"fair", "Quiet sessions beside loud ones", `50 sessions exchange a stanza of 200 bytes every 20 ms each, alone or while
one more session of the same process sends as fast as it can and gets it all
back, and ten more never read what their servers keep sending. Where the other
process is disturbed, only the machine is shared: what that costs is not the
fault of either. Production settings, two threads for HAProxy, nothing pinned; but
both have real-time priority and the generator a higher one, so that others on
the machine are not measured, and the flood gets what is left of it.
The contents of the flood are not checked.`, runFair, false},
	{"slowloris", "Quiet sessions beside slow clients", `50 sessions exchange a stanza of 200 bytes every 20 ms each, alone or beside 1,000
clients that send a byte a second and come to the end of nothing: of the first record of
TLS, the HTTP request, the first frame, or an element before the login. Those that
xmppgate disconnects, as it does after 10 seconds or more, come again. Production
settings, nothing pinned; xmppgate has real-time priority and the generator a higher
one.`, runSlowloris, false},
	{"churn", "An hour of coming and going", `150 sessions a second log in, exchange four stanzas and go, each in one of ten
ways: RST, FIN, WebSocket close, <close/>, half a frame, half a request, silence,
and the server's end tag, FIN and RST. 500 sessions stay: one half talks every ten
seconds, the other only answers pings. Production settings, nothing pinned. Each
minute has one sample, all of them in churn.csv.`, runChurn, true},
	{"crowd", "A hundred thousand sessions", `Logged in and quiet, in several gateways because a process may have no more than
20,000 descriptors here; each has a generator of its own, which is both ends.
Production settings: pings after 30 seconds of silence, all of which are
answered. Resident memory as it is in the end, over that of the same process
before its first session; the spread is over the processes.`, runCrowd, true},
	{"half-million", "Half a million sessions", `As above, with pings after two minutes: gateways, servers and clients share two
processors. Memory of the kernel is what its slabs hold, of clients and servers as well;
memory that is not available any more is all of it, also that of the generators.`, runHalfMillion, true},
	{"scale", "What a session costs", `What [scaling](../../docs/scaling.md) reckons with, beside the above. One gateway with 5,000
sessions and production settings, not pinned, for memory and pings; its clients answer pings
at once. The two system calls are one write and one read of as many bytes, by a program that
does nothing else. Logins are complete, from the connection to the first presence, on one
processor; those over TLS have a full handshake each, and a HAProxy that does not count
speaks TLS for the generator.`, runScale, false},
	{"listing", "Looking at 9,000 sessions", `One gateway with 9,000 sessions that have logged in. A stanza goes from a client to
its server every millisecond, each time of another session, while others ask the
admin endpoints without a pause. Production settings, nothing pinned: generator,
clients and gateway share two processors, so a stanza also waits for those.`, runListing, true},
}

const (
	serverText = `One server, reached in five ways: through xmppgate to its TCP port, by its own
WebSocket, through nginx to that, and by clients of TCP, through HAProxy and with
nothing in between. CPU is that of the server and the proxy together. 20 pairs send 200 bytes, with 16
messages in flight each, or 1,000 a second in all; 4 pairs the large ones. No
archive, no rate limits, anonymous logins; nothing is pinned.`

	idleText = `A new server for each way, with nothing but idle sessions; resident memory of
server and proxy together. What a server's garbage collector keeps is part of
the figure.`
)
