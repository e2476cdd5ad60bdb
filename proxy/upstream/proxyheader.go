package upstream

import (
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// Limits of what a PROXY header says.
const (
	// There are servers that refuse ports 0 and 65535.
	minProxyPort = 1
	maxProxyPort = 65534

	// maxAuthority bounds the domain, which clients choose. Cut short it
	// would be another one, so it is left out if it is longer.
	maxAuthority = 255

	// maxUniqueID is in the specification, section 2.2.5.
	maxUniqueID = 128
)

// noAddress stands for those of a Unix socket.
var noAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), minProxyPort)

// proxyHeader returns the PROXY header for conn, so that the server knows the
// client by its address
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//
// The command is always PROXY and the family TCP4 or TCP6: deployed servers
// hang, or fail to remove the header, when it is LOCAL or UNKNOWN. A session
// without an address, a check of health or a client on a Unix socket, comes
// from the gateway itself.
func proxyHeader(version byte, r *Request, conn net.Conn) ([]byte, error) {
	source, destination := r.Client, r.Listener
	if !source.IsValid() {
		source, destination = addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	}
	if !destination.IsValid() {
		destination = addrPort(conn.RemoteAddr())
	}
	// If one of them is IPv6 both are, with ::ffff: before IPv4.
	h := proxyproto.HeaderProxyFromAddrs(version, proxyAddr(source), proxyAddr(destination))
	if version == 2 {
		tlvs, err := proxyTLVs(r)
		if err != nil {
			return nil, err
		}
		if err := h.SetTLVs(tlvs); err != nil {
			return nil, err
		}
	}
	return h.Format()
}

// proxyTLVs returns what else version 2 can say of a session.
func proxyTLVs(r *Request) ([]proxyproto.TLV, error) {
	var tlvs []proxyproto.TLV
	if n := len(r.Domain); 0 < n && n <= maxAuthority {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(r.Domain)})
	}
	if n := len(r.ID); 0 < n && n <= maxUniqueID {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(r.ID)})
	}
	if r.Secure {
		// Verify is zero for a verified client certificate only.
		ssl := tlvparse.PP2SSL{Client: tlvparse.PP2_BITFIELD_CLIENT_SSL, Verify: 1}
		if name, ok := tlsVersionNames[r.TLS]; ok {
			ssl.TLV = []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(name)}}
		}
		tlv, err := ssl.Marshal()
		if err != nil {
			return nil, err
		}
		tlvs = append(tlvs, tlv)
	}
	return tlvs, nil
}

// tlsVersionNames are the names that OpenSSL gives, which servers expect.
var tlsVersionNames = map[uint16]string{tls.VersionTLS10: "TLSv1", tls.VersionTLS11: "TLSv1.1", tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}

// addrPort returns the address of a TCP socket, or noAddress.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return noAddress
}

func proxyAddr(a netip.AddrPort) *net.TCPAddr {
	port := min(max(a.Port(), minProxyPort), maxProxyPort)
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.Addr().Unmap(), port))
}
