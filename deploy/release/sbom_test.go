package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"golang.org/x/mod/modfile"
)

// testSBOM reads the bill of materials as others do, and compares it with go.mod, go.sum
// and the files.
func testSBOM(t *testing.T, r *release) {
	file, err := os.Open(r.sbomFile())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(file, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(bom.SerialNumber) {
		t.Errorf("serial number %q", bom.SerialNumber)
	}
	if got, want := bom.Metadata.Timestamp, r.Time.Format("2006-01-02T15:04:05Z"); got != want {
		t.Errorf("the time is %s, that of the commit %s", got, want)
	}
	if self := bom.Metadata.Component; self.Version != "v"+r.Version || self.PackageURL != "pkg:golang/"+r.Module+"@v"+r.Version {
		t.Errorf("it is about %+v", self)
	}

	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	root, err := modfile.Parse("go.mod", mod, nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, q := range root.Require {
		required[q.Mod.Path] = q.Mod.Version
	}
	refs := map[string]bool{bom.Metadata.Component.BOMRef: true}
	for _, c := range *bom.Components {
		if refs[c.BOMRef] {
			t.Errorf("%s is there twice", c.BOMRef)
		}
		refs[c.BOMRef] = true
		if c.Licenses == nil {
			t.Errorf("%s has no licence", c.Name)
		}
		switch {
		case c.Type != cdx.ComponentTypeLibrary:
			sum, err := checksum(filepath.Join(r.Out, c.Name))
			if err != nil || (*c.Hashes)[0].Value != sum {
				t.Errorf("%s has the checksum %v, want %s, %v", c.Name, *c.Hashes, sum, err)
			}
		case c.Name == "std":
		case c.Name == "golang.org/x/crypto/x509roots/fallback": // in the image only
		case required[c.Name] != c.Version:
			t.Errorf("it has %s %s, go.mod has %s", c.Name, c.Version, required[c.Name])
		}
	}
	// Every program and the image have the standard library and what serves metrics, and
	// nothing is named that is not there.
	for _, d := range *bom.Dependencies {
		for _, ref := range *d.Dependencies {
			if !refs[ref] {
				t.Errorf("%s depends on %s, which is not there", d.Ref, ref)
			}
		}
		if has := strings.Join(*d.Dependencies, " "); d.Ref != bom.Metadata.Component.BOMRef && (!strings.Contains(has, "pkg:golang/std@1.") || !strings.Contains(has, "prometheus/client_golang@v")) {
			t.Errorf("%s has only %s", d.Ref, has)
		}
		if strings.HasSuffix(d.Ref, "-image.tar") != slices.ContainsFunc(*d.Dependencies, func(ref string) bool { return strings.Contains(ref, "/x509roots/") }) {
			t.Errorf("only the image has certificates, not %s", d.Ref)
		}
	}
}

// testProvenance compares the statement with the files and the commit.
func testProvenance(t *testing.T, r *release) {
	text, err := os.ReadFile(r.provenanceFile())
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct {
			Name   string
			Digest map[string]string
		}
		Predicate struct {
			BuildDefinition struct {
				BuildType            string
				ExternalParameters   map[string]string
				InternalParameters   map[string]string
				ResolvedDependencies []struct {
					URI    string
					Digest map[string]string
				}
			}
			RunDetails struct{ Builder struct{ ID string } }
		}
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if s.Type != "https://in-toto.io/Statement/v1" || s.PredicateType != "https://slsa.dev/provenance/v1" {
		t.Errorf("it is a %s about %s", s.Type, s.PredicateType)
	}
	entries, err := os.ReadDir(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	var subjects, want []string
	for _, e := range entries {
		if e.Name() != "SHA256SUMS" && e.Name() != filepath.Base(r.provenanceFile()) {
			want = append(want, e.Name())
		}
	}
	for _, f := range s.Subject {
		subjects = append(subjects, f.Name)
		if sum, err := checksum(filepath.Join(r.Out, f.Name)); err != nil || f.Digest["sha256"] != sum {
			t.Errorf("%s has the checksum %s, not %v: %v", f.Name, sum, f.Digest, err)
		}
	}
	if !slices.Equal(subjects, want) {
		t.Errorf("it is about %q, want %q", subjects, want)
	}
	build := s.Predicate.BuildDefinition
	if build.BuildType == "" || s.Predicate.RunDetails.Builder.ID == "" || !strings.HasPrefix(build.InternalParameters["go"], "go1.") {
		t.Errorf("no builder, kind of build or Go: %s", text)
	}
	if build.ExternalParameters["revision"] != r.Revision || build.ExternalParameters["version"] != "v"+r.Version {
		t.Errorf("it is of %v", build.ExternalParameters)
	}
	if source := build.ResolvedDependencies[0]; source.Digest["gitCommit"] != r.Revision {
		t.Errorf("the source is %+v", source)
	}
	sum, err := os.ReadFile("../../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"pkg:golang/std@1.", "pkg:golang/github.com/gobwas/ws@v", "pkg:golang/github.com/goreleaser/nfpm/v2@v", "pkg:golang/golang.org/x/crypto/x509roots/fallback@v"} {
		if !slices.ContainsFunc(build.ResolvedDependencies, func(d struct {
			URI    string
			Digest map[string]string
		}) bool {
			return strings.HasPrefix(d.URI, prefix)
		}) {
			t.Errorf("no dependency %s", prefix)
		}
	}
	// The digests are those that Go checks.
	for _, d := range build.ResolvedDependencies {
		path, version, _ := strings.Cut(strings.TrimPrefix(d.URI, "pkg:golang/"), "@")
		m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(path+" "+version) + ` (h1:.*)$`).FindSubmatch(sum)
		if m != nil && d.Digest["dirHash"] != (contained{sum: string(m[1])}).hash() {
			t.Errorf("%s has %v, go.sum has %s", d.URI, d.Digest, m[1])
		}
	}
}
