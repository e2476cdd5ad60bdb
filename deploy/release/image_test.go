package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// readImage reads the image of each platform back from the file.
func readImage(t *testing.T, r *release) map[target]v1.Image {
	t.Helper()
	dir := t.TempDir()
	shell(t, `tar -x -f "$1" -C "$2"`, r.imageFile(), dir)
	path, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	file, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	names, err := file.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(names.Manifests) != 1 || names.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "xmppgate:"+r.Version {
		t.Fatalf("the file has %+v, want one image %s", names.Manifests, r.Version)
	}
	index, err := file.ImageIndex(names.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	platforms, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	images := map[target]v1.Image{}
	for _, m := range platforms.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		of := target{m.Platform.OS, m.Platform.Architecture}
		if config.OS != of.os || config.Architecture != of.arch || config.Variant != m.Platform.Variant || (of.arch == "arm") != (config.Variant == "v7") {
			t.Errorf("the image of %+v is for %s/%s%s", m.Platform, config.OS, config.Architecture, config.Variant)
		}
		images[of] = image
	}
	return images
}

// testImage reads the image back, compares it with the Dockerfile, and runs it.
func testImage(t *testing.T, r *release) {
	images := readImage(t, r)
	for _, of := range targets {
		image, ok := images[of]
		if of.os != "linux" {
			continue
		}
		if !ok {
			t.Errorf("no image for %s", of)
			continue
		}
		size, err := compressed(image)
		if err != nil || size > imageLimit {
			t.Errorf("%s: %d bytes, %v", of, size, err)
		}
		t.Logf("%s: %.1f MB to download", of, float64(size)/1e6)
		testImageConfig(t, r, image)
		files := readLayers(t, image)
		program, err := os.ReadFile(r.binary(of))
		if err != nil || !bytes.Equal(files["xmppgate"], program) {
			t.Errorf("%s: the program is not the one of the release: %v", of, err)
		}
		if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(files["etc/ssl/certs/ca-certificates.crt"]) || bytes.Count(files["etc/ssl/certs/ca-certificates.crt"], []byte("BEGIN")) < 100 {
			t.Errorf("%s: no certificate authorities", of)
		}
		if len(files) != 4 {
			t.Errorf("%s: the image has %q", of, slices.Sorted(maps.Keys(files)))
		}
	}
	runImage(t, r, images[target{"linux", "amd64"}])
}

// readLayers returns the files in an image.
func readLayers(t *testing.T, image v1.Image) map[string][]byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, l := range layers {
		text, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for entries := tar.NewReader(text); ; {
			h, err := entries.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || h.Typeflag == tar.TypeReg && h.Mode&0o022 != 0 {
				t.Errorf("%s belongs to %d:%d, mode %o", h.Name, h.Uid, h.Gid, h.Mode)
			}
			if h.Typeflag == tar.TypeReg {
				if files[h.Name], err = io.ReadAll(entries); err != nil {
					t.Fatal(err)
				}
			}
		}
		text.Close()
	}
	return files
}

// The configuration is that of the Dockerfile.
func testImageConfig(t *testing.T, r *release, image v1.Image) {
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got := file.Config
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := strings.Split(strings.ReplaceAll(string(text), "\\\n", " "), "\nFROM ")
	args := strings.NewReplacer("$VERSION", "v"+r.Version, "$REVISION", r.Revision, "$SOURCE", r.origin())
	var want v1.Config
	list := func(s string) (words []string) {
		if err := json.Unmarshal([]byte(s), &words); err != nil {
			t.Fatal(err)
		}
		return words
	}
	for line := range strings.Lines(stages[len(stages)-1]) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch instruction {
		case "LABEL":
			want.Labels = map[string]string{}
			for _, m := range regexp.MustCompile(`([\w.]+)="([^"]*)"`).FindAllStringSubmatch(rest, -1) {
				want.Labels[m[1]] = args.Replace(m[2])
			}
		case "USER":
			want.User = rest
		case "WORKDIR":
			want.WorkingDir = rest
		case "EXPOSE":
			want.ExposedPorts = map[string]struct{}{rest + "/tcp": {}}
		case "ENTRYPOINT":
			want.Entrypoint = list(rest)
		case "HEALTHCHECK":
			options, command, _ := strings.Cut(rest, "CMD ")
			want.Healthcheck = &v1.HealthConfig{Test: append([]string{"CMD"}, list(command)...)}
			for option, value := range map[string]*time.Duration{"interval": &want.Healthcheck.Interval, "timeout": &want.Healthcheck.Timeout, "start-period": &want.Healthcheck.StartPeriod} {
				m := regexp.MustCompile(`--` + option + `=(\S+)`).FindStringSubmatch(options)
				if m == nil {
					t.Fatalf("no %s in %s", option, line)
				}
				if *value, err = time.ParseDuration(m[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	print := func(c v1.Config) string {
		text, err := json.MarshalIndent(c, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if print(got) != print(want) {
		t.Errorf("the image has %s\nthe Dockerfile has %s", print(got), print(want))
	}
	if !file.Created.Equal(r.Time) {
		t.Errorf("created %s, the commit is of %s", file.Created, r.Time)
	}
}

// runImage runs the program in nothing but the files of the image, as its user.
func runImage(t *testing.T, r *release, image v1.Image) {
	root := t.TempDir()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		text, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command("tar", "-x", "-z", "-p", "-C", root)
		c.Stdin = text
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil { // of tests only root may enter it
		t.Fatal(err)
	}
	in := func(environ []string, args ...string) (string, error) {
		c := exec.Command("chroot", append([]string{"--userspec=" + imageUser + ":" + imageUser, root, "/xmppgate"}, args...)...)
		c.Env = environ
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := in(nil, "version"); err != nil || !strings.HasPrefix(out, "xmppgate v"+r.Version+" ("+r.Revision[:12]+", ") {
		t.Errorf("version: %v, %s", err, out)
	}
	// With the certificate authorities of the image a server with TLS is configured.
	if out, err := in([]string{"XMPPGATE_UPSTREAM=tls://xmpp.example.org:5223"}, "check-config"); err != nil {
		t.Errorf("check-config: %v, %s", err, out)
	}
	if out, err := in(nil, "demo", "--help"); err == nil {
		t.Errorf("the demo is in the image: %s", out)
	}
	front, admin := free(t), free(t)
	gateway := exec.Command("chroot", "--userspec="+imageUser+":"+imageUser, root, "/xmppgate")
	gateway.Env = []string{"XMPPGATE_LISTEN=" + front, "XMPPGATE_ADMIN_LISTEN=" + admin, "XMPPGATE_UPSTREAM=tcp://127.0.0.1:1"}
	var log bytes.Buffer
	gateway.Stderr = &log
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	defer gateway.Wait()
	defer gateway.Process.Kill()
	await(t, func() bool { return status(admin, "/healthz") == 200 })
	if out, err := in(gateway.Env, "healthcheck"); err != nil {
		t.Errorf("healthcheck: %v, %s", err, out)
	}
	if owner := shell(t, fmt.Sprintf(`awk '/^[UG]id:/ {print $2}' /proc/%d/status`, gateway.Process.Pid)); owner != imageUser+"\n"+imageUser+"\n" {
		t.Errorf("it runs as %q", owner)
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func status(address, path string) int {
	answer, err := http.Get("http://" + address + path)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	return answer.StatusCode
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited a minute")
		}
	}
}
