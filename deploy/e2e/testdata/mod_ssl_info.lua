-- Gives connections the method ssl_info, which Prosody 0.12.3 lacks and mod_sasl2 of Debian 12 calls as soon as there is
-- TLS: the two packages are not of the same age.
module:hook("stream-features", function(event)
	local conn = event.origin.conn;
	if conn and not conn.ssl_info then
		getmetatable(conn).__index.ssl_info = function(self)
			return self.conn.info and self.conn:info();
		end
	end
end, 1000);
