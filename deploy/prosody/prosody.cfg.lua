-- A Prosody that only xmppgate talks to, on loopback: for deploy/compose.yaml,
-- for a pod, and as a complete example. To add xmppgate to a Prosody that has
-- clients of its own, see existing.cfg.lua.

interfaces = { "127.0.0.1" }     -- the gateway is next door; nobody else gets in
c2s_ports = { 5222 }
c2s_direct_tls_ports = { }

-- TLS ends in front of the gateway. Prosody would otherwise insist on
-- <starttls/>, which WebSocket clients can't use (RFC 7395, section 3.9).
-- Passwords still don't cross in plain text: SCRAM is all that is offered.
c2s_require_encryption = false

-- Prosody's default waits for acknowledgements before it writes on, which adds
-- up to 40 ms to a stanza.
network_settings = { nagle = false }

modules_enabled = {
  "roster", "saslauth", "disco", "ping", "carbons", "mam", "pep", "vcard4",
  "blocklist", "bookmarks", "offline", "csi_simple", "posix",
  "smacks",                      -- clients resume after a lost connection
}
modules_disabled = { "s2s", "tls" }
-- "limits" is left out: its default of 10 kB/s suits people, not benchmarks.

authentication = "internal_hashed"
log = { info = "*console" }

VirtualHost "localhost"
