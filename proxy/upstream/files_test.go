package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A secretDir is a directory as Kubernetes mounts it: the files are links to those
// below ..data, which is a link that is swapped.
type secretDir struct {
	t       *testing.T
	dir     string
	version int
}

func newSecretDir(t *testing.T, names ...string) *secretDir {
	d := &secretDir{t: t, dir: t.TempDir()}
	for _, name := range names {
		d.must(os.Symlink("..data/"+name, d.file(name)))
	}
	return d
}

func (d *secretDir) file(name string) string { return filepath.Join(d.dir, name) }

func (d *secretDir) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// swap puts new files in the place of all old ones.
func (d *secretDir) swap(files map[string][]byte) {
	d.t.Helper()
	d.version++
	next := "..version" + string(rune('a'+d.version))
	d.must(os.Mkdir(d.file(next), 0o755))
	for name, text := range files {
		d.must(os.WriteFile(filepath.Join(d.file(next), name), text, 0o600))
	}
	d.must(os.Symlink(next, d.file("..new")))
	d.must(os.Rename(d.file("..new"), d.file("..data")))
}

func bytesOf(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lookNow has the next connection look at the files.
func lookNow(e *endpoint) { e.options.files.checked = time.Time{} }

// Files are read again when they have changed, be they swapped or overwritten;
// what is of no use is told once, and the old ones stay in force.
func TestFilesChange(t *testing.T) {
	old, next := newAuthority(t, "Old CA", nil, nil), newAuthority(t, "Next CA", nil, nil)
	gateway := map[string]tls.Certificate{"old": old.issue(t, dnsNames("old.gateway")), "next": old.issue(t, dnsNames("next.gateway"))}
	pem := func(name string) (cert, key []byte) {
		dir := t.TempDir()
		writePEM(t, filepath.Join(dir, "c"), "CERTIFICATE", gateway[name].Certificate[0])
		der, err := x509.MarshalPKCS8PrivateKey(gateway[name].PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, filepath.Join(dir, "k"), "PRIVATE KEY", der)
		return bytesOf(t, filepath.Join(dir, "c")), bytesOf(t, filepath.Join(dir, "k"))
	}
	oldCert, oldKey := pem("old")
	nextCert, nextKey := pem("next")
	oldCA, nextCA := bytesOf(t, old.file), bytesOf(t, next.file)

	server := map[string]tls.Certificate{"old": old.issue(t, dnsNames("chat.example")), "next": next.issue(t, dnsNames("chat.example"))}
	var shown, present atomic.Value // names
	address := serve(t, func(p *peer) {
		cfg := serverConfig(server[present.Load().(string)])
		cfg.ClientAuth = tls.RequireAnyClientCert
		cfg.NextProtos = []string{alpn}
		shown.Store(p.secure(cfg).ConnectionState().PeerCertificates[0].DNSNames[0])
		p.expect(t, chatHeader)
		p.send(reply + noFeatures)
		p.drain()
	})

	d := newSecretDir(t, "ca", "cert", "key")
	d.swap(map[string][]byte{"ca": oldCA, "cert": oldCert, "key": oldKey})
	e, seen := endpointAt(t, "tls://%s?ca="+d.file("ca")+"&cert="+d.file("cert")+"&key="+d.file("key"), address)
	expect := func(step, serverCert, result, gatewayCert, told string) {
		t.Helper()
		present.Store(serverCert)
		shown.Store("")
		seen.opened = nil
		lookNow(&e)
		_, err := open(t, &e, chatRequest())
		if got := resultOf(err); got != result {
			t.Errorf("%s: %s, %v", step, got, err)
		}
		if result == ResultOK && shown.Load() != gatewayCert {
			t.Errorf("%s: the gateway shows %q", step, shown.Load())
		}
		reads := ""
		for _, event := range seen.opened {
			if text, ok := strings.CutPrefix(event, "files read: "); ok {
				reads += text
			}
		}
		if told == "" && reads != "" || !strings.Contains(reads, told) {
			t.Errorf("%s: told %q, want %q", step, reads, told)
		}
	}
	const unknown = "tls cert-unknown-ca"
	expect("at first", "old", ResultOK, "old.gateway", "")
	expect("not yet", "next", unknown, "", "")
	d.swap(map[string][]byte{"ca": nextCA, "cert": nextCert, "key": nextKey})
	expect("swapped", "next", ResultOK, "next.gateway", "<nil>")
	expect("no session of an old authority is resumed", "old", unknown, "", "")

	d.swap(map[string][]byte{"ca": []byte("nothing"), "cert": nextCert, "key": nextKey})
	expect("broken", "next", ResultOK, "next.gateway", "option ca: "+d.file("ca")+" holds no PEM certificate")
	expect("told once", "next", ResultOK, "next.gateway", "")
	d.swap(map[string][]byte{"ca": oldCA, "cert": nextCert, "key": oldKey})
	expect("the key does not fit", "next", ResultOK, "next.gateway", "options cert and key")
	d.swap(map[string][]byte{"ca": oldCA})
	expect("gone", "next", ResultOK, "next.gateway", "no such file")
	d.swap(map[string][]byte{"ca": oldCA, "cert": oldCert, "key": oldKey})
	expect("mended", "old", ResultOK, "old.gateway", "<nil>")
	expect("nothing new", "old", ResultOK, "old.gateway", "")

	// In place, as an editor or a copy does.
	d.must(os.WriteFile(d.file("ca"), append(oldCA, nextCA...), 0o600))
	expect("overwritten", "next", ResultOK, "old.gateway", "<nil>")
}

// Files are not looked at for each connection, nor by two at once.
func TestFilesAreLookedAtSometimes(t *testing.T) {
	ca := newAuthority(t, "Test CA", nil, nil)
	f := &files{ca: ca.file}
	if problems := f.first(); problems != nil {
		t.Fatal(problems)
	}
	reads := 0
	read := func(error) { reads++ }
	f.credentials(read)
	if err := os.WriteFile(ca.file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := f.current.Load()
	if f.credentials(read) != before || reads != 0 {
		t.Error("looked again at once")
	}
	f.checked = time.Now().Add(-checkInterval)
	f.mu.Lock()
	if f.credentials(read) != before || reads != 0 {
		t.Error("looked beside somebody else")
	}
	f.mu.Unlock()
	if f.credentials(read) != before || reads != 1 {
		t.Errorf("%d reads", reads)
	}
	if problems := (&files{ca: "/does/not/exist"}).first(); !errors.Is(errors.Join(problems...), os.ErrNotExist) {
		t.Errorf("%v", problems)
	}
}
