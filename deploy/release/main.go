// Command release builds what is published of a commit: binaries, packages, and what
// says what they are. "make release" runs it; everything is in dist then.
//
// It builds the files of the commit, whatever else is in the work tree. Nothing of the
// clock, the machine or a directory gets into the files, so that the same commit gives
// the same bytes with the same Go.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("release: ")
	dir := flag.String("o", "dist", "the directory for the files, made anew, below the root of the repository")
	flag.Parse()
	root, err := git(".", "rev-parse", "--show-toplevel")
	if err == nil {
		err = publish(root, filepath.Join(root, *dir))
	}
	if err != nil {
		log.Fatal(err)
	}
}

// A release is a commit and where its files go.
type release struct {
	Source   string    // a copy of the files of the commit
	Out      string    // the directory for what is published
	Module   string    // its path
	Version  string    // 0.1.0, or 0.1.0-pre20261127120000 before its tag
	Revision string    // of the commit, 40 digits
	Time     time.Time // of the commit: the only time in any file
}

// A step writes files to Out. The steps run one after another.
var steps = []struct {
	name string
	run  func(*release) error
}{
	{"binaries", (*release).binaries},
	{"packages", (*release).packages},
	{"image", (*release).image},
	{"bill of materials", (*release).sbom},
	{"notes", (*release).notes},
	{"provenance", (*release).provenance}, // of all files before it
	{"checksums", (*release).checksums},   // the last one: of all files
}

// publish builds a release of the repository at root.
func publish(root, out string) error {
	source, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	r, err := open(root, source, out)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(out), os.MkdirAll(out, 0o755)); err != nil {
		return err
	}
	for _, s := range steps {
		log.Printf("%s of %s", s.name, r.Version)
		if err := s.run(r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// open copies the files of the commit that is checked out to source.
func open(root, source, out string) (*release, error) {
	r := &release{Source: source, Out: out}
	export := exec.Command("sh", "-c", `git archive HEAD | tar -x -C "$1"`, "sh", source)
	export.Dir = root
	if text, err := export.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("git archive: %w: %s", err, text)
	}
	revision, err := git(root, "rev-parse", "HEAD")
	if err != nil {
		return nil, err
	}
	r.Revision = revision
	seconds, err := git(root, "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return nil, err
	}
	epoch, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	r.Time = time.Unix(epoch, 0).UTC()
	mod, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return nil, err
	}
	r.Module = modfile.ModulePath(mod)
	r.Version, err = version(root)
	return r, err
}

// version returns the version of the commit that is checked out.
func version(root string) (string, error) {
	return output(root, "sh", "deploy/version.sh")
}

// git returns what a command of git prints.
func git(dir string, args ...string) (string, error) { return output(dir, "git", args...) }

// output returns what a command prints.
func output(dir, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Dir = dir
	out, err := c.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}
