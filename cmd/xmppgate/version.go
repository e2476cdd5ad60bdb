package main

import (
	_ "embed"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// nextVersion is the version that is released or comes next. It has no other home: the
// tag of a release and CHANGELOG.md must agree with it.
//
//go:embed VERSION
var nextVersion string

// version and revision are set by -ldflags "-X main.version=v1.2.3 -X …" where
// the build knows more than the toolchain: an image is built without .git.
var version, revision string

// A build says what runs.
type build struct{ version, revision string }

// readBuild reads what the Go toolchain recorded. A build outside a
// repository has no revision.
func readBuild() build {
	b := build{version: "v" + strings.TrimSpace(nextVersion) + "-devel", revision: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.revision = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	if version != "" {
		b.version = version
	}
	if revision != "" {
		b.revision = revision[:min(12, len(revision))]
	}
	return b
}

// String is the line of --version.
func (b build) String() string {
	return fmt.Sprintf("xmppgate %s (%s, %s, %s/%s)", b.version, b.revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
