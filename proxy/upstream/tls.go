package upstream

import (
	"crypto/tls"
	"sync"
)

// maxTLSConfigs bounds how many identities of one server are remembered.
// Clients choose them where there is no list of domains.
const maxTLSConfigs = 1024

// tlsConfigs are the configurations of one server, one for each identity, for
// they hold the session tickets. The zero value is empty.
type tlsConfigs struct {
	mu     sync.Mutex
	byName map[tlsKey]*tls.Config
}

// A tlsKey is what a certificate has to prove.
type tlsKey struct {
	identity string
	security security // for the SRV-ID; and ALPN is for direct TLS only
}
