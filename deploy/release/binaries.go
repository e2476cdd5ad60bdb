package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A target is a platform, in the words of Go.
type target struct{ os, arch string }

// targets are the platforms of a release. The levels of the processors (GOAMD64=v1
// and so on) are the lowest ones of Go, but ARMv7 for arm.
var targets = []target{
	{"linux", "amd64"},
	{"linux", "arm64"},
	{"linux", "arm"},
	{"linux", "386"},
	{"linux", "riscv64"},
	{"darwin", "amd64"},
	{"darwin", "arm64"},
	{"freebsd", "amd64"},
	{"windows", "amd64"},
}

// String is the platform in the names of files.
func (t target) String() string {
	switch {
	case t.arch == "arm":
		return t.os + "-armv7"
	case t.os == "windows":
		return t.os + "-" + t.arch + ".exe"
	}
	return t.os + "-" + t.arch
}

// binary is the file of a target.
func (r *release) binary(t target) string {
	return filepath.Join(r.Out, fmt.Sprintf("xmppgate-%s-%s", r.Version, t))
}

func (r *release) binaries() error {
	for _, t := range targets {
		if err := r.build(t, r.binary(t)); err != nil {
			return err
		}
	}
	return nil
}

// build compiles as the Dockerfile does.
func (r *release) build(t target, path string) error {
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-pgo=cmd/xmppgate/release.pgo", "-tags", "nodemo",
		"-ldflags", "-s -w -buildid= -X main.version=v"+r.Version+" -X main.revision="+r.Revision, "-o", path, "./cmd/xmppgate")
	c.Dir = r.Source
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+t.os, "GOARCH="+t.arch, "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=",
		"GOAMD64=v1", "GO386=sse2", "GOARM=7", "GOARM64=v8.0", "GORISCV64=rva20u64")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", t, err, strings.TrimSpace(string(out)))
	}
	return nil
}
