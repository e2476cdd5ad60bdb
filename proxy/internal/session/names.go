package session

import "xmppgate/proxy/internal/relay"

// Short names for what every line here is about.
const (
	client = relay.Client
	server = relay.Server
)

type side = relay.Side

// feeds is the direction of what is written to sd.
func feeds(sd side) direction {
	if sd == server {
		return toServer
	}
	return toClient
}
