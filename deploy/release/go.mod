module xmppgate/deploy/release

go 1.26.4
