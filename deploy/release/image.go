package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// imageLimit is what one platform of the image may have to download, in bytes.
const imageLimit = 12_000_000

// imageUser is the user and group of the process, by number: Kubernetes cannot tell from
// a name that it is not root.
const imageUser = "65532"

// imageFile is the image: an OCI image layout in a tar.
func (r *release) imageFile() string {
	return filepath.Join(r.Out, "xmppgate-"+r.Version+"-image.tar")
}

// labels describe the image. The Dockerfile has the same ones.
func (r *release) labels() map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":       "xmppgate",
		prefix + "description": "XMPP over WebSocket (RFC 7395) in front of any XMPP server",
		prefix + "source":      r.origin(),
		prefix + "version":     "v" + r.Version,
		prefix + "revision":    r.Revision,
		prefix + "licenses":    "Apache-2.0",
	}
}

// image puts the binaries of Linux into one image for all their platforms. It needs no
// engine and no base image; what differs from the Dockerfile is that the files besides
// the program come from here.
func (r *release) image() error {
	base, err := r.layer(baseFiles())
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, t := range targets {
		if t.os != "linux" {
			continue
		}
		image, err := r.imageOf(t, base)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		if n, err := compressed(image); err != nil || n > imageLimit {
			return fmt.Errorf("%s: %d bytes to download, more than %d: %v", t, n, imageLimit, err)
		}
		platform := t.platform()
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	name := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": "xmppgate:" + r.Version,                   // for podman and skopeo
		"io.containerd.image.name":          "docker.io/library/xmppgate:" + r.Version, // for Docker and containerd
	})
	if err := path.AppendIndex(index, name); err != nil {
		return err
	}
	file, err := os.Create(r.imageFile())
	if err != nil {
		return err
	}
	defer file.Close()
	if err := writeTar(file, os.DirFS(dir), r.Time); err != nil {
		return err
	}
	return file.Close()
}

// platform is the target in the words of OCI.
func (t target) platform() v1.Platform {
	p := v1.Platform{OS: t.os, Architecture: t.arch}
	if t.arch == "arm" {
		p.Variant = "v7"
	}
	return p
}

// imageOf is the image of one platform.
func (r *release) imageOf(t target, base v1.Layer) (v1.Image, error) {
	program, err := os.ReadFile(r.binary(t))
	if err != nil {
		return nil, err
	}
	binary, err := r.layer([]imageEntry{{"xmppgate", 0o755, program}})
	if err != nil {
		return nil, err
	}
	platform := t.platform()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: r.Time},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:         imageUser + ":" + imageUser,
			Entrypoint:   []string{"/xmppgate"},
			ExposedPorts: map[string]struct{}{"5290/tcp": {}},
			WorkingDir:   "/",
			Labels:       r.labels(),
			// OCI has no such field, but Docker reads it. Others ignore it.
			Healthcheck: &v1.HealthConfig{
				Test:     []string{"CMD", "/xmppgate", "healthcheck"},
				Interval: 10 * time.Second, Timeout: 3 * time.Second, StartPeriod: 2 * time.Second,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	history := func(what string) v1.History { return v1.History{Created: v1.Time{Time: r.Time}, CreatedBy: what} }
	return mutate.Append(image,
		mutate.Addendum{Layer: base, History: history("certificate authorities and users"), MediaType: types.OCILayer},
		mutate.Addendum{Layer: binary, History: history("xmppgate"), MediaType: types.OCILayer})
}

// compressed is what a platform takes to download.
func compressed(image v1.Image) (total int64, err error) {
	manifest, err := image.Manifest()
	if err != nil {
		return 0, err
	}
	total, err = image.Size()
	for _, l := range manifest.Layers {
		total += l.Size
	}
	return total + manifest.Config.Size, err
}

// An imageEntry is a file of the image, or a directory if its name ends with a slash.
type imageEntry struct {
	name string
	mode int64
	text []byte
}

// baseFiles are the files besides the program. A base such as distroless/static has them
// as well.
func baseFiles() []imageEntry {
	var authorities bytes.Buffer
	for root := range bundle.Roots() {
		// Of such an authority browsers accept old certificates only, which a file of
		// certificates cannot say.
		if root.Constraint != nil {
			continue
		}
		pem.Encode(&authorities, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
	}
	users := strings.ReplaceAll("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:ID:ID:nonroot:/:/sbin/nologin\n", "ID", imageUser)
	return []imageEntry{
		{"etc/", 0o755, nil},
		{"etc/group", 0o644, []byte("root:x:0:\nnonroot:x:" + imageUser + ":\n")},
		{"etc/passwd", 0o644, []byte(users)},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, authorities.Bytes()},
		{"tmp/", 0o1777, nil},
	}
}

// layer is a layer with these files, which belong to root.
func (r *release) layer(entries []imageEntry) (v1.Layer, error) {
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.text)), ModTime: r.Time, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestCompression))
}

// writeTar writes the files of a directory to a tar, in the order of their names.
func writeTar(to io.Writer, dir fs.FS, at time.Time) error {
	w := tar.NewWriter(to)
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: at, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	return w.Close()
}
