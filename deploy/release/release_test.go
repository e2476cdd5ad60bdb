package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// built is a release of linux/amd64 alone.
func built(t *testing.T) *release {
	t.Helper()
	all := targets
	targets = []target{{"linux", "amd64"}}
	t.Cleanup(func() { targets = all })
	r, err := open("../..", t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if err := s.run(r); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	return r
}

// What is built of a commit twice.
func TestRelease(t *testing.T) {
	a, b := built(t), built(t)
	t.Run("bytes", func(t *testing.T) { testReproducible(t, a, b) })
	t.Run("contents", func(t *testing.T) { testContents(t, a) })
}

// Two builds, in different directories and at different times, have the same bytes.
func testReproducible(t *testing.T, a, b *release) {
	sums := func(r *release) string {
		text, err := os.ReadFile(filepath.Join(r.Out, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got, want := sums(b), sums(a); got != want {
		t.Errorf("the second time\n%s\nthe first time\n%s", got, want)
	}
	for _, suffix := range []string{"amd64\n", ".deb\n", ".rpm\n", ".apk\n", "NOTES.md\n"} {
		if !strings.Contains(sums(a), suffix) {
			t.Errorf("no checksum of a file that ends with %q:\n%s", suffix, sums(a))
		}
	}
}

// shell runs a script and returns what it prints.
func shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-ec", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// Every format has the same files, and one of them is kept by upgrades.
func testContents(t *testing.T, r *release) {
	amd64 := targets[0]
	lists := map[string]string{
		"deb": shell(t, `dpkg-deb -c "$1"`, r.packageFile(amd64, "deb")),
		"rpm": shell(t, `rpm -qlp "$1"`, r.packageFile(amd64, "rpm")),
		"apk": shell(t, `tar -tzf "$1" 2>/dev/null`, r.packageFile(amd64, "apk")),
	}
	paths := []string{"/usr/bin/xmppgate", configFile, "/usr/lib/systemd/system/xmppgate.service", "/usr/lib/systemd/system/xmppgate.socket", "/usr/share/doc/xmppgate/copyright"}
	for _, g := range generated {
		paths = append(paths, g.path)
	}
	for format, list := range lists {
		for _, path := range paths {
			if !strings.Contains(list, path[1:]+"\n") {
				t.Errorf("%s has no %s:\n%s", format, path, list)
			}
		}
	}
	if got := shell(t, `dpkg-deb --ctrl-tarfile "$1" | tar -xO ./conffiles`, r.packageFile(amd64, "deb")); strings.TrimSpace(got) != configFile {
		t.Errorf("conffiles of the .deb: %q", got)
	}
	if got := shell(t, `rpm -qcp "$1"`, r.packageFile(amd64, "rpm")); strings.TrimSpace(got) != configFile {
		t.Errorf("configuration of the .rpm: %q", got)
	}
	if got := shell(t, `rpm -qp --qf '[%{FILENAMES} %{FILEFLAGS:fflags}\n]' "$1"`, r.packageFile(amd64, "rpm")); !strings.Contains(got, configFile+" cn\n") {
		t.Errorf("an upgrade of the .rpm replaces the configuration: %s", got)
	}
	if got := shell(t, `tar -xzOf "$1" .PKGINFO 2>/dev/null`, r.packageFile(amd64, "apk")); !strings.Contains(got, "pkgver = 0.1.0") {
		t.Errorf(".PKGINFO of the .apk: %s", got)
	}
}

// The unit of the packages is the one of deploy/systemd, and systemd takes it.
func TestUnit(t *testing.T) {
	r := &release{Source: "../.."}
	unit, err := r.unit()
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{"/usr/local", "/etc/default", "DynamicUser"} {
		if bytes.Contains(unit, []byte(wrong)) {
			t.Errorf("the unit has %s", wrong)
		}
	}
	root := t.TempDir()
	shell(t, `mkdir -p "$1/usr/bin" && printf '#!/bin/sh\n' >"$1/usr/bin/xmppgate" && chmod 755 "$1/usr/bin/xmppgate"`, root)
	local := strings.ReplaceAll(string(unit), "=/usr/bin/", "="+root+"/usr/bin/")
	if err := os.WriteFile(filepath.Join(root, "xmppgate.service"), []byte(local), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := shell(t, `systemd-analyze verify --man=no "$1/xmppgate.service" 2>&1`, root); strings.Contains(out, "xmppgate.service:") {
		t.Error(out)
	}
}

func TestVersion(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct{ next, tags, want string }{
		{"0.1.0", "", "0.1.0-pre20260102030405"},
		{"0.1.0", "v0.1.0", "0.1.0"},
		{"0.1.0", "v0.2.0", ""},
		{"0.1.0", "v0.1.0\nv0.2.0", ""},
		{"v0.1", "", ""},
		{"", "v0.1.0", ""},
	} {
		if got, err := version(test.next, test.tags, at); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("version(%q, %q) = %q, %v, want %q", test.next, test.tags, got, err, test.want)
		}
	}
}

func TestNotes(t *testing.T) {
	const log = "# Changelog\n\n## Unreleased\n\n- new\n\n## 0.1.0 (2026-01-02)\n\n### Highlights\n\n- old\n\n## 0.1.0.1\n"
	for version, want := range map[string]string{
		"0.1.0":                   "# xmppgate 0.1.0\n\n### Highlights\n\n- old\n",
		"0.1.0-pre20260102030405": "# xmppgate 0.1.0-pre20260102030405\n\n- new\n",
		"0.2.0":                   "",
	} {
		if got, err := notesOf(log, version); got != want || (err == nil) != (want != "") {
			t.Errorf("notesOf(%s) = %q, %v, want %q", version, got, err, want)
		}
	}
}
