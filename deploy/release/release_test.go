package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
	t.Run("image", func(t *testing.T) { testImage(t, a) })
	t.Run("bill of materials", func(t *testing.T) { testSBOM(t, a) })
	t.Run("provenance", func(t *testing.T) { testProvenance(t, a) })
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
	shell(t, `cd "$1"; `+documented(t, a, "sha256sum"), a.Out)
	for _, suffix := range []string{"amd64\n", ".deb\n", ".rpm\n", ".apk\n", "-image.tar\n", ".cdx.json\n", ".provenance.json\n", "NOTES.md\n"} {
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

// documented returns the command of docs/install.md that begins so, about this release.
func documented(t *testing.T, r *release, prefix string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, prefix) {
			return strings.ReplaceAll(strings.TrimSpace(line), "VERSION", r.Version)
		}
	}
	t.Fatalf("docs/install.md has no command %s", prefix)
	return ""
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
	// apk runs other scripts than the others, by these names.
	for _, name := range []string{".post-install", ".post-upgrade", ".pre-deinstall", ".post-deinstall"} {
		if !strings.Contains(lists["apk"], name+"\n") {
			t.Errorf("the .apk has no %s:\n%s", name, lists["apk"])
		}
		shell(t, `tar -xzOf "$1" "$2" 2>/dev/null | busybox sh -n`, r.packageFile(amd64, "apk"), name)
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

// The version is that of cmd/xmppgate/VERSION and of the tag, in the form that packages
// sort. deploy/image.sh has the same one, unless its files are not those of the commit.
func TestVersion(t *testing.T) {
	for _, test := range []struct {
		next string
		tags []string
		want string
	}{
		{"0.1.0", nil, "0.1.0-pre20260102030405"},
		{"0.1.0", []string{"v0.1.0"}, "0.1.0"},
		{"0.1.0", []string{"v0.1.0", "nightly"}, "0.1.0"},
		{"0.1.0", []string{"v0.2.0"}, ""},
		{"0.1.0", []string{"v0.1.0", "v0.2.0"}, ""},
		{"v0.1", nil, ""},
		{"0.1.0\n0.2.0", nil, ""},
		{"", []string{"v0.1.0"}, ""},
	} {
		root := t.TempDir()
		shell(t, `mkdir -p "$1/deploy" "$1/cmd/xmppgate" "$1/bin"; cp ../version.sh ../image.sh "$1/deploy"
			printf '%s\n' "$2" >"$1/cmd/xmppgate/VERSION"; echo 'module example.org/x' >"$1/go.mod"
			for tool in docker podman; do printf '#!/bin/sh\nexit 1\n' >"$1/bin/$tool"; done
			printf '#!/bin/sh\necho "$@"\n' >"$1/bin/buildah"; chmod +x "$1/bin/"*
			cd "$1"; git init -q; git add .
			GIT_COMMITTER_DATE=2026-01-02T04:04:05+0100 git -c user.name=x -c user.email=x commit -qm x`, root, test.next)
		for _, tag := range test.tags {
			shell(t, `git -C "$1" tag "$2"`, root, tag)
		}
		if got, err := version(root); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("version of %q with the tags %q = %q, %v, want %q", test.next, test.tags, got, err, test.want)
		}
		if test.want == "" {
			continue
		}
		image := func() string {
			return shell(t, `cd "$1"; PATH=$1/bin:$PATH VERSION= REVISION= SOURCE= deploy/image.sh`, root)
		}
		if got := image(); !strings.Contains(got, "VERSION=v"+test.want+" ") || !strings.Contains(got, "SOURCE=https://example.org/x ") {
			t.Errorf("the image of %q: %s", test.want, got)
		}
		shell(t, `echo >>"$1/go.mod"`, root)
		if got := image(); !strings.Contains(got, "VERSION=v"+test.next+"-devel ") {
			t.Errorf("the image of changed files: %s", got)
		}
		shell(t, `rm -r "$1/.git"`, root)
		if got := image(); !strings.Contains(got, "VERSION=v"+test.next+"-devel ") || !strings.Contains(got, "REVISION=unknown ") {
			t.Errorf("the image of an unpacked archive: %s", got)
		}
	}
}

func TestNotes(t *testing.T) {
	const log = "# Changelog\n\n## Unreleased\n\n- [new](docs/new.md#a), [RFC](https://example.org/rfc)\n\n## 0.1.0 (2026-01-02)\n\n### Highlights\n\n- old\n\n## 0.1.0.1\n"
	for version, want := range map[string]string{
		"0.1.0":                   "# xmppgate 0.1.0\n\n### Highlights\n\n- old\n",
		"0.1.0-pre20260102030405": "# xmppgate 0.1.0-pre20260102030405\n\n- new, [RFC](https://example.org/rfc)\n",
		"0.2.0":                   "",
	} {
		if got, err := notesOf(log, version); got != want || (err == nil) != (want != "") {
			t.Errorf("notesOf(%s) = %q, %v, want %q", version, got, err, want)
		}
	}
}
