package e2e

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// SASL2 with Bind2, XEP-0388 and XEP-0386: no second stream after the login. xmpp.js logs in with both, loses its
// connection, logs in again and talks, by every way to Prosody. FAST and inline resumption (sasl2_fast and sasl2_sm of
// prosody-modules) need a newer Prosody than Debian 12 has.
func TestSASL2(t *testing.T) {
	needGateway(t)
	t.Parallel()
	var cells []cell
	gateways := map[string]*gateway{} // by cell
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
			gateways[s.name+"/"+r.name] = g
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
		// Both logins are counted.
		if n, err := gateways[c.Name].sumMatching("xmppgate_logins_total", `result="success"`); err != nil || n < 2 {
			t.Errorf("%s: %v logins, %v", c.Name, n, err)
		}
	}
}

// XEP-0509: <authenticate/> in one write with <open/>, by every way to Prosody, and where the first server is down.
func TestEarlyAuthenticate(t *testing.T) {
	needGateway(t)
	t.Parallel()
	for _, s := range servers {
		if s.name != "prosody" {
			continue
		}
		for _, r := range append(s.routes(), route{"failover", "tcp://127.0.0.1:1,tcp://" + s.c2s, domain}) {
			if r.domain != domain {
				continue
			}
			t.Run(r.name, func(t *testing.T) {
				g := gatewayFor(t, r.upstream)
				c, err := dial(g.url())
				if err != nil {
					t.Fatal(err)
				}
				defer c.conn().Close()
				secret := base64.StdEncoding.EncodeToString([]byte("\x00" + s.newUser(t, "early") + "\x00" + password))
				var frames []byte
				for _, m := range []string{
					`<open xmlns="` + nsFraming + `" to="` + sasl2Domain + `" version="1.0"/>`,
					`<authenticate xmlns="urn:xmpp:sasl:2" mechanism="PLAIN"><initial-response>` + secret + `</initial-response><bind xmlns="urn:xmpp:bind:0"/></authenticate>`,
				} {
					f, err := ws.CompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(m))))
					if err != nil {
						t.Fatal(err)
					}
					frames = append(frames, f...)
				}
				if _, err := c.conn().Write(frames); err != nil {
					t.Fatal(err)
				}
				for _, want := range []string{"open", "features", "success"} {
					if e, err := c.receive(); err != nil || !e.is(want) {
						t.Fatalf("%v, %v; want %s", e, err, want)
					}
				}
				if err := g.awaitMetric(`xmppgate_logins_total{mechanism="plain",result="success"}`, 1); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// The doctor logs in both ways.
func TestDoctorSASL2(t *testing.T) {
	needGateway(t)
	t.Parallel()
	for _, s := range servers {
		if s.name != "prosody" {
			continue
		}
		g := gatewayFor(t, "tcp://"+s.c2s)
		d := examine(t, g.url(), "--jid", s.newUser(t, "doctor")+"@"+sasl2Domain, "--password-file", "-", "--idle", "0")
		if found := d.findings(); len(found) != 0 || !strings.Contains(d.text, "by SASL2 works as well") {
			t.Errorf("found %q\n%s", found, d.text)
		}
	}
}
