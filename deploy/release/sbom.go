package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/licensecheck"
	"github.com/google/uuid"
)

// sbomFile is the bill of materials, in the format of CycloneDX.
func (r *release) sbomFile() string {
	return filepath.Join(r.Out, "xmppgate-"+r.Version+".cdx.json")
}

// A contained is what a program is linked from: a module, or the standard library.
type contained struct {
	path, version string
	sum           string // of go.sum: h1: and base64; empty for the standard library
}

// purl names the module wherever it is looked up.
func (c contained) purl() string { return "pkg:golang/" + c.path + "@" + c.version }

// hash is the sum in hexadecimal digits.
func (c contained) hash() string {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.sum, "h1:"))
	if err != nil {
		return ""
	}
	return hex.EncodeToString(sum)
}

// linked reads from a binary what it was linked from. The linker wrote it there, so that
// it is true whatever go.mod says.
func linked(binary string) ([]contained, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	all := []contained{{path: "std", version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		for m.Replace != nil {
			m = m.Replace
		}
		all = append(all, contained{m.Path, m.Version, m.Sum})
	}
	return all, nil
}

// ownModules are the modules of this program, which makes what the compiler does not.
func ownModules() (all []contained, err error) {
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		return nil, errors.New("this program was built without modules")
	}
	for _, m := range info.Deps {
		all = append(all, contained{m.Path, m.Version, m.Sum})
	}
	return all, nil
}

// authorities is the module with the certificates in the image.
func authorities() (contained, error) {
	own, err := ownModules()
	if err != nil {
		return contained{}, err
	}
	i := slices.IndexFunc(own, func(c contained) bool { return c.path == "golang.org/x/crypto/x509roots/fallback" })
	if i < 0 {
		return contained{}, errors.New("this program has no certificate authorities")
	}
	return own[i], nil
}

// sbom lists the binaries, the image and what is in each of them.
func (r *release) sbom() error {
	self := contained{path: r.Module, version: "v" + r.Version}
	parts := map[string]contained{} // by purl
	var components []cdx.Component
	var dependencies []cdx.Dependency
	file := func(path string, kind cdx.ComponentType, list []contained) error {
		sum, err := checksum(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		components = append(components, cdx.Component{
			BOMRef: name, Type: kind, Name: name, Version: "v" + r.Version,
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
			Licenses: licence("Apache-2.0"),
		})
		refs := []string{}
		for _, c := range list {
			parts[c.purl()] = c
			refs = append(refs, c.purl())
		}
		slices.Sort(refs)
		dependencies = append(dependencies, cdx.Dependency{Ref: name, Dependencies: &refs})
		return nil
	}
	inImage := map[contained]bool{}
	for _, t := range targets {
		list, err := linked(r.binary(t))
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		if err := file(r.binary(t), cdx.ComponentTypeApplication, list); err != nil {
			return err
		}
		for _, c := range list {
			inImage[c] = inImage[c] || t.os == "linux"
		}
	}
	certificates, err := authorities()
	if err != nil {
		return err
	}
	inImage[certificates] = true
	maps.DeleteFunc(inImage, func(_ contained, in bool) bool { return !in })
	if err := file(r.imageFile(), cdx.ComponentTypeContainer, slices.Collect(maps.Keys(inImage))); err != nil {
		return err
	}
	licences, err := r.licences(slices.Collect(maps.Values(parts)))
	if err != nil {
		return err
	}
	for _, purl := range slices.Sorted(maps.Keys(parts)) {
		c := parts[purl]
		component := cdx.Component{
			BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: c.path, Version: c.version, PackageURL: purl,
			Licenses: licence(licences[purl]...),
		}
		if h := c.hash(); h != "" {
			component.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: h}}
		}
		components = append(components, component)
	}
	files := []string{}
	for _, d := range dependencies {
		files = append(files, d.Ref)
	}
	dependencies = append([]cdx.Dependency{{Ref: self.purl(), Dependencies: &files}}, dependencies...)

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: r.Time.Format("2006-01-02T15:04:05Z07:00"),
		Component: &cdx.Component{BOMRef: self.purl(), Type: cdx.ComponentTypeApplication, Name: "xmppgate", Version: self.version, PackageURL: self.purl(), Licenses: licence("Apache-2.0")},
	}
	bom.Components = &components
	bom.Dependencies = &dependencies
	content, err := encode(bom)
	if err != nil {
		return err
	}
	// The number is that of the content, so that two builds have the same one.
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.NameSpaceURL, content, 8).URN()
	if content, err = encode(bom); err != nil {
		return err
	}
	return os.WriteFile(r.sbomFile(), content, 0o644)
}

func encode(bom *cdx.BOM) ([]byte, error) {
	var text bytes.Buffer
	err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
	return text.Bytes(), err
}

// licence is those licences by their names in the list of SPDX; nil if there are none.
func licence(ids ...string) *cdx.Licenses {
	if len(ids) == 0 {
		return nil
	}
	list := cdx.Licenses{}
	for _, id := range ids {
		list = append(list, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return &list
}

// licences finds the licences of modules by their texts.
func (r *release) licences(modules []contained) (map[string][]string, error) {
	found := map[string][]string{}
	args := []string{"mod", "download", "-json"}
	for _, c := range modules {
		if c.path == "std" {
			found[c.purl()] = []string{"BSD-3-Clause"} // not every installation of Go has the text
			continue
		}
		args = append(args, c.path+"@"+c.version)
	}
	c := exec.Command("go", args...)
	c.Dir = r.Source
	c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var m struct{ Path, Version, Dir string }
		if err := d.Decode(&m); err != nil {
			return nil, err
		}
		ids, err := licencesIn(m.Dir)
		if err != nil {
			return nil, err
		}
		found[contained{path: m.Path, version: m.Version}.purl()] = ids
	}
	return found, nil
}

// licencesIn returns the licences in the text of a module, in the order of their names;
// none if much of the text is something else.
func licencesIn(dir string) (ids []string, err error) {
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		known := licensecheck.Scan(text)
		if known.Percent < 75 {
			return nil, nil
		}
		for _, m := range known.Match {
			ids = append(ids, m.ID)
		}
		slices.Sort(ids)
		return slices.Compact(ids), nil
	}
	return nil, nil
}

// checksum is the SHA-256 of a file in hexadecimal digits.
func checksum(path string) (string, error) {
	text, err := os.ReadFile(path)
	return fmt.Sprintf("%x", sha256.Sum256(text)), err
}

// byPath sorts modules.
func byPath(a, b contained) int {
	return cmp.Or(strings.Compare(a.path, b.path), strings.Compare(a.version, b.version))
}
