package check

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// manifests are the objects of the example, decoded strictly: an unknown field
// or a wrong type is an error.
type manifests struct {
	deployment appsv1.Deployment // with the sidecar
	service    corev1.Service
	budget     policyv1.PodDisruptionBudget
	policy     networkingv1.NetworkPolicy
	config     corev1.ConfigMap
}

func decode(t *testing.T, document []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
}

func loadManifests(t *testing.T) (m manifests) {
	t.Helper()
	var base appsv1.Deployment
	kinds := map[string]any{
		"Namespace": new(corev1.Namespace), "ConfigMap": &m.config, "Deployment": &base,
		"Service": &m.service, "PodDisruptionBudget": &m.budget, "NetworkPolicy": &m.policy,
	}
	for _, document := range bytes.Split(read(t, "../kubernetes/example.yaml"), []byte("\n---\n")) {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(document, &meta); err != nil {
			t.Fatal(err)
		}
		into, ok := kinds[meta.Kind]
		if !ok {
			t.Fatalf("kind %q is unexpected, or there twice", meta.Kind)
		}
		delete(kinds, meta.Kind)
		decode(t, document, into)
	}
	if len(kinds) > 0 {
		t.Fatalf("missing: %v", kinds)
	}

	// What "kubectl patch" and kustomize do with the sidecar.
	decode(t, read(t, "../kubernetes/sidecar.yaml"), new(appsv1.Deployment))
	patch, err := yaml.YAMLToJSON(read(t, "../kubernetes/sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	original, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	decode(t, merged, &m.deployment)
	return m
}

func TestKubernetes(t *testing.T) {
	m := loadManifests(t)
	pod := m.deployment.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%d sidecars, %d containers: the patch does not fit", len(pod.InitContainers), len(pod.Containers))
	}
	sidecar, server := pod.InitContainers[0], pod.Containers[0]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the gateway is no sidecar: the server would wait for its end")
	}

	environ := map[string]string{}
	for _, v := range sidecar.Env {
		environ[v.Name] = v.Value
	}
	delete(environ, "GOMEMLIMIT")
	checkConfig(t, environ)

	// The gateway takes a drain by POST only, which a hook cannot send.
	if hook := sidecar.Lifecycle.PreStop; hook.Exec == nil || !slices.Equal(hook.Exec.Command, []string{"/xmppgate", "drain"}) {
		t.Errorf("preStop of the gateway is %+v", hook)
	}

	// The server waits until the drain is over, the pod until both are.
	drain, err := time.ParseDuration(environ["XMPPGATE_DRAIN_TIMEOUT"])
	if err != nil {
		t.Error(err)
	}
	wait := time.Duration(server.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
	if drain >= wait || wait >= grace {
		t.Errorf("drain %v, server's preStop %v, grace period %v: each has to be longer than the one before", drain, wait, grace)
	}

	// What Pod Security "restricted" asks for.
	for _, c := range []corev1.Container{sidecar, server} {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Capabilities == nil ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s is not restricted: %+v", c.Name, s)
		}
	}

	// Ports go by name; a name that is misspelt leads nowhere.
	var ports []string
	for _, p := range sidecar.Ports {
		ports = append(ports, p.Name)
	}
	named := []string{
		m.service.Spec.Ports[0].TargetPort.StrVal,
		sidecar.StartupProbe.HTTPGet.Port.StrVal, sidecar.LivenessProbe.HTTPGet.Port.StrVal,
		sidecar.ReadinessProbe.HTTPGet.Port.StrVal,
	}
	for _, rule := range m.policy.Spec.Ingress {
		for _, p := range rule.Ports {
			named = append(named, p.Port.StrVal)
		}
	}
	for _, name := range named {
		if !slices.Contains(ports, name) {
			t.Errorf("port %q is none of %q", name, ports)
		}
	}

	pods := labels.Set(m.deployment.Spec.Template.Labels)
	if !labels.SelectorFromSet(m.service.Spec.Selector).Matches(pods) {
		t.Error("the Service selects other pods")
	}
	for what, selector := range map[string]*metav1.LabelSelector{
		"Deployment": m.deployment.Spec.Selector, "PodDisruptionBudget": m.budget.Spec.Selector, "NetworkPolicy": &m.policy.Spec.PodSelector,
	} {
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil || s.Empty() || !s.Matches(pods) {
			t.Errorf("the %s selects other pods: %v", what, err)
		}
	}
}
