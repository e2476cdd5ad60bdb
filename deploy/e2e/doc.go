// Package e2e holds the end-to-end tests of xmppgate: real XMPP servers (Prosody and ejabberd, one process each), real
// clients (strophe.js, xmpp.js, stanza, nbxmpp, mellium, Smack, Converse.js in Chromium), and a small Go client that sees every byte.
//
// It is a module of its own, so that nothing here reaches the product's go.mod.
//
//	./setup.sh        # installs what is missing: servers, browser, npm packages
//	go test ./...     # builds the gateway from the repository root and runs everything
//
// Environment:
//
//	E2E_RACE=1    builds the gateway with the race detector
//	E2E_LOOP=...  becomes XMPPGATE_LOOP: goroutine runs everything on the loop of other systems than Linux
//	E2E_NATIVE=1  sends the clients to the servers' own WebSocket endpoints instead of the gateway: a way to tell a
//	              fault of the gateway from one of a server or a test. Tests of the gateway itself are skipped then,
//	              and ejabberd 23.01 fails two: it passes on unbound prefixes, and stalls some resumptions.
//	E2E_GATEWAY=PATH  is the gateway to test, instead of one that is built from the repository
//	E2E_KEEP=1    keeps the temporary directory with the configurations and logs
package e2e
