//go:build unix

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The image is built with the first tool that answers, in a format that has
// HEALTHCHECK.
func TestImageTool(t *testing.T) {
	const (
		answers = "case $1 in info) exit 0;; --version) echo Docker version 28.0.0;; *) echo built: $(basename $0) \"$@\";; esac"
		shim    = "case $1 in info) exit 0;; --version) echo podman version 4.3.1;; *) echo built: $(basename $0) \"$@\";; esac"
		silent  = "echo Cannot connect to the Docker daemon >&2; exit 1"
	)
	for _, test := range []struct {
		name                    string
		docker, podman, buildah string
		want                    string // a pattern
	}{
		{"docker", answers, answers, answers, `built: docker build --build-arg VERSION=v9 --build-arg REVISION=0f --build-arg SOURCE=https://example\.org -t xmppgate --pull \.\n$`},
		{"docker without an engine", silent, answers, answers, `built: podman build --format docker .* -t xmppgate --pull \.\n$`},
		{"podman called docker", shim, answers, answers, `built: podman build --format docker `},
		{"buildah only", silent, silent, answers, `built: buildah build --format docker `},
		{"none", silent, silent, silent, `none of docker, podman and buildah answers`},
	} {
		t.Run(test.name, func(t *testing.T) {
			bin := t.TempDir()
			for tool, script := range map[string]string{"docker": test.docker, "podman": test.podman, "buildah": test.buildah} {
				if err := os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("./image.sh", "--pull")
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "VERSION=v9", "REVISION=0f", "SOURCE=https://example.org")
			out, err := cmd.CombinedOutput()
			if (err == nil) != strings.HasPrefix(test.want, "built") || !regexp.MustCompile(test.want).Match(out) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
