-- xmppgate in front of a Prosody that serves other clients on port 5222 too. The
-- gateway gets along without these lines; they save the cost of TLS on loopback.
-- Copy mod_loopback_secure.lua to a directory of your choice and merge them into
-- prosody.cfg.lua: add to the lists that are there, and put the rest in front of
-- the first VirtualHost. XMPPGATE_UPSTREAM stays tcp://127.0.0.1:5222.

plugin_paths = { "/etc/prosody/modules" }  -- where mod_loopback_secure.lua lies

modules_enabled = {
  -- … what is there already, and:
  "loopback_secure",             -- the gateway needs no <starttls/> on loopback
  "smacks",                      -- clients resume after a lost connection
}

-- Prosody's default waits for acknowledgements before it writes on, which adds
-- up to 40 ms to a stanza.
network_settings = { nagle = false }

c2s_require_encryption = true    -- stays as it is, for everybody else

-- Prosody sees every WebSocket client at 127.0.0.1. Limits and bans by address
-- (fail2ban, mod_register_limits) belong in front of the gateway, unless the
-- community module mod_net_proxy tells it better: docs/client-address.md.
