package session

import (
	"net/netip"
	"strconv"
)

// RemoteName is how a client's address is written in logs: empty for a Unix socket,
// which has none.
func RemoteName(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// maxQuoted is how much of a peer's text a line of the log has, in bytes.
const maxQuoted = 128

// quoted makes text of a peer fit for the log: printable ASCII, not long.
func quoted(text []byte) string {
	end := ""
	if len(text) > maxQuoted {
		text, end = text[:maxQuoted], "…"
	}
	s := strconv.QuoteToASCII(string(text))
	return s[1:len(s)-1] + end
}
