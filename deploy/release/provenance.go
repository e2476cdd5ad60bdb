package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// provenanceFile says where the other files come from.
func (r *release) provenanceFile() string {
	return filepath.Join(r.Out, "xmppgate-"+r.Version+".provenance.json")
}

// origin is where the source is: the repository of the module, or the name of the module
// as long as it is not published.
func (r *release) origin() string {
	if host, _, _ := strings.Cut(r.Module, "/"); strings.Contains(host, ".") {
		return "https://" + r.Module
	}
	return "pkg:golang/" + r.Module
}

// A statement is that of in-toto, version 1, with the predicate "provenance" of SLSA,
// version 1.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type provenance struct {
	BuildDefinition struct {
		BuildType            string            `json:"buildType"`
		ExternalParameters   map[string]string `json:"externalParameters"`
		InternalParameters   map[string]string `json:"internalParameters"`
		ResolvedDependencies []resource        `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

// A resource is a ResourceDescriptor of in-toto.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// provenance writes what every other file was made of. Whoever signs it vouches for it.
func (r *release) provenance() error {
	s := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	names, err := r.files()
	if err != nil {
		return err
	}
	for _, name := range names {
		sum, err := checksum(filepath.Join(r.Out, name))
		if err != nil {
			return err
		}
		s.Subject = append(s.Subject, resource{Name: name, Digest: map[string]string{"sha256": sum}})
	}

	// The modules of the programs, and those of this one, which makes the other files.
	modules := map[contained]bool{}
	for _, t := range targets {
		list, err := linked(r.binary(t))
		if err != nil {
			return err
		}
		for _, c := range list {
			modules[c] = true
		}
	}
	own, err := ownModules()
	if err != nil {
		return err
	}
	for _, c := range own {
		modules[c] = true
	}

	build := &s.Predicate.BuildDefinition
	build.BuildType = r.origin() + "#make-release"
	build.ExternalParameters = map[string]string{"source": r.origin(), "revision": r.Revision, "version": "v" + r.Version}
	build.InternalParameters = map[string]string{"go": runtime.Version()}
	build.ResolvedDependencies = []resource{{URI: r.origin(), Digest: map[string]string{"gitCommit": r.Revision}}}
	for _, c := range slices.SortedFunc(maps.Keys(modules), byPath) {
		d := resource{URI: c.purl()}
		if h := c.hash(); h != "" {
			d.Digest = map[string]string{"dirHash": h}
		}
		build.ResolvedDependencies = append(build.ResolvedDependencies, d)
	}
	s.Predicate.RunDetails.Builder.ID = r.origin() + "#deploy/release"

	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(r.provenanceFile(), append(text, '\n'), 0o644)
}
