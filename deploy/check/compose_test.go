package check

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

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
