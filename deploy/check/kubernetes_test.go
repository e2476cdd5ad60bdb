package check

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
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
	accounts   corev1.Secret
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
		"Namespace": new(corev1.Namespace), "ConfigMap": &m.config, "Secret": &m.accounts, "Deployment": &base,
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
	decode(t, read(t, "../kubernetes/sidecar/sidecar.yaml"), new(appsv1.Deployment))
	original, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, asJSON(t, "../kubernetes/sidecar/sidecar.yaml"), appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	server, err := jsonpatch.DecodePatch(asJSON(t, "../kubernetes/sidecar/server.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if merged, err = server.Apply(merged); err != nil {
		t.Fatal(err)
	}
	decode(t, merged, &m.deployment)
	return m
}

func asJSON(t *testing.T, file string) []byte {
	t.Helper()
	text, err := yaml.YAMLToJSON(read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKubernetes(t *testing.T) {
	m := loadManifests(t)
	pod := m.deployment.Spec.Template.Spec
	if len(pod.InitContainers) != 2 || len(pod.Containers) != 1 {
		t.Fatalf("%d init containers, %d containers: the patch does not fit", len(pod.InitContainers), len(pod.Containers))
	}
	sidecar, server := container(t, pod.InitContainers, "xmppgate"), pod.Containers[0]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the gateway is not a sidecar: the server would wait for its end")
	}

	environ := map[string]string{}
	for _, v := range sidecar.Env {
		environ[v.Name] = v.Value
	}
	delete(environ, "GOMEMLIMIT")
	drain := drainTime(t, environ)

	// The gateway takes a drain by POST only, which a hook cannot send.
	if hook := sidecar.Lifecycle.PreStop; hook.Exec == nil || !slices.Equal(hook.Exec.Command, []string{"/xmppgate", "drain"}) {
		t.Errorf("preStop of the gateway is %+v", hook)
	}

	// The server waits until the drain is over, the pod until both are.
	wait := time.Duration(server.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
	if drain >= wait || wait >= grace {
		t.Errorf("drain %v, server's preStop %v, grace period %v: each has to be longer than the one before", drain, wait, grace)
	}

	// What Pod Security "restricted" asks for.
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		// Images that are only loaded into the nodes have no registry to ask.
		if c.ImagePullPolicy != corev1.PullIfNotPresent {
			t.Errorf("container %s: imagePullPolicy %q", c.Name, c.ImagePullPolicy)
		}
		for _, mount := range c.VolumeMounts {
			if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }) {
				t.Errorf("container %s mounts %q, which is not there", c.Name, mount.Name)
			}
		}
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.Capabilities == nil ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s is not restricted: %+v", c.Name, s)
		}
	}
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod is not restricted: %+v", s)
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

func container(t *testing.T, all []corev1.Container, name string) corev1.Container {
	t.Helper()
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no container %q", name)
	panic("unreachable")
}

func TestPodMonitor(t *testing.T) {
	m := loadManifests(t)
	var monitor monitoringv1.PodMonitor
	decode(t, read(t, "../kubernetes/podmonitor.yaml"), &monitor)
	if monitor.APIVersion != monitoringv1.SchemeGroupVersion.String() || monitor.Kind != monitoringv1.PodMonitorsKind || monitor.Namespace != m.deployment.Namespace {
		t.Errorf("%s %s in %s", monitor.APIVersion, monitor.Kind, monitor.Namespace)
	}
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(m.deployment.Spec.Template.Labels)) {
		t.Errorf("selects other pods: %v, %v", selector, err)
	}
	sidecar := container(t, m.deployment.Spec.Template.Spec.InitContainers, "xmppgate")
	for _, endpoint := range monitor.Spec.PodMetricsEndpoints {
		if endpoint.Port == nil || !slices.ContainsFunc(sidecar.Ports, func(p corev1.ContainerPort) bool { return p.Name == *endpoint.Port }) {
			t.Errorf("no port %v", endpoint.Port)
		}
	}
	if len(monitor.Spec.PodMetricsEndpoints) != 1 {
		t.Errorf("%d endpoints", len(monitor.Spec.PodMetricsEndpoints))
	}
}

func TestIngress(t *testing.T) {
	m := loadManifests(t)
	var ingress networkingv1.Ingress
	text := read(t, "../kubernetes/ingress.yaml")
	decode(t, text, &ingress)
	if ingress.APIVersion != networkingv1.SchemeGroupVersion.String() || ingress.Kind != "Ingress" || ingress.Namespace != m.service.Namespace {
		t.Errorf("%s %s in %s", ingress.APIVersion, ingress.Kind, ingress.Namespace)
	}
	if len(ingress.Spec.Rules) != 1 || len(ingress.Spec.TLS) != 1 || !slices.Contains(ingress.Spec.TLS[0].Hosts, ingress.Spec.Rules[0].Host) {
		t.Fatalf("a host without TLS: %+v", ingress.Spec)
	}
	for _, path := range ingress.Spec.Rules[0].HTTP.Paths {
		to := path.Backend.Service
		if to.Name != m.service.Name || !slices.ContainsFunc(m.service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == to.Port.Name }) {
			t.Errorf("leads to %+v", to)
		}
		if *path.PathType != networkingv1.PathTypeExact || path.Path != "/xmpp-websocket" {
			t.Errorf("path %s, %s", path.Path, *path.PathType)
		}
	}

	// What the comment tells the sidecar.
	environ := map[string]string{}
	for _, v := range regexp.MustCompile(`(?m)^#   - (\{ .*\})$`).FindAllSubmatch(text, -1) {
		var variable corev1.EnvVar
		decode(t, v[1], &variable)
		environ[variable.Name] = variable.Value
	}
	if len(environ) != 3 {
		t.Errorf("variables: %v", environ)
	}
	environ["XMPPGATE_UPSTREAM"] = "tcp://127.0.0.1:5222"
	checkConfig(t, environ)
}

// The patch for TLS fits behind that of the sidecar, and mounts the Secret in the way that
// lets renewals through.
func TestKubernetesTLS(t *testing.T) {
	m := loadManifests(t)
	decode(t, read(t, "../kubernetes/tls.yaml"), new(appsv1.Deployment))
	original, err := json.Marshal(m.deployment)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, asJSON(t, "../kubernetes/tls.yaml"), appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	decode(t, merged, &d)
	pod := d.Spec.Template.Spec
	if len(pod.InitContainers) != len(m.deployment.Spec.Template.Spec.InitContainers) {
		t.Fatal("the patch does not fit")
	}
	sidecar := container(t, pod.InitContainers, "xmppgate")
	environ := map[string]string{}
	for _, v := range sidecar.Env {
		environ[v.Name] = v.Value
	}
	i := slices.IndexFunc(sidecar.VolumeMounts, func(v corev1.VolumeMount) bool { return v.Name == "tls" })
	if i < 0 || sidecar.VolumeMounts[i].SubPath != "" || environ["XMPPGATE_UPSTREAM"] == "" {
		t.Fatalf("%+v", sidecar)
	}
	for name, file := range map[string]string{"XMPPGATE_TLS_CERT": corev1.TLSCertKey, "XMPPGATE_TLS_KEY": corev1.TLSPrivateKeyKey} {
		if want := sidecar.VolumeMounts[i].MountPath + "/" + file; environ[name] != want {
			t.Errorf("%s is %q, the Secret has %s", name, environ[name], want)
		}
	}
	if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool {
		return v.Name == "tls" && v.Secret != nil && *v.Secret.DefaultMode&0o007 == 0
	}) {
		t.Errorf("%+v", pod.Volumes)
	}
}

// The patch for a Unix socket fits behind that of the sidecar: both containers have the
// directory of the socket, as the same user, and ejabberd listens there.
func TestKubernetesSocket(t *testing.T) {
	var before appsv1.StatefulSet
	before.Spec.Template = loadManifests(t).deployment.Spec.Template
	before.Spec.Template.Spec.Containers[0].Name = "ejabberd"
	original, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	decode(t, read(t, "../kubernetes/socket.yaml"), new(appsv1.StatefulSet))
	merged, err := strategicpatch.StrategicMergePatch(original, asJSON(t, "../kubernetes/socket.yaml"), appsv1.StatefulSet{})
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.StatefulSet
	decode(t, merged, &set)
	pod := set.Spec.Template.Spec
	if len(pod.InitContainers) != len(before.Spec.Template.Spec.InitContainers) || len(pod.Containers) != len(before.Spec.Template.Spec.Containers) {
		t.Fatal("the patch does not fit")
	}
	sidecar, server := container(t, pod.InitContainers, "xmppgate"), pod.Containers[0]
	upstream := ""
	for _, v := range sidecar.Env {
		if v.Name == "XMPPGATE_UPSTREAM" {
			upstream = v.Value
		}
	}
	if at := ejabberdSocket(t, "../ejabberd/complete.yml"); upstream != "unix:"+at+"?proxy=v2" {
		t.Errorf("the gateway connects to %s, ejabberd listens at %s", upstream, at)
	}
	for _, c := range []corev1.Container{sidecar, server} {
		if !slices.ContainsFunc(c.VolumeMounts, func(v corev1.VolumeMount) bool {
			return v.Name == "ejabberd-socket" && strings.HasPrefix(upstream, "unix:"+v.MountPath+"/") && !v.ReadOnly
		}) {
			t.Errorf("%s does not have the directory of the socket: %+v", c.Name, c.VolumeMounts)
		}
	}
	if u := sidecar.SecurityContext; u == nil || *u.RunAsUser != *pod.SecurityContext.FSGroup || !*u.RunAsNonRoot || !*u.ReadOnlyRootFilesystem {
		t.Errorf("the gateway runs as %+v, the volume belongs to %+v", u, pod.SecurityContext)
	}
	if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "ejabberd-socket" && v.EmptyDir != nil }) {
		t.Errorf("%+v", pod.Volumes)
	}
}

// The values for a Helm chart have the sidecar of sidecar.yaml, and the server waits for it.
func TestKubernetesHelm(t *testing.T) {
	var values struct {
		PodAnnotations map[string]string `json:"podAnnotations"`
		StatefulSet    struct {
			TerminationGracePeriodSeconds int64              `json:"terminationGracePeriodSeconds"`
			Lifecycle                     corev1.Lifecycle   `json:"lifecycle"`
			InitContainers                []corev1.Container `json:"initContainers"`
		} `json:"statefulSet"`
	}
	decode(t, read(t, "../kubernetes/helm/ejabberd.yaml"), &values)
	m := loadManifests(t)
	template := m.deployment.Spec.Template
	sidecar := container(t, template.Spec.InitContainers, "xmppgate")
	sidecar.Env = slices.DeleteFunc(slices.Clone(sidecar.Env), func(v corev1.EnvVar) bool { return v.Name == "GOMEMLIMIT" })
	if got := values.StatefulSet.InitContainers; len(got) != 1 || !reflect.DeepEqual(got[0], sidecar) {
		t.Errorf("init containers %+v\nwant %+v", got, sidecar)
	}
	if got := values.StatefulSet.Lifecycle; !reflect.DeepEqual(&got, template.Spec.Containers[0].Lifecycle) {
		t.Errorf("lifecycle of the server: %+v", got)
	}
	if got := values.StatefulSet.TerminationGracePeriodSeconds; got != *template.Spec.TerminationGracePeriodSeconds {
		t.Errorf("grace period %d s", got)
	}
	if !maps.Equal(values.PodAnnotations, template.Annotations) {
		t.Errorf("annotations %v", values.PodAnnotations)
	}
}

// Gateways in pods of their own.
func TestKubernetesFleet(t *testing.T) {
	var config corev1.ConfigMap
	var deployment appsv1.Deployment
	var service corev1.Service
	var budget policyv1.PodDisruptionBudget
	var policy networkingv1.NetworkPolicy
	kinds := []any{&config, &deployment, &service, &budget, &policy}
	documents := bytes.Split(read(t, "../kubernetes/fleet/gateway.yaml"), []byte("\n---\n"))
	if len(documents) != len(kinds) {
		t.Fatalf("%d objects", len(documents))
	}
	for i, document := range documents {
		decode(t, document, kinds[i])
	}
	var scaler autoscalingv2.HorizontalPodAutoscaler
	decode(t, read(t, "../kubernetes/fleet/autoscaler.yaml"), &scaler)

	pod := deployment.Spec.Template.Spec
	gateway := container(t, pod.Containers, "xmppgate")
	environ := map[string]string{}
	for _, v := range gateway.Env {
		environ[v.Name] = v.Value
	}
	dir := t.TempDir()
	environ["XMPPGATE_CONFIG"] = filepath.Join(dir, strings.TrimPrefix(environ["XMPPGATE_CONFIG"], "/etc/xmppgate/"))
	for name, text := range config.Data {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
	if drain := drainTime(t, environ); drain >= grace || environ["XMPPGATE_DRAIN_DELAY"] == "" {
		t.Errorf("drain %v with the delay %q, grace period %v", drain, environ["XMPPGATE_DRAIN_DELAY"], grace)
	}

	templateLabels := labels.Set(deployment.Spec.Template.Labels)
	if !labels.SelectorFromSet(service.Spec.Selector).Matches(templateLabels) {
		t.Error("the Service selects other pods")
	}
	for what, selector := range map[string]*metav1.LabelSelector{
		"Deployment": deployment.Spec.Selector, "PodDisruptionBudget": budget.Spec.Selector, "NetworkPolicy": &policy.Spec.PodSelector,
		"spread": pod.TopologySpreadConstraints[0].LabelSelector,
	} {
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil || s.Empty() || !s.Matches(templateLabels) {
			t.Errorf("the %s selects other pods: %v", what, err)
		}
	}
	if to := scaler.Spec.ScaleTargetRef; to.Kind != "Deployment" || to.Name != deployment.Name {
		t.Errorf("scales %+v", to)
	}
	metric := scaler.Spec.Metrics[0].Pods.Metric.Name
	if !strings.Contains(string(read(t, "../../docs/metrics.md")), "| `"+metric+"` | gauge |") {
		t.Errorf("no metric %s", metric)
	}
}
