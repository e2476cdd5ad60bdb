package clientaddr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

// A Header is a parsed PROXY header.
type Header struct {
	// Local reports that the header has no client: the connection is the
	// proxy's own, such as a health check (LOCAL), or the proxy does not know
	// the client (UNKNOWN, UNSPEC). The addresses of the socket apply.
	Local bool

	// Source and Destination are the client's and the proxy's end of the
	// client's connection. They are invalid if Local is set or if the client
	// used a Unix socket.
	Source, Destination netip.AddrPort

	// Secure reports whether the client used TLS. Only version 2 can say so.
	Secure bool

	// TLS is the version, as in package crypto/tls, or zero if the header does not
	// say.
	TLS uint16
}

// MaxHeader is the length of the longest accepted header in bytes: 16 bytes and
// 4 KiB, which is enough for the extra fields of load balancers and for a client's
// certificate.
const MaxHeader = 16 + 4<<10

// maxLine is the length of the longest header of version 1 (section 2.1).
const maxLine = 107

// ErrNoHeader means that the bytes do not start a PROXY header.
var ErrNoHeader = errors.New("no PROXY header")

// Errors of ParseHeader. They do not quote the header.
var (
	errLine     = errors.New("bad PROXY header, version 1")
	errTooLong  = errors.New("PROXY header too long")
	errCommand  = errors.New("bad command in PROXY header")
	errFamily   = errors.New("bad address family in PROXY header")
	errShort    = errors.New("PROXY header too short for its addresses")
	errExtra    = errors.New("bad extra field in PROXY header")
	errChecksum = errors.New("bad checksum in PROXY header")
)

// Signature1 and Signature2 are the first bytes of headers of versions 1 and 2.
const (
	Signature1 = "PROXY "
	Signature2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// ParseHeader parses the PROXY header at the start of b and returns its length n
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt). If n is 0 and err is
// nil it needs more bytes, [MaxHeader] in all at most. After an error the connection
// cannot be used, because the end of the header is not known. h does not refer to b.
//
// The tests compare this function with the library go-proxyproto. The library is not
// used here because it reads from a connection and cannot report that a header is
// incomplete, has limits that any package can set, ignores checksums, and refuses
// UNSPEC, with which a proxy says that it does not know the client.
func ParseHeader(b []byte) (h Header, n int, err error) {
	switch {
	case startsWith(b, Signature1):
		return parseLine(b)
	case startsWith(b, Signature2):
		return parseBinary(b)
	}
	return Header{}, 0, ErrNoHeader
}

// startsWith reports whether b starts with s, as far as it goes.
func startsWith(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

// protocols are those of version 1, with the length of their addresses.
var protocols = map[string]int{"TCP4": 32, "TCP6": 128}

// parseLine parses version 1 (section 2.1): one line, one space between words.
func parseLine(b []byte) (h Header, n int, err error) {
	n = bytes.IndexByte(b[:min(len(b), maxLine)], '\n') + 1
	if n == 0 && len(b) < maxLine {
		return Header{}, 0, nil
	}
	line, ok := strings.CutSuffix(string(b[:n]), "\r\n")
	if !ok {
		return Header{}, 0, errLine
	}
	words := strings.Split(line, " ")
	if words[1] == "UNKNOWN" { // whatever follows
		return Header{Local: true}, n, nil
	}
	bits := protocols[words[1]]
	if bits == 0 || len(words) != 6 {
		return Header{}, 0, errLine
	}
	source, ok1 := parseEnd(bits, words[2], words[4])
	destination, ok2 := parseEnd(bits, words[3], words[5])
	if !ok1 || !ok2 {
		return Header{}, 0, errLine
	}
	return Header{Source: source, Destination: destination}, n, nil
}

// parseEnd parses one end of a connection.
func parseEnd(bits int, address, port string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(address)
	if err != nil || a.BitLen() != bits || a.Zone() != "" || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), err == nil
}

// Commands of version 2, with the version (section 2.2).
const (
	commandLocal = 0x20
	commandProxy = 0x21
)

// families lists the families of version 2 that come over a stream, with the
// length of one address. There are two of them and, if they are IP addresses,
// two ports. Datagrams would not be XMPP.
var families = [...]struct {
	code    byte
	address int
	ports   int
}{
	{0x00, 0, 0},   // UNSPEC
	{0x11, 4, 2},   // IPv4
	{0x21, 16, 2},  // IPv6
	{0x31, 108, 0}, // Unix
}

// parseBinary parses version 2 (section 2.2).
func parseBinary(b []byte) (h Header, n int, err error) {
	const fixed = len(Signature2) + 4
	if len(b) < fixed {
		return Header{}, 0, nil
	}
	command, family := b[len(Signature2)], b[len(Signature2)+1]
	n = fixed + int(binary.BigEndian.Uint16(b[fixed-2:]))
	switch {
	case command != commandLocal && command != commandProxy:
		return Header{}, 0, errCommand
	case n > MaxHeader:
		return Header{}, 0, errTooLong
	case len(b) < n:
		return Header{}, 0, nil
	case command == commandLocal: // whatever follows
		return Header{Local: true}, n, nil
	}
	b = b[:n]
	for _, f := range families {
		if f.code != family {
			continue
		}
		rest := b[fixed:]
		if len(rest) < 2*(f.address+f.ports) {
			return Header{}, 0, errShort
		}
		h.Local = f.address == 0
		if f.ports > 0 {
			ports := rest[2*f.address:]
			h.Source = end(rest[:f.address], ports)
			h.Destination = end(rest[f.address:2*f.address], ports[f.ports:])
		}
		if h.Secure, h.TLS, err = parseExtra(b, fixed+2*(f.address+f.ports)); err != nil {
			return Header{}, 0, err
		}
		return h, n, nil
	}
	return Header{}, 0, errFamily
}

// end returns the address of 4 or 16 bytes with the port that ports starts with.
func end(address, ports []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(address)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(ports))
}

// Types of extra fields (section 2.2.1 ff.); all others are passed over.
const (
	typeChecksum = 0x03
	typeTLS      = 0x20

	typeTLSVersion = 0x21 // inside of typeTLS
)

// tlsVersions are the values of typeTLSVersion, as OpenSSL names them.
var tlsVersions = map[string]uint16{"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

// tlsVersion finds the version in the fields inside of typeTLS. It is zero if there is
// none, or none that is known.
func tlsVersion(b []byte) uint16 {
	for len(b) >= 3 {
		n := int(binary.BigEndian.Uint16(b[1:]))
		if len(b) < 3+n {
			break
		}
		if b[0] == typeTLSVersion {
			return tlsVersions[string(b[3:3+n])]
		}
		b = b[3+n:]
	}
	return 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseExtra parses the extra fields of the header b, from the position given
// on: a byte for the type, two for the length of what follows.
//
// There may be one checksum: it is that of the whole header, and a header of fields
// that are checksums, each of them right, would be summed up hundreds of times.
func parseExtra(b []byte, at int) (secure bool, version uint16, err error) {
	checked := false
	for at < len(b) {
		start := at + 3
		if start > len(b) {
			return false, 0, errExtra
		}
		end := start + int(binary.BigEndian.Uint16(b[at+1:]))
		if end > len(b) {
			return false, 0, errExtra
		}
		switch value := b[start:end]; b[at] {
		case typeTLS: // a byte of flags, four for the certificate, more fields
			if len(value) < 5 {
				return false, 0, errExtra
			}
			if secure = value[0]&1 != 0; secure {
				version = tlsVersion(value[5:])
			}
		case typeChecksum:
			if len(value) != crc32.Size || checked {
				return false, 0, errExtra
			}
			checked = true
			// It is that of the header with zeros in its own place.
			sum := crc32.Update(0, castagnoli, b[:start])
			sum = crc32.Update(sum, castagnoli, make([]byte, crc32.Size))
			sum = crc32.Update(sum, castagnoli, b[end:])
			if sum != binary.BigEndian.Uint32(value) {
				return false, 0, errChecksum
			}
		}
		at = end
	}
	return secure, version, nil
}
