package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// notes writes the section of CHANGELOG.md about this version.
func (r *release) notes() error {
	text, err := os.ReadFile(filepath.Join(r.Source, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	section, err := notesOf(string(text), r.Version)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.Out, "NOTES.md"), []byte(section), 0o644)
}

// notesOf cuts the section of a version out of a changelog. Before its tag a version is
// what "Unreleased" describes.
func notesOf(changelog, version string) (string, error) {
	heading := "## " + version
	if strings.Contains(version, "-") {
		heading = "## Unreleased"
	}
	section := ""
	for line := range strings.Lines(changelog) {
		if strings.HasPrefix(line, "## ") {
			if section != "" {
				break
			}
			if line = strings.TrimSpace(line); line == heading || strings.HasPrefix(line, heading+" ") {
				section = "# xmppgate " + version + "\n"
			}
		} else if section != "" {
			section += line
		}
	}
	if section == "" {
		return "", fmt.Errorf("CHANGELOG.md has no section %q: name the section of the release so", heading)
	}
	return relativeLink.ReplaceAllString(strings.TrimSpace(section), "$1") + "\n", nil
}

// relativeLink is a link to a file of the repository, which is not where the notes are.
var relativeLink = regexp.MustCompile(`\[([^\]]+)\]\([^):]+\)`)

// files are the names of all files of the release so far.
func (r *release) files() (names []string, err error) {
	entries, err := os.ReadDir(r.Out)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// checksums writes SHA256SUMS, for sha256sum -c.
func (r *release) checksums() error {
	names, err := r.files()
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, name := range names {
		sum, err := checksum(filepath.Join(r.Out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	return os.WriteFile(filepath.Join(r.Out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
