-- Takes client connections from this machine for encrypted, so that they may
-- log in where c2s_require_encryption is set: bytes on loopback cross no wire.
-- Anybody with a shell here can connect that way, and still needs a password.

local function loopback(ip)
	return ip and (ip:match("^127%.") or ip == "::1" or ip:match("^::ffff:127%.")) and true;
end

local function concerns(session)
	return session.type == "c2s_unauthed" and loopback(session.ip);
end

-- Before mod_saslauth and mod_tls decide what to offer (they run at 0).
module:hook("stream-features", function (event)
	if concerns(event.origin) then
		event.origin.secure = true;
	end
end, 1000);

-- After them: what is not needed must not be called required.
module:hook("stream-features", function (event)
	if concerns(event.origin) then
		event.features:remove_children("starttls", "urn:ietf:params:xml:ns:xmpp-tls");
	end
end, -1000);
