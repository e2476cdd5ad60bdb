package deflate

import "testing"

// What offers come to. An empty answer declines all of them.
//
// Behaviour: compression-negotiation. RFC 7692, sections 5 and 7.1; RFC 6455, section
// 9.1.
func TestNegotiate(t *testing.T) {
	const (
		plain = "permessage-deflate; client_no_context_takeover"
		small = "permessage-deflate; client_max_window_bits=12"
	)
	for _, c := range []struct {
		offers []string
		answer string
		bits   int
	}{
		{nil, "", 0},
		{[]string{""}, "", 0},
		{[]string{"permessage-deflate"}, plain, 15},
		{[]string{"permessage-deflate; client_max_window_bits"}, small, 15},
		{[]string{"permessage-deflate; client_max_window_bits=8"}, plain, 15},
		{[]string{"permessage-deflate; client_max_window_bits=9"}, "permessage-deflate; client_max_window_bits=9", 15},
		{[]string{"permessage-deflate; client_max_window_bits=15"}, small, 15},
		{[]string{"permessage-deflate; client_max_window_bits; server_max_window_bits=8; server_no_context_takeover"}, small + "; server_no_context_takeover; server_max_window_bits=8", 8},
		{[]string{"permessage-deflate;client_max_window_bits=15;client_no_context_takeover"}, plain, 15},
		{[]string{"permessage-deflate; server_no_context_takeover"}, plain + "; server_no_context_takeover", 15},
		{[]string{"permessage-deflate; server_max_window_bits=8"}, plain + "; server_max_window_bits=8", 8},
		{[]string{"permessage-deflate; server_max_window_bits=9"}, plain + "; server_max_window_bits=9", 9},
		{[]string{"permessage-deflate; server_max_window_bits=15"}, plain + "; server_max_window_bits=15", 15},
		{[]string{`permessage-deflate; server_max_window_bits="1\0"`}, plain + "; server_max_window_bits=10", 10},
		{[]string{"permessage-deflate; server_max_window_bits=10; client_max_window_bits; server_no_context_takeover; client_no_context_takeover"}, plain + "; server_no_context_takeover; server_max_window_bits=10", 10},
		{[]string{"\tpermessage-deflate ;\tserver_max_window_bits = 12 \t"}, plain + "; server_max_window_bits=12", 12},
		{[]string{",, permessage-deflate,,"}, plain, 15},
		// The first one that is acceptable counts, whatever comes before and behind.
		{[]string{"permessage-bzip2, permessage-deflate; server_max_window_bits=9, permessage-deflate"}, plain + "; server_max_window_bits=9", 9},
		{[]string{"permessage-deflate; x, permessage-deflate; server_max_window_bits=7, permessage-deflate; client_max_window_bits"}, small, 15},
		{[]string{"permessage-deflate; x", "permessage-deflate"}, plain, 15},
		{[]string{`foo; bar="permessage-deflate"`}, "", 0}, // quoted: a value
		{[]string{`foo; bar=baz`, "permessage-deflate"}, plain, 15},

		// Unknown, invalid or repeated parameters.
		{[]string{"permessage-deflate; level=9"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=7"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=16"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=08"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=010"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=+9"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=99999999999999999999"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits=7"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits=16"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits=x"}, "", 0},
		{[]string{"permessage-deflate; server_no_context_takeover=true"}, "", 0},
		{[]string{"permessage-deflate; client_no_context_takeover=1"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits; client_max_window_bits"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits; client_max_window_bits=10"}, "", 0},
		{[]string{"permessage-deflate; server_no_context_takeover; server_no_context_takeover"}, "", 0},
		{[]string{"permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"}, "", 0},
		{[]string{"permessage-deflate; Server_No_Context_Takeover"}, "", 0},
		{[]string{"PerMessage-Deflate"}, "", 0},
		{[]string{"permessage-deflate2"}, "", 0},

		// Malformed lists.
		{[]string{"permessage-deflate;"}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits="}, "", 0},
		{[]string{"permessage-deflate; client_max_window_bits=, permessage-deflate"}, "", 0},
		{[]string{`permessage-deflate; client_max_window_bits=""`}, "", 0},
		{[]string{`permessage-deflate; client_max_window_bits="`}, "", 0},
		{[]string{`permessage-deflate; client_max_window_bits="9\`}, "", 0},
		{[]string{`permessage-deflate; client_max_window_bits="9 "`}, "", 0},
		{[]string{"permessage-deflate client_max_window_bits"}, "", 0},
		{[]string{"foo permessage-deflate"}, "", 0},
		{[]string{"; permessage-deflate"}, "", 0},
		{[]string{"permessage-deflate; =9"}, "", 0},
		{[]string{"permessage-deflate, ="}, "", 0},
		{[]string{"permessage-deflate", "\"x\""}, "", 0},
		{[]string{"permessage-deflate\x00"}, "", 0},
	} {
		p, ok := Negotiate(c.offers)
		switch {
		case ok != (c.answer != ""):
			t.Errorf("%q: accepted %t", c.offers, ok)
		case ok && (p.String() != c.answer || p.WindowBits != c.bits):
			t.Errorf("%q: got %s with %d bits, want %s with %d", c.offers, p, p.WindowBits, c.answer, c.bits)
		}
	}
}

// A list costs no more than its length, and a long one is declined.
func TestNegotiateBounded(t *testing.T) {
	var offers, params string
	for range 2000 {
		offers += "permessage-deflate; x,"
		params += ";x"
	}
	for _, list := range []string{offers + "permessage-deflate", "permessage-deflate" + params + ", permessage-deflate"} {
		if _, ok := Negotiate([]string{list}); ok {
			t.Errorf("%d bytes are accepted", len(list))
		}
	}
}
