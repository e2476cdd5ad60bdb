package framing

import (
	"bytes"
	"strconv"
)

// A rule says what becomes of one child of <stream:features/>.
type rule struct {
	local, space string

	// edit appends what stands in the place of the child. Nil cuts the child.
	edit func(d *Down, dst []byte, e element) []byte
}

// rules lists the features that cannot cross the gateway as they are. To
// remove one more, add a row; to change one, write an edit function.
// Everything else is passed on byte for byte.
var rules = [...]rule{
	// TLS is the WebSocket's business (RFC 7395, section 3.9).
	{"starttls", nsTLS, nil},
	// The gateway could not read compressed streams (XEP-0138).
	{"compression", nsCompressFeature, nil},
	// The gateway's limit holds if it is the lower one (XEP-0478).
	{"limits", nsLimits, lowerMaxBytes},
}

// saslLists are the features that contain SASL mechanisms.
var saslLists = [...]name{
	{"mechanisms", nsSASL},      // RFC 6120, section 6.4.1
	{"authentication", nsSASL2}, // XEP-0388
}

// AppendFeatures appends to dst the message for u, which must be of Class
// Features, with the features removed or changed that cannot cross the
// gateway (RFC 7395, section 3.9; XEP-0138; XEP-0478). All other bytes are as
// AppendHead gives them.
func (d *Down) AppendFeatures(dst []byte, u Unit) []byte {
	dst, _ = d.AppendHead(dst, u)
	kept := u.nameEnd
	for e := range d.tree(u).children() {
		for _, r := range rules {
			if !e.is(r.local, r.space) {
				continue
			}
			dst = append(dst, u.Raw[kept:e.start]...)
			if r.edit != nil {
				dst = r.edit(d, dst, e)
			}
			kept = e.end
			break
		}
	}
	return append(dst, u.Raw[kept:]...)
}

// OffersSASL reports whether u, which must be of Class Features, lists SASL
// mechanisms of either profile (RFC 6120, section 6.4.1; XEP-0388). A server
// does so until the client is authenticated.
func (d *Down) OffersSASL(u Unit) bool { return d.offers(u, saslLists[:]...) }

// OffersSTARTTLS reports whether u, which must be of Class Features, offers TLS
// (RFC 6120, section 5.4.1).
func (d *Down) OffersSTARTTLS(u Unit) bool { return d.offers(u, name{"starttls", nsTLS}) }

// offers reports whether one of the names is that of a child of u.
func (d *Down) offers(u Unit, names ...name) bool {
	for e := range d.tree(u).children() {
		for _, n := range names {
			if e.is(n.local, n.space) {
				return true
			}
		}
	}
	return false
}

// lowerMaxBytes edits <limits/>: a max-bytes above the gateway's own limit is
// replaced by that, digit for digit.
func lowerMaxBytes(d *Down, dst []byte, e element) []byte {
	kept := e.start
	for c := range e.children() {
		if d.MaxStanza <= 0 || !c.is("max-bytes", nsLimits) {
			continue
		}
		number := bytes.Trim(c.raw[c.content:c.contentEnd], " \t\r\n")
		if !digits(number) {
			continue
		}
		// Digits fail to parse only if there are too many of them.
		if v, err := strconv.ParseInt(string(number), 10, 64); err == nil && v <= int64(d.MaxStanza) {
			continue
		}
		start := c.content + bytes.Index(c.raw[c.content:], number)
		dst = append(dst, e.raw[kept:start]...)
		dst = strconv.AppendInt(dst, int64(d.MaxStanza), 10)
		kept = start + len(number)
	}
	return append(dst, e.raw[kept:e.end]...)
}
