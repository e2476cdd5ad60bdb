package check

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// In the project with ejabberd both have the directory of its socket, as the same user.
func TestComposeSocket(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../ejabberd/compose.yaml"}, cli.WithResolvedPaths(true), cli.WithName("ejabberd"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server, gateway := project.Services["ejabberd"], project.Services["xmppgate"]
	socket := ejabberdSocket(t, "../ejabberd/complete.yml")
	if got := gateway.Environment["XMPPGATE_UPSTREAM"]; got == nil || *got != "unix:"+socket+"?proxy=v2" {
		t.Errorf("the gateway does not connect to %s", socket)
	}
	mount := func(s types.ServiceConfig) (source string) {
		for _, v := range s.Volumes {
			if v.Target == filepath.Dir(socket) && !v.ReadOnly {
				source = v.Source
			}
		}
		return source
	}
	if mount(server) == "" || mount(server) != mount(gateway) || server.User == "" || server.User != gateway.User {
		t.Errorf("ejabberd has %q as %s, the gateway %q as %s", mount(server), server.User, mount(gateway), gateway.User)
	}
	config := ""
	for _, v := range server.Volumes {
		if v.Type == types.VolumeTypeBind {
			config = v.Source
		}
	}
	read(t, config)
	for _, p := range append(gateway.Ports, server.Ports...) {
		if p.HostIP != "127.0.0.1" {
			t.Errorf("port %s is published to the network", p.Published)
		}
	}
}

// Compose's own loader reads the file, as "docker compose config" would.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithResolvedPaths(true), cli.WithName("xmppgate"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, service := range project.Services {
		for _, p := range service.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s to the network", name, p.Published)
			}
		}
		for other, dependency := range service.DependsOn {
			// podman drops the HEALTHCHECK of an image that it builds, and waits for ever.
			if dependency.Condition == types.ServiceConditionHealthy && project.Services[other].HealthCheck == nil {
				t.Errorf("%s waits for the health of %s, which has no check in this file", name, other)
			}
		}
		if service.Restart == "" {
			t.Errorf("%s stays down after a crash", name)
		}
		if b := service.Build; b != nil {
			if len(read(t, filepath.Join(b.Context, b.Dockerfile))) == 0 {
				t.Errorf("%s: no Dockerfile", name)
			}
		}
		for _, v := range service.Volumes {
			if !filepath.IsAbs(v.Source) {
				t.Errorf("%s mounts %s", name, v.Source)
			}
			read(t, filepath.Join(v.Source, "prometheus.yml"))
		}
	}
	environ := map[string]string{}
	for name, value := range project.Services["xmppgate"].Environment {
		environ[name] = *value
	}
	gateway := project.Services["xmppgate"]
	if grace := time.Duration(*gateway.StopGracePeriod); grace <= drainTime(t, environ) {
		t.Errorf("stop_grace_period is %v: SIGKILL comes before the end of the drain", grace)
	}
}
