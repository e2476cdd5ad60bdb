module xmppgate

go 1.26.0

// Runtime.
require (
	github.com/caarlos0/env/v11 v11.4.2
	github.com/gobwas/ws v1.5.0
	github.com/prometheus/client_golang v1.25.0
	golang.org/x/net v0.62.0
)

// Tests.
require (
	go.uber.org/goleak v1.3.0
	golang.org/x/sys v0.49.0
	golang.org/x/tools v0.52.0
)

require (
	github.com/gobwas/httphead v0.1.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
