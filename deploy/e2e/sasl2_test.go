package e2e

import "testing"

// SASL2 with Bind2, XEP-0388 and XEP-0386: no second stream after the login. xmpp.js logs in with both, loses its
// connection, logs in again and talks, by every way to Prosody. FAST and inline resumption (sasl2_fast and sasl2_sm of
// prosody-modules) need a newer Prosody than Debian 12 has.
func TestSASL2(t *testing.T) {
	needGateway(t)
	t.Parallel()
	var cells []cell
	for _, s := range servers {
		if s.name != "prosody" {
			continue // ejabberd 23.01 does not know it
		}
		from := s.proc.log.len()
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of %s:\n%s", s.name, s.proc.log.tail(from))
			}
		})
		for _, r := range s.routes() {
			if r.domain != domain {
				continue
			}
			g := gatewayFor(t, r.upstream)
			cells = append(cells, cell{s.name + "/" + r.name, g.url(), sasl2Domain, s.newUser(t, "sasl2"), password})
		}
	}
	if len(cells) < 3 {
		t.Fatalf("%d ways to Prosody", len(cells))
	}
	failed := runCells(t, "sasl2", cells)
	for _, c := range cells {
		if err, ran := failed[c.Name]; !ran || err != "" {
			t.Errorf("%s: ran: %v; %s", c.Name, ran, err)
		}
	}
}
