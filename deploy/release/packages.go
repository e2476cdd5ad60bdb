package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// formats are the kinds of packages, and what brings the commands of their scripts.
var formats = []struct {
	name    string
	depends []string
}{
	{"deb", []string{"passwd"}},
	{"rpm", []string{"shadow-utils"}},
	{"apk", nil}, // busybox
}

// generated are the files that the program prints about itself.
var generated = []struct {
	path string
	args []string
}{
	{"/usr/share/man/man8/xmppgate.8", []string{"man"}},
	{"/usr/share/bash-completion/completions/xmppgate", []string{"completion", "bash"}},
	{"/usr/share/fish/vendor_completions.d/xmppgate.fish", []string{"completion", "fish"}},
	{"/usr/share/zsh/vendor-completions/_xmppgate", []string{"completion", "zsh"}},
}

const configFile = "/etc/xmppgate/xmppgate.env"

// packages makes a package of each format for each Linux.
func (r *release) packages() error {
	tmp, err := os.MkdirTemp("", "packages")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	contents, err := r.contents(tmp)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.os != "linux" {
			continue
		}
		for _, f := range formats {
			if err := r.pack(t, f.name, f.depends, contents); err != nil {
				return fmt.Errorf("%s %s: %w", t, f.name, err)
			}
		}
	}
	return nil
}

// contents lists the files of a package but the binary. It writes those to tmp that
// are not in the repository as they are.
func (r *release) contents(tmp string) (list files.Contents, err error) {
	add := func(path, kind string, text []byte) {
		source := filepath.Join(tmp, filepath.Base(path)+fmt.Sprint(len(list)))
		if err == nil {
			err = os.WriteFile(source, text, 0o644)
		}
		list = append(list, &files.Content{Source: source, Destination: path, Type: kind, FileInfo: &files.ContentFileInfo{Mode: 0o644, MTime: r.Time}})
	}
	for _, g := range generated {
		c := exec.Command("go", append([]string{"run", "-tags", "nodemo", "./cmd/xmppgate"}, g.args...)...)
		c.Dir = r.Source
		text, err := c.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.path, err)
		}
		add(g.path, "", text)
	}
	unit, err2 := r.unit()
	if err2 != nil {
		return nil, err2
	}
	add("/usr/lib/systemd/system/xmppgate.service", "", unit)
	for _, f := range []struct{ path, source, kind string }{
		{"/usr/lib/systemd/system/xmppgate.socket", "deploy/systemd/xmppgate.socket", ""},
		{configFile, "deploy/release/xmppgate.env", files.TypeConfigNoReplace},
		{"/usr/share/doc/xmppgate/copyright", "LICENSE", ""},
		{"/usr/share/doc/xmppgate/CHANGELOG.md", "CHANGELOG.md", ""},
	} {
		text, err := os.ReadFile(filepath.Join(r.Source, f.source))
		if err != nil {
			return nil, err
		}
		add(f.path, f.kind, text)
	}
	return list, err
}

// unit is deploy/systemd/xmppgate.service with what a package has elsewhere.
func (r *release) unit() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(r.Source, "deploy/systemd/xmppgate.service"))
	if err != nil {
		return nil, err
	}
	unit := string(text[max(0, bytes.Index(text, []byte("[Unit]\n"))):]) // without how to install it by hand
	for _, change := range [][2]string{
		{"=/usr/local/bin/xmppgate\n", "=/usr/bin/xmppgate\n"},
		{"=/usr/local/bin/xmppgate upgrade\n", "=/usr/bin/xmppgate upgrade\n"},
		{"=/etc/default/xmppgate\n", "=" + configFile + "\n"},
		{"DynamicUser=yes\n", "User=xmppgate\n"},
	} {
		if strings.Count(unit, change[0]) != 1 {
			return nil, fmt.Errorf("xmppgate.service must have %q once", change[0])
		}
		unit = strings.Replace(unit, change[0], change[1], 1)
	}
	return []byte(unit), nil
}

// pack writes one package.
func (r *release) pack(t target, format string, depends []string, contents files.Contents) error {
	binary := &files.Content{Source: r.binary(t), Destination: "/usr/bin/xmppgate", FileInfo: &files.ContentFileInfo{Mode: 0o755, MTime: r.Time}}
	info := &nfpm.Info{
		Name: "xmppgate", Version: r.Version, Platform: "linux", Arch: t.arch, MTime: r.Time,
		Section: "net", Priority: "optional", License: "Apache-2.0", Maintainer: "The xmppgate authors",
		Description: "XMPP over WebSocket (RFC 7395) in front of any XMPP server",
	}
	if t.arch == "arm" {
		info.Arch = "arm7"
	}
	info.Depends = depends
	info.DisableGlobbing = true
	for _, c := range append(files.Contents{binary}, contents...) {
		copied := *c
		fileInfo := *c.FileInfo
		copied.FileInfo = &fileInfo
		info.Contents = append(info.Contents, &copied)
	}
	script := func(name string) string { return filepath.Join(r.Source, "deploy/release/scripts", name) }
	info.Scripts = nfpm.Scripts{PostInstall: script("postinstall"), PreRemove: script("preremove"), PostRemove: script("postremove")}
	info.APK.Scripts.PostUpgrade = script("postinstall")
	info.RPM.BuildHost = "localhost"
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	file, err := os.Create(r.packageFile(t, format))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := packager.Package(info, file); err != nil {
		return err
	}
	return file.Close()
}

// packageFile is the file of a package.
func (r *release) packageFile(t target, format string) string {
	return r.binary(t) + "." + format
}
